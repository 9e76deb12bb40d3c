#include "train/trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/run.h"
#include "train/gradient.h"
#include "train/oracle_target.h"
#include "train/params.h"
#include "train/state.h"

enum { EVAL_BATCH = 4, EVAL_CHUNK = 512, DIVERGED_STEPS = 50 };

struct trainer {
    const struct trainer_options *o;
    const struct schedule *s;
    struct params *params;
    struct gradient *gradient;
    struct oracle_target *oracle; /* target oracle, else NULL */
    float *log_target;            /* (n_layers, rows of a micro-batch, n_kv_heads) */
    struct train_log *log;
    struct pieces_reader eval;
    struct progress_state progress;
    size_t n_lanes;              /* layers x KV heads */
    size_t n_gates;              /* lanes with a gate: those of layers without a sliding window of their own */
    int64_t saved_step;          /* of OUT/checkpoint, 0 = none */
    double mean_loss;            /* running, NaN before the first step */
    int n_above;                 /* steps in a row far above it */
    uint64_t *n_open, *n_left, *n_far; /* (n_lanes) of the step */
    double *density;             /* (n_lanes) for the log */
};

struct batches_options trainer_batches(const struct schedule *s, int vocab_size) {
    return (struct batches_options){.vocab_size = vocab_size,
                                    .context_len = s->context_len,
                                    .max_sequences = s->sequences / s->accumulation,
                                    .answer_only = s->answer_only,
                                    .seed = s->seed};
}

static double ratio(uint64_t a, uint64_t b) {
    return b ? (double)a / (double)b : (double)NAN;
}

static uint64_t sum_of(const uint64_t *counts, size_t n) {
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += counts[i];
    return sum;
}

/* --- one step ------------------------------------------------------------------------------------------------------- */

/* Loss and densities of the step so far. */
struct step_sums {
    double nll_sum;
    uint64_t n_predicted, n_rows;
};

static void add_result(struct trainer *t, const struct gradient_result *r, struct step_sums *sums) {
    sums->nll_sum += r->nll_sum;
    sums->n_predicted += r->n_predicted;
    sums->n_rows += r->n_rows;
    for (size_t i = 0; i < t->n_lanes; i++) {
        t->n_open[i] += r->n_open[i];
        t->n_left[i] += r->n_left[i];
        t->n_far[i] += r->n_far[i];
    }
}

/* The mean squared error over the targets of a micro-batch; micro-batches weigh the same. */
static int fit(struct trainer *t, const struct micro_batch *batch, struct gradient_result *result, struct err *err) {
    size_t n = (size_t)batch->row_splits[batch->n_seq] * t->n_lanes, n_targets = 0;
    int rc = oracle_target_fill(t->oracle, batch, t->log_target, err);
    for (size_t i = 0; i < n && rc == OK; i++)
        n_targets += !isnan(t->log_target[i]);
    double scale = n_targets ? 1 / ((double)n_targets * t->s->accumulation) : 0;
    return rc == OK ? gradient_fit(t->gradient, batch, t->log_target, scale, result, err) : rc;
}

static int add_gradients(struct trainer *t, int64_t step, const struct gates *gates, struct step_sums *sums,
                         struct err *err) {
    const struct schedule *s = t->s;
    int n = s->sequences / s->accumulation, rc = OK;
    uint64_t first = (uint64_t)(step - 1) * (uint64_t)s->sequences;
    struct batches_size size = batches_measure(t->o->data, first, s->sequences);
    double loss_scale = size.n_predicted ? 1 / (double)size.n_predicted : 0;
    *sums = (struct step_sums){0};
    memset(t->n_open, 0, t->n_lanes * sizeof *t->n_open);
    memset(t->n_left, 0, t->n_lanes * sizeof *t->n_left);
    memset(t->n_far, 0, t->n_lanes * sizeof *t->n_far);
    params_zero_grad(t->params);
    for (int i = 0; i < s->accumulation && rc == OK; i++) {
        struct micro_batch batch;
        struct gradient_result result;
        batches_get(t->o->data, first + (uint64_t)(i * n), n, &batch);
        double share = (double)batch.row_splits[batch.n_seq] / (double)size.n_rows;
        rc = t->oracle ? fit(t, &batch, &result, err)
                       : gradient_add(t->gradient, &batch, gates, loss_scale, share, &result, err);
        if (rc == OK)
            add_result(t, &result, sums);
    }
    return rc;
}

/* One scalar a layer: every KV head gets the mean gradient, so that equal biases stay equal. */
static int tie_layers(struct trainer *t, struct err *err) {
    const struct model *m = t->o->model;
    for (size_t i = 0; i < t->params->n; i++) {
        const struct param *p = &t->params->list[i];
        float grad[1024], sum = 0;
        if (p->group != PARAM_PREDICTOR)
            continue;
        ASSERT(p->n <= sizeof grad / sizeof *grad);
        m->ops->download(m->dev, grad, p->grad, p->n * sizeof *grad);
        int rc = m->ops->sync(m->dev, err);
        if (rc != OK)
            return rc;
        for (size_t k = 0; k < p->n; k++)
            sum += grad[k];
        for (size_t k = 0; k < p->n; k++)
            grad[k] = sum / (float)p->n;
        m->ops->upload(m->dev, p->grad, grad, p->n * sizeof *grad);
    }
    return OK;
}

/* Clips as torch.nn.utils.clip_grad_norm_ does. */
static void update(struct trainer *t, int64_t step, const struct schedule_point *point, double norm) {
    const struct schedule *s = t->s;
    double clip = s->clip_norm > 0 ? fmin(1, s->clip_norm / (norm + 1e-6)) : 1;
    params_update(t->params, &(struct params_step){
        .lr_model = point->lr_model, .lr_predictor = point->lr_predictor, .beta1 = s->beta1, .beta2 = s->beta2,
        .eps = s->epsilon, .decay_model = s->weight_decay, .decay_predictor = s->predictor_weight_decay,
        .grad_scale = clip, .step = step, .freeze_predictor = point->freeze_predictor});
}

/* A loss that stays far above its running mean: at least a nat, as the first hard steps may be a multiple of almost 0. */
static int check_loss(struct trainer *t, double loss, struct err *err) {
    if (isnan(loss))
        return OK;
    if (isnan(t->mean_loss))
        t->mean_loss = loss;
    if (loss <= 3 * t->mean_loss || loss <= t->mean_loss + 1) {
        t->mean_loss = 0.98 * t->mean_loss + 0.02 * loss;
        t->n_above = 0;
        return OK;
    }
    if (++t->n_above < DIVERGED_STEPS)
        return OK;
    return err_set(err, ERR_INPUT, "", "the loss is %.4g, and has been above 3x its running mean of %.4g for %d steps "
                   "(try a smaller learning rate)", loss, t->mean_loss, DIVERGED_STEPS);
}

static void fill_row(const struct trainer *t, const struct schedule_point *point, const struct step_sums *sums,
                     struct train_log_row *row) {
    bool gated = t->o->policy->scorer == SCORER_PREDICTOR;
    row->n_tok = t->progress.n_tok;
    row->loss = sums->n_predicted ? sums->nll_sum / (double)sums->n_predicted : (double)NAN;
    row->lr_model = t->s->trained != TRAIN_PREDICTOR ? point->lr_model : 0;
    row->lr_predictor = point->freeze_predictor ? 0 : point->lr_predictor;
    row->blend = gated ? point->blend : (double)NAN;
    row->density_weight = point->density_weight * t->progress.control.factor;
    row->gate_density = gated ? ratio(sum_of(t->n_open, t->n_lanes), sums->n_rows * t->n_gates) : (double)NAN;
    row->long_range_density = ratio(sum_of(t->n_far, t->n_lanes), sum_of(t->n_left, t->n_lanes));
}

/* Forward, backward, update; fills the row. */
static int train_step(struct trainer *t, int64_t step, struct train_log_row *row, struct err *err) {
    const struct schedule *s = t->s;
    struct schedule_point point = schedule_at(s, step);
    struct gates gates = {.mode = point.mode, .blend = point.blend, .sample_clip = s->sample_clip, .seed = s->seed,
                          .density_weight = point.density_weight * t->progress.control.factor,
                          .freeze_predictor = point.freeze_predictor};
    struct step_sums sums;
    uint64_t start = clock_us();
    int rc = add_gradients(t, step, &gates, &sums, err);
    if (rc == OK && s->predictor_kind == PREDICTOR_STATIC_LAYER && !point.freeze_predictor)
        rc = tie_layers(t, err);
    if (rc == OK)
        rc = params_grad_norm(t->params, 1, &row->grad_norm, err);
    if (rc != OK)
        return rc;
    update(t, step, &point, row->grad_norm);
    if ((rc = t->o->model->ops->sync(t->o->model->dev, err)) != OK)
        return rc;
    t->progress.step = row->step = step;
    t->progress.n_tok += sums.n_rows;
    fill_row(t, &point, &sums, row);
    row->tok_per_s = (double)sums.n_rows * 1e6 / (double)(clock_us() - start + 1);
    if (t->o->gemm_tok_per_s > 0)
        row->gemm_frac = row->tok_per_s / t->o->gemm_tok_per_s;
    if (!point.freeze_predictor)
        t->progress.control = density_control_next(s, t->progress.control, row->long_range_density);
    return check_loss(t, row->loss, err);
}

/* --- evaluation ----------------------------------------------------------------------------------------------------- */

static int add_sequence(void *self, const struct sequence_report *r, struct err *err) {
    struct trainer *t = self;
    (void)err;
    for (size_t i = 0; i < t->n_lanes; i++) {
        t->n_left[i] += r->n_left_window[i];
        t->n_far[i] += r->n_kept[i];
    }
    return OK;
}

static int add_gates(void *self, const struct gate_report *r, struct err *err) {
    struct trainer *t = self;
    size_t n = r->n * (size_t)r->n_kv_heads;
    (void)err;
    for (int l = 0; l < r->n_layers && r->open; l++)
        for (size_t i = 0; i < n && r->gated[l]; i++)
            t->n_open[(size_t)l * (size_t)r->n_kv_heads + i % (size_t)r->n_kv_heads] +=
                r->open[(size_t)l * r->layer_stride + i];
    return OK;
}

/* Mean loss of the held-out text under a policy. */
static int run_eval(struct trainer *t, const struct policy *policy, const struct observer *observer, double *nll,
                    uint64_t *n_tok, struct err *err) {
    struct source source = pieces_reader_source(&t->eval);
    struct run_options options = {.policy = policy, .batch = EVAL_BATCH, .chunk = EVAL_CHUNK,
                                  .max_len = t->s->context_len, .n_shards = 1};
    struct run_totals totals = {0};
    int rc = run_source(t->o->model, &source, observer, &options, &totals, err);
    *nll = totals.n_predicted ? totals.nll_sum / (double)totals.n_predicted : (double)NAN;
    *n_tok = totals.n_tok;
    return rc;
}

static int evaluate(struct trainer *t, struct train_log_row *row, struct err *err) {
    bool gated = t->o->policy->scorer == SCORER_PREDICTOR;
    struct observer observer = {.self = t, .on_sequence = gated ? add_sequence : NULL, .on_gates = gated ? add_gates : NULL};
    const struct observer nothing = {0};
    uint64_t n_tok;
    memset(t->n_open, 0, t->n_lanes * sizeof *t->n_open);
    memset(t->n_left, 0, t->n_lanes * sizeof *t->n_left);
    memset(t->n_far, 0, t->n_lanes * sizeof *t->n_far);
    int rc = run_eval(t, t->o->policy, &observer, &row->eval_nll_hard, &n_tok, err);
    if (rc == OK && gated) {
        row->eval_gate_density = ratio(sum_of(t->n_open, t->n_lanes), n_tok * t->n_gates);
        row->eval_long_range_density = ratio(sum_of(t->n_far, t->n_lanes), sum_of(t->n_left, t->n_lanes));
    }
    if (rc == OK && strcmp(t->o->policy->name, t->o->full->name) != 0)
        return run_eval(t, t->o->full, &nothing, &row->eval_nll_full, &n_tok, err);
    row->eval_nll_full = row->eval_nll_hard;
    return rc;
}

static int log_heads(struct trainer *t, int64_t step, struct err *err) {
    const struct model_config *c = t->o->model->config;
    for (size_t i = 0; i < t->n_lanes; i++)
        t->density[i] = ratio(t->n_far[i], t->n_left[i]);
    return train_log_heads(t->log, step, c->n_layers, c->n_kv_heads, t->density, err);
}

/* --- the run -------------------------------------------------------------------------------------------------------- */

static struct train_log_row empty_row(void) {
    double no = (double)NAN;
    return (struct train_log_row){.loss = no, .lr_model = no, .lr_predictor = no, .blend = no, .density_weight = no,
                                  .gate_density = no, .long_range_density = no, .grad_norm = no, .tok_per_s = no,
                                  .eval_nll_hard = no, .eval_nll_full = no, .eval_gate_density = no,
                                  .eval_long_range_density = no, .gemm_frac = no};
}

static bool due(int64_t every, int64_t step, int64_t last) {
    return step == last || (every > 0 && step % every == 0);
}

static int save(struct trainer *t, struct err *err) {
    const struct trainer_options *o = t->o;
    uint64_t next = (uint64_t)t->progress.step * (uint64_t)t->s->sequences;
    struct batches_place place = batches_place(o->data, next);
    t->progress.data_epoch = place.epoch;
    t->progress.data_next = next;
    struct state_save what = {.out_dir = o->out_dir, .source = o->source, .params = t->params, .schedule = t->s,
                              .progress = &t->progress, .dtype = o->dtype, .protocol = o->protocol,
                              .version = o->version, .commit = o->commit};
    int rc = state_save(&what, err);
    if (rc != OK)
        return rc;
    t->saved_step = t->progress.step;
    if (o->observer->on_save)
        o->observer->on_save(o->observer->self, t->saved_step);
    return OK;
}

/* Evaluation and log of a step that is finished, or of the start. */
static int report(struct trainer *t, struct train_log_row *row, struct err *err) {
    const struct trainer_observer *observer = t->o->observer;
    bool eval_due = row->step == 0 || due(t->s->eval_every, row->step, t->s->steps);
    int rc = OK;
    if (eval_due && t->o->eval)
        rc = evaluate(t, row, err);
    if (rc == OK)
        rc = train_log_step(t->log, row, err);
    if (rc == OK && eval_due && t->o->policy->scorer == SCORER_PREDICTOR)
        rc = log_heads(t, row->step, err);
    if (rc == OK && eval_due && t->o->eval && observer->on_eval)
        observer->on_eval(observer->self, row);
    if (rc == OK && row->step > 0 && observer->on_step)
        observer->on_step(observer->self, row);
    return rc;
}

/* Names the step and the checkpoint that is left in front of what happened. */
static int explain(const struct trainer *t, int64_t step, const struct err *what, struct err *err) {
    if (what->code != ERR_INPUT)
        return err_set(err, what->code, what->where, "%s", what->message);
    if (t->saved_step == 0)
        return err_set(err, what->code, what->where, "step %lld: %s\nThere is no checkpoint yet", (long long)step,
                       what->message);
    return err_set(err, what->code, what->where, "step %lld: %s\nThe last good checkpoint is %s/checkpoint, of step %lld",
                   (long long)step, what->message, t->o->out_dir, (long long)t->saved_step);
}

static int run_steps(struct trainer *t, struct train_log_row *row, struct err *err) {
    int rc = OK;
    for (int64_t step = t->progress.step + 1; rc == OK && step <= t->s->steps; step++) {
        struct err what = {0};
        *row = empty_row();
        if ((rc = train_step(t, step, row, &what)) != OK)
            return explain(t, step, &what, err);
        bool stop = t->o->stop && *t->o->stop;
        if ((rc = report(t, row, err)) == OK && (stop || due(t->s->save_every, step, t->s->steps)))
            rc = save(t, err);
        if (rc == OK && stop && step < t->s->steps)
            rc = err_set(err, ERR_INCOMPLETE, t->o->out_dir, "stopped after step %lld of %lld, which is saved",
                         (long long)step, (long long)t->s->steps);
    }
    return rc;
}

static int open_oracle(struct trainer *t, size_t max_rows, struct err *err) {
    t->log_target = mem_alloc(max_rows, t->n_lanes * sizeof *t->log_target, "targets", err);
    return t->log_target ? oracle_target_create(t->o->model, t->o->full, t->s->context_len, &t->oracle, err) : ERR_MEMORY;
}

static int open_run(struct trainer *t, struct err *err) {
    const struct trainer_options *o = t->o;
    const struct model_config *c = o->model->config;
    struct batches_options data = trainer_batches(t->s, c->vocab_size);
    struct gradient_options options = {.max_rows = (size_t)data.max_sequences * (size_t)data.context_len,
                                       .max_len = t->s->context_len, .recompute = t->s->recompute, .policy = o->policy};
    int rc = ERR_MEMORY;
    t->n_lanes = (size_t)c->n_layers * (size_t)c->n_kv_heads;
    for (int l = 0; l < c->n_layers; l++)
        t->n_gates += c->layers[l].sliding_window == 0 ? (size_t)c->n_kv_heads : 0;
    if (!(t->n_open = mem_alloc(t->n_lanes, sizeof *t->n_open, "counters", err)) ||
        !(t->n_left = mem_alloc(t->n_lanes, sizeof *t->n_left, "counters", err)) ||
        !(t->n_far = mem_alloc(t->n_lanes, sizeof *t->n_far, "counters", err)) ||
        !(t->density = mem_alloc(t->n_lanes, sizeof *t->density, "counters", err)))
        return rc;
    if ((rc = params_create(o->model, t->s->trained, &t->params, err)) == OK)
        rc = gradient_create(t->params, &options, &t->gradient, err);
    if (rc == OK && t->s->target == TARGET_ORACLE)
        rc = open_oracle(t, options.max_rows, err);
    if (rc == OK && o->eval)
        rc = pieces_reader_open(o->eval, &t->eval, err);
    return rc;
}

/* From the checkpoint where there is one; the data must be the same. */
static int load(struct trainer *t, struct err *err) {
    char hash[33];
    bool found;
    batches_hash(t->o->data, hash);
    t->progress.control = density_control_start();
    memcpy(t->progress.data_hash, hash, sizeof hash);
    int rc = state_find(t->o->out_dir, &found, err);
    if (rc != OK || !found)
        return rc;
    rc = state_load(t->o->out_dir, t->o->source, t->params, t->s, &t->progress, err);
    if (rc == OK && strcmp(t->progress.data_hash, hash) != 0)
        rc = err_set(err, ERR_INPUT, t->o->out_dir, "the corpora are not those that the run began with: their files have "
                     "changed");
    t->saved_step = t->progress.step;
    return rc;
}

int trainer_run(const struct trainer_options *o, struct train_log_row *last, struct err *err) {
    struct trainer t = {.o = o, .s = o->schedule, .mean_loss = (double)NAN};
    *last = empty_row();
    int rc = open_run(&t, err);
    if (rc == OK)
        rc = state_clean(o->out_dir, err);
    if (rc == OK)
        rc = load(&t, err);
    if (rc == OK)
        rc = train_log_open(o->out_dir, t.progress.step, &t.log, err);
    if (rc == OK && t.progress.step == 0 && o->eval)
        rc = report(&t, last, err);
    if (rc == OK)
        rc = run_steps(&t, last, err);
    int closed = train_log_close(t.log, rc == OK ? err : NULL);
    pieces_reader_close(&t.eval);
    gradient_free(t.gradient);
    oracle_target_free(t.oracle);
    free(t.log_target);
    params_free(t.params);
    free(t.n_open);
    free(t.n_left);
    free(t.n_far);
    free(t.density);
    return rc != OK ? rc : closed;
}
