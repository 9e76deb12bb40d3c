/* Attention in f32: plain loops whose lanes are keys (logits) or dimensions (sums of values). */
#include <math.h>
#include <string.h>

#include "kernels/cpu/attend.h"
#include "kernels/cpu/vmath.h"

#if ISA_X86
#include <immintrin.h>
#endif

/* ---- products of a tile of rows with a group of keys, in plain C --------------------------------------------------- */

/* logit[r][j] = q[r] . k[j] for 32 keys */
static void logits_scalar(const float *q, size_t n_rows, size_t dim, const struct key_group *g, size_t slots, float *logit) {
    const float *k = (const float *)(const void *)g->k;
    for (size_t r = 0; r < n_rows; r++) {
        float *sum = logit + r * STEP_KEYS;
        for (size_t j = 0; j < GROUP_KEYS; j++)
            sum[j] = 0;
        for (size_t d = 0; d < dim; d++) {
#pragma omp simd
            for (size_t j = 0; j < GROUP_KEYS; j++)
                sum[j] += q[r * dim + d] * k[d * slots + j];
        }
    }
}

/* out[r][d] += sum over 32 keys of p[r][j] v[j][d] */
static void values_scalar(const float *p, size_t n_rows, size_t dim, const struct key_group *g, float *out) {
    const float *v = (const float *)(const void *)g->v;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t j = 0; j < GROUP_KEYS; j++) {
#pragma omp simd
            for (size_t d = 0; d < dim; d++)
                out[r * dim + d] += p[r * STEP_KEYS + j] * v[j * dim + d];
        }
}

/* ---- the same with sums in registers ------------------------------------------------------------------------------- */

#if ISA_X86
/* n <= 8 rows, a constant */
static INLINE TARGET_AVX512 void some_logits_avx512(const float *q, size_t n, size_t dim, const float *k, size_t slots,
                                                    float *logit) {
    __m512 s[8][2];
#pragma GCC unroll 8
    for (size_t r = 0; r < n; r++)
        s[r][0] = s[r][1] = _mm512_setzero_ps();
    for (size_t d = 0; d < dim; d++) {
        __m512 k0 = _mm512_loadu_ps(k + d * slots), k1 = _mm512_loadu_ps(k + d * slots + 16);
#pragma GCC unroll 8
        for (size_t r = 0; r < n; r++) {
            __m512 x = _mm512_set1_ps(q[r * dim + d]);
            s[r][0] = _mm512_fmadd_ps(x, k0, s[r][0]);
            s[r][1] = _mm512_fmadd_ps(x, k1, s[r][1]);
        }
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < n; r++) {
        _mm512_storeu_ps(logit + r * STEP_KEYS, s[r][0]);
        _mm512_storeu_ps(logit + r * STEP_KEYS + 16, s[r][1]);
    }
}

/* n_d <= 32 dimensions */
static INLINE TARGET_AVX512 void some_values_avx512(const float *p, size_t n, size_t dim, size_t n_d, const float *v,
                                                    float *out) {
    uint32_t bits = n_d >= 32 ? ~0u : (1u << n_d) - 1;
    __mmask16 m0 = (__mmask16)bits, m1 = (__mmask16)(bits >> 16);
    __m512 s[8][2];
#pragma GCC unroll 8
    for (size_t r = 0; r < n; r++) {
        s[r][0] = _mm512_maskz_loadu_ps(m0, out + r * dim);
        s[r][1] = _mm512_maskz_loadu_ps(m1, out + r * dim + 16);
    }
    for (size_t j = 0; j < GROUP_KEYS; j++) {
        __m512 v0 = _mm512_maskz_loadu_ps(m0, v + j * dim), v1 = _mm512_maskz_loadu_ps(m1, v + j * dim + 16);
#pragma GCC unroll 8
        for (size_t r = 0; r < n; r++) {
            __m512 x = _mm512_set1_ps(p[r * STEP_KEYS + j]);
            s[r][0] = _mm512_fmadd_ps(x, v0, s[r][0]);
            s[r][1] = _mm512_fmadd_ps(x, v1, s[r][1]);
        }
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < n; r++) {
        _mm512_mask_storeu_ps(out + r * dim, m0, s[r][0]);
        _mm512_mask_storeu_ps(out + r * dim + 16, m1, s[r][1]);
    }
}

static TARGET_AVX512 void logits_avx512(const float *q, size_t n_rows, size_t dim, const struct key_group *g, size_t slots,
                                        float *logit) {
    const float *k = (const float *)(const void *)g->k;
    size_t r = 0;
    for (; r + 8 <= n_rows; r += 8)
        some_logits_avx512(q + r * dim, 8, dim, k, slots, logit + r * STEP_KEYS);
    for (; r + 3 <= n_rows; r += 3)
        some_logits_avx512(q + r * dim, 3, dim, k, slots, logit + r * STEP_KEYS);
    for (; r < n_rows; r++)
        some_logits_avx512(q + r * dim, 1, dim, k, slots, logit + r * STEP_KEYS);
}

static TARGET_AVX512 void values_avx512(const float *p, size_t n_rows, size_t dim, const struct key_group *g, float *out) {
    for (size_t d = 0; d < dim; d += 32) {
        const float *v = (const float *)(const void *)g->v + d;
        size_t r = 0;
        for (; r + 8 <= n_rows; r += 8)
            some_values_avx512(p + r * STEP_KEYS, 8, dim, dim - d, v, out + r * dim + d);
        for (; r + 3 <= n_rows; r += 3)
            some_values_avx512(p + r * STEP_KEYS, 3, dim, dim - d, v, out + r * dim + d);
        for (; r < n_rows; r++)
            some_values_avx512(p + r * STEP_KEYS, 1, dim, dim - d, v, out + r * dim + d);
    }
}

/* Sums of n <= 4 rows and 8 w keys or dimensions stay in registers: n * w <= 12 of the sixteen. n and w are constants. */
static INLINE TARGET_AVX2 void some_logits_avx2(const float *q, size_t n, size_t w, size_t dim, const float *k, size_t slots,
                                                float *logit) {
    __m256 s[4][4];
#pragma GCC unroll 4
    for (size_t r = 0; r < n; r++)
#pragma GCC unroll 4
        for (size_t i = 0; i < w; i++)
            s[r][i] = _mm256_setzero_ps();
    for (size_t d = 0; d < dim; d++) {
#pragma GCC unroll 4
        for (size_t r = 0; r < n; r++) {
            __m256 x = _mm256_set1_ps(q[r * dim + d]);
#pragma GCC unroll 4
            for (size_t i = 0; i < w; i++)
                s[r][i] = _mm256_fmadd_ps(x, _mm256_loadu_ps(k + d * slots + 8 * i), s[r][i]);
        }
    }
#pragma GCC unroll 4
    for (size_t r = 0; r < n; r++)
#pragma GCC unroll 4
        for (size_t i = 0; i < w; i++)
            _mm256_storeu_ps(logit + r * STEP_KEYS + 8 * i, s[r][i]);
}

static INLINE TARGET_AVX2 void some_values_avx2(const float *p, size_t n, size_t w, size_t dim, const float *v, float *out) {
    __m256 s[4][4];
#pragma GCC unroll 4
    for (size_t r = 0; r < n; r++)
#pragma GCC unroll 4
        for (size_t i = 0; i < w; i++)
            s[r][i] = _mm256_loadu_ps(out + r * dim + 8 * i);
    for (size_t j = 0; j < GROUP_KEYS; j++) {
#pragma GCC unroll 4
        for (size_t r = 0; r < n; r++) {
            __m256 x = _mm256_set1_ps(p[r * STEP_KEYS + j]);
#pragma GCC unroll 4
            for (size_t i = 0; i < w; i++)
                s[r][i] = _mm256_fmadd_ps(x, _mm256_loadu_ps(v + j * dim + 8 * i), s[r][i]);
        }
    }
#pragma GCC unroll 4
    for (size_t r = 0; r < n; r++)
#pragma GCC unroll 4
        for (size_t i = 0; i < w; i++)
            _mm256_storeu_ps(out + r * dim + 8 * i, s[r][i]);
}

static TARGET_AVX2 void logits_avx2(const float *q, size_t n_rows, size_t dim, const struct key_group *g, size_t slots,
                                    float *logit) {
    const float *k = (const float *)(const void *)g->k;
    size_t r = 0;
    for (; r + 4 <= n_rows; r += 4) {
        some_logits_avx2(q + r * dim, 4, 2, dim, k, slots, logit + r * STEP_KEYS);
        some_logits_avx2(q + r * dim, 4, 2, dim, k + 16, slots, logit + r * STEP_KEYS + 16);
    }
    q += r * dim, logit += r * STEP_KEYS;
    switch (n_rows - r) {
    case 3: some_logits_avx2(q, 3, 4, dim, k, slots, logit); break;
    case 2: some_logits_avx2(q, 2, 4, dim, k, slots, logit); break;
    case 1: some_logits_avx2(q, 1, 4, dim, k, slots, logit); break;
    default: break;
    }
}

/* 8 w dimensions of all rows */
static INLINE TARGET_AVX2 void column_values_avx2(const float *p, size_t n_rows, size_t w, size_t dim, const float *v,
                                                  float *out) {
    size_t r = 0;
    for (; r + 3 <= n_rows; r += 3)
        some_values_avx2(p + r * STEP_KEYS, 3, w, dim, v, out + r * dim);
    for (; r < n_rows; r++)
        some_values_avx2(p + r * STEP_KEYS, 1, w, dim, v, out + r * dim);
}

static TARGET_AVX2 void values_avx2(const float *p, size_t n_rows, size_t dim, const struct key_group *g, float *out) {
    const float *v = (const float *)(const void *)g->v;
    size_t d = 0;
    for (; d + 32 <= dim; d += 32)
        column_values_avx2(p, n_rows, 4, dim, v + d, out + d);
    for (; d + 8 <= dim; d += 8)
        column_values_avx2(p, n_rows, 1, dim, v + d, out + d);
    for (size_t r = 0; r < n_rows; r++)
        for (size_t j = 0; j < GROUP_KEYS; j++)
            for (size_t last = d; last < dim; last++)
                out[r * dim + last] += p[r * STEP_KEYS + j] * v[j * dim + last];
}
#endif

static void (*const logits_table[])(const float *, size_t, size_t, const struct key_group *, size_t, float *) =
    ISA_TABLE(logits);
static void (*const values_table[])(const float *, size_t, size_t, const struct key_group *, float *) = ISA_TABLE(values);

/* ---- softmax ------------------------------------------------------------------------------------------------------- */

/* Scales, caps and masks n logits; the largest of them. */
static INLINE float row_mask(float *logit, size_t n, const uint32_t *visible, float scale, float softcap, enum isa isa) {
    for (size_t j = 0; j < n; j += GROUP_KEYS) {
        uint32_t bits = visible[j / GROUP_KEYS];
#pragma omp simd
        for (size_t i = 0; i < GROUP_KEYS; i++)
            logit[j + i] *= scale;
        if (softcap != 0) {
#pragma omp simd
            for (size_t i = 0; i < GROUP_KEYS; i++)
                logit[j + i] = softcap_f32(logit[j + i], softcap, isa);
        }
        if (bits != ~0u) {
#pragma omp simd
            for (size_t i = 0; i < GROUP_KEYS; i++)
                logit[j + i] = bits >> i & 1 ? logit[j + i] : -INFINITY;
        }
    }
    return max_f32(logit, n, -INFINITY);
}

/* logit = exp(logit - max), 0 where masked; their sum. */
static INLINE float row_exp(float *logit, size_t n, float max, enum isa isa) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t j = 0; j < n; j++) {
        float p = exp_f32(logit[j] - max, isa);
        logit[j] = p;
        sum += p;
    }
    return sum;
}

/* Up to four groups for one tile of rows. */
static INLINE void tile_step(const struct attend_run *run, struct attend_rows *rows, size_t tile,
                             const struct key_group *groups,
                             size_t n_groups, enum isa isa) {
    size_t first = tile * TILE_ROWS, n = rows->n - first < TILE_ROWS ? rows->n - first : TILE_ROWS, dim = rows->head_dim;
    const float *q = (const float *)rows->q + first * dim;
    for (size_t i = 0; i < n_groups; i++)
        logits_table[isa](q, n, dim, &groups[i], run->shape.slots, rows->logit + i * GROUP_KEYS);
    for (size_t r = 0; r < n; r++) {
        int t = attend_position(run, rows, first + r);
        float *logit = rows->logit + r * STEP_KEYS, *out = rows->out + (first + r) * dim, *old = &rows->max[first + r];
        uint32_t visible[STEP_GROUPS];
        for (size_t i = 0; i < n_groups; i++)
            visible[i] = group_mask(&groups[i], run->window, t, t);
        float max = row_mask(logit, n_groups * GROUP_KEYS, visible, run->a->scale, run->a->softcap, isa);
        max = max > *old ? max : *old;
        if (max != *old) {
            float shrink = exp_f32(*old - max, isa);
            rows->sum[first + r] *= shrink;
#pragma omp simd
            for (size_t d = 0; d < dim; d++)
                out[d] *= shrink;
            *old = max;
        }
        /* A row that has seen nothing yet: exp(-inf - 0) = 0. */
        rows->sum[first + r] += row_exp(logit, n_groups * GROUP_KEYS, max == -INFINITY ? 0 : max, isa);
    }
    for (size_t i = 0; i < n_groups; i++)
        values_table[isa](rows->logit + i * GROUP_KEYS, n, dim, &groups[i], rows->out + first * dim);
}

/* The same; the weights stay in the record of the step and tile when one of its queries counts. */
static INLINE void tile_step_recorded(const struct attend_run *run, struct attend_rows *rows, size_t tile,
                                      struct attend_record *record, const struct key_group *groups, size_t n_groups,
                                      enum isa isa) {
    size_t last = (tile + 1) * TILE_ROWS < rows->n ? (tile + 1) * TILE_ROWS - 1 : rows->n - 1;
    bool counts = n_groups > 0 && attend_position(run, rows, last) >= rows->column_from;
    float *logit = rows->logit;
    record->n_groups = counts ? n_groups : 0;
    if (counts)
        rows->logit = record->weight;
    if (n_groups > 0)
        tile_step(run, rows, tile, groups, n_groups, isa);
    rows->logit = logit;
    if (!counts)
        return;
    memcpy(record->groups, groups, n_groups * sizeof *groups);
    memcpy(record->max, rows->max + tile * TILE_ROWS, sizeof record->max);
}

static INLINE void rows_body(const struct attend_run *run, struct attend_rows *rows, size_t begin, size_t end,
                             enum isa isa) {
    for (size_t at = begin; at < end; at += STEP_GROUPS) {
        struct key_group groups[STEP_GROUPS], seen[STEP_GROUPS];
        size_t n = end - at < STEP_GROUPS ? end - at : STEP_GROUPS;
        for (size_t i = 0; i < n; i++)
            groups[i] = attend_group(run, at + i);
        for (size_t tile = 0; tile < rows->n_tiles; tile++) {
            bool all;
            size_t n_seen = attend_groups_seen(run, rows, tile, groups, n, seen, &all);
            struct attend_record *record = rows->records ? &rows->records[at / STEP_GROUPS * rows->n_tiles + tile] : NULL;
            if (record)
                tile_step_recorded(run, rows, tile, record, seen, n_seen, isa);
            else if (n_seen)
                tile_step(run, rows, tile, seen, n_seen, isa);
        }
    }
}

static void rows_scalar(const struct attend_run *run, struct attend_rows *rows, size_t begin, size_t end) {
    rows_body(run, rows, begin, end, ISA_SCALAR);
}

#if ISA_X86
static TARGET_AVX2 void rows_avx2(const struct attend_run *run, struct attend_rows *rows, size_t begin, size_t end) {
    rows_body(run, rows, begin, end, ISA_AVX2);
}

static TARGET_AVX512 void rows_avx512(const struct attend_run *run, struct attend_rows *rows, size_t begin, size_t end) {
    rows_body(run, rows, begin, end, ISA_AVX512);
}
#endif

void attend_rows_f32(const struct device *dev, const struct attend_run *run, struct attend_rows *rows, size_t begin,
                     size_t end) {
    static void (*const table[])(const struct attend_run *, struct attend_rows *, size_t, size_t) = ISA_TABLE(rows);
    table[dev->isa](run, rows, begin, end);
}

/* ---- softmax weights of a tile ------------------------------------------------------------------------------------- */

static INLINE void masses_body(const struct attend_run *run, struct attend_rows *rows, size_t tile,
                               const struct key_group *groups, size_t n_groups, bool by_query, enum isa isa) {
    size_t first = tile * TILE_ROWS, n = rows->n - first < TILE_ROWS ? rows->n - first : TILE_ROWS;
    for (size_t i = 0; i < n_groups; i++)
        logits_table[isa]((const float *)rows->q + first * rows->head_dim, n, rows->head_dim, &groups[i], run->shape.slots,
                          rows->logit + i * GROUP_KEYS);
    for (size_t r = 0; r < n; r++) {
        int t = attend_position(run, rows, first + r);
        uint32_t visible[STEP_GROUPS];
        for (size_t i = 0; i < n_groups; i++)
            visible[i] = group_mask(&groups[i], run->window, t, t);
        row_mask(rows->logit + r * STEP_KEYS, n_groups * GROUP_KEYS, visible, run->a->scale, run->a->softcap, isa);
        row_exp(rows->logit + r * STEP_KEYS, n_groups * GROUP_KEYS, rows->max[first + r], isa);
    }
    for (size_t r = 0, n_rows; by_query && r < n; r += n_rows) {
        n_rows = attend_query_rows(rows, first + r, first + n);
        for (size_t other = r + 1; other < r + n_rows; other++) {
#pragma omp simd
            for (size_t j = 0; j < n_groups * GROUP_KEYS; j++)
                rows->logit[r * STEP_KEYS + j] += rows->logit[other * STEP_KEYS + j];
        }
    }
}

static void masses_scalar(const struct attend_run *run, struct attend_rows *rows, size_t tile,
                          const struct key_group *groups, size_t n_groups, bool by_query) {
    masses_body(run, rows, tile, groups, n_groups, by_query, ISA_SCALAR);
}

#if ISA_X86
static TARGET_AVX2 void masses_avx2(const struct attend_run *run, struct attend_rows *rows, size_t tile,
                                    const struct key_group *groups, size_t n_groups, bool by_query) {
    masses_body(run, rows, tile, groups, n_groups, by_query, ISA_AVX2);
}

static TARGET_AVX512 void masses_avx512(const struct attend_run *run, struct attend_rows *rows, size_t tile,
                                        const struct key_group *groups, size_t n_groups, bool by_query) {
    masses_body(run, rows, tile, groups, n_groups, by_query, ISA_AVX512);
}
#endif

void attend_masses_f32(const struct device *dev, const struct attend_run *run, struct attend_rows *rows, size_t tile,
                       const struct key_group *groups, size_t n_groups, bool by_query) {
    static void (*const table[])(const struct attend_run *, struct attend_rows *, size_t, const struct key_group *, size_t,
                                 bool) = ISA_TABLE(masses);
    table[dev->isa](run, rows, tile, groups, n_groups, by_query);
}
