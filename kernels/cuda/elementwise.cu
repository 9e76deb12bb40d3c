/* What works on rows without a product: norms, rotations, activations, moves. */
#include "kernels/cuda/device.cuh"

struct embed_params {
    const void *table;
    const int32_t *ids;
    size_t n_rows, n_cols;
    float scale;
    float *out;
};

template <typename T>
static __global__ void k_embed(struct embed_params p) {
    const T *table = (const T *)p.table;
    size_t i = thread_in_grid();
    if (i < p.n_rows * p.n_cols)
        p.out[i] = p.scale * to_f32(table[(size_t)p.ids[i / p.n_cols] * p.n_cols + i % p.n_cols]);
}

void cuda_embed(struct device *dev, const struct weight *table, const int32_t *ids, size_t n_rows, float scale, float *out) {
    struct embed_params p = {table->data, ids, n_rows, table->n_cols, scale, out};
    cuda_launch(dev, table->dtype == DTYPE_BF16 ? k_embed<struct bf16> : k_embed<float>,
                blocks_for(n_rows * table->n_cols, 256), 256, 0, p);
}

/* ---- rmsnorm ------------------------------------------------------------------------------------------------------ */

/* Sum over the block; every thread gets it. */
static __device__ float block_sum(float x) {
    float *part = (float *)cuda_shared(); /* (n_warps) */
    int n_warps = (int)blockDim.x / 32;
    x = warp_sum(x);
    if (n_warps == 1)
        return x;
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int i = 0; i < n_warps; i++)
        x += part[i];
    return x;
}

/* One block a group. */
template <typename T>
static __global__ void k_rmsnorm(struct rmsnorm_args a) {
    size_t row = blockIdx.x / a.n_groups, group = blockIdx.x % a.n_groups;
    size_t at = row * a.ld_x + group * a.n_cols, at_act = (row * a.n_groups + group) * a.n_cols;
    float sum = 0;
    for (size_t i = threadIdx.x; i < a.n_cols; i += blockDim.x) {
        float x = a.x[at + i];
        if (a.add)
            a.x[at + i] = x += a.add[at + i];
        sum += x * x;
    }
    float scale = 1 / sqrtf(block_sum(sum) / (float)a.n_cols + a.eps);
    for (size_t i = threadIdx.x; i < a.n_cols; i += blockDim.x) { /* each thread reads back what it wrote itself */
        float y = a.x[at + i] * scale * (a.weight[i] + (a.plus_one ? 1 : 0));
        if (a.out_f32)
            a.out_f32[at + i] = y;
        if (a.out_act)
            store_f32((T *)a.out_act + at_act + i, y);
    }
}

void cuda_rmsnorm(struct device *dev, const struct rmsnorm_args *a) {
    size_t n_warps = blocks_for(a->n_cols, 128); /* four elements a thread, up to eight warps */
    n_warps = n_warps < 1 ? 1 : n_warps > 8 ? 8 : n_warps;
    ASSERT(a->ld_x >= a->n_groups * a->n_cols && !(a->add && a->out_f32 == a->x));
    cuda_launch(dev, dev->dtype == DTYPE_BF16 ? k_rmsnorm<struct bf16> : k_rmsnorm<float>, a->n_rows * a->n_groups,
                (unsigned)n_warps * 32, n_warps * sizeof(float), *a);
}

/* ---- one thread an element ---------------------------------------------------------------------------------------- */

struct add_params {
    float *x;
    const float *add;
    size_t n;
};

static __global__ void k_add(struct add_params p) {
    size_t i = thread_in_grid();
    if (i < p.n)
        p.x[i] += p.add[i];
}

void cuda_add(struct device *dev, float *x, const float *add, size_t n) {
    struct add_params p = {x, add, n};
    cuda_launch(dev, k_add, blocks_for(n, 256), 256, 0, p);
}

struct act_mul_params {
    const float *gate_up;
    enum act act;
    size_t n_rows, n;
    void *out;
};

template <typename T>
static __global__ void k_act_mul(struct act_mul_params p) {
    size_t i = thread_in_grid();
    if (i >= p.n_rows * p.n)
        return;
    const float *gate = p.gate_up + i / p.n * 2 * p.n + i % p.n;
    store_f32((T *)p.out + i, activated(p.act, gate[0]) * gate[p.n]);
}

void cuda_act_mul(struct device *dev, const float *gate_up, enum act act, size_t n_rows, size_t n, void *out) {
    struct act_mul_params p = {gate_up, act, n_rows, n, out};
    cuda_launch(dev, dev->dtype == DTYPE_BF16 ? k_act_mul<struct bf16> : k_act_mul<float>, blocks_for(n_rows * n, 256), 256,
                0, p);
}

/* Rotates element i with element i + head_dim / 2, as Hugging Face does (RoFormer, arXiv 2104.09864, pairs neighbours). */
static __global__ void k_rope(struct rope_args a) {
    size_t half = a.head_dim / 2, n = thread_in_grid(), row = n / (a.n_heads * half);
    if (row >= a.n_rows)
        return;
    size_t head = n / half % a.n_heads, i = n % half;
    float *x = a.x + row * a.ld_x + head * a.head_dim + i;
    const float *entry = a.table + (size_t)a.pos[row] * a.head_dim + i;
    float c = entry[0], s = a.inverse ? -entry[half] : entry[half], first = x[0], second = x[half];
    x[0] = first * c - second * s;
    x[half] = second * c + first * s;
}

void cuda_rope(struct device *dev, const struct rope_args *a) {
    ASSERT(a->head_dim % 2 == 0 && a->ld_x >= a->n_heads * a->head_dim);
    cuda_launch(dev, k_rope, blocks_for(a->n_rows * a->n_heads * (a->head_dim / 2), 256), 256, 0, *a);
}

struct gather_params {
    const void *x;
    const int32_t *index;
    size_t n, n_cols;
    void *out;
};

template <typename T>
static __global__ void k_gather(struct gather_params p) {
    size_t i = thread_in_grid();
    if (i < p.n * p.n_cols)
        ((T *)p.out)[i] = ((const T *)p.x)[(size_t)p.index[i / p.n_cols] * p.n_cols + i % p.n_cols];
}

void cuda_gather(struct device *dev, const void *x, const int32_t *index, size_t n, size_t n_cols, void *out) {
    struct gather_params p = {x, index, n, n_cols, out};
    cuda_launch(dev, dev->dtype == DTYPE_BF16 ? k_gather<struct bf16> : k_gather<float>, blocks_for(n * n_cols, 256), 256, 0,
                p);
}
