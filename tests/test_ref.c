/* The reference backend against plain statements that share no code with it. */
#include <complex.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "tests/kv_world.h"
#include "tests/op_util.h"

/* ---- the cache --------------------------------------------------------------------------------------------------- */

/* Tolerance of attention: the reference sums in double, so only the rounding of its outputs shows, half a spacing. */
static void expect_outputs(const struct kv_world *w, int slot, int first) {
    size_t heads = (size_t)(w->g.n_kv_heads * w->g.group), n = heads * (size_t)w->g.head_dim;
    double *out = zalloc(n, sizeof *out), *lse = zalloc(heads, sizeof *lse);
    for (int layer = 0; layer < w->g.n_layers; layer++)
        for (int t = first; t < w->fed[slot]; t++) {
            kv_expect_attention(w, slot, layer, t, out, lse);
            compare_within("attention", w->out + world_at(w, slot, layer, t) * n, out, n, 1e-13, eps_of(w->b.act) / 2);
            compare_within("lse", w->lse + world_at(w, slot, layer, t) * heads, lse, heads, 1e-13, eps_of(w->b.real) / 2);
        }
    free(out);
    free(lse);
}

/* Feeds random slots with random chunks, resets some, and checks everything after every step. */
static void world_exercise(uint64_t seed, enum dtype dtype, enum dtype cache_dtype) {
    static const int chunks[] = {1, 7, 64, 512};
    struct rnd r = {.seed = seed};
    struct kv_geometry g = kv_geometry_random(&r, rnd_int(&r, 20, 260));
    struct kv_world w;
    g.head_dim += cache_dtype == DTYPE_BF16 && g.head_dim % 2; /* kv_cache.h */
    kv_world_open(&w, ops_ref(), dtype, cache_dtype, &g);
    for (int step = 0; step < 14; step++) {
        int slots[WORLD_MAX_SLOTS], n_rows[WORLD_MAX_SLOTS], before[WORLD_MAX_SLOTS], n_seq = 0;
        for (int s = g.n_slots - 1; s >= 0; s--) {
            int n = chunks[rnd_int(&r, 0, 3)], room = g.max_len - w.fed[s];
            if (room == 0 || rnd_int(&r, 0, 9) == 0)
                kv_world_reset(&w, s);
            else if (rnd_int(&r, 0, 2)) {
                slots[n_seq] = s;
                before[n_seq] = w.fed[s];
                n_rows[n_seq++] = n < room ? n : room;
            }
        }
        kv_world_step(&w, n_seq, slots, n_rows);
        kv_world_check(&w);
        for (int i = 0; i < n_seq; i++)
            expect_outputs(&w, slots[i], before[i]);
        for (int s = 0; s < g.n_slots; s++)
            kv_expect_counts(&w, s);
    }
    kv_world_close(&w);
}

static void test_cache_against_mask(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        world_exercise(seed, DTYPE_F32, DTYPE_F32);
        world_exercise(seed + 100, DTYPE_F64, DTYPE_F64);
        world_exercise(seed + 200, DTYPE_BF16, DTYPE_BF16);
    }
    world_exercise(300, DTYPE_F32, DTYPE_BF16);
}

/* Everything that a slot holds after being fed T tokens in chunks of `chunk`. */
static void feed_all(struct kv_world *w, int T, int chunk) {
    for (int s = 0; s < w->g.n_slots; s++)
        while (w->fed[s] < T) {
            int n = T - w->fed[s] < chunk ? T - w->fed[s] : chunk;
            kv_world_step(w, 1, &s, &n);
        }
}

static void test_chunks_agree(void **state) {
    (void)state;
    for (uint64_t seed = 400; seed < 406; seed++) {
        static const int chunks[] = {1, 7, 64, 512};
        struct rnd r = {.seed = seed};
        struct kv_geometry g = kv_geometry_random(&r, 230);
        struct kv_world w[4];
        size_t n = (size_t)(g.n_slots * g.n_layers * g.max_len * g.n_kv_heads * g.group);
        for (int i = 0; i < 4; i++) {
            kv_world_open(&w[i], ops_ref(), DTYPE_F64, DTYPE_F64, &g);
            feed_all(&w[i], 222, chunks[i]);
            kv_expect_counts(&w[i], 0);
            compare_within("chunked attention", w[i].out, w[0].out, n * (size_t)g.head_dim, 1e-13, 1e-13);
            compare_within("chunked lse", w[i].lse, w[0].lse, n, 1e-13, 1e-13);
        }
        for (int i = 0; i < 4; i++)
            kv_world_close(&w[i]);
    }
}

static void test_dense_prefill(void **state) {
    (void)state;
    for (uint64_t seed = 450; seed < 462; seed++) {
        struct rnd r = {.seed = seed};
        struct kv_geometry g = kv_geometry_random(&r, 200);
        struct kv_world w;
        int slot = 0, n = 1;
        kv_world_open(&w, ops_ref(), DTYPE_F64, DTYPE_F64, &g);
        kv_world_prefill_dense(&w, slot, rnd_int(&r, 1, 190), rnd_int(&r, 1, 200));
        for (int i = 0; i < 8; i++) {
            kv_world_check(&w);
            kv_expect_counts(&w, slot);
            kv_world_step(&w, 1, &slot, &n);
        }
        expect_outputs(&w, slot, 0);
        kv_world_close(&w);
    }
}

static void test_stats_against_mask(void **state) {
    (void)state;
    for (uint64_t seed = 500; seed < 506; seed++) {
        struct rnd r = {.seed = seed};
        struct kv_geometry g = kv_geometry_random(&r, 90);
        struct kv_world w;
        double far, sink, distance[5], future_max[80], future_sum[80];
        g.density = 1; /* a dense run: every distance is known */
        kv_world_open(&w, ops_ref(), DTYPE_F64, DTYPE_F64, &g);
        w.stats_window = rnd_int(&r, 1, 40);
        w.stats_sinks = rnd_int(&r, 0, 5);
        w.n_bins = 5;
        feed_all(&w, 80, rnd_int(&r, 1, 40));
        for (int layer = 0; layer < g.n_layers; layer++)
            for (int head = 0; head < g.n_kv_heads; head++) {
                size_t lane = kv_lane(w.cache, 0, layer, head);
                kv_expect_stats(&w, 0, layer, head, &far, &sink, distance, future_max, future_sum);
                compare_within("far mass", &w.far_sum[lane], &far, 1, 1e-11, 0);
                compare_within("sink mass", &w.sink_sum[lane], &sink, 1, 1e-11, 0);
                compare_within("distances", w.distance_sum + lane * 5, distance, 5, 1e-11, 0);
                for (int s = 0; s < 80; s++) {
                    size_t at = world_future_at(&w, 0, layer, s, head);
                    compare_within("future max", &w.future_max[at], &future_max[s], 1, 1e-12, 0);
                    compare_within("future sum", &w.future_sum[at], &future_sum[s], 1, 1e-11, 0);
                }
            }
        kv_world_close(&w);
    }
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static void test_rmsnorm(void **state) {
    (void)state;
    enum { ROWS = 5, GROUPS = 3, COLS = 17, LD = GROUPS * COLS + 2 };
    struct backend b = backend_open(ops_ref(), DTYPE_F64);
    struct rnd r = {.seed = 1};
    double x[ROWS * LD], add[ROWS * LD], weight[COLS], got[ROWS * LD], act[ROWS * GROUPS * COLS];
    rnd_fill(&r, x, ROWS * LD, -2, 2);
    rnd_fill(&r, add, ROWS * LD, -2, 2);
    rnd_fill(&r, weight, COLS, -1, 1);
    struct buf xd = buf_make(&b, b.real, ROWS * LD, x), ad = buf_make(&b, b.real, ROWS * LD, add);
    struct buf wd = buf_make(&b, b.real, COLS, weight), od = buf_make(&b, b.real, ROWS * LD, x);
    struct buf actd = buf_make(&b, b.act, ROWS * GROUPS * COLS, NULL);
    b.ops->rmsnorm(b.dev, &(struct rmsnorm_args){.x = xd.ptr, .add = ad.ptr, .weight = wd.ptr, .eps = 1e-5f,
                                                .plus_one = true, .n_rows = ROWS, .n_groups = GROUPS, .n_cols = COLS,
                                                .ld_x = LD, .out_f32 = od.ptr, .out_act = actd.ptr});
    buf_read(&od, got);
    buf_read(&actd, act);
    for (int row = 0; row < ROWS; row++)
        for (int g = 0; g < GROUPS; g++) {
            double mean = 0;
            for (int i = 0; i < COLS; i++)
                mean += pow(x[row * LD + g * COLS + i] + add[row * LD + g * COLS + i], 2) / COLS;
            for (int i = 0; i < COLS; i++) {
                int at = row * LD + g * COLS + i;
                double want = (x[at] + add[at]) / sqrt(mean + (double)1e-5f) * (1 + weight[i]);
                compare_within("rmsnorm", &got[at], &want, 1, 1e-14, 1e-14);
                assert_true(act[(row * GROUPS + g) * COLS + i] == got[at]);
            }
        }
    buf_free(&xd), buf_free(&ad), buf_free(&wd), buf_free(&od), buf_free(&actd);
    backend_close(&b);
}

/* Rotation is multiplication by exp(i * angle) of element i + i * (element i + half). */
static void test_rope(void **state) {
    (void)state;
    enum { ROWS = 4, HEADS = 2, DIM = 6, LD = HEADS * DIM + 1, POSITIONS = 9 };
    struct backend b = backend_open(ops_ref(), DTYPE_F64);
    struct rnd r = {.seed = 2};
    int32_t pos[ROWS] = {8, 0, 3, 3};
    double x[ROWS * LD], got[ROWS * LD], table[POSITIONS * DIM];
    rnd_fill(&r, x, ROWS * LD, -2, 2);
    for (int p = 0; p < POSITIONS; p++)
        for (int i = 0; i < DIM / 2; i++) {
            table[p * DIM + i] = cos(p * pow(100, -2.0 * i / DIM));
            table[p * DIM + DIM / 2 + i] = sin(p * pow(100, -2.0 * i / DIM));
        }
    struct buf xd = buf_make(&b, b.real, ROWS * LD, x), td = buf_make(&b, b.real, POSITIONS * DIM, table);
    struct buf pd = buf_bytes(&b, sizeof pos, pos);
    b.ops->rope(b.dev, &(struct rope_args){.x = xd.ptr, .pos = pd.ptr, .table = td.ptr, .n_rows = ROWS, .n_heads = HEADS,
                                          .head_dim = DIM, .ld_x = LD});
    buf_read(&xd, got);
    for (int row = 0; row < ROWS; row++)
        for (int h = 0; h < HEADS; h++)
            for (int i = 0; i < DIM / 2; i++) {
                int at = row * LD + h * DIM + i;
                double complex z = (x[at] + I * x[at + DIM / 2]) * cexp(I * pos[row] * pow(100, -2.0 * i / DIM));
                double want[2] = {creal(z), cimag(z)}, have[2] = {got[at], got[at + DIM / 2]};
                compare_within("rope", have, want, 2, 1e-14, 1e-14);
            }
    buf_free(&xd), buf_free(&td), buf_free(&pd);
    backend_close(&b);
}

static void test_activations(void **state) {
    (void)state;
    static const struct {
        enum act act;
        double x, want; /* from tables of the functions, 12 digits (mpmath) */
    } points[] = {
        {ACT_NONE, -1.5, -1.5},
        {ACT_SILU, 1.0, 0.731058578630}, {ACT_SILU, -2.0, -0.238405844044}, {ACT_SILU, 0, 0},
        {ACT_GELU, 1.0, 0.841344746069}, {ACT_GELU, -2.0, -0.0455002638964},
        {ACT_GELU_TANH, 1.0, 0.841191990608}, {ACT_GELU_TANH, -2.0, -0.0454023059122},
    };
    struct backend b = backend_open(ops_ref(), DTYPE_F64);
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        double gate_up[2] = {points[i].x, 3}, got, want = 3 * points[i].want;
        struct buf in = buf_make(&b, b.real, 2, gate_up), out = buf_make(&b, b.act, 1, NULL);
        b.ops->act_mul(b.dev, in.ptr, points[i].act, 1, 1, out.ptr);
        buf_read(&out, &got);
        compare_within("activation", &got, &want, 1, 3e-12, 0);
        buf_free(&in), buf_free(&out);
    }
    backend_close(&b);
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

enum { N_OUT = 23, N_IN = 11, N_ROWS = 7 };

static struct weight *weight_of(const struct backend *b, const void *data, enum dtype dtype, size_t n_out, size_t n_in,
                                enum weight_use use) {
    struct host_matrix m = {.data = data, .dtype = dtype, .n_rows = n_out, .n_cols = n_in};
    struct weight *w = NULL;
    bool borrowed;
    struct err err = {0};
    assert_int_equal(b->ops->weight_prepare(b->dev, &m, use, &w, &borrowed, &err), OK);
    return w;
}

static void test_linear_and_nll(void **state) {
    (void)state;
    struct backend b = backend_open(ops_ref(), DTYPE_F64);
    struct rnd r = {.seed = 3};
    double w[N_OUT * N_IN], x[N_ROWS * N_IN], bias[N_OUT], y[N_ROWS * (N_OUT + 1)], full[N_ROWS * N_OUT], nll[N_ROWS];
    int32_t target[N_ROWS] = {0, 22, -1, 5, 7, 7, 1};
    rnd_fill(&r, w, N_OUT * N_IN, -1, 1);
    rnd_fill(&r, x, N_ROWS * N_IN, -3, 3);
    rnd_fill(&r, bias, N_OUT, -1, 1);
    struct weight *weight = weight_of(&b, w, DTYPE_F64, N_OUT, N_IN, WEIGHT_COMPUTE);
    struct buf xd = buf_make(&b, b.act, N_ROWS * N_IN, x), bd = buf_make(&b, b.real, N_OUT, bias);
    struct buf yd = buf_make(&b, b.real, N_ROWS * (N_OUT + 1), NULL), fd = buf_make(&b, b.real, N_ROWS * N_OUT, NULL);
    struct buf td = buf_bytes(&b, sizeof target, target), nd = buf_make(&b, b.real, N_ROWS, NULL);
    b.ops->linear(b.dev, &(struct linear_args){weight, xd.ptr, bd.ptr, yd.ptr, N_ROWS, N_OUT + 1});
    b.ops->logits(b.dev, weight, xd.ptr, 2.0f, N_ROWS, fd.ptr);
    b.ops->nll(b.dev, &(struct nll_args){weight, xd.ptr, td.ptr, 2.0f, N_ROWS, nd.ptr, NULL});
    buf_read(&yd, y), buf_read(&fd, full), buf_read(&nd, nll);
    for (int i = 0; i < N_ROWS; i++) {
        long double sum = 0, at_target = 0;
        for (int o = 0; o < N_OUT; o++) {
            long double product = 0;
            for (int j = 0; j < N_IN; j++)
                product += (long double)x[i * N_IN + j] * (long double)w[o * N_IN + j];
            double want = (double)(product + (long double)bias[o]), want_logit = (double)(2 * tanhl(product / 2));
            compare_within("linear", &y[i * (N_OUT + 1) + o], &want, 1, 1e-13, 0);
            compare_within("logits", &full[i * N_OUT + o], &want_logit, 1, 1e-13, 0);
            sum += expl(2 * tanhl(product / 2));
            at_target = o == target[i] ? 2 * tanhl(product / 2) : at_target;
        }
        double want = target[i] < 0 ? NAN : (double)(logl(sum) - at_target);
        compare_within("nll", &nll[i], &want, 1, 1e-13, 0);
        assert_true(isnan(y[i * (N_OUT + 1) + N_OUT])); /* beyond the row: untouched */
    }
    buf_free(&xd), buf_free(&bd), buf_free(&yd), buf_free(&fd), buf_free(&td), buf_free(&nd);
    b.ops->weight_free(b.dev, weight);
    backend_close(&b);
}

/* A bf16 device rounds stored f32 weights, a predictor's not; bf16 and f16 words mean what the formats say. */
static void test_weight_rounding(void **state) {
    (void)state;
    static const float single[2] = {1.00390625f, 1.01171875f}; /* 1 + 2^-8 and 1 + 3 * 2^-8: ties, to even 1 and 1 + 2^-6 */
    static const uint16_t bf16[2] = {0x3F81, 0xC000}, f16[2] = {0x3C01, 0x0001};
    static const struct {
        const void *data;
        enum dtype dtype;
        enum weight_use use;
        double want[2];
    } cases[] = {
        {single, DTYPE_F32, WEIGHT_COMPUTE, {1, 1.015625}},
        {single, DTYPE_F32, WEIGHT_F32, {1.00390625, 1.01171875}},
        {bf16, DTYPE_BF16, WEIGHT_COMPUTE, {1.0078125, -2}},
        {f16, DTYPE_F16, WEIGHT_F32, {1.0009765625, 0x1p-24}},
        {f16, DTYPE_F16, WEIGHT_COMPUTE, {1, 0x1p-24}},
    };
    struct backend b = backend_open(ops_ref(), DTYPE_BF16);
    int32_t id = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double got[2];
        struct weight *w = weight_of(&b, cases[i].data, cases[i].dtype, 1, 2, cases[i].use);
        struct buf ids = buf_bytes(&b, sizeof id, &id), out = buf_make(&b, b.real, 2, NULL);
        b.ops->embed(b.dev, w, ids.ptr, 1, 4, out.ptr);
        buf_read(&out, got);
        assert_true(got[0] == 4 * cases[i].want[0] && got[1] == 4 * cases[i].want[1]);
        buf_free(&ids), buf_free(&out);
        b.ops->weight_free(b.dev, w);
    }
    backend_close(&b);
}

static void test_predict(void **state) {
    (void)state;
    enum { D = 5, HIDDEN = 4, HEADS = 3, ROWS = 6 };
    struct backend b = backend_open(ops_ref(), DTYPE_F64);
    struct rnd r = {.seed = 4};
    double h[ROWS * D], w1[HIDDEN * D], b1[HIDDEN], w2[HEADS * HIDDEN], b2[HEADS], u[ROWS * HEADS], fixed[ROWS * HEADS];
    rnd_fill(&r, h, ROWS * D, -2, 2), rnd_fill(&r, w1, HIDDEN * D, -1, 1), rnd_fill(&r, b1, HIDDEN, -1, 1);
    rnd_fill(&r, w2, HEADS * HIDDEN, -2, 2), rnd_fill(&r, b2, HEADS, -1, 1);
    struct weight *fc1 = weight_of(&b, w1, DTYPE_F64, HIDDEN, D, WEIGHT_F32);
    struct weight *fc2 = weight_of(&b, w2, DTYPE_F64, HEADS, HIDDEN, WEIGHT_F32);
    struct buf hd = buf_make(&b, b.real, ROWS * D, h), b1d = buf_make(&b, b.real, HIDDEN, b1);
    struct buf b2d = buf_make(&b, b.real, HEADS, b2), ud = buf_make(&b, b.real, ROWS * HEADS, NULL);
    struct buf fd = buf_make(&b, b.real, ROWS * HEADS, NULL);
    struct predict_args a = {.h = hd.ptr, .fc1 = fc1, .b1 = b1d.ptr, .fc2 = fc2, .b2 = b2d.ptr, .act = ACT_SILU,
                             .sigmoid = true, .n_rows = ROWS, .n_kv_heads = HEADS, .u = ud.ptr};
    b.ops->predict(b.dev, &a);
    b.ops->predict(b.dev, &(struct predict_args){.b2 = b2d.ptr, .n_rows = ROWS, .n_kv_heads = HEADS, .u = fd.ptr});
    buf_read(&ud, u), buf_read(&fd, fixed);
    for (int i = 0; i < ROWS * HEADS; i++) {
        double out = b2[i % HEADS];
        for (int j = 0; j < HIDDEN; j++) {
            double m = b1[j];
            for (int d = 0; d < D; d++)
                m += w1[j * D + d] * h[i / HEADS * D + d];
            out += w2[i % HEADS * HIDDEN + j] * m / (1 + exp(-m));
        }
        out = 1 / (1 + exp(-out));
        compare_within("utility", &u[i], &out, 1, 1e-14, 0);
        assert_true(fixed[i] == b2[i % HEADS]);
    }
    buf_free(&hd), buf_free(&b1d), buf_free(&b2d), buf_free(&ud), buf_free(&fd);
    b.ops->weight_free(b.dev, fc1);
    b.ops->weight_free(b.dev, fc2);
    backend_close(&b);
}

/* ---- gates and draws --------------------------------------------------------------------------------------------- */

static void test_gate(void **state) {
    (void)state;
    static const double u[6] = {0.5, 0.49999997, 0.50000006, NAN, INFINITY, -INFINITY};
    static const uint8_t inclusive[6] = {1, 0, 1, 0, 1, 0}, strict[6] = {0, 0, 1, 0, 1, 0};
    struct backend b = backend_open(ops_ref(), DTYPE_F32);
    struct buf ud = buf_make(&b, b.real, 6, u), od = buf_bytes(&b, 6, NULL);
    uint8_t got[6];
    b.ops->gate(b.dev, ud.ptr, 6, 0.5f, false, od.ptr);
    buf_read_bytes(&od, got);
    assert_memory_equal(got, inclusive, 6);
    b.ops->gate(b.dev, ud.ptr, 6, 0.5f, true, od.ptr);
    buf_read_bytes(&od, got);
    assert_memory_equal(got, strict, 6);
    buf_free(&ud), buf_free(&od);
    backend_close(&b);
}

/* Known answers of the Random123 distribution (kat_vectors, philox4x32 10 rounds). */
static void test_philox(void **state) {
    (void)state;
    static const struct {
        uint64_t key;
        struct rng_block counter, want;
    } cases[] = {
        {0, {{0, 0, 0, 0}}, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
        {UINT64_MAX, {{~0u, ~0u, ~0u, ~0u}}, {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
        {0x299f31d0a4093822u, {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
         {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rng_block got = rng_philox(cases[i].key, cases[i].counter);
        assert_memory_equal(&got, &cases[i].want, sizeof got);
    }
}

static void test_score_random(void **state) {
    (void)state;
    struct backend b = backend_open(ops_ref(), DTYPE_F32);
    int slots[2] = {1, 0}, splits[3] = {0, 2, 5}, pos0[2] = {100, 7};
    uint64_t ids[2] = {9000000000u, 3};
    struct kv_batch batch = {.n_seq = 2, .slots = slots, .row_splits = splits, .pos0 = pos0, .sequence_id = ids};
    double u[10];
    struct buf ud = buf_make(&b, b.real, 10, NULL);
    b.ops->score_random(b.dev, &batch, 42, 6, 2, ud.ptr);
    buf_read(&ud, u);
    assert_true(u[1 * 2 + 1] == (double)rng_uniform(42, 9000000000u, 6, 1, 101));
    assert_true(u[2 * 2 + 0] == (double)rng_uniform(42, 3, 6, 0, 7));
    assert_true(u[4 * 2 + 1] == (double)rng_uniform(42, 3, 6, 1, 9));
    buf_free(&ud);
    backend_close(&b);
}

/* Draws of one distribution at many positions. */
static void draw_many(const struct backend *b, const double *logits, size_t n_vocab, const struct sample_args *how, size_t n,
                      int32_t *ids) {
    double *rows = zalloc(n * n_vocab, sizeof *rows);
    uint64_t *sequence = zalloc(n, sizeof *sequence);
    int *position = zalloc(n, sizeof *position);
    for (size_t i = 0; i < n; i++) {
        memcpy(rows + i * n_vocab, logits, n_vocab * sizeof *rows);
        sequence[i] = i % 3;
        position[i] = (int)i;
    }
    struct buf ld = buf_make(b, b->real, n * n_vocab, rows), id = buf_bytes(b, n * sizeof *ids, NULL);
    struct sample_args a = *how;
    a.logits = ld.ptr;
    a.n_rows = n;
    a.n_vocab = n_vocab;
    a.sequence_id = sequence;
    a.position = position;
    a.id = id.ptr;
    b->ops->sample(b->dev, &a);
    buf_read_bytes(&id, ids);
    buf_free(&ld), buf_free(&id);
    free(rows), free(sequence), free(position);
}

static void test_sample(void **state) {
    (void)state;
    enum { N = 20000, V = 6 };
    static const double logits[V] = {0, 2, NAN, 2, -INFINITY, 1};
    static const struct {
        struct sample_args how;
        double p[V]; /* worked out by hand: e^(l / T) over what the cuts leave */
    } cases[] = {
        {{.temperature = 0, .top_p = 1}, {0, 1, 0, 0, 0, 0}},
        {{.temperature = 1, .top_p = 1, .seed = 1}, {0.0541, 0.3995, 0, 0.3995, 0, 0.1470}},
        {{.temperature = 2, .top_p = 1, .seed = 2}, {0.1235, 0.3364, 0, 0.3364, 0, 0.2037}},
        {{.temperature = 1, .top_p = 1, .top_k = 3, .seed = 3}, {0, 0.4223, 0, 0.4223, 0, 0.1554}},
        {{.temperature = 1, .top_p = 0.3f, .seed = 4}, {0, 1, 0, 0, 0, 0}},
        {{.temperature = 1, .top_p = 0.7f, .seed = 5}, {0, 0.5, 0, 0.5, 0, 0}},
        {{.temperature = 1, .top_p = 0.45f, .top_k = 2, .seed = 6}, {0, 1, 0, 0, 0, 0}},
        {{.temperature = 1, .top_p = 0.5f, .top_k = 2, .seed = 7}, {0, 1, 0, 0, 0, 0}}, /* the first alone reaches it */
    };
    struct backend b = backend_open(ops_ref(), DTYPE_F32);
    int32_t *ids = zalloc(N, sizeof *ids);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int count[V] = {0};
        draw_many(&b, logits, V, &cases[c].how, N, ids);
        for (int i = 0; i < N; i++) {
            assert_in_range(ids[i], 0, V - 1);
            count[ids[i]]++;
        }
        for (int i = 0; i < V; i++) { /* five standard deviations of a binomial */
            double p = cases[c].p[i], tol = 5 * sqrt(p * (1 - p) / N) + (p > 0 && p < 1 ? 1e-4 : 0);
            if (fabs(count[i] / (double)N - p) > tol)
                fail_msg("case %zu: id %d drawn with frequency %g, expected %g", c, i, count[i] / (double)N, p);
        }
    }
    free(ids);
    backend_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cache_against_mask), cmocka_unit_test(test_chunks_agree),
        cmocka_unit_test(test_dense_prefill),
        cmocka_unit_test(test_stats_against_mask), cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_rope),               cmocka_unit_test(test_activations),
        cmocka_unit_test(test_linear_and_nll),     cmocka_unit_test(test_weight_rounding),
        cmocka_unit_test(test_predict),            cmocka_unit_test(test_gate),
        cmocka_unit_test(test_philox),             cmocka_unit_test(test_score_random),
        cmocka_unit_test(test_sample),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
