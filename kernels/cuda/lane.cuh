/* lane.cuh - the pairs of one KV head of one sequence: the order of elements in a page of this backend, and the tiles of 32
 * keys that a warp takes at once, one key a lane. Internal to kernels/cuda/.
 *
 * Keys lie in pieces of 16 bytes (8 elements bf16, 4 f32), slot after slot: lanes that read one piece of neighbouring slots
 * read neighbouring memory, and eight such pieces are a matrix of the tensor cores. Values lie slot by slot: lanes that read
 * neighbouring dimensions of one value do the same.
 *
 *   K[head_dim / piece][slots][piece], the last piece as short as head_dim leaves it     V[slots][head_dim] */
#ifndef SPKV_KERNELS_CUDA_LANE_CUH
#define SPKV_KERNELS_CUDA_LANE_CUH

#include "kernels/cuda/device.cuh"

enum { TILE_KEYS = 32 };

template <typename T>
static inline __device__ int piece_len(void) {
    return (int)(sizeof(uint4) / sizeof(T));
}

/* ---- pages -------------------------------------------------------------------------------------------------------- */

template <typename T>
static inline __device__ size_t page_k_index(int slots, int head_dim, int slot, int d) {
    int n = piece_len<T>(), begin = d / n * n, width = head_dim - begin < n ? head_dim - begin : n;
    return (size_t)begin * slots + (size_t)slot * width + d - begin;
}

/* Counted from the beginning of the page. */
static inline __device__ size_t page_v_index(int slots, int head_dim, int slot, int d) {
    return (size_t)head_dim * slots + (size_t)slot * head_dim + d;
}

template <typename T>
static inline __device__ T *page_at(const struct kv_cache *c, size_t lane, int place) {
    return (T *)((char *)c->pool + (size_t)c->page_list[lane * (size_t)c->list_len + place] * c->page_bytes);
}

/* ---- lanes -------------------------------------------------------------------------------------------------------- */

struct lane {
    size_t index;
    int slot, head, window, sinks, pos0, first, n_rows; /* sinks: 0 where they do not act; first: its first row */
    int n_long, n_ring, long_page;                      /* pairs in the store and in the ring; first long-term place */
    bool ring_only;
};

static inline __device__ struct lane lane_open(const struct kv_cache *c, const struct batch_dev *batch, int layer, int seq,
                                               int head) {
    struct lane l = {};
    l.slot = batch->slots[seq];
    l.index = ((size_t)l.slot * (size_t)c->n_layers + (size_t)layer) * (size_t)c->n_kv_heads + (size_t)head;
    l.head = head;
    l.window = c->window[layer * c->n_kv_heads + head];
    l.ring_only = c->ring_only[layer];
    l.sinks = l.ring_only ? 0 : c->sinks;
    l.pos0 = batch->pos0[seq];
    l.first = batch->row_splits[seq];
    l.n_rows = batch->row_splits[seq + 1] - l.first;
    l.n_long = c->n_long[l.index];
    l.n_ring = l.pos0 < l.window ? l.pos0 : l.window;
    l.long_page = (l.window + c->page_slots - 1) / c->page_slots;
    return l;
}

static inline __device__ int tiles_of(int n_keys) {
    return (n_keys + TILE_KEYS - 1) / TILE_KEYS;
}

/* Tiles that queries up to row last_row look at: the store, the ring, rows of the step. */
static inline __device__ int lane_tiles(const struct lane *l, int last_row) {
    return tiles_of(l->n_long) + tiles_of(l->n_ring) + tiles_of(last_row + 1);
}

/* The pair that a lane of the warp holds, and where its tile lies. */
template <typename T>
struct key {
    const T *page; /* NULL: a row of the step */
    int slot;      /* in the page */
    int row;       /* of the step, counted over all sequences */
    int pos;       /* -1: in the store, older than every query and visible to all */
    bool exists;
    bool always;   /* visible outside the window too */
};

/* Key `j` of tile `tile` of the lane. Tiles do not cross pages: pages hold a multiple of 32 slots. */
template <typename T>
static inline __device__ struct key<T> key_open(const struct kv_cache *c, const struct lane *l, const uint8_t *open,
                                                int tile, int j) {
    struct key<T> key = {};
    int n_long_tiles = tiles_of(l->n_long), n_ring_tiles = tiles_of(l->n_ring);
    if (tile < n_long_tiles) {
        int entry = tile * TILE_KEYS;
        key.page = page_at<T>(c, l->index, l->long_page + entry / c->page_slots);
        key.slot = entry % c->page_slots + j;
        key.pos = -1;
        key.exists = key.always = entry + j < l->n_long;
    } else if (tile < n_long_tiles + n_ring_tiles) {
        int ring = (tile - n_long_tiles) * TILE_KEYS;
        key.page = page_at<T>(c, l->index, ring / c->page_slots);
        key.slot = ring % c->page_slots + j;
        ring += j;
        key.exists = ring < l->n_ring;
        if (key.exists) {
            key.pos = l->pos0 - 1 - (l->pos0 - 1 - ring) % l->window;
            bool gate = c->ring_open[l->index * (size_t)c->ring_len + (size_t)ring];
            key.always = key.pos < l->sinks || (gate && !l->ring_only);
        }
    } else {
        int row = (tile - n_long_tiles - n_ring_tiles) * TILE_KEYS + j;
        key.exists = row < l->n_rows;
        key.row = l->first + (key.exists ? row : 0);
        key.pos = l->pos0 + row;
        if (key.exists)
            key.always = key.pos < l->sinks || (!l->ring_only && open[(size_t)key.row * (size_t)c->n_kv_heads + l->head]);
    }
    return key;
}

/* Does the query at position t see the key? */
template <typename T>
static inline __device__ bool key_visible(const struct key<T> *key, int t, int window) {
    return key->exists && key->pos <= t && (key->always || t - key->pos < window);
}

/* Elements d .. d + n - 1 of the key, widened; n is the length of a piece, or what head_dim leaves. */
template <typename T>
static inline __device__ void key_piece(const struct kv_cache *c, const struct key<T> *key, const float *k_rows, size_t ld,
                                        int d, int n, float *out) {
    if (!key->page) {
        const float *row = k_rows + (size_t)key->row * ld + d;
        for (int i = 0; i < n; i++)
            out[i] = rounded<T>(row[i]);
        return;
    }
    const T *at = key->page + page_k_index<T>(c->page_slots, c->head_dim, key->slot, d);
    if (n < piece_len<T>()) {
        for (int i = 0; i < n; i++)
            out[i] = to_f32(at[i]);
        return;
    }
    uint4 words = *(const uint4 *)at;
    T items[sizeof(uint4) / sizeof(T)];
    memcpy(items, &words, sizeof words);
    for (int i = 0; i < piece_len<T>(); i++)
        out[i] = to_f32(items[i]);
}

/* ---- query vectors ------------------------------------------------------------------------------------------------ */

/* Vectors are numbered row by row: vector v of a lane is query head v % group of the group, in row v / group. */
struct vectors {
    int first, n; /* n <= TILE_VECTORS */
};

/* What attention of a layer is computed from. */
struct attend_params {
    struct kv_cache cache; /* its device arrays */
    struct batch_dev batch;
    int layer, group;
    const float *q, *k, *v;
    const uint8_t *open;
    size_t n_heads, ld_qkv;
    float scale, softcap;
    void *out;
    float *lse;
    int *fault;
};

static inline __device__ size_t vector_head(const struct attend_params *p, const struct lane *l, int v) {
    return (size_t)l->head * (size_t)p->group + (size_t)(v % p->group);
}

/* The tile's vectors, rounded as the cache rounds, into shared memory (TILE_VECTORS, head_dim); by `n_threads` threads. */
template <typename T>
static inline __device__ void vectors_load(const struct attend_params *p, const struct lane *l, struct vectors tile,
                                           float *q, int thread, int n_threads) {
    int dim = p->cache.head_dim;
    for (int i = thread; i < tile.n * dim; i += n_threads) {
        int v = tile.first + i / dim;
        size_t row = (size_t)(l->first + v / p->group);
        q[i] = rounded<T>(p->q[row * p->ld_qkv + vector_head(p, l, v) * (size_t)dim + (size_t)(i % dim)]);
    }
}

/* logit[v] of the lane's key with every vector of the tile; -INFINITY where it cannot look. */
template <typename T>
static inline __device__ void key_logits(const struct attend_params *p, const struct lane *l, const struct key<T> *key,
                                         struct vectors tile, const float *q, float logit[TILE_VECTORS]) {
    int dim = p->cache.head_dim;
    float k[sizeof(uint4) / sizeof(T)];
    for (int v = 0; v < TILE_VECTORS; v++)
        logit[v] = 0;
    for (int d = 0; key->exists && d < dim; d += piece_len<T>()) {
        int n = dim - d < piece_len<T>() ? dim - d : piece_len<T>();
        key_piece(&p->cache, key, p->k + (size_t)l->head * (size_t)dim, p->ld_qkv, d, n, k);
#pragma unroll
        for (int v = 0; v < TILE_VECTORS; v++)
            if (v < tile.n)
                for (int i = 0; i < n; i++)
                    logit[v] += q[v * dim + d + i] * k[i];
    }
#pragma unroll
    for (int v = 0; v < TILE_VECTORS; v++) {
        bool visible = v < tile.n && key_visible(key, l->pos0 + (tile.first + v) / p->group, l->window);
        logit[v] = visible ? softcapped(p->scale * logit[v], p->softcap) : -INFINITY;
    }
}

/* Fills what both users share; false when there is nothing to do. */
static inline bool attend_params_of(struct device *dev, const struct attend_args *a, struct attend_params *p) {
    const struct kv_cache *c = a->cache;
    ASSERT(a->n_heads % (size_t)c->n_kv_heads == 0 && a->ld_qkv >= a->n_heads * (size_t)c->head_dim);
    ASSERT(a->batch.n_seq == 0 || (size_t)a->batch.row_splits[a->batch.n_seq] == a->n_rows);
    if (a->batch.n_seq == 0 || device_failed(dev))
        return false;
    *p = {};
    p->cache = *c;
    p->layer = a->layer;
    p->group = (int)(a->n_heads / (size_t)c->n_kv_heads);
    p->q = a->q;
    p->k = a->k;
    p->v = a->v;
    p->open = a->open;
    p->n_heads = a->n_heads;
    p->ld_qkv = a->ld_qkv;
    p->scale = a->scale;
    p->softcap = a->softcap;
    p->out = a->out;
    p->lse = a->lse;
    p->fault = dev->fault;
    return cuda_batch(dev, &a->batch, (size_t)c->n_kv_heads, (size_t)p->group, &p->batch);
}

#endif
