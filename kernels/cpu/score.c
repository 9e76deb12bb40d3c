/* Scores of pairs, and the gate that compares them. */
#include "base/rng.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/vmath.h"

/* ---- predict ------------------------------------------------------------------------------------------------------- */

static INLINE void activate_body(float *x, enum act act, size_t n, enum isa isa) {
    if (act == ACT_SILU) {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            x[i] = silu_f32(x[i], isa);
    } else if (act == ACT_GELU_TANH) {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            x[i] = gelu_tanh_f32(x[i], isa);
    } else if (act == ACT_GELU) {
        for (size_t i = 0; i < n; i++)
            x[i] = gelu_f32(x[i]);
    }
}

static void activate_scalar(float *x, enum act act, size_t n) {
    activate_body(x, act, n, ISA_SCALAR);
}

#if ISA_X86
static TARGET_AVX2 void activate_avx2(float *x, enum act act, size_t n) {
    activate_body(x, act, n, ISA_AVX2);
}

static TARGET_AVX512 void activate_avx512(float *x, enum act act, size_t n) {
    activate_body(x, act, n, ISA_AVX512);
}
#endif

void device_activate(struct device *dev, float *x, enum act act, size_t n) {
    static void (*const table[])(float *, enum act, size_t) = ISA_TABLE(activate);
#pragma omp parallel num_threads(threads_for_bytes(dev, n * 16))
    {
        struct range part = thread_range(n);
        table[dev->isa](x + part.begin, act, part.end - part.begin);
    }
}

/* What fc2 reads: the hidden layer, or h itself for a linear predictor. NULL and sticky ERR_MEMORY. */
static const float *predict_features(struct device *dev, const struct predict_args *a) {
    if (!a->fc1)
        return a->h;
    size_t hidden = a->fc1->n_rows;
    float *middle = device_scratch(dev, SCRATCH_PARTIAL, a->n_rows * hidden * sizeof *middle);
    if (!middle)
        return NULL;
    product_run(dev, &(struct product){.w = a->fc1, .outputs = {0, hidden}, .x = a->h, .x_dtype = DTYPE_F32,
                                       .n_rows = a->n_rows, .bias = a->b1, .y = middle, .ld_y = hidden});
    device_activate(dev, middle, a->act, a->n_rows * hidden);
    return middle;
}

void cpu_predict(struct device *dev, const struct predict_args *a) {
    size_t n = a->n_rows * a->n_kv_heads;
    if (device_failed(dev) || n == 0)
        return;
    if (a->fc2) {
        const float *features = predict_features(dev, a);
        ASSERT(a->fc2->n_rows == a->n_kv_heads && (!a->fc1 || a->fc2->n_cols == a->fc1->n_rows));
        if (!features)
            return;
        product_run(dev, &(struct product){.w = a->fc2, .outputs = {0, a->n_kv_heads}, .x = features, .x_dtype = DTYPE_F32,
                                           .n_rows = a->n_rows, .bias = a->b2, .y = a->u, .ld_y = a->n_kv_heads});
    } else {
        cpu_score_const(dev, a->b2, a->n_rows, a->n_kv_heads, a->u);
    }
    for (size_t i = 0; a->sigmoid && i < n; i++)
        a->u[i] = sigmoid_f32(a->u[i], ISA_SCALAR);
}

/* ---- scores that need no model ------------------------------------------------------------------------------------- */

void cpu_score_const(struct device *dev, const float *value, size_t n_rows, size_t n_kv_heads, float *u) {
    if (device_failed(dev))
        return;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t k = 0; k < n_kv_heads; k++)
            u[r * n_kv_heads + k] = value[k];
}

void cpu_score_random(struct device *dev, const struct kv_batch *batch, uint64_t seed, int layer, size_t n_kv_heads,
                      float *u) {
    if (device_failed(dev))
        return;
    for (int i = 0; i < batch->n_seq; i++)
        for (int r = batch->row_splits[i]; r < batch->row_splits[i + 1]; r++)
            for (size_t k = 0; k < n_kv_heads; k++)
                u[(size_t)r * n_kv_heads + k] = rng_uniform(seed, batch->sequence_id[i], (uint32_t)layer, (uint32_t)k,
                                                            (uint32_t)(batch->pos0[i] + r - batch->row_splits[i]));
}

void cpu_score_key_norm(struct device *dev, const float *k, size_t ld, size_t n_rows, size_t n_kv_heads, size_t head_dim,
                        float *u) {
    if (device_failed(dev))
        return;
#pragma omp parallel for num_threads(threads_for_bytes(dev, n_rows * n_kv_heads * head_dim * sizeof *k))
    for (size_t i = 0; i < n_rows * n_kv_heads; i++) {
        const float *key = k + i / n_kv_heads * ld + i % n_kv_heads * head_dim;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (size_t d = 0; d < head_dim; d++)
            sum += key[d] * key[d];
        u[i] = -sqrtf(sum);
    }
}

/* v gram v */
static float quadratic_form(const float *gram, const float *v, size_t n) {
    float sum = 0;
    for (size_t i = 0; i < n; i++) {
        float row = 0;
#pragma omp simd reduction(+ : row)
        for (size_t j = 0; j < n; j++)
            row += gram[i * n + j] * v[j];
        sum += row * v[i];
    }
    return sum;
}

void cpu_output_norm(struct device *dev, const struct output_norm_args *a) {
    size_t group = a->n_heads / a->n_kv_heads, square_items = a->head_dim * a->head_dim;
    if (device_failed(dev))
        return;
#pragma omp parallel for num_threads(threads_for_bytes(dev, a->n_rows * a->n_heads * square_items))
    for (size_t i = 0; i < a->n_rows * a->n_kv_heads; i++) {
        const float *v = a->v + i / a->n_kv_heads * a->ld_v + i % a->n_kv_heads * a->head_dim;
        float largest = 0;
        for (size_t h = i % a->n_kv_heads * group, n = h + group; h < n; h++) {
            float square = quadratic_form(a->gram + h * square_items, v, a->head_dim);
            largest = square <= largest ? largest : square; /* NaN stays */
        }
        a->norm[i] = sqrtf(largest);
    }
}

void cpu_gate(struct device *dev, const float *u, size_t n, float threshold, bool strict, uint8_t *open) {
    if (device_failed(dev))
        return;
    for (size_t i = 0; i < n; i++)
        open[i] = strict ? u[i] > threshold : u[i] >= threshold;
}
