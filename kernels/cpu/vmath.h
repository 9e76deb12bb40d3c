/* vmath.h - elementary functions of f32 without branches, so that `#pragma omp simd` loops over them vectorise on every
 * instruction set. NaN stays NaN; infinities behave as in libm. */
#ifndef SPKV_KERNELS_CPU_VMATH_H
#define SPKV_KERNELS_CPU_VMATH_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/isa.h"

static INLINE uint32_t f32_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static INLINE float f32_from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* As f32_to_bf16() of kernels/dtype.h, with a selection for the branch. */
static INLINE uint16_t bf16_round(float x) {
    uint32_t bits = f32_bits(x), rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    return (uint16_t)((bits & 0x7FFFFFFFu) > 0x7F800000u ? (bits >> 16 | 0x40) : rounded);
}

/* As f16_to_f32() of kernels/dtype.h. Subnormals come out of a multiplication by 2^112; infinities and NaN get the top
 * exponent put back. */
static INLINE float f16_widen(uint16_t bits) {
    uint32_t magnitude = (uint32_t)(bits & 0x7FFF) << 13, sign = (uint32_t)(bits & 0x8000) << 16;
    float scaled = f32_from_bits(magnitude) * 0x1p112f;
    uint32_t wide = magnitude >= 0x0F800000u ? magnitude | 0x7F800000u : f32_bits(scaled);
    return f32_from_bits(wide | sign);
}

/* The largest of `max` and x; a NaN is never it. Lanes of its own: a reduction over max is scalar code where NaN and the sign
 * of 0 count. */
static INLINE float max_f32(const float *x, size_t n, float max) {
    float lane_max[16];
    for (size_t i = 0; i < 16; i++)
        lane_max[i] = max;
    for (size_t j = 0; j + 16 <= n; j += 16) {
#pragma omp simd
        for (size_t i = 0; i < 16; i++)
            lane_max[i] = x[j + i] > lane_max[i] ? x[j + i] : lane_max[i];
    }
    for (size_t i = 0; i < 16; i++)
        max = lane_max[i] > max ? lane_max[i] : max;
    for (size_t j = n / 16 * 16; j < n; j++)
        max = x[j] > max ? x[j] : max;
    return max;
}

/* e^x, at most 2 ulp off: x = n ln 2 + r, |r| <= ln 2 / 2, a minimax polynomial of e^r (coefficients of Cephes expf), and
 * a scaling in two steps so that subnormal and overflowing results are right. */
static INLINE float exp_f32(float x, enum isa isa) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer that stands in the low bits */
    float clamped = x < -104.0f ? -104.0f : x;
    clamped = clamped > 89.0f ? 89.0f : clamped;
    float shifted = madd(clamped, 1.44269504088896341f, magic, isa), n = shifted - magic;
    float r = madd(n, -0.693359375f, clamped, isa);
    r = madd(n, 2.12194440e-4f, r, isa);
    float p = 1.9875691500e-4f;
    p = madd(p, r, 1.3981999507e-3f, isa);
    p = madd(p, r, 8.3334519073e-3f, isa);
    p = madd(p, r, 4.1665795894e-2f, isa);
    p = madd(p, r, 1.6666665459e-1f, isa);
    p = madd(p, r, 5.0000001201e-1f, isa);
    p = madd(p * r, r, r, isa) + 1.0f;
    int32_t exponent = (int32_t)(f32_bits(shifted) - f32_bits(magic)), half = exponent >> 1;
    float low = f32_from_bits((uint32_t)(half + 127) << 23), high = f32_from_bits((uint32_t)(exponent - half + 127) << 23);
    return p * low * high;
}

/* tanh x = 1 - 2 / (e^2x + 1); near 0, where that cancels, the odd polynomial of Cephes tanhf. */
static INLINE float tanh_f32(float x, enum isa isa) {
    float square = x * x, p = -5.70498872745e-3f;
    p = madd(p, square, 2.06390887954e-2f, isa);
    p = madd(p, square, -5.37397155531e-2f, isa);
    p = madd(p, square, 1.33314422036e-1f, isa);
    p = madd(p, square, -3.33332819422e-1f, isa);
    float small = madd(p * square, x, x, isa), large = 1.0f - 2.0f / (exp_f32(2.0f * x, isa) + 1.0f);
    return square < 0.390625f ? small : large; /* |x| < 0.625 */
}

static INLINE float silu_f32(float x, enum isa isa) {
    return x / (1.0f + exp_f32(-x, isa));
}

static INLINE float sigmoid_f32(float x, enum isa isa) {
    return 1.0f / (1.0f + exp_f32(-x, isa));
}

/* arXiv 1606.08415, section 2 */
static INLINE float gelu_tanh_f32(float x, enum isa isa) {
    float inner = 0.797884560802865356f * madd(0.044715f * x * x, x, x, isa);
    return 0.5f * x * (1.0f + tanh_f32(inner, isa));
}

/* The derivatives. */
static INLINE float silu_slope_f32(float x, enum isa isa) {
    float s = sigmoid_f32(x, isa);
    return s * (1.0f + x * (1.0f - s));
}

static INLINE float gelu_tanh_slope_f32(float x, enum isa isa) {
    float t = tanh_f32(0.797884560802865356f * madd(0.044715f * x * x, x, x, isa), isa);
    float inner_slope = 0.797884560802865356f * madd(0.134145f * x, x, 1.0f, isa);
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner_slope;
}

/* The exact GELU does not vectorise: it calls erff(). */
static INLINE float gelu_f32(float x) {
    return 0.5f * x * (1.0f + erff(x * 0.707106781186547524f));
}

static INLINE float gelu_slope_f32(float x) {
    return 0.5f * (1.0f + erff(x * 0.707106781186547524f)) + x * 0.398942280401432678f * expf(-0.5f * x * x);
}

static INLINE float softcap_f32(float logit, float cap, enum isa isa) {
    return cap * tanh_f32(logit / cap, isa);
}

#endif
