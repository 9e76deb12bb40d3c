/* spkv info: what a checkpoint is, and the memory it needs. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "engine/checkpoint.h"

struct info_options {
    const char *model, *predictor;
    int batch, context;
    double density;
    bool json, hash;
};

/* Everything that is printed, computed once. */
struct info {
    uint64_t n_params, n_predictor_params, weight_bytes;
    double kv_bytes_per_tok;                 /* all heads, bf16 */
    double cache_bytes_full, cache_bytes_at_density; /* for batch x context */
    int n_sliding, window;
};

enum { KEY_PREDICTOR = 0x100, KEY_BATCH, KEY_CONTEXT, KEY_DENSITY, KEY_JSON, KEY_HASH };

static const struct argp_option argp_options[] = {
    {"predictor", KEY_PREDICTOR, "DIR", 0, "utility predictor in a directory of its own", 0},
    {"batch", KEY_BATCH, "N", 0, "sequences for the memory estimate (1)", 0},
    {"context", KEY_CONTEXT, "N", 0, "tokens per sequence for the memory estimate (the model's limit, at most 4096)", 0},
    {"density", KEY_DENSITY, "X", 0, "share of pairs kept outside the window for the memory estimate (0.25)", 0},
    {"hash", KEY_HASH, NULL, 0, "compute the model's hashes too (reads all weights)", 0},
    {"json", KEY_JSON, NULL, 0, "machine-readable result", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct info_options *o = state->input;
    switch (key) {
    case KEY_PREDICTOR: o->predictor = arg; break;
    case KEY_BATCH: o->batch = (int)cli_parse_int(state, "batch", arg, 1, 1 << 20); break;
    case KEY_CONTEXT: o->context = (int)cli_parse_int(state, "context", arg, 1, 1 << 30); break;
    case KEY_DENSITY: o->density = cli_parse_real(state, "density", arg, 0, 1); break;
    case KEY_JSON: o->json = true; break;
    case KEY_HASH: o->hash = true; break;
    case ARGP_KEY_ARG:
        if (o->model)
            argp_error(state, "one MODEL directory, please");
        o->model = arg;
        break;
    case ARGP_KEY_NO_ARGS: argp_error(state, "which MODEL directory?"); break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static void compute(const struct checkpoint *checkpoint, const struct info_options *o, struct info *info) {
    const struct model_config *c = checkpoint_config(checkpoint);
    const struct predictor_config *predictor = checkpoint_predictor(checkpoint);
    double pair_bytes = 2.0 * c->head_dim * 2 * c->n_kv_heads, t = o->context;
    *info = (struct info){.window = predictor ? predictor->window : 128};
    for (size_t i = 0; i < checkpoint_n_tensors(checkpoint); i++) {
        const struct tensor *tensor = checkpoint_tensor(checkpoint, i);
        bool gate = strstr(tensor->name, ".utility_predictor.") || strstr(tensor->name, ".lora_");
        *(gate ? &info->n_predictor_params : &info->n_params) += tensor->n_items;
        info->weight_bytes += tensor->n_items * dtype_size(tensor->dtype);
    }
    for (int l = 0; l < c->n_layers; l++) {
        int own = c->layers[l].sliding_window;
        double inside = fmin(t, info->window), full = own ? fmin(t, own) : t;
        info->n_sliding += own > 0;
        info->cache_bytes_full += o->batch * pair_bytes * full;
        info->cache_bytes_at_density += o->batch * pair_bytes * (own ? full : inside + o->density * (t - inside));
    }
    info->kv_bytes_per_tok = pair_bytes * c->n_layers;
}

static void print_json(struct checkpoint *checkpoint, const struct info_options *o, const struct info *info) {
    const struct model_config *c = checkpoint_config(checkpoint);
    const struct predictor_config *p = checkpoint_predictor(checkpoint);
    json_t *root = json_pack(
        "{s:s, s:i, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:f, s:i, s:i, s:f, s:f, s:f}",
        "schema", "spkv-info", "version", 1, "model", o->model, "model_type", model_type_name(c->type), "n_layers",
        c->n_layers, "n_heads", c->n_heads, "n_kv_heads", c->n_kv_heads, "head_dim", c->head_dim, "d_model", c->d_model,
        "d_ffn", c->d_ffn, "vocab_size", c->vocab_size, "max_positions", c->max_positions, "n_sliding_layers",
        info->n_sliding, "n_params", (json_int_t)info->n_params, "n_predictor_params", (json_int_t)info->n_predictor_params,
        "weight_bytes", (json_int_t)info->weight_bytes, "kv_bytes_per_tok", info->kv_bytes_per_tok, "batch", o->batch,
        "context", o->context, "density", o->density, "cache_bytes_full", info->cache_bytes_full, "cache_bytes_at_density",
        info->cache_bytes_at_density);
    if (p)
        json_object_set_new(root, "predictor",
                            json_pack("{s:i, s:f, s:s, s:s, s:s}", "window", p->window, "threshold", p->threshold,
                                      "comparison", p->strict ? ">" : ">=", "input",
                                      p->input == PREDICTOR_NORMED ? "normed" : "residual", "output",
                                      p->sigmoid ? "sigmoid" : "identity"));
    if (o->hash) {
        json_object_set_new(root, "model_hash", json_string(checkpoint_model_hash(checkpoint)));
        json_object_set_new(root, "base_model_hash", json_string(checkpoint_base_hash(checkpoint)));
    }
    json_dumpf(root, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(root);
}

static void print_text(struct checkpoint *checkpoint, const struct info_options *o, const struct info *info) {
    const struct model_config *c = checkpoint_config(checkpoint);
    const struct predictor_config *p = checkpoint_predictor(checkpoint);
    printf("%s\n", o->model);
    printf("  type        %s, %.1f M parameters in %.1f MB\n", model_type_name(c->type), (double)info->n_params * 1e-6,
           (double)info->weight_bytes * 1e-6);
    printf("  layers      %d of width %d, MLP %d, vocabulary %d%s\n", c->n_layers, c->d_model, c->d_ffn, c->vocab_size,
           c->tie_embeddings ? " (tied)" : "");
    printf("  attention   %d query heads, %d KV heads, head_dim %d, context %d\n", c->n_heads, c->n_kv_heads, c->head_dim,
           c->max_positions);
    if (info->n_sliding)
        printf("  sliding     %d of %d layers have a window of their own\n", info->n_sliding, c->n_layers);
    if (p)
        printf("  predictor   window %d, kept when utility %s %g, %.2f M parameters\n", p->window, p->strict ? ">" : ">=",
               p->threshold, (double)info->n_predictor_params * 1e-6);
    else
        printf("  predictor   none: a dense checkpoint (profile runs it in full and records far attention)\n");
    printf("  cache       %.0f bytes per token in bf16; %d x %d tokens: %.1f MB in full, %.1f MB at density %g\n",
           info->kv_bytes_per_tok, o->batch, o->context, info->cache_bytes_full * 1e-6, info->cache_bytes_at_density * 1e-6,
           o->density);
    if (o->hash)
        printf("  hash        %s (without predictor: %s)\n", checkpoint_model_hash(checkpoint),
               checkpoint_base_hash(checkpoint));
    if (checkpoint_warning(checkpoint))
        printf("  warning     %s\n", checkpoint_warning(checkpoint));
}

int cmd_info(int argc, char **argv) {
    static const struct argp argp = {argp_options, parse, "MODEL", "What a checkpoint is and what it needs.",
                                     NULL,         NULL,  NULL};
    struct info_options o = {.batch = 1, .density = 0.25};
    struct checkpoint *checkpoint = NULL;
    struct info info;
    struct err err = {0};
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    if (checkpoint_open(o.model, o.predictor, &checkpoint, &err) == OK) {
        int limit = checkpoint_config(checkpoint)->max_positions;
        if (o.context == 0)
            o.context = limit < 4096 ? limit : 4096;
        compute(checkpoint, &o, &info);
        (o.json ? print_json : print_text)(checkpoint, &o, &info);
        cli_finish_stdout(&err);
    }
    checkpoint_close(checkpoint);
    return cli_report(&err);
}
