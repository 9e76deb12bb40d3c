/* Gradients of the ops that pass over memory once. Sums over rows: threads own columns, or join their parts in order. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/add_scaled.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/vmath.h"

/* Whole cache lines of columns for the calling thread. */
static struct range column_range(size_t n_cols) {
    struct range lines = thread_range((n_cols + 15) / 16);
    size_t begin = lines.begin * 16, end = lines.end * 16;
    return (struct range){begin < n_cols ? begin : n_cols, end < n_cols ? end : n_cols};
}

/* ---- sums of rows -------------------------------------------------------------------------------------------------- */

void column_sums_add(struct device *dev, const float *x, size_t n_rows, size_t n_cols, size_t ld_x, float *sum) {
    if (device_failed(dev))
        return;
#pragma omp parallel num_threads(threads_for_bytes(dev, n_rows * n_cols * 4))
    {
        struct range cols = column_range(n_cols);
        for (size_t r = 0; r < n_rows; r++)
            add_scaled_table[dev->isa](sum + cols.begin, x + r * ld_x + cols.begin, 1, cols.end - cols.begin);
    }
}

void cpu_embed_grad(struct device *dev, const int32_t *ids, size_t n_rows, size_t n_cols, float scale, const float *dout,
                    float *dtable) {
    if (!device_trains(dev))
        return;
#pragma omp parallel num_threads(threads_for_bytes(dev, n_rows * n_cols * 12))
    {
        struct range cols = column_range(n_cols);
        for (size_t r = 0; r < n_rows; r++) {
            ASSERT(ids[r] >= 0);
            add_scaled_table[dev->isa](dtable + (size_t)ids[r] * n_cols + cols.begin, dout + r * n_cols + cols.begin, scale,
                                       cols.end - cols.begin);
        }
    }
}

/* ---- rmsnorm ------------------------------------------------------------------------------------------------------- */

/* y = x s w with s = 1 / sqrt(mean x^2 + eps): dx = s (w dy - x s^2 mean(w dy x)), dw += x s dy. */
static INLINE void norm_group_grad(const struct rmsnorm_grad_args *a, const float *x, const float *dy, float *dx,
                                   float *dweight, enum isa isa) {
    size_t n = a->n_cols;
    const float *weight = a->weight;
    float squares = 0, dot = 0, one = a->plus_one ? 1.0f : 0.0f;
#pragma omp simd reduction(+ : squares, dot)
    for (size_t i = 0; i < n; i++) {
        squares = madd(x[i], x[i], squares, isa);
        dot = madd((weight[i] + one) * dy[i], x[i], dot, isa);
    }
    float scale = 1.0f / sqrtf(squares / (float)n + a->eps), pull = scale * scale * dot / (float)n;
    if (dweight) {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            dweight[i] = madd(x[i] * scale, dy[i], dweight[i], isa);
    }
    if (a->add_dx) {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            dx[i] += scale * ((weight[i] + one) * dy[i] - x[i] * pull);
    } else { /* dx may be dy */
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            dx[i] = scale * ((weight[i] + one) * dy[i] - x[i] * pull);
    }
}

static INLINE void norm_grad_body(const struct rmsnorm_grad_args *a, struct range rows, float *dweight, enum isa isa) {
    for (size_t r = rows.begin; r < rows.end; r++)
        for (size_t g = 0; g < a->n_groups; g++) {
            size_t col = g * a->n_cols;
            norm_group_grad(a, a->x + r * a->ld_x + col, a->dy + r * a->ld_dy + col, a->dx + r * a->ld_dx + col, dweight,
                            isa);
        }
}

static void norm_grad_scalar(const struct rmsnorm_grad_args *a, struct range rows, float *dweight) {
    norm_grad_body(a, rows, dweight, ISA_SCALAR);
}

#if ISA_X86
static TARGET_AVX2 void norm_grad_avx2(const struct rmsnorm_grad_args *a, struct range rows, float *dweight) {
    norm_grad_body(a, rows, dweight, ISA_AVX2);
}

static TARGET_AVX512 void norm_grad_avx512(const struct rmsnorm_grad_args *a, struct range rows, float *dweight) {
    norm_grad_body(a, rows, dweight, ISA_AVX512);
}
#endif

void cpu_rmsnorm_grad(struct device *dev, const struct rmsnorm_grad_args *a) {
    static void (*const table[])(const struct rmsnorm_grad_args *, struct range, float *) = ISA_TABLE(norm_grad);
    size_t width = a->n_groups * a->n_cols, ld_part = (a->n_cols + 15) / 16 * 16;
    int n_threads = threads_for_bytes(dev, a->n_rows * width * 12);
    float *parts = NULL;
    ASSERT(a->ld_x >= width && a->ld_dy >= width && a->ld_dx >= width && !(a->add_dx && a->dx == a->dy));
    if (!device_trains(dev) || a->n_rows == 0)
        return;
    if (a->dweight) {
        if (!(parts = device_scratch(dev, SCRATCH_THREAD, (size_t)n_threads * ld_part * sizeof *parts)))
            return;
        memset(parts, 0, (size_t)n_threads * ld_part * sizeof *parts);
    }
#pragma omp parallel num_threads(n_threads)
    table[dev->isa](a, thread_range(a->n_rows), parts ? parts + (size_t)thread_number() * ld_part : NULL);
    if (parts)
        column_sums_add(dev, parts, (size_t)n_threads, a->n_cols, ld_part, a->dweight);
}

/* ---- act_mul ------------------------------------------------------------------------------------------------------- */

/* out = act(gate) up */
static INLINE void act_mul_row_grad(const float *gate, const float *up, enum act act, size_t n, const float *dout,
                                    float *dgate, float *dup, enum isa isa) {
    if (act == ACT_GELU) {
        for (size_t i = 0; i < n; i++) {
            float value = gelu_f32(gate[i]), slope = gelu_slope_f32(gate[i]);
            dgate[i] = dout[i] * up[i] * slope;
            dup[i] = dout[i] * value;
        }
        return;
    }
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float x = gate[i], y = up[i];
        float value = act == ACT_SILU ? silu_f32(x, isa) : act == ACT_GELU_TANH ? gelu_tanh_f32(x, isa) : x;
        float slope = act == ACT_SILU ? silu_slope_f32(x, isa) : act == ACT_GELU_TANH ? gelu_tanh_slope_f32(x, isa) : 1.0f;
        dgate[i] = dout[i] * y * slope;
        dup[i] = dout[i] * value;
    }
}

struct act_mul_grad_work {
    const float *gate_up, *dout;
    enum act act;
    size_t n;
    float *dgate_up;
};

/* Elements begin .. end-1 of the (n_rows, n) result. */
static INLINE void act_mul_grad_body(const struct act_mul_grad_work *w, struct range elements, enum isa isa) {
    for (size_t at = elements.begin; at < elements.end;) {
        size_t row = at / w->n, col = at % w->n, left = elements.end - at, n = w->n - col < left ? w->n - col : left;
        const float *gate = w->gate_up + row * 2 * w->n + col, *up = gate + w->n, *dout = w->dout + at;
        float *dgate = w->dgate_up + row * 2 * w->n + col, *dup = dgate + w->n;
        if (w->act == ACT_SILU) /* a constant, so that the loops have no branch */
            act_mul_row_grad(gate, up, ACT_SILU, n, dout, dgate, dup, isa);
        else if (w->act == ACT_GELU_TANH)
            act_mul_row_grad(gate, up, ACT_GELU_TANH, n, dout, dgate, dup, isa);
        else
            act_mul_row_grad(gate, up, w->act == ACT_GELU ? ACT_GELU : ACT_NONE, n, dout, dgate, dup, isa);
        at += n;
    }
}

static void act_mul_grad_scalar(const struct act_mul_grad_work *w, struct range elements) {
    act_mul_grad_body(w, elements, ISA_SCALAR);
}

#if ISA_X86
static TARGET_AVX2 void act_mul_grad_avx2(const struct act_mul_grad_work *w, struct range elements) {
    act_mul_grad_body(w, elements, ISA_AVX2);
}

static TARGET_AVX512 void act_mul_grad_avx512(const struct act_mul_grad_work *w, struct range elements) {
    act_mul_grad_body(w, elements, ISA_AVX512);
}
#endif

void cpu_act_mul_grad(struct device *dev, const float *gate_up, enum act act, size_t n_rows, size_t n, const float *dout,
                      float *dgate_up) {
    static void (*const table[])(const struct act_mul_grad_work *, struct range) = ISA_TABLE(act_mul_grad);
    const struct act_mul_grad_work work = {gate_up, dout, act, n, dgate_up};
    if (!device_trains(dev))
        return;
#pragma omp parallel num_threads(threads_for_bytes(dev, n_rows * n * 20))
    table[dev->isa](&work, thread_range(n_rows * n));
}
