/* spkv import: the head pattern of another tool, to look at, to compare, to make a layout of. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/comparison.h"
#include "analyze/head_pattern.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/head_values.h"
#include "engine/checkpoint.h"
#include "reports/heatmap.h"
#include "reports/terminal_map.h"

enum { N_THRESHOLDS = 5, DEFAULT_WINDOW = 128 };
static const double thresholds[N_THRESHOLDS] = {0.1, 0.25, 0.5, 0.75, 0.9};

struct import_options {
    const char *input, *output, *model, *against, *png;
    enum head_pattern_format format; /* HEAD_PATTERN_N_FORMATS = found from the file */
    long long n_kv_heads, heads, window, sinks, top; /* -1 = not given */
    double share, threshold;         /* negative = not given */
    bool force, quiet, json, map;
};

enum { KEY_FORMAT = 0x300, KEY_KV_HEADS, KEY_MODEL, KEY_HEADS, KEY_SHARE, KEY_THRESHOLD, KEY_WINDOW, KEY_SINKS, KEY_AGAINST,
       KEY_TOP, KEY_PNG, KEY_HEATMAP };

static const struct argp_option argp_options[] = {
    {NULL, 0, NULL, 0, "Input:", 1},
    {"format", KEY_FORMAT, "NAME", 0, "duo-attention, wg-kv, wg-kv-log, kvpress or layer-types (found from the file)", 1},
    {"kv-heads", KEY_KV_HEADS, "N", 0, "KV heads of the model, for files with one value a layer", 1},
    {"model", KEY_MODEL, "DIR", 0, "the model it is for: shapes are compared, its hash goes into the layout", 1},
    {NULL, 0, NULL, 0, "Layout (one of the first three; default --threshold 0.5):", 2},
    {"threshold", KEY_THRESHOLD, "X", 0, "heads of at least this value stay global", 2},
    {"heads", KEY_HEADS, "N", 0, "KV heads that stay global", 2},
    {"share", KEY_SHARE, "X", 0, "the same as a share of the heads that can be global", 2},
    {"window", KEY_WINDOW, "N", 0, "window of local heads (the file's, else 128)", 2},
    {"sinks", KEY_SINKS, "N", 0, "first positions that local heads see for ever (the file's, else 0)", 2},
    {"output", 'o', "FILE", 0, "write the layout", 2},
    {NULL, 0, NULL, 0, "Comparison and drawing:", 3},
    {"against", KEY_AGAINST, "FILE", 0, "a run file, a layout or another pattern", 3},
    {"top", KEY_TOP, "N", 0, "compare the N largest heads of both (as many as are global)", 3},
    {"png", KEY_PNG, "FILE", 0, "draw a heatmap", 3},
    {"heatmap", KEY_HEATMAP, NULL, 0, "draw it in the terminal even where there is no colour", 3},
    {NULL, 0, NULL, 0, "Output:", 4},
    {"force", 'f', NULL, 0, "replace what exists", 4},
    {"quiet", 'q', NULL, 0, "no remarks", 4},
    {"json", 'j', NULL, 0, "say the result as JSON", 4},
    {0},
};

static void check_options(const struct import_options *o, const struct argp_state *state) {
    if (!o->input)
        argp_error(state, "which file?");
    if ((o->heads >= 0) + (o->share >= 0) + (o->threshold >= 0) > 1)
        argp_error(state, "--heads, --share and --threshold exclude each other");
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct import_options *o = state->input;
    switch (key) {
    case KEY_FORMAT:
        if ((o->format = head_pattern_find_format(arg)) == HEAD_PATTERN_N_FORMATS)
            argp_error(state, "--format: \"%s\" is not duo-attention, wg-kv, wg-kv-log, kvpress or layer-types", arg);
        break;
    case KEY_KV_HEADS: o->n_kv_heads = cli_parse_int(state, "kv-heads", arg, 1, 1024); break;
    case KEY_MODEL: o->model = arg; break;
    case KEY_HEADS: o->heads = cli_parse_int(state, "heads", arg, 0, INT32_MAX); break;
    case KEY_SHARE: o->share = cli_parse_real(state, "share", arg, 0, 1); break;
    case KEY_THRESHOLD: o->threshold = cli_parse_real(state, "threshold", arg, 0, 1); break;
    case KEY_WINDOW: o->window = cli_parse_int(state, "window", arg, 1, INT32_MAX); break;
    case KEY_SINKS: o->sinks = cli_parse_int(state, "sinks", arg, 0, INT32_MAX); break;
    case KEY_AGAINST: o->against = arg; break;
    case KEY_TOP: o->top = cli_parse_int(state, "top", arg, 1, INT32_MAX); break;
    case KEY_PNG: o->png = arg; break;
    case KEY_HEATMAP: o->map = true; break;
    case 'o': o->output = arg; break;
    case 'f': o->force = true; break;
    case 'q': o->quiet = true; break;
    case 'j': o->json = true; break;
    case ARGP_KEY_ARG:
        if (o->input)
            argp_error(state, "one pattern, please (--against takes the other one)");
        o->input = arg;
        break;
    case ARGP_KEY_END: check_options(o, state); break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* What was read and made. */
struct import {
    const struct import_options *options;
    struct head_pattern pattern;
    struct checkpoint *checkpoint; /* NULL without --model */
    bool *sliding;                 /* (n_layers) the model's own sliding layers, NULL without --model */
    struct layout *layout;
    struct comparison comparison;
    const char *quantity;          /* what was compared with, NULL = nothing */
};

static size_t n_values(const struct import *in) {
    return (size_t)in->pattern.n_layers * in->pattern.n_kv_heads;
}

static void free_import(struct import *in) {
    head_pattern_free(&in->pattern);
    layout_free(in->layout);
    free(in->sliding);
    checkpoint_close(in->checkpoint);
}

/* -- reading ---------------------------------------------------------------------------------------------------------- */

static int check_model(struct import *in, struct err *err) {
    const struct model_config *c = checkpoint_config(in->checkpoint);
    if (in->pattern.n_layers != (uint32_t)c->n_layers || in->pattern.n_kv_heads != (uint32_t)c->n_kv_heads)
        return err_set(err, ERR_INPUT, in->options->input, "has %u layers x %u KV heads, the model %d x %d",
                       in->pattern.n_layers, in->pattern.n_kv_heads, c->n_layers, c->n_kv_heads);
    if (!(in->sliding = mem_alloc(in->pattern.n_layers, sizeof *in->sliding, "layers", err)))
        return ERR_MEMORY;
    for (int layer = 0; layer < c->n_layers; layer++)
        in->sliding[layer] = c->layers[layer].sliding_window > 0;
    return OK;
}

static int read_pattern(struct import *in, struct err *err) {
    const struct import_options *o = in->options;
    uint32_t n_kv_heads = o->n_kv_heads > 0 ? (uint32_t)o->n_kv_heads : 0;
    int rc = o->model ? checkpoint_open(o->model, NULL, &in->checkpoint, err) : OK;
    if (rc == OK && in->checkpoint && !n_kv_heads)
        n_kv_heads = (uint32_t)checkpoint_config(in->checkpoint)->n_kv_heads;
    if (rc == OK)
        rc = head_pattern_read(o->input, o->format, n_kv_heads, &in->pattern, err);
    if (rc == OK && in->checkpoint)
        rc = check_model(in, err);
    if (rc == OK && in->pattern.n_clipped)
        cli_note(o->quiet, "%zu values outside 0 to 1 were clipped", in->pattern.n_clipped);
    if (rc == OK && in->pattern.n_unknown)
        cli_note(o->quiet, "%zu layers are neither full_attention nor sliding_attention: taken as full",
                 in->pattern.n_unknown);
    return rc;
}

/* -- layout and comparison -------------------------------------------------------------------------------------------- */

static size_t count_eligible(const struct import *in) {
    return head_pattern_count(&in->pattern, 0, in->sliding);
}

static int make_layout(struct import *in, struct err *err) {
    const struct import_options *o = in->options;
    uint32_t window = o->window > 0 ? (uint32_t)o->window : in->pattern.window ? in->pattern.window : DEFAULT_WINDOW;
    uint32_t sinks = o->sinks >= 0 ? (uint32_t)o->sinks : in->pattern.sinks;
    size_t n = o->heads >= 0   ? (size_t)o->heads
               : o->share >= 0 ? (size_t)floor(o->share * (double)count_eligible(in) + 0.5)
                               : head_pattern_count(&in->pattern, o->threshold >= 0 ? o->threshold : 0.5, in->sliding);
    int rc = head_pattern_layout(&in->pattern, n, window, sinks, in->sliding, &in->layout, err);
    if (rc != OK)
        return rc;
    json_object_set_new(in->layout->made_by, "pattern", json_string(o->input));
    const char *ties = json_string_value(json_object_get(in->layout->made_by, "ties"));
    if (ties)
        cli_note(o->quiet, "%s", ties);
    if (in->checkpoint)
        snprintf(in->layout->base_model_hash, sizeof in->layout->base_model_hash, "%s",
                 checkpoint_base_hash(in->checkpoint));
    return OK;
}

static int write_layout(const struct import *in, struct err *err) {
    int rc = file_check_free(in->options->output, in->options->force, err);
    return rc == OK ? layout_write(in->layout, in->options->output, err) : rc;
}

static int compare(struct import *in, struct err *err) {
    const struct import_options *o = in->options;
    struct head_values other;
    int rc = head_values_read(o->against, in->pattern.n_kv_heads, &other, err);
    if (rc != OK)
        return rc;
    size_t n_top = o->top > 0 ? (size_t)o->top : other.n_global ? other.n_global : layout_n_global(in->layout);
    if (other.n_layers != in->pattern.n_layers || other.n_kv_heads != in->pattern.n_kv_heads)
        rc = err_set(err, ERR_INPUT, o->against, "has %u layers x %u KV heads, %s has %u x %u", other.n_layers,
                     other.n_kv_heads, o->input, in->pattern.n_layers, in->pattern.n_kv_heads);
    else
        rc = comparison_compute(in->pattern.value, other.value, n_values(in), n_top, NULL, &in->comparison, err);
    in->quantity = other.quantity;
    head_values_free(&other);
    return rc;
}

/* -- drawing ---------------------------------------------------------------------------------------------------------- */

static void put_title(const struct import *in, struct str *out) {
    str_puts(out, "Imported head pattern ");
    str_puts(out, file_basename(in->options->input));
}

static int draw(const struct import *in, struct err *err) {
    struct str title = {0}, origin = {0};
    put_title(in, &title);
    str_printf(&origin, "Format %s, %u layers x %u KV heads, file %s.", head_pattern_format_name(in->pattern.format),
               in->pattern.n_layers, in->pattern.n_kv_heads, in->options->input);
    const char *caption[] = {"1: the head was found to need its whole context; 0: a window is enough.", str_text(&origin)};
    struct heatmap map = {.n_layers = in->pattern.n_layers, .n_kv_heads = in->pattern.n_kv_heads,
                          .values = in->pattern.value, .high = 1, .title = str_text(&title),
                          .value_title = "imported value", .missing = "no value", .caption = caption, .n_caption = 2};
    struct picture_fact facts[] = {{"Title", map.title}, {"Description", caption[0]}, {"Source", in->options->input},
                                  {"Software", "spkv import"}};
    int rc = title.failed || origin.failed ? err_memory(err, "a caption", 0) : file_check_free(in->options->png,
                                                                                                in->options->force, err);
    if (rc == OK && !heatmap_fits(&map))
        rc = err_set(err, ERR_INPUT, in->options->input, "%u layers x %u KV heads are too many to draw",
                     in->pattern.n_layers, in->pattern.n_kv_heads);
    if (rc == OK)
        rc = heatmap_write_png(&map, facts, sizeof facts / sizeof *facts, in->options->png, NULL, err);
    str_free(&origin);
    str_free(&title);
    return rc;
}

static void print_map(const struct import *in) {
    struct str text = {0};
    bool color = cli_color(stdout);
    struct terminal_options options = {.color = color, .truecolor = color && cli_truecolor(), .width = cli_terminal_width()};
    struct terminal_map map = {"imported value", in->pattern.n_layers, in->pattern.n_kv_heads, in->pattern.value, 0, 1};
    if (!color && !in->options->map)
        return;
    terminal_put_map(&map, &options, &text);
    fputs(str_text(&text), stdout);
    str_free(&text);
}

/* -- saying it -------------------------------------------------------------------------------------------------------- */

static double mean_of(const struct import *in) {
    double sum = 0;
    for (size_t i = 0; i < n_values(in); i++)
        sum += in->pattern.value[i] / (double)n_values(in);
    return sum;
}

static double share_of(const struct import *in, double threshold) {
    return (double)head_pattern_count(&in->pattern, threshold, NULL) / (double)n_values(in);
}

static void print_text(const struct import *in) {
    const struct import_options *o = in->options;
    const struct head_pattern *p = &in->pattern;
    printf("%s: %s, %u layers x %u KV heads", o->input, head_pattern_format_name(p->format), p->n_layers, p->n_kv_heads);
    if (p->window)
        printf(", window %u, sinks %u", p->window, p->sinks);
    printf("\n  mean %.4f, exactly 1: %zu heads\n  share of heads at or above", mean_of(in),
           head_pattern_count(p, 1, NULL));
    for (size_t i = 0; i < N_THRESHOLDS; i++)
        printf("%s %g: %.1f %%", i ? "," : "", thresholds[i], 100 * share_of(in, thresholds[i]));
    printf("\n  layout: %zu of %zu heads global, the others see a window of %u + %u sinks\n", layout_n_global(in->layout),
           layout_n_eligible(in->layout), in->layout->window, in->layout->sinks);
    if (in->quantity)
        printf("  against %s (%s): rank correlation %.3f, of the top %zu heads %.1f %% are shared (by chance %.1f %%)\n",
               o->against, in->quantity, in->comparison.spearman, in->comparison.n_top, 100 * in->comparison.top_overlap,
               100 * (double)in->comparison.n_top / (double)in->comparison.n_heads);
    print_map(in);
}

static void print_json(const struct import *in) {
    const struct head_pattern *p = &in->pattern;
    json_t *shares = json_array();
    for (size_t i = 0; i < N_THRESHOLDS; i++)
        json_array_append_new(shares, json_pack("{s:f, s:f}", "threshold", thresholds[i], "share",
                                                share_of(in, thresholds[i])));
    json_t *root = json_pack("{s:s, s:i, s:s, s:s, s:i, s:i, s:f, s:I, s:I, s:o, s:I}", "schema", "spkv-import", "version",
                             1, "input", in->options->input, "format", head_pattern_format_name(p->format), "n_layers",
                             (int)p->n_layers, "n_kv_heads", (int)p->n_kv_heads, "mean", mean_of(in), "exactly_1",
                             (json_int_t)head_pattern_count(p, 1, NULL), "clipped", (json_int_t)p->n_clipped, "shares",
                             shares, "global_heads", (json_int_t)layout_n_global(in->layout));
    if (in->quantity)
        json_object_set_new(root, "comparison",
                            json_pack("{s:s, s:s, s:I, s:o, s:I, s:o}", "against", in->options->against, "quantity",
                                      in->quantity, "heads", (json_int_t)in->comparison.n_heads, "rank_correlation",
                                      json_finite(in->comparison.spearman), "top", (json_int_t)in->comparison.n_top,
                                      "top_overlap", json_finite(in->comparison.top_overlap)));
    json_dumpf(root, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(root);
}

static int import(struct import *in, struct err *err) {
    const struct import_options *o = in->options;
    int rc = read_pattern(in, err);
    if (rc == OK)
        rc = make_layout(in, err);
    if (rc == OK && o->against)
        rc = compare(in, err);
    if (rc == OK && o->output)
        rc = write_layout(in, err);
    if (rc == OK && o->png)
        rc = draw(in, err);
    if (rc == OK) {
        (o->json ? print_json : print_text)(in);
        rc = cli_finish_stdout(err);
    }
    return rc;
}

int cmd_import(int argc, char **argv) {
    static const struct argp argp = {
        argp_options,
        parse,
        "FILE|DIR",
        "Reads how much context heads need by another tool, says what it is, draws it, compares it, and makes a layout of "
        "it.\v"
        "duo-attention: full_attention_heads.tsv, with config.json beside it; wg-kv: SPARSITY_retain_ratio.tsv; wg-kv-log: "
        "the table of --dump_global_lengths; kvpress: a JSON list of compression ratios, one a layer; layer-types: a "
        "config.json. "
        "Values are 1 for a head that needs everything. Ties go to the lower layer, then the lower head.",
        NULL,
        NULL,
        NULL};
    struct import_options o = {.format = HEAD_PATTERN_N_FORMATS, .n_kv_heads = -1, .heads = -1, .window = -1, .sinks = -1,
                               .top = -1, .share = -1, .threshold = -1};
    struct import in = {.options = &o};
    struct err err = {0};
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    import(&in, &err);
    free_import(&in);
    return cli_report(&err);
}
