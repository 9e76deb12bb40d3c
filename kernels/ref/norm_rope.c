/* What works on rows without a weight matrix: norms, rotations, activations, moves. */
#include <math.h>
#include <string.h>

#include "kernels/ref/ref.h"

static void norm_group(struct device *dev, const struct rmsnorm_args *a, size_t row, size_t group) {
    size_t at = row * a->ld_x + group * a->n_cols, at_act = (row * a->n_groups + group) * a->n_cols;
    double sum = 0;
    for (size_t i = 0; i < a->n_cols; i++) {
        if (a->add)
            real_store(dev, a->x, at + i, real_load(dev, a->x, at + i) + real_load(dev, a->add, at + i));
        double x = real_load(dev, a->x, at + i);
        sum += x * x;
    }
    double scale = 1 / sqrt(sum / (double)a->n_cols + (double)a->eps);
    for (size_t i = 0; i < a->n_cols; i++) {
        double y = real_load(dev, a->x, at + i) * scale * (real_load(dev, a->weight, i) + (a->plus_one ? 1 : 0));
        if (a->out_f32)
            real_store(dev, a->out_f32, at + i, y);
        if (a->out_act)
            dtype_store(a->out_act, dev->dtype, at_act + i, y);
    }
}

void ref_rmsnorm(struct device *dev, const struct rmsnorm_args *a) {
    ASSERT(a->ld_x >= a->n_groups * a->n_cols && !(a->add && a->out_f32 == a->x));
    if (ref_failed(dev))
        return;
    for (size_t r = 0; r < a->n_rows; r++)
        for (size_t g = 0; g < a->n_groups; g++)
            norm_group(dev, a, r, g);
}

/* Rotates element i with element i + head_dim / 2, as Hugging Face does (RoFormer, arXiv 2104.09864, pairs neighbours). */
void ref_rope(struct device *dev, const struct rope_args *a) {
    size_t half = a->head_dim / 2;
    ASSERT(a->head_dim % 2 == 0 && a->ld_x >= a->n_heads * a->head_dim);
    if (ref_failed(dev))
        return;
    for (size_t r = 0; r < a->n_rows; r++)
        for (size_t h = 0; h < a->n_heads; h++)
            for (size_t i = 0; i < half; i++) {
                size_t at = r * a->ld_x + h * a->head_dim + i, entry = (size_t)a->pos[r] * a->head_dim + i;
                double x = real_load(dev, a->x, at), y = real_load(dev, a->x, at + half);
                double c = real_load(dev, a->table, entry), s = real_load(dev, a->table, entry + half);
                s = a->inverse ? -s : s;
                real_store(dev, a->x, at, x * c - y * s);
                real_store(dev, a->x, at + half, y * c + x * s);
            }
}

void ref_add(struct device *dev, float *x, const float *add, size_t n) {
    if (ref_failed(dev))
        return;
    for (size_t i = 0; i < n; i++)
        real_store(dev, x, i, real_load(dev, x, i) + real_load(dev, add, i));
}

double ref_act(enum act act, double x) {
    switch (act) {
    case ACT_SILU:
        return x / (1 + exp(-x));
    case ACT_GELU:
        return 0.5 * x * (1 + erf(x * M_SQRT1_2));
    case ACT_GELU_TANH: /* arXiv 1606.08415, section 2 */
        return 0.5 * x * (1 + tanh(M_2_SQRTPI * M_SQRT1_2 * (x + 0.044715 * x * x * x)));
    case ACT_NONE:
        break;
    }
    return x;
}

void ref_act_mul(struct device *dev, const float *gate_up, enum act act, size_t n_rows, size_t n, void *out) {
    if (ref_failed(dev))
        return;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < n; i++)
            dtype_store(out, dev->dtype, r * n + i, ref_act(act, real_load(dev, gate_up, r * 2 * n + i)) *
                                                        real_load(dev, gate_up, r * 2 * n + n + i));
}

void ref_gather(struct device *dev, const void *x, const int32_t *index, size_t n, size_t n_cols, void *out) {
    size_t row_bytes = n_cols * dtype_size(dev->dtype);
    if (ref_failed(dev))
        return;
    for (size_t i = 0; i < n; i++)
        memcpy((char *)out + i * row_bytes, (const char *)x + (size_t)index[i] * row_bytes, row_bytes);
}
