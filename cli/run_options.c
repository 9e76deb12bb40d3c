#include "cli/run_options.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/head_pattern.h"
#include "analyze/layout.h"
#include "base/file.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "kernels/cpu/cpu.h"

enum {
    KEY_POLICY = 0x100,
    KEY_PREDICTOR,
    KEY_WINDOW,
    KEY_SINKS,
    KEY_THRESHOLD,
    KEY_DTYPE,
    KEY_BACKEND,
    KEY_THREADS,
    KEY_SEED,
    KEY_BATCH,
    KEY_CHUNK,
    KEY_PREFILL,
    KEY_JSON
};

static const struct argp_option argp_options[] = {
    {"policy", KEY_POLICY, "NAME[:KEY=VALUE,...]", 0,
     "which pairs the cache keeps: full, window, random:density=X, spkv, layout:file=F, keynorm:threshold=X, "
     "duo:file=F, gates:file=DIR, oracle:threshold=X, and with :budget=X h2o, tova, snapkv, expected-attention (default: "
     "spkv when the checkpoint has a predictor, else full)",
     10},
    {"predictor", KEY_PREDICTOR, "DIR", 0, "utility predictor in a directory of its own", 10},
    {"window", KEY_WINDOW, "N", 0, "tokens that are always visible, the current one included (the predictor's, else 128)",
     10},
    {"sinks", KEY_SINKS, "N", 0, "first positions that stay visible for ever (0)", 10},
    {"threshold", KEY_THRESHOLD, "X", 0, "a pair is kept when its utility reaches X (the predictor's, else 0.5)", 10},
    {"prefill", KEY_PREFILL, "pruned|dense", 0, "whether gates act while a prompt is read (pruned)", 10},
    {"dtype", KEY_DTYPE, "auto|f32|bf16", 0,
     "of matrix operands and cache (auto: bf16 for bf16 checkpoints where the processor multiplies it fast)", 11},
    {"backend", KEY_BACKEND, "auto|ref|cpu|cuda", 0, "where to compute (auto: cpu); cuda needs a build with `make CUDA=1`", 11},
    {"threads", KEY_THREADS, "N", 0, "processor threads (all)", 11},
    {"batch", KEY_BATCH, "N", 0, "sequences run together", 11},
    {"chunk", KEY_CHUNK, "N", 0, "tokens of a sequence run in one step", 11},
    {"seed", KEY_SEED, "N", 0, "of everything random (0)", 11},
    {"quiet", 'q', NULL, 0, "no progress and no notes", 12},
    {"json", KEY_JSON, NULL, 0, "machine-readable result on standard output", 12},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct run_options_cli *o = state->input;
    switch (key) {
    case KEY_POLICY: o->policy = arg; break;
    case KEY_PREDICTOR: o->predictor = arg; break;
    case KEY_WINDOW: o->window = (int)cli_parse_int(state, "window", arg, 1, 1 << 24); break;
    case KEY_SINKS: o->sinks = (int)cli_parse_int(state, "sinks", arg, 0, 1 << 24); break;
    case KEY_THRESHOLD: o->threshold = cli_parse_real(state, "threshold", arg, -1e30, 1e30); break;
    case KEY_DTYPE: o->dtype = cli_parse_choice(state, "dtype", arg, "auto|f32|bf16"); break;
    case KEY_BACKEND: o->backend = cli_parse_choice(state, "backend", arg, "auto|ref|cpu|cuda"); break;
    case KEY_THREADS: o->threads = (int)cli_parse_int(state, "threads", arg, 1, 1024); break;
    case KEY_SEED: o->seed = (uint64_t)cli_parse_int(state, "seed", arg, 0, LLONG_MAX); break;
    case KEY_BATCH: o->batch = (int)cli_parse_int(state, "batch", arg, 1, 4096); break;
    case KEY_CHUNK: o->chunk = (int)cli_parse_int(state, "chunk", arg, 1, 1 << 20); break;
    case KEY_PREFILL:
        o->dense_prefill = strcmp(cli_parse_choice(state, "prefill", arg, "pruned|dense"), "dense") == 0;
        break;
    case KEY_JSON: o->json = true; break;
    case 'q': o->quiet = true; break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

const struct argp run_options_argp = {argp_options, parse, NULL, NULL, NULL, NULL, NULL};
const struct argp run_model_argp = {argp_options + 1, parse, NULL, NULL, NULL, NULL, NULL}; /* --policy stands first */

struct run_options_cli run_options_default(void) {
    return (struct run_options_cli){
        .sinks = -1, .threshold = NAN, .dtype = "auto", .backend = "auto", .batch = 4, .chunk = 512};
}

/* The bytes of most of a model's weights: the first matrix decides. */
static bool stored_as_bf16(const struct checkpoint *checkpoint) {
    const struct tensor *embed = checkpoint_find(checkpoint, "model.embed_tokens.weight");
    return embed && embed->dtype == DTYPE_BF16;
}

/* The op table that --backend names. */
static int choose_ops(const char *backend, const struct ops **out, struct err *err) {
    *out = strcmp(backend, "ref") == 0 ? ops_ref() : strcmp(backend, "cuda") == 0 ? ops_cuda() : ops_cpu();
    if (!*out)
        return err_set(err, ERR_USAGE, "", "this build has no CUDA backend (build with `make CUDA=1`, or use --backend cpu)");
    return OK;
}

static int open_device(const struct run_options_cli *o, struct loaded *l, struct err *err) {
    int rc = choose_ops(o->backend, &l->ops, err);
    if (rc)
        return rc;
    bool fast_bf16 = l->ops == ops_cpu() ? ops_cpu_has_amx() : l->ops == ops_cuda();
    bool bf16 = strcmp(o->dtype, "bf16") == 0 ||
                (strcmp(o->dtype, "auto") == 0 && fast_bf16 && stored_as_bf16(l->checkpoint));
    l->dtype_name = bf16 ? "bf16" : "f32";
    struct device_options options = {.n_threads = o->threads, .dtype = bf16 ? DTYPE_BF16 : DTYPE_F32};
    return l->ops->open(&options, &l->dev, err);
}

/* Reads a layout for the layout policy and checks that it fits the model. */
int layout_for_policy(const struct layout *layout, struct policy_layout *out, struct err *err) {
    size_t n = (size_t)layout->n_layers * layout->n_kv_heads;
    *out = (struct policy_layout){.sinks = (int)layout->sinks, .base_window = (int)layout->window};
    out->global = mem_alloc(n, sizeof *out->global, "a layout", err);
    out->window = mem_alloc(n, sizeof *out->window, "a layout", err);
    if (!out->global || !out->window) {
        free(out->global);
        free(out->window);
        *out = (struct policy_layout){0};
        return ERR_MEMORY;
    }
    for (size_t i = 0; i < n; i++) {
        size_t layer = i / layout->n_kv_heads, head = i % layout->n_kv_heads;
        out->global[i] = layout_head(layout, layer, head) == HEAD_GLOBAL;
        out->window[i] = (int)layout_window(layout, layer, head);
    }
    return OK;
}

static int load_layout(void *self, const char *path, struct policy_layout *out, struct err *err) {
    struct checkpoint *checkpoint = self;
    const struct model_config *c = checkpoint_config(checkpoint);
    struct layout *layout;
    uint32_t *sliding = NULL;
    char hash[33];
    int rc = layout_read(path, &layout, err);
    if (rc != OK)
        return rc;
    if (!(sliding = mem_alloc((size_t)c->n_layers, sizeof *sliding, "windows", err)))
        rc = ERR_MEMORY;
    for (int l = 0; rc == OK && l < c->n_layers; l++)
        sliding[l] = (uint32_t)c->layers[l].sliding_window;
    const char *base_hash = layout->base_model_hash[0] ? checkpoint_base_hash(checkpoint) : "";
    if (rc == OK)
        rc = layout_check_model(layout, (uint32_t)c->n_layers, (uint32_t)c->n_kv_heads, sliding, base_hash, path, err);
    if (rc == OK)
        rc = file_hash(path, hash, err);
    if (rc == OK)
        rc = layout_for_policy(layout, out, err);
    if (rc == OK && !(out->hash = mem_strdup(hash, err))) {
        free(out->global);
        free(out->window);
        *out = (struct policy_layout){0};
        rc = ERR_MEMORY;
    }
    free(sliding);
    layout_free(layout);
    return rc;
}

/* Reads another tool's head scores for the duo policy and checks that they fit the model. */
static int load_pattern(void *self, const char *path, struct policy_pattern *out, struct err *err) {
    const struct model_config *c = checkpoint_config(self);
    struct head_pattern pattern = {0};
    char hash[33], *file = file_is_dir(path) ? file_join(path, "full_attention_heads.tsv", err) : mem_strdup(path, err);
    *out = (struct policy_pattern){0};
    int rc = file ? head_pattern_read(file, HEAD_PATTERN_DUO_ATTENTION, (uint32_t)c->n_kv_heads, &pattern, err) : ERR_MEMORY;
    if (rc == OK && (pattern.n_layers != (uint32_t)c->n_layers || pattern.n_kv_heads != (uint32_t)c->n_kv_heads))
        rc = err_set(err, ERR_INPUT, path, "has %u layers x %u KV heads, the model %d x %d: is it a file of another model?",
                     pattern.n_layers, pattern.n_kv_heads, c->n_layers, c->n_kv_heads);
    if (rc == OK)
        rc = file_hash(file, hash, err);
    if (rc == OK && !(out->hash = mem_strdup(hash, err)))
        rc = ERR_MEMORY;
    if (rc == OK) {
        out->window = (int)pattern.window;
        out->sinks = (int)pattern.sinks;
        out->value = pattern.value;
        pattern.value = NULL;
    }
    head_pattern_free(&pattern);
    free(file);
    return rc;
}

int loaded_policy(const struct loaded *l, const struct run_options_cli *o, const char *spec, struct policy **out,
                  struct err *err) {
    struct policy_request request = {
        .model = checkpoint_config(l->checkpoint), .predictor = checkpoint_predictor(l->checkpoint), .window = o->window,
        .sinks = o->sinks, .threshold = o->threshold, .seed = o->seed, .load_layout = load_layout,
        .load_pattern = load_pattern, .self = l->checkpoint, .model_dir = o->model};
    return policy_create(spec, &request, out, err);
}

static int open_tokenizer(const struct run_options_cli *o, struct loaded *l, struct err *err) {
    char *path = file_join(o->model, "tokenizer.json", err);
    int rc = ERR_MEMORY;
    if (path)
        rc = tokenizer_open(path, &l->tokenizer, err);
    free(path);
    return rc;
}

int loaded_open(const struct run_options_cli *o, bool need_tokenizer, struct loaded *l, struct err *err) {
    *l = (struct loaded){0};
    int rc = checkpoint_open(o->model, o->predictor, &l->checkpoint, err);
    if (rc == OK) {
        const char *spec = o->policy ? o->policy : checkpoint_predictor(l->checkpoint) ? "spkv" : "full";
        rc = loaded_policy(l, o, spec, &l->policy, err);
    }
    if (rc == OK)
        rc = policy_check(l->policy, err);
    if (rc == OK && need_tokenizer)
        rc = open_tokenizer(o, l, err);
    if (rc == OK && checkpoint_warning(l->checkpoint))
        cli_note(o->quiet, "%s", checkpoint_warning(l->checkpoint));
    if (rc == OK)
        rc = open_device(o, l, err);
    if (rc == OK)
        rc = (o->unmerged ? model_load_unmerged : model_load)(l->checkpoint, l->ops, l->dev, &l->model, err);
    if (rc != OK)
        loaded_close(l);
    return rc;
}

void loaded_close(struct loaded *l) {
    model_free(l->model);
    policy_free(l->policy);
    tokenizer_free(l->tokenizer);
    if (l->ops)
        l->ops->close(l->dev);
    checkpoint_close(l->checkpoint);
    *l = (struct loaded){0};
}
