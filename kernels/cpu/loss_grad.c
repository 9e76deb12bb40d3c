/* Losses with their gradient, for blocks of rows whose logits stay in scratch. */
#include <math.h>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/vmath.h"

enum {
    LOGITS_MAX = 1 << 22, /* of a block: 16 MB ... */
    ROWS_MIN = 64,        /* ... unless fewer rows than this would slow the products */
};

/* x: logits -> scale times their gradient; the loss. */
static INLINE float row_grad(float *x, size_t n, size_t target, float cap, float scale, enum isa isa) {
    float lane_max[16], max = -INFINITY, sum = 0;
    if (cap != 0) {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            x[i] = softcap_f32(x[i], cap, isa);
    }
    for (size_t i = 0; i < 16; i++)
        lane_max[i] = -INFINITY;
    for (size_t j = 0; j + 16 <= n; j += 16) {
#pragma omp simd
        for (size_t i = 0; i < 16; i++)
            lane_max[i] = x[j + i] > lane_max[i] ? x[j + i] : lane_max[i];
    }
    for (size_t i = 0; i < 16; i++)
        max = lane_max[i] > max ? lane_max[i] : max;
    for (size_t j = n / 16 * 16; j < n; j++)
        max = x[j] > max ? x[j] : max;
    float base = max == -INFINITY ? 0 : max, at_target = x[target];
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++)
        sum += exp_f32(x[i] - base, isa);
    float share = scale / sum, slope = cap == 0 ? 1.0f : 1.0f - at_target / cap * (at_target / cap);
    if (cap == 0) {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            x[i] = share * exp_f32(x[i] - base, isa);
    } else {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            x[i] = share * exp_f32(x[i] - base, isa) * (1.0f - x[i] / cap * (x[i] / cap));
    }
    x[target] -= scale * slope;
    return base + logf(sum) - at_target;
}

static float row_grad_scalar(float *x, size_t n, size_t target, float cap, float scale) {
    return row_grad(x, n, target, cap, scale, ISA_SCALAR);
}

#if ISA_X86
static TARGET_AVX2 float row_grad_avx2(float *x, size_t n, size_t target, float cap, float scale) {
    return row_grad(x, n, target, cap, scale, ISA_AVX2);
}

static TARGET_AVX512 float row_grad_avx512(float *x, size_t n, size_t target, float cap, float scale) {
    return row_grad(x, n, target, cap, scale, ISA_AVX512);
}
#endif

static void block_grad(struct device *dev, const struct nll_grad_args *a, struct range rows, float *logits) {
    static float (*const table[])(float *, size_t, size_t, float, float) = ISA_TABLE(row_grad);
    const struct nll_args *f = a->forward;
    size_t n = rows.end - rows.begin, vocab = f->w->n_rows, d_model = f->w->n_cols;
    const float *x = (const float *)f->x + rows.begin * d_model;
    product_run(dev, &(struct product){.w = f->w, .outputs = {0, vocab}, .x = x, .x_dtype = DTYPE_F32, .n_rows = n,
                                       .y = logits, .ld_y = vocab});
    if (device_failed(dev))
        return;
#pragma omp parallel for num_threads(threads_for_bytes(dev, n * vocab * 16))
    for (size_t r = 0; r < n; r++) {
        float *logit = logits + r * vocab, *nll = f->nll + rows.begin + r;
        int32_t target = f->target[rows.begin + r];
        ASSERT(target < 0 || (size_t)target < vocab);
        *nll = target < 0 ? NAN : table[dev->isa](logit, vocab, (size_t)target, f->softcap, a->scale);
        for (size_t i = 0; target < 0 && i < vocab; i++)
            logit[i] = 0;
    }
    cpu_linear_grad(dev, &(struct linear_grad_args){.w = f->w, .x = x, .dy = logits, .n_rows = n, .ld_dy = vocab,
                                                    .dx = a->dx + rows.begin * d_model, .dw = a->dw});
}

void cpu_nll_grad(struct device *dev, const struct nll_grad_args *a) {
    size_t n_rows = a->forward->n_rows, vocab = a->forward->w->n_rows, step = vocab ? LOGITS_MAX / vocab : 1;
    if (!device_trains(dev) || n_rows == 0)
        return;
    step = step < ROWS_MIN ? ROWS_MIN : step;
    step = step < n_rows ? step : n_rows;
    float *logits = device_scratch(dev, SCRATCH_PARTIAL, step * vocab * sizeof *logits);
    for (size_t begin = 0; begin < n_rows && !device_failed(dev); begin += step)
        block_grad(dev, a, (struct range){begin, n_rows - begin < step ? n_rows : begin + step}, logits);
}
