/* Weights: kept where they are when the stored bytes serve, copied or converted once when they do not. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/cpu/device.h"
#include "kernels/cpu/vmath.h"

/* The dtype in which a weight is kept. f32 devices widen bf16 and f16 while reading; a bf16 device multiplies bf16. */
static enum dtype kept_dtype(const struct device *dev, enum dtype stored, enum weight_use use) {
    if (use == WEIGHT_COMPUTE)
        return dev->dtype == DTYPE_BF16 ? DTYPE_BF16 : stored == DTYPE_F64 ? DTYPE_F32 : stored;
    return DTYPE_F32;
}

static void convert(const void *from, enum dtype stored, void *to, enum dtype kept, size_t begin, size_t end) {
    if (stored == kept) {
        size_t size = dtype_size(kept);
        memcpy((char *)to + begin * size, (const char *)from + begin * size, (end - begin) * size);
        return;
    }
    for (size_t i = begin; i < end; i++)
        dtype_store(to, kept, i, dtype_load(from, stored, i));
}

int cpu_weight_prepare(struct device *dev, const struct host_matrix *matrix, enum weight_use use, struct weight **out,
                       bool *borrowed, struct err *err) {
    enum dtype kept = kept_dtype(dev, matrix->dtype, use);
    size_t n, n_bytes, size = dtype_size(kept);
    struct weight *w = mem_alloc(1, sizeof *w, "a weight", err);
    if (!w)
        return ERR_MEMORY;
    *w = (struct weight){matrix->data, kept, matrix->n_rows, matrix->n_cols, NULL};
    *borrowed = kept == matrix->dtype && (uintptr_t)matrix->data % size == 0;
    if (!*borrowed) {
        if (!size_mul(matrix->n_rows, matrix->n_cols, &n) || !size_mul(n, size, &n_bytes) ||
            posix_memalign(&w->owned, 64, n_bytes ? n_bytes : 1)) {
            free(w);
            return err_memory(err, "a weight", SIZE_MAX);
        }
        w->data = w->owned;
#pragma omp parallel num_threads(threads_for_bytes(dev, n_bytes))
        {
            struct range part = thread_range(n);
            convert(matrix->data, matrix->dtype, w->owned, kept, part.begin, part.end);
        }
    }
    *out = w;
    return OK;
}

int cpu_weight_make(struct device *dev, const float *master, size_t n_rows, size_t n_cols, enum weight_use use,
                    struct weight **out, struct err *err) {
    struct weight *w;
    (void)use;
    if (!device_trains(dev))
        return err_set(err, dev->err.code, dev->err.where, "%s", dev->err.message);
    if (!(w = mem_alloc(1, sizeof *w, "a weight", err)))
        return ERR_MEMORY;
    *w = (struct weight){master, DTYPE_F32, n_rows, n_cols, NULL};
    *out = w;
    return OK;
}

/* The handle reads the master. */
void cpu_weight_refresh(struct device *dev, struct weight *w) {
    (void)dev;
    (void)w;
}

void cpu_weight_free(struct device *dev, struct weight *w) {
    (void)dev;
    if (w)
        free(w->owned);
    free(w);
}

size_t cpu_weight_bytes(const struct weight *w) {
    return w->n_rows * w->n_cols * dtype_size(w->dtype);
}

/* ---- conversions ------------------------------------------------------------------------------------------------------ */

static INLINE void widen_body(const void *from, enum dtype dtype, size_t n, float *out) {
    const uint16_t *half = from;
    if (dtype == DTYPE_F32) {
        memcpy(out, from, n * sizeof *out);
    } else if (dtype == DTYPE_BF16) {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            out[i] = f32_from_bits((uint32_t)half[i] << 16);
    } else {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            out[i] = f16_widen(half[i]);
    }
}

static void widen_scalar(const void *from, enum dtype dtype, size_t n, float *out) {
    widen_body(from, dtype, n, out);
}

#if ISA_X86
static TARGET_AVX2 void widen_avx2(const void *from, enum dtype dtype, size_t n, float *out) {
    widen_body(from, dtype, n, out);
}

static TARGET_AVX512 void widen_avx512(const void *from, enum dtype dtype, size_t n, float *out) {
    widen_body(from, dtype, n, out);
}
#endif

static void (*const widen_table[])(const void *, enum dtype, size_t, float *) = ISA_TABLE(widen);

void device_widen(const struct device *dev, const void *from, enum dtype dtype, size_t n, float *out) {
    widen_table[dev->isa](from, dtype, n, out);
}

static INLINE void store_act_body(const float *x, float scale, size_t n, enum dtype dtype, void *out) {
    uint16_t *half = out;
    float *wide = out;
    if (dtype == DTYPE_F32) {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            wide[i] = x[i] * scale;
    } else {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            half[i] = bf16_round(x[i] * scale);
    }
}

static void store_act_scalar(const float *x, float scale, size_t n, enum dtype dtype, void *out) {
    store_act_body(x, scale, n, dtype, out);
}

#if ISA_X86
static TARGET_AVX2 void store_act_avx2(const float *x, float scale, size_t n, enum dtype dtype, void *out) {
    store_act_body(x, scale, n, dtype, out);
}

static TARGET_AVX512 void store_act_avx512(const float *x, float scale, size_t n, enum dtype dtype, void *out) {
    store_act_body(x, scale, n, dtype, out);
}
#endif

void device_store_act(const struct device *dev, const float *x, float scale, size_t n, void *out) {
    static void (*const table[])(const float *, float, size_t, enum dtype, void *) = ISA_TABLE(store_act);
    table[dev->isa](x, scale, n, dev->dtype, out);
}

const void *weight_row(const struct weight *w, size_t row) {
    return (const char *)w->data + row * w->n_cols * dtype_size(w->dtype);
}

const float *weight_rows_f32(struct device *dev, const struct weight *w, size_t begin, size_t end) {
    size_t n = (end - begin) * w->n_cols;
    const char *from = weight_row(w, begin);
    float *out;
    if (w->dtype == DTYPE_F32)
        return weight_row(w, begin);
    if (!(out = device_scratch(dev, SCRATCH_WEIGHT, n * sizeof *out)))
        return NULL;
#pragma omp parallel num_threads(threads_for_bytes(dev, n * sizeof *out))
    {
        struct range part = thread_range(n);
        device_widen(dev, from + part.begin * dtype_size(w->dtype), w->dtype, part.end - part.begin, out + part.begin);
    }
    return out;
}
