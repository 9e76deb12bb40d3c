/* Losses with their gradient, for blocks of rows whose logits stay in scratch. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/vmath.h"

enum {
    LOGITS_MAX = 1 << 22, /* of a block: 16 MB ... */
    ROWS_MIN = 64,        /* ... unless fewer rows than this would slow the products */
};

/* x: logits -> scale times their gradient; the loss. */
static INLINE float row_grad(float *x, size_t n, size_t target, float cap, float scale, enum isa isa) {
    float sum = 0;
    if (cap != 0) {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            x[i] = softcap_f32(x[i], cap, isa);
    }
    float max = max_f32(x, n, -INFINITY), base = max == -INFINITY ? 0 : max, at_target = x[target];
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

/* Rows with a target, side by side: the others take part in no product. */
struct loss_rows {
    size_t n;
    const int32_t *row; /* (n) */
    float *logits;      /* (n, vocab_size) */
    float *x, *dx;      /* (n, d_model) */
};

static void rows_grad(struct device *dev, const struct nll_grad_args *a, const struct loss_rows *b) {
    static float (*const table[])(float *, size_t, size_t, float, float) = ISA_TABLE(row_grad);
    const struct nll_args *f = a->forward;
    size_t vocab = f->w->n_rows, d_model = f->w->n_cols;
    for (size_t i = 0; i < b->n; i++)
        memcpy(b->x + i * d_model, (const float *)f->x + (size_t)b->row[i] * d_model, d_model * sizeof *b->x);
    product_run(dev, &(struct product){.w = f->w, .outputs = {0, vocab}, .x = b->x, .x_dtype = DTYPE_F32, .n_rows = b->n,
                                       .y = b->logits, .ld_y = vocab});
    if (device_failed(dev))
        return;
#pragma omp parallel for num_threads(threads_for_bytes(dev, b->n * vocab * 16))
    for (size_t i = 0; i < b->n; i++) {
        int32_t target = f->target[b->row[i]];
        ASSERT((size_t)target < vocab);
        f->nll[b->row[i]] = table[dev->isa](b->logits + i * vocab, vocab, (size_t)target, f->softcap, a->scale);
    }
    cpu_linear_grad(dev, &(struct linear_grad_args){.w = f->w, .x = b->x, .dy = b->logits, .n_rows = b->n, .ld_dy = vocab,
                                                    .dx = b->dx, .dw = a->dw});
    for (size_t i = 0; i < b->n; i++)
        memcpy(a->dx + (size_t)b->row[i] * d_model, b->dx + i * d_model, d_model * sizeof *b->dx);
}

/* row (n_rows) = those with a target, in order; the results of the others. Returns how many. */
static size_t rows_list(const struct nll_grad_args *a, int32_t *row) {
    size_t n = 0, d_model = a->forward->w->n_cols;
    for (size_t r = 0; r < a->forward->n_rows; r++) {
        if (a->forward->target[r] >= 0) {
            row[n++] = (int32_t)r;
            continue;
        }
        a->forward->nll[r] = NAN;
        memset(a->dx + r * d_model, 0, d_model * sizeof *a->dx);
    }
    return n;
}

void cpu_nll_grad(struct device *dev, const struct nll_grad_args *a) {
    size_t n_rows = a->forward->n_rows, vocab = a->forward->w->n_rows, d_model = a->forward->w->n_cols;
    if (!device_trains(dev) || n_rows == 0)
        return;
    size_t step = LOGITS_MAX / vocab < ROWS_MIN ? ROWS_MIN : LOGITS_MAX / vocab;
    step = step < n_rows ? step : n_rows;
    int32_t *row = device_scratch(dev, SCRATCH_ITEMS, n_rows * sizeof *row);
    float *logits = device_scratch(dev, SCRATCH_PARTIAL, step * vocab * sizeof *logits);
    float *x = device_scratch(dev, SCRATCH_ROWS, 2 * step * d_model * sizeof *x);
    if (!row || !logits || !x)
        return;
    size_t n = rows_list(a, row);
    for (size_t at = 0; at < n && !device_failed(dev); at += step)
        rows_grad(dev, a, &(struct loss_rows){.n = n - at < step ? n - at : step, .row = row + at, .logits = logits, .x = x,
                                              .dx = x + step * d_model});
}
