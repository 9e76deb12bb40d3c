/* loss_amx.h - log-sum-exp over blocks of logits that come out of AMX products as tiles of 16 outputs x 16 rows: lanes are
 * rows, so maxima and sums need no exchange between lanes. Included by gemm_amx.c only. */
#ifndef SPKV_KERNELS_CPU_LOSS_AMX_H
#define SPKV_KERNELS_CPU_LOSS_AMX_H

#include <math.h>

#include "kernels/cpu/amx.h"

/* Per row of a part of the outputs: largest logit, sum of exp(logit - max), the target's logit (NaN until met), the largest
 * logit of the part below the target's id. */
struct losses {
    float *max, *sum, *target_logit, *below; /* multiples of 32 rows, 64-byte aligned */
    const int32_t *target;                   /* the same; -1 = none */
};

static const float LOSS_LOG2E = 1.44269504088896341f;

/* max and sum of 16 rows from `row` on take in n_out <= 32 logits per row, in two tiles; the exponentials follow. */
static INLINE TARGET_AMX void loss_maximum(const struct losses *l, size_t row, const float *tile0, const float *tile1,
                                           size_t n_out) {
    __m512 old = _mm512_load_ps(l->max + row), max = old;
    for (size_t o = 0; o < n_out; o++)
        max = _mm512_max_ps(_mm512_load_ps(o < 16 ? tile0 + o * 16 : tile1 + (o - 16) * 16), max);
    __mmask16 known = _mm512_cmp_ps_mask(old, max, _CMP_NEQ_UQ); /* -inf - -inf must not appear */
    __m512 shrink = exp2_ps(_mm512_mul_ps(_mm512_maskz_sub_ps(known, old, max), _mm512_set1_ps(LOSS_LOG2E)));
    shrink = _mm512_mask_mov_ps(_mm512_set1_ps(1), known, shrink);
    _mm512_store_ps(l->sum + row, _mm512_mul_ps(_mm512_load_ps(l->sum + row), shrink));
    _mm512_store_ps(l->max + row, max);
}

/* sum += exp(logit - max) over n rows of a tile */
static INLINE TARGET_AMX void loss_exponentials(const struct losses *l, size_t row, const float *tile, size_t n) {
    __m512 max = _mm512_load_ps(l->max + row), log2e = _mm512_set1_ps(LOSS_LOG2E);
    __mmask16 finite = _mm512_cmp_ps_mask(max, _mm512_set1_ps(-INFINITY), _CMP_NEQ_UQ);
    __m512 base = _mm512_maskz_mul_ps(finite, max, log2e), sum = _mm512_load_ps(l->sum + row);
    for (size_t o = 0; o < n; o++)
        sum = _mm512_add_ps(sum, exp2_ps(_mm512_fmsub_ps(_mm512_load_ps(tile + o * 16), log2e, base)));
    _mm512_store_ps(l->sum + row, sum);
}

/* Keeps the logits of the rows whose target is one of the 32 outputs from `output` on, and what lies below them; max is
 * still that of the outputs before. */
static INLINE TARGET_AMX void loss_targets(const struct losses *l, size_t row, const float *tile0, const float *tile1,
                                           size_t output, size_t n_out) {
    __m512i at = _mm512_sub_epi32(_mm512_load_si512((const void *)(l->target + row)), _mm512_set1_epi32((int)output));
    for (unsigned met = _mm512_cmplt_epu32_mask(at, _mm512_set1_epi32((int)n_out)); met; met &= met - 1) {
        size_t r = (size_t)__builtin_ctz(met), o = (size_t)l->target[row + r] - output;
        float below = l->max[row + r];
        for (size_t i = 0; i < o; i++) {
            float logit = i < 16 ? tile0[i * 16 + r] : tile1[(i - 16) * 16 + r];
            below = logit > below ? logit : below;
        }
        l->target_logit[row + r] = o < 16 ? tile0[o * 16 + r] : tile1[(o - 16) * 16 + r];
        l->below[row + r] = below;
    }
}

enum { LOSS_PIECES = 12 };

/* Piece `piece` of 32 outputs x 32 rows in the tile order of struct results. */
static INLINE TARGET_AMX void loss_piece(const struct losses *l, size_t piece, const float *tiles, size_t row, size_t output,
                                         size_t n_out) {
    size_t half = piece / 6, step = piece % 6;
    const float *tile0 = tiles + half * 256, *tile1 = tiles + (2 + half) * 256;
    row += half * 16;
    n_out = n_out < 32 ? n_out : 32;
    if (step == 0)
        loss_targets(l, row, tile0, tile1, output, n_out);
    else if (step == 1)
        loss_maximum(l, row, tile0, tile1, n_out);
    else if (n_out == 32)
        loss_exponentials(l, row, (step <= 3 ? tile0 : tile1) + step % 2 * 128, 8);
    else if ((step - 2) * 8 < n_out)
        loss_exponentials(l, row, (step <= 3 ? tile0 : tile1) + step % 2 * 128,
                          n_out - (step - 2) * 8 < 8 ? n_out - (step - 2) * 8 : 8);
}

#endif
