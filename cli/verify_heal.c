#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/comparison.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/training.h"
#include "cli/verify.h"

/* Words that an options struct borrows. */
struct words {
    struct str steps, window, threshold, context;
};

static void words_free(struct words *w) {
    str_free(&w->steps);
    str_free(&w->window);
    str_free(&w->threshold);
    str_free(&w->context);
}

static void set(struct train_options *o, const char *key, const char *value) {
    o->settings[o->n_settings].key = key;
    o->settings[o->n_settings++].value = value;
}

/* Under SP-KV gates are hard from the first step and the predictor stays as it is: the model alone heals, as under the other
 * attentions. */
static void set_gates(const struct verification *v, struct train_options *o, struct words *w) {
    const struct predictor_config *predictor = checkpoint_predictor(v->loaded.checkpoint);
    str_printf(&w->window, "%d", predictor->window);
    str_printf(&w->threshold, "%.17g", predictor->threshold);
    set(o, "window", str_text(&w->window));
    set(o, "threshold", str_text(&w->threshold));
    set(o, "soft_frac", "0");
    set(o, "anneal_steps", "1");
    set(o, "predictor_lr_factor", "0");
    set(o, "density_weight", "0");
}

/* Steps are counted in tokens: as many as reach the number. */
static int set_steps(const struct verification *v, struct train_options *o, struct words *w, struct err *err) {
    struct schedule schedule;
    int limit = v->loaded.model->config->max_positions;
    if (!v->options->heal_schedule && limit < 1024) {
        str_printf(&w->context, "%d", limit);
        set(o, "context_len", str_text(&w->context));
    }
    for (size_t i = 0; i < v->options->n_heal_settings; i++)
        set(o, v->options->heal_settings[i].key, v->options->heal_settings[i].value);
    set(o, "steps", "1000000");
    o->settings[o->n_settings].key = "policy";
    o->settings[o->n_settings++].value = "full";
    int rc = train_options_schedule(o, &schedule, err);
    o->n_settings -= 2;
    if (rc != OK)
        return rc;
    int64_t step_tok = (int64_t)schedule_step_tok(&schedule), steps = (v->options->heal_tok + step_tok - 1) / step_tok;
    str_printf(&w->steps, "%lld", (long long)(steps > 2 ? steps : 2));
    set(o, "steps", str_text(&w->steps));
    return OK;
}

/* Everything that spkv train would be told. */
static int fill_options(const struct verification *v, const struct verify_case *c, const char *out_dir,
                        struct train_options *o, struct words *w, struct err *err) {
    const struct verify_options *from = v->options;
    *o = (struct train_options){.protocol = PROTOCOL_ADAPT, .model = from->run.model, .output = out_dir, .dtype = "f32",
                                .compute = "f32", .backend = from->run.backend, .threads = from->run.threads,
                                .schedule_file = from->heal_schedule, .field = from->corpus.field,
                                .split_blank = from->corpus.split_blank, .force = from->corpus.force,
                                .quiet = from->run.quiet, .n_corpora = from->n_heal_corpora};
    for (size_t i = 0; i < from->n_heal_corpora; i++)
        o->corpora[i] = (char *)(uintptr_t)from->heal_corpora[i];
    int rc = set_steps(v, o, w, err);
    set(o, "policy", c->policy);
    set(o, "eval_every", "0");
    if (strncmp(c->policy, "spkv", 4) == 0)
        set_gates(v, o, w);
    return rc;
}

/* A run that goes on must be the one that is wanted now. */
static int check_same(const struct schedule *begun, const struct train_options *o, struct err *err) {
    struct schedule wanted;
    int rc = train_options_schedule(o, &wanted, err);
    const char *key = rc == OK ? schedule_difference(begun, &wanted, false) : NULL;
    if (key)
        rc = err_set(err, ERR_INPUT, o->output, "\"%s\" is another than in the run that is to go on: give the same options, "
                     "or --force", key);
    return rc;
}

static int train(const struct verification *v, const struct verify_case *c, const char *out_dir, struct err *err) {
    struct train_options *o = mem_alloc(1, sizeof *o, "options", err);
    struct training t = training_none();
    struct words w = {0};
    struct train_log_row last;
    char *run = file_join(out_dir, "run.json", err);
    double seconds;
    int rc = o && run ? fill_options(v, c, out_dir, o, &w, err) : ERR_MEMORY;
    if (rc == OK && v->options->corpus.resume && file_exists(run)) {
        rc = training_again(&t, out_dir, v->options->run.threads, v->options->run.quiet, err);
        if (rc == OK)
            rc = check_same(&t.schedule, o, err);
    } else if (rc == OK) {
        rc = training_new(&t, o, v->command, err);
    }
    if (rc == OK)
        rc = training_run(&t, out_dir, v->options->run.quiet, &last, &seconds, err);
    training_close(&t);
    words_free(&w);
    free(run);
    free(o);
    return rc;
}

/* A case that was healed and measured before, whose model is gone. */
static int take_finished(struct verification *v, struct verify_case *c, const char *out_dir, struct err *err) {
    struct train_options *o = mem_alloc(1, sizeof *o, "options", err);
    struct schedule begun = schedule_default();
    struct words w = {0};
    char *path = file_join(out_dir, "schedule.json", err);
    int rc = o && path ? fill_options(v, c, out_dir, o, &w, err) : ERR_MEMORY;
    if (rc == OK)
        rc = schedule_read(path, &begun, err);
    if (rc == OK)
        rc = check_same(&begun, o, err);
    words_free(&w);
    free(path);
    free(o);
    return rc == OK ? verify_read(v, c, COLUMN_HEALED, err) : rc;
}

/* Low-rank updates and predictors alone lie beside the model that they belong to. */
static int open_healed(const struct verification *v, const char *checkpoint, struct loaded *out, struct err *err) {
    struct run_options_cli run = v->options->run;
    char *weights = file_join(checkpoint, "model.safetensors", err);
    if (!weights)
        return ERR_MEMORY;
    if (file_exists(weights))
        run.model = checkpoint;
    else
        run.predictor = checkpoint;
    run.dtype = v->loaded.dtype_name;
    run.quiet = true;
    free(weights);
    return loaded_open(&run, true, out, err);
}

static int measure(struct verification *v, struct verify_case *c, const char *checkpoint, struct err *err) {
    struct loaded healed = {0};
    int rc = open_healed(v, checkpoint, &healed, err);
    if (rc == OK)
        rc = verify_measure(v, &healed, c, COLUMN_HEALED, err);
    loaded_close(&healed);
    return rc;
}

static int heal_case(struct verification *v, struct verify_case *c, struct err *err) {
    char *out_dir = verify_path(v, "training", c->name, "", err), *run = verify_path(v, "healed", c->name, ".h5", err);
    char *checkpoint = out_dir ? file_join(out_dir, "checkpoint", err) : NULL;
    int rc = out_dir && run && checkpoint ? OK : ERR_MEMORY;
    if (rc == OK && v->options->corpus.resume && file_exists(run) && !file_exists(checkpoint)) {
        rc = take_finished(v, c, out_dir, err);
    } else if (rc == OK && (rc = train(v, c, out_dir, err)) == OK) {
        rc = measure(v, c, checkpoint, err);
        if (rc == OK && !v->options->keep_models)
            rc = file_remove_tree(checkpoint, err);
    }
    free(checkpoint);
    free(run);
    free(out_dir);
    return rc;
}

/* Of the losses of the window and the layouts: those that are hybrids of one budget or another. */
static int correlate(struct verification *v, struct err *err) {
    double *a = mem_alloc(v->n, sizeof *a, "losses", err), *b = mem_alloc(v->n, sizeof *b, "losses", err);
    size_t n = 0;
    for (size_t i = CASE_WINDOW; a && b && i < v->n; i++)
        if (i == CASE_WINDOW || v->cases[i].layout) {
            a[n] = v->cases[i].figures[COLUMN_ZERO_SHOT].nll;
            b[n++] = v->cases[i].figures[COLUMN_HEALED].nll;
        }
    struct comparison comparison;
    int rc = a && b ? comparison_compute(a, b, n, 0, NULL, &comparison, err) : ERR_MEMORY;
    if (rc == OK)
        v->rank_correlation = comparison.spearman;
    free(a);
    free(b);
    return rc;
}

int verify_heal(struct verification *v, struct err *err) {
    int rc = OK;
    for (size_t i = 0; rc == OK && i < v->n; i++) {
        if (!v->options->run.quiet)
            fprintf(stderr, "verify: healing %s, %zu of %zu\n", v->cases[i].name, i + 1, v->n);
        rc = heal_case(v, &v->cases[i], err);
    }
    if (rc == OK)
        rc = verify_compare(v, COLUMN_HEALED, err);
    return rc == OK ? correlate(v, err) : rc;
}
