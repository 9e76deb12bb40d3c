#include "cli/training.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/roofline.h"
#include "cli/train_data.h"
#include "cli/train_progress.h"
#include "train/init.h"
#include "train/state.h"
#include "train/trainer.h"

void training_close(struct training *t) {
    struct err ignored = {0};
    policy_free(t->full);
    pieces_free(t->eval);
    batches_free(t->data);
    loaded_close(&t->loaded);
    if (t->start_dir)
        file_remove_tree(t->start_dir, &ignored);
    free(t->start_dir);
    free(t->policy_file);
    train_run_free(&t->run);
    if (t->lock >= 0)
        close(t->lock);
}

/* --- the start ------------------------------------------------------------------------------------------------------ */

/* A predictor, low-rank updates, or both. */
static int write_new_additions(const char *model_dir, const struct training *t, struct err *err) {
    struct model_config config;
    int rc = model_config_read(model_dir, &config, err);
    if (rc != OK)
        return rc;
    rc = init_added(&config, &t->schedule, t->start_dir, err);
    model_config_free(&config);
    return rc;
}

static int write_random_model(const struct training *t, struct err *err) {
    char *config = file_is_dir(t->run.model) ? file_join(t->run.model, "config.json", err) : mem_strdup(t->run.model, err);
    char *tokenizer = file_join(t->start_dir, "tokenizer.json", err);
    int rc = config && tokenizer ? init_model(config, NULL, t->schedule.seed, t->start_dir, err) : ERR_MEMORY;
    if (rc == OK && t->run.tokenizer)
        rc = file_copy(t->run.tokenizer, tokenizer, err);
    if (rc == OK && !file_exists(tokenizer))
        rc = err_set(err, ERR_INPUT, config, "there is no tokenizer.json beside it (name one with --tokenizer)");
    free(tokenizer);
    free(config);
    return rc;
}

/* Low-rank updates that a model brings go on being trained when they are what the schedule says. */
static int check_lora(const struct predictor_config *added, const struct schedule *s, const char *where, struct err *err) {
    if (added->lora_r == s->lora_r && added->lora_alpha == schedule_lora_alpha(s))
        return OK;
    return err_set(err, ERR_INPUT, where,
                   "the model brings low-rank updates of rank %d and lora_alpha %g (0: none), but \"lora_r\" is %d and "
                   "lora_alpha %g: give the same, or begin anew with --new-predictor", added->lora_r, added->lora_alpha,
                   s->lora_r, schedule_lora_alpha(s));
}

/* By the tensors of the first layer that has a predictor. */
static enum predictor_kind kind_of(const struct checkpoint *checkpoint) {
    const struct model_config *c = checkpoint_config(checkpoint);
    int layer = 0;
    char trunk[128], linear[128];
    while (layer + 1 < c->n_layers && c->layers[layer].sliding_window > 0)
        layer++;
    snprintf(trunk, sizeof trunk, "model.layers.%d.self_attn.utility_predictor.fc1.weight", layer);
    snprintf(linear, sizeof linear, "model.layers.%d.self_attn.utility_predictor.fc2.weight", layer);
    return checkpoint_find(checkpoint, trunk)    ? PREDICTOR_TRUNK
           : checkpoint_find(checkpoint, linear) ? PREDICTOR_LINEAR
                                                 : PREDICTOR_STATIC;
}

/* The schedule says what is trained, also where the model brings it. */
static void take_kind(struct schedule *s, enum predictor_kind kind) {
    s->predictor_kind = kind;
    if (kind != PREDICTOR_TRUNK)
        s->predictor_hidden = 0;
}

/* Whether an adapted model goes on with additions of its own. */
static int find_additions(struct training *t, bool quiet, bool *found, struct err *err) {
    struct schedule *s = &t->schedule;
    struct checkpoint *checkpoint;
    int rc = checkpoint_open(t->run.model, NULL, &checkpoint, err);
    if (rc != OK)
        return rc;
    bool gated = schedule_gated(s), lora = s->trained == TRAIN_LORA;
    const struct predictor_config *added = checkpoint_added(checkpoint);
    enum predictor_kind kind = kind_of(checkpoint);
    bool wanted = s->predictor_kind == PREDICTOR_TRUNK || s->predictor_kind == kind;
    bool there = gated ? checkpoint_predictor(checkpoint) && wanted : added && added->lora_r > 0;
    *found = there && !t->run.new_predictor;
    if (*found && lora)
        rc = check_lora(added, s, t->run.model, err);
    if (*found && gated)
        take_kind(s, kind);
    if (rc == OK && *found)
        cli_note(quiet, "the run goes on with the %s of %s (--new-predictor begins with another)",
                 gated ? "predictor" : "low-rank updates", t->run.model);
    else if (rc == OK && added)
        cli_note(quiet, "the run begins with a new %s: what was added to %s before (%s) is left out",
                 gated ? "predictor" : "set of low-rank updates", t->run.model,
                 !checkpoint_predictor(checkpoint) ? "low-rank updates"
                 : added->lora_r > 0               ? "a predictor and low-rank updates"
                                                   : "a predictor");
    checkpoint_close(checkpoint);
    return rc;
}

/* Writes what the run starts from beside the given model. *model and *predictor: the directories to open. */
static int write_start(struct training *t, bool quiet, const char **model, const char **predictor, struct err *err) {
    bool adds = schedule_gated(&t->schedule) || t->schedule.trained == TRAIN_LORA, found = false;
    int rc;
    *predictor = NULL;
    if (strcmp(t->run.protocol, "pretrain") == 0) {
        *model = t->start_dir;
        rc = write_random_model(t, err);
        return rc == OK && adds ? write_new_additions(t->start_dir, t, err) : rc;
    }
    *model = t->run.model;
    if (!adds)
        return OK;
    if ((rc = find_additions(t, quiet, &found, err)) == OK && !found) {
        rc = write_new_additions(t->run.model, t, err);
        *predictor = t->start_dir;
    }
    return rc;
}

static int check_model(const struct training *t, struct err *err) {
    const struct model_config *c = t->loaded.model->config;
    size_t n_vocab = tokenizer_n_vocab(t->loaded.tokenizer);
    if (!t->loaded.ops->train)
        return err_set(err, ERR_USAGE, "", "this backend cannot train (use --backend cpu)");
    if (n_vocab > (size_t)c->vocab_size)
        return err_set(err, ERR_INPUT, t->run.tokenizer ? t->run.tokenizer : t->run.model,
                       "the tokenizer has %zu tokens, but the model's vocab_size is %d: it is another model's", n_vocab,
                       c->vocab_size);
    if (t->schedule.context_len > c->max_positions)
        return err_set(err, ERR_INPUT, t->run.model, "\"context_len\" is %d, but the model has %d positions "
                       "(max_position_embeddings): give shorter sequences", t->schedule.context_len, c->max_positions);
    return OK;
}

/* A policy that is no policy is an error of the file that names it, where one does. */
static int load_model(struct training *t, const struct run_options_cli *o, struct err *err) {
    struct err what = {0};
    int rc = loaded_open(o, true, &t->loaded, &what);
    if (rc == ERR_USAGE && t->policy_file)
        return err_set(err, ERR_INPUT, t->policy_file, "\"policy\" is \"%s\": %s", t->schedule.policy, what.message);
    return rc == OK ? OK : err_set(err, rc, what.where, "%s", what.message);
}

static int open_model(struct training *t, bool quiet, struct err *err) {
    struct run_options_cli o = run_options_default();
    int rc = write_start(t, quiet, &o.model, &o.predictor, err);
    o.policy = t->schedule.policy;
    o.window = t->schedule.window;
    o.threshold = schedule_gated(&t->schedule) ? t->schedule.threshold : (double)NAN;
    o.seed = t->schedule.seed;
    o.dtype = t->run.compute;
    o.backend = t->run.backend;
    o.threads = (int)t->run.threads;
    o.unmerged = t->schedule.trained == TRAIN_LORA;
    o.quiet = true; /* that a new predictor names another base is no news */
    if (rc == OK)
        rc = load_model(t, &o, err);
    if (rc == OK)
        rc = check_model(t, err);
    return rc == OK ? loaded_policy(&t->loaded, &o, "full", &t->full, err) : rc;
}

static int open_training(struct training *t, const char *out_dir, bool quiet, struct err *err) {
    if (!(t->start_dir = file_join(out_dir, "start.tmp", err)))
        return ERR_MEMORY;
    int rc = open_model(t, quiet, err);
    int vocab = rc == OK ? t->loaded.model->config->vocab_size : 0;
    if (rc == OK)
        rc = train_data_read(&t->run, &t->schedule, t->loaded.tokenizer, vocab, &t->data, err);
    if (rc == OK)
        rc = train_data_read_eval(&t->run, &t->schedule, t->loaded.tokenizer, vocab, &t->eval, err);
    return rc;
}

/* --- the run -------------------------------------------------------------------------------------------------------- */

static int remove_in(const char *out_dir, const char *name, struct err *err) {
    char *path = file_join(out_dir, name, err);
    int rc = path ? file_remove_tree(path, err) : ERR_MEMORY;
    free(path);
    return rc;
}

/* Two processes in one run would destroy each other's work. */
static int lock_run(struct training *t, const char *out_dir, struct err *err) {
    char *path = file_join(out_dir, "run.json", err);
    int rc = path ? OK : ERR_MEMORY;
    if (rc == OK && file_exists(path))
        rc = file_lock(path, out_dir, &t->lock, err);
    free(path);
    return rc;
}

/* What begin() removes must not be what the run is made from. */
static int refuse_inside(const char *out_dir, const char *input, struct err *err) {
    char *path = input ? file_join(out_dir, "checkpoint", err) : NULL;
    char *checkpoint = path ? realpath(path, NULL) : NULL; /* NULL: nothing is there */
    size_t n = checkpoint ? strlen(checkpoint) : 0;
    int rc = input && !path ? ERR_MEMORY : OK;
    if (n > 0 && strncmp(input, checkpoint, n) == 0 && (input[n] == 0 || input[n] == '/'))
        rc = err_set(err, ERR_INPUT, input, "the run would begin with this, but --force removes it with the older run in "
                                            "%s: give another directory", out_dir);
    free(checkpoint);
    free(path);
    return rc;
}

/* Runs whose start would be lost. */
static int check_start(const struct training *t, const char *out_dir, struct err *err) {
    if (strcmp(t->run.protocol, "pretrain") == 0 && t->schedule.trained == TRAIN_PREDICTOR)
        return err_set(err, ERR_USAGE, "", "pretrain begins with a random model, which is not saved where only the "
                                           "predictor is trained: leave out --freeze-model and --static-gates, or use "
                                           "adapt");
    int rc = refuse_inside(out_dir, t->run.model, err);
    return rc == OK ? refuse_inside(out_dir, t->run.tokenizer, err) : rc;
}

/* A new run begins: what an older one left in OUT goes only now, when everything that is read was found good. */
static int begin(struct training *t, const char *out_dir, struct err *err) {
    static const char *const results[] = {"run.json", "checkpoint", "log.csv", "heads.csv"};
    int rc = json_object_set_new(t->run.object, "threads",
                                 json_integer(t->loaded.ops->device_threads(t->loaded.dev)));
    char *path = file_join(out_dir, "schedule.json", err);
    if (rc != 0 || !path)
        rc = err_memory(err, "run.json", 1024);
    for (size_t i = 0; rc == OK && i < sizeof results / sizeof *results; i++)
        rc = remove_in(out_dir, results[i], err);
    if (rc == OK)
        rc = file_make_dirs(out_dir, err);
    if (rc == OK)
        rc = schedule_write(&t->schedule, path, err);
    if (rc == OK)
        rc = train_run_write(&t->run, out_dir, err);
    if (t->lock >= 0) /* of the run that was replaced */
        close(t->lock);
    t->lock = -1;
    free(path);
    return rc == OK ? lock_run(t, out_dir, err) : rc;
}

/* Tokens per second that matrix products alone would allow; 0 when nobody is to see it. */
static double measure_gemm(const struct training *t, bool quiet, struct err *err) {
    struct roofline roof = {0};
    double gflop_per_s = 0;
    if (!quiet && roofline_open(&roof, t->loaded.ops, t->loaded.dev, err) == OK)
        gflop_per_s = roofline_gemm(&roof, err);
    roofline_close(&roof);
    return gflop_per_s * 1e9 / train_flop_per_tok(&t->schedule, t->loaded.model->config);
}

int training_run(struct training *t, const char *out_dir, bool quiet, struct train_log_row *last, double *seconds,
                 struct err *err) {
    struct train_progress progress;
    double gemm_tok_per_s = measure_gemm(t, quiet, err);
    uint64_t start = clock_us();
    if (err->code != OK)
        return err->code;
    train_progress_begin(&progress, &t->schedule, gemm_tok_per_s, quiet);
    struct trainer_options options = {
        .out_dir = out_dir, .source = t->loaded.checkpoint, .model = t->loaded.model, .schedule = &t->schedule,
        .policy = t->loaded.policy, .full = t->full, .data = t->data, .eval = t->eval,
        .dtype = strcmp(t->run.dtype, "f32") == 0 ? DTYPE_F32 : DTYPE_BF16, .protocol = t->run.protocol,
        .version = cli_version, .commit = cli_commit, .gemm_tok_per_s = gemm_tok_per_s,
        .stop = cli_stop_flag(), .observer = &progress.observer};
    int rc = trainer_run(&options, last, err);
    train_progress_end(&progress);
    *seconds = (double)(clock_us() - start) * 1e-6;
    return rc;
}

int training_new(struct training *t, const struct train_options *o, const char *command, struct err *err) {
    struct err ignored = {0};
    const char *policy_file = train_options_policy_file(o);
    bool was_there = file_exists(o->output);
    int rc = file_check_free(o->output, o->force, err);
    if (rc == OK)
        rc = train_options_schedule(o, &t->schedule, err);
    if (rc == OK)
        rc = train_run_make(o, command, &t->run, err);
    if (rc == OK)
        rc = check_start(t, o->output, err);
    if (rc != OK)
        return rc;
    if (policy_file && !(t->policy_file = mem_strdup(policy_file, err)))
        return ERR_MEMORY;
    if ((rc = lock_run(t, o->output, err)) == OK && (rc = open_training(t, o->output, o->quiet, err)) == OK)
        rc = begin(t, o->output, err);
    if (rc != OK && !was_there)
        file_remove_tree(o->output, &ignored);
    return rc;
}

int training_again(struct training *t, const char *out_dir, int threads, bool quiet, struct err *err) {
    char *path = t->policy_file = file_join(out_dir, "schedule.json", err);
    int rc = path ? train_run_read(out_dir, &t->run, err) : ERR_MEMORY;
    t->schedule = schedule_default();
    if (rc == OK)
        rc = lock_run(t, out_dir, err);
    if (rc == OK)
        rc = schedule_read(path, &t->schedule, err);
    if (rc == OK)
        rc = schedule_check(&t->schedule, path, err);
    if (rc == OK && threads > 0 && threads != t->run.threads)
        cli_note(quiet, "the run began with %lld threads: with %d its numbers can differ in the last bits",
                 (long long)t->run.threads, threads);
    if (threads > 0)
        t->run.threads = threads;
    if (rc == OK) /* before anything is written again: a full disk may need the room */
        rc = state_clean(out_dir, err);
    return rc == OK ? open_training(t, out_dir, quiet, err) : rc;
}
