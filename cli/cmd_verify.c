/* spkv verify: runs layouts on a text beside full attention, SP-KV and the window alone, and writes what they cost. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/bootstrap.h"
#include "base/clock.h"
#include "base/file.h"
#include "cli/cli.h"
#include "cli/verify.h"

enum { KEY_LAYOUT = 0x600, KEY_POLICY, KEY_CSV, KEY_AGAINST, KEY_RESAMPLES, KEY_DECODE, KEY_KEEP_LAYOUTS, KEY_HEAL_TOKENS,
       KEY_HEAL_CORPUS, KEY_HEAL_SCHEDULE, KEY_HEAL_SET, KEY_KEEP_MODELS };

static const struct argp_option argp_options[] = {
    {"output", 'o', "DIR", 0, "directory of the run files (required); --resume goes on with what is there", 1},
    {"layout", KEY_LAYOUT, "FILE", 0, "a layout, as an argument that ends in .json", 1},
    {"policy", KEY_POLICY, "NAME[:KEY=VALUE,...]", 0, "another attention to measure; may be repeated", 1},
    {"csv", KEY_CSV, "FILE", 0, "the table as CSV", 1},
    {"against", KEY_AGAINST, "NAME", 0, "compare every case with this one too, such as densest-heads: which is better?", 1},
    {"resamples", KEY_RESAMPLES, "N", 0, "of the documents, for intervals (2000)", 1},
    {"decode", KEY_DECODE, "N", 0, "time decoding behind N tokens of the text too", 1},
    {"keep-layouts", KEY_KEEP_LAYOUTS, NULL, 0, "do not write figures into the layout files", 1},
    {"heal-tokens", KEY_HEAL_TOKENS, "N", 0, "train every case, full attention included, for N tokens and measure again", 2},
    {"heal-corpus", KEY_HEAL_CORPUS, "CORPUS[:WEIGHT]", 0, "text to train on; may be repeated", 2},
    {"heal-schedule", KEY_HEAL_SCHEDULE, "FILE", 0, "a schedule of spkv train (its defaults)", 2},
    {"heal-set", KEY_HEAL_SET, "KEY=VALUE", 0, "a key of that schedule, which wins; may be repeated", 2},
    {"keep-models", KEY_KEEP_MODELS, NULL, 0, "keep the trained models after they were measured", 2},
    {0},
};

static void take_setting(struct verify_options *o, char *arg, const struct argp_state *state) {
    char *equals = strchr(arg, '=');
    if (!equals || equals == arg)
        argp_error(state, "--heal-set: \"%s\" is not KEY=VALUE", arg);
    if (o->n_heal_settings == VERIFY_MAX_SETTINGS)
        argp_error(state, "more than %d --heal-set", VERIFY_MAX_SETTINGS);
    *equals = 0;
    o->heal_settings[o->n_heal_settings].key = arg;
    o->heal_settings[o->n_heal_settings++].value = equals + 1;
}

static void add(const char **list, size_t *n, const char *what, const char *arg, const struct argp_state *state) {
    if (*n == VERIFY_MAX_ARGUMENTS)
        argp_error(state, "more than %d %s", VERIFY_MAX_ARGUMENTS, what);
    list[(*n)++] = arg;
}

/* MODEL, then corpora and layouts in any order: no corpus ends in .json. */
static void take_argument(struct verify_options *o, char *arg, const struct argp_state *state) {
    size_t n = strlen(arg);
    if (!o->run.model)
        o->run.model = arg;
    else if (n > 5 && strcmp(arg + n - 5, ".json") == 0)
        add(o->layouts, &o->n_layouts, "layouts", arg, state);
    else if (o->corpus.n_corpora == VERIFY_MAX_ARGUMENTS)
        argp_error(state, "more than %d corpora (name a directory instead)", VERIFY_MAX_ARGUMENTS);
    else
        o->corpora[o->corpus.n_corpora++] = arg;
}

static void check_options(const struct verify_options *o, const struct argp_state *state) {
    if (!o->run.model || o->corpus.n_corpora == 0)
        argp_error(state, "a MODEL directory and at least one CORPUS are needed");
    if (!o->output)
        argp_error(state, "where should the runs go? (-o DIR)");
    corpus_check_repeatable(&o->corpus, state);
    if (o->heal_tok > 0 && o->n_heal_corpora == 0)
        argp_error(state, "--heal-tokens: what text to train on? (--heal-corpus)");
    if (o->heal_tok == 0 && (o->n_heal_corpora || o->heal_schedule || o->n_heal_settings || o->keep_models))
        argp_error(state, "options of healing need --heal-tokens N");
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct verify_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->run;
        state->child_inputs[1] = &o->corpus;
        break;
    case 'o': o->output = arg; break;
    case KEY_LAYOUT: add(o->layouts, &o->n_layouts, "layouts", arg, state); break;
    case KEY_POLICY: add(o->policies, &o->n_policies, "policies", arg, state); break;
    case KEY_CSV: o->csv = arg; break;
    case KEY_AGAINST: o->against = arg; break;
    case KEY_RESAMPLES: o->n_resamples = (uint32_t)cli_parse_int(state, "resamples", arg, 1, 10000000); break;
    case KEY_DECODE: o->decode_context = (int)cli_parse_int(state, "decode", arg, 1, 1 << 24); break;
    case KEY_KEEP_LAYOUTS: o->keep_layouts = true; break;
    case KEY_HEAL_TOKENS: o->heal_tok = cli_parse_int(state, "heal-tokens", arg, 1, LLONG_MAX / 2); break;
    case KEY_HEAL_CORPUS: add(o->heal_corpora, &o->n_heal_corpora, "corpora", arg, state); break;
    case KEY_HEAL_SCHEDULE: o->heal_schedule = arg; break;
    case KEY_HEAL_SET: take_setting(o, arg, state); break;
    case KEY_KEEP_MODELS: o->keep_models = true; break;
    case ARGP_KEY_ARG: take_argument(o, arg, state); break;
    case ARGP_KEY_END: check_options(o, state); break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* --- the command ------------------------------------------------------------------------------------------------------ */

static int make_folders(const struct verification *v, struct err *err) {
    static const char *const folders[] = {"layouts", "zero_shot", "healed"};
    int rc = OK;
    for (size_t i = 0; rc == OK && i < (v->options->heal_tok ? 3 : 2); i++) {
        char *path = file_join(v->options->output, folders[i], err);
        rc = path ? file_make_dirs(path, err) : ERR_MEMORY;
        free(path);
    }
    return rc;
}

/* The window of the run: the one that was asked for, or the layouts', or the predictor's. */
static int find_window(struct verification *v, struct err *err) {
    const struct verify_options *o = v->options;
    struct layout *layout = NULL;
    v->window = (uint32_t)v->loaded.policy->base_window;
    for (size_t i = 0; i < o->n_layouts; i++) {
        int rc = layout_read(o->layouts[i], &layout, err);
        if (rc != OK)
            return rc;
        if (i == 0 && !o->run.window)
            v->window = layout->window;
        if (layout->window != v->window || layout->windows)
            cli_note(o->run.quiet, "%s has windows of its own; full attention and the window alone are compared at %u",
                     o->layouts[i], v->window);
        layout_free(layout);
    }
    v->far_from = 2 * v->window;
    return OK;
}

static int list_cases(struct verification *v, struct err *err) {
    const struct verify_options *o = v->options;
    char window[64];
    snprintf(window, sizeof window, "window:window=%u,sinks=%d", v->window, VERIFY_SINKS);
    int rc = verify_add_policy(v, "full", "full", err);
    if (rc == OK)
        rc = verify_add_policy(v, "window", window, err);
    if (rc == OK && v->loaded.model->predictor)
        rc = verify_add_policy(v, "spkv", "spkv", err);
    for (size_t i = 0; rc == OK && i < o->n_policies; i++)
        rc = verify_add_policy(v, o->policies[i], o->policies[i], err);
    for (size_t i = 0; rc == OK && i < o->n_layouts; i++)
        rc = verify_add_layout(v, o->layouts[i], err);
    if (rc == OK && o->against && !verify_find(v, o->against))
        rc = err_set(err, ERR_USAGE, "", "--against: there is no case \"%s\" (a layout's is the name of its file without "
                     ".json)", o->against);
    return rc;
}

/* After the first run the others can be foretold. */
static void say_time(const struct verification *v, double seconds) {
    char text[32];
    clock_format_duration(seconds * (double)(v->n - 1), text);
    if (seconds > 1)
        cli_note(v->options->run.quiet, "%zu more runs of the same text, about %s%s", v->n - 1, text,
                 v->options->heal_tok ? "; then the trainings" : "");
}

static int measure_all(struct verification *v, struct err *err) {
    int rc = OK;
    for (size_t i = 0; rc == OK && i < v->n; i++) {
        uint64_t start = clock_us();
        if (!v->options->run.quiet)
            fprintf(stderr, "verify: %s, %zu of %zu\n", v->cases[i].name, i + 1, v->n);
        rc = verify_measure(v, &v->loaded, &v->cases[i], COLUMN_ZERO_SHOT, err);
        if (rc == OK && i == 0 && v->n > 1)
            say_time(v, (double)(clock_us() - start) * 1e-6);
    }
    return rc == OK ? verify_compare(v, COLUMN_ZERO_SHOT, err) : rc;
}

static void find_chosen_here(struct verification *v) {
    for (size_t i = 0; i < v->n; i++) {
        struct verify_case *c = &v->cases[i];
        c->chosen_here = c->layout && layout_chosen_on(c->layout, v->text.file_hashes);
        if (c->chosen_here)
            cli_note(false, "%s was chosen on files of this text: its figures flatter it (verify on other documents)",
                     c->layout_path);
    }
}

static int write_results(struct verification *v, struct err *err) {
    const struct verify_options *o = v->options;
    int rc = OK;
    for (size_t i = 0; rc == OK && i < v->n && !o->keep_layouts; i++)
        if (v->cases[i].layout)
            rc = verify_write_layout(v, &v->cases[i], err);
    if (rc == OK && o->csv)
        rc = verify_write_csv(v, o->csv, err);
    if (rc == OK && v->cases[CASE_FULL].figures[COLUMN_ZERO_SHOT].losses.n < BOOTSTRAP_FEW_DOCUMENTS)
        cli_note(o->run.quiet, "fewer than %d documents: the intervals say little", BOOTSTRAP_FEW_DOCUMENTS);
    if (rc == OK)
        (o->run.json ? verify_print_json : verify_print_text)(v);
    return rc == OK ? cli_finish_stdout(err) : rc;
}

static int verify(struct verification *v, struct err *err) {
    const struct verify_options *o = v->options;
    int rc = OK;
    if (o->csv && !o->corpus.resume)
        rc = file_check_free(o->csv, o->corpus.force, err);
    if (rc == OK)
        rc = loaded_open(&o->run, true, &v->loaded, err);
    if (rc == OK)
        rc = find_window(v, err);
    if (rc == OK)
        rc = make_folders(v, err);
    if (rc == OK)
        rc = list_cases(v, err);
    if (rc == OK)
        rc = measure_all(v, err);
    if (rc == OK)
        find_chosen_here(v);
    if (rc == OK && o->heal_tok)
        rc = verify_heal(v, err);
    if (rc == OK)
        rc = write_results(v, err);
    if (rc == ERR_INCOMPLETE)
        cli_note(false, "what was finished lies in %s; the same command with --resume goes on from there", o->output);
    verify_free_cases(v);
    loaded_close(&v->loaded);
    return rc;
}

int cmd_verify(int argc, char **argv) {
    static const struct argp_child children[] = {{&run_model_argp, 0, "Model:", 5},
                                                 {&corpus_options_argp, 0, "Corpus and run:", 6}, {0}};
    static const struct argp argp = {argp_options,
                                     parse,
                                     "MODEL CORPUS... LAYOUT.json...",
                                     "Measures layouts on a text beside full attention, the window with 4 sinks and, where "
                                     "the model has a predictor, SP-KV: loss with intervals over documents, the share of "
                                     "the gap that they recover, what is read and held. The figures go into the layouts' "
                                     "files, zero-shot and healed apart.",
                                     children,
                                     NULL,
                                     NULL};
    struct verify_options *o = calloc(1, sizeof *o);
    struct verification v = {.options = o, .command = cli_command_line(argc, argv), .rank_correlation = NAN,
                             .gap = {NAN, NAN}};
    struct err err = {0};
    if (!o || !v.command) {
        err_memory(&err, "options", sizeof *o);
    } else {
        o->run = run_options_default();
        o->n_resamples = PAIRED_RESAMPLES;
        o->corpus.corpora = o->corpora;
        argp_parse(&argp, argc, argv, 0, NULL, o);
        verify(&v, &err);
    }
    free(v.command);
    free(o);
    return cli_report(&err);
}
