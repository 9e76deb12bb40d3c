/* spkv train: pretrain, adapt, resume. */
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/progress.h"
#include "cli/cli.h"
#include "cli/run_options.h"
#include "cli/train_run.h"
#include "datasets/corpus.h"
#include "datasets/sequences.h"
#include "train/init.h"
#include "train/trainer.h"

enum { KEY_SCHEDULE = 0x100, KEY_EVAL, KEY_EVAL_LIMIT, KEY_FREEZE, KEY_STATIC, KEY_LORA, KEY_DTYPE, KEY_TOKENIZER,
       KEY_FIELD, KEY_SPLIT, KEY_BACKEND, KEY_THREADS, KEY_FORCE, KEY_JSON, KEY_FIELD_OF_SCHEDULE = 0x1000 };
enum { MAX_SETTINGS = 64, DEFAULT_EVAL_LIMIT = 32 };

struct train_options {
    const char *protocol, *start, *schedule, *tokenizer, *output, *field;
    const char *corpora[MAX_TRAIN_CORPORA], *held_out[MAX_TRAIN_CORPORA];
    size_t n_corpora, n_held_out;
    struct {
        const char *key, *value;
    } settings[MAX_SETTINGS]; /* fields of the schedule, in order */
    size_t n_settings;
    uint64_t eval_limit;
    const char *dtype;
    bool split_blank, force;
    struct run_options_cli run; /* backend, threads, quiet, json */
};

static const struct argp_option own_options[] = {
    {"output", 'o', "DIR", 0, "the run: checkpoint, log, schedule (pretrain and adapt)", 1},
    {"schedule", KEY_SCHEDULE, "FILE", 0, "JSON with any of the fields below; flags win over it", 1},
    {"eval", KEY_EVAL, "CORPUS", 0, "held-out text, evaluated with gates by the threshold and with full attention", 1},
    {"eval-limit", KEY_EVAL_LIMIT, "N", 0, "sequences of an evaluation (32)", 1},
    {"tokenizer", KEY_TOKENIZER, "DIR", 0, "pretrain: where tokenizer.json lies (beside CONFIG)", 1},
    {"dtype", KEY_DTYPE, "f32|bf16", 0, "of the saved model (bf16)", 1},
    {"field", KEY_FIELD, "NAME", 0, "JSON Lines: the field that holds the text (found from the first row)", 1},
    {"split-blank", KEY_SPLIT, NULL, 0, "a blank line ends a document of a text file", 1},
    {"freeze-model", KEY_FREEZE, NULL, 0, "train the predictor only (--trained predictor)", 2},
    {"lora", KEY_LORA, "R", 0, "train low-rank updates of rank R and the predictor, weights frozen (--trained lora "
     "--lora-r R): saved beside the predictor, merged when the model is loaded", 2},
    {"static-gates", KEY_STATIC, "head|layer", OPTION_ARG_OPTIONAL,
     "one scalar per KV head (or layer), model frozen: which heads must be global", 2},
    {"backend", KEY_BACKEND, "auto|ref|cpu", 0, "where to compute (auto)", 4},
    {"threads", KEY_THREADS, "N", 0, "processor threads (all)", 4},
    {"force", KEY_FORCE, NULL, 0, "replace an existing run", 4},
    {"quiet", 'q', NULL, 0, "no progress and no notes", 4},
    {"json", KEY_JSON, NULL, 0, "machine-readable result on standard output", 4},
};

static void add_setting(struct train_options *o, const struct argp_state *state, const char *key, const char *value) {
    if (o->n_settings == MAX_SETTINGS)
        argp_error(state, "more than %d fields of the schedule", MAX_SETTINGS);
    o->settings[o->n_settings].key = key;
    o->settings[o->n_settings++].value = value;
}

static const char *choice(const struct argp_state *state, const char *option, const char *arg, const char *a, const char *b,
                          const char *c) {
    const char *choices[] = {a, b, c};
    for (int i = 0; i < 3; i++)
        if (choices[i] && strcmp(arg, choices[i]) == 0)
            return choices[i];
    argp_error(state, "--%s: \"%s\" is not one of %s, %s%s%s", option, arg, a, b, c ? ", " : "", c ? c : "");
    return a;
}

static void take_argument(struct train_options *o, const struct argp_state *state, char *arg) {
    if (!o->protocol)
        o->protocol = choice(state, "train", arg, "pretrain", "adapt", "resume");
    else if (!o->start)
        o->start = arg;
    else if (o->n_corpora == MAX_TRAIN_CORPORA)
        argp_error(state, "more than %d corpora (name a directory instead)", MAX_TRAIN_CORPORA);
    else
        o->corpora[o->n_corpora++] = arg;
}

static void check_arguments(const struct train_options *o, const struct argp_state *state) {
    if (!o->protocol || !o->start)
        argp_error(state, "pretrain CONFIG CORPUS..., adapt MODEL CORPUS..., or resume DIR");
    bool resume = strcmp(o->protocol, "resume") == 0;
    if (resume && (o->n_corpora || o->output || o->schedule || o->n_settings || o->n_held_out))
        argp_error(state, "a resumed run takes everything from its directory: only --backend, --threads, --quiet and --json");
    if (!resume && o->n_corpora == 0)
        argp_error(state, "at least one CORPUS to train on is needed");
    if (!resume && !o->output)
        argp_error(state, "where should the run go? (-o DIR)");
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct train_options *o = state->input;
    switch (key) {
    case 'o': o->output = arg; break;
    case 'q': o->run.quiet = true; break;
    case KEY_SCHEDULE: o->schedule = arg; break;
    case KEY_EVAL:
        if (o->n_held_out == MAX_TRAIN_CORPORA)
            argp_error(state, "more than %d held-out corpora", MAX_TRAIN_CORPORA);
        o->held_out[o->n_held_out++] = arg;
        break;
    case KEY_EVAL_LIMIT: o->eval_limit = (uint64_t)cli_parse_int(state, "eval-limit", arg, 1, LLONG_MAX); break;
    case KEY_TOKENIZER: o->tokenizer = arg; break;
    case KEY_DTYPE: o->dtype = choice(state, "dtype", arg, "f32", "bf16", NULL); break;
    case KEY_FIELD: o->field = arg; break;
    case KEY_SPLIT: o->split_blank = true; break;
    case KEY_FREEZE: add_setting(o, state, "trained", "predictor"); break;
    case KEY_LORA:
        add_setting(o, state, "trained", "lora");
        add_setting(o, state, "lora_r", arg);
        break;
    case KEY_STATIC:
        add_setting(o, state, "trained", "predictor");
        add_setting(o, state, "predictor_kind",
                    arg && strcmp(choice(state, "static-gates", arg, "head", "layer", NULL), "layer") == 0 ? "static-layer"
                                                                                                           : "static");
        break;
    case KEY_BACKEND: o->run.backend = choice(state, "backend", arg, "auto", "ref", "cpu"); break;
    case KEY_THREADS: o->run.threads = (int)cli_parse_int(state, "threads", arg, 1, 1024); break;
    case KEY_FORCE: o->force = true; break;
    case KEY_JSON: o->run.json = true; break;
    case ARGP_KEY_ARG: take_argument(o, state, arg); break;
    case ARGP_KEY_END: check_arguments(o, state); break;
    default:
        if (key < KEY_FIELD_OF_SCHEDULE || key >= KEY_FIELD_OF_SCHEDULE + (int)schedule_n_keys())
            return ARGP_ERR_UNKNOWN;
        add_setting(o, state, schedule_key((size_t)(key - KEY_FIELD_OF_SCHEDULE))->name, arg ? arg : "true");
    }
    return 0;
}

/* The command's own options, and one for every field of the schedule. Freed by free_options(). */
static struct argp_option *make_options(struct err *err) {
    size_t n_own = sizeof own_options / sizeof *own_options, n = schedule_n_keys();
    struct argp_option *options = mem_alloc(n_own + n + 1, sizeof *options, "options", err);
    if (!options)
        return NULL;
    memcpy(options, own_options, sizeof own_options);
    for (size_t i = 0; i < n; i++) {
        const struct schedule_key *key = schedule_key(i);
        char *name = mem_strdup(key->name, err);
        for (char *c = name; c && *c; c++)
            *c = *c == '_' ? '-' : *c;
        options[n_own + i] = (struct argp_option){name, KEY_FIELD_OF_SCHEDULE + (int)i, key->flag ? NULL : "X", 0, key->help, 3};
    }
    return options;
}

static void free_options(struct argp_option *options) {
    for (size_t i = 0; options && i < schedule_n_keys(); i++)
        free((void *)(uintptr_t)options[sizeof own_options / sizeof *own_options + i].name);
    free(options);
}

/* ---- the start of a run ------------------------------------------------------------------------------------------------ */

static int absolute(const char *path, char **out, struct err *err) {
    char *real = realpath(path, NULL);
    if (!real)
        return err_errno(err, errno, path, "cannot be found");
    *out = real;
    return OK;
}

/* "PATH" or "PATH:SHARE"; an existing path with a colon is a path. */
static int parse_corpus(const char *arg, struct train_corpus *out, struct err *err) {
    const char *colon = strrchr(arg, ':');
    char *end, *path;
    int rc;
    *out = (struct train_corpus){.share = 1};
    if (!colon || file_exists(arg))
        return absolute(arg, &out->path, err);
    out->share = strtod(colon + 1, &end);
    if (end == colon + 1 || *end || !(out->share > 0) || isinf(out->share))
        return err_set(err, ERR_USAGE, arg, "\"%s\" is no share of the tokens: PATH or PATH:SHARE, a number above 0", colon + 1);
    if (!(path = mem_strndup(arg, (size_t)(colon - arg), err)))
        return ERR_MEMORY;
    rc = absolute(path, &out->path, err);
    free(path);
    return rc;
}

static int fill_run(const struct train_options *o, struct train_run *run, struct err *err) {
    int rc = OK;
    snprintf(run->protocol, sizeof run->protocol, "%s", o->protocol);
    snprintf(run->dtype, sizeof run->dtype, "%s", o->dtype);
    run->eval_limit = o->eval_limit;
    run->split_blank = o->split_blank;
    if (o->field && !(run->field = mem_strdup(o->field, err)))
        return ERR_MEMORY;
    for (size_t i = 0; i < o->n_corpora && rc == OK; i++)
        if ((rc = parse_corpus(o->corpora[i], &run->corpora[i], err)) == OK)
            run->n_corpora++;
    for (size_t i = 0; i < o->n_held_out && rc == OK; i++)
        if ((rc = absolute(o->held_out[i], &run->held_out[i], err)) == OK)
            run->n_held_out++;
    return rc;
}

static int fill_schedule(const struct train_options *o, struct schedule *s, struct err *err) {
    int rc = OK;
    *s = schedule_default();
    if (o->schedule)
        rc = schedule_read(o->schedule, s, err);
    for (size_t i = 0; i < o->n_settings && rc == OK; i++)
        rc = schedule_set(s, o->settings[i].key, o->settings[i].value, err);
    return rc == OK ? schedule_check(s, o->schedule ? o->schedule : "", err) : rc;
}

/* Random weights in OUT/start. */
static int start_model(const struct train_options *o, const struct schedule *s, struct train_run *run, struct err *err) {
    char *config = file_is_dir(o->start) ? file_join(o->start, "config.json", err) : mem_strdup(o->start, err);
    char *start = file_join(o->output, "start", err);
    int rc = !config || !start ? ERR_MEMORY : init_model(config, o->tokenizer, s->seed, start, err);
    if (rc == OK)
        rc = absolute(start, &run->model, err);
    free(config);
    free(start);
    return rc;
}

/* What the model brings must be what is to be trained. */
static int check_added(const struct predictor_config *added, const struct schedule *s, const char *where, struct err *err) {
    if (s->trained != TRAIN_LORA || (added->lora_r == s->lora_r && added->lora_alpha == schedule_lora_alpha(s)))
        return OK;
    return err_set(err, ERR_INPUT, where,
                   "the model brings low-rank updates of rank %d and lora_alpha %g (0: none), but \"lora_r\" is %d and "
                   "lora_alpha %g: give the same, or train from the model without additions", added->lora_r,
                   added->lora_alpha, s->lora_r, schedule_lora_alpha(s));
}

/* A predictor with open gates and low-rank updates, unless the model brings them. */
static int start_added(const struct train_options *o, const struct schedule *s, struct train_run *run, struct err *err) {
    struct checkpoint *checkpoint;
    int rc = checkpoint_open(run->model, NULL, &checkpoint, err);
    if (rc != OK)
        return rc;
    const struct predictor_config *added = checkpoint_added(checkpoint);
    if (added && (rc = check_added(added, s, o->start, err)) == OK)
        cli_note(o->run.quiet, "%s has a predictor or low-rank updates: their training goes on", o->start);
    char *start = added ? NULL : file_join(o->output, "start", err);
    if (start && (rc = init_added(checkpoint_config(checkpoint), s, start, err)) == OK)
        rc = absolute(start, &run->predictor, err);
    checkpoint_close(checkpoint);
    free(start);
    return rc;
}

static int write_schedule(const struct schedule *s, const char *out_dir, struct err *err) {
    char *path = file_join(out_dir, "schedule.json", err);
    int rc = path ? schedule_write(s, path, err) : ERR_MEMORY;
    free(path);
    return rc;
}

/* Checks everything that needs no model, then makes the directory of a new run. */
static int start_run(const struct train_options *o, struct schedule *s, struct train_run *run, struct err *err) {
    int rc = fill_schedule(o, s, err);
    if (rc == OK && (rc = fill_run(o, run, err)) == OK && strcmp(o->protocol, "adapt") == 0)
        rc = absolute(o->start, &run->model, err);
    if (rc == OK && (rc = file_check_free(o->output, o->force, err)) == OK && o->force)
        rc = file_remove_tree(o->output, err);
    if (rc != OK || (rc = file_make_dirs(o->output, err)) != OK)
        return rc;
    if (strcmp(o->protocol, "pretrain") == 0)
        rc = start_model(o, s, run, err);
    if (rc == OK && (schedule_gated(s) || s->trained == TRAIN_LORA))
        rc = start_added(o, s, run, err);
    if (rc == OK && (rc = write_schedule(s, o->output, err)) == OK)
        rc = train_run_write(run, o->output, err);
    return rc;
}

static int resume_run(const struct train_options *o, struct schedule *s, struct train_run *run, struct err *err) {
    char *path = file_join(o->start, "schedule.json", err);
    int rc = path ? train_run_read(o->start, run, err) : ERR_MEMORY;
    *s = schedule_default();
    if (rc == OK && (rc = schedule_read(path, s, err)) == OK)
        rc = schedule_check(s, path, err);
    free(path);
    return rc;
}

/* ---- text -------------------------------------------------------------------------------------------------------------- */

/* One corpus argument as a source. */
struct text {
    struct corpus *corpus;
    struct sequences *sequences;
    struct source source;
};

static void text_close(struct text *t) {
    sequences_free(t->sequences);
    corpus_close(t->corpus);
    *t = (struct text){0};
}

static int text_open(struct text *t, char *const *paths, size_t n, const struct train_run *run,
                     const struct tokenizer *tokenizer, int context_len, uint64_t limit, struct err *err) {
    struct corpus_options options = {.split_blank = run->split_blank, .field = run->field};
    struct sequence_options cut = {.max_length = (size_t)context_len, .limit = limit};
    int rc = corpus_open(paths, n, &options, &t->corpus, err);
    if (rc == OK)
        rc = sequences_create(t->corpus, tokenizer, &cut, &t->sequences, err);
    if (rc == OK)
        t->source = sequences_source(t->sequences);
    return rc;
}

/* Held-out text: opened anew for every evaluation. */
struct held_out_text {
    const struct train_run *run;
    const struct tokenizer *tokenizer;
    int context_len;
    struct text text;
};

static int held_out_open(void *self, struct source *out, struct err *err) {
    struct held_out_text *h = self;
    int rc = text_open(&h->text, h->run->held_out, h->run->n_held_out, h->run, h->tokenizer, h->context_len,
                       h->run->eval_limit, err);
    *out = h->text.source;
    return rc;
}

static void held_out_close(void *self) {
    struct held_out_text *h = self;
    text_close(&h->text);
}

static int read_batches(const struct schedule *s, const struct train_run *run, const struct loaded *l, struct batches **out,
                        struct err *err) {
    int rc = batches_create(&(struct batches_options){.context_len = s->context_len,
                                                      .n_lines = s->sequences / s->accumulation,
                                                      .answer_only = s->answer_only,
                                                      .vocab_size = l->model->config->vocab_size, .seed = s->seed}, out, err);
    for (size_t i = 0; i < run->n_corpora && rc == OK; i++) {
        struct text text = {0};
        rc = text_open(&text, &run->corpora[i].path, 1, run, l->tokenizer, s->context_len, 0, err);
        if (rc == OK)
            rc = batches_add(*out, &text.source, run->corpora[i].path, run->corpora[i].share, err);
        text_close(&text);
    }
    return rc;
}

/* ---- the run ----------------------------------------------------------------------------------------------------------- */

static void on_step(void *self, const struct train_log_row *row) {
    struct progress *p = self;
    int n = snprintf(p->note, sizeof p->note, "step %lld, loss %.4f", (long long)row->step, row->loss);
    if (isfinite(row->long_range_density))
        snprintf(p->note + n, sizeof p->note - (size_t)n, ", density %.1f %%", 100 * row->long_range_density);
    progress_update(p, row->n_tok);
}

static json_t *number(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

static void print_json(const char *out_dir, const struct trainer_result *r) {
    const struct train_log_row *row = &r->last;
    json_t *root = json_pack("{s:s, s:i, s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:f}", "schema", "spkv-train", "version", 1,
                             "output", out_dir, "steps", (json_int_t)row->step, "n_tok", (json_int_t)r->n_tok,
                             "loss_nat_per_token", number(row->loss), "long_range_density", number(row->long_range_density),
                             "eval_hard_nat_per_token", number(row->eval_nll_hard), "eval_full_nat_per_token",
                             number(row->eval_nll_full), "eval_long_range_density", number(row->eval_long_range_density),
                             "seconds", r->seconds);
    json_dumpf(root, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(root);
}

static void print_text(const char *out_dir, const struct trainer_result *r) {
    const struct train_log_row *row = &r->last;
    char duration[32];
    clock_format_duration(r->seconds, duration);
    printf("%s: %lld steps, %llu tokens, %s\n", out_dir, (long long)row->step, (unsigned long long)r->n_tok, duration);
    printf("  loss %.4f nat/token", row->loss);
    if (isfinite(row->long_range_density))
        printf(", long-range density %.1f %%", 100 * row->long_range_density);
    if (isfinite(row->eval_nll_full))
        printf("\n  held out: full attention %.4f", row->eval_nll_full);
    if (isfinite(row->eval_nll_hard))
        printf(", as trained %.4f", row->eval_nll_hard);
    if (isfinite(row->eval_long_range_density))
        printf(" at density %.1f %%", 100 * row->eval_long_range_density);
    printf("\n  next: spkv profile %s/checkpoint CORPUS -o run.h5\n", out_dir);
}

/* A model at hand: data, policies and parameters, then the trainer. */
static int train_loaded(const struct train_options *o, const char *out_dir, const struct schedule *s,
                        const struct train_run *run, struct loaded *l, struct trainer_result *result, struct err *err) {
    struct held_out_text text = {.run = run, .tokenizer = l->tokenizer, .context_len = s->context_len};
    const struct held_out held_out = {&text, held_out_open, held_out_close};
    struct progress progress;
    struct params *params = NULL;
    struct policy *full = NULL;
    struct batches *batches = NULL;
    int rc = l->ops->train ? OK : err_set(err, ERR_USAGE, l->ops->name, "this backend does not train");
    if (s->context_len > l->model->config->max_positions)
        rc = err_set(err, ERR_INPUT, run->model, "context_len %d, but the model has %d positions", s->context_len,
                     l->model->config->max_positions);
    if (rc == OK && (rc = loaded_policy(l, &o->run, "full", &full, err)) == OK &&
        (rc = read_batches(s, run, l, &batches, err)) == OK)
        rc = params_create(l->model, s->trained, &params, err);
    if (rc == OK) {
        cli_note(o->run.quiet, "%llu tokens of training data, %zu parameters",
                 (unsigned long long)batches_n_tok(batches), params->n_items);
        progress_begin(&progress, "train", "tok", (uint64_t)s->steps * schedule_step_tok(s), o->run.quiet);
        const struct trainer_options options = {
            .params = params, .source = l->checkpoint, .schedule = s, .batches = batches, .policy = l->policy,
            .hard = strcmp(l->policy->name, "full") == 0 ? NULL : l->policy, .full = full,
            .held_out = run->n_held_out ? &held_out : NULL, .out_dir = out_dir, .protocol = run->protocol,
            .version = cli_version, .commit = cli_commit, .save_dtype = strcmp(run->dtype, "f32") == 0 ? DTYPE_F32 : DTYPE_BF16,
            .resume = strcmp(o->protocol, "resume") == 0 && state_exists(out_dir), .stop = cli_stop_flag(), .self = &progress,
            .on_step = on_step};
        rc = trainer_run(&options, result, err);
        progress_end(&progress);
    }
    params_free(params);
    batches_free(batches);
    policy_free(full);
    return rc;
}

static int train(struct train_options *o, struct err *err) {
    struct train_run run = {0};
    struct schedule s;
    struct loaded l = {0};
    struct trainer_result result;
    bool resume = strcmp(o->protocol, "resume") == 0;
    const char *out_dir = resume ? o->start : o->output;
    int rc = resume ? resume_run(o, &s, &run, err) : start_run(o, &s, &run, err);
    if (rc == OK) {
        o->run.model = run.model;
        o->run.predictor = run.predictor;
        o->run.policy = s.policy;
        o->run.window = s.window;
        o->run.threshold = s.threshold;
        o->run.seed = s.seed;
        o->run.dtype = "f32";
        o->run.unmerged = s.trained == TRAIN_LORA;
        rc = loaded_open(&o->run, true, &l, err);
    }
    if (rc == OK)
        rc = train_loaded(o, out_dir, &s, &run, &l, &result, err);
    if (rc == OK && result.n_steps == 0)
        cli_note(o->run.quiet, "%s is complete already", out_dir);
    else if (rc == OK) {
        (o->run.json ? print_json : print_text)(out_dir, &result);
        rc = cli_finish_stdout(err);
    }
    loaded_close(&l);
    train_run_free(&run);
    return rc;
}

int cmd_train(int argc, char **argv) {
    struct err err = {0};
    struct argp_option *options = make_options(&err);
    const struct argp argp = {
        options, parse, "pretrain CONFIG CORPUS[:SHARE]...\nadapt MODEL CORPUS[:SHARE]...\nresume DIR",
        "Trains a model together with its utility predictor by next-token loss: from random weights of a config.json, from a "
        "checkpoint, or on from where a run stopped.\v"
        "DIR/checkpoint is a Hugging Face directory at any moment; DIR/log.csv and DIR/heads.csv hold what happened. With "
        "--policy full, window or layout:file=F the same command trains a dense twin or a hybrid.", NULL, NULL, NULL};
    struct train_options *o = calloc(1, sizeof *o);
    if (!options || !o) {
        err_memory(&err, "options", sizeof *o);
    } else {
        o->run = run_options_default();
        o->dtype = "bf16";
        o->eval_limit = DEFAULT_EVAL_LIMIT;
        argp_parse(&argp, argc, argv, 0, NULL, o);
        train(o, &err);
    }
    free(o);
    free_options(options);
    return cli_report(&err);
}
