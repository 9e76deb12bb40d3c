/* Scores of long-term pairs for policies that evict. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/device.h"
#include "kernels/cpu/page.h"
#include "kernels/cpu/vmath.h"

#if ISA_X86
#include <immintrin.h>
#endif

enum { BLOCK_KEYS = 32 }; /* lanes of the loops over candidates */

/* ---- sums of queries ----------------------------------------------------------------------------------------------- */

enum { ROWS_AT_ONCE = 4 };

/* sum (dim) += q, outer (dim, dim) += q q^T on and above the diagonal, for n rows of q. */
static INLINE void query_add_body(const float *q, size_t ld, size_t n, size_t dim, float *sum, float *outer) {
    for (size_t r = 0; r < n; r += ROWS_AT_ONCE) {
        const float *row[ROWS_AT_ONCE];
        for (size_t i = 0; i < ROWS_AT_ONCE; i++)
            row[i] = q + (r + i < n ? r + i : r) * ld;
        for (size_t d = 0; d < dim; d++) {
            float x0 = row[0][d], x1 = r + 1 < n ? row[1][d] : 0, x2 = r + 2 < n ? row[2][d] : 0;
            float x3 = r + 3 < n ? row[3][d] : 0;
            sum[d] += x0 + x1 + x2 + x3;
#pragma omp simd
            for (size_t e = d / 8 * 8; e < dim; e++)
                outer[d * dim + e] += x0 * row[0][e] + x1 * row[1][e] + x2 * row[2][e] + x3 * row[3][e];
        }
    }
}

static void query_add_scalar(const float *q, size_t ld, size_t n, size_t dim, float *sum, float *outer) {
    query_add_body(q, ld, n, dim, sum, outer);
}

#if ISA_X86
static TARGET_AVX2 void query_add_avx2(const float *q, size_t ld, size_t n, size_t dim, float *sum, float *outer) {
    query_add_body(q, ld, n, dim, sum, outer);
}

static TARGET_AVX512 void query_add_avx512(const float *q, size_t ld, size_t n, size_t dim, float *sum, float *outer) {
    query_add_body(q, ld, n, dim, sum, outer);
}
#endif

static void (*const query_add_table[])(const float *, size_t, size_t, size_t, float *, float *) = ISA_TABLE(query_add);

/* The rows of one sequence and query head: summed in f32 (at most a chunk of them), added in double. */
static void sums_of_head(const struct device *dev, const struct query_sums_args *a, int seq, size_t head, float *sum) {
    size_t dim = a->head_dim, item = dim * (dim + 1);
    int n_rows = a->batch.row_splits[seq + 1] - a->batch.row_splits[seq], skip = a->skip - a->batch.pos0[seq];
    double *out = a->sum + ((size_t)a->batch.slots[seq] * a->n_heads + head) * item;
    skip = skip > 0 ? skip : 0;
    if (skip >= n_rows)
        return;
    memset(sum, 0, item * sizeof *sum);
    query_add_table[dev->isa](a->q + (size_t)(a->batch.row_splits[seq] + skip) * a->ld_q + head * dim, a->ld_q,
                              (size_t)(n_rows - skip), dim, sum, sum + dim);
    for (size_t d = 0; d < dim; d++) {
        out[d] += (double)sum[d];
        for (size_t i = dim + d * dim + d; i < dim + (d + 1) * dim; i++)
            out[i] += (double)sum[i];
    }
}

void cpu_query_sums(struct device *dev, const struct query_sums_args *a) {
    size_t item = a->head_dim * (a->head_dim + 1), n = (size_t)a->batch.n_seq * a->n_heads;
    float *memory = device_scratch(dev, SCRATCH_THREAD, (size_t)dev->n_threads * item * sizeof *memory);
    if (!memory || device_failed(dev))
        return;
#pragma omp parallel for num_threads(dev->n_threads) schedule(dynamic)
    for (size_t i = 0; i < n; i++)
        sums_of_head(dev, a, (int)(i / a->n_heads), i % a->n_heads, memory + (size_t)thread_number() * item);
}

/* ---- scores from sums of weights ----------------------------------------------------------------------------------- */

/* What attention gave the pair of a position, by this head or meant over all of them. */
static float column(const struct column_score_args *a, int head, int32_t pos) {
    size_t max_len = (size_t)a->cache->max_len, n_heads = (size_t)a->cache->n_kv_heads;
    const float *sums = a->column_sum + (size_t)a->slot * n_heads * max_len + (size_t)pos;
    float sum = 0;
    if (!a->mean_heads)
        return sums[(size_t)head * max_len];
    for (size_t h = 0; h < n_heads; h++)
        sum += sums[h * max_len];
    return sum / (float)n_heads;
}

static void column_score_head(const struct column_score_args *a, int head, float *column_of) {
    const struct kv_cache *c = a->cache;
    size_t lane = kv_lane(c, a->slot, a->layer, head);
    const int32_t *pos = c->long_pos + lane * (size_t)c->max_len;
    float *score = a->score + (size_t)head * (size_t)c->max_len;
    int n = c->n_long[lane], n_sinks = n - c->n_kept[lane], reach = a->pool / 2;
    for (int j = 0; j < n; j++)
        column_of[j] = j < n_sinks ? 0 : column(a, head, pos[j]);
    for (int j = 0; j < n; j++) {
        float sum = 0;
        for (int i = j > reach ? j - reach : 0; i <= j + reach && i < n; i++)
            sum += column_of[i];
        score[j] = j < n_sinks ? INFINITY : sum / (float)a->pool;
    }
}

void cpu_column_score(struct device *dev, const struct column_score_args *a) {
    size_t max_len = (size_t)a->cache->max_len;
    float *memory = device_scratch(dev, SCRATCH_THREAD, (size_t)dev->n_threads * max_len * sizeof *memory);
    ASSERT(a->pool % 2 == 1 && a->cache->long_pos);
    if (!memory || device_failed(dev) || a->cache->ring_only[a->layer])
        return;
#pragma omp parallel for num_threads(dev->n_threads) schedule(dynamic)
    for (int head = 0; head < a->cache->n_kv_heads; head++)
        column_score_head(a, head, memory + (size_t)thread_number() * max_len);
}

/* ---- scores from sums of queries ----------------------------------------------------------------------------------- */

/* What one thread works with for one KV head. */
struct expectation {
    const struct expected_score_args *a;
    size_t dim, group, first, n;  /* candidates are the long-term entries first .. first + n - 1 */
    size_t lane, long0;           /* first page of the store in the lane's list */
    float *cosine, *sine;         /* (dim / 2) of the mean rotation */
    float *mean, *square;         /* (group, dim) scale m; (group, dim, dim) scale^2 S above, half of it on the diagonal */
    float *x;                     /* (dim, BLOCK_KEYS) keys turned back, a block of candidates */
    float *k, *v;                 /* (dim) */
    float *logit;                 /* (group, max_len) */
};

static size_t expectation_floats(size_t dim, size_t group, size_t max_len) {
    return dim + group * dim * (dim + 1) + dim * BLOCK_KEYS + 2 * dim + group * max_len;
}

static void expectation_place(struct expectation *e, float *memory) {
    e->cosine = memory;
    e->sine = e->cosine + e->dim / 2;
    e->mean = e->cosine + e->dim;
    e->square = e->mean + e->group * e->dim;
    e->x = e->square + e->group * e->dim * e->dim;
    e->k = e->x + e->dim * BLOCK_KEYS;
    e->v = e->k + e->dim;
    e->logit = e->v + e->dim;
}

static void expectation_rotation(struct expectation *e) {
    const float *now = e->a->rotation, *future = e->a->future;
    size_t half = e->dim / 2;
    for (size_t d = 0; now && d < half; d++) {
        e->cosine[d] = now[d] * future[d] - now[half + d] * future[half + d];
        e->sine[d] = now[half + d] * future[d] + now[d] * future[half + d];
    }
}

/* Mean and covariance of the queries of head g of the group. */
static void expectation_queries(struct expectation *e, size_t query_head, size_t g) {
    size_t dim = e->dim;
    double n = e->a->n_queries ? e->a->n_queries : 1, scale = (double)e->a->scale;
    const double *sum = e->a->query_sum + ((size_t)e->a->slot * e->a->n_heads + query_head) * dim * (dim + 1);
    const double *outer = sum + dim;
    for (size_t d = 0; d < dim; d++) {
        e->mean[g * dim + d] = (float)(scale * sum[d] / n);
        for (size_t f = d; f < dim; f++) {
            double covariance = outer[d * dim + f] / n - sum[d] / n * (sum[f] / n);
            e->square[(g * dim + d) * dim + f] = (float)(scale * scale * covariance * (f == d ? 0.5 : 1));
        }
    }
}

/* Fills e->x with the keys of n candidates from `begin` on, and norm (n) with the norms of their values. */
static void expectation_block(struct expectation *e, size_t begin, size_t n, float *norm) {
    const struct kv_cache *c = e->a->cache;
    size_t half = e->dim / 2, slots = (size_t)c->page_slots;
    memset(e->x, 0, e->dim * BLOCK_KEYS * sizeof *e->x);
    for (size_t j = 0; j < n; j++) {
        size_t entry = e->first + begin + j;
        float square = 0;
        page_read(page_shape_of(c), lane_page(c, e->lane, e->long0 + entry / slots), entry % slots, e->k, e->v);
        for (size_t d = 0; d < e->dim; d++)
            square += e->v[d] * e->v[d];
        norm[j] = sqrtf(square);
        for (size_t d = 0; d < e->dim && !e->a->rotation; d++)
            e->x[d * BLOCK_KEYS + j] = e->k[d];
        for (size_t d = 0; d < half && e->a->rotation; d++) {
            e->x[d * BLOCK_KEYS + j] = e->cosine[d] * e->k[d] + e->sine[d] * e->k[half + d];
            e->x[(half + d) * BLOCK_KEYS + j] = e->cosine[d] * e->k[half + d] - e->sine[d] * e->k[d];
        }
    }
}

/* logit[j] = sum over d of x[d][j] (mean[d] + sum over f >= d of square[d][f] x[f][j]) for a block of keys. */
static INLINE void expected_logits_body(const float *x, size_t dim, const float *mean, const float *square, float *logit) {
    float sum[BLOCK_KEYS] = {0};
    for (size_t d = 0; d < dim; d++) {
        float inner[BLOCK_KEYS];
        for (size_t j = 0; j < BLOCK_KEYS; j++)
            inner[j] = mean[d];
        for (size_t f = d; f < dim; f++) {
            float s = square[d * dim + f];
#pragma omp simd
            for (size_t j = 0; j < BLOCK_KEYS; j++)
                inner[j] += s * x[f * BLOCK_KEYS + j];
        }
#pragma omp simd
        for (size_t j = 0; j < BLOCK_KEYS; j++)
            sum[j] += x[d * BLOCK_KEYS + j] * inner[j];
    }
    memcpy(logit, sum, sizeof sum);
}

static void expected_logits_scalar(const float *x, size_t dim, const float *mean, const float *square, float *logit) {
    expected_logits_body(x, dim, mean, square, logit);
}

#if ISA_X86
/* The same with sums in registers. */
static TARGET_AVX2 void expected_logits_avx2(const float *x, size_t dim, const float *mean, const float *square,
                                             float *logit) {
    __m256 sum[BLOCK_KEYS / 8], inner[BLOCK_KEYS / 8];
#pragma GCC unroll 4
    for (size_t i = 0; i < BLOCK_KEYS / 8; i++)
        sum[i] = _mm256_setzero_ps();
    for (size_t d = 0; d < dim; d++) {
#pragma GCC unroll 4
        for (size_t i = 0; i < BLOCK_KEYS / 8; i++)
            inner[i] = _mm256_set1_ps(mean[d]);
        for (size_t f = d; f < dim; f++) {
            __m256 s = _mm256_set1_ps(square[d * dim + f]);
#pragma GCC unroll 4
            for (size_t i = 0; i < BLOCK_KEYS / 8; i++)
                inner[i] = _mm256_fmadd_ps(s, _mm256_loadu_ps(x + f * BLOCK_KEYS + 8 * i), inner[i]);
        }
#pragma GCC unroll 4
        for (size_t i = 0; i < BLOCK_KEYS / 8; i++)
            sum[i] = _mm256_fmadd_ps(_mm256_loadu_ps(x + d * BLOCK_KEYS + 8 * i), inner[i], sum[i]);
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < BLOCK_KEYS / 8; i++)
        _mm256_storeu_ps(logit + 8 * i, sum[i]);
}

static TARGET_AVX512 void expected_logits_avx512(const float *x, size_t dim, const float *mean, const float *square,
                                                 float *logit) {
    expected_logits_body(x, dim, mean, square, logit);
}
#endif

static void (*const expected_logits_table[])(const float *, size_t, const float *, const float *, float *) =
    ISA_TABLE(expected_logits);

/* score (n) becomes |v| times the mean over the group of the softmax of logit (group, max_len). */
static void expectation_score(const struct expectation *e, float *score) {
    size_t max_len = (size_t)e->a->cache->max_len;
    for (size_t g = 0; g < e->group; g++) {
        float *logit = e->logit + g * max_len, max = max_f32(logit, e->n, -INFINITY);
        double sum = 0;
        for (size_t j = 0; j < e->n; j++)
            sum += (double)(logit[j] = exp_f32(logit[j] - max, ISA_SCALAR));
        float share = (float)(1 / (sum * (double)e->group));
        for (size_t j = 0; j < e->n; j++) /* head 0 collects the others */
            e->logit[j] = logit[j] * share + (g > 0 ? e->logit[j] : 0);
    }
    for (size_t j = 0; j < e->n; j++)
        score[j] *= e->logit[j];
}

static void expected_score_head(const struct device *dev, const struct expected_score_args *a, int head, float *memory) {
    const struct kv_cache *c = a->cache;
    size_t max_len = (size_t)c->max_len;
    struct expectation e = {.a = a, .dim = (size_t)c->head_dim, .group = a->n_heads / (size_t)c->n_kv_heads,
                            .lane = kv_lane(c, a->slot, a->layer, head), .long0 = lane_long_page(c, a->layer, head)};
    e.n = (size_t)c->n_kept[e.lane];
    e.first = (size_t)c->n_long[e.lane] - e.n;
    float *score = a->score + (size_t)head * max_len;
    expectation_place(&e, memory);
    expectation_rotation(&e);
    for (size_t g = 0; g < e.group; g++)
        expectation_queries(&e, (size_t)head * e.group + g, g);
    for (size_t j = 0; j < e.first; j++)
        score[j] = INFINITY;
    for (size_t begin = 0; begin < e.n; begin += BLOCK_KEYS) {
        size_t n = e.n - begin < BLOCK_KEYS ? e.n - begin : BLOCK_KEYS;
        float logit[BLOCK_KEYS];
        expectation_block(&e, begin, n, score + e.first + begin);
        for (size_t g = 0; g < e.group; g++) {
            expected_logits_table[dev->isa](e.x, e.dim, e.mean + g * e.dim, e.square + g * e.dim * e.dim, logit);
            memcpy(e.logit + g * max_len + begin, logit, n * sizeof *logit);
        }
    }
    expectation_score(&e, score + e.first);
}

void cpu_expected_score(struct device *dev, const struct expected_score_args *a) {
    const struct kv_cache *c = a->cache;
    size_t group = a->n_heads / (size_t)c->n_kv_heads;
    size_t n = expectation_floats((size_t)c->head_dim, group, (size_t)c->max_len);
    float *memory = device_scratch(dev, SCRATCH_THREAD, (size_t)dev->n_threads * n * sizeof *memory);
    if (!memory || device_failed(dev) || c->ring_only[a->layer])
        return;
#pragma omp parallel for num_threads(dev->n_threads) schedule(dynamic)
    for (int head = 0; head < c->n_kv_heads; head++)
        expected_score_head(dev, a, head, memory + (size_t)thread_number() * n);
}
