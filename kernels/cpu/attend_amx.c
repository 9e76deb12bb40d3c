/* Attention in bf16 with AMX: q K^T and p V are tile products whose B operands lie ready in the pages; the running softmax
 * between them works on rows of 128 logits. */
#include "kernels/cpu/attend.h"

#if ISA_X86
#include <math.h>
#include <string.h>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/vmath.h"

static const float LOG2E = 1.44269504088896341f;

/* Tiles 0-3 accumulate, 4 holds rows of q or p, 5 keys or values. */
struct shape {
    size_t q_step;  /* dimensions of a key per product, at most 32, divides head_dim */
    size_t v_cols;  /* dimensions of a value per product, at most 16, divides head_dim */
    struct tile_config logits, values; /* while logits are computed, and while values are summed */
    bool one_config;                   /* they are the same, and values are summed 64 dimensions at a time */
};

static size_t largest_divisor(size_t n, size_t at_most, size_t multiple_of) {
    size_t d = at_most;
    while (n % d || d % multiple_of)
        d--;
    return d;
}

static struct shape shape_of(const struct attend_rows *rows) {
    struct shape s = {largest_divisor(rows->head_dim, 32, 2), largest_divisor(rows->head_dim, 16, 1), tile_config_make(),
                      tile_config_make(), rows->head_dim % 64 == 0};
    int n_rows = rows->n < TILE_ROWS ? (int)rows->n : TILE_ROWS;
    for (int i = 0; i < 4; i++) {
        tile_config_set(&s.logits, i, n_rows, 64);
        tile_config_set(&s.values, i, n_rows, (int)s.v_cols * 4);
    }
    tile_config_set(&s.logits, 4, n_rows, (int)s.q_step * 2);
    tile_config_set(&s.logits, 5, (int)s.q_step / 2, 64);
    tile_config_set(&s.values, 4, n_rows, 64);
    tile_config_set(&s.values, 5, 16, (int)s.v_cols * 4);
    return s;
}

/* logit (16, STEP_KEYS) of two groups from column 0 on = q K^T */
static INLINE TARGET_AMX void two_groups_logits(const struct shape *s, const uint16_t *q, size_t dim, size_t slots,
                                                const struct key_group *a, const struct key_group *b, float *logit) {
    int q_stride = (int)(dim * 2), k_stride = (int)(slots * 4), out_stride = STEP_KEYS * 4;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t d = 0; d < dim; d += s->q_step) {
        const char *ka = a->k + d / 2 * slots * 4, *kb = b->k + d / 2 * slots * 4;
        _tile_loadd(4, q + d, q_stride);
        _tile_loadd(5, ka, k_stride);
        _tile_dpbf16ps(0, 4, 5);
        _tile_loadd(5, ka + 64, k_stride);
        _tile_dpbf16ps(1, 4, 5);
        _tile_loadd(5, kb, k_stride);
        _tile_dpbf16ps(2, 4, 5);
        _tile_loadd(5, kb + 64, k_stride);
        _tile_dpbf16ps(3, 4, 5);
    }
    _tile_stored(0, logit, out_stride);
    _tile_stored(1, logit + 16, out_stride);
    _tile_stored(2, logit + 32, out_stride);
    _tile_stored(3, logit + 48, out_stride);
}

/* An odd last group is computed twice; its second result is not looked at. */
static INLINE TARGET_AMX void tile_logits(const struct shape *s, const uint16_t *q, size_t dim, size_t slots,
                                          const struct key_group *groups, size_t n_groups, float *logit) {
    for (size_t i = 0; i < n_groups; i += 2)
        two_groups_logits(s, q, dim, slots, &groups[i], &groups[i + 1 < n_groups ? i + 1 : i], logit + i * GROUP_KEYS);
}

/* out (16, head_dim) += p V, one column of tiles */
static INLINE TARGET_AMX void tile_values(const struct shape *s, const uint16_t *p, size_t dim,
                                          const struct key_group *groups,
                                          size_t n_groups, float *out) {
    int out_stride = (int)(dim * 4), p_stride = STEP_KEYS * 2, v_stride = (int)(dim * 4);
    for (size_t d = 0; d < dim; d += s->v_cols) {
        _tile_loadd(0, out + d, out_stride);
        for (size_t i = 0; i < n_groups; i++) {
            _tile_loadd(4, p + i * GROUP_KEYS, p_stride);
            _tile_loadd(5, groups[i].v + d * 4, v_stride);
            _tile_dpbf16ps(0, 4, 5);
        }
        _tile_stored(0, out + d, out_stride);
    }
}

/* The same for 64 columns at a time. */
static INLINE TARGET_AMX void tile_values_64(const uint16_t *p, size_t dim, const struct key_group *groups, size_t n_groups,
                                             float *out) {
    int out_stride = (int)(dim * 4), p_stride = STEP_KEYS * 2, v_stride = (int)(dim * 4);
    for (size_t d = 0; d < dim; d += 64) {
        _tile_loadd(0, out + d, out_stride);
        _tile_loadd(1, out + d + 16, out_stride);
        _tile_loadd(2, out + d + 32, out_stride);
        _tile_loadd(3, out + d + 48, out_stride);
        for (size_t i = 0; i < n_groups; i++) {
            const char *v = groups[i].v + d * 4;
            _tile_loadd(4, p + i * GROUP_KEYS, p_stride);
            _tile_loadd(5, v, v_stride);
            _tile_dpbf16ps(0, 4, 5);
            _tile_loadd(5, v + 64, v_stride);
            _tile_dpbf16ps(1, 4, 5);
            _tile_loadd(5, v + 128, v_stride);
            _tile_dpbf16ps(2, 4, 5);
            _tile_loadd(5, v + 192, v_stride);
            _tile_dpbf16ps(3, 4, 5);
        }
        _tile_stored(0, out + d, out_stride);
        _tile_stored(1, out + d + 16, out_stride);
        _tile_stored(2, out + d + 32, out_stride);
        _tile_stored(3, out + d + 48, out_stride);
    }
}

/* ---- softmax ------------------------------------------------------------------------------------------------------- */

/* Makes logits of raw products where a multiplication in the exponent is not enough. */
static INLINE TARGET_AMX void logits_cap(float *logit, size_t n_rows, size_t n, float scale, float softcap) {
    for (size_t r = 0; r < n_rows; r++) {
#pragma omp simd
        for (size_t j = 0; j < n; j++) {
            float x = logit[r * STEP_KEYS + j] * scale;
            logit[r * STEP_KEYS + j] = softcap != 0 ? softcap_f32(x, softcap, ISA_AVX512) : x;
        }
    }
}

/* Lane i of the result: the largest (sum) lane of v[i]. */
static INLINE TARGET_AMX __m512 lanes_join(__m512 a, __m512 b, bool sum) {
    return sum ? _mm512_add_ps(a, b) : _mm512_max_ps(a, b);
}

static INLINE TARGET_AMX __m512 rows_reduce(const float *v, bool sum) {
    __m512 t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        t[i] = _mm512_load_ps(v + i * 16);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) /* lanes 4 j + (0, 1): rows 2 i, 2 i + 1, alternating */
        t[i] = lanes_join(_mm512_unpacklo_ps(t[2 * i], t[2 * i + 1]), _mm512_unpackhi_ps(t[2 * i], t[2 * i + 1]), sum);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) /* lanes 4 j + (0 .. 3): rows 4 i .. 4 i + 3 */
        t[i] = lanes_join(_mm512_shuffle_ps(t[2 * i], t[2 * i + 1], 0x44), _mm512_shuffle_ps(t[2 * i], t[2 * i + 1], 0xee),
                          sum);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        t[i] = lanes_join(_mm512_shuffle_f32x4(t[2 * i], t[2 * i + 1], 0x88),
                          _mm512_shuffle_f32x4(t[2 * i], t[2 * i + 1], 0xdd), sum);
    return lanes_join(_mm512_shuffle_f32x4(t[0], t[1], 0x88), _mm512_shuffle_f32x4(t[0], t[1], 0xdd), sum);
}

/* Masks of one row for up to 128 keys. */
struct visible {
    uint32_t group[STEP_GROUPS];
};

/* partial (16 lanes) = largest visible logits of a row, lane by lane */
static INLINE TARGET_AMX void row_max(const float *logit, size_t n_groups, const struct visible *visible, float *partial) {
    __m512 max = _mm512_set1_ps(-INFINITY);
#pragma GCC unroll 4
    for (size_t i = 0; i < n_groups; i++) {
        __m512 a = _mm512_load_ps(logit + i * 32), b = _mm512_load_ps(logit + i * 32 + 16);
        if (visible) {
            max = _mm512_mask_max_ps(max, (__mmask16)visible->group[i], a, max);
            max = _mm512_mask_max_ps(max, (__mmask16)(visible->group[i] >> 16), b, max);
        } else {
            max = _mm512_max_ps(b, _mm512_max_ps(a, max)); /* a NaN on the left is passed over */
        }
    }
    _mm512_store_ps(partial, max);
}

/* p = 2^(logit * scale - base) in bf16, 0 where not visible; partial (16 lanes) = their sums before rounding */
static INLINE TARGET_AMX void row_exp(const float *logit, size_t n_groups, const struct visible *visible, __m512 scale,
                                      __m512 base, uint16_t *p, float *partial) {
    __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (size_t i = 0; i < n_groups; i++) {
        __m512 a = exp2_ps(_mm512_fmsub_ps(_mm512_load_ps(logit + i * 32), scale, base));
        __m512 b = exp2_ps(_mm512_fmsub_ps(_mm512_load_ps(logit + i * 32 + 16), scale, base));
        if (visible) {
            a = _mm512_maskz_mov_ps((__mmask16)visible->group[i], a);
            b = _mm512_maskz_mov_ps((__mmask16)(visible->group[i] >> 16), b);
        }
        sum = _mm512_add_ps(sum, _mm512_add_ps(a, b));
        _mm512_store_si512((void *)(p + i * 32), (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
    _mm512_store_ps(partial, sum);
}

/* The rows whose maximum grew get smaller sums. */
static INLINE TARGET_AMX __m512 rows_shrink(struct attend_rows *rows, size_t first, size_t n, __m512 new_max) {
    __m512 old = _mm512_load_ps(rows->max + first), max = _mm512_max_ps(new_max, old);
    unsigned grown = _mm512_mask_cmp_ps_mask((__mmask16)((1u << n) - 1), max, old, _CMP_GT_OQ);
    if (grown == 0)
        return old;
    max = _mm512_mask_mov_ps(old, (__mmask16)grown, max);
    float shrink[TILE_ROWS] __attribute__((aligned(64)));
    __m512 factor = exp2_ps(_mm512_mul_ps(_mm512_sub_ps(old, max), _mm512_set1_ps(LOG2E)));
    factor = _mm512_mask_mov_ps(_mm512_set1_ps(1), (__mmask16)grown, factor);
    _mm512_store_ps(shrink, factor);
    _mm512_store_ps(rows->sum + first, _mm512_mul_ps(_mm512_load_ps(rows->sum + first), factor));
    _mm512_store_ps(rows->max + first, max);
    for (; grown; grown &= grown - 1) {
        size_t r = (size_t)__builtin_ctz(grown);
        float *out = rows->out + (first + r) * rows->head_dim, by = shrink[r];
#pragma omp simd
        for (size_t d = 0; d < rows->head_dim; d++)
            out[d] *= by;
    }
    return max;
}

/* One step for one tile of rows: p of n_groups groups, sums and maxima brought up to date. */
static INLINE TARGET_AMX void tile_softmax_body(const struct attend_run *run, struct attend_rows *rows, size_t tile,
                                                const struct key_group *groups, size_t n_groups, bool all_visible) {
    size_t first = tile * TILE_ROWS, n = rows->n - first < TILE_ROWS ? rows->n - first : TILE_ROWS;
    struct visible masks[TILE_ROWS];
    float partial[TILE_ROWS * 16] __attribute__((aligned(64))) = {0}, base[TILE_ROWS] __attribute__((aligned(64)));
    float scale = run->a->scale;
    if (run->a->softcap != 0 || scale <= 0) {
        logits_cap(rows->logit, n, n_groups * GROUP_KEYS, scale, run->a->softcap);
        scale = 1;
    }
    for (size_t r = 0; r < n; r++) {
        for (size_t i = 0; i < n_groups && !all_visible; i++)
            masks[r].group[i] = group_mask(&groups[i], run->window, attend_position(run, rows, first + r),
                                           attend_position(run, rows, first + r));
        row_max(rows->logit + r * STEP_KEYS, n_groups, all_visible ? NULL : &masks[r], partial + r * 16);
    }
    __m512 max = rows_shrink(rows, first, n, _mm512_mul_ps(rows_reduce(partial, false), _mm512_set1_ps(scale)));
    /* A row that has seen nothing yet: all its p are masked, but -inf - -inf must not appear. */
    __mmask16 seen = _mm512_cmp_ps_mask(max, _mm512_set1_ps(-INFINITY), _CMP_NEQ_UQ);
    _mm512_store_ps(base, _mm512_maskz_mul_ps(seen, max, _mm512_set1_ps(LOG2E)));
    for (size_t r = 0; r < n; r++)
        row_exp(rows->logit + r * STEP_KEYS, n_groups, all_visible ? NULL : &masks[r], _mm512_set1_ps(scale * LOG2E),
                _mm512_set1_ps(base[r]), rows->p + r * STEP_KEYS, partial + r * 16);
    _mm512_store_ps(rows->sum + first, _mm512_add_ps(_mm512_load_ps(rows->sum + first), rows_reduce(partial, true)));
}

static TARGET_AMX void tile_softmax(const struct attend_run *run, struct attend_rows *rows, size_t tile,
                                    const struct key_group *groups, size_t n_groups, bool all_visible) {
    if (all_visible && n_groups == STEP_GROUPS)
        tile_softmax_body(run, rows, tile, groups, STEP_GROUPS, true);
    else
        tile_softmax_body(run, rows, tile, groups, n_groups, false);
}

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

/* Fetches the keys and values of a group. Decoding has nothing else to wait for. */
static void group_fetch(const struct key_group *g, size_t dim, size_t slots) {
    for (size_t d = 0; d < dim / 2; d++) {
        __builtin_prefetch(g->k + d * slots * 4, 0, 2);
        __builtin_prefetch(g->k + d * slots * 4 + 64, 0, 2);
    }
    for (size_t i = 0; i < GROUP_KEYS * dim * 2; i += 64)
        __builtin_prefetch(g->v + i, 0, 2);
}

/* One step for one tile of rows. */
static TARGET_AMX void tile_step(const struct attend_run *run, struct attend_rows *rows, size_t tile, const struct shape *s,
                                 const struct key_group *groups, size_t n) {
    struct key_group seen[STEP_GROUPS];
    bool all;
    size_t dim = rows->head_dim, n_seen = attend_groups_seen(run, rows, tile, groups, n, seen, &all);
    float *out = rows->out + tile * TILE_ROWS * dim;
    if (n_seen == 0)
        return;
    tile_logits(s, (const uint16_t *)rows->q + tile * TILE_ROWS * dim, dim, run->shape.slots, seen, n_seen, rows->logit);
    tile_softmax(run, rows, tile, seen, n_seen, all);
    if (s->one_config) {
        tile_values_64(rows->p, dim, seen, n_seen, out);
    } else {
        tile_config_load(&s->values);
        tile_values(s, rows->p, dim, seen, n_seen, out);
        tile_config_load(&s->logits);
    }
}

TARGET_AMX void attend_rows_amx(const struct attend_run *run, struct attend_rows *rows, size_t begin, size_t end) {
    struct shape s = shape_of(rows);
    struct key_group groups[2][STEP_GROUPS];
    size_t n_next = 0;
    tile_config_load(&s.logits);
    for (size_t at = begin, step = 0; at < end; at += STEP_GROUPS, step++) {
        struct key_group *present = groups[step % 2], *next = groups[(step + 1) % 2];
        size_t n = n_next;
        if (at == begin)
            for (; n < STEP_GROUPS && at + n < end; n++)
                present[n] = attend_group(run, at + n);
        for (n_next = 0; n_next < STEP_GROUPS && at + STEP_GROUPS + n_next < end; n_next++) {
            next[n_next] = attend_group(run, at + STEP_GROUPS + n_next);
            if (rows->n_tiles == 1)
                group_fetch(&next[n_next], rows->head_dim, run->shape.slots);
        }
        for (size_t tile = 0; tile < rows->n_tiles; tile++)
            tile_step(run, rows, tile, &s, present, n);
    }
    _tile_release();
}

/* sum (n_groups * 32) = the weights of n_rows rows of one query, row r with p = 2^(logit[r] * scale - base[r]) */
static INLINE TARGET_AMX void query_masses(const float *logit, size_t n_rows, size_t n_groups, const struct visible *visible,
                                           __m512 scale, const float *max, float *sum) {
#pragma GCC unroll 4
    for (size_t i = 0; i < n_groups; i++) {
        __m512 a = _mm512_setzero_ps(), b = _mm512_setzero_ps();
        for (size_t r = 0; r < n_rows; r++) {
            const float *x = logit + r * STEP_KEYS + i * GROUP_KEYS;
            __m512 base = _mm512_set1_ps(max[r] * LOG2E);
            a = _mm512_add_ps(a, exp2_ps(_mm512_fmsub_ps(_mm512_load_ps(x), scale, base)));
            b = _mm512_add_ps(b, exp2_ps(_mm512_fmsub_ps(_mm512_load_ps(x + 16), scale, base)));
        }
        if (visible) {
            a = _mm512_maskz_mov_ps((__mmask16)visible->group[i], a);
            b = _mm512_maskz_mov_ps((__mmask16)(visible->group[i] >> 16), b);
        }
        _mm512_store_ps(sum + i * GROUP_KEYS, a);
        _mm512_store_ps(sum + i * GROUP_KEYS + 16, b);
    }
}

TARGET_AMX void attend_masses_amx(const struct attend_run *run, struct attend_rows *rows, size_t tile,
                                  const struct key_group *groups, size_t n_groups, bool all_visible, bool by_query) {
    struct shape s = shape_of(rows);
    size_t first = tile * TILE_ROWS, n = rows->n - first < TILE_ROWS ? rows->n - first : TILE_ROWS, n_rows;
    float scale = run->a->scale;
    tile_config_load(&s.logits);
    tile_logits(&s, (const uint16_t *)rows->q + first * rows->head_dim, rows->head_dim, run->shape.slots, groups, n_groups,
                rows->logit);
    _tile_release();
    if (run->a->softcap != 0) {
        logits_cap(rows->logit, n, n_groups * GROUP_KEYS, scale, run->a->softcap);
        scale = 1;
    }
    for (size_t r = 0; r < n; r += n_rows) {
        int t = attend_position(run, rows, first + r);
        float *logit = rows->logit + r * STEP_KEYS;
        struct visible visible;
        n_rows = by_query ? attend_query_rows(rows, first + r, first + n) : 1;
        for (size_t i = 0; i < n_groups && !all_visible; i++)
            visible.group[i] = group_mask(&groups[i], run->window, t, t);
        if (all_visible && n_groups == STEP_GROUPS)
            query_masses(logit, n_rows, STEP_GROUPS, NULL, _mm512_set1_ps(scale * LOG2E), rows->max + first + r, logit);
        else
            query_masses(logit, n_rows, n_groups, all_visible ? NULL : &visible, _mm512_set1_ps(scale * LOG2E),
                         rows->max + first + r, logit);
    }
}
#endif
