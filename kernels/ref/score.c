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

/* What fc2 reads of a row: the hidden layer, or h itself for a linear predictor. */
static const double *predict_features(struct device *dev, const struct predict_args *a, size_t row, double *h,
                                      double *hidden) {
    size_t d_model = a->fc1 ? a->fc1->n_cols : a->fc2->n_cols;
    widen(a->h, ref_real(dev), row * d_model, d_model, h);
    if (!a->fc1)
        return h;
    affine(dev, a->fc1, h, a->b1, hidden);
    for (size_t i = 0; i < a->fc1->n_rows; i++)
        hidden[i] = ref_act(a->act, hidden[i]);
    return hidden;
}

void ref_predict(struct device *dev, const struct predict_args *a) {
    size_t n_features = a->fc2 ? a->fc2->n_cols : 0, d_model = a->fc1 ? a->fc1->n_cols : n_features;
    double *scratch = NULL;
    ASSERT(!a->fc2 || a->fc2->n_rows == a->n_kv_heads);
    ASSERT(!a->fc1 || (a->fc2 && a->fc2->n_cols == a->fc1->n_rows));
    if (ref_failed(dev) || !(scratch = ref_scratch(dev, (d_model + n_features + a->n_kv_heads) * sizeof *scratch)))
        return;
    double *hidden = scratch + d_model, *out = hidden + n_features;
    for (size_t r = 0; r < a->n_rows; r++) {
        if (a->fc2)
            affine(dev, a->fc2, predict_features(dev, a, r, scratch, hidden), a->b2, out);
        for (size_t k = 0; k < a->n_kv_heads; k++)
            real_store(dev, a->u, r * a->n_kv_heads + k, score_output(a, a->fc2 ? out[k] : real_load(dev, a->b2, k)));
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

void ref_score_key_norm(struct device *dev, const float *k, size_t ld, size_t n_rows, size_t n_kv_heads, size_t head_dim,
                        float *u) {
    if (ref_failed(dev))
        return;
    for (size_t i = 0; i < n_rows * n_kv_heads; i++) {
        size_t at = i / n_kv_heads * ld + i % n_kv_heads * head_dim;
        double sum = 0;
        for (size_t d = 0; d < head_dim; d++)
            sum += real_load(dev, k, at + d) * real_load(dev, k, at + d);
        real_store(dev, u, i, -sqrt(sum));
    }
}

/* v gram v */
static double quadratic_form(const struct device *dev, const struct output_norm_args *a, size_t v_at, size_t head) {
    double sum = 0;
    for (size_t i = 0; i < a->head_dim; i++) {
        double row = 0;
        for (size_t j = 0; j < a->head_dim; j++)
            row += real_load(dev, a->gram, (head * a->head_dim + i) * a->head_dim + j) * real_load(dev, a->v, v_at + j);
        sum += row * real_load(dev, a->v, v_at + i);
    }
    return sum;
}

void ref_output_norm(struct device *dev, const struct output_norm_args *a) {
    size_t group = a->n_heads / a->n_kv_heads;
    if (ref_failed(dev))
        return;
    for (size_t i = 0; i < a->n_rows * a->n_kv_heads; i++) {
        size_t kv_head = i % a->n_kv_heads;
        double largest = 0;
        for (size_t h = kv_head * group; h < (kv_head + 1) * group; h++) {
            double square = quadratic_form(dev, a, i / a->n_kv_heads * a->ld_v + kv_head * a->head_dim, h);
            largest = square <= largest ? largest : square; /* NaN stays */
        }
        real_store(dev, a->norm, i, sqrt(largest));
    }
}

void ref_gate(struct device *dev, const float *u, size_t n, float threshold, bool strict, uint8_t *open) {
    if (ref_failed(dev))
        return;
    for (size_t i = 0; i < n; i++) {
        double value = real_load(dev, u, i);
        open[i] = strict ? value > (double)threshold : value >= (double)threshold;
    }
}
