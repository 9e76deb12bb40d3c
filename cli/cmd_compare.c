/* spkv compare: pruning policies on one text at matched read fraction, on the weights that are fair to each. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/bootstrap.h"
#include "base/file.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/compare.h"

enum { KEY_TWIN = 0x700, KEY_POLICIES, KEY_MATCH, KEY_AT, KEY_CALIBRATE, KEY_CALIBRATE_LIMIT, KEY_TOLERANCE, KEY_RESAMPLES };

static const struct argp_option argp_options[] = {
    {"output", 'o', "DIR", 0, "directory of tables and run files (required); --resume goes on with what is there", 1},
    {"twin", KEY_TWIN, "MODEL", 0, "dense twin of a model with a predictor: policies for dense models run on it, and every "
     "percentage is against its full attention", 1},
    {"policies", KEY_POLICIES, "NAME[:KEY=VALUE,...],...", 0, "what to compare (window, random, and spkv where there is a "
     "predictor); window and random are always there", 1},
    {"match", KEY_MATCH, "read-fraction=X|spkv", 0, "the share of causal pairs that each policy shall read, or what SP-KV "
     "reads at its threshold (the default where there is a predictor)", 1},
    {"at", KEY_AT, "X,...", 0, "several read fractions, for a figure with one line a policy", 1},
    {"calibrate", KEY_CALIBRATE, "CORPUS", 0, "text to find each policy's setting on; may be repeated (every fifth "
     "document, which is then not measured)", 1},
    {"calibrate-limit", KEY_CALIBRATE_LIMIT, "N", 0, "sequences of it at most (32)", 1},
    {"tolerance", KEY_TOLERANCE, "X", 0, "a row whose read fraction is off by more, relative, is not matched (0.01)", 1},
    {"resamples", KEY_RESAMPLES, "N", 0, "of the documents, for intervals (2000)", 1},
    {0},
};

static void add(char **list, size_t *n, const char *what, char *arg, const struct argp_state *state) {
    if (*n == COMPARE_MAX_ARGUMENTS)
        argp_error(state, "more than %d %s (name a directory instead)", COMPARE_MAX_ARGUMENTS, what);
    list[(*n)++] = arg;
}

static void add_fraction(struct compare_options *o, const char *option, const char *text, const struct argp_state *state) {
    double x = cli_parse_real(state, option, text, 0, 1);
    if (!(x > 0))
        argp_error(state, "--%s: a read fraction is above 0 and at most 1", option);
    if (o->n_fractions == COMPARE_MAX_FRACTIONS)
        argp_error(state, "more than %d read fractions", COMPARE_MAX_FRACTIONS);
    o->fractions[o->n_fractions++] = x;
}

static void take_match(struct compare_options *o, const char *arg, const struct argp_state *state) {
    static const char prefix[] = "read-fraction=";
    if (strcmp(arg, "spkv") == 0)
        o->match_spkv = true;
    else if (strncmp(arg, prefix, sizeof prefix - 1) == 0)
        add_fraction(o, "match", arg + sizeof prefix - 1, state);
    else
        argp_error(state, "--match: \"%s\" is neither read-fraction=X nor spkv", arg);
}

static void take_list(struct compare_options *o, char *arg, const struct argp_state *state) {
    for (char *item = arg, *comma; item; item = comma) {
        if ((comma = strchr(item, ',')))
            *comma = 0;
        add_fraction(o, "at", item, state);
        if (comma)
            *comma++ = ','; /* the command line is recorded */
    }
}

static void check_options(const struct compare_options *o, const struct argp_state *state) {
    if (!o->run.model || o->corpus.n_corpora == 0)
        argp_error(state, "a MODEL directory and at least one CORPUS are needed");
    if (!o->output)
        argp_error(state, "where should tables and runs go? (-o DIR)");
    corpus_check_repeatable(&o->corpus, state);
    for (size_t i = 0; i < o->n_calibrate; i++)
        if (strcmp(o->calibrate[i], "-") == 0)
            argp_error(state, "--calibrate: standard input can be read only once: give a file");
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct compare_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->run;
        state->child_inputs[1] = &o->corpus;
        break;
    case 'o': o->output = arg; break;
    case KEY_TWIN: o->twin = arg; break;
    case KEY_POLICIES: o->policies = arg; break;
    case KEY_MATCH: take_match(o, arg, state); break;
    case KEY_AT: take_list(o, arg, state); break;
    case KEY_CALIBRATE: add(o->calibrate, &o->n_calibrate, "corpora", arg, state); break;
    case KEY_CALIBRATE_LIMIT:
        o->calibrate_limit = (uint64_t)cli_parse_int(state, "calibrate-limit", arg, 1, 1 << 30);
        break;
    case KEY_TOLERANCE: o->tolerance = cli_parse_real(state, "tolerance", arg, 1e-6, 1); break;
    case KEY_RESAMPLES: o->n_resamples = (uint32_t)cli_parse_int(state, "resamples", arg, 1, 10000000); break;
    case ARGP_KEY_ARG:
        if (!o->run.model)
            o->run.model = arg;
        else
            add(o->corpora, &o->corpus.n_corpora, "corpora", arg, state);
        break;
    case ARGP_KEY_END: check_options(o, state); break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* --- the command ------------------------------------------------------------------------------------------------------ */

/* What was not said depends on the model. */
static int complete_options(struct compare_options *o, const struct policy_comparison *c, struct err *err) {
    bool predictor = c->own != NULL;
    if (o->match_spkv && !predictor)
        return err_set(err, ERR_USAGE, "", "--match spkv: %s has no predictor (use --match read-fraction=X)", o->run.model);
    if (!predictor && o->n_fractions == 0)
        return err_set(err, ERR_USAGE, "", "%s has no predictor whose read fraction others could be matched to: say which "
                       "(--match read-fraction=X or --at X,...)", o->run.model);
    if (o->n_fractions == 0)
        o->match_spkv = true;
    if (!o->policies)
        o->policies = predictor ? "window,random,spkv" : "window,random";
    return OK;
}

static int make_folders(const struct compare_options *o, struct err *err) {
    static const char *const folders[] = {"runs", "calibration"};
    int rc = OK;
    for (size_t i = 0; rc == OK && i < 2; i++) {
        char *path = file_join(o->output, folders[i], err);
        rc = path ? file_make_dirs(path, err) : ERR_MEMORY;
        if (rc == OK && !o->corpus.resume && !o->corpus.force && !file_dir_is_empty(path))
            rc = err_set(err, ERR_EXISTS, o->output, "holds an earlier comparison: --resume goes on with it, --force drops "
                         "it");
        free(path);
    }
    return rc;
}

static int write_results(const struct policy_comparison *c, struct err *err) {
    int rc = compare_write(c, err);
    if (rc == OK && c->rows[ROW_FULL].figures.losses.n < BOOTSTRAP_FEW_DOCUMENTS)
        cli_note(c->options->run.quiet, "fewer than %d documents: the intervals say little", BOOTSTRAP_FEW_DOCUMENTS);
    if (rc == OK && c->options->run.json) {
        json_t *root = compare_json(c);
        json_dumpf(root, stdout, JSON_INDENT(1));
        putchar('\n');
        json_decref(root);
    } else if (rc == OK) {
        compare_print(c);
    }
    return rc == OK ? cli_finish_stdout(err) : rc;
}

static int compare(struct compare_options *o, struct policy_comparison *c, struct err *err) {
    int rc = compare_open(c, err);
    if (rc == OK)
        rc = complete_options(o, c, err);
    if (rc == OK)
        rc = compare_list_policies(c, err);
    if (rc == OK)
        rc = make_folders(o, err);
    if (rc == OK)
        rc = compare_begin_calibration(c, err);
    if (rc == OK)
        rc = compare_measure(c, err);
    if (rc == OK)
        rc = write_results(c, err);
    if (rc == ERR_INCOMPLETE)
        cli_note(false, "what was finished lies in %s; the same command with --resume goes on from there", o->output);
    if (rc == ERR_INPUT && o->corpus.resume)
        cli_note(false, "--resume needs the texts and options that %s was begun with (--force begins anew); a file there "
                 "that is damaged can be removed by itself", o->output);
    compare_close(c);
    return rc;
}

int cmd_compare(int argc, char **argv) {
    static const struct argp_child children[] = {{&run_model_argp, 0, "Model:", 5},
                                                 {&corpus_options_argp, 0, "Corpus and run:", 6}, {0}};
    static const struct argp argp = {argp_options,
                                     parse,
                                     "MODEL CORPUS...",
                                     "Compares pruning policies at matched cost: each one's setting is found on one text so "
                                     "that it reads the wanted share of query-key pairs, and measured on another, all of "
                                     "them on the same sequences: loss with intervals over documents, the share of the gap "
                                     "between the window and full attention that is recovered, what is read and held.",
                                     children,
                                     NULL,
                                     NULL};
    struct compare_options *o = calloc(1, sizeof *o);
    struct policy_comparison c = {.options = o, .command = cli_command_line(argc, argv), .gap = NAN};
    struct err err = {0};
    if (!o || !c.command) {
        err_memory(&err, "options", sizeof *o);
    } else {
        o->run = run_options_default();
        o->n_resamples = PAIRED_RESAMPLES;
        o->tolerance = 0.01;
        o->calibrate_limit = CALIBRATE_LIMIT;
        o->corpus.corpora = o->corpora;
        argp_parse(&argp, argc, argv, 0, NULL, o);
        compare(o, &c, &err);
    }
    free(c.command);
    free(o);
    return cli_report(&err);
}
