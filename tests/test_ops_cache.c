/* Attention and the cache of every backend: kept sets, counts, bytes and resident pairs exactly as a visibility mask says,
 * attention and its statistics as the reference computes them. */
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
#include "tests/op_util.h"

static const double U = 0x1p-23;

/* Error of one logit in f32: a dot product of head_dim terms within +-magnitude, and a tanh within 4 u of itself. */
static double logit_error(const struct kv_geometry *g) {
    return 4 * U * g->scale * g->head_dim * g->magnitude * g->magnitude + 4 * U * g->softcap;
}

/* Relative error of a sum of exponentials of at most max_len keys: both logits (its own and the largest), exp, the sum. */
static double sum_error(const struct kv_geometry *g) {
    return 2 * logit_error(g) + 4 * U + g->max_len * U / 2;
}

/* Compares what positions first .. end-1 of a slot gave. Numerator and denominator of a mean of values within +-magnitude
 * are off by sum_error() each; a bf16 backend may multiply bf16 probabilities with the values: half a spacing on either
 * side of the fraction. */
static void compare_attention(const struct kv_world *got, const struct kv_world *want, int slot, int first, int end) {
    const struct kv_geometry *g = &got->g;
    size_t heads = (size_t)(g->n_kv_heads * g->group), dim = (size_t)g->head_dim, n = (size_t)(end - first) * heads;
    double out_error = g->magnitude * (2 * sum_error(g) + (got->b.act == DTYPE_BF16 ? eps_of(DTYPE_BF16) : 0));
    for (int layer = 0; layer < g->n_layers; layer++) {
        size_t at = world_at(got, slot, layer, first) * heads;
        char what[160];
        snprintf(what, sizeof what, "%s %s, seed %llu, slot %d, layer %d, positions %d to %d, head_dim %d, group %d",
                 got->b.ops->name, dtype_name(got->b.act), (unsigned long long)g->seed, slot, layer, first, end - 1,
                 g->head_dim, g->group);
        compare_within(what, got->lse + at, want->lse + at, n, sum_error(g), 4 * U);
        compare_within(what, got->out + at * dim, want->out + at * dim, n * dim, out_error, eps_of(got->b.act));
    }
}

static struct kv_geometry geometry(struct rnd *r, enum dtype dtype) {
    static const int dims[] = {16, 32, 64, 64, 80, 96, 128, 256, 7}, groups[] = {1, 2, 3, 4, 7, 8};
    struct kv_geometry g = kv_geometry_random(r, rnd_int(r, 60, 200));
    g.head_dim = dims[rnd_int(r, 0, 8)];
    g.head_dim += dtype == DTYPE_BF16 && g.head_dim % 2; /* kv_cache.h */
    g.group = groups[rnd_int(r, 0, 5)];
    g.n_layers = g.n_layers > 2 ? 2 : g.n_layers;
    g.n_threads = 1 + r->seed % 4 / 3; /* most on one: idle threads spin, and tests share the machine */
    g.scale = rnd_real(r, 0.5, 2) / sqrt((double)g.head_dim);
    return g;
}

/* Fills pages with NaNs and gives them back: what later steps find in unused slots must not matter. */
static void poison(struct kv_world *w) {
    double magnitude = w->g.magnitude;
    int slot = 0, n = w->g.max_len * 3 / 4;
    w->g.magnitude = NAN;
    kv_world_step(w, 1, &slot, &n);
    kv_world_reset(w, slot);
    w->g.magnitude = magnitude;
}

static void exercise(const struct ops *ops, enum dtype dtype, uint64_t seed) {
    static const int chunks[] = {1, 1, 5, 40, 130};
    struct rnd r = {.seed = seed};
    struct kv_geometry g = geometry(&r, dtype);
    struct kv_world got, want;
    kv_world_open(&got, ops, dtype, dtype, &g);
    kv_world_open(&want, ops_ref(), dtype, dtype, &g);
    poison(&got);
    poison(&want);
    for (int step = 0; step < 8; step++) {
        int slots[WORLD_MAX_SLOTS], n_rows[WORLD_MAX_SLOTS], n_seq = 0;
        for (int s = g.n_slots - 1; s >= 0; s--) {
            int n = chunks[rnd_int(&r, 0, 4)], room = g.max_len - got.fed[s];
            if (room == 0) {
                kv_world_reset(&got, s);
                kv_world_reset(&want, s);
            } else if (rnd_int(&r, 0, 3)) {
                slots[n_seq] = s;
                n_rows[n_seq++] = n < room ? n : room;
            }
        }
        kv_world_step(&got, n_seq, slots, n_rows);
        kv_world_step(&want, n_seq, slots, n_rows);
        kv_world_check(&got);
        for (int i = 0; i < n_seq; i++)
            compare_attention(&got, &want, slots[i], got.fed[slots[i]] - n_rows[i], got.fed[slots[i]]);
    }
    for (int s = 0; s < g.n_slots; s++)
        kv_expect_counts(&got, s);
    kv_world_close(&got);
    kv_world_close(&want);
}

/* Runs `run` on every backend and dtype that this machine has. */
static void for_all(void (*run)(const struct ops *ops, enum dtype dtype)) {
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    const struct ops *list[MAX_BACKENDS];
    int n = backends_under_test(list);
    for (int i = 0; i < n; i++)
        for (int d = 0; d < 2; d++)
            if (backend_opens(list[i], dtypes[d], NULL))
                run(list[i], dtypes[d]);
}

static void run_exercise(const struct ops *ops, enum dtype dtype) {
    for (uint64_t seed = 1; seed <= (backend_in_full(ops) ? 8 : 2); seed++)
        exercise(ops, dtype, seed);
}

static void test_attention_and_cache(void **state) {
    (void)state;
    for_all(run_exercise);
}

/* Feeds every slot T tokens, `chunk` at a time, all slots in one batch. */
static void feed_all(struct kv_world *w, int T, int chunk) {
    while (w->fed[0] < T) {
        int slots[WORLD_MAX_SLOTS], n_rows[WORLD_MAX_SLOTS];
        for (int s = 0; s < w->g.n_slots; s++) {
            slots[s] = s;
            n_rows[s] = T - w->fed[s] < chunk ? T - w->fed[s] : chunk;
        }
        kv_world_step(w, w->g.n_slots, slots, n_rows);
    }
}

/* Dense prefill, pruned at its end, then decoding. */
static void run_prune(const struct ops *ops, enum dtype dtype) {
    for (uint64_t seed = 40; seed < (backend_in_full(ops) ? 44 : 41); seed++) {
        struct rnd r = {.seed = seed};
        struct kv_geometry g = geometry(&r, dtype);
        struct kv_world w[2];
        int slot = g.n_slots - 1, n = 1, prompt = rnd_int(&r, 1, g.max_len - 5), chunk = rnd_int(&r, 1, 90);
        for (int i = 0; i < 2; i++) {
            kv_world_open(&w[i], i ? ops_ref() : ops, dtype, dtype, &g);
            kv_world_prefill_dense(&w[i], slot, prompt, chunk);
            kv_world_check(&w[i]);
            kv_expect_counts(&w[i], slot);
            for (int t = 0; t < 5; t++)
                kv_world_step(&w[i], 1, &slot, &n);
            kv_world_check(&w[i]);
            kv_expect_counts(&w[i], slot);
        }
        compare_attention(&w[0], &w[1], slot, 0, w[0].fed[slot]);
        kv_world_close(&w[0]);
        kv_world_close(&w[1]);
    }
}

static void test_prune(void **state) {
    (void)state;
    for_all(run_prune);
}

/* A dense run, where every mass has a known distance. A mass is off by the error of its logit and of lse, both taken from
 * the backend's own attention, and a query's masses sum to 1. What the queries give a key is summed in f32, one addition or
 * less a query and head, by one thread. */
static void run_stats(const struct ops *ops, enum dtype dtype) {
    for (uint64_t seed = 20; seed < (backend_in_full(ops) ? 24 : 21); seed++) {
        struct rnd r = {.seed = seed};
        struct kv_geometry g = geometry(&r, dtype);
        struct kv_world w[3];
        int window = rnd_int(&r, 1, 40), sinks = rnd_int(&r, 0, 5), chunk = rnd_int(&r, 1, 50);
        g.density = 1;
        for (int i = 0; i < 3; i++) {
            g.n_threads = 1 + i % 2;
            kv_world_open(&w[i], i == 2 ? ops_ref() : ops, dtype, dtype, &g);
            w[i].stats_window = window;
            w[i].stats_sinks = sinks;
            w[i].n_bins = 7;
            feed_all(&w[i], g.max_len - 3, chunk);
        }
        size_t lanes = (size_t)(g.n_slots * g.n_layers * g.n_kv_heads);
        double weight_tol = logit_error(&g) + sum_error(&g) + 8 * U * 10, tol = g.max_len * weight_tol;
        compare_within("far mass", w[0].far_sum, w[2].far_sum, lanes, tol, 0);
        compare_within("sink mass", w[0].sink_sum, w[2].sink_sum, lanes, tol, 0);
        compare_within("mass by distance", w[0].distance_sum, w[2].distance_sum, lanes * 7, tol, 0);
        size_t n_future = (size_t)g.n_layers * world_future_items(&w[0]);
        compare_within("future max", w[0].future_max, w[2].future_max, n_future, weight_tol, U);
        compare_within("future sum", w[0].future_sum, w[2].future_sum, n_future, tol * g.group, g.max_len * g.group * U);
        compare_within("future max on two threads", w[1].future_max, w[0].future_max, n_future, 0, 0);
        compare_within("future sum on two threads", w[1].future_sum, w[0].future_sum, n_future, 0, 0);
        for (int i = 0; i < 3; i++)
            kv_world_close(&w[i]);
    }
}

static void test_stats(void **state) {
    (void)state;
    for_all(run_stats);
}

/* Equal calls give equal bits; other chunks and one thread give equal counts (the mask) and attention up to rounding. */
static void run_repeat(const struct ops *ops, enum dtype dtype) {
    struct rnd r = {.seed = 31};
    struct kv_geometry g = geometry(&r, dtype);
    static const int chunks[] = {64, 64, 1, 7, 512};
    struct kv_world first;
    g.n_threads = 2;
    kv_world_open(&first, ops, dtype, dtype, &g);
    feed_all(&first, g.max_len, chunks[0]);
    size_t n = (size_t)(g.n_slots * g.n_layers * g.max_len * g.n_kv_heads * g.group);
    for (int i = 1; i < (backend_in_full(ops) ? 5 : 3); i++) {
        struct kv_world w;
        g.n_threads = i == 1 ? 2 : 1;
        kv_world_open(&w, ops, dtype, dtype, &g);
        feed_all(&w, g.max_len, chunks[i]);
        kv_expect_counts(&w, 0);
        if (i == 1) {
            compare_within("repeated attention", w.out, first.out, n * (size_t)g.head_dim, 0, 0);
            compare_within("repeated lse", w.lse, first.lse, n, 0, 0);
        }
        for (int s = 0; s < g.n_slots; s++)
            compare_attention(&w, &first, s, 0, g.max_len);
        kv_world_close(&w);
    }
    kv_world_close(&first);
}

static void test_repeat_and_chunks(void **state) {
    (void)state;
    for_all(run_repeat);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention_and_cache),
        cmocka_unit_test(test_prune),
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_repeat_and_chunks),
    };
    backends_print_skipped();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
