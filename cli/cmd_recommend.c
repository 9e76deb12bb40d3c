/* spkv recommend: hybrid layouts under one budget out of run files. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/profile.h"
#include "base/file.h"
#include "cli/cli.h"
#include "cli/recommend_runs.h"
#include "cli/recommend_text.h"
#include "cli/refine.h"

enum { MAX_CONTEXTS = 8 };

struct recommend_options {
    struct recommend_sources sources;
    const char *output, *strategy, *bench;
    struct budget budget;
    bool has_budget;
    long long window, batch;   /* window -1 = as in the run */
    struct strategy pattern;   /* of --period, --phase, --last */
    bool has_pattern, force, json;
    uint32_t least, n_draws;
    uint64_t seed;
    uint64_t contexts[MAX_CONTEXTS];
    size_t n_contexts;
    struct refine_options refine;
};

enum { KEY_HEADS = 0x300, KEY_SHARE, KEY_KV_SHARE, KEY_KV_BYTES, KEY_DECODE_MS, KEY_BENCH, KEY_BATCH, KEY_STRATEGY,
       KEY_PERIOD, KEY_PHASE, KEY_LAST, KEY_LEAST, KEY_DRAWS, KEY_SEED, KEY_ATTENTION, KEY_LEARNED, KEY_PATTERN, KEY_WINDOW,
       KEY_WINDOW_MASS, KEY_WINDOWS_PER, KEY_SINKS, KEY_CONTEXT };

static const struct argp_option argp_options[] = {
    {NULL, 0, NULL, 0, "Budget (one of them; default --share 0.25):", 1},
    {"heads", KEY_HEADS, "N", 0, "KV heads that stay global", 1},
    {"share", KEY_SHARE, "X", 0, "the same as a share of the heads that can be global", 1},
    {"kv-share", KEY_KV_SHARE, "X", 0, "share of the bytes of K and V that a sequence of the first context length takes "
     "with all heads global", 1},
    {"kv-bytes", KEY_KV_BYTES, "N", 0, "those bytes", 1},
    {"decode-ms", KEY_DECODE_MS, "X", 0, "milliseconds of a decode step at the first context length; needs --bench", 1},
    {"bench", KEY_BENCH, "FILE.csv", 0, "rows of spkv bench, of which the decode rows say what bytes of cache cost", 1},
    {"batch", KEY_BATCH, "N", 0, "--bench: sequences decoded together (default 1)", 1},
    {NULL, 0, NULL, 0, "Layout:", 2},
    {"strategy", KEY_STRATEGY, "NAME", 0, "which layout is written and judged: densest-heads (default), densest-layers, "
     "densest-minimum, densest-even, random, interleaved-a (period 4), interleaved-b (period 4, phase 3, last layer), "
     "interleaved (see --period), far-attention, learned, imported (see below)", 2},
    {"period", KEY_PERIOD, "N", 0, "strategy interleaved: every N-th layer is global", 2},
    {"phase", KEY_PHASE, "N", 0, "strategy interleaved: the first global layer (default 0)", 2},
    {"last", KEY_LAST, NULL, 0, "strategy interleaved: the last layer is global too", 2},
    {"min-per-layer", KEY_LEAST, "N", 0, "strategy densest-minimum: global heads in every layer (default 1)", 2},
    {"draws", KEY_DRAWS, "N", 0, "strategy random: draws behind its mean and spread (default 20); the first is written", 2},
    {"seed", KEY_SEED, "N", 0, "of random draws and of resampled documents (default 0)", 2},
    {"attention", KEY_ATTENTION, "RUN", 0, "strategy far-attention: a run of the dense model with --record attention", 2},
    {"learned", KEY_LEARNED, "DIR", 0, "strategy learned: a checkpoint with static gates (spkv train adapt --static-gates)",
     2},
    {"pattern", KEY_PATTERN, "FILE", 0, "strategy imported: a layout, another run, or what spkv import reads", 2},
    {"window", KEY_WINDOW, "N", 0, "window of local heads (default: as in the run)", 2},
    {"window-mass", KEY_WINDOW_MASS, "X", 0, "give every head the shortest window that holds this share of its attention "
     "mass, out of --attention or a dense run", 2},
    {"windows-per", KEY_WINDOWS_PER, "head|layer", 0, "--window-mass: one window a head (default), or one a layer", 2},
    {"sinks", KEY_SINKS, "N", 0, "first positions that local heads see for ever (default: as in the run)", 2},
    {"context", KEY_CONTEXT, "N", 0, "context length to predict for, may be repeated (default 4096, 32768 and 131072)", 2},
    {NULL, 0, NULL, 0, "Output:", 3},
    {"output", 'o', "FILE", 0,
     "layout.json of the chosen strategy; a directory (existing, or DIR/) gets one file per strategy", 3},
    {"force", 'f', NULL, 0, "replace what exists", 3},
    {"json", 'j', NULL, 0, "print everything as JSON, and every head with its interval", 3},
    {0},
};

static void parse_budget(struct recommend_options *o, int key, const char *arg, const struct argp_state *state) {
    if (o->has_budget)
        argp_error(state, "--heads, --share, --kv-share, --kv-bytes and --decode-ms exclude each other");
    o->has_budget = true;
    switch (key) {
    case KEY_HEADS:
        o->budget.kind = BUDGET_HEADS;
        o->budget.amount = (double)cli_parse_int(state, "heads", arg, 0, INT32_MAX);
        break;
    case KEY_SHARE:
        o->budget.kind = BUDGET_HEAD_SHARE;
        o->budget.amount = cli_parse_real(state, "share", arg, 0, 1);
        break;
    case KEY_KV_SHARE:
        o->budget.kind = BUDGET_KV_SHARE;
        o->budget.amount = cli_parse_real(state, "kv-share", arg, 0, 1);
        break;
    case KEY_KV_BYTES:
        o->budget.kind = BUDGET_KV_BYTES;
        o->budget.amount = (double)cli_parse_int(state, "kv-bytes", arg, 0, INT64_MAX);
        break;
    default:
        o->budget.kind = BUDGET_DECODE_TIME;
        o->budget.amount = 1e-3 * cli_parse_real(state, "decode-ms", arg, 0, 1e9);
    }
}

static void parse_pattern(struct recommend_options *o, int key, const char *arg, const struct argp_state *state) {
    o->has_pattern = true;
    if (key == KEY_PERIOD)
        o->pattern.period = (uint32_t)cli_parse_int(state, "period", arg, 1, 4096);
    else if (key == KEY_PHASE)
        o->pattern.phase = (uint32_t)cli_parse_int(state, "phase", arg, 0, 4095);
    else
        o->pattern.force_last = true;
}

static void parse_windows(struct recommend_options *o, int key, const char *arg, const struct argp_state *state) {
    if (key == KEY_WINDOW)
        o->window = cli_parse_int(state, "window", arg, 1, INT32_MAX);
    else if (key == KEY_WINDOW_MASS)
        o->sources.window_mass = cli_parse_real(state, "window-mass", arg, 0, 1);
    else if (strcmp(arg, "head") == 0 || strcmp(arg, "layer") == 0)
        o->sources.window_scope = *arg == 'h' ? WINDOW_PER_HEAD : WINDOW_PER_LAYER;
    else
        argp_error(state, "--windows-per: \"%s\" is not head or layer", arg);
}

static bool is_strategy(const char *name) {
    for (size_t i = 0; recommendation_strategies[i]; i++)
        if (strcmp(recommendation_strategies[i], name) == 0)
            return true;
    return false;
}

static void check_options(const struct recommend_options *o, const struct argp_state *state) {
    if (o->sources.n_runs == 0)
        argp_error(state, "which run file?");
    if (!is_strategy(o->strategy))
        argp_error(state, "--strategy: \"%s\" is none; spkv recommend --help lists them", o->strategy);
    if (o->has_pattern && o->pattern.phase >= o->pattern.period)
        argp_error(state, "--phase %u must be below --period %u", o->pattern.phase, o->pattern.period);
    if (o->budget.kind == BUDGET_DECODE_TIME && !o->bench)
        argp_error(state, "--decode-ms needs --bench: what does a byte of cache cost on your machine?");
    if (o->window >= 0 && o->sources.window_mass >= 0)
        argp_error(state, "--window and --window-mass exclude each other");
}

static void add_run(struct recommend_options *o, const char *arg, const struct argp_state *state) {
    if (o->sources.n_runs == RECOMMEND_MAX_RUNS)
        argp_error(state, "at most %d run files", RECOMMEND_MAX_RUNS);
    else
        o->sources.runs[o->sources.n_runs++] = arg;
}

static void add_context(struct recommend_options *o, const char *arg, const struct argp_state *state) {
    if (o->n_contexts == MAX_CONTEXTS)
        argp_error(state, "at most %d context lengths", MAX_CONTEXTS);
    else
        o->contexts[o->n_contexts++] = (uint64_t)cli_parse_int(state, "context", arg, 1, INT32_MAX);
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct recommend_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = &o->refine; break;
    case KEY_HEADS:
    case KEY_SHARE:
    case KEY_KV_SHARE:
    case KEY_KV_BYTES:
    case KEY_DECODE_MS: parse_budget(o, key, arg, state); break;
    case KEY_BENCH: o->bench = arg; break;
    case KEY_BATCH: o->batch = cli_parse_int(state, "batch", arg, 1, 1 << 20); break;
    case KEY_STRATEGY: o->strategy = arg; break;
    case KEY_PERIOD:
    case KEY_PHASE:
    case KEY_LAST: parse_pattern(o, key, arg, state); break;
    case KEY_LEAST: o->least = (uint32_t)cli_parse_int(state, "min-per-layer", arg, 0, 1024); break;
    case KEY_DRAWS: o->n_draws = (uint32_t)cli_parse_int(state, "draws", arg, 1, 100000); break;
    case KEY_SEED: o->seed = (uint64_t)cli_parse_int(state, "seed", arg, 0, INT64_MAX / 2); break;
    case KEY_ATTENTION: o->sources.attention = arg; break;
    case KEY_LEARNED: o->sources.learned = arg; break;
    case KEY_PATTERN: o->sources.pattern = arg; break;
    case KEY_WINDOW:
    case KEY_WINDOW_MASS:
    case KEY_WINDOWS_PER: parse_windows(o, key, arg, state); break;
    case KEY_SINKS: o->sources.sinks = cli_parse_int(state, "sinks", arg, 0, INT32_MAX); break;
    case KEY_CONTEXT: add_context(o, arg, state); break;
    case 'o':
        if (!*arg)
            argp_error(state, "--output needs a name");
        o->output = arg;
        break;
    case 'f': o->force = true; break;
    case 'j': o->json = true; break;
    case ARGP_KEY_ARG: add_run(o, arg, state); break;
    case ARGP_KEY_END: check_options(o, state); break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* Everything of one command. */
struct command {
    const struct recommend_options *options;
    struct recommend_runs runs;
    struct cost_model cost;
    struct recommendation_input input;
    struct recommendation result;
    struct refine_result refined; /* of the last row, with --refine */
    struct recommend_view view;
};

static void fill_input(struct command *c) {
    const struct recommend_options *o = c->options;
    const struct profile_meta *meta = profile_meta(c->runs.profile);
    c->input = (struct recommendation_input){
        .meta = meta,
        .statistics = &c->runs.statistics,
        .measure = &c->runs.measure,
        .budget = o->budget,
        .window = o->window >= 0 ? (uint32_t)o->window : meta->window,
        .sinks = o->sources.sinks >= 0 ? (uint32_t)o->sources.sinks : meta->sinks,
        .windows = c->runs.windows,
        .rankings = c->runs.rankings,
        .n_rankings = c->runs.n_rankings,
        .pattern = o->has_pattern ? &o->pattern : NULL,
        .least = o->least,
        .n_draws = o->n_draws,
        .seed = o->seed,
        .contexts = o->contexts,
        .n_contexts = o->n_contexts,
        .wanted = o->strategy,
    };
    c->input.budget.context = o->contexts[0];
    c->input.budget.cost = o->bench ? &c->cost : NULL;
    c->view = (struct recommend_view){&c->input, &c->result, c->runs.variation, c->runs.n_corpora};
}

/* made_by.budget, beside the number of heads that it came to. */
static void sign_budget(const struct budget *budget, json_t *out) {
    static const char *const names[] = {[BUDGET_HEAD_SHARE] = "head_share", [BUDGET_KV_SHARE] = "kv_share",
                                        [BUDGET_KV_BYTES] = "kv_bytes", [BUDGET_DECODE_TIME] = "decode_step_s"};
    if (budget->kind == BUDGET_HEADS)
        return;
    json_object_set_new(out, names[budget->kind], json_real(budget->amount));
    if (budget->kind != BUDGET_HEAD_SHARE)
        json_object_set_new(out, "context", json_integer((json_int_t)budget->context));
}

/* Notes in the layout where it came from. */
static void sign(const struct command *c, struct layout *layout) {
    const struct profile_meta *meta = c->input.meta;
    const struct recommend_sources *s = &c->options->sources;
    json_t *corpora = json_array(), *profiles = json_array(), *hashes = json_array();
    for (size_t i = 0; i < meta->n_corpora; i++)
        json_array_append_new(corpora, json_string(meta->corpus_names[i]));
    for (size_t i = 0; i < meta->n_sources; i++)
        if (*meta->sources[i].hash)
            json_array_append_new(hashes, json_string(meta->sources[i].hash));
    for (size_t i = 0; i < s->n_runs; i++)
        json_array_append_new(profiles, json_pack("{s:s, s:s}", "profile", s->runs[i], "profile_hash", c->runs.hashes[i]));
    sign_budget(&c->input.budget, json_object_get(layout->made_by, "budget"));
    json_object_set_new(layout->made_by, "measure", json_string(c->input.measure->name));
    json_object_set_new(layout->made_by, "profile", json_string(s->runs[0]));
    json_object_set_new(layout->made_by, "profile_hash", json_string(c->runs.hashes[0]));
    if (s->n_runs > 1)
        json_object_set(layout->made_by, "profiles", profiles);
    json_decref(profiles);
    if (s->window_mass >= 0)
        json_object_set_new(layout->made_by, "window_mass", json_real(s->window_mass));
    json_object_set_new(layout->made_by, "corpora", corpora);
    json_object_set_new(layout->made_by, "corpus_hashes", hashes);
    json_object_set_new(layout->made_by, "evidence", recommend_evidence_json(&c->view));
    if (strlen(meta->base_model_hash) == 32)
        strcpy(layout->base_model_hash, meta->base_model_hash);
}

/* DIR/STRATEGY.json of layout i. */
static int path_in_dir(const struct command *c, size_t i, struct str *out, struct err *err) {
    const char *dir = c->options->output;
    str_clear(out);
    str_printf(out, "%s%s%s.json", dir, dir[strlen(dir) - 1] == '/' ? "" : "/", layout_strategy(c->result.rows[i].layout));
    return out->failed ? err_memory(err, "a path", strlen(dir)) : OK;
}

static int write_to_dir(const struct command *c, struct err *err) {
    struct str path = {0};
    int rc = file_make_dirs(c->options->output, err);
    for (size_t i = 0; rc == OK && i < c->result.n; i++) /* all or nothing */
        if ((rc = path_in_dir(c, i, &path, err)) == OK)
            rc = file_check_free(path.data, c->options->force, err);
    for (size_t i = 0; rc == OK && i < c->result.n; i++)
        if ((rc = path_in_dir(c, i, &path, err)) == OK)
            rc = layout_write(c->result.rows[i].layout, path.data, err);
    str_free(&path);
    return rc;
}

static int write_layouts(const struct command *c, struct err *err) {
    const char *output = c->options->output;
    if (!output)
        return OK;
    if (output[strlen(output) - 1] == '/' || file_is_dir(output))
        return write_to_dir(c, err);
    int rc = file_check_free(output, c->options->force, err);
    return rc == OK ? layout_write(c->result.rows[c->result.chosen].layout, output, err) : rc;
}

static int print_text(const struct command *c, struct err *err) {
    const char *output = c->options->output;
    struct str text = {0};
    recommend_put_table(&c->view, &text);
    str_putc(&text, '\n');
    recommend_put_verdict(&c->view, &text);
    int rc = text.failed ? err_memory(err, "a table", text.len) : OK;
    if (rc == OK)
        fwrite(str_text(&text), 1, text.len, stdout); /* cli_finish_stdout() sees a failure */
    str_free(&text);
    if (rc == OK && c->options->refine.model)
        refine_print(&c->refined);
    if (rc == OK && output)
        printf("%s: %s\n", output, file_is_dir(output) ? "one layout per strategy"
                                                       : layout_strategy(c->result.rows[c->result.chosen].layout));
    return rc;
}

static int print_json(const struct command *c, struct err *err) {
    json_t *root = recommend_json(&c->view);
    if (!root)
        return err_memory(err, "the JSON object", 0);
    json_dumpf(root, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(root);
    return OK;
}

/* The chosen layout, made better by measurement, is one more row, and is written. The verdict stays that of the start. */
static int refine_chosen(struct command *c, struct err *err) {
    struct layout *layout;
    int rc = refine_layout(&c->options->refine, c->result.rows[c->result.chosen].layout, &layout, &c->refined, err);
    return rc == OK ? recommendation_add(&c->input, layout, &c->result, err) : rc;
}

static void warn(const struct command *c) {
    const struct recommend_sources *s = &c->options->sources;
    if (c->runs.partial)
        cli_note(false, "%s is incomplete: the ranking may change", s->n_runs > 1 ? "a run" : s->runs[0]);
    if (c->runs.statistics.n_documents < BOOTSTRAP_FEW_DOCUMENTS)
        cli_note(false, "fewer than %d documents: intervals and stability are rough", BOOTSTRAP_FEW_DOCUMENTS);
    if (!c->runs.same_base)
        cli_note(false, "%s: its gates were trained on other weights than those profiled", s->learned);
}

static int recommend(struct command *c, struct err *err) {
    const struct recommend_options *o = c->options;
    for (size_t i = 0; o->output && i < o->sources.n_runs; i++)
        if (file_check_apart(o->output, o->sources.runs[i], err) != OK)
            return ERR_EXISTS;
    int rc = o->bench ? cost_model_read(o->bench, (uint32_t)o->batch, &c->cost, err) : OK;
    if (rc == OK)
        rc = recommend_runs_read(&o->sources, &c->runs, err);
    if (rc != OK)
        return rc;
    fill_input(c);
    rc = recommendation_compute(&c->input, &c->result, err);
    for (size_t i = 0; rc == OK && i < c->result.n; i++)
        sign(c, c->result.rows[i].layout);
    if (rc == OK && o->refine.model)
        rc = refine_chosen(c, err);
    if (rc == OK)
        rc = write_layouts(c, err);
    if (rc == OK)
        rc = (o->json ? print_json : print_text)(c, err);
    if (rc == OK)
        rc = cli_finish_stdout(err);
    if (rc == OK)
        warn(c);
    return rc;
}

int cmd_recommend(int argc, char **argv) {
    static const struct argp_child children[] = {{&refine_argp, 0, "Refinement by measurement:", 8}, {0}};
    static const struct argp argp = {argp_options,
                                     parse,
                                     "RUN...",
                                     "Chooses which KV heads keep everything and which see only a window, under one "
                                     "budget, and compares the strategies by the share of the recorded density they cover "
                                     "(arXiv 2605.14037). Runs of dense models are ranked by far attention. Several runs "
                                     "of one model under one policy count as one.\v"
                                     "The verdict says how many documents the choice rests on, how many of the chosen heads "
                                     "other documents would have chosen too, and how much more text would settle it.",
                                     children,
                                     NULL,
                                     NULL};
    struct recommend_options o = {.strategy = "densest-heads", .budget = {.kind = BUDGET_HEAD_SHARE, .amount = 0.25},
                                  .window = -1, .batch = 1, .least = 1, .n_draws = RECOMMENDATION_DRAWS,
                                  .sources = {.window_mass = -1, .sinks = -1},
                                  .pattern = {.kind = STRATEGY_INTERLEAVED, .name = "interleaved", .period = 4}};
    struct command c = {.options = &o};
    struct err err = {0};
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    if (o.n_contexts == 0) {
        static const uint64_t usual[] = {4096, 32768, 131072};
        memcpy(o.contexts, usual, sizeof usual);
        o.n_contexts = 3;
    }
    recommend(&c, &err);
    recommendation_free(&c.result);
    recommend_runs_free(&c.runs);
    return cli_report(&err);
}
