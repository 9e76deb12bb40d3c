/* add_scaled.h - one row added to another, for sums over rows; a variant for each instruction set. */
#ifndef SPKV_KERNELS_CPU_ADD_SCALED_H
#define SPKV_KERNELS_CPU_ADD_SCALED_H

#include <stddef.h>

/* sum (n) += scale * x (n); by enum isa. */
extern void (*const add_scaled_table[])(float *sum, const float *x, float scale, size_t n);

#endif
