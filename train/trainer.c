#include "train/trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "train/evaluate.h"

enum { DIVERGED_STEPS = 50 }; /* in a row above DIVERGED_FACTOR times the mean */
static const double DIVERGED_FACTOR = 3, MEAN_DECAY = 0.99;

struct trainer {
    const struct trainer_options *o;
    const struct schedule *s;
    struct gradient *gradient;
    struct train_log *log;
    struct progress_state progress;
    int64_t saved_step;
    double mean_loss; /* running, NaN before the first step */
    int n_high;       /* steps in a row far above it */
    struct lane_counts {
        uint64_t *left, *far; /* (n_layers, n_kv_heads) of the step in hand */
        double *density;
    } lanes;
    uint64_t n_open, n_gates, n_left, n_far, n_rows, n_predicted;
    double nll_sum;
};

static size_t n_lanes(const struct trainer *t) {
    const struct model_config *c = t->o->params->model->config;
    return (size_t)c->n_layers * (size_t)c->n_kv_heads;
}

static double ratio(uint64_t a, uint64_t b) {
    return b ? (double)a / (double)b : (double)NAN;
}

/* ---- one step -------------------------------------------------------------------------------------------------------- */

static void step_clear(struct trainer *t) {
    t->n_open = t->n_gates = t->n_left = t->n_far = t->n_rows = t->n_predicted = 0;
    t->nll_sum = 0;
    memset(t->lanes.left, 0, n_lanes(t) * sizeof *t->lanes.left);
    memset(t->lanes.far, 0, n_lanes(t) * sizeof *t->lanes.far);
}

static void step_count(struct trainer *t, const struct gradient_result *r) {
    const struct model_config *c = t->o->params->model->config;
    t->nll_sum += r->nll_sum;
    t->n_predicted += r->n_predicted;
    t->n_rows += r->n_rows;
    for (size_t i = 0; schedule_gated(t->s) && i < n_lanes(t); i++) {
        if (c->layers[i / (size_t)c->n_kv_heads].sliding_window > 0)
            continue;
        t->n_gates += r->n_rows;
        t->n_open += r->n_open[i];
        t->n_left += t->lanes.left[i] += r->n_left[i], t->n_far += t->lanes.far[i] += r->n_far[i];
    }
}

/* Adds the gradients of all micro-batches. The loss is a mean over the predicted tokens of the whole step, which are not
 * known before the last micro-batch: gradients are of sums, and divided when the optimiser takes them. */
static int step_gradients(struct trainer *t, const struct gates *gates, struct err *err) {
    int rc = OK;
    step_clear(t);
    params_zero_grad(t->o->params);
    for (int i = 0; i < t->s->accumulation && rc == OK; i++) {
        struct micro_batch batch = batches_next(t->o->batches);
        struct gradient_result r;
        uint64_t n_targets = 0;
        for (int row = 0; row < batch.row_splits[batch.n_seq]; row++)
            n_targets += batch.target[row] >= 0;
        if ((rc = gradient_add(t->gradient, &batch, gates, 1, (double)n_targets, &r, err)) == OK)
            step_count(t, &r);
    }
    return rc;
}

/* The last good state, for messages about the step after it. */
static int diverged(const struct trainer *t, struct err *err, const char *what) {
    return err_set(err, ERR_INPUT, t->o->out_dir, "step %lld: %s; %s%lld. Try a lower learning_rate or clip_norm",
                   (long long)t->progress.step + 1, what,
                   t->saved_step ? "the last good state is the saved one of step " : "nothing was saved since step ",
                   (long long)t->saved_step);
}

static int check_loss(struct trainer *t, double loss, struct err *err) {
    if (isnan(t->mean_loss))
        t->mean_loss = loss;
    t->n_high = loss > DIVERGED_FACTOR * t->mean_loss ? t->n_high + 1 : 0;
    t->mean_loss = MEAN_DECAY * t->mean_loss + (1 - MEAN_DECAY) * (t->n_high ? t->mean_loss : loss);
    return t->n_high >= DIVERGED_STEPS ? diverged(t, err, "the loss has stayed above three times its mean") : OK;
}

static int step_update(struct trainer *t, const struct schedule_point *point, double *norm, struct err *err) {
    const struct schedule *s = t->s;
    double scale = t->n_predicted ? 1 / (double)t->n_predicted : 0;
    int rc = params_grad_norm(t->o->params, scale, norm, err);
    if (rc == ERR_INPUT) {
        char what[256];
        snprintf(what, sizeof what, "%.80s: %.160s", err->where, err->message);
        return diverged(t, err, what);
    }
    if (rc == OK)
        params_update(t->o->params, &(struct params_step){
            .lr_model = point->lr_model, .lr_predictor = point->lr_predictor, .beta1 = s->beta1, .beta2 = s->beta2,
            .eps = s->epsilon, .decay_model = s->weight_decay, .decay_predictor = s->predictor_weight_decay,
            .grad_scale = s->clip_norm > 0 && *norm > s->clip_norm ? scale * s->clip_norm / *norm : scale,
            .step = t->progress.step + 1, .freeze_predictor = point->freeze_predictor});
    return rc;
}

static int step_run(struct trainer *t, struct train_log_row *row, struct err *err) {
    struct schedule_point point = schedule_at(t->s, t->progress.step + 1);
    double density_weight = point.density_weight * t->progress.control.factor;
    const struct gates gates = {.mode = point.mode, .blend = point.blend, .sample_clip = t->s->sample_clip,
                                .seed = t->s->seed, .density_weight = density_weight,
                                .freeze_predictor = point.freeze_predictor};
    uint64_t start = clock_us();
    double norm = 0;
    int rc = step_gradients(t, &gates, err);
    if (rc == ERR_INPUT) {
        char what[256];
        snprintf(what, sizeof what, "%.200s", err->message);
        return diverged(t, err, what);
    }
    double loss = t->nll_sum / (double)t->n_predicted, density = ratio(t->n_far, t->n_left);
    if (rc != OK || (rc = step_update(t, &point, &norm, err)) != OK || (rc = check_loss(t, loss, err)) != OK)
        return rc;
    if (point.mode == GATES_SOFT || point.mode == GATES_SAMPLED)
        t->progress.control = density_control_next(t->s, t->progress.control, density);
    t->progress.step++;
    t->progress.n_tok += t->n_rows;
    *row = (struct train_log_row){
        .step = t->progress.step, .n_tok = t->progress.n_tok, .loss = loss, .lr_model = point.lr_model,
        .lr_predictor = point.lr_predictor, .blend = point.blend, .density_weight = density_weight,
        .gate_density = ratio(t->n_open, t->n_gates), .long_range_density = density, .grad_norm = norm,
        .tok_per_s = (double)t->n_rows * 1e6 / (double)(clock_us() - start), .eval_nll_hard = NAN, .eval_nll_full = NAN,
        .eval_gate_density = NAN, .eval_long_range_density = NAN};
    return OK;
}

/* ---- the run --------------------------------------------------------------------------------------------------------- */

static int save(struct trainer *t, struct err *err) {
    const struct trainer_options *o = t->o;
    if (t->saved_step == t->progress.step)
        return OK;
    int rc = state_save(&(struct state_save){.out_dir = o->out_dir, .source = o->source, .params = o->params,
                                             .schedule = t->s, .progress = &t->progress, .dtype = o->save_dtype,
                                             .protocol = o->protocol, .version = o->version, .commit = o->commit}, err);
    if (rc == OK)
        t->saved_step = t->progress.step;
    return rc;
}

static bool due(int64_t step, int64_t every, int64_t last) {
    return step == last || (every > 0 && step % every == 0);
}

static int evaluate(struct trainer *t, struct train_log_row *row, struct err *err) {
    const struct trainer_options *o = t->o;
    struct evaluation hard = {0}, full = {0};
    int rc = evaluate_run(o->params->model, o->full, o->held_out, t->s->context_len, &full, err);
    row->eval_nll_full = full.nll;
    if (rc != OK || !o->hard)
        return rc;
    if ((rc = evaluate_run(o->params->model, o->hard, o->held_out, t->s->context_len, &hard, err)) != OK)
        return rc;
    row->eval_nll_hard = hard.nll;
    row->eval_gate_density = hard.gate_density;
    row->eval_long_range_density = hard.long_range_density;
    return OK;
}

static int log_heads(struct trainer *t, struct err *err) {
    const struct model_config *c = t->o->params->model->config;
    for (size_t i = 0; i < n_lanes(t); i++)
        t->lanes.density[i] = ratio(t->lanes.far[i], t->lanes.left[i]);
    return train_log_heads(t->log, t->progress.step, c->n_layers, c->n_kv_heads, t->lanes.density, err);
}

/* Steps until the schedule ends or a stop is asked for. */
static int run_steps(struct trainer *t, struct trainer_result *result, struct err *err) {
    const struct schedule *s = t->s;
    struct train_log_row row;
    int rc = OK;
    while (rc == OK && t->progress.step < s->steps) {
        if (t->o->stop && *t->o->stop) {
            rc = save(t, err);
            return rc != OK ? rc : err_set(err, ERR_INCOMPLETE, t->o->out_dir, "stopped after step %lld of %lld; spkv train "
                                           "resume goes on", (long long)t->progress.step, (long long)s->steps);
        }
        if ((rc = step_run(t, &row, err)) != OK)
            break;
        bool looked = due(row.step, s->eval_every, s->steps);
        if (looked && t->o->held_out)
            rc = evaluate(t, &row, err);
        if (rc == OK)
            rc = train_log_step(t->log, &row, err);
        if (rc == OK && looked && schedule_gated(s))
            rc = log_heads(t, err);
        if (rc == OK && due(row.step, s->save_every, s->steps))
            rc = save(t, err);
        if (rc == OK && t->o->on_step)
            t->o->on_step(t->o->self, &row);
        result->last = row;
        result->n_steps++;
    }
    result->n_tok = t->progress.n_tok;
    return rc;
}

static int open_run(struct trainer *t, struct err *err) {
    const struct trainer_options *o = t->o;
    const struct schedule *s = t->s;
    char hash[33];
    int rc = state_clean(o->out_dir, err);
    batches_hash(o->batches, hash);
    if (rc == OK && o->resume)
        rc = state_load(o->out_dir, o->source, o->params, s, &t->progress, err);
    if (rc == OK && o->resume && strcmp(t->progress.data_hash, hash) != 0)
        rc = err_set(err, ERR_INPUT, o->out_dir, "the saved run saw other training data (%s, now %s): give it the same corpora",
                     t->progress.data_hash, hash);
    if (rc != OK)
        return rc;
    memcpy(t->progress.data_hash, hash, sizeof hash);
    t->saved_step = t->progress.step;
    batches_seek(o->batches, (uint64_t)(t->progress.step * s->accumulation));
    if ((rc = train_log_open(o->out_dir, t->progress.step, &t->log, err)) != OK)
        return rc;
    size_t max_rows = (size_t)(s->sequences / s->accumulation) * (size_t)s->context_len;
    return gradient_create(o->params, &(struct gradient_options){.max_rows = max_rows, .max_len = s->context_len,
                                                                 .recompute = s->recompute, .policy = o->policy},
                           &t->gradient, err);
}

int trainer_run(const struct trainer_options *o, struct trainer_result *result, struct err *err) {
    struct trainer t = {.o = o, .s = o->schedule, .mean_loss = NAN, .progress.control = density_control_start()};
    uint64_t start = clock_us();
    size_t n = n_lanes(&t);
    int rc = ERR_MEMORY;
    *result = (struct trainer_result){0};
    if ((t.lanes.left = mem_alloc(n, sizeof *t.lanes.left, "counters", err)) &&
        (t.lanes.far = mem_alloc(n, sizeof *t.lanes.far, "counters", err)) &&
        (t.lanes.density = mem_alloc(n, sizeof *t.lanes.density, "counters", err)) && (rc = open_run(&t, err)) == OK)
        rc = run_steps(&t, result, err);
    struct err *first = rc == OK ? err : NULL; /* an error of closing counts where there was none before */
    int closed = train_log_close(t.log, first);
    rc = rc == OK ? closed : rc;
    gradient_free(t.gradient);
    free(t.lanes.left);
    free(t.lanes.far);
    free(t.lanes.density);
    result->seconds = (double)(clock_us() - start) * 1e-6;
    return rc;
}
