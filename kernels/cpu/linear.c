/* Products with weights: which kernel for how many rows. */
#include <string.h>

#include "kernels/cpu/gemm.h"

enum { OWN_MAX_ROWS = 64 /* f32 with AVX2: for more rows oneDNN is as fast, widening included */ };

static void bias_fill(const struct product *p, struct range outputs) {
    for (size_t r = 0; r < p->n_rows; r++)
        memcpy(p->y + r * p->ld_y + outputs.begin - p->outputs.begin, p->bias + outputs.begin,
               (outputs.end - outputs.begin) * sizeof *p->y);
}

/* f32 GEMM over tiles of the weight. */
static void product_sgemm(struct device *dev, const struct product *p) {
    size_t n_in = p->w->n_cols, step = WIDE_TILE_ELEMENTS / (n_in ? n_in : 1) + 1;
    if (p->w->dtype == DTYPE_F32)
        step = p->outputs.end - p->outputs.begin;
    for (size_t o = p->outputs.begin; o < p->outputs.end && !device_failed(dev); o += step) {
        struct range tile = {o, p->outputs.end - o < step ? p->outputs.end : o + step};
        const float *w = weight_rows_f32(dev, p->w, tile.begin, tile.end);
        if (!w)
            return;
        if (p->bias)
            bias_fill(p, tile);
        sgemm_run_on(dev, &(struct sgemm){.m = p->n_rows, .n = tile.end - tile.begin, .k = n_in, .scale = 1, .a = p->x,
                                          .lda = n_in, .b = w, .ldb = n_in, .transpose_b = true,
                                          .c = p->y + o - p->outputs.begin, .ldc = p->ld_y,
                                          .accumulate = p->bias != NULL});
    }
}

void product_run(struct device *dev, const struct product *p) {
    if (device_failed(dev) || p->n_rows == 0 || p->outputs.begin == p->outputs.end)
        return;
#if ISA_X86
    if (p->x_dtype == DTYPE_BF16) {
        if (p->n_rows == 1)
            gemv_run_bf16(dev, p);
        else
            gemm_amx_run(dev, p);
        return;
    }
    if (dev->isa == ISA_AVX2 && p->n_rows > GEMV_MAX_ROWS && p->n_rows <= OWN_MAX_ROWS) {
        gemm_avx2_run(dev, p);
        return;
    }
#endif
    if (p->n_rows <= GEMV_MAX_ROWS)
        gemv_run(dev, p);
    else
        product_sgemm(dev, p);
}

void cpu_linear(struct device *dev, const struct linear_args *a) {
    ASSERT(a->ld_y >= a->w->n_rows);
    product_run(dev, &(struct product){.w = a->w, .outputs = {0, a->w->n_rows}, .x = a->x, .x_dtype = dev->dtype,
                                       .n_rows = a->n_rows, .bias = a->bias, .y = a->y, .ld_y = a->ld_y});
}
