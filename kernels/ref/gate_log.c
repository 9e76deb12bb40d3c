/* What gates add to logits in training (arXiv 2605.14037; method.md section 3), its gradient, and gates drawn at random. */
#include <math.h>

#include "base/rng.h"
#include "kernels/ref/ref.h"

/* Share of a pair that attention sees, kept away from 0. */
static double gate_share(const struct device *dev, const float *u, const uint8_t *open, double blend, size_t i) {
    return (1 - blend) * real_load(dev, u, i) + blend * open[i] + 1e-8;
}

void ref_gate_log(struct device *dev, const struct gate_log_args *a) {
    if (ref_failed(dev))
        return;
    for (size_t i = 0; i < a->n; i++) {
        double hard = a->open[i] ? 0 : -INFINITY;
        real_store(dev, a->log_gate, i, a->hard ? hard : log(gate_share(dev, a->u, a->open, (double)a->blend, i)));
    }
}

void ref_gate_log_grad(struct device *dev, const struct gate_log_grad_args *a) {
    if (ref_failed(dev))
        return;
    for (size_t i = 0; i < a->n; i++)
        real_store(dev, a->du, i, (double)a->slope * real_load(dev, a->dlog_gate, i) /
                                          gate_share(dev, a->u, a->open, (double)a->blend, i) + (double)a->density);
}

void ref_gate_sample(struct device *dev, const float *u, const struct attend_seq_args *sequences,
                     const uint64_t *sequence_id, uint64_t seed, int layer, float clip, uint8_t *open) {
    double lowest = (double)clip, highest = (double)(1.0f - clip);
    if (ref_failed(dev))
        return;
    for (int i = 0; i < sequences->n_seq; i++)
        for (int r = sequences->row_splits[i]; r < sequences->row_splits[i + 1]; r++)
            for (size_t k = 0; k < sequences->n_kv_heads; k++) {
                size_t at = (size_t)r * sequences->n_kv_heads + k;
                double p = real_load(dev, u, at);
                p = p < lowest ? lowest : p > highest ? highest : p;
                open[at] = (double)rng_uniform(seed, sequence_id[i], (uint32_t)layer, (uint32_t)k,
                                               (uint32_t)(r - sequences->row_splits[i])) < p;
            }
}
