/* Losses and logits, tile by tile over the vocabulary. */
#include <math.h>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/vmath.h"

enum {
    LOSS_ROWS = 512,            /* rows that share one pass over the weight */
    LOSS_TILE_ELEMENTS = 1 << 19, /* logits of a tile */
    LOSS_TILE_MIN = 1024
};

/* Log of a sum of exponentials of a row, relative to its largest term so far. */
struct log_sum {
    float max, sum, target;
    float below; /* the largest of the ids below the target */
};

static INLINE void softcap_body(float *x, float cap, size_t n, enum isa isa) {
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        x[i] = softcap_f32(x[i], cap, isa);
}

static INLINE void log_sum_body(struct log_sum *s, float *x, size_t n, float cap, enum isa isa) {
    float sum = 0;
    if (cap != 0)
        softcap_body(x, cap, n, isa);
    float max = max_f32(x, n, s->max), base = max == -INFINITY ? 0 : max;
#pragma omp simd reduction(+ : sum)
    for (size_t j = 0; j < n; j++)
        sum += exp_f32(x[j] - base, isa);
    s->sum = s->sum * exp_f32(s->max - base, isa) + sum;
    s->max = max;
}

static void softcap_scalar(float *x, float cap, size_t n) {
    softcap_body(x, cap, n, ISA_SCALAR);
}

static void log_sum_scalar(struct log_sum *s, float *x, size_t n, float cap) {
    log_sum_body(s, x, n, cap, ISA_SCALAR);
}

#if ISA_X86
static TARGET_AVX2 void softcap_avx2(float *x, float cap, size_t n) {
    softcap_body(x, cap, n, ISA_AVX2);
}

static TARGET_AVX512 void softcap_avx512(float *x, float cap, size_t n) {
    softcap_body(x, cap, n, ISA_AVX512);
}

static TARGET_AVX2 void log_sum_avx2(struct log_sum *s, float *x, size_t n, float cap) {
    log_sum_body(s, x, n, cap, ISA_AVX2);
}

static TARGET_AVX512 void log_sum_avx512(struct log_sum *s, float *x, size_t n, float cap) {
    log_sum_body(s, x, n, cap, ISA_AVX512);
}
#endif

static void tile_loss(const struct device *dev, const struct nll_args *a, struct range outputs, float *logits, size_t row,
                      struct log_sum *s) {
    static void (*const table[])(struct log_sum *, float *, size_t, float) = ISA_TABLE(log_sum);
    int32_t target = a->target[row];
    if (target < 0)
        return;
    ASSERT((size_t)target < a->w->n_rows);
    float before = s->max;
    table[dev->isa](s, logits, outputs.end - outputs.begin, a->softcap);
    if ((size_t)target >= outputs.begin && (size_t)target < outputs.end) {
        size_t at = (size_t)target - outputs.begin;
        s->target = logits[at];
        s->below = max_f32(logits, at, before);
    }
}

/* Rows begin .. end-1, at most LOSS_ROWS. */
static void block_loss(struct device *dev, const struct nll_args *a, struct range rows) {
    size_t n = rows.end - rows.begin, tile = LOSS_TILE_ELEMENTS / n, vocab = a->w->n_rows;
    tile = tile < LOSS_TILE_MIN ? LOSS_TILE_MIN : tile;
    tile = tile > vocab ? vocab : tile;
    float *logits = device_scratch(dev, SCRATCH_PARTIAL, n * tile * sizeof *logits);
    struct log_sum *sums = device_scratch(dev, SCRATCH_ITEMS, n * sizeof *sums);
    if (!logits || !sums)
        return;
    for (size_t r = 0; r < n; r++)
        sums[r] = (struct log_sum){-INFINITY, 0, NAN, -INFINITY};
    for (size_t begin = 0; begin < vocab && !device_failed(dev); begin += tile) {
        struct range outputs = {begin, begin + tile < vocab ? begin + tile : vocab};
        product_run(dev, &(struct product){.w = a->w, .outputs = outputs, .x_dtype = dev->dtype, .n_rows = n,
                                           .x = (const char *)a->x + rows.begin * a->w->n_cols * dtype_size(dev->dtype),
                                           .y = logits, .ld_y = tile});
#pragma omp parallel for num_threads(threads_for_bytes(dev, n * tile * 8))
        for (size_t r = 0; r < n; r++)
            tile_loss(dev, a, outputs, logits + r * tile, rows.begin + r, &sums[r]);
    }
    for (size_t r = 0; r < n; r++) {
        const struct log_sum *s = &sums[r];
        a->nll[rows.begin + r] = a->target[rows.begin + r] < 0 ? NAN : s->max + logf(s->sum) - s->target;
        if (a->is_argmax)
            a->is_argmax[rows.begin + r] = s->target == s->max && s->target > s->below;
    }
}

void cpu_nll(struct device *dev, const struct nll_args *a) {
#if ISA_X86
    if (dev->dtype == DTYPE_BF16 && a->softcap == 0 && !device_failed(dev)) {
        gemm_amx_losses(dev, &(struct product){.w = a->w, .outputs = {0, a->w->n_rows}, .x = a->x, .x_dtype = DTYPE_BF16,
                                               .n_rows = a->n_rows}, a);
        return;
    }
#endif
    for (size_t begin = 0; begin < a->n_rows && !device_failed(dev); begin += LOSS_ROWS)
        block_loss(dev, a, (struct range){begin, begin + LOSS_ROWS < a->n_rows ? begin + LOSS_ROWS : a->n_rows});
}

void cpu_logits(struct device *dev, const struct weight *w, const void *x, float softcap, size_t n_rows, float *out) {
    static void (*const table[])(float *, float, size_t) = ISA_TABLE(softcap);
    size_t n = n_rows * w->n_rows;
    product_run(dev, &(struct product){.w = w, .outputs = {0, w->n_rows}, .x = x, .x_dtype = dev->dtype, .n_rows = n_rows,
                                       .y = out, .ld_y = w->n_rows});
    if (softcap == 0 || device_failed(dev))
        return;
#pragma omp parallel num_threads(threads_for_bytes(dev, n * 16))
    {
        struct range part = thread_range(n);
        table[dev->isa](out + part.begin, softcap, part.end - part.begin);
    }
}
