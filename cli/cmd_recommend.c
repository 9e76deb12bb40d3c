/* spkv recommend: hybrid layouts under one budget out of a run file. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/layout.h"
#include "analyze/profile.h"
#include "analyze/statistics.h"
#include "analyze/strategy.h"
#include "base/file.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/refine.h"

enum { MAX_CONTEXTS = 8, MAX_ROWS = 16 };

struct recommend_options {
    const char *run, *output, *strategy;
    long long heads, kv_bytes; /* -1 = not given */
    double share;              /* negative = not given */
    long long window, sinks;   /* -1 = as in the run */
    struct strategy pattern;   /* of --period, --phase, --last */
    bool has_pattern, force, json;
    uint64_t seed;
    uint64_t contexts[MAX_CONTEXTS];
    size_t n_contexts;
    struct refine_options refine;
};

enum { KEY_HEADS = 0x300, KEY_SHARE, KEY_KV_BYTES, KEY_STRATEGY, KEY_PERIOD, KEY_PHASE, KEY_LAST, KEY_SEED, KEY_WINDOW,
       KEY_SINKS, KEY_CONTEXT };

static const struct argp_option argp_options[] = {
    {NULL, 0, NULL, 0, "Budget (one of them; default --share 0.25):", 1},
    {"heads", KEY_HEADS, "N", 0, "KV heads that stay global", 1},
    {"share", KEY_SHARE, "X", 0, "the same as a share of the heads that can be global", 1},
    {"kv-bytes", KEY_KV_BYTES, "N", 0, "bytes of K and V of one sequence at the first context length", 1},
    {NULL, 0, NULL, 0, "Layout:", 2},
    {"strategy", KEY_STRATEGY, "NAME", 0, "which layout is written: densest-heads (default), densest-layers, random, "
     "interleaved-a, interleaved-b, interleaved (see --period)", 2},
    {"period", KEY_PERIOD, "N", 0, "strategy interleaved: every N-th layer is global", 2},
    {"phase", KEY_PHASE, "N", 0, "strategy interleaved: the first global layer (default 0)", 2},
    {"last", KEY_LAST, NULL, 0, "strategy interleaved: the last layer is global too", 2},
    {"seed", KEY_SEED, "N", 0, "strategy random: seed (default 0)", 2},
    {"window", KEY_WINDOW, "N", 0, "window of local heads (default: as in the run)", 2},
    {"sinks", KEY_SINKS, "N", 0, "first positions that local heads see for ever (default: as in the run)", 2},
    {"context", KEY_CONTEXT, "N", 0, "context length to predict for, may be repeated (default 4096 and 32768)", 2},
    {NULL, 0, NULL, 0, "Output:", 3},
    {"output", 'o', "FILE", 0,
     "layout.json of the chosen strategy; a directory (existing, or DIR/) gets one file per strategy", 3},
    {"force", 'f', NULL, 0, "replace what exists", 3},
    {"json", 'j', NULL, 0, "print the table as JSON", 3},
    {0},
};

static void parse_pattern(struct recommend_options *o, int key, const char *arg, const struct argp_state *state) {
    o->has_pattern = true;
    if (key == KEY_PERIOD)
        o->pattern.period = (uint32_t)cli_parse_int(state, "period", arg, 1, 4096);
    else if (key == KEY_PHASE)
        o->pattern.phase = (uint32_t)cli_parse_int(state, "phase", arg, 0, 4095);
    else
        o->pattern.force_last = true;
}

static void check_options(const struct recommend_options *o, const struct argp_state *state) {
    bool known = !o->strategy || strategy_find(o->strategy) || (o->has_pattern && strcmp(o->strategy, "interleaved") == 0);
    if (!o->run)
        argp_error(state, "which run file?");
    if ((o->heads >= 0) + (o->share >= 0) + (o->kv_bytes >= 0) > 1)
        argp_error(state, "--heads, --share and --kv-bytes exclude each other");
    if (!known)
        argp_error(state, "--strategy: \"%s\" is not densest-heads, densest-layers, random, interleaved-a, interleaved-b or "
                   "interleaved (with --period)", o->strategy);
    if (o->has_pattern && o->pattern.phase >= o->pattern.period)
        argp_error(state, "--phase %u must be below --period %u", o->pattern.phase, o->pattern.period);
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct recommend_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = &o->refine; break;
    case KEY_HEADS: o->heads = cli_parse_int(state, "heads", arg, 0, INT32_MAX); break;
    case KEY_SHARE: o->share = cli_parse_real(state, "share", arg, 0, 1); break;
    case KEY_KV_BYTES: o->kv_bytes = cli_parse_int(state, "kv-bytes", arg, 0, INT64_MAX); break;
    case KEY_STRATEGY: o->strategy = arg; break;
    case KEY_PERIOD:
    case KEY_PHASE:
    case KEY_LAST: parse_pattern(o, key, arg, state); break;
    case KEY_SEED: o->seed = (uint64_t)cli_parse_int(state, "seed", arg, 0, INT64_MAX); break;
    case KEY_WINDOW: o->window = cli_parse_int(state, "window", arg, 1, INT32_MAX); break;
    case KEY_SINKS: o->sinks = cli_parse_int(state, "sinks", arg, 0, INT32_MAX); break;
    case KEY_CONTEXT:
        if (o->n_contexts == MAX_CONTEXTS)
            argp_error(state, "at most %d context lengths", MAX_CONTEXTS);
        else
            o->contexts[o->n_contexts++] = (uint64_t)cli_parse_int(state, "context", arg, 1, INT32_MAX);
        break;
    case 'o':
        if (!*arg)
            argp_error(state, "--output needs a name");
        o->output = arg;
        break;
    case 'f': o->force = true; break;
    case 'j': o->json = true; break;
    case ARGP_KEY_ARG:
        if (o->run)
            argp_error(state, "one run file at a time (spkv merge joins shards)");
        o->run = arg;
        break;
    case ARGP_KEY_END: check_options(o, state); break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* What was read and made. */
struct recommendation {
    const struct recommend_options *options;
    struct profile *profile;
    struct statistics statistics;
    struct head_measure measure;
    size_t n_eligible, n_global;
    char profile_hash[33];
    struct layout *layouts[MAX_ROWS];
    double coverage[MAX_ROWS];
    size_t n, chosen;
    struct refine_result refined; /* of the last layout, with --refine */
};

static void free_recommendation(struct recommendation *r) {
    for (size_t i = 0; i < r->n; i++)
        layout_free(r->layouts[i]);
    head_measure_free(&r->measure);
    statistics_free(&r->statistics);
    profile_close(r->profile);
}

static int read_run(struct recommendation *r, struct err *err) {
    const char *path = r->options->run;
    int rc = profile_open(path, &r->profile, err);
    if (rc == OK)
        rc = statistics_compute(r->profile, -1, &r->statistics, err);
    if (rc == OK)
        rc = head_measure_compute(&r->statistics, profile_meta(r->profile), &r->measure, err);
    if (rc == OK && !file_is_dir(path))
        rc = file_hash(path, r->profile_hash, err);
    if (rc != OK)
        return rc;
    if (r->measure.kind == HEAD_MEASURE_NONE)
        return err_set(err, ERR_INPUT, path, "records neither gates nor attention, so heads cannot be ranked: profile again "
                       "with --record attention (dense model) or under --policy spkv");
    bool any = false;
    for (size_t i = 0; i < r->measure.n_layers * r->measure.n_kv_heads; i++) {
        any |= r->measure.value[i] > 0;
        r->n_eligible += !r->measure.sliding[i / r->measure.n_kv_heads];
    }
    if (!any)
        return err_set(err, ERR_INPUT, path,
                       "has no head with a %s above 0: no sequence is longer than window + sinks (%u + %u; the longest has "
                       "%u tokens), or everything beyond was dropped", r->measure.name, profile_meta(r->profile)->window,
                       profile_meta(r->profile)->sinks, r->statistics.longest);
    return OK;
}

static struct strategy_input input_of(const struct recommendation *r) {
    const struct profile_meta *meta = profile_meta(r->profile);
    const struct recommend_options *o = r->options;
    return (struct strategy_input){.n_layers = meta->n_layers, .n_kv_heads = meta->n_kv_heads, .value = r->measure.value,
                                   .sliding = r->measure.sliding,
                                   .window = o->window >= 0 ? (uint32_t)o->window : meta->window,
                                   .sinks = o->sinks >= 0 ? (uint32_t)o->sinks : meta->sinks};
}

/* The most global heads whose bytes at the first context length stay within the budget. */
static int heads_of_bytes(struct recommendation *r, const struct strategy_input *input, struct err *err) {
    const struct profile_meta *meta = profile_meta(r->profile);
    struct layout *none;
    uint64_t context = r->options->contexts[0], near = (uint64_t)input->window + input->sinks;
    int rc = layout_create(input->n_layers, input->n_kv_heads, input->sliding, input->window, input->sinks, &none, err);
    if (rc != OK)
        return rc;
    double least = layout_kv_bytes(none, context, meta->head_dim, meta->element_bytes, meta->sliding_window);
    double step = context > near ? (double)(context - near) * 2 * meta->head_dim * meta->element_bytes : 0;
    layout_free(none);
    if (least > (double)r->options->kv_bytes)
        return err_set(err, ERR_INPUT, "--kv-bytes", "windows alone take %.0f bytes at a context of %llu tokens", least,
                       (unsigned long long)context);
    double n = step > 0 ? floor(((double)r->options->kv_bytes - least) / step) : (double)r->n_eligible;
    r->n_global = n < (double)r->n_eligible ? (size_t)n : r->n_eligible;
    return OK;
}

static int find_budget(struct recommendation *r, const struct strategy_input *input, struct err *err) {
    const struct recommend_options *o = r->options;
    if (o->kv_bytes >= 0)
        return heads_of_bytes(r, input, err);
    r->n_global = o->heads >= 0 ? (size_t)o->heads
                                : (size_t)floor((o->share >= 0 ? o->share : 0.25) * (double)r->n_eligible + 0.5);
    if (r->n_global > r->n_eligible)
        return err_set(err, ERR_USAGE, "--heads", "%zu global heads were asked for, the model has %zu that can be global",
                       r->n_global, r->n_eligible);
    return OK;
}

/* Notes in the layout where it came from. */
static void sign(const struct recommendation *r, struct layout *layout) {
    const struct profile_meta *meta = profile_meta(r->profile);
    json_t *corpora = json_array(), *budget = json_object_get(layout->made_by, "budget");
    for (size_t i = 0; i < meta->n_corpora; i++)
        json_array_append_new(corpora, json_string(meta->corpus_names[i]));
    if (r->options->kv_bytes >= 0) {
        json_object_set_new(budget, "kv_bytes", json_integer(r->options->kv_bytes));
        json_object_set_new(budget, "context", json_integer((json_int_t)r->options->contexts[0]));
    }
    json_object_set_new(layout->made_by, "measure", json_string(r->measure.name));
    json_object_set_new(layout->made_by, "profile", json_string(r->options->run));
    json_object_set_new(layout->made_by, "profile_hash", json_string(r->profile_hash));
    json_object_set_new(layout->made_by, "corpora", corpora);
    if (strlen(meta->base_model_hash) == 32)
        strcpy(layout->base_model_hash, meta->base_model_hash);
}

static int add_layout(struct recommendation *r, const struct strategy *strategy, const struct strategy_input *input,
                      struct err *err) {
    const struct profile_meta *meta = profile_meta(r->profile);
    struct layout *layout;
    struct strategy own = *strategy;
    own.seed = r->options->seed;
    int rc = strategy_apply(&own, input, r->n_global, &layout, err);
    if (rc != OK)
        return rc;
    const char *wanted = r->options->strategy ? r->options->strategy : "densest-heads";
    if (strcmp(own.name, wanted) == 0)
        r->chosen = r->n;
    r->coverage[r->n] = layout_coverage(layout, r->measure.value);
    r->layouts[r->n] = layout;
    sign(r, layout);
    return layout_predict(layout, r->coverage[r->n++], r->options->contexts, r->options->n_contexts, meta->head_dim,
                          meta->element_bytes, meta->sliding_window, err);
}

static int make_layouts(struct recommendation *r, struct err *err) {
    struct strategy_input input = input_of(r);
    size_t n;
    const struct strategy *table = strategy_table(&n);
    int rc = find_budget(r, &input, err);
    for (size_t i = 0; rc == OK && i < n; i++)
        rc = add_layout(r, &table[i], &input, err);
    if (rc == OK && r->options->has_pattern)
        rc = add_layout(r, &r->options->pattern, &input, err);
    return rc;
}

/* The chosen layout, made better by measurement, is one more, and chosen. */
static int refine_chosen(struct recommendation *r, struct err *err) {
    const struct profile_meta *meta = profile_meta(r->profile);
    struct layout *layout;
    int rc = refine_layout(&r->options->refine, r->layouts[r->chosen], &layout, &r->refined, err);
    if (rc != OK)
        return rc;
    r->chosen = r->n;
    r->coverage[r->n] = layout_coverage(layout, r->measure.value);
    r->layouts[r->n] = layout;
    return layout_predict(layout, r->coverage[r->n++], r->options->contexts, r->options->n_contexts, meta->head_dim,
                          meta->element_bytes, meta->sliding_window, err);
}

/* DIR/STRATEGY.json of layout i. */
static int path_in_dir(const struct recommendation *r, size_t i, struct str *out, struct err *err) {
    const char *dir = r->options->output;
    str_clear(out);
    str_printf(out, "%s%s%s.json", dir, dir[strlen(dir) - 1] == '/' ? "" : "/", layout_strategy(r->layouts[i]));
    return out->failed ? err_memory(err, "a path", strlen(dir)) : OK;
}

static int write_to_dir(const struct recommendation *r, struct err *err) {
    struct str path = {0};
    int rc = file_make_dirs(r->options->output, err);
    for (size_t i = 0; rc == OK && i < r->n; i++) /* all or nothing */
        if ((rc = path_in_dir(r, i, &path, err)) == OK)
            rc = file_check_free(path.data, r->options->force, err);
    for (size_t i = 0; rc == OK && i < r->n; i++)
        if ((rc = path_in_dir(r, i, &path, err)) == OK)
            rc = layout_write(r->layouts[i], path.data, err);
    str_free(&path);
    return rc;
}

static int write_layouts(const struct recommendation *r, struct err *err) {
    const char *output = r->options->output;
    if (!output)
        return OK;
    if (output[strlen(output) - 1] == '/' || file_is_dir(output))
        return write_to_dir(r, err);
    int rc = file_check_free(output, r->options->force, err);
    return rc == OK ? layout_write(r->layouts[r->chosen], output, err) : rc;
}

static void print_text(const struct recommendation *r) {
    const struct recommend_options *o = r->options;
    struct strategy_input input = input_of(r);
    printf("%zu of %zu KV heads global (%.1f %%), the others see a window of %u + %u sinks\n", r->n_global, r->n_eligible,
           r->n_eligible ? 100.0 * (double)r->n_global / (double)r->n_eligible : 0, input.window, input.sinks);
    printf("coverage: share of the sum of the heads' %s\n\n", r->measure.name);
    printf("  %-16s %9s", "strategy", "coverage");
    for (size_t c = 0; c < o->n_contexts; c++) {
        char title[32];
        snprintf(title, sizeof title, "KV@%llu", (unsigned long long)o->contexts[c]);
        printf(" %10s", title);
    }
    printf("  changed to fit\n");
    for (size_t i = 0; i < r->n; i++) {
        const json_t *changes = json_object_get(r->layouts[i]->made_by, "changed_to_fit");
        printf("%c %-16s %7.2f %%", i == r->chosen ? '*' : ' ', layout_strategy(r->layouts[i]), 100 * r->coverage[i]);
        for (size_t c = 0; c < o->n_contexts; c++)
            printf(" %8.2f %%", 100 * layout_kv_fraction(r->layouts[i], o->contexts[c]));
        for (size_t k = 0; k < json_array_size(changes); k++)
            printf("%s%s", k ? "; " : "  ", json_string_value(json_array_get(changes, k)));
        putchar('\n');
    }
    if (o->refine.model)
        refine_print(&r->refined);
    printf("\nCoverage alone does not order layouts: measure them with the text you care about.\n");
    if (o->output)
        printf("%s: %s\n", o->output, file_is_dir(o->output) ? "one layout per strategy"
                                                             : layout_strategy(r->layouts[r->chosen]));
}

static void print_json(const struct recommendation *r) {
    json_t *rows = json_array();
    for (size_t i = 0; i < r->n; i++)
        json_array_append_new(rows, json_pack("{s:s, s:O, s:O, s:b}", "strategy", layout_strategy(r->layouts[i]), "made_by",
                                              r->layouts[i]->made_by, "predicted", r->layouts[i]->predicted, "chosen",
                                              i == r->chosen));
    json_t *root = json_pack("{s:s, s:i, s:s, s:I, s:I, s:o}", "schema", "spkv-recommend", "version", 1, "measure",
                             r->measure.name, "global_heads", (json_int_t)r->n_global, "eligible_heads",
                             (json_int_t)r->n_eligible, "layouts", rows);
    json_dumpf(root, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(root);
}

static int recommend(const struct recommend_options *o, struct err *err) {
    struct recommendation r = {.options = o};
    int rc = read_run(&r, err);
    if (rc == OK)
        rc = make_layouts(&r, err);
    if (rc == OK && o->refine.model)
        rc = refine_chosen(&r, err);
    if (rc == OK)
        rc = write_layouts(&r, err);
    if (rc == OK) {
        (o->json ? print_json : print_text)(&r);
        rc = cli_finish_stdout(err);
    }
    if (rc == OK && profile_is_partial(r.profile))
        cli_note(false, "%s is incomplete: the ranking may change", o->run);
    free_recommendation(&r);
    return rc;
}

int cmd_recommend(int argc, char **argv) {
    static const struct argp_child children[] = {{&refine_argp, 0, "Refinement by measurement:", 8}, {0}};
    static const struct argp argp = {argp_options,
                                     parse,
                                     "RUN",
                                     "Chooses which KV heads keep everything and which see only a window, under one "
                                     "budget, and compares the strategies by the share of the recorded density they cover "
                                     "(arXiv 2605.14037). Runs of dense models are ranked by far attention.",
                                     children,
                                     NULL,
                                     NULL};
    struct recommend_options o = {.heads = -1, .kv_bytes = -1, .share = -1, .window = -1, .sinks = -1,
                                  .pattern = {.kind = STRATEGY_INTERLEAVED, .name = "interleaved", .period = 4}};
    struct err err = {0};
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    if (o.n_contexts == 0) {
        o.contexts[o.n_contexts++] = 4096;
        o.contexts[o.n_contexts++] = 32768;
    }
    recommend(&o, &err);
    return cli_report(&err);
}
