/* Scores of pairs, and the gate that compares them. */
#include <math.h>

#include "base/rng.h"
#include "kernels/ref/ref.h"

/* out (n_rows of w) = w x + bias */
static void affine(const struct device *dev, const struct weight *w, const double *x, const float *bias, double *out) {
    for (size_t o = 0; o < w->n_rows; o++) {
        double sum = 0;
        for (size_t i = 0; i < w->n_cols; i++)
            sum += weight_load(w, o * w->n_cols + i) * x[i];
        out[o] = sum + real_load(dev, bias, o);
    }
}

static double score_output(const struct predict_args *a, double x) {
    return a->sigmoid ? 1 / (1 + exp(-x)) : x;
}

static void predict_row(struct device *dev, const struct predict_args *a, size_t row, double *scratch) {
    size_t d_model = a->fc1->n_cols, hidden = a->fc1->n_rows;
    double *h = scratch, *middle = h + d_model, *out = middle + hidden;
    widen(a->h, ref_real(dev), row * d_model, d_model, h);
    affine(dev, a->fc1, h, a->b1, middle);
    for (size_t i = 0; i < hidden; i++)
        middle[i] = ref_act(a->act, middle[i]);
    affine(dev, a->fc2, middle, a->b2, out);
    for (size_t k = 0; k < a->n_kv_heads; k++)
        real_store(dev, a->u, row * a->n_kv_heads + k, score_output(a, out[k]));
}

void ref_predict(struct device *dev, const struct predict_args *a) {
    double *scratch = NULL;
    if (ref_failed(dev))
        return;
    if (a->fc1) {
        ASSERT(a->fc2->n_cols == a->fc1->n_rows && a->fc2->n_rows == a->n_kv_heads);
        scratch = ref_scratch(dev, (a->fc1->n_cols + a->fc1->n_rows + a->n_kv_heads) * sizeof *scratch);
        if (!scratch)
            return;
    }
    for (size_t r = 0; r < a->n_rows; r++) {
        if (a->fc1)
            predict_row(dev, a, r, scratch);
        else
            for (size_t k = 0; k < a->n_kv_heads; k++)
                real_store(dev, a->u, r * a->n_kv_heads + k, score_output(a, real_load(dev, a->b2, k)));
    }
}

void ref_score_const(struct device *dev, const float *value, size_t n_rows, size_t n_kv_heads, float *u) {
    if (ref_failed(dev))
        return;
    for (size_t i = 0; i < n_rows * n_kv_heads; i++)
        real_store(dev, u, i, real_load(dev, value, i % n_kv_heads));
}

void ref_score_random(struct device *dev, const struct kv_batch *batch, uint64_t seed, int layer, size_t n_kv_heads,
                      float *u) {
    if (ref_failed(dev))
        return;
    for (int i = 0; i < batch->n_seq; i++)
        for (int r = batch->row_splits[i]; r < batch->row_splits[i + 1]; r++)
            for (size_t k = 0; k < n_kv_heads; k++)
                real_store(dev, u, (size_t)r * n_kv_heads + k,
                           rng_uniform(seed, batch->sequence_id[i], (uint32_t)layer, (uint32_t)k,
                                       (uint32_t)(batch->pos0[i] + r - batch->row_splits[i])));
}

void ref_gate(struct device *dev, const float *u, size_t n, float threshold, bool strict, uint8_t *open) {
    if (ref_failed(dev))
        return;
    for (size_t i = 0; i < n; i++) {
        double value = real_load(dev, u, i);
        open[i] = strict ? value > (double)threshold : value >= (double)threshold;
    }
}
