/* What gates add to logits, its gradient, and sampled gates. */
#include <math.h>

#include "base/rng.h"
#include "kernels/cpu/device.h"
#include "kernels/train_ops.h"

/* What log_gate is the logarithm of. */
static inline float gate_mass(float u, uint8_t open, float blend) {
    return (1.0f - blend) * u + blend * (float)open + 1e-8f;
}

void cpu_gate_log(struct device *dev, const struct gate_log_args *a) {
    if (!device_trains(dev))
        return;
#pragma omp parallel for num_threads(threads_for_bytes(dev, a->n * 64))
    for (size_t i = 0; i < a->n; i++)
        a->log_gate[i] = !a->hard ? logf(gate_mass(a->u[i], a->open[i], a->blend)) : a->open[i] ? 0 : -INFINITY;
}

void cpu_gate_log_grad(struct device *dev, const struct gate_log_grad_args *a) {
    if (!device_trains(dev))
        return;
#pragma omp parallel for num_threads(threads_for_bytes(dev, a->n * 16))
    for (size_t i = 0; i < a->n; i++)
        a->du[i] = a->slope * a->dlog_gate[i] / gate_mass(a->u[i], a->open[i], a->blend) + a->density;
}

void cpu_gate_sample(struct device *dev, const float *u, const struct attend_seq_args *sequences,
                     const uint64_t *sequence_id, uint64_t seed, int layer, float clip, uint8_t *open) {
    size_t n_kv_heads = sequences->n_kv_heads;
    if (!device_trains(dev))
        return;
    for (int i = 0; i < sequences->n_seq; i++) {
        int first = sequences->row_splits[i], end = sequences->row_splits[i + 1];
#pragma omp parallel for num_threads(threads_for_bytes(dev, (size_t)(end - first) * n_kv_heads * 64))
        for (int r = first; r < end; r++)
            for (size_t k = 0; k < n_kv_heads; k++) {
                size_t at = (size_t)r * n_kv_heads + k;
                float p = u[at] < clip ? clip : u[at] > 1.0f - clip ? 1.0f - clip : u[at];
                open[at] = rng_uniform(seed, sequence_id[i], (uint32_t)layer, (uint32_t)k, (uint32_t)(r - first)) < p;
            }
    }
}
