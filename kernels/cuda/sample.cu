/* Next tokens, with the meaning of kernels/ref/sample.c: ids in descending order of probability, ties to the lower id, the
 * top_k of them, the shortest head that reaches top_p, one drawn by its share. Nothing is sorted: each of the three borders
 * is "the first id of the order at which a sum reaches a target", found eight bits of the order's key at a time from sums
 * per digit. Weights are whole numbers of 2^-40, so the order of additions does not matter. */
#include "base/rng.h"
#include "kernels/cuda/device.cuh"

enum { DIGITS = 256, MAX_THREADS = 256 };

struct sample_params {
    const float *logits;
    size_t n_rows, n_vocab;
    double temperature, top_p;
    int top_k;
    uint64_t seed;
    const uint64_t *sequence_id;
    const int *position;
    int32_t *id;
};

/* Shared memory of k_sample(). */
struct shared {
    unsigned long long sum[DIGITS];
    unsigned long long key, before; /* digits found so far; sum of everything before them */
    unsigned long long warp[MAX_THREADS / 32];
};

/* Relative probability of an id; an infinite best logit takes everything. */
static __device__ unsigned long long weight_of(const struct sample_params *p, float logit, float best) {
    double share = logit == best ? 1 : exp(((double)logit - (double)best) / p->temperature);
    return (unsigned long long)(share * (double)(1ull << 40) + 0.5);
}

/* The smallest value of all threads. */
static __device__ unsigned long long block_min(struct shared *s, unsigned long long x) {
    for (int lanes = 16; lanes; lanes /= 2) {
        unsigned long long other = __shfl_xor_sync(0xFFFFFFFFu, x, lanes);
        x = other < x ? other : x;
    }
    if (threadIdx.x % 32 == 0)
        s->warp[threadIdx.x / 32] = x;
    __syncthreads();
    x = s->warp[0];
    for (unsigned w = 1; w < blockDim.x / 32; w++)
        x = s->warp[w] < x ? s->warp[w] : x;
    __syncthreads(); /* before the next use */
    return x;
}

/* What a border is searched in: ids whose key is at most `last`, each counted as its weight, or as 1. */
struct border {
    const float *logits;
    unsigned long long last;
    bool counts;
    float best;
};

static __device__ unsigned long long border_weight(const struct sample_params *p, const struct border *b, size_t i) {
    return b->counts ? 1 : weight_of(p, b->logits[i], b->best);
}

/* Sum over all ids of the border. */
static __device__ unsigned long long border_total(const struct sample_params *p, const struct border *b, struct shared *s) {
    if (threadIdx.x == 0)
        s->before = 0;
    __syncthreads();
    unsigned long long own = 0;
    for (size_t i = threadIdx.x; i < p->n_vocab; i += blockDim.x)
        if (descending_key(b->logits[i], i) <= b->last)
            own += border_weight(p, b, i);
    if (own)
        atomicAdd(&s->before, own);
    __syncthreads();
    own = s->before;
    __syncthreads(); /* before it is used again */
    return own;
}

/* Thread 0: the digit at which the sum of all before it and its own reaches the target. */
static __device__ void digit_choose(struct shared *s, unsigned long long target, int shift) {
    int digit = 0;
    while (digit < DIGITS - 1 && s->before + s->sum[digit] < target)
        s->before += s->sum[digit++];
    s->key |= (unsigned long long)digit << shift;
}

/* The key of the first id at which the running sum reaches target, which is between 1 and the total. */
static __device__ unsigned long long border_find(const struct sample_params *p, const struct border *b,
                                                 unsigned long long target, struct shared *s) {
    if (threadIdx.x == 0)
        s->key = s->before = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        for (unsigned i = threadIdx.x; i < DIGITS; i += blockDim.x)
            s->sum[i] = 0;
        __syncthreads();
        unsigned long long above = shift == 56 ? 0 : ~0ull << (shift + 8), prefix = s->key;
        for (size_t i = threadIdx.x; i < p->n_vocab; i += blockDim.x) {
            unsigned long long key = descending_key(b->logits[i], i);
            if (key <= b->last && (key & above) == prefix)
                atomicAdd(&s->sum[key >> shift & (DIGITS - 1)], border_weight(p, b, i));
        }
        __syncthreads();
        if (threadIdx.x == 0)
            digit_choose(s, target, shift);
        __syncthreads();
    }
    unsigned long long found = s->key;
    __syncthreads(); /* before the next search clears it */
    return found;
}

static __device__ unsigned long long at_least_one(unsigned long long x) {
    return x ? x : 1;
}

/* One block a row. */
static __global__ void k_sample(struct sample_params p) {
    struct shared *s = (struct shared *)cuda_shared();
    size_t row = blockIdx.x;
    struct border b = {p.logits + row * p.n_vocab, NO_KEY - 1, false, 0};
    unsigned long long best = NO_KEY;
    for (size_t i = threadIdx.x; i < p.n_vocab; i += blockDim.x) {
        unsigned long long key = descending_key(b.logits[i], i);
        best = key < best ? key : best;
    }
    best = block_min(s, best);
    if (best == NO_KEY || p.temperature == 0) {
        if (threadIdx.x == 0)
            p.id[row] = best == NO_KEY ? 0 : (int32_t)(best & 0xFFFFFFFFu);
        return;
    }
    b.best = b.logits[best & 0xFFFFFFFFu];
    if (p.top_k > 0 && (size_t)p.top_k < p.n_vocab) {
        b.counts = true;
        unsigned long long n = border_total(&p, &b, s), k = (unsigned long long)p.top_k;
        b.last = border_find(&p, &b, k < n ? k : n, s);
        b.counts = false;
    }
    unsigned long long total = border_total(&p, &b, s);
    if (p.top_p < 1) {
        b.last = border_find(&p, &b, at_least_one((unsigned long long)ceil(p.top_p * (double)total)), s);
        total = border_total(&p, &b, s);
    }
    double draw = (double)total * (double)rng_uniform(p.seed, p.sequence_id[row], 0, 0, (uint32_t)p.position[row]);
    unsigned long long target = (unsigned long long)draw + 1; /* the first sum that is larger */
    unsigned long long key = border_find(&p, &b, target < total ? target : total, s);
    if (threadIdx.x == 0)
        p.id[row] = (int32_t)(key & 0xFFFFFFFFu);
}

void cuda_sample(struct device *dev, const struct sample_args *a) {
    size_t n = a->n_rows, id_bytes = n * sizeof *a->sequence_id;
    struct sample_params p = {a->logits, n, a->n_vocab, (double)a->temperature, (double)a->top_p, a->top_k, a->seed, NULL,
                              NULL, a->id};
    if (device_failed(dev) || n == 0)
        return;
    if (a->temperature > 0) {
        char *keys = (char *)cuda_scratch(dev, SCRATCH_KEYS, id_bytes + n * sizeof *a->position);
        if (!keys)
            return;
        cuda_upload(dev, keys, a->sequence_id, id_bytes);
        cuda_upload(dev, keys + id_bytes, a->position, n * sizeof *a->position);
        p.sequence_id = (const uint64_t *)keys;
        p.position = (const int *)(keys + id_bytes);
    }
    size_t n_threads = blocks_for(a->n_vocab, 32) * 32;
    cuda_launch(dev, k_sample, n, n_threads < MAX_THREADS ? (unsigned)n_threads : MAX_THREADS, sizeof(struct shared), p);
}
