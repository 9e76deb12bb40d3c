/* Scores of long-term pairs for policies that evict, and the choice of the best. */
#include "kernels/cuda/lane.cuh"

enum { THREADS = 256, WARPS = THREADS / 32, DIGITS = 256 };

/* ---- sums of queries ---------------------------------------------------------------------------------------------- */

struct query_params {
    struct batch_dev batch;
    const float *q;
    size_t n_heads, head_dim, ld_q;
    int skip;
    double *sum;
};

/* One thread a sum of one query head of one sequence. */
static __global__ void k_query_sums(struct query_params p) {
    size_t dim = p.head_dim, item = dim * (dim + 1), i = thread_in_grid(), lane = i / item, at = i % item;
    if (lane >= (size_t)p.batch.n_seq * p.n_heads)
        return;
    size_t seq = lane / p.n_heads, head = lane % p.n_heads, d = at < dim ? at : at / dim - 1, e = at % dim;
    if (e < d) /* nothing stands below the diagonal */
        return;
    int row = p.batch.row_splits[seq], end = p.batch.row_splits[seq + 1], early = p.skip - p.batch.pos0[seq];
    double *out = p.sum + ((size_t)p.batch.slots[seq] * p.n_heads + head) * item + at, sum = 0;
    for (row += early > 0 ? early : 0; row < end; row++) {
        const float *q = p.q + (size_t)row * p.ld_q + head * dim;
        sum += at < dim ? (double)q[d] : (double)q[d] * (double)q[e];
    }
    *out += sum;
}

void cuda_query_sums(struct device *dev, const struct query_sums_args *a) {
    struct query_params p = {{}, a->q, a->n_heads, a->head_dim, a->ld_q, a->skip, a->sum};
    if (a->batch.n_seq == 0 || !cuda_batch(dev, &a->batch, 0, 0, &p.batch))
        return;
    size_t n = (size_t)a->batch.n_seq * a->n_heads * a->head_dim * (a->head_dim + 1);
    cuda_launch(dev, k_query_sums, blocks_for(n, THREADS), THREADS, 0, p);
}

/* ---- scores from what attention gave ------------------------------------------------------------------------------ */

/* What attention gave the pair of long-term entry j. */
static __device__ float column(const struct column_score_args *a, const struct kv_cache *c, size_t lane, int head, int j) {
    size_t max_len = (size_t)c->max_len, pos = (size_t)c->long_pos[lane * max_len + (size_t)j];
    const float *sums = a->column_sum + (size_t)a->slot * (size_t)c->n_kv_heads * max_len + pos;
    if (!a->mean_heads)
        return sums[(size_t)head * max_len];
    float sum = 0;
    for (int h = 0; h < c->n_kv_heads; h++)
        sum += sums[(size_t)h * max_len];
    return sum / (float)c->n_kv_heads;
}

struct column_score_params {
    struct kv_cache cache;
    struct column_score_args a; /* a.cache is the host's */
};

static __device__ size_t lane_index(const struct kv_cache *c, int slot, int layer, int head) {
    return ((size_t)slot * (size_t)c->n_layers + (size_t)layer) * (size_t)c->n_kv_heads + (size_t)head;
}

/* One thread a pair. */
static __global__ void k_column_score(struct column_score_params p) {
    const struct kv_cache *c = &p.cache;
    size_t i = thread_in_grid();
    int head = (int)(i / (size_t)c->max_len), j = (int)(i % (size_t)c->max_len);
    if (head >= c->n_kv_heads)
        return;
    size_t lane = lane_index(c, p.a.slot, p.a.layer, head);
    int n = c->n_long[lane], n_sinks = n - c->n_kept[lane], half = p.a.pool / 2;
    float score = j < n_sinks ? INFINITY : 0;
    if (j >= n)
        return;
    for (int near = j - half; j >= n_sinks && near <= j + half; near++)
        score += near >= n_sinks && near < n ? column(&p.a, c, lane, head, near) / (float)p.a.pool : 0;
    p.a.score[i] = score;
}

void cuda_column_score(struct device *dev, const struct column_score_args *a) {
    const struct kv_cache *c = a->cache;
    struct column_score_params p = {*c, *a};
    ASSERT(a->pool % 2 == 1 && c->long_pos);
    if (!c->ring_only_host[a->layer])
        cuda_launch(dev, k_column_score, blocks_for((size_t)c->n_kv_heads * (size_t)c->max_len, THREADS), THREADS, 0, p);
}

/* ---- scores from sums of queries ---------------------------------------------------------------------------------- */

struct expected_params {
    struct kv_cache cache;
    struct expected_score_args a; /* a.cache is the host's */
    float *moment;                /* (n_heads, head_dim * (head_dim + 1)): see k_moments() */
    float *logit;                 /* (n_heads, max_len) of pairs that are no sinks */
};

/* One thread a coefficient of the expected logit of a query head, a polynomial in the key: of each dimension, then of the
 * products on and above the diagonal. */
static __global__ void k_moments(struct expected_params p) {
    size_t dim = (size_t)p.cache.head_dim, item = dim * (dim + 1), i = thread_in_grid(), at = i % item;
    size_t d = at < dim ? at : at / dim - 1, e = at % dim;
    if (i / item >= p.a.n_heads || e < d)
        return;
    const double *sum = p.a.query_sum + ((size_t)p.a.slot * p.a.n_heads + i / item) * item;
    double n = p.a.n_queries, scale = (double)p.a.scale;
    if (p.a.n_queries == 0)
        p.moment[i] = 0;
    else if (at < dim)
        p.moment[i] = (float)(scale * sum[d] / n);
    else
        p.moment[i] = (float)(scale * scale / 2 * (e > d ? 2 : 1) * (sum[at] / n - sum[d] / n * (sum[e] / n)));
}

/* Element d of a key, turned back by the mean rotation of future positions. */
template <typename T>
static __device__ float unrotated(const struct expected_params *p, const T *page, int slot, int d) {
    int slots = p->cache.page_slots, dim = p->cache.head_dim, half = dim / 2, low = d % half;
    float k = to_f32(page[page_k_index<T>(slots, dim, slot, d)]);
    if (!p->a.rotation)
        return k;
    float other = to_f32(page[page_k_index<T>(slots, dim, slot, d < half ? d + half : d - half)]);
    float c0 = p->a.rotation[low], s0 = p->a.rotation[half + low], c1 = p->a.future[low], s1 = p->a.future[half + low];
    float cosine = c0 * c1 - s0 * s1, sine = s0 * c1 + c0 * s1;
    return cosine * k + (d < half ? sine : -sine) * other;
}

/* A warp a pair, past all query heads of the group. */
template <typename T>
static __global__ void k_expected_logits(struct expected_params p) {
    const struct kv_cache *c = &p.cache;
    int warp = (int)threadIdx.x / 32, t = (int)threadIdx.x % 32, dim = c->head_dim, slots = c->page_slots;
    size_t i = (size_t)blockIdx.x * WARPS + (size_t)warp, max_len = (size_t)c->max_len, head = i / max_len, j = i % max_len;
    float *x = (float *)cuda_shared() + warp * dim; /* (WARPS, head_dim) */
    if (head >= (size_t)c->n_kv_heads)
        return;
    size_t lane = lane_index(c, p.a.slot, p.a.layer, (int)head), group = p.a.n_heads / (size_t)c->n_kv_heads;
    int n = c->n_kept[lane], place = c->n_long[lane] - n + (int)j, window = c->window[p.a.layer * c->n_kv_heads + (int)head];
    if ((int)j >= n)
        return;
    const T *page = page_at<T>(c, lane, (window + slots - 1) / slots + place / slots);
    for (int d = t; d < dim; d += 32)
        x[d] = unrotated(&p, page, place % slots, d);
    __syncwarp();
    for (size_t h = head * group; h < (head + 1) * group; h++) {
        const float *mean = p.moment + h * (size_t)dim * (size_t)(dim + 1), *square = mean + dim;
        float sum = 0;
        for (int e = t; e < dim; e += 32) {
            float factor = mean[e];
            for (int d = 0; d <= e; d++)
                factor += square[d * dim + e] * x[d];
            sum += factor * x[e];
        }
        sum = warp_sum(sum);
        if (t == 0)
            p.logit[h * max_len + j] = sum;
    }
}

/* The sum, or the largest, of all threads' values, known to all. Two barriers. */
static __device__ float block_sum(float *warps, float x) {
    float all = 0;
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = x;
    __syncthreads();
    for (int w = 0; w < WARPS; w++)
        all += warps[w];
    __syncthreads(); /* before the next use */
    return all;
}

static __device__ float block_max(float *warps, float x) {
    float all = -INFINITY;
    x = warp_max(x);
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = x;
    __syncthreads();
    for (int w = 0; w < WARPS; w++)
        all = fmaxf(all, warps[w]);
    __syncthreads(); /* before the next use */
    return all;
}

template <typename T>
static __device__ float value_norm(const struct kv_cache *c, size_t lane, int first_page, int place) {
    int slots = c->page_slots, dim = c->head_dim;
    const T *page = page_at<T>(c, lane, first_page + place / slots);
    float sum = 0;
    for (int d = 0; d < dim; d++) {
        float v = to_f32(page[page_v_index(slots, dim, place % slots, d)]);
        sum += v * v;
    }
    return sqrtf(sum);
}

/* One block a KV head. A thread has the pairs threadIdx.x, threadIdx.x + THREADS, ... */
template <typename T>
static __global__ void k_expected_score(struct expected_params p) {
    const struct kv_cache *c = &p.cache;
    float *warps = (float *)cuda_shared(); /* (WARPS) */
    size_t head = blockIdx.x, max_len = (size_t)c->max_len, group = p.a.n_heads / (size_t)c->n_kv_heads;
    size_t lane = lane_index(c, p.a.slot, p.a.layer, (int)head);
    int n = c->n_kept[lane], n_sinks = c->n_long[lane] - n, own = (int)threadIdx.x;
    int window = c->window[p.a.layer * c->n_kv_heads + (int)head], page0 = (window + c->page_slots - 1) / c->page_slots;
    float *score = p.a.score + head * max_len;
    for (int j = own; j < n_sinks + n; j += THREADS)
        score[j] = j < n_sinks ? INFINITY : 0;
    __syncthreads(); /* from here on scores are counted behind the sinks */
    for (size_t h = head * group; h < (head + 1) * group; h++) {
        const float *logit = p.logit + h * max_len;
        float max = -INFINITY, sum = 0;
        for (int j = own; j < n; j += THREADS)
            max = fmaxf(max, logit[j]);
        max = block_max(warps, max);
        for (int j = own; j < n; j += THREADS)
            sum += expf(logit[j] - max);
        sum = block_sum(warps, sum);
        for (int j = own; j < n; j += THREADS)
            score[n_sinks + j] += expf(logit[j] - max) / sum / (float)group;
    }
    for (int j = own; j < n; j += THREADS)
        score[n_sinks + j] *= value_norm<T>(c, lane, page0, n_sinks + j);
}

void cuda_expected_score(struct device *dev, const struct expected_score_args *a) {
    const struct kv_cache *c = a->cache;
    struct expected_params p = {*c, *a, NULL, NULL};
    size_t dim = (size_t)c->head_dim, n_moments = a->n_heads * dim * (dim + 1), max_len = (size_t)c->max_len;
    bool bf16 = c->dtype == DTYPE_BF16;
    if (device_failed(dev) || c->ring_only_host[a->layer])
        return;
    p.moment = (float *)cuda_scratch(dev, SCRATCH_PARTIAL, n_moments * sizeof *p.moment);
    p.logit = (float *)cuda_scratch(dev, SCRATCH_LOGITS, a->n_heads * max_len * sizeof *p.logit);
    cuda_launch(dev, k_moments, blocks_for(n_moments, THREADS), THREADS, 0, p);
    cuda_launch(dev, bf16 ? k_expected_logits<struct bf16> : k_expected_logits<float>,
                blocks_for((size_t)c->n_kv_heads * max_len, WARPS), THREADS, WARPS * dim * sizeof(float), p);
    cuda_launch(dev, bf16 ? k_expected_score<struct bf16> : k_expected_score<float>, (size_t)c->n_kv_heads, THREADS,
                WARPS * sizeof(float), p);
}

/* ---- selection ---------------------------------------------------------------------------------------------------- */

/* Shared memory of k_select_top(). */
struct select_shared {
    unsigned long long key; /* digits of the last key that is chosen, found so far */
    size_t before;          /* keys before all that begin with them */
    int count[DIGITS];
};

/* The key of index i of a lane of the set: keys are all different and ascend from the best. */
static __device__ unsigned long long select_key(const struct select_top_args *a, size_t set, size_t lane, size_t i) {
    size_t at = lane * a->stride + i;
    return descending_key(a->score[set * a->n_lanes * a->stride + at], at);
}

/* Counts the keys that begin with the digits above `shift` by their next digit. */
static __device__ void digits_count(const struct select_top_args *a, size_t set, struct select_shared *s, int shift) {
    unsigned long long above = shift == 56 ? 0 : ~0ull << (shift + 8);
    for (int d = (int)threadIdx.x; d < DIGITS; d += THREADS)
        s->count[d] = 0;
    __syncthreads();
    for (size_t lane = 0; lane < a->n_lanes; lane++)
        for (size_t i = threadIdx.x; i < (size_t)a->n[set * a->n_lanes + lane]; i += THREADS) {
            unsigned long long key = select_key(a, set, lane, i);
            if ((key & above) == s->key)
                atomicAdd(&s->count[key >> shift & (DIGITS - 1)], 1);
        }
    __syncthreads();
}

/* One block a set: finds the key of the k-th best eight bits at a time. With fewer than k scores it is that of NaN. */
static __global__ void k_select_top(struct select_top_args a) {
    struct select_shared *s = (struct select_shared *)cuda_shared();
    size_t set = blockIdx.x;
    if (threadIdx.x == 0)
        s->key = s->before = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        digits_count(&a, set, s, shift);
        if (threadIdx.x == 0) {
            int digit = 0;
            while (digit < DIGITS - 1 && s->before + (size_t)s->count[digit] < a.k)
                s->before += (size_t)s->count[digit++];
            s->key |= (unsigned long long)digit << shift;
        }
        __syncthreads();
    }
    for (size_t lane = 0; lane < a.n_lanes; lane++)
        for (size_t i = threadIdx.x; i < (size_t)a.n[set * a.n_lanes + lane]; i += THREADS) {
            unsigned long long key = select_key(&a, set, lane, i);
            a.keep[(set * a.n_lanes + lane) * a.stride + i] = a.k > 0 && key <= s->key && key != NO_KEY;
        }
}

void cuda_select_top(struct device *dev, const struct select_top_args *a) {
    ASSERT(a->n_lanes * a->stride <= UINT32_MAX);
    cuda_launch(dev, k_select_top, a->n_sets, THREADS, sizeof(struct select_shared), *a);
}
