/* Scores of pairs, and the gate that compares them. */
#include "base/rng.h"
#include "kernels/cuda/device.cuh"

struct activate_params {
    float *x;
    size_t n;
    enum act act;
};

static __global__ void k_activate(struct activate_params p) {
    size_t i = thread_in_grid();
    if (i < p.n)
        p.x[i] = activated(p.act, p.x[i]);
}

/* u = output(u), or of the bias where there is nothing but one. */
struct output_params {
    const float *bias; /* NULL, or (n_kv_heads): replaces u */
    float *u;
    size_t n, n_kv_heads;
    bool sigmoid;
};

static __global__ void k_score_output(struct output_params p) {
    size_t i = thread_in_grid();
    if (i >= p.n)
        return;
    float x = p.bias ? p.bias[i % p.n_kv_heads] : p.u[i];
    p.u[i] = p.sigmoid ? 1 / (1 + expf(-x)) : x;
}

/* What fc2 reads: the hidden layer, or h itself for a linear predictor. NULL and a sticky failure. */
static const float *predict_features(struct device *dev, const struct predict_args *a) {
    if (!a->fc1)
        return a->h;
    size_t hidden = a->fc1->n_rows;
    float *features = (float *)cuda_scratch(dev, SCRATCH_LOGITS, a->n_rows * hidden * sizeof *features);
    if (!features)
        return NULL;
    const struct product_args trunk = {a->fc1->data, a->h, DTYPE_F32, a->b1, features, a->n_rows, a->fc1->n_cols, hidden,
                                       hidden};
    struct activate_params activate = {features, a->n_rows * hidden, a->act};
    cuda_product(dev, &trunk);
    cuda_launch(dev, k_activate, blocks_for(activate.n, 256), 256, 0, activate);
    return features;
}

void cuda_predict(struct device *dev, const struct predict_args *a) {
    struct output_params output = {a->fc2 ? NULL : a->b2, a->u, a->n_rows * a->n_kv_heads, a->n_kv_heads, a->sigmoid};
    ASSERT(!a->fc2 || a->fc2->n_rows == a->n_kv_heads);
    ASSERT(!a->fc1 || (a->fc2 && a->fc2->n_cols == a->fc1->n_rows));
    if (device_failed(dev) || a->n_rows == 0)
        return;
    if (a->fc2) {
        const float *features = predict_features(dev, a);
        if (!features)
            return;
        const struct product_args scores = {a->fc2->data, features, DTYPE_F32, a->b2, a->u, a->n_rows, a->fc2->n_cols,
                                            a->n_kv_heads, a->n_kv_heads};
        cuda_product(dev, &scores);
    }
    if (!a->fc2 || a->sigmoid)
        cuda_launch(dev, k_score_output, blocks_for(output.n, 256), 256, 0, output);
}

struct const_params {
    const float *value;
    size_t n, n_kv_heads;
    float *u;
};

static __global__ void k_score_const(struct const_params p) {
    size_t i = thread_in_grid();
    if (i < p.n)
        p.u[i] = p.value[i % p.n_kv_heads];
}

void cuda_score_const(struct device *dev, const float *value, size_t n_rows, size_t n_kv_heads, float *u) {
    struct const_params p = {value, n_rows * n_kv_heads, n_kv_heads, u};
    cuda_launch(dev, k_score_const, blocks_for(p.n, 256), 256, 0, p);
}

struct random_params {
    struct batch_dev batch;
    uint64_t seed;
    uint32_t layer;
    size_t n, n_kv_heads;
    float *u;
};

static __global__ void k_score_random(struct random_params p) {
    size_t i = thread_in_grid();
    if (i >= p.n)
        return;
    int row = (int)(i / p.n_kv_heads), low = 0, high = p.batch.n_seq - 1;
    while (low < high) { /* the last sequence that begins at or before the row */
        int middle = (low + high + 1) / 2;
        if (p.batch.row_splits[middle] <= row)
            low = middle;
        else
            high = middle - 1;
    }
    p.u[i] = rng_uniform(p.seed, p.batch.sequence_id[low], p.layer, (uint32_t)(i % p.n_kv_heads),
                         (uint32_t)(p.batch.pos0[low] + row - p.batch.row_splits[low]));
}

void cuda_score_random(struct device *dev, const struct kv_batch *batch, uint64_t seed, int layer, size_t n_kv_heads,
                       float *u) {
    struct random_params p = {};
    if (batch->n_seq == 0 || !cuda_batch(dev, batch, 0, 0, &p.batch))
        return;
    p.seed = seed;
    p.layer = (uint32_t)layer;
    p.n_kv_heads = n_kv_heads;
    p.n = (size_t)batch->row_splits[batch->n_seq] * n_kv_heads;
    p.u = u;
    cuda_launch(dev, k_score_random, blocks_for(p.n, 256), 256, 0, p);
}

struct gate_params {
    const float *u;
    size_t n;
    float threshold;
    bool strict;
    uint8_t *open;
};

static __global__ void k_gate(struct gate_params p) {
    size_t i = thread_in_grid();
    if (i < p.n)
        p.open[i] = p.strict ? p.u[i] > p.threshold : p.u[i] >= p.threshold;
}

void cuda_gate(struct device *dev, const float *u, size_t n, float threshold, bool strict, uint8_t *open) {
    struct gate_params p = {u, n, threshold, strict, open};
    cuda_launch(dev, k_gate, blocks_for(n, 256), 256, 0, p);
}

/* ---- norms -------------------------------------------------------------------------------------------------------- */

enum { NORM_WARPS = 4 };

struct norm_params {
    const float *x;
    size_t ld, n, n_heads, head_dim; /* n norms: rows times heads */
    float *norm;
};

/* A warp a norm. */
static __global__ void k_key_norm(struct norm_params p) {
    size_t i = (size_t)blockIdx.x * NORM_WARPS + threadIdx.x / 32;
    if (i >= p.n)
        return;
    const float *x = p.x + i / p.n_heads * p.ld + i % p.n_heads * p.head_dim;
    float sum = 0;
    for (size_t d = threadIdx.x % 32; d < p.head_dim; d += 32)
        sum += x[d] * x[d];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        p.norm[i] = -sqrtf(sum);
}

void cuda_score_key_norm(struct device *dev, const float *k, size_t ld, size_t n_rows, size_t n_kv_heads, size_t head_dim,
                         float *u) {
    struct norm_params p = {k, ld, n_rows * n_kv_heads, n_kv_heads, head_dim, u};
    cuda_launch(dev, k_key_norm, blocks_for(p.n, NORM_WARPS), 32 * NORM_WARPS, 0, p);
}

/* A warp a norm. The matrix is symmetric: a lane takes columns of it, neighbours beside it. */
static __global__ void k_output_norm(struct output_norm_args a) {
    size_t i = (size_t)blockIdx.x * NORM_WARPS + threadIdx.x / 32, dim = a.head_dim, group = a.n_heads / a.n_kv_heads;
    size_t head = i % a.n_kv_heads;
    if (i >= a.n_rows * a.n_kv_heads)
        return;
    const float *v = a.v + i / a.n_kv_heads * a.ld_v + head * dim;
    float largest = 0;
    for (size_t h = head * group; h < (head + 1) * group; h++) {
        const float *gram = a.gram + h * dim * dim;
        float square = 0;
        for (size_t e = threadIdx.x % 32; e < dim; e += 32) {
            float product = 0;
            for (size_t d = 0; d < dim; d++)
                product += gram[d * dim + e] * v[d];
            square += product * v[e];
        }
        square = warp_sum(square);
        largest = square <= largest ? largest : square; /* NaN stays */
    }
    if (threadIdx.x % 32 == 0)
        a.norm[i] = sqrtf(largest);
}

void cuda_output_norm(struct device *dev, const struct output_norm_args *a) {
    cuda_launch(dev, k_output_norm, blocks_for(a->n_rows * a->n_kv_heads, NORM_WARPS), 32 * NORM_WARPS, 0, *a);
}
