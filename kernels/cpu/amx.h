/* amx.h - tiles of AMX and the bf16 arithmetic around them. x86 only; functions need TARGET_AMX. */
#ifndef SPKV_KERNELS_CPU_AMX_H
#define SPKV_KERNELS_CPU_AMX_H

#include "kernels/cpu/isa.h"

#if ISA_X86
#include <immintrin.h>
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
