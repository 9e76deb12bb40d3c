/* test_fit.c - a predictor fitted to the oracle: targets against PyTorch's future attention (tests/data/models), the
 * gradient against central differences in double, the same on the CPU, and a fit that finds what there is to find. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/op_util.h"
#include "tests/train_case.h"
#include "train/oracle_target.h"
#include "train/schedule.h"

static void must(int rc, const struct err *err) {
    if (rc != OK)
        fail_msg("%s: %s", err->where, err->message);
}

static size_t n_gates(const struct train_case *t) {
    return (size_t)t->splits[t->batch.n_seq] * (size_t)t->model->config->n_layers * (size_t)t->model->config->n_kv_heads;
}

/* What the oracle says of the case's sequences; freed by the caller. */
static float *make_targets(const struct train_case *t) {
    struct policy *full = model_case_policy(&t->model_case, "full");
    struct oracle_target *oracle;
    struct err err = {0};
    float *target = zalloc(n_gates(t), sizeof *target);
    must(oracle_target_create(t->model, full, CASE_MAX_TOKENS / 4, &oracle, &err), &err);
    must(oracle_target_fill(oracle, &t->batch, target, &err), &err);
    oracle_target_free(oracle);
    policy_free(full);
    return target;
}

/* --- targets ---------------------------------------------------------------------------------------------------------- */

static void check_targets(const char *name) {
    struct train_case t;
    train_case_open(name, &(struct train_options){.ops = ops_cpu(), .dtype = DTYPE_F32, .what = TRAIN_PREDICTOR}, &t);
    size_t layers = (size_t)t.model->config->n_layers, kv = (size_t)t.model->config->n_kv_heads;
    size_t n_rows = (size_t)t.splits[t.batch.n_seq], n_targets = 0;
    float *target = make_targets(&t);
    for (int i = 0; i < t.batch.n_seq; i++) {
        const struct tensor *max = model_case_expected(&t.model_case, i, "full", "future_max");
        for (size_t k = 0; k < max->n_items; k++) {
            size_t row = (size_t)t.splits[i] + k / kv / layers;
            double got = (double)target[(k / kv % layers * n_rows + row) * kv + k % kv], want = expected_at(max, k);
            n_targets += !isnan(want);
            /* The weight is right within 1e-5 (test_model.c); here it is a logarithm. */
            if (isnan(got) != isnan(want) || fabs(exp(got) - fmax(want, 1e-6)) > 1e-5)
                fail_msg("%s, sequence %d: target %zu is %g, expected log %g", name, i, k, got, want);
        }
    }
    assert_true(n_targets > 100);
    free(target);
    train_case_close(&t);
}

static void test_targets(void **state) {
    (void)state;
    check_targets("llama-gqa");
    check_targets("gemma3"); /* sliding layers, one KV head */
}

/* --- gradients -------------------------------------------------------------------------------------------------------- */

static struct gradient_result fit(const struct train_case *t, const float *target, double scale) {
    struct gradient_result result;
    struct err err = {0};
    params_zero_grad(t->params);
    must(gradient_fit(t->gradient, &t->batch, target, scale, &result, &err), &err);
    return result;
}

/* The slope along one random direction in the space of all parameters, for a step as in test_gradient.c. */
static void check_differences(struct train_case *t, const float *target) {
    struct rnd rnd = {.seed = 3};
    size_t n = t->params->n;
    double **value = zalloc(n, sizeof *value), **direction = zalloc(n, sizeof *direction), sums[2], slope = 0, length = 0;
    double first = fit(t, target, 1).nll_sum, norm = 0;
    for (size_t i = 0; i < n; i++) {
        const struct param *p = &t->params->list[i];
        double *grad = train_case_read(t, p->grad, p->n);
        value[i] = train_case_read(t, p->master, p->n);
        direction[i] = zalloc(p->n, sizeof **direction);
        rnd_fill(&rnd, direction[i], p->n, -1, 1);
        for (size_t k = 0; k < p->n; k++) {
            slope += grad[k] * direction[i][k];
            norm += grad[k] * grad[k] / 3;
        }
        length += (double)p->n / 3;
        free(grad);
    }
    double step = 1e-4 / sqrt(length);
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++) {
            for (size_t k = 0; k < t->params->list[i].n; k++)
                value[i][k] += (side ? -2 : 1) * step * direction[i][k];
            train_case_write(t, &t->params->list[i], value[i]);
        }
        sums[side] = fit(t, target, 1).nll_sum;
    }
    /* Rounding of the sum over the step, and the step's square times a third derivative like the gradient itself. */
    double want = (sums[0] - sums[1]) / (2 * step), tolerance = 1e-6 * sqrt(norm) + 1e-15 * first / step;
    if (!(fabs(slope - want) <= tolerance) || fabs(want) < 0.1 * sqrt(norm))
        fail_msg("%s: the slope is %.9g, differences give %.9g (tolerance %.3g)", t->model_case.dir, slope, want, tolerance);
    for (size_t i = 0; i < n; i++)
        free(value[i]), free(direction[i]);
    free(value), free(direction);
}

static void test_differences(void **state) {
    static const char *const names[] = {"llama-gqa", "gemma3", "smollm3-soft"}; /* normed; sliding layers; residual */
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct train_case t;
        train_case_open(names[i], &(struct train_options){.ops = ops_ref(), .dtype = DTYPE_F64, .what = TRAIN_PREDICTOR,
                                                          .policy = "spkv"}, &t);
        float *target = make_targets(&t);
        check_differences(&t, target);
        free(target);
        train_case_close(&t);
    }
}

/* --- on the CPU: equal to the reference, and going down --------------------------------------------------------------- */

static double *gradients_on(const struct ops *ops, const float *target, size_t *n, double *sum) {
    struct train_case t;
    train_case_open("llama-gqa", &(struct train_options){.ops = ops, .dtype = DTYPE_F32, .what = TRAIN_PREDICTOR,
                                                         .policy = "spkv"}, &t);
    *sum = fit(&t, target, 1e-3).nll_sum;
    *n = 0;
    for (size_t i = 0; i < t.params->n; i++)
        *n += t.params->list[i].n;
    double *out = zalloc(*n, sizeof *out);
    for (size_t i = 0, at = 0; i < t.params->n; at += t.params->list[i++].n) {
        double *grad = train_case_read(&t, t.params->list[i].grad, t.params->list[i].n);
        memcpy(out + at, grad, t.params->list[i].n * sizeof *grad);
        free(grad);
    }
    train_case_close(&t);
    return out;
}

static void test_backends_agree(void **state) {
    struct train_case t;
    size_t n, m;
    double sum, other, largest = 0;
    (void)state;
    train_case_open("llama-gqa", &(struct train_options){.ops = ops_ref(), .dtype = DTYPE_F32, .what = TRAIN_PREDICTOR}, &t);
    float *target = make_targets(&t);
    train_case_close(&t);
    double *want = gradients_on(ops_ref(), target, &n, &sum), *got = gradients_on(ops_cpu(), target, &m, &other);
    assert_int_equal(n, m);
    for (size_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(want[i]));
    compare_within("gradients of the fit", got, want, n, 1e-4 * largest, 0); /* as losses of whole models in f32 */
    assert_true(fabs(sum - other) <= 1e-4 * sum);
    free(want), free(got), free(target);
}

/* 60 steps of AdamW: below the variance of the targets within a head, which a bias alone would reach. */
static void test_fit_learns(void **state) {
    struct train_case t;
    struct gradient_result r = {0};
    (void)state;
    train_case_open("llama-gqa", &(struct train_options){.ops = ops_cpu(), .dtype = DTYPE_F32, .what = TRAIN_PREDICTOR,
                                                         .policy = "spkv"}, &t);
    size_t kv = (size_t)t.model->config->n_kv_heads, lanes = kv * (size_t)t.model->config->n_layers;
    size_t n_rows = (size_t)t.splits[t.batch.n_seq];
    float *target = make_targets(&t);
    double variance = 0, first;
    for (size_t lane = 0; lane < lanes; lane++) {
        double sum = 0, squares = 0, n = 0;
        for (size_t row = 0; row < n_rows; row++) {
            double x = (double)target[(lane / kv * n_rows + row) * kv + lane % kv];
            sum += isnan(x) ? 0 : x;
            squares += isnan(x) ? 0 : x * x;
            n += !isnan(x);
        }
        variance += squares - sum * sum / n;
    }
    r = fit(&t, target, 1);
    first = r.nll_sum;
    for (int step = 1; step <= 60; step++) {
        r = fit(&t, target, 1 / (double)r.n_predicted);
        params_update(t.params, &(struct params_step){.lr_predictor = 0.02, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8,
                                                      .grad_scale = 1, .step = step});
    }
    print_message("squared errors: %.0f at first, %.0f after 60 steps, %.0f with a bias alone\n", first, r.nll_sum,
                  variance);
    assert_true(r.nll_sum < 0.8 * variance);
    free(target);
    train_case_close(&t);
}

/* --- the schedule ----------------------------------------------------------------------------------------------------- */

static void test_schedule(void **state) {
    struct schedule s = schedule_default_oracle();
    struct err err = {0};
    (void)state;
    s.steps = 10;
    must(schedule_check(&s, "", &err), &err);
    assert_int_equal(s.trained, TRAIN_PREDICTOR);
    s.trained = TRAIN_ALL;
    assert_int_equal(schedule_check(&s, "", &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "frozen model"));
    s.trained = TRAIN_PREDICTOR;
    s.density_weight = 0.1;
    err = (struct err){0};
    assert_int_equal(schedule_check(&s, "", &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "density_weight"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_targets),        cmocka_unit_test(test_differences), cmocka_unit_test(test_backends_agree),
        cmocka_unit_test(test_fit_learns),     cmocka_unit_test(test_schedule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
