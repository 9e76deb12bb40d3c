/* Attention in bf16 with AMX: q K^T and p V are tile products whose B operands lie ready in the pages; the running softmax
 * between them works on rows of 128 logits. */
#include "kernels/cpu/attend.h"

#if ISA_X86
#include <math.h>
#include <string.h>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/vmath.h"

/* Tiles 0-3 accumulate, 4 holds rows of q or p, 5 keys; 6 and 7 are the accumulator and B operand of values. */
struct shape {
    size_t q_step;  /* dimensions of a key per product, at most 32, divides head_dim */
    size_t v_cols;  /* dimensions of a value per product, at most 16, divides head_dim */
    size_t tile_rows;
};

static size_t largest_divisor(size_t n, size_t at_most, size_t multiple_of) {
    size_t d = at_most;
    while (n % d || d % multiple_of)
        d--;
    return d;
}

static struct shape shape_of(const struct attend_rows *rows) {
    return (struct shape){largest_divisor(rows->head_dim, 32, 2), largest_divisor(rows->head_dim, 16, 1),
                          rows->n < TILE_ROWS ? rows->n : TILE_ROWS};
}

/* The shape of every tile while logits are computed, and while values are summed. */
static struct tile_config config_logits(const struct shape *s) {
    struct tile_config c = tile_config_make();
    for (int i = 0; i < 4; i++)
        tile_config_set(&c, i, (int)s->tile_rows, 64);
    tile_config_set(&c, 4, (int)s->tile_rows, (int)s->q_step * 2);
    tile_config_set(&c, 5, (int)s->q_step / 2, 64);
    return c;
}

static struct tile_config config_values(const struct shape *s) {
    struct tile_config c = tile_config_make();
    for (int i = 0; i < 4; i++)
        tile_config_set(&c, i, (int)s->tile_rows, (int)s->v_cols * 4);
    tile_config_set(&c, 4, (int)s->tile_rows, 64);
    tile_config_set(&c, 5, 16, (int)s->v_cols * 4);
    return c;
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

static INLINE TARGET_AMX float row_max(const float *logit, size_t n_groups, const uint32_t *visible) {
    __m512 max = _mm512_set1_ps(-INFINITY);
    for (size_t i = 0; i < n_groups; i++) {
        max = _mm512_mask_max_ps(max, (__mmask16)visible[i], _mm512_load_ps(logit + i * 32), max);
        max = _mm512_mask_max_ps(max, (__mmask16)(visible[i] >> 16), _mm512_load_ps(logit + i * 32 + 16), max);
    }
    return _mm512_reduce_max_ps(max);
}

/* p = 2^(logit * scale - base) in bf16, 0 where not visible; returns the sum before rounding. */
static INLINE TARGET_AMX float row_exp(const float *logit, size_t n_groups, const uint32_t *visible, float scale, float base,
                                       uint16_t *p) {
    __m512 sum = _mm512_setzero_ps(), vscale = _mm512_set1_ps(scale), vbase = _mm512_set1_ps(base);
    for (size_t i = 0; i < n_groups; i++) {
        __m512 a = exp2_ps(_mm512_fmsub_ps(_mm512_load_ps(logit + i * 32), vscale, vbase));
        __m512 b = exp2_ps(_mm512_fmsub_ps(_mm512_load_ps(logit + i * 32 + 16), vscale, vbase));
        a = _mm512_maskz_mov_ps((__mmask16)visible[i], a);
        b = _mm512_maskz_mov_ps((__mmask16)(visible[i] >> 16), b);
        sum = _mm512_add_ps(sum, _mm512_add_ps(a, b));
        _mm512_store_si512((void *)(p + i * 32), (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
    return _mm512_reduce_add_ps(sum);
}

/* One step for one tile of rows: p of n_groups groups, sums and maxima brought up to date. */
static INLINE TARGET_AMX void tile_softmax(const struct attend_run *run, struct attend_rows *rows, size_t tile,
                                           const struct key_group *groups, size_t n_groups, bool all_visible) {
    const float log2e = 1.44269504088896341f;
    size_t first = tile * TILE_ROWS, n = rows->n - first < TILE_ROWS ? rows->n - first : TILE_ROWS;
    float scale = run->a->scale;
    if (run->a->softcap != 0 || scale <= 0) {
        logits_cap(rows->logit, n, n_groups * GROUP_KEYS, scale, run->a->softcap);
        scale = 1;
    }
    for (size_t r = 0; r < n; r++) {
        int t = attend_position(run, rows, first + r);
        const float *logit = rows->logit + r * STEP_KEYS;
        float *max = &rows->max[first + r], *sum = &rows->sum[first + r];
        uint32_t visible[STEP_GROUPS] = {~0u, ~0u, ~0u, ~0u};
        for (size_t i = 0; i < n_groups && !all_visible; i++)
            visible[i] = group_mask(&groups[i], run->window, t, t);
        float new_max = row_max(logit, n_groups, visible) * scale;
        if (new_max > *max) {
            float shrink = exp_f32(*max - new_max, ISA_AVX512), *out = rows->out + (first + r) * rows->head_dim;
#pragma omp simd
            for (size_t d = 0; d < rows->head_dim; d++)
                out[d] *= shrink;
            *sum *= shrink;
            *max = new_max;
        }
        float base = *max == -INFINITY ? 0 : *max * log2e;
        *sum += row_exp(logit, n_groups, visible, scale * log2e, base, rows->p + r * STEP_KEYS);
    }
}

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

TARGET_AMX void attend_rows_amx(const struct attend_run *run, struct attend_rows *rows, size_t begin, size_t end) {
    struct shape s = shape_of(rows);
    struct tile_config logits = config_logits(&s), values = config_values(&s);
    size_t dim = rows->head_dim, slots = run->shape.slots;
    bool plain = dim % 64 == 0; /* one configuration serves both products */
    tile_config_load(&logits);
    for (size_t at = begin; at < end; at += STEP_GROUPS) {
        struct key_group groups[STEP_GROUPS], seen[STEP_GROUPS];
        size_t n = end - at < STEP_GROUPS ? end - at : STEP_GROUPS;
        for (size_t i = 0; i < n; i++)
            groups[i] = attend_group(run, at + i);
        for (size_t tile = 0; tile < rows->n_tiles; tile++) {
            bool all;
            size_t n_seen = attend_groups_seen(run, rows, tile, groups, n, seen, &all);
            if (n_seen == 0)
                continue;
            tile_logits(&s, (const uint16_t *)rows->q + tile * TILE_ROWS * dim, dim, slots, seen, n_seen, rows->logit);
            tile_softmax(run, rows, tile, seen, n_seen, all);
            if (plain) {
                tile_values_64(rows->p, dim, seen, n_seen, rows->out + tile * TILE_ROWS * dim);
            } else {
                tile_config_load(&values);
                tile_values(&s, rows->p, dim, seen, n_seen, rows->out + tile * TILE_ROWS * dim);
                tile_config_load(&logits);
            }
        }
    }
    _tile_release();
}

TARGET_AMX void attend_masses_amx(const struct attend_run *run, struct attend_rows *rows, size_t tile,
                                  const struct key_group *groups, size_t n_groups) {
    const float log2e = 1.44269504088896341f;
    struct shape s = shape_of(rows);
    struct tile_config config = config_logits(&s);
    size_t first = tile * TILE_ROWS, n = rows->n - first < TILE_ROWS ? rows->n - first : TILE_ROWS;
    float scale = run->a->scale;
    tile_config_load(&config);
    tile_logits(&s, (const uint16_t *)rows->q + first * rows->head_dim, rows->head_dim, run->shape.slots, groups, n_groups,
                rows->logit);
    _tile_release();
    if (run->a->softcap != 0) {
        logits_cap(rows->logit, n, n_groups * GROUP_KEYS, scale, run->a->softcap);
        scale = 1;
    }
    for (size_t r = 0; r < n; r++) {
        int t = attend_position(run, rows, first + r);
        __m512 vscale = _mm512_set1_ps(scale * log2e), base = _mm512_set1_ps(rows->max[first + r] * log2e);
        for (size_t i = 0; i < n_groups; i++) {
            float *x = rows->logit + r * STEP_KEYS + i * GROUP_KEYS;
            uint32_t visible = group_mask(&groups[i], run->window, t, t);
            __m512 a = exp2_ps(_mm512_fmsub_ps(_mm512_load_ps(x), vscale, base));
            __m512 b = exp2_ps(_mm512_fmsub_ps(_mm512_load_ps(x + 16), vscale, base));
            _mm512_store_ps(x, _mm512_maskz_mov_ps((__mmask16)visible, a));
            _mm512_store_ps(x + 16, _mm512_maskz_mov_ps((__mmask16)(visible >> 16), b));
        }
    }
}
#endif
