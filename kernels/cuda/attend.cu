/* Attention of a step over long-term pairs, ring and the step's own rows (arXiv 2605.14037; method.md sections 3, 4).
 *
 * An item is a tile of query vectors of one lane (sequence, KV head); its work is a number of tiles of 32 keys. Heads keep
 * different numbers of pairs, so items differ in length: k_plan() sums their tiles up, and every block of k_attend() takes
 * an equal run of tiles, whatever items it crosses. An item that several blocks share is joined by k_join(). Prefill and
 * decode are the same: with one query row a lane is one item, and its pages spread over the blocks. The number of blocks
 * depends on the GPU alone, so equal calls give equal bits. */
#include "kernels/cuda/lane.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS, PLAN_THREADS = 256 };

struct plan_params {
    struct attend_params a;
    int *begin; /* (n_items + 1) first tile of every item */
};

struct item {
    int seq, head;
    struct vectors tile;
};

/* Last index whose value is at most x, of n ascending values that begin at or below x. */
static __device__ int last_at_most(const int *values, int n, int x) {
    int low = 0, high = n - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (values[middle] <= x)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static __device__ struct item item_open(const struct attend_params *p, int number) {
    struct item item = {};
    item.seq = last_at_most(p->batch.item0, p->batch.n_seq, number);
    int first = p->batch.item0[item.seq], n_tiles = (p->batch.item0[item.seq + 1] - first) / p->cache.n_kv_heads;
    int n_vectors = (p->batch.row_splits[item.seq + 1] - p->batch.row_splits[item.seq]) * p->group;
    item.head = (number - first) / n_tiles;
    item.tile.first = (number - first) % n_tiles * TILE_VECTORS;
    item.tile.n = n_vectors - item.tile.first < TILE_VECTORS ? n_vectors - item.tile.first : TILE_VECTORS;
    return item;
}

/* Key tiles of an item. */
static __device__ int item_tiles(const struct attend_params *p, int number) {
    struct item item = item_open(p, number);
    struct lane l = lane_open(&p->cache, &p->batch, p->layer, item.seq, item.head);
    if (p->cache.n_fed[l.index] != l.pos0)
        atomicCAS(p->fault, FAULT_NONE, FAULT_ORDER);
    return lane_tiles(&l, (item.tile.first + item.tile.n - 1) / p->group);
}

/* One block: exclusive sums of the items' tiles. */
static __global__ void k_plan(struct plan_params p) {
    int *warp_sums = (int *)cuda_shared(); /* (PLAN_THREADS / 32) */
    int n = p.a.batch.n_items, lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, before = 0;
    for (int first = 0; first < n; first += PLAN_THREADS) {
        int i = first + (int)threadIdx.x, own = i < n ? item_tiles(&p.a, i) : 0, sum = own;
        for (int delta = 1; delta < 32; delta *= 2) {
            int left = __shfl_up_sync(0xFFFFFFFFu, sum, (unsigned)delta);
            sum += lane >= delta ? left : 0;
        }
        if (lane == 31)
            warp_sums[warp] = sum;
        __syncthreads();
        for (int w = 0; w < warp; w++)
            sum += warp_sums[w];
        if (i < n)
            p.begin[i] = before + sum - own;
        for (int w = 0; w < PLAN_THREADS / 32; w++)
            before += warp_sums[w];
        __syncthreads(); /* before the next round writes them */
    }
    if (threadIdx.x == 0)
        p.begin[n] = before;
}

/* ---- one segment: some consecutive key tiles of one item ---------------------------------------------------------- */

struct run_params {
    struct attend_params a;
    const int *begin;
    int n_blocks;
    float *partial; /* (n_blocks, 2, TILE_VECTORS, head_dim + 2): largest logit, sum, weighted values */
};

/* First tile of a block's run. */
static __device__ int run_begin(const struct run_params *p, int block) {
    return (int)((long long)p->begin[p->a.batch.n_items] * block / p->n_blocks);
}

/* Shared memory of k_attend(). */
struct shared {
    float *q;       /* (TILE_VECTORS, head_dim) */
    float *weight;  /* (WARPS, TILE_VECTORS, 32) of the warp's tile */
    float *max, *sum; /* (WARPS, TILE_VECTORS) */
    float *value;   /* (WARPS, TILE_VECTORS, head_dim) */
};

static __host__ __device__ size_t shared_floats(int head_dim) {
    return (size_t)TILE_VECTORS * ((size_t)head_dim * (1 + WARPS) + (TILE_KEYS + 2) * WARPS);
}

static __device__ struct shared shared_open(int head_dim) {
    struct shared s;
    s.q = (float *)cuda_shared();
    s.weight = s.q + TILE_VECTORS * head_dim;
    s.max = s.weight + WARPS * TILE_VECTORS * TILE_KEYS;
    s.sum = s.max + WARPS * TILE_VECTORS;
    s.value = s.sum + WARPS * TILE_VECTORS;
    return s;
}

/* What a warp has seen of an item: per vector the largest logit, each lane's share of the sum of exponentials, and each
 * lane's dimensions lane, lane + 32, ... of the weighted values. N of them hold a head_dim up to 32 N. */
template <int N>
struct state {
    float max[TILE_VECTORS], sum[TILE_VECTORS], value[TILE_VECTORS][N];
};

template <int N>
static __device__ void state_clear(struct state<N> *s) {
#pragma unroll
    for (int v = 0; v < TILE_VECTORS; v++) {
        s->max[v] = -INFINITY;
        s->sum[v] = 0;
#pragma unroll
        for (int i = 0; i < N; i++)
            s->value[v][i] = 0;
    }
}

/* exp(x - max), 0 for the mask also while nothing else was seen. */
static __device__ float weight_of(float x, float max) {
    return expf(x - (max == -INFINITY ? 0 : max));
}

/* Weights of the tile's keys go to shared memory; what was seen before is scaled to the new largest logits. */
template <int N>
static __device__ void state_weigh(struct state<N> *s, int n_vectors, const float logit[TILE_VECTORS], float *weight) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int v = 0; v < TILE_VECTORS; v++)
        if (v < n_vectors) {
            float max = fmaxf(s->max[v], warp_max(logit[v])), scale = weight_of(s->max[v], max);
            float w = weight_of(logit[v], max);
            s->max[v] = max;
            s->sum[v] = s->sum[v] * scale + w;
#pragma unroll
            for (int i = 0; i < N; i++)
                s->value[v][i] *= scale;
            weight[v * TILE_KEYS + lane] = w;
        }
}

/* Adds the values of the tile's keys. `key` is that of the thread's own lane; where its tile lies holds for the warp. */
template <typename T, int N>
static __device__ void state_add_values(const struct attend_params *p, const struct lane *l, const struct key<T> *key,
                                        struct state<N> *s, int n_vectors, const float *weight) {
    int lane = (int)threadIdx.x % 32, dim = p->cache.head_dim;
    int slot0 = key->slot - lane, row0 = __shfl_sync(0xFFFFFFFFu, key->row, 0);
    for (int j = 0; j < TILE_KEYS; j++) {
        bool seen = false;
#pragma unroll
        for (int v = 0; v < TILE_VECTORS; v++)
            seen = seen || (v < n_vectors && weight[v * TILE_KEYS + j] != 0);
        if (!seen) /* no 0 * infinity from a value that nobody may see */
            continue;
        float value[N];
#pragma unroll
        for (int i = 0; i < N; i++) {
            int d = lane + 32 * i;
            if (d >= dim)
                value[i] = 0;
            else if (key->page)
                value[i] = to_f32(key->page[page_v_index(p->cache.page_slots, dim, slot0 + j, d)]);
            else
                value[i] = rounded<T>(p->v[(size_t)(row0 + j) * p->ld_qkv + (size_t)l->head * (size_t)dim + (size_t)d]);
        }
#pragma unroll
        for (int v = 0; v < TILE_VECTORS; v++)
            if (v < n_vectors && weight[v * TILE_KEYS + j] != 0)
#pragma unroll
                for (int i = 0; i < N; i++)
                    s->value[v][i] += weight[v * TILE_KEYS + j] * value[i];
    }
}

/* The warp's state to shared memory; `weight` is free to be used again. */
template <int N>
static __device__ void state_share(const struct state<N> *s, const struct shared *shared, int n_vectors, int dim,
                                   float *weight) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
#pragma unroll
    for (int v = 0; v < TILE_VECTORS; v++)
        if (v < n_vectors) {
            weight[v * TILE_KEYS + lane] = s->sum[v];
            if (lane == 0)
                shared->max[warp * TILE_VECTORS + v] = s->max[v];
#pragma unroll
            for (int i = 0; i < N; i++)
                if (lane + 32 * i < dim)
                    shared->value[(warp * TILE_VECTORS + v) * dim + lane + 32 * i] = s->value[v][i];
        }
    __syncwarp(); /* a lane sums up one vector, from another bank than its neighbours at any time */
    float sum = 0;
    for (int j = 0; j < TILE_KEYS && lane < n_vectors; j++)
        sum += weight[lane * TILE_KEYS + (j + lane) % TILE_KEYS];
    if (lane < n_vectors)
        shared->sum[warp * TILE_VECTORS + lane] = sum;
}

/* Element d of vector v of the item is done. */
template <typename T>
static __device__ void output_store(const struct attend_params *p, const struct lane *l, struct vectors tile, int v, int d,
                                    float max, float sum, float value) {
    size_t row = (size_t)(l->first + (tile.first + v) / p->group), head = vector_head(p, l, tile.first + v);
    size_t at = row * p->n_heads + head;
    store_f32((T *)p->out + at * (size_t)p->cache.head_dim + (size_t)d, value / sum);
    if (p->lse && d == 0)
        p->lse[at] = max + logf(sum);
}

/* The warps' states together: the output where this is the whole item, else a part. */
template <typename T>
static __device__ void segment_store(const struct run_params *p, const struct lane *l, struct vectors tile,
                                     const struct shared *s, float *part) {
    int dim = p->a.cache.head_dim;
    for (int i = (int)threadIdx.x; i < tile.n * dim; i += THREADS) {
        int v = i / dim, d = i % dim;
        float max = -INFINITY, sum = 0, value = 0;
        for (int w = 0; w < WARPS; w++)
            max = fmaxf(max, s->max[w * TILE_VECTORS + v]);
        for (int w = 0; w < WARPS; w++) {
            float scale = weight_of(s->max[w * TILE_VECTORS + v], max);
            sum += scale * s->sum[w * TILE_VECTORS + v];
            value += scale * s->value[(w * TILE_VECTORS + v) * dim + d];
        }
        if (!part) {
            output_store<T>(&p->a, l, tile, v, d, max, sum, value);
            continue;
        }
        float *to = part + v * (dim + 2);
        to[2 + d] = value;
        if (d == 0) {
            to[0] = max;
            to[1] = sum;
        }
    }
}

template <typename T, int N>
static __device__ void segment_run(const struct run_params *p, int number, int begin, int end, float *part) {
    struct item item = item_open(&p->a, number);
    struct lane l = lane_open(&p->a.cache, &p->a.batch, p->a.layer, item.seq, item.head);
    struct shared s = shared_open(p->a.cache.head_dim);
    struct state<N> state;
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    float *weight = s.weight + warp * TILE_VECTORS * TILE_KEYS, logit[TILE_VECTORS];
    state_clear(&state);
    vectors_load<T>(&p->a, &l, item.tile, s.q, (int)threadIdx.x, THREADS);
    __syncthreads();
    for (int tile = begin + warp; tile < end; tile += WARPS) {
        struct key<T> key = key_open<T>(&p->a.cache, &l, p->a.open, tile, lane);
        key_logits(&p->a, &l, &key, item.tile, s.q, logit);
        state_weigh(&state, item.tile.n, logit, weight);
        __syncwarp(); /* lanes read what the others weighed */
        state_add_values(&p->a, &l, &key, &state, item.tile.n, weight);
        __syncwarp(); /* before the next tile writes weights */
    }
    state_share(&state, &s, item.tile.n, p->a.cache.head_dim, weight);
    __syncthreads();
    segment_store<T>(p, &l, item.tile, &s, part); /* the next segment writes none of what is read here before a barrier */
}

static __device__ size_t part_floats(const struct run_params *p) {
    return (size_t)TILE_VECTORS * (size_t)(p->a.cache.head_dim + 2);
}

/* How many blocks a multiprocessor holds at once, by registers and shared memory; all blocks of a launch are resident. */
static constexpr __host__ __device__ int blocks_per_sm(int n) {
    return n <= 4 ? 3 : 2;
}

template <typename T, int N>
static __global__ void __launch_bounds__(THREADS, blocks_per_sm(N)) k_attend(struct run_params p) {
    int block = (int)blockIdx.x, at = run_begin(&p, block), end = run_begin(&p, block + 1), first = at;
    int n = p.a.batch.n_items;
    while (at < end) {
        int number = last_at_most(p.begin, n, at), begin = p.begin[number], next = p.begin[number + 1];
        int stop = next < end ? next : end;
        bool whole = at == begin && stop == next;
        float *part = p.partial + (2 * (size_t)block + (at != first)) * part_floats(&p);
        segment_run<T, N>(&p, number, at - begin, stop - begin, whole ? NULL : part);
        at = stop;
    }
}

/* The block whose run holds a tile. */
static __device__ int block_of(const struct run_params *p, int tile) {
    return (int)((((long long)tile + 1) * p->n_blocks - 1) / p->begin[p->a.batch.n_items]);
}

/* One block an item: joins its parts in the order of the blocks that made them. */
template <typename T>
static __global__ void k_join(struct run_params p) {
    int number = (int)blockIdx.x, begin = p.begin[number], dim = p.a.cache.head_dim;
    int first = block_of(&p, begin), last = block_of(&p, p.begin[number + 1] - 1);
    if (first == last) /* whole */
        return;
    struct item item = item_open(&p.a, number);
    struct lane l = lane_open(&p.a.cache, &p.a.batch, p.a.layer, item.seq, item.head);
    for (int i = (int)threadIdx.x; i < item.tile.n * dim; i += (int)blockDim.x) {
        int v = i / dim, d = i % dim;
        float max = -INFINITY, sum = 0, value = 0;
        for (int b = first; b <= last; b++) {
            if (run_begin(&p, b) == run_begin(&p, b + 1)) /* more blocks than tiles */
                continue;
            bool second = b == first && run_begin(&p, b) < begin;
            const float *part = p.partial + (2 * (size_t)b + second) * part_floats(&p) + v * (dim + 2);
            float larger = fmaxf(max, part[0]), old = weight_of(max, larger), add = weight_of(part[0], larger);
            sum = sum * old + part[1] * add;
            value = value * old + part[2 + d] * add;
            max = larger;
        }
        output_store<T>(&p.a, &l, item.tile, v, d, max, sum, value);
    }
}

/* ---- launches ----------------------------------------------------------------------------------------------------- */

typedef void (*run_kernel)(struct run_params);

/* Dimensions that a lane of a warp holds. */
static int dims_per_lane(int head_dim) {
    return head_dim <= 64 ? 2 : head_dim <= 128 ? 4 : 8;
}

template <typename T>
static run_kernel attend_kernel(int head_dim) {
    int n = dims_per_lane(head_dim);
    return n == 2 ? k_attend<T, 2> : n == 4 ? k_attend<T, 4> : k_attend<T, 8>;
}

void cuda_attend_cache(struct device *dev, const struct attend_args *a) {
    struct attend_params p;
    bool bf16 = a->cache->dtype == DTYPE_BF16;
    ASSERT(a->cache->dtype == dev->dtype);
    if (!attend_params_of(dev, a, &p))
        return;
    if (a->cache->head_dim > 256) {
        err_set(&dev->err, ERR_INPUT, "cuda", "heads have %d dimensions, at most 256 are supported (use --backend cpu)",
                a->cache->head_dim);
        return;
    }
    size_t n_items = (size_t)p.batch.n_items;
    size_t n_blocks = (size_t)(blocks_per_sm(dims_per_lane(a->cache->head_dim)) * dev->n_sms);
    size_t part_bytes = (size_t)TILE_VECTORS * (size_t)(a->cache->head_dim + 2) * sizeof(float);
    struct plan_params plan = {p, (int *)cuda_scratch(dev, SCRATCH_PLAN, (n_items + 1) * sizeof(int))};
    struct run_params run = {p, plan.begin, (int)n_blocks,
                             (float *)cuda_scratch(dev, SCRATCH_PARTIAL, 2 * n_blocks * part_bytes)};
    cuda_launch(dev, k_plan, 1, PLAN_THREADS, PLAN_THREADS / 32 * sizeof(int), plan);
    cuda_launch(dev, bf16 ? attend_kernel<struct bf16>(a->cache->head_dim) : attend_kernel<float>(a->cache->head_dim),
                n_blocks, THREADS, shared_floats(a->cache->head_dim) * sizeof(float), run);
    cuda_launch(dev, bf16 ? k_join<struct bf16> : k_join<float>, n_items, THREADS, 0, run);
    if (a->column_sum)
        cuda_attend_columns(dev, a);
}
