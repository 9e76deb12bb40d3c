#include "train/gradient.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "train/backward.h"

struct gradient {
    struct params *params;
    const struct model *model;
    struct gradient_options options;
    struct activations a;
    struct backward_space space;
    float *rope[2];          /* device */
    float *head_score;       /* device (n_layers, n_kv_heads) */
    int32_t *target;         /* device (max_rows) */
    float *nll;              /* device (max_rows) */
    int *window;             /* (n_layers, n_kv_heads) host: INT_MAX where every pair is kept */
    int *everything;         /* the same under full attention */
    int32_t *pos;            /* host (max_rows) */
    int *pos0;               /* host (max_rows) zeros */
    void *host_nll;          /* host copies: reals as the device has them */
    void *host_utility;
    uint8_t *host_open;
    void *host_log;          /* logarithms of utilities, made on first use */
    size_t host_log_bytes;
    double *utility_sum;     /* (n_layers, n_kv_heads), and so on */
    uint64_t *n_open, *n_left, *n_far;
};

static size_t n_lanes(const struct gradient *g) {
    return (size_t)g->model->config->n_layers * (size_t)g->model->config->n_kv_heads;
}

/* --- life ----------------------------------------------------------------------------------------------------------- */

static void *device_array(struct gradient *g, size_t count, size_t size, int *rc) {
    size_t n_bytes;
    void *out = NULL;
    if (*rc == OK && size_mul(count, size, &n_bytes))
        out = g->model->ops->mem_alloc(g->model->dev, n_bytes);
    if (!out && *rc == OK)
        *rc = ERR_MEMORY;
    return out;
}

static void *host_array(size_t count, size_t size, int *rc, struct err *err) {
    void *out = *rc == OK ? mem_alloc(count, size, "a micro-batch", err) : NULL;
    if (!out && *rc == OK)
        *rc = ERR_MEMORY;
    return out;
}

static int create_buffers(struct gradient *g, struct err *err) {
    size_t rows = g->options.max_rows, lanes = n_lanes(g), real = real_size(g->model->ops, g->model->dev);
    int rc = OK;
    g->target = device_array(g, rows, sizeof *g->target, &rc);
    g->nll = device_array(g, rows, real, &rc);
    g->window = host_array(lanes, sizeof *g->window, &rc, err);
    g->everything = host_array(lanes, sizeof *g->everything, &rc, err);
    g->pos = host_array(rows, sizeof *g->pos, &rc, err);
    g->pos0 = host_array(rows, sizeof *g->pos0, &rc, err);
    g->host_nll = host_array(rows, real, &rc, err);
    g->host_utility = host_array(rows * lanes, real, &rc, err);
    g->host_open = host_array(rows * lanes, 1, &rc, err);
    g->utility_sum = host_array(lanes, sizeof *g->utility_sum, &rc, err);
    g->n_open = host_array(lanes, sizeof *g->n_open, &rc, err);
    g->n_left = host_array(lanes, sizeof *g->n_left, &rc, err);
    g->n_far = host_array(lanes, sizeof *g->n_far, &rc, err);
    return rc;
}

/* A head whose gates are all open by policy sees everything: no gates to look at. */
static void set_windows(struct gradient *g) {
    const struct policy *policy = g->options.policy;
    const struct model_config *c = g->model->config;
    for (size_t i = 0; i < n_lanes(g); i++) {
        bool sliding = c->layers[i / (size_t)c->n_kv_heads].sliding_window > 0;
        bool all = policy->scorer == SCORER_CONST && (double)policy->head_score[i] >= policy->threshold;
        g->window[i] = all && !sliding ? INT_MAX : policy->window[i];
        g->everything[i] = sliding ? policy->window[i] : INT_MAX;
    }
}

int gradient_create(struct params *params, const struct gradient_options *options, struct gradient **out, struct err *err) {
    const struct model *m = params->model;
    struct gradient *g = mem_alloc(1, sizeof *g, "gradients", err);
    *out = NULL;
    if (!g)
        return ERR_MEMORY;
    g->params = params;
    g->model = m;
    g->options = *options;
    int rc = OK;
    if (options->policy->scorer == SCORER_GATES || options->policy->scorer == SCORER_GIVEN)
        rc = err_set(err, ERR_USAGE, "", "policy %s cannot be trained under (its gates are not the model's)",
                     options->policy->name);
    else if (options->max_len < 1 || options->max_len > m->config->max_positions)
        rc = err_set(err, ERR_USAGE, "", "%d tokens are more than the %d positions of this model (use a shorter context)",
                     options->max_len, m->config->max_positions);
    if (rc == OK)
        rc = create_buffers(g, err);
    if (rc == OK)
        rc = activations_create(m, options->max_rows, options->recompute ? KEEP_INPUTS : KEEP_ALL, false, &g->a, err);
    if (rc == OK)
        rc = backward_space_create(m, options->max_rows, &g->space, err);
    if (rc == OK)
        rc = model_upload_rope(m, (size_t)options->max_len, g->rope, err);
    if (rc == OK && !(g->head_score = model_upload_real(m->ops, m->dev, options->policy->head_score, n_lanes(g), err)))
        rc = ERR_MEMORY;
    if (rc == OK)
        rc = m->ops->sync(m->dev, err);
    if (rc == ERR_MEMORY)
        rc = err_set(err, rc, "", "out of memory for micro-batches of %zu tokens (try smaller ones, or --recompute)",
                     options->max_rows);
    if (rc == OK) {
        set_windows(g);
        *out = g;
    } else {
        gradient_free(g);
    }
    return rc;
}

void gradient_free(struct gradient *g) {
    if (!g)
        return;
    void *on_device[] = {g->rope[0], g->rope[1], g->head_score, g->target, g->nll};
    void *on_host[] = {g->window, g->everything, g->pos, g->pos0, g->host_nll, g->host_utility, g->host_open, g->host_log,
                       g->utility_sum, g->n_open, g->n_left, g->n_far};
    for (size_t i = 0; i < sizeof on_device / sizeof *on_device; i++)
        g->model->ops->mem_free(g->model->dev, on_device[i]);
    for (size_t i = 0; i < sizeof on_host / sizeof *on_host; i++)
        free(on_host[i]);
    activations_free(g->model, &g->a);
    backward_space_free(g->model, &g->space);
    free(g);
}

/* --- forward -------------------------------------------------------------------------------------------------------- */

static bool trains_gates(const struct gradient *g, const struct gates *gates) {
    return g->options.policy->scorer == SCORER_PREDICTOR && gates->mode != GATES_HARD && !gates->freeze_predictor;
}

static int check_ids(const struct gradient *g, const struct micro_batch *batch, size_t n_rows, struct err *err) {
    int vocab = g->model->config->vocab_size;
    for (size_t r = 0; r < n_rows; r++) {
        int32_t id = batch->ids[r], target = batch->target[r];
        if (id < 0 || id >= vocab || target < -1 || target >= vocab)
            return err_set(err, ERR_INPUT, "",
                           "token id %d is not below the vocabulary size %d of the model\n"
                           "(is the tokenizer.json of another model beside these weights?)",
                           id < 0 || id >= vocab ? id : target, vocab);
    }
    return OK;
}

/* Checks the micro-batch and uploads it. */
static int stage(struct gradient *g, const struct micro_batch *batch, struct err *err) {
    const struct model *m = g->model;
    const int *splits = batch->row_splits;
    size_t n_rows = (size_t)splits[batch->n_seq];
    ASSERT(batch->n_seq >= 1 && splits[0] == 0 && n_rows <= g->options.max_rows);
    int rc = check_ids(g, batch, n_rows, err);
    if (rc != OK)
        return rc;
    for (int i = 0; i < batch->n_seq; i++) {
        ASSERT(splits[i + 1] > splits[i] && splits[i + 1] - splits[i] <= g->options.max_len);
        for (int r = splits[i]; r < splits[i + 1]; r++)
            g->pos[r] = r - splits[i];
    }
    m->ops->upload(m->dev, g->a.ids, batch->ids, n_rows * sizeof *batch->ids);
    m->ops->upload(m->dev, g->a.pos, g->pos, n_rows * sizeof *g->pos);
    m->ops->upload(m->dev, g->target, batch->target, n_rows * sizeof *batch->target);
    if (batch->imposed_open)
        m->ops->upload(m->dev, g->a.acting, batch->imposed_open, n_rows * n_lanes(g));
    return OK;
}

/* How the gates act; a fixed policy's are hard. */
static struct step_sequences sequences_of(const struct gradient *g, const struct micro_batch *batch,
                                          const struct gates *gates) {
    enum scorer scorer = g->options.policy->scorer;
    bool predictor = scorer == SCORER_PREDICTOR, sampled = predictor && gates->mode == GATES_SAMPLED;
    return (struct step_sequences){
        .window = g->window, .gates = scorer != SCORER_CONST, .hard = !predictor || gates->mode == GATES_HARD,
        .blend = sampled ? 1 : gates->mode == GATES_ANNEALED ? (float)gates->blend : 0,
        .imposed = predictor && !sampled && batch->imposed_open, .sampled = sampled,
        .sample_clip = (float)gates->sample_clip, .seed = gates->seed};
}

static struct step step_of(struct gradient *g, const struct micro_batch *batch, const struct step_sequences *sequences) {
    return (struct step){
        .batch = {.n_seq = batch->n_seq, .row_splits = batch->row_splits, .pos0 = g->pos0,
                  .sequence_id = batch->sequence_id},
        .n_rows = (size_t)batch->row_splits[batch->n_seq], .policy = g->options.policy, .rope = g->rope,
        .head_score = g->head_score, .a = &g->a, .sequences = sequences};
}

static struct nll_args loss_of(const struct gradient *g, size_t n_rows) {
    const struct model *m = g->model;
    return (struct nll_args){.w = m->lm_head, .x = g->a.final, .target = g->target,
                             .softcap = (float)m->config->final_softcap, .n_rows = n_rows, .nll = g->nll};
}

/* --- results -------------------------------------------------------------------------------------------------------- */

/* Losses, utilities and gates of n_rows rows into host memory; waits. */
static int fetch(struct gradient *g, size_t n_rows, struct err *err) {
    const struct model *m = g->model;
    size_t real = real_size(m->ops, m->dev), n = n_rows * n_lanes(g);
    m->ops->download(m->dev, g->host_nll, g->nll, n_rows * real);
    if (g->options.policy->scorer == SCORER_PREDICTOR) {
        m->ops->download(m->dev, g->host_utility, g->a.utility, n * real);
        m->ops->download(m->dev, g->host_open, g->a.open, n);
    }
    return m->ops->sync(m->dev, err);
}

static double real_of(const struct gradient *g, const void *data, size_t i) {
    return dtype_load(data, real_size(g->model->ops, g->model->dev) == 8 ? DTYPE_F64 : DTYPE_F32, i);
}

/* Adds the pairs of one sequence in one (layer, KV head). */
static void count_pairs(struct gradient *g, size_t lane, int first, int end, size_t n_rows) {
    size_t kv = (size_t)g->model->config->n_kv_heads, layer = lane / kv, head = lane % kv;
    int left_end = end - g->options.policy->window[lane], left_begin = first + g->options.policy->sinks;
    for (int r = first; r < end; r++) {
        size_t at = (layer * n_rows + (size_t)r) * kv + head;
        bool open = g->host_open[at], left = r >= left_begin && r < left_end;
        g->utility_sum[lane] += real_of(g, g->host_utility, at);
        g->n_open[lane] += open;
        g->n_left[lane] += left;
        g->n_far[lane] += left && open;
    }
}

static void count_gates(struct gradient *g, const struct micro_batch *batch) {
    const struct model_config *c = g->model->config;
    size_t lanes = n_lanes(g), n_rows = (size_t)batch->row_splits[batch->n_seq];
    memset(g->utility_sum, 0, lanes * sizeof *g->utility_sum);
    memset(g->n_open, 0, lanes * sizeof *g->n_open);
    memset(g->n_left, 0, lanes * sizeof *g->n_left);
    memset(g->n_far, 0, lanes * sizeof *g->n_far);
    if (g->options.policy->scorer != SCORER_PREDICTOR)
        return;
    for (size_t lane = 0; lane < lanes; lane++)
        for (int i = 0; i < batch->n_seq && c->layers[lane / (size_t)c->n_kv_heads].sliding_window == 0; i++)
            count_pairs(g, lane, batch->row_splits[i], batch->row_splits[i + 1], n_rows);
}

static int sum_losses(const struct gradient *g, const struct micro_batch *batch, struct gradient_result *result,
                      struct err *err) {
    size_t n_rows = (size_t)batch->row_splits[batch->n_seq];
    *result = (struct gradient_result){.n_rows = n_rows, .utility_sum = g->utility_sum, .n_open = g->n_open,
                                       .n_left = g->n_left, .n_far = g->n_far};
    for (size_t r = 0; r < n_rows; r++)
        if (batch->target[r] >= 0) {
            result->nll_sum += real_of(g, g->host_nll, r);
            result->n_predicted++;
        }
    return isfinite(result->nll_sum) ? OK : err_set(err, ERR_INPUT, "", "the loss is not finite (try a smaller learning "
                                                                        "rate, or the last checkpoint)");
}

/* --- the entries ---------------------------------------------------------------------------------------------------- */

/* Gates that gradients reach in n_rows rows. */
static double n_gates(const struct gradient *g, size_t n_rows) {
    const struct model_config *c = g->model->config;
    size_t n = 0;
    for (int l = 0; l < c->n_layers; l++)
        n += c->layers[l].sliding_window == 0;
    return (double)(n * n_rows * (size_t)c->n_kv_heads);
}

static int check_sigmoid(const struct gradient *g, struct err *err) {
    if (g->model->predictor->sigmoid)
        return OK;
    return err_set(err, ERR_INPUT, "", "gates train through their logarithm, and this predictor's output is not between 0 "
                                       "and 1 (only \"output\": \"sigmoid\" can be trained)");
}

int gradient_add(struct gradient *g, const struct micro_batch *batch, const struct gates *gates, double loss_scale,
                 double density_share, struct gradient_result *result, struct err *err) {
    const struct step_sequences sequences = sequences_of(g, batch, gates);
    const struct step step = step_of(g, batch, &sequences);
    const struct nll_args loss = loss_of(g, step.n_rows);
    bool utilities = trains_gates(g, gates);
    int rc = utilities ? check_sigmoid(g, err) : OK;
    if (rc != OK || (rc = stage(g, batch, err)) != OK)
        return rc;
    model_forward(g->model, &step);
    model_backward(g->model, &(struct backward_args){
        .step = &step, .params = g->params, .space = &g->space, .loss = &loss, .loss_scale = (float)loss_scale,
        .utilities = utilities, .slope = gates->mode == GATES_SAMPLED ? 1 : 1 - sequences.blend,
        .density = utilities ? (float)(gates->density_weight * density_share / n_gates(g, step.n_rows)) : 0,
        .recompute = g->options.recompute});
    if ((rc = fetch(g, step.n_rows, err)) != OK)
        return rc;
    count_gates(g, batch);
    return sum_losses(g, batch, result, err);
}

int gradient_forward(struct gradient *g, const struct micro_batch *batch, const struct gates *gates, float *nll,
                     float *utility, struct err *err) {
    const struct step_sequences sequences = sequences_of(g, batch, gates);
    const struct step step = step_of(g, batch, &sequences);
    const struct nll_args loss = loss_of(g, step.n_rows);
    int rc = stage(g, batch, err);
    if (rc != OK)
        return rc;
    model_forward(g->model, &step);
    g->model->ops->nll(g->model->dev, &loss);
    rc = fetch(g, step.n_rows, err);
    for (size_t r = 0; r < step.n_rows && rc == OK; r++)
        nll[r] = (float)real_of(g, g->host_nll, r);
    for (size_t i = 0; i < step.n_rows * n_lanes(g) && utility && rc == OK; i++)
        utility[i] = (float)real_of(g, g->host_utility, i);
    return rc;
}

/* --- a predictor fitted to targets ------------------------------------------------------------------------------------ */

static bool scored(const struct gradient *g, int l) {
    return g->model->config->layers[l].sliding_window == 0;
}

/* Utilities, their gates and their logarithms in layer l, whose input is still there. */
static void log_utilities(const struct gradient *g, const struct step *step, int l) {
    const struct model *m = g->model;
    const struct predict_args args = model_predict_args(m, step, l);
    uint8_t *open = g->a.open + gates_at(m, step, l);
    size_t n = args.n_rows * args.n_kv_heads;
    m->ops->predict(m->dev, &args);
    m->ops->gate(m->dev, args.u, n, (float)step->policy->threshold, step->policy->strict, open);
    m->ops->train->gate_log(m->dev, &(struct gate_log_args){.u = args.u, .open = open, .n = n,
                                                            .log_gate = real_at(m, g->a.log_gate, gates_at(m, step, l))});
}

/* In the place of the logarithms: 2 error_scale (log u - target), 0 where there is no target. Waits. */
static int put_residuals(struct gradient *g, const struct step *step, const float *log_target, double error_scale,
                         struct gradient_result *result, struct err *err) {
    const struct model *m = g->model;
    size_t kv = (size_t)m->config->n_kv_heads, real = real_size(m->ops, m->dev), n = step->n_rows * n_lanes(g);
    enum dtype dtype = real == 8 ? DTYPE_F64 : DTYPE_F32;
    int rc = mem_grow(&g->host_log, &g->host_log_bytes, n * real, 1, "logarithms", err);
    if (rc != OK)
        return rc;
    m->ops->download(m->dev, g->host_log, g->a.log_gate, n * real);
    if ((rc = m->ops->sync(m->dev, err)) != OK)
        return rc;
    for (size_t i = 0; i < n; i++) {
        bool there = scored(g, (int)(i / (step->n_rows * kv))) && !isnan(log_target[i]);
        double error = there ? dtype_load(g->host_log, dtype, i) - (double)log_target[i] : 0;
        dtype_store(g->host_log, dtype, i, 2 * error_scale * error);
        result->nll_sum += error * error;
        result->n_predicted += there;
    }
    m->ops->upload(m->dev, g->a.log_gate, g->host_log, n * real);
    return isfinite(result->nll_sum) ? OK : err_set(err, ERR_INPUT, "", "the utilities are not finite (try a smaller "
                                                                        "learning rate, or the last checkpoint)");
}

static void fit_layer(const struct gradient *g, const struct step *step, int l) {
    const struct model *m = g->model;
    const struct model_layer *w = &m->layers[l];
    const struct predict_args forward = model_predict_args(m, step, l);
    m->ops->train->gate_log_grad(m->dev, &(struct gate_log_grad_args){
        .u = forward.u, .open = g->a.open + gates_at(m, step, l), .n = forward.n_rows * forward.n_kv_heads, .slope = 1,
        .dlog_gate = real_at(m, g->a.log_gate, gates_at(m, step, l)), .du = g->space.dutility});
    m->ops->train->predict_grad(m->dev, &(struct predict_grad_args){
        .forward = &forward, .du = g->space.dutility, .dfc1 = params_grad_of(g->params, w->fc1),
        .db1 = params_grad_of(g->params, w->b1), .dfc2 = params_grad_of(g->params, w->fc2),
        .db2 = params_grad_of(g->params, w->b2)});
}

int gradient_fit(struct gradient *g, const struct micro_batch *batch, const float *log_target, double error_scale,
                 struct gradient_result *result, struct err *err) {
    const struct step_sequences everything = {.window = g->everything};
    const struct step step = step_of(g, batch, &everything);
    *result = (struct gradient_result){.n_rows = step.n_rows, .utility_sum = g->utility_sum, .n_open = g->n_open,
                                       .n_left = g->n_left, .n_far = g->n_far};
    ASSERT(g->options.policy->scorer == SCORER_PREDICTOR && !g->options.recompute);
    int rc = check_sigmoid(g, err);
    if (rc != OK || (rc = stage(g, batch, err)) != OK)
        return rc;
    model_forward(g->model, &step);
    for (int l = 0; l < g->model->config->n_layers; l++)
        if (scored(g, l))
            log_utilities(g, &step, l);
    rc = put_residuals(g, &step, log_target, error_scale, result, err);
    for (int l = 0; l < g->model->config->n_layers && rc == OK; l++)
        if (scored(g, l))
            fit_layer(g, &step, l);
    if (rc == OK && (rc = fetch(g, step.n_rows, err)) == OK)
        count_gates(g, batch);
    return rc;
}
