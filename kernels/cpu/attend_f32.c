/* Attention in f32: plain loops whose lanes are keys (logits) or dimensions (sums of values). */
#include <math.h>

#include "kernels/cpu/attend.h"
#include "kernels/cpu/vmath.h"

/* logit[r][j] = q[r] . k[j] for n <= 8 rows (a constant) and 32 keys; sums stay in registers. */
static INLINE void group_logits(const float *q, size_t n, size_t dim, const struct key_group *g, size_t slots, float *logit,
                                enum isa isa) {
    const float *k = (const float *)(const void *)g->k;
#pragma omp simd
    for (size_t j = 0; j < GROUP_KEYS; j++) {
        float s[8] = {0};
        for (size_t d = 0; d < dim; d++)
            for (size_t r = 0; r < n; r++)
                s[r] = madd(q[r * dim + d], k[d * slots + j], s[r], isa);
        for (size_t r = 0; r < n; r++)
            logit[r * STEP_KEYS + j] = s[r];
    }
}

/* out[r][d] += sum over 32 keys of p[r][j] v[j][d] */
static INLINE void group_values(const float *p, size_t n, size_t dim, const struct key_group *g, float *out, enum isa isa) {
    const float *v = (const float *)(const void *)g->v;
#pragma omp simd
    for (size_t d = 0; d < dim; d++) {
        float s[8];
        for (size_t r = 0; r < n; r++)
            s[r] = out[r * dim + d];
        for (size_t j = 0; j < GROUP_KEYS; j++)
            for (size_t r = 0; r < n; r++)
                s[r] = madd(p[r * STEP_KEYS + j], v[j * dim + d], s[r], isa);
        for (size_t r = 0; r < n; r++)
            out[r * dim + d] = s[r];
    }
}

/* Rows one at a time or eight at a time. */
static INLINE void tile_logits(const float *q, size_t n_rows, size_t dim, const struct key_group *g, size_t slots,
                               float *logit,
                               enum isa isa) {
    size_t r = 0;
    for (; r + 8 <= n_rows; r += 8)
        group_logits(q + r * dim, 8, dim, g, slots, logit + r * STEP_KEYS, isa);
    for (; r + 4 <= n_rows; r += 4)
        group_logits(q + r * dim, 4, dim, g, slots, logit + r * STEP_KEYS, isa);
    for (; r + 2 <= n_rows; r += 2)
        group_logits(q + r * dim, 2, dim, g, slots, logit + r * STEP_KEYS, isa);
    for (; r < n_rows; r++)
        group_logits(q + r * dim, 1, dim, g, slots, logit + r * STEP_KEYS, isa);
}

static INLINE void tile_values(const float *p, size_t n_rows, size_t dim, const struct key_group *g, float *out,
                               enum isa isa) {
    size_t r = 0;
    for (; r + 8 <= n_rows; r += 8)
        group_values(p + r * STEP_KEYS, 8, dim, g, out + r * dim, isa);
    for (; r + 4 <= n_rows; r += 4)
        group_values(p + r * STEP_KEYS, 4, dim, g, out + r * dim, isa);
    for (; r + 2 <= n_rows; r += 2)
        group_values(p + r * STEP_KEYS, 2, dim, g, out + r * dim, isa);
    for (; r < n_rows; r++)
        group_values(p + r * STEP_KEYS, 1, dim, g, out + r * dim, isa);
}

/* Scales, caps and masks n logits; the largest of them. */
static INLINE float row_mask(float *logit, size_t n, const uint32_t *visible, float scale, float softcap, enum isa isa) {
    float lane_max[16], max = -INFINITY;
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
    for (size_t i = 0; i < 16; i++)
        lane_max[i] = -INFINITY;
    for (size_t j = 0; j < n; j += 16) {
#pragma omp simd
        for (size_t i = 0; i < 16; i++)
            lane_max[i] = logit[j + i] > lane_max[i] ? logit[j + i] : lane_max[i];
    }
    for (size_t i = 0; i < 16; i++)
        max = lane_max[i] > max ? lane_max[i] : max;
    return max;
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
        tile_logits(q, n, dim, &groups[i], run->shape.slots, rows->logit + i * GROUP_KEYS, isa);
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
        tile_values(rows->logit + i * GROUP_KEYS, n, dim, &groups[i], rows->out + first * dim, isa);
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
            if (n_seen)
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
                               const struct key_group *groups, size_t n_groups, enum isa isa) {
    size_t first = tile * TILE_ROWS, n = rows->n - first < TILE_ROWS ? rows->n - first : TILE_ROWS;
    for (size_t i = 0; i < n_groups; i++)
        tile_logits((const float *)rows->q + first * rows->head_dim, n, rows->head_dim, &groups[i], run->shape.slots,
                    rows->logit + i * GROUP_KEYS, isa);
    for (size_t r = 0; r < n; r++) {
        int t = attend_position(run, rows, first + r);
        uint32_t visible[STEP_GROUPS];
        for (size_t i = 0; i < n_groups; i++)
            visible[i] = group_mask(&groups[i], run->window, t, t);
        row_mask(rows->logit + r * STEP_KEYS, n_groups * GROUP_KEYS, visible, run->a->scale, run->a->softcap, isa);
        row_exp(rows->logit + r * STEP_KEYS, n_groups * GROUP_KEYS, rows->max[first + r], isa);
    }
    for (size_t r = 0, n_rows; r < n; r += n_rows) {
        n_rows = attend_query_rows(rows, first + r, first + n);
        for (size_t other = r + 1; other < r + n_rows; other++) {
#pragma omp simd
            for (size_t j = 0; j < n_groups * GROUP_KEYS; j++)
                rows->logit[r * STEP_KEYS + j] += rows->logit[other * STEP_KEYS + j];
        }
    }
}

static void masses_scalar(const struct attend_run *run, struct attend_rows *rows, size_t tile,
                          const struct key_group *groups,
                          size_t n_groups) {
    masses_body(run, rows, tile, groups, n_groups, ISA_SCALAR);
}

#if ISA_X86
static TARGET_AVX2 void masses_avx2(const struct attend_run *run, struct attend_rows *rows, size_t tile,
                                    const struct key_group *groups, size_t n_groups) {
    masses_body(run, rows, tile, groups, n_groups, ISA_AVX2);
}

static TARGET_AVX512 void masses_avx512(const struct attend_run *run, struct attend_rows *rows, size_t tile,
                                        const struct key_group *groups, size_t n_groups) {
    masses_body(run, rows, tile, groups, n_groups, ISA_AVX512);
}
#endif

void attend_masses_f32(const struct device *dev, const struct attend_run *run, struct attend_rows *rows, size_t tile,
                       const struct key_group *groups, size_t n_groups) {
    static void (*const table[])(const struct attend_run *, struct attend_rows *, size_t, const struct key_group *, size_t) =
        ISA_TABLE(masses);
    table[dev->isa](run, rows, tile, groups, n_groups);
}
