#include "kernels/cpu/add_scaled.h"

#include "kernels/cpu/vmath.h"

static INLINE void add_scaled_body(float *sum, const float *x, float scale, size_t n, enum isa isa) {
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        sum[i] = madd(scale, x[i], sum[i], isa);
}

static void add_scaled_scalar(float *sum, const float *x, float scale, size_t n) {
    add_scaled_body(sum, x, scale, n, ISA_SCALAR);
}

#if ISA_X86
static TARGET_AVX2 void add_scaled_avx2(float *sum, const float *x, float scale, size_t n) {
    add_scaled_body(sum, x, scale, n, ISA_AVX2);
}

static TARGET_AVX512 void add_scaled_avx512(float *sum, const float *x, float scale, size_t n) {
    add_scaled_body(sum, x, scale, n, ISA_AVX512);
}
#endif

void (*const add_scaled_table[])(float *, const float *, float, size_t) = ISA_TABLE(add_scaled);
