/* spkv profile: runs corpora through a model under a policy and writes run.h5. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/profile_meta.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/rank.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/run_corpus.h"
#include "cli/run_options.h"

enum { MAX_CORPORA = 4096 };

struct profile_options {
    struct run_options_cli run;
    struct corpus_options_cli corpus;
    const char *output, *record;
    char *corpora[MAX_CORPORA];
};

enum { KEY_RECORD = 0x400 };

static const struct argp_option argp_options[] = {
    {"output", 'o', "FILE", 0, "the run file (required)", 1},
    {"record", KEY_RECORD, "LIST", 0, "heads, positions (always); classes, tokens, utility, utility:u8, open, attention "
     "(default for a dense checkpoint: attention), oracle (with tokens, policy full: attention that a token gets from "
     "outside its window)", 1},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct profile_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->run;
        state->child_inputs[1] = &o->corpus;
        break;
    case 'o': o->output = arg; break;
    case KEY_RECORD: o->record = arg; break;
    case ARGP_KEY_ARG:
        if (!o->run.model)
            o->run.model = arg;
        else if (o->corpus.n_corpora == MAX_CORPORA)
            argp_error(state, "more than %d corpora (name a directory instead)", MAX_CORPORA);
        else
            o->corpora[o->corpus.n_corpora++] = arg;
        break;
    case ARGP_KEY_END:
        if (!o->run.model || o->corpus.n_corpora == 0)
            argp_error(state, "a MODEL directory and at least one CORPUS are needed");
        if (!o->output)
            argp_error(state, "where should the record go? (-o run.h5)");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

struct record_name {
    const char *name;
    unsigned bit;
};

static const struct record_name record_names[] = {
    {"heads", 0}, {"positions", 0}, {"classes", PROFILE_RECORD_CLASSES}, {"tokens", PROFILE_RECORD_TOKENS},
    {"utility", PROFILE_RECORD_UTILITY}, {"utility:u8", PROFILE_RECORD_UTILITY_U8}, {"open", PROFILE_RECORD_OPEN},
    {"attention", PROFILE_RECORD_ATTENTION}, {"oracle", PROFILE_RECORD_ORACLE},
};

static int parse_record(const char *list, unsigned *record, struct err *err) {
    while (*list) {
        size_t n = strcspn(list, ","), i = 0, n_names = sizeof record_names / sizeof *record_names;
        while (i < n_names && !(strlen(record_names[i].name) == n && strncmp(list, record_names[i].name, n) == 0))
            i++;
        if (i == n_names)
            return err_set(err, ERR_USAGE, "",
                           "--record: \"%.*s\" is not heads, positions, classes, tokens, utility, utility:u8, "
                           "open, attention or oracle",
                           (int)n, list);
        *record |= record_names[i].bit;
        list += n + (list[n] == ',');
    }
    return OK;
}

/* Drops what the policy cannot give, and says so. */
static unsigned possible(unsigned record, const struct policy *policy, bool quiet) {
    const unsigned utility = PROFILE_RECORD_UTILITY | PROFILE_RECORD_UTILITY_U8;
    if (record & utility && policy->scores == SCORE_NONE) {
        cli_note(quiet, "policy %s has no utility scores: none are recorded", policy->name);
        record &= ~utility;
    }
    if (record & PROFILE_RECORD_UTILITY_U8 && policy->scores == SCORE_REAL) {
        cli_note(quiet, "utility:u8 needs scores between 0 and 1: utilities are recorded as f32");
        record = (record & ~utility) | PROFILE_RECORD_UTILITY;
    }
    if (record & PROFILE_RECORD_OPEN && !policy->gated) {
        cli_note(quiet, "policy %s has no gates: none are recorded", policy->name);
        record &= ~(unsigned)PROFILE_RECORD_OPEN;
    }
    if (record & PROFILE_RECORD_ATTENTION && strcmp(policy->name, "full") != 0) {
        cli_note(quiet, "far attention is measured under policy full only: not recorded under %s", policy->name);
        record &= ~(unsigned)PROFILE_RECORD_ATTENTION;
    }
    if (record & PROFILE_RECORD_ORACLE && strcmp(policy->name, "full") != 0) {
        cli_note(quiet, "future attention (oracle) is measured under policy full only: not recorded under %s", policy->name);
        record &= ~(unsigned)PROFILE_RECORD_ORACLE;
    }
    return record;
}

static double ratio(uint64_t a, uint64_t b) {
    return b ? (double)a / (double)b : (double)NAN;
}

static void print_json(const struct profile_options *o, const struct loaded *l, const struct corpus_result *r) {
    const struct run_totals *t = &r->totals;
    json_t *root = json_pack("{s:s, s:i, s:s, s:s, s:I, s:I, s:I, s:o, s:o, s:I, s:o, s:o, s:o, s:f, s:f}", "schema", "spkv-profile",
                             "version", 1, "output", o->output, "policy", l->policy->name, "n_sequences",
                             (json_int_t)t->n_sequences, "n_tok", (json_int_t)t->n_tok, "n_predicted",
                             (json_int_t)t->n_predicted, "nll_nat_per_token", json_finite(t->nll_sum / (double)t->n_predicted),
                             "argmax_share", json_finite(ratio(r->n_argmax, t->n_predicted)), "n_answers",
                             (json_int_t)r->n_answers, "answers_exact", json_finite(ratio(r->n_exact, r->n_answers)),
                             "long_range_density", json_finite(ratio(r->n_kept, r->n_left_window)), "read_fraction",
                             json_finite(ratio(r->visible_pairs, r->causal_pairs)), "seconds", r->seconds, "model_seconds",
                             (double)t->model_us * 1e-6);
    json_dumpf(root, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(root);
}

static void print_text(const struct profile_options *o, const struct loaded *l, const struct corpus_result *r) {
    const struct run_totals *t = &r->totals;
    char duration[32];
    clock_format_duration(r->seconds, duration);
    printf("%s: %llu sequences, %llu tokens in %s (%.0f tok/s)\n", o->output, (unsigned long long)t->n_sequences,
           (unsigned long long)t->n_tok, duration, t->model_us ? (double)t->n_tok * 1e6 / (double)t->model_us : 0.0);
    printf("  policy %s%s, loss %.4f nat/token", l->policy->name, l->policy->fitted ? ", predictor " PREDICTOR_FITTED : "",
           t->n_predicted ? t->nll_sum / (double)t->n_predicted : (double)NAN);
    if (r->n_left_window)
        printf(", long-range density %.1f %%", 100 * ratio(r->n_kept, r->n_left_window));
    printf(", read fraction %.1f %%\n", 100 * ratio(r->visible_pairs, r->causal_pairs));
    if (r->n_answers)
        printf("  answers exact %.1f %% of %llu\n", 100 * ratio(r->n_exact, r->n_answers), (unsigned long long)r->n_answers);
    printf("  next: spkv show %s\n", o->output);
}

static int profile(struct profile_options *o, const char *command, struct err *err) {
    struct loaded l;
    struct corpus_result result;
    unsigned record = 0;
    int rc = parse_record(o->record ? o->record : "", &record, err);
    if (rc == OK)
        rc = loaded_open(&o->run, true, &l, err);
    if (rc != OK)
        return rc;
    if (!o->record && !l.model->predictor && strcmp(l.policy->name, "full") == 0)
        record = PROFILE_RECORD_ATTENTION;
    record = possible(record, l.policy, o->run.quiet);
    rc = run_corpus(&o->run, &o->corpus, &l, record, o->output, command, &result, err);
    if (rc == OK && result.nothing_to_do)
        cli_note(o->run.quiet, "%s is complete already", o->output);
    else if (rc == OK) {
        if (result.n_skipped_files)
            cli_note(o->run.quiet, "%llu files of other types were left out", (unsigned long long)result.n_skipped_files);
        (o->run.json ? print_json : print_text)(o, &l, &result);
        rc = cli_finish_stdout(err);
    } else if (rc == ERR_INCOMPLETE)
        cli_note(false, "what was finished lies in %s.part; the same command with --resume goes on from there", o->output);
    loaded_close(&l);
    return rc;
}

/* Without --shard, one of several processes runs its part into a file of its own, whose name goes into `own`. */
static int take_part(struct profile_options *o, struct str *own, struct err *err) {
    struct rank rank;
    if (o->corpus.shard_given)
        return OK;
    int rc = rank_find(getenv, &rank, err);
    if (rc != OK || rank.size == 1)
        return rc;
    rank_put_name(o->output, rank.rank, rank.size, own);
    if (own->failed)
        return err_memory(err, "a path", own->len);
    cli_note(o->run.quiet, "shard %d of %d (%s) goes into %s; spkv merge joins them, --shard 0/1 runs everything here",
             rank.rank, rank.size, rank.source, own->data);
    o->output = own->data;
    o->corpus.shard = rank.rank;
    o->corpus.n_shards = rank.size;
    o->corpus.shard_given = true;
    return OK;
}

int cmd_profile(int argc, char **argv) {
    static const struct argp_child children[] = {{&run_options_argp, 0, "Model and policy:", 5},
                                                 {&corpus_options_argp, 0, "Corpus and run:", 6}, {0}};
    static const struct argp argp = {argp_options,
                                     parse,
                                     "MODEL CORPUS...",
                                     "Runs corpora (.txt, .jsonl, each also .gz or .zst, directories, - for standard input) "
                                     "through a model and records, per "
                                     "layer and KV head, what its cache keeps.\v"
                                     "Started as several processes (mpirun, srun, an array of Slurm) each one runs its shard "
                                     "into a file of its own: run.h5 becomes run.0-of-4.h5 and so on, which spkv merge joins.",
                                     children,
                                     NULL,
                                     NULL};
    struct profile_options *o = calloc(1, sizeof *o);
    struct err err = {0};
    struct str own = {0};
    char *command = cli_command_line(argc, argv);
    if (!o || !command) {
        err_memory(&err, "options", sizeof *o);
    } else {
        o->run = run_options_default();
        o->corpus.corpora = o->corpora;
        argp_parse(&argp, argc, argv, 0, NULL, o);
        if (take_part(o, &own, &err) == OK)
            profile(o, command, &err);
    }
    str_free(&own);
    free(command);
    free(o);
    return cli_report(&err);
}
