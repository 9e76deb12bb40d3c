/* What can be done with a mapped tensor, whatever file it came from. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "engine/safetensors.h"

void tensor_format_shape(const struct tensor *tensor, char *out, size_t n) {
    size_t used = 0;
    snprintf(out, n, "scalar");
    for (int i = 0; i < tensor->n_dims && used < n; i++)
        used += (size_t)snprintf(out + used, n - used, "%s%zu", i ? "x" : "", tensor->shape[i]);
}

/* NaN and infinity have an exponent of ones. Adding the lowest exponent bit to the masked exponent carries into the sign bit
 * exactly then, so that a block is tested with and, add and or. */
static uint32_t bad_bits_32(const char *data, size_t n) {
    uint32_t bad = 0;
#pragma omp simd reduction(| : bad)
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, data + 4 * i, 4);
        bad |= (bits & 0x7F800000u) + 0x00800000u;
    }
    return bad >> 31;
}

static uint32_t bad_bits_16(const char *data, size_t n, uint16_t exponent, uint16_t lowest) {
    uint16_t bad = 0;
#pragma omp simd reduction(| : bad)
    for (size_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, data + 2 * i, 2);
        bad |= (uint16_t)((bits & exponent) + lowest);
    }
    return bad >> 15;
}

static bool block_is_finite(const char *data, enum dtype dtype, size_t n) {
    if (dtype == DTYPE_F32)
        return !bad_bits_32(data, n);
    return !(dtype == DTYPE_BF16 ? bad_bits_16(data, n, 0x7F80, 0x0080) : bad_bits_16(data, n, 0x7C00, 0x0400));
}

int tensor_check_finite(const struct tensor *tensor, struct err *err) {
    enum { BLOCK = 8192 };
    size_t width = dtype_size(tensor->dtype), n = tensor->n_items;
    const char *data = tensor->data;
    for (size_t begin = 0; begin < n; begin += BLOCK) {
        size_t i = begin, end = n - begin < BLOCK ? n : begin + BLOCK;
        if (block_is_finite(data + begin * width, tensor->dtype, end - begin))
            continue;
        while (block_is_finite(data + i * width, tensor->dtype, 1))
            i++;
        return err_set(err, ERR_INPUT, tensor->file,
                       "tensor %s holds %f at element %zu of %zu: the weights are damaged or training diverged, use another "
                       "checkpoint", tensor->name, dtype_load(data, tensor->dtype, i), i, n);
    }
    return OK;
}

void tensor_to_f32(const struct tensor *tensor, float *out) {
    if (tensor->dtype == DTYPE_F32)
        memcpy(out, tensor->data, tensor->n_items * 4);
    else
        for (size_t i = 0; i < tensor->n_items; i++)
            out[i] = (float)dtype_load(tensor->data, tensor->dtype, i);
}
