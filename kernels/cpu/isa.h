/* isa.h - instruction sets of the CPU backend, chosen once when a device is opened.
 *
 * A kernel is one `INLINE` body of plain loops, compiled through wrappers that carry a target attribute:
 *
 *     static INLINE void add_body(float *x, const float *y, size_t n) { ... #pragma omp simd ... }
 *     static void add_scalar(float *x, const float *y, size_t n) { add_body(x, y, n); }
 *     static TARGET_AVX2 void add_avx2(float *x, const float *y, size_t n) { add_body(x, y, n); }
 *     static TARGET_AVX512 void add_avx512(float *x, const float *y, size_t n) { add_body(x, y, n); }
 *     static void (*const add_table[])(float *, const float *, size_t) = ISA_TABLE(add);
 *
 * and called as add_table[dev->isa](...). AMX machines run the AVX-512 wrapper of every kernel that has no tiles. */
#ifndef SPKV_KERNELS_CPU_ISA_H
#define SPKV_KERNELS_CPU_ISA_H

enum isa { ISA_SCALAR, ISA_AVX2, ISA_AVX512, ISA_AMX };

#define INLINE inline __attribute__((always_inline))

#if defined(__x86_64__)
#define ISA_X86 1
#define TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")))
#define TARGET_AMX \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma,f16c,amx-tile,amx-bf16," \
                          "prfchw,prefer-vector-width=512")))
#define ISA_TABLE(kernel) {kernel##_scalar, kernel##_avx2, kernel##_avx512, kernel##_avx512}
#else
#define ISA_X86 0
#define TARGET_AVX2
#define TARGET_AVX512
#define ISA_TABLE(kernel) {kernel##_scalar, kernel##_scalar, kernel##_scalar, kernel##_scalar}
#endif

/* a * b + c; fused where the instruction set has it, because a library call would be slower than two operations. */
static INLINE float madd(float a, float b, float c, enum isa isa) {
    return isa == ISA_SCALAR ? a * b + c : __builtin_fmaf(a, b, c);
}

#endif
