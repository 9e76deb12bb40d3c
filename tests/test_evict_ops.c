/* Ops of policies that evict, every backend against the reference: column sums, sums of queries, scores, selection and the
 * eviction itself. Tolerances: a softmax weight is off by weight_error(), see test_ops_cache.c; sums of n of them by n times
 * that and n roundings. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/backends.h"
#include "tests/kv_world.h"
#include "tests/op_pair.h"

/* Error of a logit, of lse and of a weight; |input| <= magnitude. */
static double weight_error(const struct kv_geometry *g) {
    double logit = 4 * U * g->scale * g->head_dim * g->magnitude * g->magnitude + 4 * U * g->softcap;
    return 3 * logit + (90 + g->max_len) * U;
}

/* ---- selection ----------------------------------------------------------------------------------------------------- */

/* Scores with many ties, NaN and infinities. */
static double *tied_scores(struct pair *p, size_t n) {
    static const double special[] = {INFINITY, -INFINITY, 0.0, -0.0, 1e-30, -1e-30};
    double *score = zalloc(n, sizeof *score);
    for (size_t i = 0; i < n; i++) {
        int kind = rnd_int(&p->rnd, 0, 9);
        score[i] = kind == 0 ? (double)NAN : kind == 1 ? special[rnd_int(&p->rnd, 0, 5)]
                 : kind < 5  ? rnd_int(&p->rnd, -3, 3) / 4.0 : rnd_real(&p->rnd, -1, 1);
    }
    round_all(score, n, p->got.real);
    return score;
}

/* Item i of a set is chosen when fewer than k are better: a larger score, or an equal one earlier. */
static void check_set(const double *score, const int32_t *n, size_t n_lanes, size_t stride, size_t k, const uint8_t *keep) {
    for (size_t lane = 0; lane < n_lanes; lane++)
        for (size_t i = 0; i < (size_t)n[lane]; i++) {
            double own = score[lane * stride + i];
            size_t better = 0;
            for (size_t other = 0; other < n_lanes; other++)
                for (size_t j = 0; j < (size_t)n[other]; j++) {
                    double its = score[other * stride + j];
                    better += its > own || (its == own && other * stride + j < lane * stride + i);
                }
            assert_int_equal(keep[lane * stride + i], !isnan(own) && better < k);
        }
}

static void run_select(struct pair *p, size_t n_sets, size_t stride) {
    size_t n_lanes = 1 + stride % 3, n_rows = n_sets * n_lanes, n = n_rows * stride;
    double *score = tied_scores(p, n);
    int32_t *counts = zalloc(n_rows, sizeof *counts);
    uint8_t *keep = zalloc(n, 1);
    for (size_t i = 0; i < n_rows; i++)
        counts[i] = rnd_int(&p->rnd, 0, (int)stride);
    struct duo score_dev = duo_make(p, p->got.real, n, score), n_dev = duo_bytes(p, n_rows * sizeof *counts, counts);
    for (size_t k = 0; k < stride * n_lanes + 2; k += 1 + stride / 3) {
        struct duo keep_dev = duo_bytes(p, n, keep);
        for (int side = 0; side < 2; side++) {
            side_of(p, side)->ops->select_top(side_of(p, side)->dev, &(struct select_top_args){
                .score = on(&score_dev, side), .n = on(&n_dev, side), .n_sets = n_sets, .n_lanes = n_lanes,
                .stride = stride, .k = k, .keep = on(&keep_dev, side)});
            buf_read_bytes(side ? &keep_dev.want : &keep_dev.got, keep);
            for (size_t set = 0; set < n_sets; set++)
                check_set(score + set * n_lanes * stride, counts + set * n_lanes, n_lanes, stride, k,
                          keep + set * n_lanes * stride);
        }
        duo_free(&keep_dev);
    }
    duo_free(&score_dev);
    duo_free(&n_dev);
    free(score), free(counts), free(keep);
}

/* ---- sums of queries ----------------------------------------------------------------------------------------------- */

/* Rows of two slots, the second of which begins before `skip`. Products within 1, at most n_rows of them in f32. */
static void run_query_sums(struct pair *p, size_t n_rows, size_t dim) {
    size_t n_heads = 2, ld = n_heads * dim + 3, item = dim * (dim + 1), n_sum = 3 * n_heads * item;
    int half = (int)n_rows / 2, splits[] = {0, half, (int)n_rows}, slots[] = {2, 0}, pos0[] = {50, 3};
    uint64_t ids[] = {0, 1};
    struct kv_batch batch = {.n_seq = n_rows > 1 ? 2 : 0, .slots = slots, .row_splits = splits, .pos0 = pos0,
                             .sequence_id = ids};
    double *q = random_values(p, n_rows * ld, -1, 1, p->got.real), *sum = random_values(p, n_sum, -5, 5, DTYPE_F64);
    struct duo q_dev = duo_make(p, p->got.real, n_rows * ld, q), sum_dev = duo_make(p, DTYPE_F64, n_sum, sum);
    for (int side = 0; side < 2; side++)
        side_of(p, side)->ops->query_sums(side_of(p, side)->dev, &(struct query_sums_args){
            .batch = batch, .q = on(&q_dev, side), .n_heads = n_heads, .head_dim = dim, .ld_q = ld, .skip = 7,
            .sum = on(&sum_dev, side)});
    for (size_t i = 0; i < n_sum; i++)
        sum[i] = (double)n_rows * (double)n_rows * U;
    duo_finish(p, "query_sums", &sum_dev, sum, U);
    duo_free(&q_dev);
    free(q), free(sum);
}

/* ---- caches that lose pairs ---------------------------------------------------------------------------------------- */

struct worlds {
    struct kv_world got, want;
};

static struct kv_geometry geometry(struct rnd *r, enum dtype dtype) {
    static const int dims[] = {16, 32, 64, 80, 96, 128, 12}, groups[] = {1, 2, 3, 4, 8};
    struct kv_geometry g = kv_geometry_random(r, rnd_int(r, 80, 220));
    g.head_dim = dims[rnd_int(r, 0, 6)];
    g.group = groups[rnd_int(r, 0, 4)];
    g.n_layers = g.n_layers > 2 ? 2 : g.n_layers;
    g.n_threads = 1 + r->seed % 4 / 3;
    g.positions = true;
    g.density = rnd_int(r, 0, 1) ? 1 : 0.6;
    g.scale = rnd_real(r, 0.5, 2) / sqrt((double)g.head_dim);
    for (int i = 0; i < g.n_layers * g.n_kv_heads; i++)
        g.window[i] = rnd_int(r, 1, 50);
    (void)dtype;
    return g;
}

static int n_long(struct kv_world *w, int slot, int layer, int head, int32_t *pos) {
    struct err err = {0};
    int n;
    assert_int_equal(kv_cache_read_positions(w->cache, slot, layer, head, pos, &n, &err), OK);
    return n;
}

/* Every resident pair of a lane, bit by bit, and its positions. */
static void compare_lane(struct worlds *w, int slot, int layer, int head) {
    const struct kv_geometry *g = &w->got.g;
    int32_t pos[2][256], index[512];
    int window = g->window[layer * g->n_kv_heads + head], fed = w->got.fed[slot];
    int n = n_long(&w->got, slot, layer, head, pos[0]), resident = n + (fed < window ? fed : window);
    double *pairs[2][2];
    assert_int_equal(n, n_long(&w->want, slot, layer, head, pos[1]));
    assert_memory_equal(pos[0], pos[1], (size_t)n * sizeof **pos);
    for (int i = 0; i < resident; i++)
        index[i] = i;
    size_t n_values = (size_t)resident * (size_t)g->head_dim;
    for (int side = 0; side < 2; side++) {
        const struct kv_world *world = side ? &w->want : &w->got;
        struct buf k = buf_make(&world->b, world->b.real, n_values, NULL);
        struct buf v = buf_make(&world->b, world->b.real, n_values, NULL);
        struct buf index_dev = buf_bytes(&world->b, (size_t)resident * sizeof *index, index);
        world->b.ops->kv_read(world->b.dev, world->cache, slot, layer, head, index_dev.ptr, (size_t)resident, k.ptr, v.ptr);
        for (int i = 0; i < 2; i++) {
            pairs[side][i] = zalloc(n_values, sizeof(double));
            buf_read(i ? &v : &k, pairs[side][i]);
        }
        buf_free(&k), buf_free(&v), buf_free(&index_dev);
    }
    compare_within("keys after an eviction", pairs[0][0], pairs[1][0], n_values, 0, 0);
    compare_within("values after an eviction", pairs[0][1], pairs[1][1], n_values, 0, 0);
    for (int i = 0; i < 4; i++)
        free(pairs[i / 2][i % 2]);
}

/* Drops about half of the long-term pairs of a slot, by the same marks on both sides. */
static void evict(struct worlds *w, struct rnd *r, int slot) {
    const struct kv_geometry *g = &w->got.g;
    size_t n = (size_t)(g->n_kv_heads * g->max_len);
    uint8_t *keep = zalloc(n, 1);
    for (int layer = 0; layer < g->n_layers; layer++) {
        for (size_t i = 0; i < n; i++)
            keep[i] = (uint8_t)(rnd_int(r, 0, 1) * 255);
        for (int side = 0; side < 2; side++) {
            const struct kv_world *world = side ? &w->want : &w->got;
            struct buf keep_dev = buf_bytes(&world->b, n, keep);
            world->b.ops->kv_evict(world->b.dev, world->cache, slot, layer, keep_dev.ptr);
            buf_free(&keep_dev);
        }
        kv_world_check(&w->got);
        kv_world_check(&w->want);
        for (int head = 0; head < g->n_kv_heads; head++)
            compare_lane(w, slot, layer, head);
    }
    free(keep);
}

static struct buf real_part(const struct kv_world *w, const double *values, size_t n) {
    return buf_make(&w->b, w->b.real, n, values);
}

/* Scores of a lane on both sides within tolerances, infinite where the pair is a sink; relative to the largest. */
static void compare_scores(struct worlds *w, const char *what, int slot, int layer, double *const score[2],
                           double relative) {
    const struct kv_geometry *g = &w->got.g;
    for (int head = 0; head < g->n_kv_heads; head++) {
        int32_t pos[256];
        int n = n_long(&w->got, slot, layer, head, pos);
        const double *got = score[0] + head * g->max_len, *want = score[1] + head * g->max_len;
        double largest = 0;
        for (int j = 0; j < n; j++) {
            assert_true(isinf(want[j]) == (pos[j] < g->sinks));
            largest = isinf(want[j]) ? largest : fmax(largest, want[j]);
        }
        compare_within(what, got, want, (size_t)n, relative * largest, 0);
    }
}

static void column_scores(struct worlds *w, struct rnd *r, int slot, int layer) {
    const struct kv_geometry *g = &w->got.g;
    size_t n = (size_t)(g->n_kv_heads * g->max_len), n_sum = n * (size_t)g->n_slots;
    int pool = 1 + 2 * rnd_int(r, 0, 3), mean_heads = rnd_int(r, 0, 1);
    double *score[2] = {zalloc(n, 8), zalloc(n, 8)};
    for (int side = 0; side < 2; side++) {
        const struct kv_world *world = side ? &w->want : &w->got;
        struct buf sum = real_part(world, w->want.column_sum + (size_t)layer * n_sum, n_sum);
        struct buf out = real_part(world, NULL, n);
        world->b.ops->column_score(world->b.dev, &(struct column_score_args){
            .cache = world->cache, .slot = slot, .layer = layer, .column_sum = sum.ptr, .mean_heads = mean_heads,
            .pool = pool, .score = out.ptr});
        buf_read(&out, score[side]);
        buf_free(&sum), buf_free(&out);
    }
    compare_scores(w, "column_score", slot, layer, score, 16 * U);
    free(score[0]), free(score[1]);
}

/* Sums of some hundred random queries within +-1. */
static double *some_query_sums(struct rnd *r, const struct kv_geometry *g, size_t n_sum, int n_queries) {
    size_t dim = (size_t)g->head_dim;
    double *sum = zalloc(n_sum, sizeof *sum), *q = zalloc(dim, sizeof *q);
    for (size_t item = 0; item < n_sum / (dim * (dim + 1)); item++)
        for (int i = 0; i < n_queries; i++) {
            double *at = sum + item * dim * (dim + 1);
            rnd_fill(r, q, dim, -0.5, 1);
            for (size_t d = 0; d < dim; d++) {
                at[d] += q[d];
                for (size_t e = 0; e < dim; e++)
                    at[dim + d * dim + e] += q[d] * q[e];
            }
        }
    free(q);
    return sum;
}

/* An expected logit sums dim products of dim terms each, |k| <= 2, |q| <= 1: off by at most
 * 4 U (scale dim 2 + scale^2 / 2 dim^2 4); weights by twice that, norms and roundings by some U more. */
static void expected_scores(struct worlds *w, struct rnd *r, int slot, int layer) {
    const struct kv_geometry *g = &w->got.g;
    size_t dim = (size_t)g->head_dim, n = (size_t)(g->n_kv_heads * g->max_len), n_heads = (size_t)(g->n_kv_heads * g->group);
    size_t n_sum = (size_t)g->n_slots * n_heads * dim * (dim + 1);
    int n_queries = rnd_int(r, 0, 3) * 20, rotated = rnd_int(r, 0, 2);
    double *sum = some_query_sums(r, g, n_sum, n_queries), *rotation = zalloc(2 * dim, sizeof *rotation);
    double *score[2] = {zalloc(n, 8), zalloc(n, 8)}, scale = g->scale;
    rnd_fill(r, rotation, 2 * dim, -0.7, 0.7);
    for (int side = 0; side < 2; side++) {
        const struct kv_world *world = side ? &w->want : &w->got;
        struct buf sum_dev = buf_make(&world->b, DTYPE_F64, n_sum, sum), out = real_part(world, NULL, n);
        struct buf now = real_part(world, rotation, dim), future = real_part(world, rotation + dim, dim);
        world->b.ops->expected_score(world->b.dev, &(struct expected_score_args){
            .cache = world->cache, .slot = slot, .layer = layer, .n_heads = n_heads, .query_sum = sum_dev.ptr,
            .n_queries = n_queries, .rotation = rotated ? now.ptr : NULL, .future = rotated ? future.ptr : NULL,
            .scale = (float)scale, .score = out.ptr});
        buf_read(&out, score[side]);
        buf_free(&sum_dev), buf_free(&out), buf_free(&now), buf_free(&future);
    }
    double logit = 4 * U * ((double)dim * scale * 2 + scale * scale / 2 * (double)(dim * dim) * 4);
    compare_scores(w, "expected_score", slot, layer, score, 2 * logit + (double)(g->max_len + 30) * U);
    free(sum), free(rotation), free(score[0]), free(score[1]);
}

static void compare_columns(struct worlds *w) {
    const struct kv_geometry *g = &w->got.g;
    size_t n = (size_t)(g->n_layers * g->n_slots * g->n_kv_heads * g->max_len);
    compare_within("column sums", w->got.column_sum, w->want.column_sum, n, g->max_len * weight_error(g), g->max_len * U);
}

static void compare_attention(struct worlds *w, int slot, int first) {
    const struct kv_geometry *g = &w->got.g;
    size_t heads = (size_t)(g->n_kv_heads * g->group);
    for (int layer = 0; layer < g->n_layers; layer++) {
        size_t at = world_at(&w->got, slot, layer, first) * heads, n = (size_t)(w->got.fed[slot] - first) * heads;
        compare_within("lse after evictions", w->got.lse + at, w->want.lse + at, n, weight_error(g), 4 * U);
    }
}

/* A random step of every slot that has room, a random eviction of one of them. */
static void world_step(struct worlds *w, struct rnd *r) {
    static const int chunks[] = {1, 1, 5, 40, 60};
    int slots[WORLD_MAX_SLOTS], n_rows[WORLD_MAX_SLOTS], n_seq = 0, max_len = w->got.g.max_len;
    w->got.column_from = w->want.column_from = rnd_int(r, 0, 1) * rnd_int(r, 0, 100);
    for (int s = 0; s < w->got.g.n_slots; s++) {
        int n = chunks[rnd_int(r, 0, 4)], room = max_len - w->got.fed[s];
        if (room == 0)
            continue;
        slots[n_seq] = s;
        n_rows[n_seq++] = n < room ? n : room;
    }
    kv_world_step(&w->got, n_seq, slots, n_rows);
    kv_world_step(&w->want, n_seq, slots, n_rows);
    for (int i = 0; i < n_seq; i++)
        compare_attention(w, slots[i], w->got.fed[slots[i]] - n_rows[i]);
    compare_columns(w);
}

static void exercise(const struct ops *ops, enum dtype dtype, uint64_t seed) {
    struct rnd r = {.seed = seed};
    struct kv_geometry g = geometry(&r, dtype);
    struct worlds w;
    kv_world_open(&w.got, ops, dtype, dtype, &g);
    kv_world_open(&w.want, ops_ref(), dtype, dtype, &g);
    size_t n_columns = (size_t)(g.n_layers * g.n_slots * g.n_kv_heads * g.max_len);
    w.got.column_sum = zalloc(n_columns, sizeof(double));
    w.want.column_sum = zalloc(n_columns, sizeof(double));
    for (int step = 0; step < 8; step++) {
        int slot = rnd_int(&r, 0, g.n_slots - 1);
        world_step(&w, &r);
        for (int layer = 0; layer < g.n_layers; layer++)
            if (!g.ring_only[layer]) {
                column_scores(&w, &r, slot, layer);
                expected_scores(&w, &r, slot, layer);
            }
        evict(&w, &r, slot);
    }
    kv_world_reset(&w.got, 0);
    kv_world_check(&w.got);
    kv_world_close(&w.got);
    kv_world_close(&w.want);
}

static void test_worlds(void **state) {
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    const struct ops *list[MAX_BACKENDS];
    int n = backends_under_test(list);
    (void)state;
    for (int i = 0; i < n; i++)
        for (int d = 0; d < 2; d++)
            for (uint64_t seed = 1; seed <= (backend_in_full(list[i]) ? 6 : 1) && backend_opens(list[i], dtypes[d], NULL);
                 seed++)
                exercise(list[i], dtypes[d], seed);
}

/* Few queries over many keys: their work is cut by keys, and sums come from a second look. */
static void test_many_keys(void **state) {
    const struct ops *list[MAX_BACKENDS];
    int n = backends_under_test(list), slot = 0;
    struct kv_geometry g = {.n_slots = 1, .n_layers = 1, .n_kv_heads = 2, .group = 2, .head_dim = 16, .max_len = 700,
                            .window = {30, 7}, .sinks = 2, .density = 1, .scale = 0.3, .magnitude = 2, .seed = 5,
                            .positions = true};
    (void)state;
    for (int i = 0; i < n; i++) {
        struct worlds w;
        kv_world_open(&w.got, list[i], DTYPE_F32, DTYPE_F32, &g);
        kv_world_open(&w.want, ops_ref(), DTYPE_F32, DTYPE_F32, &g);
        for (const int *n_rows = (const int[]){600, 1, 3, 40, 0}; *n_rows; n_rows++) {
            kv_world_step(&w.got, 1, &slot, n_rows);
            kv_world_step(&w.want, 1, &slot, n_rows);
            if (!w.got.column_sum) { /* the long step is only there to fill the cache */
                w.got.column_sum = zalloc((size_t)(g.n_kv_heads * g.max_len), sizeof(double));
                w.want.column_sum = zalloc((size_t)(g.n_kv_heads * g.max_len), sizeof(double));
            }
            compare_columns(&w);
        }
        kv_world_close(&w.got);
        kv_world_close(&w.want);
    }
}

int main(void) {
    static const struct op_case cases[] = {{"select_top", run_select}, {"query_sums", run_query_sums}};
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_worlds), cmocka_unit_test(test_many_keys)};
    int failed = op_cases_run(cases, sizeof cases / sizeof *cases);
    return cmocka_run_group_tests(tests, NULL, NULL) + failed;
}
