#include "tests/kv_world.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"

struct kv_geometry kv_geometry_random(struct rnd *r, int max_len) {
    struct kv_geometry g = {.n_slots = rnd_int(r, 1, 3), .n_layers = rnd_int(r, 1, 3), .n_kv_heads = rnd_int(r, 1, 3),
                            .group = rnd_int(r, 1, 3), .head_dim = rnd_int(r, 1, 9), .max_len = max_len,
                            .page_slots = rnd_int(r, 0, 2) * 32, .density = rnd_unit(r), .magnitude = 2,
                            .sinks = rnd_int(r, 0, 1) * rnd_int(r, 1, 9), .scale = rnd_real(r, 0.2, 1),
                            .softcap = rnd_int(r, 0, 1) * 2.5, .seed = r->seed + 1000};
    int heads = g.n_layers * g.n_kv_heads;
    for (int i = 0; i < heads; i++)
        g.window[i] = rnd_int(r, 0, 5) ? rnd_int(r, 1, 100) : rnd_int(r, 0, 1) ? 1 : max_len + 5;
    for (int l = 0; l < g.n_layers; l++)
        g.ring_only[l] = rnd_int(r, 0, 3) == 0;
    return g;
}

void kv_world_open(struct kv_world *w, const struct ops *ops, enum dtype dtype, enum dtype cache_dtype,
                   const struct kv_geometry *g) {
    struct kv_cache_options o = {.n_slots = g->n_slots, .n_layers = g->n_layers, .n_kv_heads = g->n_kv_heads,
                                 .head_dim = g->head_dim, .max_len = g->max_len, .page_slots = g->page_slots,
                                 .window = g->window, .ring_only = g->ring_only, .sinks = g->sinks,
                                 .positions = g->positions, .dtype = cache_dtype};
    size_t rows = (size_t)(g->n_slots * g->n_layers * g->max_len), heads = (size_t)(g->n_kv_heads * g->group);
    struct err err = {0};
    memset(w, 0, sizeof *w);
    w->g = *g;
    w->cache_dtype = cache_dtype;
    w->b = backend_open_on(ops, dtype, g->n_threads ? g->n_threads : 1);
    if (kv_cache_create(ops, w->b.dev, &o, &w->cache, &err))
        fail_msg("kv_cache_create: %s", err.message);
    w->out = zalloc(rows * heads * (size_t)g->head_dim, sizeof *w->out);
    w->lse = zalloc(rows * heads, sizeof *w->lse);
}

void kv_world_close(struct kv_world *w) {
    kv_cache_free(w->cache);
    backend_close(&w->b);
    free(w->out);
    free(w->lse);
    free(w->far_sum);
    free(w->sink_sum);
    free(w->distance_sum);
    free(w->future_max);
    free(w->future_sum);
    free(w->column_sum);
}

double kv_world_input(const struct kv_world *w, char which, int slot, int layer, int pos, int head, int dim) {
    uint32_t lane = (uint32_t)(layer * 64 + head), kind = (uint32_t)which << 8 | (uint32_t)dim;
    double unit = (double)rng_uniform(w->g.seed, (uint64_t)(w->generation[slot] * 16 + slot), lane, kind, (uint32_t)pos);
    double x = w->g.magnitude * (2 * unit - 1);
    round_all(&x, 1, w->b.real);
    return x;
}

bool kv_world_gate(const struct kv_world *w, int slot, int layer, int pos, int kv_head) {
    return (double)rng_uniform(w->g.seed + 1, (uint64_t)(w->generation[slot] * 16 + slot), (uint32_t)layer,
                               (uint32_t)kv_head, (uint32_t)pos) < w->g.density;
}

/* ---- steps ---- */

/* The rows of a step on the device: q, k and v side by side as a fused projection leaves them. */
struct rows {
    size_t n, n_heads, ld;
    struct buf qkv, open, out, lse;
};

static void fill_row(const struct kv_world *w, const struct rows *x, double *row, uint8_t *open, int slot, int layer,
                     int pos) {
    const struct kv_geometry *g = &w->g;
    for (int h = 0; h < (int)x->n_heads; h++)
        for (int d = 0; d < g->head_dim; d++)
            *row++ = kv_world_input(w, 'q', slot, layer, pos, h, d);
    for (const char *which = "kv"; *which; which++)
        for (int h = 0; h < g->n_kv_heads; h++)
            for (int d = 0; d < g->head_dim; d++)
                *row++ = kv_world_input(w, *which, slot, layer, pos, h, d);
    for (int h = 0; h < g->n_kv_heads; h++)
        open[h] = pos < w->dense_len[slot] || kv_world_gate(w, slot, layer, pos, h);
}

static struct rows rows_make(const struct kv_world *w, const struct kv_batch *batch, int layer) {
    const struct kv_geometry *g = &w->g;
    struct rows x = {.n = (size_t)batch->row_splits[batch->n_seq], .n_heads = (size_t)(g->n_kv_heads * g->group)};
    x.ld = (x.n_heads + 2 * (size_t)g->n_kv_heads) * (size_t)g->head_dim + 3;
    double *qkv = zalloc(x.n * x.ld, sizeof *qkv);
    uint8_t *open = zalloc(x.n * (size_t)g->n_kv_heads, 1);
    for (int i = 0; i < batch->n_seq; i++)
        for (int r = batch->row_splits[i]; r < batch->row_splits[i + 1]; r++)
            fill_row(w, &x, qkv + (size_t)r * x.ld, open + r * g->n_kv_heads, batch->slots[i], layer,
                     batch->pos0[i] + r - batch->row_splits[i]);
    x.qkv = buf_make(&w->b, w->b.real, x.n * x.ld, qkv);
    x.open = buf_bytes(&w->b, x.n * (size_t)g->n_kv_heads, open);
    x.out = buf_make(&w->b, w->b.act, x.n * x.n_heads * (size_t)g->head_dim, NULL);
    x.lse = buf_make(&w->b, w->b.real, x.n * x.n_heads, NULL);
    free(open);
    free(qkv);
    return x;
}

static void rows_free(struct rows *x) {
    buf_free(&x->qkv);
    buf_free(&x->open);
    buf_free(&x->out);
    buf_free(&x->lse);
}

/* Element `column` of the first row, as the pointer type that ops take. */
static float *column(const struct kv_world *w, const struct rows *x, size_t at) {
    return (float *)(void *)((char *)x->qkv.ptr + at * dtype_size(w->b.real));
}

static void outputs_store(struct kv_world *w, const struct rows *x, const struct kv_batch *batch, int layer) {
    size_t out_row = x->n_heads * (size_t)w->g.head_dim;
    double *out = zalloc(x->out.n, sizeof *out), *lse = zalloc(x->lse.n, sizeof *lse);
    buf_read(&x->out, out);
    buf_read(&x->lse, lse);
    for (int i = 0; i < batch->n_seq; i++)
        for (int r = batch->row_splits[i]; r < batch->row_splits[i + 1]; r++) {
            size_t at = world_at(w, batch->slots[i], layer, batch->pos0[i] + r - batch->row_splits[i]);
            memcpy(w->out + at * out_row, out + (size_t)r * out_row, out_row * sizeof *out);
            memcpy(w->lse + at * x->n_heads, lse + (size_t)r * x->n_heads, x->n_heads * sizeof *lse);
        }
    free(out);
    free(lse);
}

/* Adds the statistics of the step to those of the world. */
static void stats_step(struct kv_world *w, const struct attend_args *a) {
    size_t heads = (size_t)w->g.n_kv_heads, n = (size_t)a->batch.n_seq * heads, bins = (size_t)w->n_bins;
    size_t lanes = (size_t)(w->g.n_slots * w->g.n_layers) * heads, n_future = world_future_items(w);
    double *zero = zalloc(n * bins, sizeof *zero), *far = zalloc(n, sizeof *far), *sink = zalloc(n, sizeof *sink);
    double *distance = zalloc(n * bins, sizeof *distance);
    int32_t *bin = zalloc((size_t)w->g.max_len, sizeof *bin);
    if (!w->far_sum) {
        w->far_sum = zalloc(lanes, sizeof *w->far_sum);
        w->sink_sum = zalloc(lanes, sizeof *w->sink_sum);
        w->distance_sum = zalloc(lanes * bins, sizeof *w->distance_sum);
        w->future_max = zalloc((size_t)w->g.n_layers * n_future, sizeof *w->future_max);
        w->future_sum = zalloc((size_t)w->g.n_layers * n_future, sizeof *w->future_sum);
    }
    for (int d = 0; d < w->g.max_len; d++)
        bin[d] = d % w->n_bins;
    struct buf far_dev = buf_make(&w->b, DTYPE_F64, n, zero), sink_dev = buf_make(&w->b, DTYPE_F64, n, zero);
    struct buf distance_dev = buf_make(&w->b, DTYPE_F64, n * bins, zero);
    struct buf bin_dev = buf_bytes(&w->b, (size_t)w->g.max_len * sizeof *bin, bin);
    double *future_max = w->future_max + (size_t)a->layer * n_future;
    double *future_sum = w->future_sum + (size_t)a->layer * n_future;
    struct buf future_max_dev = buf_make(&w->b, w->b.real, n_future, future_max);
    struct buf future_sum_dev = buf_make(&w->b, w->b.real, n_future, future_sum);
    w->b.ops->attend_stats(w->b.dev, &(struct attend_stats_args){
        .attend = a, .window = w->stats_window, .sinks = w->stats_sinks, .far_sum = far_dev.ptr, .sink_sum = sink_dev.ptr,
        .distance_sum = distance_dev.ptr, .bin_of_distance = bin_dev.ptr, .n_bins = w->n_bins,
        .future_max = future_max_dev.ptr, .future_sum = future_sum_dev.ptr});
    buf_read(&far_dev, far);
    buf_read(&sink_dev, sink);
    buf_read(&distance_dev, distance);
    buf_read(&future_max_dev, future_max);
    buf_read(&future_sum_dev, future_sum);
    for (size_t i = 0; i < n; i++) {
        size_t lane = kv_lane(w->cache, a->batch.slots[i / heads], a->layer, (int)(i % heads));
        w->far_sum[lane] += far[i];
        w->sink_sum[lane] += sink[i];
        for (size_t j = 0; j < bins; j++)
            w->distance_sum[lane * bins + j] += distance[i * bins + j];
    }
    buf_free(&far_dev);
    buf_free(&sink_dev);
    buf_free(&distance_dev);
    buf_free(&bin_dev);
    buf_free(&future_max_dev);
    buf_free(&future_sum_dev);
    free(zero);
    free(far);
    free(sink);
    free(distance);
    free(bin);
}

static void layer_step(struct kv_world *w, const struct kv_batch *batch, int layer) {
    struct rows x = rows_make(w, batch, layer);
    size_t dim = (size_t)w->g.head_dim, k_at = x.n_heads * dim, v_at = k_at + (size_t)w->g.n_kv_heads * dim;
    struct attend_args attend = {.cache = w->cache, .batch = *batch, .layer = layer, .q = column(w, &x, 0),
                                 .k = column(w, &x, k_at), .v = column(w, &x, v_at), .open = x.open.ptr, .n_rows = x.n,
                                 .n_heads = x.n_heads, .ld_qkv = x.ld, .scale = (float)w->g.scale,
                                 .softcap = (float)w->g.softcap, .out = x.out.ptr, .lse = x.lse.ptr};
    size_t n_columns = (size_t)(w->g.n_slots * w->g.n_kv_heads * w->g.max_len);
    int from[WORLD_MAX_SLOTS] = {w->column_from, w->column_from, w->column_from, w->column_from};
    struct buf columns = {0};
    if (w->column_sum && !w->g.ring_only[layer]) {
        columns = buf_make(&w->b, w->b.real, n_columns, w->column_sum + (size_t)layer * n_columns);
        attend.column_sum = columns.ptr;
        attend.column_from = from;
    }
    w->b.ops->attend_cache(w->b.dev, &attend);
    if (attend.column_sum) {
        buf_read(&columns, w->column_sum + (size_t)layer * n_columns);
        buf_free(&columns);
    }
    if (w->n_bins)
        stats_step(w, &attend);
    w->b.ops->kv_append(w->b.dev, &(struct kv_append_args){.cache = w->cache, .batch = *batch, .layer = layer,
                                                          .k = attend.k, .v = attend.v, .open = x.open.ptr,
                                                          .ld_kv = x.ld});
    outputs_store(w, &x, batch, layer);
    rows_free(&x);
}

void kv_world_step(struct kv_world *w, int n_seq, const int *slots, const int *n_rows) {
    int splits[WORLD_MAX_SLOTS + 1] = {0}, pos0[WORLD_MAX_SLOTS];
    uint64_t ids[WORLD_MAX_SLOTS] = {0};
    struct err err = {0};
    for (int i = 0; i < n_seq; i++) {
        splits[i + 1] = splits[i] + n_rows[i];
        pos0[i] = w->fed[slots[i]];
    }
    if (kv_cache_reserve(w->cache, n_seq, slots, n_rows, &err))
        fail_msg("kv_cache_reserve: %s", err.message);
    struct kv_batch batch = {.n_seq = n_seq, .slots = slots, .row_splits = splits, .pos0 = pos0, .sequence_id = ids};
    for (int layer = 0; layer < w->g.n_layers; layer++)
        layer_step(w, &batch, layer);
    for (int i = 0; i < n_seq; i++)
        w->fed[slots[i]] += n_rows[i];
}

void kv_world_prefill_dense(struct kv_world *w, int slot, int n, int chunk) {
    size_t heads = (size_t)w->g.n_kv_heads;
    uint8_t *open = zalloc((size_t)n * heads, 1);
    w->dense_len[slot] = n;
    while (w->fed[slot] < n) {
        int n_rows = n - w->fed[slot] < chunk ? n - w->fed[slot] : chunk;
        kv_world_step(w, 1, &slot, &n_rows);
    }
    for (int layer = 0; layer < w->g.n_layers; layer++) {
        for (size_t i = 0; i < (size_t)n * heads; i++)
            open[i] = kv_world_gate(w, slot, layer, (int)(i / heads), (int)(i % heads));
        struct buf open_dev = buf_bytes(&w->b, (size_t)n * heads, open);
        w->b.ops->kv_prune(w->b.dev, w->cache, slot, layer, open_dev.ptr);
        buf_free(&open_dev);
    }
    free(open);
}

void kv_world_reset(struct kv_world *w, int slot) {
    kv_cache_reset(w->cache, slot);
    w->fed[slot] = w->dense_len[slot] = 0;
    w->generation[slot]++;
}

void kv_world_check(const struct kv_world *w) {
    struct err err = {0};
    if (kv_cache_check(w->cache, &err))
        fail_msg("kv_cache_check: %s: %s", err.where, err.message);
}

/* ---- expectations ---- */

/* A gate or the sinks let the pair be seen outside the window. */
static bool kept(const struct kv_world *w, int slot, int layer, int kv_head, int s) {
    return !w->g.ring_only[layer] && (s < w->g.sinks || kv_world_gate(w, slot, layer, s, kv_head));
}

bool kv_expect_visible(const struct kv_world *w, int slot, int layer, int kv_head, int t, int s) {
    bool dense = t < w->dense_len[slot] && !w->g.ring_only[layer];
    return s <= t && (dense || t - s < w->g.window[layer * w->g.n_kv_heads + kv_head] || kept(w, slot, layer, kv_head, s));
}

static void expect_pair(struct kv_world *w, int slot, int layer, int head, int pos, const double *k, const double *v) {
    for (int d = 0; d < w->g.head_dim; d++) {
        double want[2] = {kv_world_input(w, 'k', slot, layer, pos, head, d),
                          kv_world_input(w, 'v', slot, layer, pos, head, d)};
        round_all(want, 2, w->cache_dtype);
        if (k[d] != want[0] || v[d] != want[1])
            fail_msg("slot %d, layer %d, head %d: the pair of position %d is not what was fed", slot, layer, head, pos);
    }
}

/* All resident pairs in order: kept ones that left the window, then the window. */
static void expect_pairs(struct kv_world *w, int slot, int layer, int head, size_t n_resident) {
    size_t dim = (size_t)w->g.head_dim, n = 0;
    int window = w->g.window[layer * w->g.n_kv_heads + head], T = w->fed[slot];
    double *k = zalloc(n_resident * dim, sizeof *k), *v = zalloc(n_resident * dim, sizeof *v);
    int32_t *index = zalloc(n_resident, sizeof *index);
    for (size_t i = 0; i < n_resident; i++)
        index[i] = (int32_t)i;
    struct buf k_dev = buf_make(&w->b, w->b.real, n_resident * dim, NULL);
    struct buf v_dev = buf_make(&w->b, w->b.real, n_resident * dim, NULL);
    struct buf index_dev = buf_bytes(&w->b, n_resident * sizeof *index, index);
    w->b.ops->kv_read(w->b.dev, w->cache, slot, layer, head, index_dev.ptr, n_resident, k_dev.ptr, v_dev.ptr);
    buf_read(&k_dev, k);
    buf_read(&v_dev, v);
    for (int s = 0; s < T; s++)
        if (T - s <= window || kept(w, slot, layer, head, s)) {
            expect_pair(w, slot, layer, head, s, k + n * dim, v + n * dim);
            n++;
        }
    assert_int_equal(n, n_resident);
    buf_free(&k_dev);
    buf_free(&v_dev);
    buf_free(&index_dev);
    free(index);
    free(k);
    free(v);
}

static size_t pages_of(int n, int page_slots) {
    return (size_t)((n + page_slots - 1) / page_slots);
}

void kv_expect_counts(struct kv_world *w, int slot) {
    const struct kv_geometry *g = &w->g;
    int T = w->fed[slot], page_slots = g->page_slots ? g->page_slots : 64;
    size_t pair = 2 * (size_t)g->head_dim * dtype_size(w->cache_dtype), used = 0, pages = 0, full = 0;
    uint32_t n_kept[WORLD_MAX_LAYERS * WORLD_MAX_KV_HEADS];
    uint64_t seen[WORLD_MAX_LAYERS * WORLD_MAX_KV_HEADS];
    struct kv_counts counts = {.n_kept = n_kept, .visible_pairs = seen};
    struct err err = {0};
    assert_int_equal(kv_cache_read_counts(w->cache, slot, &counts, &err), OK);
    for (int i = 0; i < g->n_layers * g->n_kv_heads; i++) {
        int layer = i / g->n_kv_heads, head = i % g->n_kv_heads, ring = 0, store = 0, beyond_sinks = 0;
        uint64_t visible = 0;
        for (int s = 0; s < T; s++) {
            bool in_ring = T - s <= g->window[i], in_store = !in_ring && kept(w, slot, layer, head, s);
            ring += in_ring;
            store += in_store;
            beyond_sinks += in_store && s >= g->sinks;
            for (int t = s; t < T && !g->ring_only[layer]; t++)
                visible += kv_expect_visible(w, slot, layer, head, t, s);
        }
        assert_int_equal(n_kept[i], beyond_sinks);
        assert_int_equal(seen[i], visible);
        used += (size_t)(ring + store) * pair;
        pages += pages_of(ring, page_slots) + pages_of(store, page_slots);
        full += (size_t)(g->ring_only[layer] ? ring : T) * pair;
        expect_pairs(w, slot, layer, head, (size_t)(ring + store));
    }
    assert_int_equal(counts.used_bytes, used);
    assert_int_equal(counts.allocated_bytes, pages * (size_t)page_slots * pair);
    assert_int_equal(counts.full_bytes, full);
    assert_true(kv_cache_peak_bytes(w->cache) >= counts.allocated_bytes);
}

static double expect_logit(const struct kv_world *w, int slot, int layer, int query_head, int t, int s) {
    double sum = 0;
    for (int d = 0; d < w->g.head_dim; d++) {
        double qk[2] = {kv_world_input(w, 'q', slot, layer, t, query_head, d),
                        kv_world_input(w, 'k', slot, layer, s, query_head / w->g.group, d)};
        round_all(qk, 2, w->cache_dtype);
        sum += qk[0] * qk[1];
    }
    sum *= (double)(float)w->g.scale;
    return w->g.softcap > 0 ? w->g.softcap * tanh(sum / w->g.softcap) : sum;
}

void kv_expect_attention(const struct kv_world *w, int slot, int layer, int t, double *out, double *lse) {
    int dim = w->g.head_dim;
    for (int h = 0; h < w->g.n_kv_heads * w->g.group; h++) {
        long double norm = 0;
        for (int d = 0; d < dim; d++)
            out[h * dim + d] = 0;
        for (int s = 0; s <= t; s++) {
            if (!kv_expect_visible(w, slot, layer, h / w->g.group, t, s))
                continue;
            long double e = expl((long double)expect_logit(w, slot, layer, h, t, s));
            norm += e;
            for (int d = 0; d < dim; d++) {
                double v = kv_world_input(w, 'v', slot, layer, s, h / w->g.group, d);
                round_all(&v, 1, w->cache_dtype);
                out[h * dim + d] += (double)e * v;
            }
        }
        for (int d = 0; d < dim; d++)
            out[h * dim + d] /= (double)norm;
        lse[h] = (double)logl(norm);
    }
}

void kv_expect_stats(const struct kv_world *w, int slot, int layer, int kv_head, double *far, double *sink,
                     double *distance, double *future_max, double *future_sum) {
    *far = *sink = 0;
    for (int s = 0; s < w->fed[slot]; s++)
        future_max[s] = future_sum[s] = 0;
    for (int i = 0; i < w->n_bins; i++)
        distance[i] = 0;
    for (int t = 0; t < w->fed[slot]; t++)
        for (int h = kv_head * w->g.group; h < (kv_head + 1) * w->g.group; h++) {
            double norm = 0, e[1024];
            for (int s = 0; s <= t; s++) {
                e[s] = kv_expect_visible(w, slot, layer, kv_head, t, s) ? exp(expect_logit(w, slot, layer, h, t, s)) : 0;
                norm += e[s];
            }
            for (int s = 0; s <= t; s++) {
                double weight = e[s] / norm, mass = weight / w->g.group;
                distance[(t - s) % w->n_bins] += mass;
                *sink += s < w->stats_sinks ? mass : 0;
                *far += s >= w->stats_sinks && t - s >= w->stats_window ? mass : 0;
                future_max[s] = t - s >= w->stats_window ? fmax(future_max[s], weight) : future_max[s];
                future_sum[s] += t - s >= w->stats_window ? weight : 0;
            }
        }
}
