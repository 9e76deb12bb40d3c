/* dtype.h - element types and their conversions. */
#ifndef SPKV_KERNELS_DTYPE_H
#define SPKV_KERNELS_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_F64 };

static inline size_t dtype_size(enum dtype dtype) {
    return dtype == DTYPE_F64 ? 8 : dtype == DTYPE_F32 ? 4 : 2;
}

static inline const char *dtype_name(enum dtype dtype) {
    static const char *const names[] = {"f32", "bf16", "f16", "f64"};
    return names[dtype];
}

static inline float bf16_to_f32(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t f32_to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static inline float f16_to_f32(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023, wide;
    float value;
    if (exponent == 0) { /* zero and subnormals are exact in f32 */
        value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    wide = sign | (exponent == 31 ? 0x7F800000u : (exponent + 112) << 23) | fraction << 13;
    memcpy(&value, &wide, 4);
    return value;
}

/* Element i of an array of any dtype whose address need not be aligned. */
static inline double dtype_load(const void *data, enum dtype dtype, size_t i) {
    const char *p = (const char *)data + i * dtype_size(dtype);
    uint16_t half;
    float single;
    double wide;
    if (dtype == DTYPE_F64)
        return memcpy(&wide, p, 8), wide;
    if (dtype == DTYPE_F32)
        return memcpy(&single, p, 4), (double)single;
    memcpy(&half, p, 2);
    return (double)(dtype == DTYPE_BF16 ? bf16_to_f32(half) : f16_to_f32(half));
}

static inline void dtype_store(void *data, enum dtype dtype, size_t i, double value) {
    char *p = (char *)data + i * dtype_size(dtype);
    float single = (float)value;
    uint16_t half = f32_to_bf16(single);
    if (dtype == DTYPE_F64)
        memcpy(p, &value, 8);
    else if (dtype == DTYPE_F32)
        memcpy(p, &single, 4);
    else /* f16 is never written */
        memcpy(p, &half, 2);
}

#endif
