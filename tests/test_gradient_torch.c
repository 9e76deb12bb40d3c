/* test_gradient_torch.c - gradients of whole models against PyTorch (tests/data/gradients, see the README there): every
 * family under full attention and under soft, annealed, frozen and hard gates, on every backend that trains. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/cpu/cpu.h"
#include "kernels/train_ops.h"
#include "tests/must.h"
#include "tests/op_util.h"
#include "tests/train_case.h"

enum { MAX_CASES = 64, ROW_STRIDE = 7 };
static const double DENSITY_WEIGHT = 0.1, BLEND = 0.5;

static const struct mode {
    const char *name, *policy;
    struct gates gates;
} modes[] = {
    {"full", "full", {.mode = GATES_HARD}},
    {"soft", "spkv", {.mode = GATES_SOFT, .density_weight = DENSITY_WEIGHT}},
    {"annealed", "spkv", {.mode = GATES_ANNEALED, .blend = BLEND, .density_weight = DENSITY_WEIGHT}},
    {"frozen", "spkv", {.mode = GATES_ANNEALED, .blend = BLEND, .freeze_predictor = true}},
    {"hard", "spkv", {.mode = GATES_HARD}},
};

struct setting {
    const char *name;
    const struct ops *ops;
    bool together; /* all sequences in one micro-batch, or each alone and gradients added up */
};

/* What is compared at hand, and the largest errors seen, as a share of the largest gradient of the tensor. */
struct check {
    const struct setting *setting;
    const char *name;
    const struct mode *mode;
    struct train_case t;
    struct safetensors expected;
    double worst_grad, worst_loss, worst_utility;
};

static const struct tensor *expected_of(const struct check *c, const char *what) {
    char name[192];
    snprintf(name, sizeof name, "%s.%s", c->mode->name, what);
    return safetensors_find(&c->expected, name);
}

/* --- gradients of utilities, which are seen only on their way to the predictor ------------------------------------ */

/* Between the trainer and a backend: hands predict_grad on after keeping what it was given. */
static struct {
    const struct train_ops *real;
    struct train_ops train;
    struct ops ops;
    float *du[8]; /* of the gated layers of the last micro-batch, the last layer first */
    int n;
} spy;

static void spy_predict_grad(struct device *dev, const struct predict_grad_args *a) {
    size_t n = a->forward->n_rows * a->forward->n_kv_heads;
    struct err err = {0};
    assert_true(spy.n < 8);
    spy.du[spy.n] = zalloc(n, sizeof(float));
    spy.ops.download(dev, spy.du[spy.n++], a->du, n * sizeof(float));
    must(spy.ops.sync(dev, &err), &err);
    spy.real->predict_grad(dev, a);
}

static const struct ops *spy_on(const struct ops *ops) {
    spy.real = ops->train;
    spy.train = *ops->train;
    spy.train.predict_grad = spy_predict_grad;
    spy.ops = *ops;
    spy.ops.train = &spy.train;
    return &spy.ops;
}

static void spy_clear(void) {
    while (spy.n > 0)
        free(spy.du[--spy.n]);
}

static void check_utilities(struct check *c) {
    const struct tensor *expected = expected_of(c, "utility_grad");
    const struct model_config *config = c->t.model->config;
    size_t n_layers = (size_t)config->n_layers, kv = (size_t)config->n_kv_heads, n_rows = 0;
    double largest = 0;
    int at = spy.n;
    if (!c->setting->together || !expected)
        return;
    n_rows = expected->shape[0];
    for (size_t i = 0; i < expected->n_items; i++)
        largest = fmax(largest, fabs(expected_at(expected, i))); /* fmax passes over NaN */
    for (size_t l = 0; l < n_layers; l++) {
        if (config->layers[l].sliding_window > 0)
            continue;
        at--;
        for (size_t i = 0; i < n_rows * kv; i++) {
            double want = expected_at(expected, (i / kv * n_layers + l) * kv + i % kv), got = (double)spy.du[at][i];
            if (!(fabs(got - want) <= 1e-4 * largest))
                fail_msg("%s, %s, %s: gradient of the utility of layer %zu, row %zu, head %zu is %.9g, expected %.9g",
                         c->name, c->setting->name, c->mode->name, l, i / kv, i % kv, got, want);
            c->worst_utility = fmax(c->worst_utility, fabs(got - want) / largest);
        }
    }
    assert_int_equal(at, 0);
}

/* --- gradients of parameters -------------------------------------------------------------------------------------- */

/* One parameter: the stored rows; what has no gradient in PyTorch has zeros here. */
static void check_param(struct check *c, const struct param *param) {
    char what[160];
    snprintf(what, sizeof what, "grad.%s", param->name);
    const struct tensor *expected = expected_of(c, what);
    double *got = train_case_read(&c->t, param->grad, param->n), largest = 0;
    for (size_t i = 0; expected && i < expected->n_items; i++)
        largest = fmax(largest, fabs(expected_at(expected, i)));
    for (size_t i = 0; i < param->n; i++) {
        size_t row = i / param->n_cols, stored = row / ROW_STRIDE * param->n_cols + i % param->n_cols;
        if (expected && row % ROW_STRIDE != 0)
            continue;
        double want = expected ? expected_at(expected, stored) : 0;
        if (!(fabs(got[i] - want) <= 1e-4 * largest))
            fail_msg("%s, %s, %s: gradient of %s[%zu] is %.9g, expected %.9g (the largest is %.3g)", c->name,
                     c->setting->name, c->mode->name, param->name, i, got[i], want, largest);
        if (largest > 0)
            c->worst_grad = fmax(c->worst_grad, fabs(got[i] - want) / largest);
    }
    free(got);
}

static void check_gradients(struct check *c) {
    double norm, want = expected_at(expected_of(c, "grad_norm"), 0);
    struct err err = {0};
    for (size_t i = 0; i < c->t.params->n; i++)
        check_param(c, &c->t.params->list[i]);
    must(params_grad_norm(c->t.params, 1, &norm, &err), &err);
    if (!(fabs(norm - want) <= 1e-4 * want))
        fail_msg("%s, %s, %s: norm of the gradients is %.9g, expected %.9g", c->name, c->setting->name, c->mode->name, norm,
                 want);
}

/* --- one mode ----------------------------------------------------------------------------------------------------- */

/* Adds the gradients of sequences first .. first + n - 1 and returns their share of the loss. */
static double add_gradients(struct check *c, int first, int n) {
    struct train_case *t = &c->t;
    const struct model_config *config = t->model->config;
    int start = t->splits[first], splits[CASE_MAX_SEQUENCES + 1], n_gated = 0, n_all = t->splits[t->batch.n_seq];
    double n_predicted = n_all - t->batch.n_seq, utilities = 0;
    struct gradient_result r;
    struct err err = {0};
    for (int i = 0; i <= n; i++)
        splits[i] = t->splits[first + i] - start;
    const struct micro_batch batch = {.n_seq = n, .row_splits = splits, .ids = t->ids + start, .target = t->target + start,
                                      .sequence_id = t->sequence_id + first};
    spy_clear();
    must(gradient_add(t->gradient, &batch, &c->mode->gates, 1 / n_predicted, (double)splits[n] / n_all, &r, &err), &err);
    for (int l = 0; l < config->n_layers; l++)
        n_gated += config->layers[l].sliding_window == 0;
    for (int i = 0; i < config->n_layers * config->n_kv_heads; i++)
        utilities += r.utility_sum[i];
    double n_gates = (double)n_all * n_gated * config->n_kv_heads;
    return r.nll_sum / n_predicted + (n_gates > 0 ? c->mode->gates.density_weight * utilities / n_gates : 0);
}

static void check_mode(struct check *c) {
    const struct tensor *expected = expected_of(c, "loss");
    int n_seq = c->t.batch.n_seq;
    double loss = 0;
    if (!expected)
        return;
    train_case_use(&c->t, c->mode->policy, false);
    params_zero_grad(c->t.params);
    if (c->setting->together)
        loss = add_gradients(c, 0, n_seq);
    for (int i = 0; i < n_seq && !c->setting->together; i++)
        loss += add_gradients(c, i, 1);
    double want = expected_at(expected, 0);
    if (!(fabs(loss - want) <= 1e-5 * want))
        fail_msg("%s, %s, %s: the loss is %.9g, expected %.9g", c->name, c->setting->name, c->mode->name, loss, want);
    c->worst_loss = fmax(c->worst_loss, fabs(loss - want));
    check_gradients(c);
    check_utilities(c);
    spy_clear();
}

static bool open_case(struct check *c) {
    char path[96];
    struct err err = {0};
    snprintf(path, sizeof path, "tests/data/gradients/%.60s.safetensors", c->name);
    if (access(path, R_OK) != 0)
        return false;
    must(safetensors_open(path, &c->expected, &err), &err);
    train_case_open(c->name, &(struct train_options){.ops = spy_on(c->setting->ops), .dtype = DTYPE_F32}, &c->t);
    for (int i = 0; i < c->t.batch.n_seq; i++)
        for (int r = c->t.splits[i]; r < c->t.splits[i + 1]; r++)
            c->t.target[r] = r + 1 < c->t.splits[i + 1] ? c->t.ids[r + 1] : -1;
    return true;
}

static void test_setting(void **state) {
    struct check c = {.setting = *state};
    char names[MAX_CASES][64];
    int n = model_case_list(names, MAX_CASES), n_checked = 0;
    if (!c.setting->ops) {
        print_message("SKIP %s: this processor cannot run it\n", c.setting->name);
        skip();
    }
    for (int i = 0; i < n; i++) {
        c.name = names[i];
        if (!open_case(&c))
            continue;
        for (size_t k = 0; k < sizeof modes / sizeof *modes; k++) {
            c.mode = &modes[k];
            check_mode(&c);
        }
        train_case_close(&c.t);
        safetensors_close(&c.expected);
        n_checked++;
    }
    assert_true(n_checked >= 15);
    print_message("%s: %d models, largest error: loss %.2g nat, gradients %.2g, of utilities %.2g of the largest\n",
                  c.setting->name, n_checked, c.worst_loss, c.worst_grad, c.worst_utility);
}

int main(void) {
    static struct setting settings[] = {
        {"ref, together", NULL, true},     {"ref, one by one", NULL, false},  {"scalar, together", NULL, true},
        {"avx2, one by one", NULL, false}, {"avx2, together", NULL, true},    {"avx512, together", NULL, true},
    };
    enum { N = sizeof settings / sizeof *settings };
    struct CMUnitTest tests[N];
    for (int i = 0; i < N; i++) {
        char variant[16];
        snprintf(variant, sizeof variant, "%.*s", (int)strcspn(settings[i].name, ","), settings[i].name);
        settings[i].ops = strcmp(variant, "ref") == 0 ? ops_ref() : ops_cpu_variant(variant);
        tests[i] = (struct CMUnitTest){settings[i].name, test_setting, NULL, NULL, &settings[i]};
    }
    return _cmocka_run_group_tests("gradients against PyTorch", tests, N, NULL, NULL);
}
