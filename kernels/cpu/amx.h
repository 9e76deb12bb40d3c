/* amx.h - tiles of AMX and the bf16 arithmetic around them. x86 only; functions need TARGET_AMX. */
#ifndef SPKV_KERNELS_CPU_AMX_H
#define SPKV_KERNELS_CPU_AMX_H

#include "kernels/cpu/isa.h"

#if ISA_X86
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

/* Operand of ldtilecfg (Intel's architecture manual, volume 2, LDTILECFG). */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t n_rows[16];
};

static inline struct tile_config tile_config_make(void) {
    return (struct tile_config){.palette = 1};
}

static inline void tile_config_set(struct tile_config *c, int tile, int n_rows, int row_bytes) {
    c->n_rows[tile] = (uint8_t)n_rows;
    c->row_bytes[tile] = (uint16_t)row_bytes;
}

/* Not _tile_loadconfig(): in gcc 12 that names 8 bytes of the operand only, and stores to the others get lost. */
static INLINE void tile_config_load(const struct tile_config *c) {
    __asm__ volatile("ldtilecfg %0" : : "m"(*c));
}

/* A quarter of a transposed 16 x 16 matrix of 32-bit elements: out[i] = column 4 * quarter + i of the rows at `in`. The
 * 128-bit loads with insertion leave the shuffle port half as much to do as whole rows would. */
static INLINE TARGET_AMX void transpose_quarter(const char *in, size_t stride, size_t quarter, __m512 out[4]) {
    __m512 r[4];
    in += quarter * 16;
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) { /* lane j of r[i]: row 4 j + i */
        r[i] = _mm512_castps128_ps512(_mm_loadu_ps((const float *)(const void *)(in + i * stride)));
        r[i] = _mm512_insertf32x4(r[i], _mm_loadu_ps((const float *)(const void *)(in + (i + 4) * stride)), 1);
        r[i] = _mm512_insertf32x4(r[i], _mm_loadu_ps((const float *)(const void *)(in + (i + 8) * stride)), 2);
        r[i] = _mm512_insertf32x4(r[i], _mm_loadu_ps((const float *)(const void *)(in + (i + 12) * stride)), 3);
    }
    __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(r[0], r[1]));
    __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(r[0], r[1]));
    __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(r[2], r[3]));
    __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(r[2], r[3]));
    out[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23));
    out[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23));
    out[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23));
    out[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23));
}

/* 2^x, error 1.5e-7 relative; 0 for -inf. Degree 5, minimax on [0, 1) for the fraction of x. */
static INLINE TARGET_AMX __m512 exp2_ps(__m512 x) {
    __m512 f = _mm512_reduce_ps(x, 0x09); /* x - floor(x); 0 for infinities */
    __m512 p = _mm512_set1_ps(0.0018775766948238015f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.00898933969438076f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.05582631751894951f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.24015361070632935f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6931530833244324f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.9999999403953552f));
    return _mm512_scalef_ps(p, x);
}

#endif
#endif
