/* Ops that pass over memory once: norms, rotations, activations, moves. Each kernel works on a range of rows or elements;
 * the op splits the range over threads. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/device.h"
#include "kernels/cpu/vmath.h"

/* ---- rmsnorm ------------------------------------------------------------------------------------------------------- */

static INLINE void norm_group(const struct rmsnorm_args *a, float *x, const float *add, float *out_f32, void *out_act,
                              enum dtype dtype, enum isa isa) {
    size_t n = a->n_cols;
    const float *weight = a->weight;
    float sum = 0, one = a->plus_one ? 1.0f : 0.0f;
    if (add) {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            x[i] += add[i];
    }
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++)
        sum = madd(x[i], x[i], sum, isa);
    float scale = 1.0f / sqrtf(sum / (float)n + a->eps);
    if (out_act && dtype == DTYPE_BF16) {
        uint16_t *out = out_act;
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            out[i] = bf16_round(x[i] * scale * (weight[i] + one));
    } else if (out_act) {
        float *out = out_act;
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            out[i] = x[i] * scale * (weight[i] + one);
    }
    if (out_f32) { /* last: it may be x */
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            out_f32[i] = x[i] * scale * (weight[i] + one);
    }
}

static INLINE void rmsnorm_body(const struct rmsnorm_args *a, enum dtype dtype, struct range rows, enum isa isa) {
    for (size_t r = rows.begin; r < rows.end; r++)
        for (size_t g = 0; g < a->n_groups; g++) {
            size_t at = r * a->ld_x + g * a->n_cols, at_act = (r * a->n_groups + g) * a->n_cols;
            norm_group(a, a->x + at, a->add ? a->add + at : NULL, a->out_f32 ? a->out_f32 + at : NULL,
                       a->out_act ? (char *)a->out_act + at_act * dtype_size(dtype) : NULL, dtype, isa);
        }
}

static void rmsnorm_scalar(const struct rmsnorm_args *a, enum dtype dtype, struct range rows) {
    rmsnorm_body(a, dtype, rows, ISA_SCALAR);
}

#if ISA_X86
static TARGET_AVX2 void rmsnorm_avx2(const struct rmsnorm_args *a, enum dtype dtype, struct range rows) {
    rmsnorm_body(a, dtype, rows, ISA_AVX2);
}

static TARGET_AVX512 void rmsnorm_avx512(const struct rmsnorm_args *a, enum dtype dtype, struct range rows) {
    rmsnorm_body(a, dtype, rows, ISA_AVX512);
}
#endif

void cpu_rmsnorm(struct device *dev, const struct rmsnorm_args *a) {
    static void (*const table[])(const struct rmsnorm_args *, enum dtype, struct range) = ISA_TABLE(rmsnorm);
    ASSERT(a->ld_x >= a->n_groups * a->n_cols && !(a->add && a->out_f32 == a->x));
    if (device_failed(dev))
        return;
#pragma omp parallel num_threads(threads_for_bytes(dev, a->n_rows * a->n_groups * a->n_cols * 8))
    table[dev->isa](a, dev->dtype, thread_range(a->n_rows));
}

/* ---- rope ---------------------------------------------------------------------------------------------------------- */

static INLINE void rope_body(const struct rope_args *a, struct range rows, enum isa isa) {
    size_t half = a->head_dim / 2;
    float turn = a->inverse ? -1 : 1;
    for (size_t r = rows.begin; r < rows.end; r++) {
        const float *cosine = a->table + (size_t)a->pos[r] * a->head_dim, *sine = cosine + half;
        for (size_t h = 0; h < a->n_heads; h++) {
            float *first = a->x + r * a->ld_x + h * a->head_dim, *second = first + half;
#pragma omp simd
            for (size_t i = 0; i < half; i++) {
                float x = first[i], y = second[i], s = turn * sine[i];
                first[i] = madd(x, cosine[i], -(y * s), isa);
                second[i] = madd(y, cosine[i], x * s, isa);
            }
        }
    }
}

static void rope_scalar(const struct rope_args *a, struct range rows) {
    rope_body(a, rows, ISA_SCALAR);
}

#if ISA_X86
static TARGET_AVX2 void rope_avx2(const struct rope_args *a, struct range rows) {
    rope_body(a, rows, ISA_AVX2);
}

static TARGET_AVX512 void rope_avx512(const struct rope_args *a, struct range rows) {
    rope_body(a, rows, ISA_AVX512);
}
#endif

void cpu_rope(struct device *dev, const struct rope_args *a) {
    static void (*const table[])(const struct rope_args *, struct range) = ISA_TABLE(rope);
    ASSERT(a->head_dim % 2 == 0 && a->ld_x >= a->n_heads * a->head_dim);
    if (device_failed(dev))
        return;
#pragma omp parallel num_threads(threads_for_bytes(dev, a->n_rows * a->n_heads * a->head_dim * 8))
    table[dev->isa](a, thread_range(a->n_rows));
}

/* ---- act_mul ------------------------------------------------------------------------------------------------------- */

static INLINE float activate(float x, enum act act, enum isa isa) {
    return act == ACT_SILU ? silu_f32(x, isa) : act == ACT_GELU_TANH ? gelu_tanh_f32(x, isa) : x;
}

static INLINE void act_mul_row(const float *gate, const float *up, enum act act, size_t n, void *out, enum dtype dtype,
                               enum isa isa) {
    uint16_t *out_bf16 = out;
    float *out_f32 = out;
    if (act == ACT_GELU) {
        for (size_t i = 0; i < n; i++)
            dtype_store(out, dtype, i, (double)(gelu_f32(gate[i]) * up[i]));
    } else if (dtype == DTYPE_BF16) {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            out_bf16[i] = bf16_round(activate(gate[i], act, isa) * up[i]);
    } else {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            out_f32[i] = activate(gate[i], act, isa) * up[i];
    }
}

/* Elements begin .. end-1 of the (n_rows, n) result. */
struct act_mul_work {
    const float *gate_up;
    enum act act;
    size_t n;
    void *out;
    enum dtype dtype;
};

static INLINE void act_mul_body(const struct act_mul_work *w, struct range elements, enum isa isa) {
    for (size_t at = elements.begin; at < elements.end;) {
        size_t row = at / w->n, col = at % w->n, left = elements.end - at, n = w->n - col < left ? w->n - col : left;
        const float *gate = w->gate_up + row * 2 * w->n + col;
        void *out = (char *)w->out + at * dtype_size(w->dtype);
        if (w->act == ACT_SILU) /* a constant, so that the loops have no branch */
            act_mul_row(gate, gate + w->n, ACT_SILU, n, out, w->dtype, isa);
        else if (w->act == ACT_GELU_TANH)
            act_mul_row(gate, gate + w->n, ACT_GELU_TANH, n, out, w->dtype, isa);
        else if (w->act == ACT_GELU)
            act_mul_row(gate, gate + w->n, ACT_GELU, n, out, w->dtype, isa);
        else
            act_mul_row(gate, gate + w->n, ACT_NONE, n, out, w->dtype, isa);
        at += n;
    }
}

static void act_mul_scalar(const struct act_mul_work *w, struct range elements) {
    act_mul_body(w, elements, ISA_SCALAR);
}

#if ISA_X86
static TARGET_AVX2 void act_mul_avx2(const struct act_mul_work *w, struct range elements) {
    act_mul_body(w, elements, ISA_AVX2);
}

static TARGET_AVX512 void act_mul_avx512(const struct act_mul_work *w, struct range elements) {
    act_mul_body(w, elements, ISA_AVX512);
}
#endif

void cpu_act_mul(struct device *dev, const float *gate_up, enum act act, size_t n_rows, size_t n, void *out) {
    static void (*const table[])(const struct act_mul_work *, struct range) = ISA_TABLE(act_mul);
    const struct act_mul_work work = {gate_up, act, n, out, dev->dtype};
    if (device_failed(dev))
        return;
#pragma omp parallel num_threads(threads_for_bytes(dev, n_rows * n * 16))
    table[dev->isa](&work, thread_range(n_rows * n));
}

/* ---- add, embed, gather -------------------------------------------------------------------------------------------- */

static INLINE void add_body(float *x, const float *add, size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        x[i] += add[i];
}

static INLINE void scale_body(float *x, float scale, size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        x[i] *= scale;
}

static void add_scalar(float *x, const float *add, size_t n) {
    add_body(x, add, n);
}

static void scale_scalar(float *x, float scale, size_t n) {
    scale_body(x, scale, n);
}

#if ISA_X86
static TARGET_AVX2 void add_avx2(float *x, const float *add, size_t n) {
    add_body(x, add, n);
}

static TARGET_AVX512 void add_avx512(float *x, const float *add, size_t n) {
    add_body(x, add, n);
}

static TARGET_AVX2 void scale_avx2(float *x, float scale, size_t n) {
    scale_body(x, scale, n);
}

static TARGET_AVX512 void scale_avx512(float *x, float scale, size_t n) {
    scale_body(x, scale, n);
}
#endif

void cpu_add(struct device *dev, float *x, const float *add, size_t n) {
    static void (*const table[])(float *, const float *, size_t) = ISA_TABLE(add);
    if (device_failed(dev))
        return;
#pragma omp parallel num_threads(threads_for_bytes(dev, n * 8))
    {
        struct range part = thread_range(n);
        table[dev->isa](x + part.begin, add + part.begin, part.end - part.begin);
    }
}

void cpu_embed(struct device *dev, const struct weight *table, const int32_t *ids, size_t n_rows, float scale, float *out) {
    static void (*const scale_table[])(float *, float, size_t) = ISA_TABLE(scale);
    size_t n = table->n_cols;
    if (device_failed(dev))
        return;
#pragma omp parallel for num_threads(threads_for_bytes(dev, n_rows * n * 6))
    for (size_t r = 0; r < n_rows; r++) {
        ASSERT(ids[r] >= 0 && (size_t)ids[r] < table->n_rows);
        device_widen(dev, weight_row(table, (size_t)ids[r]), table->dtype, n, out + r * n);
        if (scale != 1.0f)
            scale_table[dev->isa](out + r * n, scale, n);
    }
}

void cpu_gather(struct device *dev, const void *x, const int32_t *index, size_t n, size_t n_cols, void *out) {
    size_t row_bytes = n_cols * dtype_size(dev->dtype);
    if (device_failed(dev))
        return;
#pragma omp parallel for num_threads(threads_for_bytes(dev, n * row_bytes))
    for (size_t i = 0; i < n; i++)
        memcpy((char *)out + i * row_bytes, (const char *)x + (size_t)index[i] * row_bytes, row_bytes);
}
