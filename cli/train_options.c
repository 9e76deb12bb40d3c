#include "cli/train_options.h"

#include <argp.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/cli.h"

enum { MAX_KEYS = 64 };

enum {
    KEY_SCHEDULE = 0x500,
    KEY_FREEZE,
    KEY_STATIC,
    KEY_LORA,
    KEY_BATCH_TOK,
    KEY_NEW_PREDICTOR,
    KEY_TOKENIZER,
    KEY_FIELD,
    KEY_SPLIT,
    KEY_EVAL,
    KEY_EVAL_SEQUENCES,
    KEY_DTYPE,
    KEY_COMPUTE,
    KEY_BACKEND,
    KEY_THREADS,
    KEY_FORCE,
    KEY_JSON,
    KEY_FIELDS /* the first key of the schedule; the others follow */
};

static const struct argp_option argp_options[] = {
    {"output", 'o', "OUT", 0, "directory of the run (required)", 1},
    {"eval", KEY_EVAL, "CORPUS", 0, "held-out text, evaluated with hard gates and with full attention; may be repeated", 1},
    {"eval-sequences", KEY_EVAL_SEQUENCES, "N", 0, "of the held-out text at most (64); 0 = all", 1},
    {"field", KEY_FIELD, "NAME", 0, "JSON Lines: the field that holds the text (found from the first row)", 1},
    {"split-blank", KEY_SPLIT, NULL, 0, "a blank line ends a document of a text file", 1},
    {"tokenizer", KEY_TOKENIZER, "FILE", 0, "pretrain: a tokenizer.json (the one beside the configuration)", 1},
    {"schedule", KEY_SCHEDULE, "FILE", 0, "a schedule as JSON; the options below win over it", 2},
    {"freeze-model", KEY_FREEZE, NULL, 0, "train the predictor only (--trained predictor)", 2},
    {"lora", KEY_LORA, "R", 0, "train low-rank updates of rank R with the predictor, weights frozen "
     "(--trained lora --lora-r R)", 2},
    {"static-gates", KEY_STATIC, "head|layer", OPTION_ARG_OPTIONAL,
     "one gate per KV head (or layer) in place of a predictor, the model frozen: which heads must be global?", 2},
    {"batch-tok", KEY_BATCH_TOK, "N", 0, "tokens a step, in place of --sequences", 2},
    {"new-predictor", KEY_NEW_PREDICTOR, NULL, 0, "adapt: begin with a new predictor where the model has one", 2},
    {"dtype", KEY_DTYPE, "bf16|f32", 0, "of the saved weights (bf16; the masters are kept in f32 beside them)", 11},
    {"compute", KEY_COMPUTE, "f32|bf16", 0, "of matrix operands (f32)", 11},
    {"backend", KEY_BACKEND, "auto|ref|cpu", 0, "where to compute (auto)", 11},
    {"threads", KEY_THREADS, "N", 0, "processor threads (all)", 11},
    {"force", KEY_FORCE, NULL, 0, "replace the run in OUT", 12},
    {"quiet", 'q', NULL, 0, "no progress and no notes", 12},
    {"json", KEY_JSON, NULL, 0, "machine-readable result on standard output", 12},
    {0},
};

const char *protocol_name(enum protocol protocol) {
    static const char *const names[] = {"", "pretrain", "adapt", "resume"};
    return names[protocol];
}

static void set(struct train_options *o, const struct argp_state *state, const char *key, const char *value) {
    if (o->n_settings == TRAIN_MAX_SETTINGS)
        argp_error(state, "more than %d options of the schedule", TRAIN_MAX_SETTINGS);
    o->settings[o->n_settings].key = key;
    o->settings[o->n_settings++].value = value;
}

static void set_static(struct train_options *o, const struct argp_state *state, const char *arg) {
    const char *what = cli_parse_choice(state, "static-gates", arg ? arg : "head", "head|layer");
    set(o, state, "predictor_kind", strcmp(what, "layer") == 0 ? "static-layer" : "static");
    set(o, state, "trained", "predictor");
}

static void take_argument(struct train_options *o, const struct argp_state *state, char *arg) {
    if (o->protocol == PROTOCOL_NONE) {
        for (enum protocol p = PROTOCOL_PRETRAIN; p <= PROTOCOL_RESUME; p++)
            if (strcmp(arg, protocol_name(p)) == 0)
                o->protocol = p;
        if (o->protocol == PROTOCOL_NONE)
            argp_error(state, "\"%s\" is not one of pretrain, adapt, resume", arg);
    } else if (o->protocol == PROTOCOL_RESUME) {
        if (o->output)
            argp_error(state, "resume takes one directory, and everything else from the run in it");
        o->output = arg;
    } else if (!o->model) {
        o->model = arg;
    } else if (o->n_corpora == TRAIN_MAX_CORPORA) {
        argp_error(state, "more than %d corpora (name a directory instead)", TRAIN_MAX_CORPORA);
    } else {
        o->corpora[o->n_corpora++] = arg;
    }
}

static void check_arguments(const struct train_options *o, const struct argp_state *state) {
    if (o->protocol == PROTOCOL_NONE)
        argp_error(state, "what is to be done? (pretrain, adapt or resume)");
    if (!o->output)
        argp_error(state, o->protocol == PROTOCOL_RESUME ? "which run? (spkv train resume OUT)"
                                                         : "where should the model go? (-o OUT)");
    if (o->protocol == PROTOCOL_RESUME && (o->n_settings || o->schedule_file || o->batch_tok || o->n_eval || o->tokenizer ||
                                           o->field || o->split_blank || o->new_predictor || o->force))
        argp_error(state, "resume goes on with the corpora and the schedule of the run: of the options only --threads, "
                          "--quiet and --json can be given");
    if (o->protocol != PROTOCOL_RESUME && (!o->model || o->n_corpora == 0))
        argp_error(state, "%s and at least one CORPUS are needed",
                   o->protocol == PROTOCOL_PRETRAIN ? "a CONFIG.json" : "a MODEL directory");
    if (o->protocol == PROTOCOL_ADAPT && o->tokenizer)
        argp_error(state, "--tokenizer: a model that is adapted has one");
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct train_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = o; break;
    case 'o': o->output = arg; break;
    case KEY_EVAL:
        if (o->n_eval == TRAIN_MAX_CORPORA)
            argp_error(state, "more than %d corpora (name a directory instead)", TRAIN_MAX_CORPORA);
        o->eval[o->n_eval++] = arg;
        break;
    case KEY_EVAL_SEQUENCES: o->eval_sequences = cli_parse_int(state, "eval-sequences", arg, 0, INT_MAX); break;
    case KEY_FIELD: o->field = arg; break;
    case KEY_SPLIT: o->split_blank = true; break;
    case KEY_TOKENIZER: o->tokenizer = arg; break;
    case KEY_SCHEDULE: o->schedule_file = arg; break;
    case KEY_FREEZE: set(o, state, "trained", "predictor"); break;
    case KEY_LORA:
        set(o, state, "trained", "lora");
        set(o, state, "lora_r", arg);
        break;
    case KEY_STATIC: set_static(o, state, arg); break;
    case KEY_BATCH_TOK: o->batch_tok = cli_parse_int(state, "batch-tok", arg, 1, LLONG_MAX); break;
    case KEY_NEW_PREDICTOR: o->new_predictor = true; break;
    case KEY_DTYPE: o->dtype = cli_parse_choice(state, "dtype", arg, "bf16|f32"); break;
    case KEY_COMPUTE: o->compute = cli_parse_choice(state, "compute", arg, "f32|bf16"); break;
    case KEY_BACKEND: o->backend = cli_parse_choice(state, "backend", arg, "auto|ref|cpu"); break;
    case KEY_THREADS: o->threads = (int)cli_parse_int(state, "threads", arg, 1, 1024); break;
    case KEY_FORCE: o->force = true; break;
    case KEY_JSON: o->json = true; break;
    case 'q': o->quiet = true; break;
    case ARGP_KEY_ARG: take_argument(o, state, arg); break;
    case ARGP_KEY_END: check_arguments(o, state); break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static error_t parse_field(int key, char *arg, struct argp_state *state) {
    if (key < KEY_FIELDS || (size_t)(key - KEY_FIELDS) >= schedule_n_keys())
        return ARGP_ERR_UNKNOWN;
    set(state->input, state, schedule_key((size_t)(key - KEY_FIELDS))->name, arg ? arg : "true");
    return 0;
}

/* An option for every key of a schedule: learning_rate is --learning-rate. */
static void list_fields(char names[MAX_KEYS][32], struct argp_option list[MAX_KEYS]) {
    ASSERT(schedule_n_keys() < MAX_KEYS);
    for (size_t i = 0; i < schedule_n_keys(); i++) {
        const struct schedule_key *key = schedule_key(i);
        snprintf(names[i], sizeof names[i], "%s", key->name);
        for (char *p = names[i]; *p; p++)
            *p = *p == '_' ? '-' : *p;
        list[i] = (struct argp_option){.name = names[i], .key = KEY_FIELDS + (int)i, .arg = key->flag ? "true|false" : "X",
                                       .flags = key->flag ? OPTION_ARG_OPTIONAL : 0, .doc = key->help, .group = 5};
    }
    list[schedule_n_keys()] = (struct argp_option){0};
}

void train_options_parse(int argc, char **argv, struct train_options *o) {
    static const char usage[] = "pretrain CONFIG.json|DIR CORPUS[:WEIGHT]... -o OUT\n"
                                "adapt MODEL CORPUS[:WEIGHT]... -o OUT\n"
                                "resume OUT";
    static const char about[] =
        "Makes SP-KV models by next-token loss: from random weights, or from a dense checkpoint. Gates are soft at first, "
        "then annealed to hard ones. The model, a Hugging Face directory, and the state of the optimizer are saved as "
        "OUT/checkpoint; a run that was killed goes on with resume, bit for bit.\v"
        "Corpora are read as by spkv profile. With weights, tokens are drawn from every corpus by its share; without, from "
        "all as one. docs/training.md describes the schedule.";
    char names[MAX_KEYS][32];
    struct argp_option list[MAX_KEYS];
    const struct argp fields = {list, parse_field, NULL, NULL, NULL, NULL, NULL};
    const struct argp_child children[] = {{&fields, 0, "Schedule (keys of the file, with their defaults):", 3}, {0}};
    const struct argp argp = {argp_options, parse, usage, about, children, NULL, NULL};
    *o = (struct train_options){.eval_sequences = 64, .dtype = "bf16", .compute = "f32", .backend = "auto"};
    list_fields(names, list);
    argp_parse(&argp, argc, argv, 0, NULL, o);
}

/* Where the path begins in "NAME:...file=PATH...", or NULL. */
static char *find_path(char *policy) {
    for (char *p = strchr(policy, ':'); p; p = strchr(p + 1, ','))
        if (strncmp(p + 1, "file=", 5) == 0)
            return p + 6;
    return NULL;
}

/* The run may be resumed from another folder: the file of a policy gets its absolute path. */
static int make_path_absolute(struct schedule *s, const char *where, struct err *err) {
    char *path = find_path(s->policy), *given, *absolute;
    struct str policy = {0};
    int rc = OK;
    if (!path)
        return OK;
    size_t n = strcspn(path, ",");
    if (!(given = mem_strndup(path, n, err)))
        return ERR_MEMORY;
    if (!(absolute = realpath(given, NULL)))
        rc = err_errno(err, errno, given, "cannot be read");
    else
        str_printf(&policy, "%.*s%s%s", (int)(path - s->policy), s->policy, absolute, path + n);
    if (rc == OK && (policy.failed || policy.len >= sizeof s->policy || strchr(absolute, ',')))
        rc = err_set(err, ERR_INPUT, where, "the path in \"policy\" is too long, or has a comma (%s): move the file",
                     absolute);
    if (rc == OK) {
        memset(s->policy, 0, sizeof s->policy); /* schedules are compared as bytes */
        memcpy(s->policy, policy.data, policy.len);
    }
    str_free(&policy);
    free(absolute);
    free(given);
    return rc;
}

const char *train_options_policy_file(const struct train_options *o) {
    for (size_t i = 0; i < o->n_settings; i++)
        if (strcmp(o->settings[i].key, "policy") == 0)
            return NULL;
    return o->schedule_file;
}

/* The file and the settings over what is there. */
static int apply(const struct train_options *o, struct schedule *s, struct err *err) {
    int rc = OK;
    if (o->schedule_file)
        rc = schedule_read(o->schedule_file, s, err);
    for (size_t i = 0; rc == OK && i < o->n_settings; i++)
        rc = schedule_set(s, o->settings[i].key, o->settings[i].value, err);
    return rc;
}

int train_options_schedule(const struct train_options *o, struct schedule *s, struct err *err) {
    *s = schedule_default();
    int rc = apply(o, s, err);
    if (rc == OK && s->target == TARGET_ORACLE) { /* which has other defaults */
        *s = schedule_default_oracle();
        rc = apply(o, s, err);
    }
    if (rc == OK && o->batch_tok > 0 && o->batch_tok < s->context_len)
        rc = err_set(err, ERR_USAGE, "", "--batch-tok: %lld tokens are less than one sequence of %d",
                     (long long)o->batch_tok, s->context_len);
    if (rc == OK && o->batch_tok / s->context_len > INT_MAX / 2)
        rc = err_set(err, ERR_USAGE, "", "--batch-tok: %lld tokens a step are too many", (long long)o->batch_tok);
    if (rc == OK && o->batch_tok > 0)
        s->sequences = (int)(o->batch_tok / s->context_len);
    if (rc == OK)
        rc = make_path_absolute(s, o->schedule_file ? o->schedule_file : "", err);
    return rc == OK ? schedule_check(s, o->schedule_file ? o->schedule_file : "", err) : rc;
}
