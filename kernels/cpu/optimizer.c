/* Steps of AdamW, and the norm of gradients. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/device.h"
#include "kernels/cpu/vmath.h"

/* Factors that are the same for every element: 1 / (1 - beta^step). */
struct adamw_bias {
    float m, v;
};

static INLINE void adamw_body(const struct adamw_args *a, struct adamw_bias bias, struct range part, enum isa isa) {
    float *param = a->param, *m = a->m, *v = a->v, beta1 = a->beta1, beta2 = a->beta2, eps = a->eps, lr = a->lr;
    float decay = a->weight_decay, grad_scale = a->grad_scale;
    const float *grad = a->grad;
#pragma omp simd
    for (size_t i = part.begin; i < part.end; i++) {
        float g = grad_scale * grad[i];
        m[i] = madd(beta1, m[i], (1.0f - beta1) * g, isa);
        v[i] = madd(beta2, v[i], (1.0f - beta2) * g * g, isa);
        param[i] -= lr * (decay * param[i] + m[i] * bias.m / (sqrtf(v[i] * bias.v) + eps));
    }
}

static INLINE double norm_sq_body(const float *x, size_t n) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

static void adamw_scalar(const struct adamw_args *a, struct adamw_bias bias, struct range part) {
    adamw_body(a, bias, part, ISA_SCALAR);
}

static double norm_sq_scalar(const float *x, size_t n) {
    return norm_sq_body(x, n);
}

#if ISA_X86
static TARGET_AVX2 void adamw_avx2(const struct adamw_args *a, struct adamw_bias bias, struct range part) {
    adamw_body(a, bias, part, ISA_AVX2);
}

static TARGET_AVX512 void adamw_avx512(const struct adamw_args *a, struct adamw_bias bias, struct range part) {
    adamw_body(a, bias, part, ISA_AVX512);
}

static TARGET_AVX2 double norm_sq_avx2(const float *x, size_t n) {
    return norm_sq_body(x, n);
}

static TARGET_AVX512 double norm_sq_avx512(const float *x, size_t n) {
    return norm_sq_body(x, n);
}
#endif

void cpu_adamw(struct device *dev, const struct adamw_args *a) {
    static void (*const table[])(const struct adamw_args *, struct adamw_bias, struct range) = ISA_TABLE(adamw);
    const struct adamw_bias bias = {(float)(1 / (1 - pow((double)a->beta1, (double)a->step))),
                                    (float)(1 / (1 - pow((double)a->beta2, (double)a->step)))};
    ASSERT(a->step >= 1);
    if (!device_trains(dev))
        return;
#pragma omp parallel num_threads(threads_for_bytes(dev, a->n * 28))
    table[dev->isa](a, bias, thread_range(a->n));
}

void cpu_norm_sq(struct device *dev, const float *x, size_t n, double *sum) {
    static double (*const table[])(const float *, size_t) = ISA_TABLE(norm_sq);
    if (!device_trains(dev))
        return;
    int n_threads = threads_for_bytes(dev, n * 4);
    double *parts = device_scratch(dev, SCRATCH_THREAD, (size_t)n_threads * sizeof *parts);
    if (!parts)
        return;
    memset(parts, 0, (size_t)n_threads * sizeof *parts);
#pragma omp parallel num_threads(n_threads)
    {
        struct range part = thread_range(n);
        parts[thread_number()] = table[dev->isa](x + part.begin, part.end - part.begin);
    }
    for (int i = 0; i < n_threads; i++)
        *sum += parts[i];
}
