/* Pairs going into the cache, out of it, and back to whoever asks. Everything is counted on the device: free pages are taken
 * from and given back to one stack with atomics, so that which page a lane gets depends on the order of blocks; no result
 * does. A kernel either takes pages or gives some back. */
#include "kernels/cuda/lane.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS };

struct append_params {
    struct kv_cache cache;
    struct batch_dev batch;
    int layer;
    const float *k, *v;
    const uint8_t *open;
    size_t ld_kv;
    int *fault;
};

/* What a step does to one lane. */
struct move {
    struct lane l;
    int leave0, n_leave; /* positions that leave the ring */
};

/* Shared memory of k_append(). */
struct append_shared {
    int entry[THREADS];        /* where the pair of a thread's position goes in the store; -1: nowhere */
    int count[WARPS];
    unsigned long long pairs[WARPS];
    bool fine;
};

static __device__ struct move move_open(const struct append_params *p, int lane_number) {
    struct move m = {};
    m.l = lane_open(&p->cache, &p->batch, p->layer, lane_number / p->cache.n_kv_heads, lane_number % p->cache.n_kv_heads);
    m.leave0 = m.l.pos0 > m.l.window ? m.l.pos0 - m.l.window : 0;
    int left = m.l.pos0 + m.l.n_rows - m.l.window; /* positions below it have left afterwards */
    m.n_leave = left > m.leave0 ? left - m.leave0 : 0;
    return m;
}

/* Does the pair of position pos stay when it leaves the ring? It is in the ring or a row of the step. */
static __device__ bool stays(const struct append_params *p, const struct move *m, int pos) {
    const struct kv_cache *c = &p->cache;
    if (m->l.ring_only)
        return false;
    if (pos < c->sinks)
        return true;
    if (pos >= m->l.pos0)
        return p->open[(size_t)(m->l.first + pos - m->l.pos0) * (size_t)c->n_kv_heads + (size_t)m->l.head];
    return c->ring_open[m->l.index * (size_t)c->ring_len + (size_t)(pos % m->l.window)];
}

/* How many positions stay, known to every thread. Two barriers. */
static __device__ int block_count(struct append_shared *s, int own) {
    int sum = __reduce_add_sync(0xFFFFFFFFu, own), all = 0;
    if (threadIdx.x % 32 == 0)
        s->count[threadIdx.x / 32] = sum;
    __syncthreads();
    for (int w = 0; w < WARPS; w++)
        all += s->count[w];
    __syncthreads(); /* before the counts are used again */
    return all;
}

/* Takes n pages off the free list: they lie at free_pages[result ..]. Negative, and a fault, when the pool is empty. By one
 * thread. */
static __device__ int free_take(const struct kv_cache *c, int n, int *fault) {
    int top = n ? atomicSub(c->n_free, n) - n : 0;
    if (top < 0) {
        atomicAdd(c->n_free, n);
        atomicCAS(fault, FAULT_NONE, FAULT_NO_PAGE);
    } else if (n) {
        atomicMin(c->n_free + 1, top);
    }
    return top;
}

/* Places first .. first + n - 1 of the lane's list, and second .. in the same way, get pages. False, and a fault, when the
 * pool is empty. Ends with a barrier. */
static __device__ bool pages_take(const struct append_params *p, struct append_shared *s, const struct move *m, int ring0,
                                  int n_ring, int long0, int n_long) {
    const struct kv_cache *c = &p->cache;
    int n = n_ring + n_long;
    if (threadIdx.x == 0) {
        int32_t *list = c->page_list + m->l.index * (size_t)c->list_len;
        int top = free_take(c, n, p->fault);
        s->fine = top >= 0;
        for (int i = 0; i < n && s->fine; i++)
            list[i < n_ring ? ring0 + i : long0 + i - n_ring] = c->free_pages[top + n - 1 - i];
    }
    __syncthreads();
    return s->fine;
}

static __device__ int ceil_div(int a, int b) {
    return (a + b - 1) / b;
}

static __device__ bool move_take_pages(const struct append_params *p, struct append_shared *s, const struct move *m) {
    int slots = p->cache.page_slots, fed = m->l.pos0 + m->l.n_rows, own = 0;
    for (int i = (int)threadIdx.x; i < m->n_leave; i += THREADS)
        own += stays(p, m, m->leave0 + i);
    int n_long = m->l.n_long + block_count(s, own), ring_used = fed < m->l.window ? fed : m->l.window;
    int ring0 = ceil_div(m->l.n_ring, slots), long0 = ceil_div(m->l.n_long, slots);
    return pages_take(p, s, m, ring0, ceil_div(ring_used, slots) - ring0, m->l.long_page + long0,
                      ceil_div(n_long, slots) - long0);
}

/* Row `row` of the step goes to slot `place` of the pages that begin at list place `first_page`; by one warp. */
template <typename T>
static __device__ void row_store(const struct append_params *p, const struct lane *l, int row, int first_page, int place) {
    const struct kv_cache *c = &p->cache;
    int slots = c->page_slots, dim = c->head_dim;
    T *page = page_at<T>(c, l->index, first_page + place / slots);
    size_t from = (size_t)(l->first + row) * p->ld_kv + (size_t)l->head * (size_t)dim;
    for (int d = (int)threadIdx.x % 32; d < dim; d += 32) {
        store_f32(page + page_k_index<T>(slots, dim, place % slots, d), p->k[from + (size_t)d]);
        store_f32(page + page_v_index(slots, dim, place % slots, d), p->v[from + (size_t)d]);
    }
}

/* Element d of the key and of the value of one slot to another. */
template <typename T>
static __device__ void slot_copy(const struct kv_cache *c, const T *from, int from_slot, T *to, int to_slot, int d) {
    int slots = c->page_slots, dim = c->head_dim;
    to[page_k_index<T>(slots, dim, to_slot, d)] = from[page_k_index<T>(slots, dim, from_slot, d)];
    to[page_v_index(slots, dim, to_slot, d)] = from[page_v_index(slots, dim, from_slot, d)];
}

/* The pair of position pos becomes entry `entry` of the store; by one warp. */
template <typename T>
static __device__ void pair_keep(const struct append_params *p, const struct lane *l, int pos, int entry) {
    const struct kv_cache *c = &p->cache;
    int slots = c->page_slots, ring = pos % l->window;
    if (pos >= l->pos0) {
        row_store<T>(p, l, pos - l->pos0, l->long_page, entry);
        return;
    }
    const T *from = page_at<T>(c, l->index, ring / slots);
    T *to = page_at<T>(c, l->index, l->long_page + entry / slots);
    for (int d = (int)threadIdx.x % 32; d < c->head_dim; d += 32)
        slot_copy(c, from, ring % slots, to, entry % slots, d);
}

/* Counters that the moves of a lane add up to. */
struct tally {
    int n_long, n_kept;
    unsigned long long pairs; /* visible ones; one thread's share */
};

/* THREADS positions at a time: who stays, as which entry, then the copies. */
template <typename T>
static __device__ struct tally pairs_leave(const struct append_params *p, struct append_shared *s, const struct move *m) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, own_kept = 0;
    struct tally t = {m->l.n_long, 0, 0};
    for (int first = 0; first < m->n_leave; first += THREADS) {
        int i = first + (int)threadIdx.x, pos = m->leave0 + i;
        bool leaves = i < m->n_leave, keep = leaves && stays(p, m, pos);
        unsigned votes = __ballot_sync(0xFFFFFFFFu, keep);
        int entry = t.n_long + __popc(votes & ((1u << lane) - 1));
        if (lane == 0)
            s->count[warp] = __popc(votes);
        __syncthreads();
        for (int w = 0; w < WARPS; w++) {
            entry += w < warp ? s->count[w] : 0;
            t.n_long += s->count[w];
        }
        s->entry[threadIdx.x] = keep ? entry : -1;
        if (keep && p->cache.long_pos)
            p->cache.long_pos[m->l.index * (size_t)p->cache.max_len + (size_t)entry] = pos;
        own_kept += keep && pos >= p->cache.sinks;
        /* The query of position pos + window is the first that finds this pair gone or kept for good. */
        t.pairs += leaves && !m->l.ring_only ? (unsigned long long)m->l.window + (unsigned long long)(entry + keep) : 0;
        __syncthreads();
        for (int j = warp; j < THREADS && first + j < m->n_leave; j += WARPS)
            if (s->entry[j] >= 0)
                pair_keep<T>(p, &m->l, m->leave0 + first + j, s->entry[j]);
        __syncthreads(); /* before the next positions use entry and count */
    }
    t.n_kept = block_count(s, own_kept);
    return t;
}

/* Pairs seen by queries whose window begins before position 0. */
static __device__ unsigned long long early_pairs(const struct lane *l) {
    long long first = l->pos0, end = l->pos0 + l->n_rows;
    end = end < l->window ? end : l->window;
    return l->ring_only || end <= first ? 0 : (unsigned long long)((first + end + 1) * (end - first) / 2);
}

/* One block a lane. */
template <typename T>
static __global__ void __launch_bounds__(THREADS, 4) k_append(struct append_params p) {
    struct append_shared *s = (struct append_shared *)cuda_shared();
    struct move m = move_open(&p, (int)blockIdx.x);
    struct kv_cache *c = &p.cache;
    int warp = (int)threadIdx.x / 32, skip = m.l.n_rows > m.l.window ? m.l.n_rows - m.l.window : 0;
    if (!move_take_pages(&p, s, &m))
        return;
    struct tally t = pairs_leave<T>(&p, s, &m);
    for (int row = skip + warp; row < m.l.n_rows; row += WARPS)
        row_store<T>(&p, &m.l, row, 0, (m.l.pos0 + row) % m.l.window);
    for (int row = skip + (int)threadIdx.x; row < m.l.n_rows; row += THREADS)
        c->ring_open[m.l.index * (size_t)c->ring_len + (size_t)((m.l.pos0 + row) % m.l.window)] =
            p.open[(size_t)(m.l.first + row) * (size_t)c->n_kv_heads + (size_t)m.l.head];
    for (int lanes = 16; lanes; lanes /= 2)
        t.pairs += __shfl_xor_sync(0xFFFFFFFFu, t.pairs, lanes);
    if (threadIdx.x % 32 == 0)
        s->pairs[warp] = t.pairs;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 0; w < WARPS; w++)
            c->visible_pairs[m.l.index] += s->pairs[w];
        c->visible_pairs[m.l.index] += early_pairs(&m.l);
        c->n_long[m.l.index] = t.n_long;
        c->n_kept[m.l.index] += t.n_kept;
        c->n_fed[m.l.index] += m.l.n_rows;
    }
}

void cuda_kv_append(struct device *dev, const struct kv_append_args *a) {
    struct append_params p = {};
    ASSERT(a->ld_kv >= (size_t)a->cache->n_kv_heads * (size_t)a->cache->head_dim && a->cache->dtype == dev->dtype);
    if (a->batch.n_seq == 0 || !cuda_batch(dev, &a->batch, 0, 0, &p.batch))
        return;
    p.cache = *a->cache;
    p.layer = a->layer;
    p.k = a->k;
    p.v = a->v;
    p.open = a->open;
    p.ld_kv = a->ld_kv;
    p.fault = dev->fault;
    cuda_launch(dev, a->cache->dtype == DTYPE_BF16 ? k_append<struct bf16> : k_append<float>,
                (size_t)p.batch.n_seq * (size_t)p.cache.n_kv_heads, THREADS, sizeof(struct append_shared), p);
}

/* ---- prune, evict, reset ------------------------------------------------------------------------------------------ */

struct lane_params {
    struct kv_cache cache;
    int slot, layer;
    const uint8_t *keep; /* prune: (n_fed, n_kv_heads); evict: (n_kv_heads, max_len) */
};

/* Places first .. end - 1 of a lane's list give their pages back; by one thread. */
static __device__ void pages_give(const struct kv_cache *c, size_t lane, int first, int end) {
    int32_t *list = c->page_list + lane * (size_t)c->list_len;
    int n = 0;
    for (int i = first; i < end; i++)
        n += list[i] >= 0;
    int at = n ? atomicAdd(c->n_free, n) : 0;
    for (int i = first; i < end; i++) {
        if (list[i] >= 0)
            c->free_pages[at++] = list[i];
        list[i] = -1;
    }
}

static __device__ size_t lane_index(const struct lane_params *p, int head) {
    const struct kv_cache *c = &p->cache;
    return ((size_t)p->slot * (size_t)c->n_layers + (size_t)p->layer) * (size_t)c->n_kv_heads + (size_t)head;
}

/* Keeps the long-term entries i with keep[i * stride] != 0 and those of positions below sinks, which come first; by one
 * block. A thread moves its own dimensions of all pairs, in order, so that no one waits for anybody. */
template <typename T>
static __device__ void lane_keep(const struct kv_cache *c, size_t lane, int window, const uint8_t *keep, size_t stride) {
    int slots = c->page_slots, place0 = ceil_div(window, slots), n = 0;
    int n_long = c->n_long[lane], n_sinks = n_long - c->n_kept[lane];
    int32_t *pos = c->long_pos ? c->long_pos + lane * (size_t)c->max_len : NULL;
    for (int i = 0; i < n_long; i++) {
        if (i >= n_sinks && !keep[(size_t)i * stride])
            continue;
        if (n != i) {
            const T *from = page_at<T>(c, lane, place0 + i / slots);
            T *to = page_at<T>(c, lane, place0 + n / slots);
            for (int d = (int)threadIdx.x; d < c->head_dim; d += (int)blockDim.x)
                slot_copy(c, from, i % slots, to, n % slots, d);
            if (pos && threadIdx.x == 0)
                pos[n] = pos[i];
        }
        n++;
    }
    __syncthreads(); /* pages and counts are in use until here */
    if (threadIdx.x == 0) {
        pages_give(c, lane, place0 + ceil_div(n, slots), place0 + ceil_div(n_long, slots));
        c->n_long[lane] = n;
        c->n_kept[lane] = n - n_sinks;
    }
}

/* One block a KV head. Every position that has left the ring is in the store: entry i is position i. */
template <typename T>
static __global__ void k_prune(struct lane_params p) {
    const struct kv_cache *c = &p.cache;
    int head = (int)blockIdx.x, window = c->window[p.layer * c->n_kv_heads + head];
    size_t lane = lane_index(&p, head);
    int fed = c->n_fed[lane], n_long = fed > window ? fed - window : 0;
    if (c->ring_only[p.layer])
        return;
    for (int pos = n_long + (int)threadIdx.x; pos < fed; pos += (int)blockDim.x)
        c->ring_open[lane * (size_t)c->ring_len + (size_t)(pos % window)] =
            p.keep[(size_t)pos * (size_t)c->n_kv_heads + (size_t)head];
    lane_keep<T>(c, lane, window, p.keep + head, (size_t)c->n_kv_heads);
}

void cuda_kv_prune(struct device *dev, struct kv_cache *c, int slot, int layer, const uint8_t *open) {
    struct lane_params p = {*c, slot, layer, open};
    cuda_launch(dev, c->dtype == DTYPE_BF16 ? k_prune<struct bf16> : k_prune<float>, (size_t)c->n_kv_heads, 64, 0, p);
}

/* One block a KV head. */
template <typename T>
static __global__ void k_evict(struct lane_params p) {
    const struct kv_cache *c = &p.cache;
    int head = (int)blockIdx.x;
    if (!c->ring_only[p.layer])
        lane_keep<T>(c, lane_index(&p, head), c->window[p.layer * c->n_kv_heads + head],
                     p.keep + (size_t)head * (size_t)c->max_len, 1);
}

void cuda_kv_evict(struct device *dev, struct kv_cache *c, int slot, int layer, const uint8_t *keep) {
    struct lane_params p = {*c, slot, layer, keep};
    cuda_launch(dev, c->dtype == DTYPE_BF16 ? k_evict<struct bf16> : k_evict<float>, (size_t)c->n_kv_heads, 64, 0, p);
}

/* One thread a lane. */
static __global__ void k_reset(struct lane_params p) {
    const struct kv_cache *c = &p.cache;
    size_t n = (size_t)c->n_layers * (size_t)c->n_kv_heads, i = thread_in_grid(), lane = (size_t)p.slot * n + i;
    if (i >= n)
        return;
    pages_give(c, lane, 0, c->list_len);
    c->n_fed[lane] = c->n_long[lane] = c->n_kept[lane] = 0;
    c->visible_pairs[lane] = 0;
}

void cuda_kv_reset(struct device *dev, struct kv_cache *c, int slot) {
    struct lane_params p = {*c, slot, 0, NULL};
    cuda_launch(dev, k_reset, blocks_for((size_t)c->n_layers * (size_t)c->n_kv_heads, 32), 32, 0, p);
}

/* ---- copy --------------------------------------------------------------------------------------------------------- */

struct copy_params {
    struct kv_cache cache;
    int from, to;
    int *fault;
};

/* Lane `to` gets as many pages as `from` has, at the same places; by one thread. False, and a fault, when the pool is
 * empty. */
static __device__ bool pages_mirror(const struct copy_params *p, size_t from, size_t to) {
    const struct kv_cache *c = &p->cache;
    const int32_t *source = c->page_list + from * (size_t)c->list_len;
    int32_t *list = c->page_list + to * (size_t)c->list_len;
    int n = 0;
    for (int i = 0; i < c->list_len; i++)
        n += source[i] >= 0;
    int top = free_take(c, n, p->fault);
    for (int i = 0; i < c->list_len && top >= 0; i++)
        if (source[i] >= 0)
            list[i] = c->free_pages[top + --n];
    return top >= 0;
}

/* One block a lane. */
static __global__ void k_copy(struct copy_params p) {
    const struct kv_cache *c = &p.cache;
    bool *fine = (bool *)cuda_shared();
    size_t n = (size_t)c->n_layers * (size_t)c->n_kv_heads, words = c->page_bytes / sizeof(uint4);
    size_t from = (size_t)p.from * n + blockIdx.x, to = (size_t)p.to * n + blockIdx.x;
    if (threadIdx.x == 0)
        *fine = pages_mirror(&p, from, to);
    __syncthreads();
    if (!*fine)
        return;
    for (int place = 0; place < c->list_len; place++) {
        if (c->page_list[to * (size_t)c->list_len + (size_t)place] < 0)
            continue;
        const uint4 *old = page_at<uint4>(c, from, place);
        uint4 *page = page_at<uint4>(c, to, place);
        for (size_t i = threadIdx.x; i < words; i += blockDim.x)
            page[i] = old[i];
    }
    for (size_t i = threadIdx.x; i < (size_t)c->ring_len; i += blockDim.x)
        c->ring_open[to * (size_t)c->ring_len + i] = c->ring_open[from * (size_t)c->ring_len + i];
    for (size_t i = threadIdx.x; c->long_pos && i < (size_t)c->n_long[from]; i += blockDim.x)
        c->long_pos[to * (size_t)c->max_len + i] = c->long_pos[from * (size_t)c->max_len + i];
    if (threadIdx.x == 0) {
        c->n_fed[to] = c->n_fed[from];
        c->n_long[to] = c->n_long[from];
        c->n_kept[to] = c->n_kept[from];
        c->visible_pairs[to] = c->visible_pairs[from];
    }
}

void cuda_kv_copy(struct device *dev, struct kv_cache *c, int from, int to) {
    struct copy_params p = {*c, from, to, dev->fault};
    ASSERT(c->page_bytes % sizeof(uint4) == 0);
    cuda_launch(dev, k_copy, (size_t)c->n_layers * (size_t)c->n_kv_heads, 128, sizeof(bool), p);
}

/* ---- read --------------------------------------------------------------------------------------------------------- */

struct read_params {
    struct kv_cache cache;
    size_t lane;
    int window;
    const int32_t *index;
    size_t n;
    float *k, *v;
};

template <typename T>
static __global__ void k_kv_read(struct read_params p) {
    const struct kv_cache *c = &p.cache;
    size_t i = thread_in_grid();
    int dim = c->head_dim, slots = c->page_slots, d = (int)(i % (size_t)dim);
    if (i >= p.n * (size_t)dim)
        return;
    int fed = c->n_fed[p.lane], n_ring = fed < p.window ? fed : p.window, n_long = c->n_long[p.lane];
    int place = p.index[i / (size_t)dim], page0 = (p.window + slots - 1) / slots;
    if (place >= n_long) {
        place = (fed - n_ring + place - n_long) % p.window;
        page0 = 0;
    }
    const T *page = page_at<T>(c, p.lane, page0 + place / slots);
    p.k[i] = to_f32(page[page_k_index<T>(slots, dim, place % slots, d)]);
    p.v[i] = to_f32(page[page_v_index(slots, dim, place % slots, d)]);
}

void cuda_kv_read(struct device *dev, const struct kv_cache *c, int slot, int layer, int kv_head, const int32_t *index,
                  size_t n, float *k, float *v) {
    int window = c->window_host[layer * c->n_kv_heads + kv_head];
    struct read_params p = {*c, kv_lane(c, slot, layer, kv_head), window, index, n, k, v};
    cuda_launch(dev, c->dtype == DTYPE_BF16 ? k_kv_read<struct bf16> : k_kv_read<float>,
                blocks_for(n * (size_t)c->head_dim, 128), 128, 0, p);
}
