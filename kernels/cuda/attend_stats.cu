/* Sums of softmax weights of a step (method.md section 11). A warp takes a tile of keys, one a lane, past all query vectors
 * of the step: what queries give a key is summed by one thread in order. Masses of a lane are summed in fixed point, where
 * the order of additions does not matter: equal calls give equal bits. */
#include "kernels/cuda/lane.cuh"

static constexpr double FIXED_ONE = 0x1p44; /* a lane's masses sum to its rows: below 2^19 */

struct stats_params {
    struct attend_params a;
    int window, sinks, n_bins, max_tiles;
    const int32_t *bin_of_distance;
    unsigned long long *mass; /* NULL, or (n_seq, n_kv_heads, 3 + n_bins) fixed point: NaNs, far, sinks, by distance */
    double *far_sum, *sink_sum, *distance_sum;
    float *future_max, *future_sum;
};

/* What one key has got from the queries so far. */
struct share {
    double far, sink, at_bin;
    int bin; /* -1: none yet */
    float future_max, future_sum;
    bool nan;
};

static __device__ void mass_add(unsigned long long *at, double mass) {
    if (mass != 0)
        atomicAdd(at, (unsigned long long)(mass * FIXED_ONE + 0.5));
}

static __device__ void share_add(const struct stats_params *p, struct share *s, unsigned long long *mass, int pos, int t,
                                 float weight) {
    int distance = t - pos;
    double part = (double)weight / p->a.group;
    if (weight != weight) {
        s->nan = true;
        part = 0;
    }
    if (distance >= p->window) {
        s->future_max = fmaxf(s->future_max, weight);
        s->future_sum += weight;
    }
    if (!mass)
        return;
    if (pos < p->sinks)
        s->sink += part;
    else if (distance >= p->window)
        s->far += part;
    if (!p->distance_sum)
        return;
    int bin = p->bin_of_distance[distance];
    if (bin != s->bin && s->bin >= 0) {
        mass_add(mass + 3 + s->bin, s->at_bin);
        s->at_bin = 0;
    }
    s->bin = bin;
    s->at_bin += part;
}

static __device__ void share_store(const struct stats_params *p, const struct lane *l, const struct share *s, int pos,
                                   unsigned long long *mass) {
    if (mass) {
        if (s->nan)
            atomicAdd(mass, 1ull);
        mass_add(mass + 1, s->far);
        mass_add(mass + 2, s->sink);
        if (s->bin >= 0)
            mass_add(mass + 3 + s->bin, s->at_bin);
    }
    if (p->future_max) {
        size_t row = (size_t)l->slot * (size_t)p->a.cache.max_len + (size_t)pos;
        size_t at = row * (size_t)p->a.cache.n_kv_heads + (size_t)l->head;
        p->future_max[at] = fmaxf(p->future_max[at], s->future_max);
        p->future_sum[at] += s->future_sum;
    }
}

/* Position of a key; entry i of a store that notes none is position i. */
template <typename T>
static __device__ int key_position(const struct kv_cache *c, const struct lane *l, const struct key<T> *key, int entry) {
    if (key->pos != -1 || !key->exists)
        return key->pos;
    return c->long_pos ? c->long_pos[l->index * (size_t)c->max_len + (size_t)entry] : entry;
}

/* One warp a tile of keys. */
template <typename T>
static __global__ void k_stats(struct stats_params p) {
    int tile_number = (int)blockIdx.x % p.max_tiles, lane_number = (int)blockIdx.x / p.max_tiles;
    int seq = lane_number / p.a.cache.n_kv_heads, head = lane_number % p.a.cache.n_kv_heads;
    struct lane l = lane_open(&p.a.cache, &p.a.batch, p.a.layer, seq, head);
    unsigned long long *mass = p.mass ? p.mass + (size_t)lane_number * (3 + (size_t)p.n_bins) : NULL;
    float *q = (float *)cuda_shared(), logit[TILE_VECTORS]; /* q (TILE_VECTORS, head_dim) */
    struct share share = {0, 0, 0, -1, 0, 0, false};
    if (tile_number >= lane_tiles(&l, l.n_rows - 1))
        return;
    if (!p.a.cache.long_pos && l.n_long > 0 && l.n_long != l.pos0 - l.n_ring) { /* entry i of the store is not position i */
        atomicCAS(p.a.fault, FAULT_NONE, FAULT_PRUNED);
        return;
    }
    struct key<T> key = key_open<T>(&p.a.cache, &l, p.a.open, tile_number, (int)threadIdx.x);
    int pos = key_position(&p.a.cache, &l, &key, tile_number * TILE_KEYS + (int)threadIdx.x);
    for (int first = 0; first < l.n_rows * p.a.group; first += TILE_VECTORS) {
        int left = l.n_rows * p.a.group - first;
        struct vectors tile = {first, left < TILE_VECTORS ? left : TILE_VECTORS};
        vectors_load<T>(&p.a, &l, tile, q, (int)threadIdx.x, 32);
        __syncwarp();
        key_logits(&p.a, &l, &key, tile, q, logit);
#pragma unroll
        for (int v = 0; v < TILE_VECTORS; v++)
            if (v < tile.n && logit[v] != -INFINITY) {
                int row = (first + v) / p.a.group;
                float lse = p.a.lse[(size_t)(l.first + row) * p.a.n_heads + vector_head(&p.a, &l, first + v)];
                share_add(&p, &share, mass, pos, l.pos0 + row, expf(logit[v] - lse));
            }
        __syncwarp(); /* before the next vectors are loaded */
    }
    if (key.exists)
        share_store(&p, &l, &share, pos, mass);
}

/* One thread a sum: fixed point is added to the caller's doubles. */
static __global__ void k_stats_out(struct stats_params p) {
    size_t n_sums = 2 + (p.distance_sum ? (size_t)p.n_bins : 0), i = thread_in_grid(), lane = i / n_sums, sum = i % n_sums;
    if (lane >= (size_t)p.a.batch.n_seq * (size_t)p.a.cache.n_kv_heads)
        return;
    const unsigned long long *mass = p.mass + lane * (3 + (size_t)p.n_bins);
    double value = mass[0] ? (double)NAN : (double)mass[1 + sum] / FIXED_ONE;
    double *out = sum == 0 ? p.far_sum + lane : sum == 1 ? p.sink_sum + lane
                                                         : p.distance_sum + lane * (size_t)p.n_bins + sum - 2;
    *out += value;
}

/* The most key tiles of any lane of the step. */
static int tiles_at_most(const struct kv_batch *batch) {
    int most = 0;
    for (int i = 0; i < batch->n_seq; i++) {
        int n_rows = batch->row_splits[i + 1] - batch->row_splits[i];
        int n = batch->pos0[i] / TILE_KEYS + n_rows / TILE_KEYS + 3; /* store, ring and rows each round up */
        most = n > most ? n : most;
    }
    return most;
}

void cuda_attend_stats(struct device *dev, const struct attend_stats_args *s) {
    const struct kv_cache *c = s->attend->cache;
    struct stats_params p = {};
    ASSERT(c->dtype == dev->dtype);
    if (!attend_params_of(dev, s->attend, &p.a))
        return;
    size_t n_lanes = (size_t)p.a.batch.n_seq * (size_t)c->n_kv_heads;
    p.window = s->window;
    p.sinks = s->sinks;
    p.n_bins = s->distance_sum ? s->n_bins : 0;
    p.max_tiles = tiles_at_most(&s->attend->batch);
    p.bin_of_distance = s->bin_of_distance;
    p.far_sum = s->far_sum;
    p.sink_sum = s->sink_sum;
    p.distance_sum = s->distance_sum;
    p.future_max = s->future_max;
    p.future_sum = s->future_sum;
    if (s->far_sum) {
        size_t n_bytes = n_lanes * (3 + (size_t)p.n_bins) * sizeof *p.mass;
        p.mass = (unsigned long long *)cuda_scratch(dev, SCRATCH_PARTIAL, n_bytes);
        cuda_fill(dev, p.mass, 0, n_bytes);
    }
    cuda_launch(dev, c->dtype == DTYPE_BF16 ? k_stats<struct bf16> : k_stats<float>, n_lanes * (size_t)p.max_tiles, 32,
                (size_t)TILE_VECTORS * (size_t)c->head_dim * sizeof(float), p);
    if (p.mass)
        cuda_launch(dev, k_stats_out, blocks_for(n_lanes * (2 + (size_t)p.n_bins), 256), 256, 0, p);
}

/* ---- columns ------------------------------------------------------------------------------------------------------ */

struct column_params {
    struct attend_params a;
    int max_tiles;
    const int *from; /* (n_seq) */
    float *sum;
};

/* One warp a tile of keys: what the queries that count give each, in order. */
template <typename T>
static __global__ void k_columns(struct column_params p) {
    int tile_number = (int)blockIdx.x % p.max_tiles, lane_number = (int)blockIdx.x / p.max_tiles;
    int seq = lane_number / p.a.cache.n_kv_heads, head = lane_number % p.a.cache.n_kv_heads;
    struct lane l = lane_open(&p.a.cache, &p.a.batch, p.a.layer, seq, head);
    float *q = (float *)cuda_shared(), logit[TILE_VECTORS], sum = 0; /* q (TILE_VECTORS, head_dim) */
    int early = p.from[seq] > l.pos0 ? p.from[seq] - l.pos0 : 0, end = l.n_rows * p.a.group;
    if (tile_number >= lane_tiles(&l, l.n_rows - 1))
        return;
    struct key<T> key = key_open<T>(&p.a.cache, &l, p.a.open, tile_number, (int)threadIdx.x);
    for (int first = early * p.a.group; first < end; first += TILE_VECTORS) {
        struct vectors tile = {first, end - first < TILE_VECTORS ? end - first : TILE_VECTORS};
        vectors_load<T>(&p.a, &l, tile, q, (int)threadIdx.x, 32);
        __syncwarp();
        key_logits(&p.a, &l, &key, tile, q, logit);
#pragma unroll
        for (int v = 0; v < TILE_VECTORS; v++)
            if (v < tile.n && logit[v] != -INFINITY) {
                size_t row = (size_t)(l.first + (first + v) / p.a.group);
                sum += expf(logit[v] - p.a.lse[row * p.a.n_heads + vector_head(&p.a, &l, first + v)]);
            }
        __syncwarp(); /* before the next vectors are loaded */
    }
    if (key.exists && early < l.n_rows) {
        int pos = key_position(&p.a.cache, &l, &key, tile_number * TILE_KEYS + (int)threadIdx.x);
        size_t row = (size_t)l.slot * (size_t)p.a.cache.n_kv_heads + (size_t)head;
        p.sum[row * (size_t)p.a.cache.max_len + (size_t)pos] += sum / (float)p.a.group;
    }
}

void cuda_attend_columns(struct device *dev, const struct attend_args *a) {
    const struct kv_cache *c = a->cache;
    struct column_params p = {};
    ASSERT(a->lse && c->long_pos);
    if (!attend_params_of(dev, a, &p.a))
        return;
    size_t n_bytes = (size_t)a->batch.n_seq * sizeof *a->column_from;
    int *from = (int *)cuda_scratch(dev, SCRATCH_COLUMNS, n_bytes);
    if (!from)
        return;
    cuda_upload(dev, from, a->column_from, n_bytes);
    p.max_tiles = tiles_at_most(&a->batch);
    p.from = from;
    p.sum = a->column_sum;
    cuda_launch(dev, c->dtype == DTYPE_BF16 ? k_columns<struct bf16> : k_columns<float>,
                (size_t)a->batch.n_seq * (size_t)c->n_kv_heads * (size_t)p.max_tiles, 32,
                (size_t)TILE_VECTORS * (size_t)c->head_dim * sizeof(float), p);
}
