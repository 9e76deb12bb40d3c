/* kv_world.h - a cache of random geometry, fed through any op table with inputs that are pure functions of (slot, its
 * generation, layer, position), so that every chunking and every backend sees the same ones. What comes out is kept by
 * position. The expectations of this file are written as plain statements about a T x T visibility mask. */
#ifndef SPKV_TESTS_KV_WORLD_H
#define SPKV_TESTS_KV_WORLD_H

#include "tests/op_util.h"

enum { WORLD_MAX_LAYERS = 4, WORLD_MAX_KV_HEADS = 4, WORLD_MAX_SLOTS = 4 };

struct kv_geometry {
    int n_slots, n_layers, n_kv_heads, group, head_dim, max_len, page_slots, sinks;
    int window[WORLD_MAX_LAYERS * WORLD_MAX_KV_HEADS];
    bool ring_only[WORLD_MAX_LAYERS];
    double density;       /* share of open gates */
    double scale, softcap;
    double magnitude;     /* inputs are uniform in +- magnitude */
    uint64_t seed;
    int n_threads;        /* 0 = 1 */
    bool positions;       /* the cache notes them, so that pairs can be evicted */
};

struct kv_geometry kv_geometry_random(struct rnd *r, int max_len);

struct kv_world {
    struct kv_geometry g;
    struct backend b;
    enum dtype cache_dtype;
    struct kv_cache *cache;
    int fed[WORLD_MAX_SLOTS], generation[WORLD_MAX_SLOTS];
    int dense_len[WORLD_MAX_SLOTS]; /* positions below it were fed with every gate open, and pruned at its end */
    double *out;  /* (slot, layer, position, n_heads * head_dim) what attention gave */
    double *lse;  /* (slot, layer, position, n_heads) */
    double *far_sum, *sink_sum; /* (slot, layer, kv_head) when stats are on */
    double *distance_sum;       /* (slot, layer, kv_head, n_bins) */
    double *future_max, *future_sum; /* (layer, slot, position, kv_head) */
    int stats_window, stats_sinks, n_bins; /* n_bins 0: no stats */
    double *column_sum;  /* (layer, slot, kv_head, position); NULL: not asked for */
    int column_from;
};

void kv_world_open(struct kv_world *w, const struct ops *ops, enum dtype dtype, enum dtype cache_dtype,
                   const struct kv_geometry *g);
void kv_world_close(struct kv_world *w);

/* Feeds n_rows[i] tokens to slots[i]: reserve, then per layer attention and append. */
void kv_world_step(struct kv_world *w, int n_seq, const int *slots, const int *n_rows);
/* Feeds n tokens to an empty slot with every gate open, then kv_prune() with the real gates. */
void kv_world_prefill_dense(struct kv_world *w, int slot, int n, int chunk);
void kv_world_reset(struct kv_world *w, int slot);
void kv_world_check(const struct kv_world *w); /* kv_cache_check() */

/* Inputs, rounded to the real dtype of the world. head counts query heads for q, KV heads for k and v. */
double kv_world_input(const struct kv_world *w, char which, int slot, int layer, int pos, int head, int dim);
bool kv_world_gate(const struct kv_world *w, int slot, int layer, int pos, int kv_head);

static inline size_t world_at(const struct kv_world *w, int slot, int layer, int pos) {
    return ((size_t)slot * (size_t)w->g.n_layers + (size_t)layer) * (size_t)w->g.max_len + (size_t)pos;
}

/* ---- expectations ---- */

bool kv_expect_visible(const struct kv_world *w, int slot, int layer, int kv_head, int t, int s);
/* Counts, bytes, page numbers and every resident pair of a slot against the mask. */
void kv_expect_counts(struct kv_world *w, int slot);
/* Attention outputs (n_heads * head_dim) and lse (n_heads) of one position. */
void kv_expect_attention(const struct kv_world *w, int slot, int layer, int t, double *out, double *lse);
/* Statistics of one lane from the same mask: far, sink, (n_bins) distances, future attention of (n_fed) positions. */
void kv_expect_stats(const struct kv_world *w, int slot, int layer, int kv_head, double *far, double *sink,
                     double *distance, double *future_max, double *future_sum);

static inline size_t world_future_items(const struct kv_world *w) {
    return (size_t)(w->g.n_slots * w->g.max_len * w->g.n_kv_heads);
}

static inline size_t world_future_at(const struct kv_world *w, int slot, int layer, int pos, int kv_head) {
    size_t row = (size_t)slot * (size_t)w->g.max_len + (size_t)pos;
    return (size_t)layer * world_future_items(w) + row * (size_t)w->g.n_kv_heads + (size_t)kv_head;
}

#endif
