/* spkv export: a layout or a run file in the form of another tool. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/head_pattern.h"
#include "analyze/interchange.h"
#include "analyze/layer_types.h"
#include "analyze/profile.h"
#include "analyze/statistics.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/head_values.h"

enum { MAX_CONFIG_BYTES = 1 << 22 };

struct export_options {
    const char *input, *output, *model, *run;
    enum head_pattern_format format; /* HEAD_PATTERN_N_FORMATS = not given */
    uint64_t context;
    bool force, quiet, json;
};

enum { KEY_FORMAT = 0x300, KEY_MODEL, KEY_RUN, KEY_CONTEXT };

static const struct argp_option argp_options[] = {
    {"format", KEY_FORMAT, "NAME", 0, "duo-attention, wg-kv, wg-kv-log, kvpress or layer-types (required)", 0},
    {"output", 'o', "FILE", 0, "the file to write; for duo-attention a directory (required)", 0},
    {"model", KEY_MODEL, "DIR", 0, "layer-types: the model whose config.json is patched (without: the patch alone)", 0},
    {"run", KEY_RUN, "FILE", 0, "layer-types: the run file (or imported pattern) that coverage is measured by", 0},
    {"context", KEY_CONTEXT, "N", 0, "tokens at which a layout's shares are taken: wg-kv, kvpress (4096)", 0},
    {"force", 'f', NULL, 0, "replace what exists", 0},
    {"quiet", 'q', NULL, 0, "no remarks", 0},
    {"json", 'j', NULL, 0, "say the result as JSON", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct export_options *o = state->input;
    switch (key) {
    case KEY_FORMAT:
        if ((o->format = head_pattern_find_format(arg)) == HEAD_PATTERN_N_FORMATS)
            argp_error(state, "--format: \"%s\" is not duo-attention, wg-kv, wg-kv-log, kvpress or layer-types", arg);
        break;
    case 'o': o->output = arg; break;
    case KEY_MODEL: o->model = arg; break;
    case KEY_RUN: o->run = arg; break;
    case KEY_CONTEXT: o->context = (uint64_t)cli_parse_int(state, "context", arg, 1, INT32_MAX); break;
    case 'f': o->force = true; break;
    case 'q': o->quiet = true; break;
    case 'j': o->json = true; break;
    case ARGP_KEY_ARG:
        if (o->input)
            argp_error(state, "one layout or run file, please");
        o->input = arg;
        break;
    case ARGP_KEY_END:
        if (!o->input)
            argp_error(state, "which layout or run file?");
        if (o->format == HEAD_PATTERN_N_FORMATS)
            argp_error(state, "in which form? (--format duo-attention, wg-kv, wg-kv-log, kvpress or layer-types)");
        if (!o->output || !*o->output)
            argp_error(state, "where to? (-o FILE)");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* What is written, and what there is to say about it. */
struct exported {
    const struct export_options *options;
    uint32_t n_layers, n_kv_heads, window, sinks;
    double *value;  /* (n_layers, n_kv_heads), NULL for layer-types */
    json_t *notes;
};

static void add_note(void *self, const char *text) {
    struct exported *x = self;
    json_array_append_new(x->notes, json_string(text));
    cli_note(x->options->quiet, "%s", text);
}

static double mean_of(const struct exported *x) {
    double sum = 0;
    size_t n = (size_t)x->n_layers * x->n_kv_heads;
    for (size_t i = 0; i < n; i++)
        sum += x->value[i] / (double)n;
    return sum;
}

/* -- where the numbers come from -------------------------------------------------------------------------------------- */

static double kept_of_all(const struct head_sums *s) {
    return s->n_tok ? (double)s->n_kept / (double)s->n_tok : (double)NAN;
}

/* The number of every head; the model's own sliding layers count nothing and get `untouched`. */
static void fill_ratio(const struct statistics *s, double (*ratio)(const struct head_sums *s), double untouched,
                       double *out) {
    for (size_t i = 0; i < s->n_layers * s->n_kv_heads; i++) {
        double x = ratio(&s->heads[i]);
        out[i] = isnan(x) ? untouched : x;
    }
}

static int fill_gates(const struct statistics *s, const struct profile_meta *meta, const char *path, double *out,
                      struct err *err) {
    struct head_measure measure;
    bool any = false;
    int rc = head_measure_compute(s, meta, &measure, err);
    if (rc != OK)
        return rc;
    for (size_t i = 0; i < s->n_layers * s->n_kv_heads; i++) {
        any |= measure.kind != HEAD_MEASURE_NONE && !isnan(measure.value[i]);
        out[i] = isnan(measure.value[i]) ? 0 : measure.value[i];
    }
    head_measure_free(&measure);
    return any ? OK
               : err_set(err, ERR_INPUT, path, "has no head with a density or far attention: no sequence is longer than window "
                         "+ sinks, or neither was recorded");
}

static int fill_from_run(struct exported *x, struct profile *profile, struct err *err) {
    const struct profile_meta *meta = profile_meta(profile);
    struct statistics s;
    int rc = statistics_compute(profile, -1, &s, err);
    if (rc != OK)
        return rc;
    x->n_layers = meta->n_layers;
    x->n_kv_heads = meta->n_kv_heads;
    x->window = meta->window;
    x->sinks = meta->sinks;
    if (!(x->value = mem_alloc((size_t)x->n_layers * x->n_kv_heads, sizeof *x->value, "a head pattern", err)))
        rc = ERR_MEMORY;
    else if (x->options->format == HEAD_PATTERN_DUO_ATTENTION)
        rc = fill_gates(&s, meta, x->options->input, x->value, err);
    else if (x->options->format == HEAD_PATTERN_WG_KV_LOG)
        fill_ratio(&s, kept_of_all, 0, x->value);
    else
        fill_ratio(&s, head_kv_fraction, 1, x->value);
    statistics_free(&s);
    return rc;
}

static int read_run(struct exported *x, struct err *err) {
    struct profile *profile;
    if (x->options->format == HEAD_PATTERN_LAYER_TYPES)
        return err_set(err, ERR_USAGE, "", "layer-types are a layout's: make one with spkv recommend %s -o layout.json",
                       x->options->input);
    int rc = profile_open(x->options->input, &profile, err);
    if (rc == OK)
        rc = fill_from_run(x, profile, err);
    profile_close(profile);
    return rc;
}

static void note_layout(struct exported *x, const struct layout *layout) {
    if (layout->windows && x->options->format == HEAD_PATTERN_DUO_ATTENTION)
        add_note(x, "heads have windows of their own: recent_size is the largest");
    if (layout_n_eligible(layout) < (size_t)layout->n_layers * layout->n_kv_heads)
        add_note(x, "the model has sliding layers of its own: this form cannot say so");
}

static int take_layout(struct exported *x, const struct layout *layout, struct err *err) {
    if (x->options->format == HEAD_PATTERN_WG_KV_LOG)
        return err_set(err, ERR_USAGE, "", "wg-kv-log is the record of a run: export a run file");
    x->n_layers = layout->n_layers;
    x->n_kv_heads = layout->n_kv_heads;
    x->sinks = layout->sinks;
    x->window = layout->windows ? 0 : layout->window;
    for (size_t i = 0; layout->windows && i < (size_t)layout->n_layers * layout->n_kv_heads; i++)
        if (layout->heads[i] == HEAD_LOCAL && layout->windows[i] > x->window)
            x->window = layout->windows[i];
    x->window = x->window ? x->window : layout->window;
    note_layout(x, layout);
    return x->options->format == HEAD_PATTERN_DUO_ATTENTION
               ? interchange_gates(layout, &x->value, err)
               : interchange_retained(layout, x->options->context, &x->value, err);
}

/* -- what is written -------------------------------------------------------------------------------------------------- */

static int write_matrix(struct exported *x, struct err *err) {
    const struct export_options *o = x->options;
    if (o->format == HEAD_PATTERN_DUO_ATTENTION) {
        size_t local = 0, n = (size_t)x->n_layers * x->n_kv_heads;
        for (size_t i = 0; i < n; i++)
            local += x->value[i] == 0;
        char text[128];
        snprintf(text, sizeof text, "%zu of %zu heads are 0: sparsity %.6g streams just those", local, n,
                 (double)local / (double)n);
        add_note(x, text);
        return interchange_write_duo_attention(x->value, x->n_layers, x->n_kv_heads, x->sinks, x->window, o->output,
                                               o->force, err);
    }
    int rc = file_check_free(o->output, o->force, err);
    if (rc != OK)
        return rc;
    return o->format == HEAD_PATTERN_KVPRESS
               ? interchange_write_kvpress(x->value, x->n_layers, x->n_kv_heads, o->output, err)
               : interchange_write_wg_kv(x->value, x->n_layers, x->n_kv_heads, o->format == HEAD_PATTERN_WG_KV_LOG,
                                         o->output, err);
}

static void note_rounding(struct exported *x, const struct layer_rounding *r) {
    char text[256];
    if (r->n_lost == 0 && r->n_gained == 0)
        return;
    int n = snprintf(text, sizeof text, "rounded to layers: %zu global heads become local, %zu local heads global",
                     r->n_lost, r->n_gained);
    if (!isnan(r->coverage_layers))
        snprintf(text + n, sizeof text - (size_t)n, "; coverage %.2f %% becomes %.2f %%", 100 * r->coverage_heads,
                 100 * r->coverage_layers);
    add_note(x, text);
    if (isnan(r->coverage_layers))
        add_note(x, "what that costs in coverage: --run RUN.h5 tells");
}

/* The model's configuration, or an empty object. */
static int read_config(const struct export_options *o, json_t **out, char **path, struct err *err) {
    *out = NULL;
    *path = mem_strdup("the patch", err);
    if (!o->model)
        return *path && (*out = json_object()) ? OK : err_memory(err, "JSON", 0);
    free(*path);
    *path = file_is_dir(o->model) ? file_join(o->model, "config.json", err) : mem_strdup(o->model, err);
    return *path ? json_read_object(*path, MAX_CONFIG_BYTES, out, err) : ERR_MEMORY;
}

/* Values of the run by which coverage is measured; *out stays NULL without one. */
static int read_coverage(const struct export_options *o, const struct layout *layout, struct head_values *out,
                         struct err *err) {
    *out = (struct head_values){0};
    if (!o->run)
        return OK;
    int rc = head_values_read(o->run, layout->n_kv_heads, out, err);
    if (rc == OK && (out->n_layers != layout->n_layers || out->n_kv_heads != layout->n_kv_heads))
        rc = err_set(err, ERR_INPUT, o->run, "has %u layers x %u KV heads, the layout %u x %u", out->n_layers,
                     out->n_kv_heads, layout->n_layers, layout->n_kv_heads);
    return rc;
}

static int write_layer_types(struct exported *x, const struct layout *layout, struct err *err) {
    const struct export_options *o = x->options;
    struct layout *layers = NULL;
    struct layer_rounding rounding;
    struct head_values values;
    json_t *config = NULL;
    char *path = NULL;
    int rc = read_coverage(o, layout, &values, err);
    if (rc == OK)
        rc = layer_types_round(layout, values.value, &layers, &rounding, err);
    if (rc == OK)
        rc = read_config(o, &config, &path, err);
    if (rc == OK)
        note_rounding(x, &rounding);
    if (rc == OK)
        rc = layer_types_patch(layers, config, path, add_note, x, err);
    if (rc == OK)
        rc = file_check_free(o->output, o->force, err);
    if (rc == OK)
        rc = json_write_file(config, o->output, err);
    if (rc == OK) {
        x->n_layers = layers->n_layers;
        x->n_kv_heads = layers->n_kv_heads;
        add_note(x, "followed by spkv and by transformers (mistral, qwen2, qwen3, gemma2, smollm3); llama.cpp, and vLLM for "
                    "some models, build the pattern of the model type in and ignore layer_types without a word: compare "
                    "losses before you trust it (docs/interchange.md)");
    }
    json_decref(config);
    free(path);
    layout_free(layers);
    head_values_free(&values);
    return rc;
}

static int export_layout(struct exported *x, struct err *err) {
    struct layout *layout;
    int rc = layout_read(x->options->input, &layout, err);
    if (rc != OK)
        return rc;
    if (x->options->format == HEAD_PATTERN_LAYER_TYPES) {
        rc = write_layer_types(x, layout, err);
    } else {
        rc = take_layout(x, layout, err);
        if (rc == OK)
            rc = write_matrix(x, err);
    }
    layout_free(layout);
    return rc;
}

static int export_run(struct exported *x, struct err *err) {
    int rc = read_run(x, err);
    return rc == OK ? write_matrix(x, err) : rc;
}

static void print_result(const struct exported *x) {
    const struct export_options *o = x->options;
    const char *format = head_pattern_format_name(o->format);
    if (o->json) {
        json_t *root = json_pack("{s:s, s:i, s:s, s:s, s:i, s:i, s:O}", "schema", "spkv-export", "version", 1, "output",
                                 o->output, "format", format, "n_layers", (int)x->n_layers, "n_kv_heads", (int)x->n_kv_heads,
                                 "notes", x->notes);
        json_dumpf(root, stdout, JSON_INDENT(1));
        putchar('\n');
        json_decref(root);
        return;
    }
    printf("%s: %s, %u layers x %u KV heads", o->output, format, x->n_layers, x->n_kv_heads);
    if (x->value)
        printf(", mean %.4f", mean_of(x));
    putchar('\n');
}

int cmd_export(int argc, char **argv) {
    static const struct argp argp = {
        argp_options,
        parse,
        "LAYOUT.json|RUN.h5",
        "Writes a layout, or what a run measured, in the form of another tool.\v"
        "A layout becomes the gates of DuoAttention (1 = full attention), the ratios that kvpress removes per layer, the "
        "retain ratios of WG-KV at --context tokens, or layer_types in a config.json. A run file becomes its densities (or "
        "far attention) as gates, the share of pairs that each head held at the end (wg-kv, kvpress) or held beyond its "
        "window (wg-kv-log).",
        NULL,
        NULL,
        NULL};
    struct export_options o = {.format = HEAD_PATTERN_N_FORMATS, .context = 4096};
    struct err err = {0};
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    struct exported x = {.options = &o, .notes = json_array()};
    int rc = is_run(o.input) ? export_run(&x, &err) : export_layout(&x, &err);
    if (rc == OK) {
        print_result(&x);
        cli_finish_stdout(&err);
    }
    json_decref(x.notes);
    free(x.value);
    return cli_report(&err);
}
