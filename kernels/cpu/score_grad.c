/* Gradients of the utility predictor. */
#include <string.h>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/vmath.h"

/* dx (n) = dx act'(x) */
static INLINE void activate_grad_body(const float *x, enum act act, size_t n, float *dx, enum isa isa) {
    if (act == ACT_SILU) {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            dx[i] *= silu_slope_f32(x[i], isa);
    } else if (act == ACT_GELU_TANH) {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            dx[i] *= gelu_tanh_slope_f32(x[i], isa);
    } else if (act == ACT_GELU) {
        for (size_t i = 0; i < n; i++)
            dx[i] *= gelu_slope_f32(x[i]);
    }
}

static void activate_grad_scalar(const float *x, enum act act, size_t n, float *dx) {
    activate_grad_body(x, act, n, dx, ISA_SCALAR);
}

#if ISA_X86
static TARGET_AVX2 void activate_grad_avx2(const float *x, enum act act, size_t n, float *dx) {
    activate_grad_body(x, act, n, dx, ISA_AVX2);
}

static TARGET_AVX512 void activate_grad_avx512(const float *x, enum act act, size_t n, float *dx) {
    activate_grad_body(x, act, n, dx, ISA_AVX512);
}
#endif

static void activate_grad(struct device *dev, const float *x, enum act act, size_t n, float *dx) {
    static void (*const table[])(const float *, enum act, size_t, float *) = ISA_TABLE(activate_grad);
#pragma omp parallel num_threads(threads_for_bytes(dev, n * 16))
    {
        struct range part = thread_range(n);
        table[dev->isa](x + part.begin, act, part.end - part.begin, dx + part.begin);
    }
}

/* Through a hidden layer, from the gradient of fc2's outputs. */
static void hidden_grad(struct device *dev, const struct predict_grad_args *a, const float *dout) {
    const struct predict_args *f = a->forward;
    size_t n_rows = f->n_rows, hidden = f->fc1->n_rows, n = n_rows * hidden;
    float *before = device_scratch(dev, SCRATCH_PARTIAL, n * sizeof *before);
    float *after = device_scratch(dev, SCRATCH_ROWS, n * sizeof *after), *dbefore = after;
    if (!before || !after)
        return;
    product_run(dev, &(struct product){.w = f->fc1, .outputs = {0, hidden}, .x = f->h, .x_dtype = DTYPE_F32,
                                       .n_rows = n_rows, .bias = f->b1, .y = before, .ld_y = hidden});
    memcpy(after, before, n * sizeof *after);
    device_activate(dev, after, f->act, n);
    cpu_linear_grad(dev, &(struct linear_grad_args){.w = f->fc2, .x = after, .dy = dout, .n_rows = n_rows,
                                                    .ld_dy = f->n_kv_heads, .dw = a->dfc2, .dbias = a->db2});
    cpu_linear_grad(dev, &(struct linear_grad_args){.w = f->fc2, .dy = dout, .n_rows = n_rows, .ld_dy = f->n_kv_heads,
                                                    .dx = dbefore});
    activate_grad(dev, before, f->act, n, dbefore);
    cpu_linear_grad(dev, &(struct linear_grad_args){.w = f->fc1, .x = f->h, .dy = dbefore, .n_rows = n_rows,
                                                    .ld_dy = hidden, .dx = a->dh, .add_dx = true, .dw = a->dfc1,
                                                    .dbias = a->db1});
}

void cpu_predict_grad(struct device *dev, const struct predict_grad_args *a) {
    const struct predict_args *f = a->forward;
    size_t n = f->n_rows * f->n_kv_heads;
    if (!device_trains(dev) || n == 0)
        return;
    float *dout = device_scratch(dev, SCRATCH_ITEMS, n * sizeof *dout);
    if (!dout)
        return;
    for (size_t i = 0; i < n; i++)
        dout[i] = f->sigmoid ? a->du[i] * f->u[i] * (1.0f - f->u[i]) : a->du[i];
    if (f->fc1)
        hidden_grad(dev, a, dout);
    else if (f->fc2)
        cpu_linear_grad(dev, &(struct linear_grad_args){.w = f->fc2, .x = f->h, .dy = dout, .n_rows = f->n_rows,
                                                        .ld_dy = f->n_kv_heads, .dx = a->dh, .add_dx = true,
                                                        .dw = a->dfc2, .dbias = a->db2});
    else if (a->db2)
        column_sums_add(dev, dout, f->n_rows, f->n_kv_heads, f->n_kv_heads, a->db2);
}
