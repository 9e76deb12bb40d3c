/* Training ops of the reference backend: gradients against central differences (tests/grad_check.h), and the rest against
 * plain statements. Attention is in tests/test_attend_ref.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "tests/grad_check.h"

/* ---- norms, rotations, activations ------------------------------------------------------------------------------- */

struct norm_case {
    struct fixture f;
    struct rmsnorm_args forward;
    struct sink out;
};

static double norm_loss(void *context) {
    struct norm_case *c = context;
    c->f.b.ops->rmsnorm(c->f.b.dev, &c->forward);
    return sink_loss(&c->out);
}

static void check_rmsnorm(size_t n_rows, size_t n_groups, size_t n_cols, bool plus_one, bool add_dx, bool with_dweight) {
    struct norm_case c = {.f = fixture_open(n_rows * 100 + n_groups)};
    size_t width = n_groups * n_cols, ld = width + 3;
    struct var x = var_strided(&c.f, n_rows, width, ld, width + 1, 2, add_dx), w = var_make(&c.f, 1, n_cols, 1, true);
    c.out = sink_make(&c.f, n_rows, width, ld, width + 2);
    c.forward = (struct rmsnorm_args){.x = x.x.ptr, .weight = w.x.ptr, .eps = 0.03f, .plus_one = plus_one, .n_rows = n_rows,
                                      .n_groups = n_groups, .n_cols = n_cols, .ld_x = ld, .out_f32 = c.out.y.ptr};
    c.f.train->rmsnorm_grad(c.f.b.dev, &(struct rmsnorm_grad_args){
        .x = x.x.ptr, .weight = w.x.ptr, .eps = 0.03f, .plus_one = plus_one, .n_rows = n_rows, .n_groups = n_groups,
        .n_cols = n_cols, .ld_x = ld, .dy = c.out.dy.ptr, .ld_dy = width + 2, .dx = x.grad.ptr, .ld_dx = width + 1,
        .add_dx = add_dx, .dweight = with_dweight ? w.grad.ptr : NULL});
    var_check("rmsnorm dx", &x, norm_loss, &c);
    if (with_dweight)
        var_check("rmsnorm dweight", &w, norm_loss, &c);
    var_free(&x), var_free(&w);
    sink_free(&c.out);
    backend_close(&c.f.b);
}

static void test_rmsnorm(void **state) {
    (void)state;
    check_rmsnorm(1, 1, 1, false, false, true);
    check_rmsnorm(5, 1, 17, false, false, true);
    check_rmsnorm(5, 1, 17, true, true, true);
    check_rmsnorm(4, 3, 8, false, true, true);
    check_rmsnorm(4, 3, 8, true, false, false);
}

/* The gradient may take the place of dy. */
static void test_rmsnorm_in_place(void **state) {
    (void)state;
    struct fixture f = fixture_open(5);
    struct var x = var_make(&f, 3, 8, 2, false), w = var_make(&f, 1, 4, 1, false);
    struct sink out = sink_make(&f, 3, 8, 8, 8);
    struct rmsnorm_grad_args a = {.x = x.x.ptr, .weight = w.x.ptr, .eps = 1e-5f, .n_rows = 3, .n_groups = 2, .n_cols = 4,
                                  .ld_x = 8, .dy = out.dy.ptr, .ld_dy = 8, .dx = x.grad.ptr, .ld_dx = 8};
    double apart[24], in_place[24];
    f.train->rmsnorm_grad(f.b.dev, &a);
    a.dx = out.dy.ptr;
    f.train->rmsnorm_grad(f.b.dev, &a);
    buf_read(&x.grad, apart);
    buf_read(&out.dy, in_place);
    assert_memory_equal(apart, in_place, sizeof apart);
    var_free(&x), var_free(&w);
    sink_free(&out);
    backend_close(&f.b);
}

struct rope_case {
    struct fixture f;
    struct rope_args forward; /* over out.y */
    struct var x;
    struct sink out;
};

static double rope_loss(void *context) {
    struct rope_case *c = context;
    c->f.b.ops->copy(c->f.b.dev, c->out.y.ptr, c->x.x.ptr, c->x.x.n * sizeof(double));
    c->f.b.ops->rope(c->f.b.dev, &c->forward);
    return sink_loss(&c->out);
}

/* Rotating the gradient back is the transposed rotation, whatever the attention factor in the table. */
static void test_rope(void **state) {
    (void)state;
    enum { ROWS = 5, HEADS = 2, DIM = 6, LD = HEADS * DIM + 1 };
    static const int32_t pos[ROWS] = {0, 3, 3, 1, 7};
    struct rope_case c = {.f = fixture_open(6)};
    struct var table = var_make(&c.f, 8, DIM, 1.5, false);
    struct buf positions = buf_bytes(&c.f.b, sizeof pos, pos);
    c.x = var_strided(&c.f, ROWS, HEADS * DIM, LD, LD, 1, false);
    c.out = sink_make(&c.f, ROWS, HEADS * DIM, LD, LD);
    c.forward = (struct rope_args){.x = c.out.y.ptr, .pos = positions.ptr, .table = table.x.ptr, .n_rows = ROWS,
                                   .n_heads = HEADS, .head_dim = DIM, .ld_x = LD};
    struct rope_args back = c.forward;
    back.x = c.x.grad.ptr;
    back.inverse = true;
    c.f.b.ops->copy(c.f.b.dev, c.x.grad.ptr, c.out.dy.ptr, c.x.grad.n * sizeof(double));
    buf_read(&c.x.grad, c.x.before);
    for (size_t i = 0; i < c.x.grad.n; i++) /* written, except between rows */
        c.x.before[i] = i % LD < HEADS * DIM ? NAN : c.x.before[i];
    c.f.b.ops->rope(c.f.b.dev, &back);
    var_check("rope", &c.x, rope_loss, &c);
    var_free(&c.x), var_free(&table);
    buf_free(&positions);
    sink_free(&c.out);
    backend_close(&c.f.b);
}

struct act_case {
    struct fixture f;
    struct var gate_up;
    struct sink out;
    enum act act;
};

static double act_loss(void *context) {
    struct act_case *c = context;
    c->f.b.ops->act_mul(c->f.b.dev, c->gate_up.x.ptr, c->act, c->out.n_rows, c->out.n_cols, c->out.y.ptr);
    return sink_loss(&c->out);
}

static const enum act all_acts[] = {ACT_NONE, ACT_SILU, ACT_GELU, ACT_GELU_TANH};

static void test_act_mul(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++) {
        struct act_case c = {.f = fixture_open(7), .act = all_acts[k]};
        double apart[60], in_place[60];
        c.gate_up = var_make(&c.f, 5, 12, 4, false);
        c.out = sink_make(&c.f, 5, 6, 6, 6);
        c.f.train->act_mul_grad(c.f.b.dev, c.gate_up.x.ptr, c.act, 5, 6, c.out.dy.ptr, c.gate_up.grad.ptr);
        var_check("act_mul", &c.gate_up, act_loss, &c);
        c.f.train->act_mul_grad(c.f.b.dev, c.gate_up.x.ptr, c.act, 5, 6, c.out.dy.ptr, c.gate_up.x.ptr);
        buf_read(&c.gate_up.grad, apart);
        buf_read(&c.gate_up.x, in_place);
        assert_memory_equal(apart, in_place, sizeof apart);
        var_free(&c.gate_up);
        sink_free(&c.out);
        backend_close(&c.f.b);
    }
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

struct linear_case {
    struct fixture f;
    struct linear_args forward;
    struct sink out;
};

static double linear_loss(void *context) {
    struct linear_case *c = context;
    c->f.b.ops->linear(c->f.b.dev, &c->forward);
    return sink_loss(&c->out);
}

static void check_linear(size_t n_rows, size_t n_in, size_t n_out, bool add_dx, bool with_dx, bool with_dw, bool with_bias) {
    struct linear_case c = {.f = fixture_open(n_rows + n_in)};
    struct var x = var_make(&c.f, n_rows, n_in, 1, add_dx), w = var_make(&c.f, n_out, n_in, 1, true);
    struct var bias = var_make(&c.f, 1, n_out, 1, true);
    struct weight *weight = var_weight(&c.f, &w, WEIGHT_COMPUTE);
    c.out = sink_make(&c.f, n_rows, n_out, n_out + 2, n_out + 1);
    c.forward = (struct linear_args){.w = weight, .x = x.x.ptr, .bias = with_bias ? bias.x.ptr : NULL, .y = c.out.y.ptr,
                                     .n_rows = n_rows, .ld_y = n_out + 2};
    c.f.train->linear_grad(c.f.b.dev, &(struct linear_grad_args){
        .w = weight, .x = with_dw ? x.x.ptr : NULL, .dy = c.out.dy.ptr, .n_rows = n_rows, .ld_dy = n_out + 1,
        .dx = with_dx ? x.grad.ptr : NULL, .add_dx = add_dx, .dw = with_dw ? w.grad.ptr : NULL,
        .dbias = with_bias ? bias.grad.ptr : NULL});
    if (with_dx)
        var_check("linear dx", &x, linear_loss, &c);
    if (with_dw)
        var_check("linear dw", &w, linear_loss, &c);
    if (with_bias)
        var_check("linear dbias", &bias, linear_loss, &c);
    c.f.b.ops->weight_free(c.f.b.dev, weight);
    var_free(&x), var_free(&w), var_free(&bias);
    sink_free(&c.out);
    backend_close(&c.f.b);
}

static void test_linear(void **state) {
    (void)state;
    check_linear(1, 1, 1, false, true, true, true);
    check_linear(7, 5, 9, false, true, true, true);
    check_linear(7, 5, 9, true, true, true, false);
    check_linear(6, 9, 4, false, false, true, false);
    check_linear(6, 9, 4, true, true, false, true);
}

struct embed_case {
    struct fixture f;
    const struct weight *table;
    struct buf ids;
    struct sink out;
};

static double embed_loss(void *context) {
    struct embed_case *c = context;
    c->f.b.ops->embed(c->f.b.dev, c->table, c->ids.ptr, c->out.n_rows, 2.5f, c->out.y.ptr);
    return sink_loss(&c->out);
}

static void test_embed(void **state) {
    (void)state;
    static const int32_t ids[] = {3, 0, 3, 3, 5, 0, 1};
    struct embed_case c = {.f = fixture_open(9)};
    struct var table = var_make(&c.f, 6, 4, 1, true);
    struct weight *weight = var_weight(&c.f, &table, WEIGHT_COMPUTE);
    c.table = weight;
    c.ids = buf_bytes(&c.f.b, sizeof ids, ids);
    c.out = sink_make(&c.f, 7, 4, 4, 4);
    c.f.train->embed_grad(c.f.b.dev, c.ids.ptr, 7, 4, 2.5f, c.out.dy.ptr, table.grad.ptr);
    var_check("embed", &table, embed_loss, &c);
    var_free(&table);
    c.f.b.ops->weight_free(c.f.b.dev, weight);
    buf_free(&c.ids);
    sink_free(&c.out);
    backend_close(&c.f.b);
}

struct nll_case {
    struct fixture f;
    struct nll_args forward;
    struct buf nll;
    double scale;
};

static double nll_loss(void *context) {
    struct nll_case *c = context;
    double *nll = zalloc(c->nll.n, sizeof *nll), sum = 0;
    c->f.b.ops->nll(c->f.b.dev, &c->forward);
    buf_read(&c->nll, nll);
    for (size_t i = 0; i < c->nll.n; i++)
        sum += isnan(nll[i]) ? 0 : c->scale * nll[i];
    free(nll);
    return sum;
}

static void check_nll(float softcap, float scale, bool with_dw) {
    enum { ROWS = 6, D_MODEL = 5, VOCAB = 11 };
    static const int32_t target[ROWS] = {4, -1, 0, 10, 4, -1};
    struct nll_case c = {.f = fixture_open(10), .scale = (double)scale};
    struct var x = var_make(&c.f, ROWS, D_MODEL, 1, false), w = var_make(&c.f, VOCAB, D_MODEL, 1, true);
    struct weight *weight = var_weight(&c.f, &w, WEIGHT_COMPUTE);
    struct buf targets = buf_bytes(&c.f.b, sizeof target, target);
    double alone[ROWS], beside[ROWS];
    c.nll = buf_make(&c.f.b, DTYPE_F64, ROWS, NULL);
    c.forward = (struct nll_args){.w = weight, .x = x.x.ptr, .target = targets.ptr, .softcap = softcap, .n_rows = ROWS,
                                  .nll = c.nll.ptr};
    nll_loss(&c);
    buf_read(&c.nll, alone);
    c.f.b.ops->fill(c.f.b.dev, c.nll.ptr, 0, sizeof alone);
    c.f.train->nll_grad(c.f.b.dev, &(struct nll_grad_args){.forward = &c.forward, .scale = scale, .dx = x.grad.ptr,
                                                           .dw = with_dw ? w.grad.ptr : NULL});
    buf_read(&c.nll, beside);
    compare_within("nll beside its gradient", beside, alone, ROWS, 0, 0);
    var_check("nll dx", &x, nll_loss, &c);
    if (with_dw)
        var_check("nll dw", &w, nll_loss, &c);
    c.f.b.ops->weight_free(c.f.b.dev, weight);
    var_free(&x), var_free(&w);
    buf_free(&c.nll), buf_free(&targets);
    backend_close(&c.f.b);
}

static void test_nll(void **state) {
    (void)state;
    check_nll(0, 0.25f, true);
    check_nll(1.5f, 2, true);
    check_nll(0, 1, false);
}

/* ---- utilities and gates ----------------------------------------------------------------------------------------- */

struct predict_case {
    struct fixture f;
    struct predict_args forward;
    struct sink out;
};

static double predict_loss(void *context) {
    struct predict_case *c = context;
    c->f.b.ops->predict(c->f.b.dev, &c->forward);
    return sink_loss(&c->out);
}

enum predictor { PREDICTOR_TRUNK, PREDICTOR_LINEAR, PREDICTOR_STATIC };

static void check_predict(enum predictor kind, enum act act, bool sigmoid) {
    enum { ROWS = 7, D_MODEL = 5, HIDDEN = 6, HEADS = 3 };
    struct predict_case c = {.f = fixture_open(11)};
    size_t n_features = kind == PREDICTOR_TRUNK ? HIDDEN : D_MODEL;
    struct var h = var_make(&c.f, ROWS, D_MODEL, 1, true), w1 = var_make(&c.f, HIDDEN, D_MODEL, 1, true);
    struct var b1 = var_make(&c.f, 1, HIDDEN, 1, true), w2 = var_make(&c.f, HEADS, n_features, 1, true);
    struct var b2 = var_make(&c.f, 1, HEADS, 1, true);
    struct weight *fc1 = kind == PREDICTOR_TRUNK ? var_weight(&c.f, &w1, WEIGHT_F32) : NULL;
    struct weight *fc2 = kind != PREDICTOR_STATIC ? var_weight(&c.f, &w2, WEIGHT_F32) : NULL;
    c.out = sink_make(&c.f, ROWS, HEADS, HEADS, HEADS);
    c.forward = (struct predict_args){.h = h.x.ptr, .fc1 = fc1, .b1 = b1.x.ptr, .fc2 = fc2, .b2 = b2.x.ptr, .act = act,
                                      .sigmoid = sigmoid, .n_rows = ROWS, .n_kv_heads = HEADS, .u = c.out.y.ptr};
    predict_loss(&c);
    c.f.train->predict_grad(c.f.b.dev, &(struct predict_grad_args){
        .forward = &c.forward, .du = c.out.dy.ptr, .dfc1 = fc1 ? w1.grad.ptr : NULL, .db1 = fc1 ? b1.grad.ptr : NULL,
        .dfc2 = fc2 ? w2.grad.ptr : NULL, .db2 = b2.grad.ptr, .dh = h.grad.ptr});
    var_check("predict dh", &h, predict_loss, &c);
    var_check("predict dfc1", &w1, predict_loss, &c);
    var_check("predict db1", &b1, predict_loss, &c);
    var_check("predict dfc2", &w2, predict_loss, &c);
    var_check("predict db2", &b2, predict_loss, &c);
    c.f.b.ops->weight_free(c.f.b.dev, fc1), c.f.b.ops->weight_free(c.f.b.dev, fc2);
    var_free(&h), var_free(&w1), var_free(&b1), var_free(&w2), var_free(&b2);
    sink_free(&c.out);
    backend_close(&c.f.b);
}

static void test_predict(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++)
        for (int sigmoid = 0; sigmoid < 2; sigmoid++)
            check_predict(PREDICTOR_TRUNK, all_acts[k], sigmoid);
    for (int sigmoid = 0; sigmoid < 2; sigmoid++) {
        check_predict(PREDICTOR_LINEAR, ACT_NONE, sigmoid);
        check_predict(PREDICTOR_STATIC, ACT_NONE, sigmoid);
    }
}

struct gate_case {
    struct fixture f;
    struct gate_log_args forward;
    struct buf u;
    struct sink out;
    double density;
};

static double gate_loss(void *context) {
    struct gate_case *c = context;
    double *u = zalloc(c->u.n, sizeof *u), sum = 0;
    c->f.train->gate_log(c->f.b.dev, &c->forward);
    buf_read(&c->u, u);
    for (size_t i = 0; i < c->u.n; i++)
        sum += c->density * u[i];
    free(u);
    return sum + sink_loss(&c->out);
}

static void check_gate_log(float blend, float density) {
    enum { N = 24 };
    struct gate_case c = {.f = fixture_open(12), .density = (double)density};
    struct var u = var_make(&c.f, 1, N, 1, false);
    double values[N];
    uint8_t open[N];
    for (int i = 0; i < N; i++) {
        values[i] = rnd_real(&c.f.rnd, 0.1, 0.9); /* the third derivative of log u is at most 2000 */
        open[i] = values[i] >= 0.5;
    }
    buf_write(&u.x, values);
    struct buf gates = buf_bytes(&c.f.b, sizeof open, open);
    c.u = u.x;
    c.out = sink_make(&c.f, 1, N, N, N);
    c.forward = (struct gate_log_args){.u = u.x.ptr, .open = gates.ptr, .n = N, .blend = blend, .log_gate = c.out.y.ptr};
    c.f.train->gate_log_grad(c.f.b.dev, &(struct gate_log_grad_args){
        .u = u.x.ptr, .open = gates.ptr, .n = N, .blend = blend, .slope = 1 - blend, .dlog_gate = c.out.dy.ptr,
        .density = density, .du = u.grad.ptr});
    var_check("gate_log", &u, gate_loss, &c);
    var_free(&u);
    buf_free(&gates);
    sink_free(&c.out);
    backend_close(&c.f.b);
}

static void test_gate_log(void **state) {
    (void)state;
    check_gate_log(0, 0);
    check_gate_log(0, 0.25f);
    check_gate_log(0.5f, 0.5f);
    check_gate_log(0.875f, 0);
}

/* Values by hand; a straight-through gradient has its slope whatever the blend. */
static void test_gate_log_values(void **state) {
    (void)state;
    static const double u[] = {0.25, 0.75, 0, 1}, d[] = {1, 2, 3e-8, -4};
    static const uint8_t open[] = {0, 1, 0, 1};
    const double half[] = {log(0.125 + 1e-8), log(0.875 + 1e-8), log(1e-8), log(1 + 1e-8)};
    const double hard[] = {-INFINITY, 0, -INFINITY, 0};
    const double through[] = {1 / 1e-8 + 0.5, 2 / (1 + 1e-8) + 0.5, 3.5, -4 / (1 + 1e-8) + 0.5};
    struct fixture f = fixture_open(13);
    double got[4];
    struct buf ub = buf_make(&f.b, DTYPE_F64, 4, u), db = buf_make(&f.b, DTYPE_F64, 4, d), ob = buf_bytes(&f.b, 4, open);
    struct buf out = buf_make(&f.b, DTYPE_F64, 4, NULL);
    struct gate_log_args a = {.u = ub.ptr, .open = ob.ptr, .n = 4, .blend = 0.5f, .log_gate = out.ptr};
    f.train->gate_log(f.b.dev, &a);
    buf_read(&out, got);
    compare_within("gate_log", got, half, 4, 0, 1e-15);
    a.hard = true;
    f.train->gate_log(f.b.dev, &a);
    buf_read(&out, got);
    compare_within("hard gate_log", got, hard, 4, 0, 0);
    f.train->gate_log_grad(f.b.dev, &(struct gate_log_grad_args){.u = ub.ptr, .open = ob.ptr, .n = 4, .blend = 1, .slope = 1,
                                                                .dlog_gate = db.ptr, .density = 0.5f, .du = db.ptr});
    buf_read(&db, got);
    compare_within("straight-through gradient", got, through, 4, 0, 1e-15);
    buf_free(&ub), buf_free(&db), buf_free(&ob), buf_free(&out);
    backend_close(&f.b);
}

/* A draw is rng_uniform() against the clipped probability, so its frequency is off by more than five standard deviations
 * once in two million times. */
static void test_gate_sample(void **state) {
    (void)state;
    enum { HEADS = 4, LAYER = 3, ROWS = 4000 };
    static const double utility[HEADS] = {0, 0.3, 0.995, 1};
    static const int splits[] = {0, 1, 1501, ROWS};
    static const uint64_t ids[] = {7, (uint64_t)1 << 40, 2};
    static const float clips[] = {0, 0.05f};
    struct fixture f = fixture_open(14);
    struct attend_seq_args sequences = {.n_seq = 3, .row_splits = splits, .n_rows = ROWS, .n_kv_heads = HEADS};
    double *u = zalloc(ROWS * HEADS, sizeof *u);
    uint8_t *open = zalloc(ROWS * HEADS, 1);
    for (int i = 0; i < ROWS * HEADS; i++)
        u[i] = utility[i % HEADS];
    struct buf ub = buf_make(&f.b, DTYPE_F64, ROWS * HEADS, u), ob = buf_bytes(&f.b, ROWS * HEADS, NULL);
    for (int c = 0; c < 2; c++) {
        double n_open[HEADS] = {0};
        f.train->gate_sample(f.b.dev, ub.ptr, &sequences, ids, 99, LAYER, clips[c], ob.ptr);
        buf_read_bytes(&ob, open);
        for (int i = 0; i < 3; i++)
            for (int r = splits[i]; r < splits[i + 1]; r++)
                for (int k = 0; k < HEADS; k++) {
                    double p = fmin(fmax(utility[k], (double)clips[c]), (double)(1 - clips[c]));
                    float draw = rng_uniform(99, ids[i], LAYER, (uint32_t)k, (uint32_t)(r - splits[i]));
                    assert_int_equal(open[r * HEADS + k], (double)draw < p);
                    n_open[k] += open[r * HEADS + k];
                }
        for (int k = 0; k < HEADS; k++) {
            double p = fmin(fmax(utility[k], (double)clips[c]), (double)(1 - clips[c]));
            assert_true(fabs(n_open[k] - ROWS * p) <= 5 * sqrt(ROWS * p * (1 - p)));
        }
    }
    buf_free(&ub), buf_free(&ob);
    free(u), free(open);
    backend_close(&f.b);
}

/* ---- optimizer --------------------------------------------------------------------------------------------------- */

/* Moments as sums over all gradients so far, which is what the recurrences unroll to. */
static double moment(const double *powers, int n, double beta) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (1 - beta) * pow(beta, n - 1 - i) * powers[i];
    return sum;
}

static void test_adamw(void **state) {
    (void)state;
    enum { N = 5, STEPS = 6 };
    struct fixture f = fixture_open(30);
    double want[N], got[N], history[N][STEPS], squares[N][STEPS], zero[N] = {0};
    const double lr = (double)0.01f, beta1 = (double)0.9f, beta2 = (double)0.95f, eps = (double)1e-6f;
    rnd_fill(&f.rnd, want, N, -1, 1);
    struct buf p = buf_make(&f.b, DTYPE_F64, N, want), m = buf_make(&f.b, DTYPE_F64, N, zero);
    struct buf v = buf_make(&f.b, DTYPE_F64, N, zero), grad = buf_make(&f.b, DTYPE_F64, N, NULL);
    for (int step = 1; step <= STEPS; step++) {
        double g[N];
        rnd_fill(&f.rnd, g, N, -1, 1);
        g[0] = 0; /* a parameter that no loss depends on only decays */
        buf_write(&grad, g);
        f.train->adamw(f.b.dev, &(struct adamw_args){
            .param = p.ptr, .m = m.ptr, .v = v.ptr, .grad = grad.ptr, .n = N, .lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f,
            .eps = 1e-6f, .weight_decay = 0.125f, .grad_scale = 0.5f, .step = step});
        for (int i = 0; i < N; i++) {
            history[i][step - 1] = 0.5 * g[i];
            squares[i][step - 1] = 0.25 * g[i] * g[i];
            double m_hat = moment(history[i], step, beta1) / (1 - pow(beta1, step));
            double v_hat = moment(squares[i], step, beta2) / (1 - pow(beta2, step));
            want[i] -= lr * (0.125 * want[i] + m_hat / (sqrt(v_hat) + eps));
        }
        buf_read(&p, got);
        compare_within("adamw", got, want, N, 1e-14, 1e-14);
    }
    buf_free(&p), buf_free(&m), buf_free(&v), buf_free(&grad);
    backend_close(&f.b);
}

static void test_norm_sq(void **state) {
    (void)state;
    struct fixture f = fixture_open(31);
    double sum = 5;
    struct buf x = buf_make(&f.b, DTYPE_F64, 3, (const double[]){3, -4, 1e200}), out = buf_make(&f.b, DTYPE_F64, 1, &sum);
    f.train->norm_sq(f.b.dev, x.ptr, 2, out.ptr);
    buf_read(&out, &sum);
    assert_true(sum == 30);
    f.train->norm_sq(f.b.dev, x.ptr, 3, out.ptr);
    buf_read(&out, &sum);
    assert_true(isinf(sum));
    buf_free(&x), buf_free(&out);
    backend_close(&f.b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_rmsnorm_in_place),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_act_mul),
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_nll),
        cmocka_unit_test(test_predict),
        cmocka_unit_test(test_gate_log),
        cmocka_unit_test(test_gate_log_values),
        cmocka_unit_test(test_gate_sample),
        cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_norm_sq),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
