/* test_gradient.c - gradients of whole models of every family: against central differences in double, against themselves
 * (recomputed layers, frozen models, the guard), and losses against a session with a cache. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "engine/session.h"
#include "tests/must.h"
#include "tests/op_util.h"
#include "tests/train_case.h"

enum { MAX_CASES = 64 };

static const struct gates soft = {.mode = GATES_SOFT}, hard = {.mode = GATES_HARD};
static const double STEP = 1e-4; /* length of a move of parameters */

static const struct predictor_config *predictor_of(const struct train_case *t) {
    return checkpoint_predictor(t->model_case.checkpoint);
}

static bool can_train_gates(const struct train_case *t) {
    return predictor_of(t) && predictor_of(t)->sigmoid;
}

/* Layers that gates act in. */
static int n_gated_layers(const struct train_case *t) {
    int n = 0;
    for (int l = 0; l < t->model->config->n_layers; l++)
        n += t->model->config->layers[l].sliding_window == 0;
    return n;
}

/* What gradient_add() differentiates. */
static double loss_of(struct train_case *t, const struct gates *gates) {
    struct gradient_result r = train_case_add(t, gates);
    int n_kv_heads = t->model->config->n_kv_heads;
    double sum = 0;
    for (int i = 0; i < t->model->config->n_layers * n_kv_heads; i++)
        sum += r.utility_sum[i];
    double n_gates = (double)(n_gated_layers(t) * n_kv_heads) * (double)r.n_rows;
    return r.nll_sum + (n_gates > 0 ? (double)(float)(gates->density_weight / n_gates) * sum : 0);
}

/* --- central differences -------------------------------------------------------------------------------------------- */

/* A random direction in the space of one parameter, with its values and its gradient. */
struct ray {
    struct param *param;
    double *value, *grad, *direction;
};

static struct ray ray_make(const struct train_case *t, struct param *param, struct rnd *rnd) {
    struct ray ray = {.param = param, .value = train_case_read(t, param->master, param->n),
                      .grad = train_case_read(t, param->grad, param->n),
                      .direction = zalloc(param->n, sizeof(double))};
    rnd_fill(rnd, ray.direction, param->n, -1, 1);
    return ray;
}

static void ray_free(struct ray *ray) {
    free(ray->value);
    free(ray->grad);
    free(ray->direction);
}

static void ray_move(const struct train_case *t, const struct ray *ray, double step) {
    double *moved = zalloc(ray->param->n, sizeof *moved);
    for (size_t i = 0; i < ray->param->n; i++)
        moved[i] = ray->value[i] + step * ray->direction[i];
    train_case_write(t, ray->param, moved);
    free(moved);
}

static double ray_slope(const struct ray *ray) {
    double sum = 0;
    for (size_t i = 0; i < ray->param->n; i++)
        sum += ray->grad[i] * ray->direction[i];
    return sum;
}

/* The slope of the loss along rays[0..n) together. */
static double measured_slope(struct train_case *t, const struct gates *gates, const struct ray *rays, size_t n) {
    double loss[2], length = 0;
    for (size_t i = 0; i < n; i++)
        length += (double)rays[i].param->n / 3; /* mean square of a uniform number in -1 .. 1 */
    double step = STEP / sqrt(length);
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++)
            ray_move(t, &rays[i], side ? step : -step);
        loss[side] = loss_of(t, gates);
    }
    for (size_t i = 0; i < n; i++)
        ray_move(t, &rays[i], 0);
    return (loss[1] - loss[0]) / (2 * step);
}

/* The error of central differences: some 1e2 rounded losses of about 5 nat over the step, and its square (times a third
 * derivative like the gradient itself). */
static void check_rays(struct train_case *t, const struct gates *gates, const struct ray *rays, size_t n, const char *what) {
    double slope = 0, norm = 0, measured = measured_slope(t, gates, rays, n);
    for (size_t i = 0; i < n; i++) {
        slope += ray_slope(&rays[i]);
        for (size_t k = 0; k < rays[i].param->n; k++)
            norm += rays[i].grad[k] * rays[i].grad[k] / 3;
    }
    double error = fabs(slope - measured), tolerance = 1e-6 * sqrt(norm) + 1e-9;
    if (!(error <= tolerance))
        fail_msg("%s, policy %s, gates %d, %s: slope %.12g, measured %.12g, off by %.3g (tolerance %.3g)", t->model_case.dir,
                 t->policy->name, (int)gates->mode, what, slope, measured, error, tolerance);
}

/* Each parameter alone, or all in one direction. */
static void check_slopes(struct train_case *t, const struct gates *gates, bool each) {
    struct ray *rays = zalloc(t->params->n, sizeof *rays);
    struct rnd rnd = {.seed = 7};
    train_case_add(t, gates);
    for (size_t i = 0; i < t->params->n; i++)
        rays[i] = ray_make(t, &t->params->list[i], &rnd);
    if (!each)
        check_rays(t, gates, rays, t->params->n, "all parameters");
    for (size_t i = 0; i < t->params->n && each; i++)
        check_rays(t, gates, &rays[i], 1, t->params->list[i].name);
    for (size_t i = 0; i < t->params->n; i++)
        ray_free(&rays[i]);
    free(rays);
}

/* Gates drawn once, in place of those that would jump while a parameter moves. */
static uint8_t *impose_gates(struct train_case *t) {
    size_t n = (size_t)t->model->config->n_layers * (size_t)t->splits[t->batch.n_seq] * (size_t)t->model->config->n_kv_heads;
    uint8_t *open = zalloc(n, 1);
    struct rnd rnd = {.seed = 11};
    for (size_t i = 0; i < n; i++)
        open[i] = rnd_unit(&rnd) < 0.4;
    t->batch.imposed_open = open;
    return open;
}

/* Gates of a predictor in every mode that has a slope. */
static void check_predictor_gates(struct train_case *t) {
    const struct gates dense = {.mode = GATES_SOFT, .density_weight = 30};
    const struct gates annealed = {.mode = GATES_ANNEALED, .blend = 0.7}, closed = {.mode = GATES_ANNEALED, .blend = 1};
    train_case_use(t, "spkv", false);
    if (can_train_gates(t)) {
        check_slopes(t, &dense, true);
        check_slopes(t, &soft, false);
    }
    uint8_t *imposed = impose_gates(t);
    if (can_train_gates(t))
        check_slopes(t, &annealed, false);
    if (can_train_gates(t))
        check_slopes(t, &closed, false);
    check_slopes(t, &hard, false);
    t->batch.imposed_open = NULL;
    free(imposed);
}

static void check_case_slopes(const char *name) {
    static const char *const fixed[] = {"full", "window", "random", "layout_windows"};
    struct train_case t;
    train_case_open(name, &(struct train_options){.ops = ops_ref(), .dtype = DTYPE_F64}, &t);
    t.batch.n_seq--; /* the longest */
    if (predictor_of(&t))
        check_predictor_gates(&t);
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
        train_case_use(&t, fixed[i], false);
        check_slopes(&t, &hard, false);
    }
    train_case_close(&t);
}

/* Low-rank updates alone, under a frozen model: where nobody's weights can be trained but theirs. */
static void test_lora_slopes(void **state) {
    static const char *const policies[] = {"full", "window", "spkv"};
    (void)state;
    struct train_case t;
    train_case_open("llama-lora", &(struct train_options){.ops = ops_ref(), .dtype = DTYPE_F64, .what = TRAIN_LORA}, &t);
    t.batch.n_seq--;
    size_t n_lora = 0;
    for (size_t i = 0; i < t.params->n; i++)
        n_lora += strstr(t.params->list[i].name, ".lora_") != NULL;
    assert_int_equal(n_lora, 2 * 2 * 4); /* A and B of q, k, v, o in two layers */
    uint8_t *imposed = impose_gates(&t);
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        train_case_use(&t, policies[i], false);
        check_slopes(&t, &hard, i == 0);
    }
    t.batch.imposed_open = NULL;
    free(imposed);
    train_case_close(&t);
}

/* --- the same gradients in other ways ------------------------------------------------------------------------------- */

/* All gradients of the parameters, one after the other. */
static double *all_gradients(const struct train_case *t) {
    double *out = zalloc(t->params->n_items, sizeof *out);
    size_t at = 0;
    for (size_t i = 0; i < t->params->n; i++) {
        double *grad = train_case_read(t, t->params->list[i].grad, t->params->list[i].n);
        memcpy(out + at, grad, t->params->list[i].n * sizeof *grad);
        at += t->params->list[i].n;
        free(grad);
    }
    return out;
}

static void assert_same_gradients(const struct train_case *a, const double *want, const double *got, const char *what) {
    size_t at = 0;
    for (size_t i = 0; i < a->params->n; at += a->params->list[i++].n)
        for (size_t k = 0; k < a->params->list[i].n; k++)
            if (want[at + k] != got[at + k])
                fail_msg("%s, %s: gradient of %s[%zu] is %.17g, expected %.17g", a->model_case.dir, what,
                         a->params->list[i].name, k, got[at + k], want[at + k]);
}

static void check_recompute(const char *name, enum trained what) {
    struct train_case t;
    train_case_open(name, &(struct train_options){.ops = ops_cpu(), .dtype = DTYPE_F32, .what = what}, &t);
    const struct gates sampled = {.mode = GATES_SAMPLED, .sample_clip = 0.05, .seed = 3, .density_weight = 1};
    bool gates = can_train_gates(&t);
    const char *policy = gates ? "spkv" : "random";
    train_case_use(&t, policy, false);
    train_case_add(&t, gates ? &sampled : &hard);
    double *kept = all_gradients(&t);
    train_case_use(&t, policy, true);
    train_case_add(&t, gates ? &sampled : &hard);
    double *again = all_gradients(&t);
    assert_same_gradients(&t, kept, again, "recomputed layers");
    free(kept);
    free(again);
    train_case_close(&t);
}

static void check_recompute_all(const char *name) {
    check_recompute(name, TRAIN_ALL);
}

/* What GATES_SAMPLED draws, for micro_batch.imposed_open. */
static uint8_t *draw_gates(const struct train_case *t, const struct gates *gates) {
    size_t n_rows = (size_t)t->splits[t->batch.n_seq];
    size_t n_layers = (size_t)t->model->config->n_layers, kv = (size_t)t->model->config->n_kv_heads;
    float *nll = zalloc(n_rows, sizeof *nll), *utility = zalloc(n_layers * n_rows * kv, sizeof *utility);
    uint8_t *open = zalloc(n_layers * n_rows * kv, 1);
    float clip = (float)gates->sample_clip;
    struct err err = {0};
    must(gradient_forward(t->gradient, &t->batch, gates, nll, utility, &err), &err);
    for (size_t l = 0; l < n_layers; l++)
        for (int i = 0; i < t->batch.n_seq; i++)
            for (int r = t->splits[i]; r < t->splits[i + 1]; r++)
                for (size_t h = 0; h < kv; h++) {
                    size_t at = (l * n_rows + (size_t)r) * kv + h;
                    float drawn = rng_uniform(gates->seed, t->sequence_id[i], (uint32_t)l, (uint32_t)h,
                                              (uint32_t)(r - t->splits[i]));
                    open[at] = drawn < fminf(fmaxf(utility[at], clip), 1 - clip);
                }
    free(nll);
    free(utility);
    return open;
}

/* Sampled gates act as the same gates imposed, for losses and for the gradients of the model. */
static void test_sampled(void **state) {
    (void)state;
    struct train_case t;
    const struct gates sampled = {.mode = GATES_SAMPLED, .sample_clip = 0.1, .seed = 5, .freeze_predictor = true};
    const struct gates imposed = {.mode = GATES_ANNEALED, .blend = 1, .freeze_predictor = true};
    struct gates training = sampled;
    training.freeze_predictor = false;
    train_case_open("llama-gqa", &(struct train_options){.ops = ops_ref(), .dtype = DTYPE_F32, .policy = "spkv"}, &t);
    uint8_t *open = draw_gates(&t, &sampled);
    struct gradient_result a = train_case_add(&t, &sampled);
    double *got = all_gradients(&t);
    t.batch.imposed_open = open;
    struct gradient_result b = train_case_add(&t, &imposed);
    double *want = all_gradients(&t);
    assert_true(a.nll_sum == b.nll_sum);
    assert_same_gradients(&t, want, got, "sampled gates");
    t.batch.imposed_open = NULL;
    train_case_add(&t, &training);
    struct param *bias = params_find(t.params, "model.layers.1.self_attn.utility_predictor.fc2.bias");
    double *reached = train_case_read(&t, bias->grad, bias->n);
    assert_true(reached[0] != 0 && isfinite(reached[0]));
    free(reached);
    free(open);
    free(got);
    free(want);
    train_case_close(&t);
}

/* A frozen model's predictor gets the gradients that it gets in training of everything. */
static void check_frozen(const char *name) {
    struct train_options options = {.ops = ops_ref(), .dtype = DTYPE_F32, .policy = "spkv"};
    struct train_case whole, frozen;
    train_case_open(name, &options, &whole);
    options.what = TRAIN_PREDICTOR;
    train_case_open(name, &options, &frozen);
    train_case_add(&whole, &soft);
    train_case_add(&frozen, &soft);
    assert_true(frozen.params->n > 0 && frozen.params->n < whole.params->n);
    for (size_t i = 0; i < frozen.params->n; i++) {
        const struct param *param = &frozen.params->list[i], *same = params_find(whole.params, param->name);
        assert_non_null(same);
        assert_int_equal(param->group, PARAM_PREDICTOR);
        double *got = train_case_read(&frozen, param->grad, param->n), *want = train_case_read(&whole, same->grad, param->n);
        for (size_t k = 0; k < param->n; k++)
            if (got[k] != want[k])
                fail_msg("%s: gradient of %s[%zu] is %.17g, expected %.17g", name, param->name, k, got[k], want[k]);
        free(got);
        free(want);
    }
    train_case_close(&whole);
    train_case_close(&frozen);
}

static void check_guard(const char *name, enum trained what, const struct gates *gates) {
    struct train_options options = {.ops = ops_ref(), .dtype = DTYPE_F32, .what = what, .policy = "spkv"};
    struct train_case ref, guard;
    train_case_open(name, &options, &ref);
    options.ops = ops_guard();
    train_case_open(name, &options, &guard);
    struct gradient_result a = train_case_add(&ref, gates), b = train_case_add(&guard, gates);
    assert_true(a.nll_sum == b.nll_sum);
    double *want = all_gradients(&ref), *got = all_gradients(&guard);
    assert_same_gradients(&ref, want, got, "guard");
    free(want);
    free(got);
    train_case_close(&ref);
    train_case_close(&guard);
}

/* --- losses against a session --------------------------------------------------------------------------------------- */

static void check_session(struct train_case *t, const char *policy) {
    size_t n_rows = (size_t)t->splits[t->batch.n_seq];
    size_t kv = (size_t)t->model->config->n_kv_heads, n_layers = (size_t)t->model->config->n_layers;
    float *nll = zalloc(n_rows, sizeof *nll), *utility = zalloc(n_rows * n_layers * kv, sizeof *utility);
    struct session *session;
    struct err err = {0};
    train_case_use(t, policy, false);
    must(gradient_forward(t->gradient, &t->batch, &hard, nll, utility, &err), &err);
    const struct session_options options = {.n_slots = 1, .max_len = CASE_MAX_TOKENS / 4, .max_rows = CASE_MAX_TOKENS / 4,
                                            .policy = t->policy};
    must(session_create(t->model, &options, &session, &err), &err);
    for (int i = 0; i < t->batch.n_seq; i++) {
        const int32_t *tokens = t->ids + t->splits[i];
        size_t first = (size_t)t->splits[i], n = (size_t)t->splits[i + 1] - first;
        float want[CASE_MAX_TOKENS];
        const float *want_utility;
        const uint8_t *open;
        session_reset(session, 0, t->sequence_id[i]);
        must(session_prefill(session, 0, tokens, n, n, &err), &err);
        must(session_nll(session, t->target + first, want, NULL, &err), &err);
        must(session_gates(session, &want_utility, &open, &err), &err);
        for (size_t r = 0; r < n; r++)
            if (t->target[first + r] < 0 ? !isnan(nll[first + r]) : !(fabsf(nll[first + r] - want[r]) <= 1e-6f * want[r]))
                fail_msg("%s, policy %s, sequence %d: loss after %zu is %.9g, expected %.9g", t->model_case.dir, policy, i,
                         r, (double)nll[first + r], (double)want[r]);
        for (size_t k = 0; k < n_layers * n * kv && t->policy->scorer == SCORER_PREDICTOR; k++) {
            size_t l = k / (n * kv), r = k / kv % n, h = k % kv;
            float got = utility[(l * n_rows + first + r) * kv + h];
            if (!(fabsf(got - want_utility[k]) <= 1e-6f))
                fail_msg("%s: utility of layer %zu, row %zu, head %zu is %.9g, expected %.9g", t->model_case.dir, l, r, h,
                         (double)got, (double)want_utility[k]);
        }
    }
    session_free(session);
    free(nll);
    free(utility);
}

static void check_case_losses(const char *name) {
    struct train_case t;
    const char *policy;
    json_t *value;
    train_case_open(name, &(struct train_options){.ops = ops_ref(), .dtype = DTYPE_F64}, &t);
    json_object_foreach(json_object_get(t.model_case.json, "policies"), policy, value)
        check_session(&t, policy);
    train_case_close(&t);
}

/* Losses with updates beside their weights against those of a session over the model in which they are merged, which happens
 * in f32: eps(f32) of a weight, through four products a layer and two layers. */
static void test_lora_losses(void **state) {
    (void)state;
    struct train_case apart, merged;
    struct train_options options = {.ops = ops_ref(), .dtype = DTYPE_F64, .what = TRAIN_LORA};
    struct err err = {0};
    train_case_open("llama-lora", &options, &apart);
    options.what = TRAIN_ALL;
    train_case_open("llama-lora", &options, &merged);
    size_t n_rows = (size_t)apart.splits[apart.batch.n_seq];
    float *nll = zalloc(n_rows, sizeof *nll), *want = zalloc(n_rows, sizeof *want);
    train_case_use(&apart, "full", false);
    train_case_use(&merged, "full", false);
    must(gradient_forward(apart.gradient, &apart.batch, &hard, nll, NULL, &err), &err);
    must(gradient_forward(merged.gradient, &merged.batch, &hard, want, NULL, &err), &err);
    for (size_t r = 0; r < n_rows; r++)
        if (apart.target[r] >= 0 && !(fabsf(nll[r] - want[r]) <= 2e-6f * want[r]))
            fail_msg("loss after %zu is %.9g, merged %.9g", r, (double)nll[r], (double)want[r]);
    check_session(&apart, "full"); /* evaluation during training: a session over the model as it is */
    free(nll);
    free(want);
    train_case_close(&apart);
    train_case_close(&merged);
}

/* --- results -------------------------------------------------------------------------------------------------------- */

static void test_counts(void **state) {
    (void)state;
    struct train_case t;
    train_case_open("smollm3-sliding", &(struct train_options){.ops = ops_ref(), .dtype = DTYPE_F32, .policy = "spkv"}, &t);
    const struct model_config *c = t.model->config;
    size_t n_rows = (size_t)t.splits[t.batch.n_seq], kv = (size_t)c->n_kv_heads, lanes = (size_t)c->n_layers * kv;
    float *nll = zalloc(n_rows, sizeof *nll), *utility = zalloc(n_rows * lanes, sizeof *utility);
    struct err err = {0};
    must(gradient_forward(t.gradient, &t.batch, &soft, nll, utility, &err), &err);
    struct gradient_result r = train_case_add(&t, &soft);
    size_t n_predicted = 0;
    double sum = 0;
    for (size_t i = 0; i < n_rows; i++) {
        n_predicted += t.target[i] >= 0;
        sum += t.target[i] >= 0 ? (double)nll[i] : 0;
    }
    assert_int_equal(r.n_rows, n_rows);
    assert_int_equal(r.n_predicted, n_predicted);
    assert_true(fabs(r.nll_sum - sum) <= 1e-6 * sum);
    for (size_t lane = 0; lane < lanes; lane++) {
        double utilities = 0;
        uint64_t n_open = 0, n_left = 0, n_far = 0;
        for (int i = 0; i < t.batch.n_seq && c->layers[lane / kv].sliding_window == 0; i++)
            for (int s = t.splits[i]; s < t.splits[i + 1]; s++) {
                float u = utility[(lane / kv * n_rows + (size_t)s) * kv + lane % kv];
                bool left = s - t.splits[i] >= t.policy->sinks && t.splits[i + 1] - s > t.policy->window[lane];
                utilities += (double)u;
                n_open += u >= (float)t.policy->threshold;
                n_left += left;
                n_far += left && u >= (float)t.policy->threshold;
            }
        assert_true(fabs(r.utility_sum[lane] - utilities) <= 1e-9 * utilities);
        assert_int_equal(r.n_open[lane], n_open);
        assert_int_equal(r.n_left[lane], n_left);
        assert_int_equal(r.n_far[lane], n_far);
    }
    assert_true(r.n_left[0] > 0 && r.n_far[0] > 0 && r.n_far[0] < r.n_left[0]);
    free(nll);
    free(utility);
    train_case_close(&t);
}

static void must_refuse_batch(struct train_case *t, const char *message) {
    struct gradient_result r;
    struct err err = {0};
    assert_int_equal(gradient_add(t->gradient, &t->batch, &soft, 1, 1, &r, &err), ERR_INPUT);
    if (!strstr(err.message, message))
        fail_msg("says \"%s\", expected \"%s\"", err.message, message);
}

static void test_refusals(void **state) {
    (void)state;
    struct train_case t;
    struct err err = {0};
    double norm;
    train_case_open("qwen3-bias", &(struct train_options){.ops = ops_ref(), .dtype = DTYPE_F32, .policy = "spkv"}, &t);
    train_case_add(&t, &soft);
    must(params_grad_norm(t.params, 2, &norm, &err), &err);
    double *grad = all_gradients(&t), sum = 0;
    for (size_t i = 0; i < t.params->n_items; i++)
        sum += grad[i] * grad[i];
    assert_true(fabs(norm - 2 * sqrt(sum)) <= 1e-9 * norm);
    free(grad);
    struct param *param = params_find(t.params, "model.layers.1.self_attn.k_norm.weight");
    assert_non_null(param);
    double *values = train_case_read(&t, param->master, param->n);
    values[0] = NAN;
    train_case_write(&t, param, values);
    free(values);
    must_refuse_batch(&t, "the loss is not finite");
    assert_int_equal(params_grad_norm(t.params, 1, &norm, &err), ERR_INPUT);
    assert_non_null(params_find(t.params, err.where));
    t.ids[3] = 4000;
    must_refuse_batch(&t, "token id 4000");
    train_case_close(&t);
    train_case_open("qwen2-full", &(struct train_options){.ops = ops_ref(), .dtype = DTYPE_F32, .policy = "spkv"}, &t);
    must_refuse_batch(&t, "sigmoid");
    train_case_close(&t);
}

/* --- all cases ------------------------------------------------------------------------------------------------------ */

static void for_all(void (*check)(const char *name)) {
    char names[MAX_CASES][64];
    int n = model_case_list(names, MAX_CASES);
    assert_in_range(n, 15, MAX_CASES);
    for (int i = 0; i < n; i++)
        check(names[i]);
}

static void test_slopes(void **state) {
    (void)state;
    for_all(check_case_slopes);
}

static void test_losses(void **state) {
    (void)state;
    for_all(check_case_losses);
}

static void test_recompute(void **state) {
    (void)state;
    for_all(check_recompute_all);
    check_recompute("llama-lora", TRAIN_LORA);
}

static void test_frozen(void **state) {
    (void)state;
    check_frozen("gemma2");
    check_frozen("llama-gqa");
    check_frozen("llama-static");
}

static void test_guard(void **state) {
    (void)state;
    check_guard("gemma3-pattern", TRAIN_ALL, &soft);
    check_guard("llama-gqa", TRAIN_ALL, &soft);
    check_guard("llama-lora", TRAIN_LORA, &hard);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_losses), cmocka_unit_test(test_slopes), cmocka_unit_test(test_recompute),
        cmocka_unit_test(test_frozen), cmocka_unit_test(test_guard),  cmocka_unit_test(test_counts),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_sampled), cmocka_unit_test(test_lora_slopes),
        cmocka_unit_test(test_lora_losses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
