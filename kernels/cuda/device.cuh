/* device.cuh - the opened CUDA backend and what its files share. Internal to kernels/cuda/.
 *
 * Kernels are launched by cuda_launch() only and take one struct by value, so that a host compiler can build these files too
 * (tests/cuda_on_cpu/). All work of a device goes to one stream; nothing but sync(), download() and the growth of scratch
 * waits for it. */
#ifndef SPKV_KERNELS_CUDA_DEVICE_CUH
#define SPKV_KERNELS_CUDA_DEVICE_CUH

#include <stdint.h>
#include <string.h>

#include <cublasLt.h>
#include <cuda_runtime.h>

extern "C" {
#include "kernels/ops.h"
}

/* Buffers that grow to a high-water mark and stay. One op may use several at once, each for one purpose. */
enum scratch_id {
    SCRATCH_BATCH,   /* the batch of the last step, see cuda_batch() */
    SCRATCH_LOGITS,  /* a tile of logits, or what a predictor computes on its way */
    SCRATCH_ROWS,    /* running sums of rows of a loss */
    SCRATCH_PLAN,    /* where the items of attention begin */
    SCRATCH_PARTIAL, /* their parts before they are joined; fixed-point sums of statistics */
    SCRATCH_COLUMNS, /* per sequence: the first position whose queries count */
    SCRATCH_KEYS,    /* sequence ids and positions of tokens to be drawn */
    SCRATCH_BLAS,    /* workspace of cuBLASLt */
    N_SCRATCH
};

/* What kernels found wrong, in one word of device memory; the first stays. */
enum fault {
    FAULT_NONE,
    FAULT_NO_PAGE,
    FAULT_PRUNED, /* statistics of pairs whose positions are not known any more */
    FAULT_ORDER,  /* a step that does not begin where the last one of its slot ended */
};

/* Pinned memory on its way up: one half is filled while the other is copied. */
struct staging {
    char *memory;
    size_t used_bytes; /* of the current half */
    int half;
    cudaEvent_t copied[2];
    bool pending[2];
};

/* Address space from mem_reserve(). */
struct region {
    char *base;
    size_t reserved_bytes, mapped_bytes; /* multiples of the device's granularity */
    struct region *next;
};

/* Host copy of the batch in SCRATCH_BATCH. */
struct batch_copy {
    void *bytes;
    size_t n_bytes, n_kv_heads, group; /* the items were counted with these */
};

/* The algorithm that cuBLASLt chose for a shape. */
struct product_choice {
    size_t n_rows, n_in, n_out, ld_y;
    int dtype, alignment; /* dtype: enum dtype of both operands */
    bool bias;
    cublasLtMatmulAlgo_t algo;
    size_t workspace_bytes;
};

enum { N_PRODUCT_CHOICES = 64 };

struct device {
    enum dtype dtype; /* F32 or BF16 */
    int index, n_sms;
    cudaStream_t stream;
    cublasLtHandle_t blas;
    struct err err; /* sticky: the first failure */
    char description[320];
    int *fault;      /* device */
    int *fault_host; /* pinned */
    struct {
        void *data;
        size_t cap_bytes;
    } scratch[N_SCRATCH];
    struct staging staging;
    struct region *regions;
    struct batch_copy batch;
    struct product_choice choices[N_PRODUCT_CHOICES];
    size_t n_choices; /* counts on: the oldest is replaced */
};

struct weight {
    void *data; /* device, dtype (n_rows, n_cols), contiguous */
    enum dtype dtype; /* F32 or BF16 */
    size_t n_rows, n_cols;
};

/* ---- host --------------------------------------------------------------------------------------------------------- */

static inline bool device_failed(const struct device *dev) {
    return dev->err.code != OK;
}

/* Keeps the first failure; true when the call went well. */
bool cuda_check(struct device *dev, cudaError_t status, const char *what);
bool cuda_check_blas(struct device *dev, cublasStatus_t status, const char *what);

/* At least n_bytes of the buffer, content undefined; NULL and a sticky failure. Growing drops the old content. */
void *cuda_scratch(struct device *dev, enum scratch_id id, size_t n_bytes);

/* Queues kernel(args) for n_blocks blocks of n_threads threads; zero blocks are legal and do nothing. */
template <typename A>
static inline void cuda_launch(struct device *dev, void (*kernel)(A), size_t n_blocks, unsigned n_threads,
                               size_t shared_bytes, const A &args) {
    cudaLaunchConfig_t config = {};
    if (device_failed(dev) || n_blocks == 0)
        return;
    ASSERT(n_blocks <= INT32_MAX);
    config.gridDim = dim3((unsigned)n_blocks);
    config.blockDim = dim3(n_threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = dev->stream;
    cuda_check(dev, cudaLaunchKernelEx(&config, kernel, args), "a kernel");
}

/* y (n_rows, n_out) f32, ld_y = x (n_rows, n_in) w^T + bias; w (n_out, n_in) and x of the same dtype, f32 sums. bias NULL or
 * (n_out). */
struct product_args {
    const void *w, *x;
    enum dtype dtype;
    const float *bias;
    float *y;
    size_t n_rows, n_in, n_out, ld_y;
};
void cuda_product(struct device *dev, const struct product_args *a);

/* x (n_rows, n_cols) f32 = cap * tanh(x / cap) in place; cap 0 does nothing. */
void cuda_softcap(struct device *dev, float *x, size_t n, float cap);

/* The batch of a step in device memory; what one attention tile takes of it is counted in query vectors: row times query
 * heads of a group. item0 (n_seq + 1): the first tile of every sequence, all KV heads of it together. */
struct batch_dev {
    int n_seq, n_items;
    const int *slots, *row_splits, *pos0, *item0;
    const uint64_t *sequence_id;
};
enum { TILE_VECTORS = 8 };
/* Uploads the batch when it is not the one that lies there. group 0: items are not wanted. False after a failure. */
bool cuda_batch(struct device *dev, const struct kv_batch *batch, size_t n_kv_heads, size_t group, struct batch_dev *out);

/* Blocks of n_threads threads for n items, one thread an item. */
static inline size_t blocks_for(size_t n, size_t n_threads) {
    return (n + n_threads - 1) / n_threads;
}

/* ---- device ------------------------------------------------------------------------------------------------------- */

struct bf16 {
    uint16_t bits;
};

static inline __device__ float to_f32(float x) {
    return x;
}

static inline __device__ float to_f32(struct bf16 x) {
    return __uint_as_float((unsigned)x.bits << 16);
}

static inline __device__ void store_f32(float *to, float x) {
    *to = x;
}

/* Round to nearest even; NaN stays NaN. */
static inline __device__ void store_f32(struct bf16 *to, float x) {
    unsigned bits = __float_as_uint(x);
    bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
    to->bits = (uint16_t)(nan ? bits >> 16 | 0x40 : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/* x after a round trip through T. */
template <typename T>
static inline __device__ float rounded(float x) {
    T stored;
    store_f32(&stored, x);
    return to_f32(stored);
}

static inline __device__ size_t thread_in_grid(void) {
    return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}

#ifndef CUDA_ON_CPU
/* Dynamic shared memory of the block, 16-byte aligned. */
static inline __device__ void *cuda_shared(void) {
    extern __shared__ uint4 memory[];
    return memory;
}
#endif

static inline __device__ float warp_sum(float x) {
    for (int lanes = 16; lanes; lanes /= 2)
        x += __shfl_xor_sync(0xFFFFFFFFu, x, lanes);
    return x;
}

/* Floats as integers of the same order (-0 below 0; NaN beyond the infinities), and back. */
static inline __device__ int ordered_bits(float x) {
    int bits = __float_as_int(x);
    return bits < 0 ? bits ^ 0x7FFFFFFF : bits;
}

static inline __device__ float from_ordered(int bits) {
    return __int_as_float(bits < 0 ? bits ^ 0x7FFFFFFF : bits);
}

static inline __device__ float warp_max(float x) {
    return from_ordered(__reduce_max_sync(0xFFFFFFFFu, ordered_bits(x)));
}

/* Keys ascend from the best: larger numbers first, then lower indices; NaN behind everything. */
static constexpr unsigned long long NO_KEY = ~0ull;

static inline __device__ unsigned long long descending_key(float x, size_t index) {
    if (x != x)
        return NO_KEY;
    unsigned rank = ~((unsigned)ordered_bits(x + 0.0f) ^ 0x80000000u); /* + 0: -0 is 0 */
    return (unsigned long long)rank << 32 | (unsigned)index;
}

static inline __device__ float softcapped(float logit, float cap) {
    return cap != 0 ? cap * tanhf(logit / cap) : logit;
}

static inline __device__ float activated(enum act act, float x) {
    switch (act) {
    case ACT_SILU: return x / (1 + expf(-x));
    case ACT_GELU: return 0.5f * x * (1 + erff(x * 0.70710678118654752f));
    case ACT_GELU_TANH: return 0.5f * x * (1 + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    default: return x;
    }
}

/* ---- ops ---------------------------------------------------------------------------------------------------------- */

extern "C" {
/* device.cu */
int cuda_open(const struct device_options *options, struct device **out, struct err *err);
void cuda_close(struct device *dev);
enum dtype cuda_device_dtype(const struct device *dev);
int cuda_device_threads(const struct device *dev);
const char *cuda_device_describe(const struct device *dev);
int cuda_sync(struct device *dev, struct err *err);

/* memory.cu */
void *cuda_mem_alloc(struct device *dev, size_t n_bytes);
void cuda_mem_free(struct device *dev, void *ptr_dev);
void *cuda_mem_reserve(struct device *dev, size_t max_bytes);
bool cuda_mem_commit(struct device *dev, void *ptr_dev, size_t n_bytes);
void cuda_mem_release(struct device *dev, void *ptr_dev, size_t max_bytes);
void cuda_upload(struct device *dev, void *dst_dev, const void *src_host, size_t n_bytes);
void cuda_download(struct device *dev, void *dst_host, const void *src_dev, size_t n_bytes);
void cuda_copy(struct device *dev, void *dst_dev, const void *src_dev, size_t n_bytes);
void cuda_fill(struct device *dev, void *dst_dev, int byte, size_t n_bytes);
void cuda_read(struct device *dev, const void *src_dev, size_t n_bytes);

/* weight.cu */
int cuda_weight_prepare(struct device *dev, const struct host_matrix *matrix, enum weight_use use, struct weight **out,
                        bool *borrowed, struct err *err);
void cuda_weight_free(struct device *dev, struct weight *w);
size_t cuda_weight_bytes(const struct weight *w);

/* product.cu */
void cuda_linear(struct device *dev, const struct linear_args *a);

/* elementwise.cu */
void cuda_embed(struct device *dev, const struct weight *table, const int32_t *ids, size_t n_rows, float scale, float *out);
void cuda_rmsnorm(struct device *dev, const struct rmsnorm_args *a);
void cuda_add(struct device *dev, float *x, const float *add, size_t n);
void cuda_act_mul(struct device *dev, const float *gate_up, enum act act, size_t n_rows, size_t n, void *out);
void cuda_rope(struct device *dev, const struct rope_args *a);
void cuda_gather(struct device *dev, const void *x, const int32_t *index, size_t n, size_t n_cols, void *out);

/* score.cu */
void cuda_predict(struct device *dev, const struct predict_args *a);
void cuda_score_const(struct device *dev, const float *value, size_t n_rows, size_t n_kv_heads, float *u);
void cuda_score_random(struct device *dev, const struct kv_batch *batch, uint64_t seed, int layer, size_t n_kv_heads,
                       float *u);
void cuda_score_key_norm(struct device *dev, const float *k, size_t ld, size_t n_rows, size_t n_kv_heads, size_t head_dim,
                         float *u);
void cuda_output_norm(struct device *dev, const struct output_norm_args *a);
void cuda_gate(struct device *dev, const float *u, size_t n, float threshold, bool strict, uint8_t *open);

/* attend.cu, attend_stats.cu, cache_ops.cu */
void cuda_attend_cache(struct device *dev, const struct attend_args *a);
void cuda_attend_stats(struct device *dev, const struct attend_stats_args *a);
void cuda_attend_columns(struct device *dev, const struct attend_args *a); /* its column_sum; lse is there */
void cuda_kv_append(struct device *dev, const struct kv_append_args *a);
void cuda_kv_prune(struct device *dev, struct kv_cache *c, int slot, int layer, const uint8_t *open);
void cuda_kv_evict(struct device *dev, struct kv_cache *c, int slot, int layer, const uint8_t *keep);
void cuda_kv_copy(struct device *dev, struct kv_cache *c, int from, int to);
void cuda_kv_reset(struct device *dev, struct kv_cache *c, int slot);
void cuda_kv_read(struct device *dev, const struct kv_cache *c, int slot, int layer, int kv_head, const int32_t *index,
                  size_t n, float *k, float *v);

/* evict.cu */
void cuda_query_sums(struct device *dev, const struct query_sums_args *a);
void cuda_column_score(struct device *dev, const struct column_score_args *a);
void cuda_expected_score(struct device *dev, const struct expected_score_args *a);
void cuda_select_top(struct device *dev, const struct select_top_args *a);

/* loss.cu, sample.cu */
void cuda_nll(struct device *dev, const struct nll_args *a);
void cuda_logits(struct device *dev, const struct weight *w, const void *x, float softcap, size_t n_rows, float *out);
void cuda_sample(struct device *dev, const struct sample_args *a);
}

#endif
