/* device.h - the opened CPU backend and what its files share. Internal to kernels/cpu/. */
#ifndef SPKV_KERNELS_CPU_DEVICE_H
#define SPKV_KERNELS_CPU_DEVICE_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/cpu/isa.h"
#include "kernels/train_ops.h"

/* Buffers that grow to a high-water mark and stay. One op may use several at once, each for one purpose. */
enum scratch_id {
    SCRATCH_ROWS,    /* activations of one op: packed, widened or gathered */
    SCRATCH_PRODUCT, /* x of a product, packed or widened by product_run() itself */
    SCRATCH_WEIGHT,  /* a widened tile of a weight */
    SCRATCH_THREAD,  /* equal parts, one per thread */
    SCRATCH_KEYS,    /* the step's own keys and values in page layout */
    SCRATCH_ITEMS,   /* descriptions of work items */
    SCRATCH_LANES,   /* which keys the lanes of packed sequences list */
    SCRATCH_PARTIAL, /* results of work items before they are joined */
    N_SCRATCH
};

struct device {
    enum isa isa;
    enum dtype dtype; /* F32 or BF16 */
    int n_threads;
    struct err err;   /* sticky: the first failure */
    char description[96];
    struct {
        void *data;
        size_t cap_bytes;
    } scratch[N_SCRATCH];
};

struct weight {
    const void *data; /* dtype (n_rows, n_cols), rows contiguous, aligned to the element */
    enum dtype dtype;
    size_t n_rows, n_cols;
    void *owned;      /* NULL when `data` is the caller's memory */
};

/* At least n_bytes of the buffer, 64-byte aligned, content undefined; NULL and sticky ERR_MEMORY. Growing drops the
 * old content. */
void *device_scratch(struct device *dev, enum scratch_id id, size_t n_bytes);

static inline bool device_failed(const struct device *dev) {
    return dev->err.code != OK;
}

/* False after a failure, and on a BF16 device, which fails: training on the CPU computes in f32. */
bool device_trains(struct device *dev);

/* A part of n things for the calling thread of a parallel region: consecutive, in order of the thread number. */
struct range {
    size_t begin, end;
};
struct range thread_range(size_t n);
int thread_number(void);

/* Threads for work of this many bytes of memory traffic: one where a parallel region costs more than it saves. */
static inline int threads_for_bytes(const struct device *dev, size_t n_bytes) {
    return n_bytes < 64 * 1024 ? 1 : dev->n_threads;
}

enum isa isa_detect(void);

/* device.c */
int cpu_open_isa(const struct device_options *options, enum isa isa, struct device **out, struct err *err);
void cpu_close(struct device *dev);
enum dtype cpu_device_dtype(const struct device *dev);
int cpu_device_threads(const struct device *dev);
const char *cpu_device_describe(const struct device *dev);
void *cpu_mem_alloc(struct device *dev, size_t n_bytes);
void cpu_mem_free(struct device *dev, void *ptr_dev);
void *cpu_mem_reserve(struct device *dev, size_t max_bytes);
bool cpu_mem_commit(struct device *dev, void *ptr_dev, size_t n_bytes);
void cpu_mem_release(struct device *dev, void *ptr_dev, size_t max_bytes);
void cpu_upload(struct device *dev, void *dst_dev, const void *src_host, size_t n_bytes);
void cpu_download(struct device *dev, void *dst_host, const void *src_dev, size_t n_bytes);
void cpu_copy(struct device *dev, void *dst_dev, const void *src_dev, size_t n_bytes);
void cpu_read(struct device *dev, const void *src_dev, size_t n_bytes);
void cpu_fill(struct device *dev, void *dst_dev, int byte, size_t n_bytes);
int cpu_sync(struct device *dev, struct err *err);

/* weight.c */
int cpu_weight_prepare(struct device *dev, const struct host_matrix *matrix, enum weight_use use, struct weight **out,
                       bool *borrowed, struct err *err);
void cpu_weight_free(struct device *dev, struct weight *w);
size_t cpu_weight_bytes(const struct weight *w);
const void *weight_row(const struct weight *w, size_t row);
/* Rows begin .. end-1 of w as f32: in place where stored so, else widened by all threads into SCRATCH_WEIGHT. NULL and
 * sticky ERR_MEMORY. */
const float *weight_rows_f32(struct device *dev, const struct weight *w, size_t begin, size_t end);
/* out (n) f32 = n stored elements, by the calling thread */
void device_widen(const struct device *dev, const void *from, enum dtype dtype, size_t n, float *out);
/* out (n) act = scale * x, by the calling thread */
void device_store_act(const struct device *dev, const float *x, float scale, size_t n, void *out);

/* elementwise.c */
void cpu_embed(struct device *dev, const struct weight *table, const int32_t *ids, size_t n_rows, float scale, float *out);
void cpu_rmsnorm(struct device *dev, const struct rmsnorm_args *a);
void cpu_add(struct device *dev, float *x, const float *add, size_t n);
void cpu_act_mul(struct device *dev, const float *gate_up, enum act act, size_t n_rows, size_t n, void *out);
void cpu_rope(struct device *dev, const struct rope_args *a);
void cpu_gather(struct device *dev, const void *x, const int32_t *index, size_t n, size_t n_cols, void *out);

/* linear.c */
void cpu_linear(struct device *dev, const struct linear_args *a);

/* score.c */
/* x (n) = act(x), by all threads */
void device_activate(struct device *dev, float *x, enum act act, size_t n);
void cpu_predict(struct device *dev, const struct predict_args *a);
void cpu_score_const(struct device *dev, const float *value, size_t n_rows, size_t n_kv_heads, float *u);
void cpu_output_norm(struct device *dev, const struct output_norm_args *a);
void cpu_score_key_norm(struct device *dev, const float *k, size_t ld, size_t n_rows, size_t n_kv_heads, size_t head_dim,
                        float *u);
void cpu_score_random(struct device *dev, const struct kv_batch *batch, uint64_t seed, int layer, size_t n_kv_heads,
                      float *u);
void cpu_gate(struct device *dev, const float *u, size_t n, float threshold, bool strict, uint8_t *open);

/* attend.c, attend_stats.c, cache_ops.c */
void cpu_attend_cache(struct device *dev, const struct attend_args *a);
void cpu_attend_stats(struct device *dev, const struct attend_stats_args *a);
void cpu_kv_append(struct device *dev, const struct kv_append_args *a);
void cpu_kv_prune(struct device *dev, struct kv_cache *c, int slot, int layer, const uint8_t *open);
void cpu_kv_evict(struct device *dev, struct kv_cache *c, int slot, int layer, const uint8_t *keep);
void cpu_kv_reset(struct device *dev, struct kv_cache *cache, int slot);
void cpu_kv_copy(struct device *dev, struct kv_cache *cache, int from, int to);
void cpu_kv_read(struct device *dev, const struct kv_cache *cache, int slot, int layer, int kv_head, const int32_t *index,
                 size_t n, float *k, float *v);

/* evict_score.c, select_top.c */
void cpu_query_sums(struct device *dev, const struct query_sums_args *a);
void cpu_column_score(struct device *dev, const struct column_score_args *a);
void cpu_expected_score(struct device *dev, const struct expected_score_args *a);
void cpu_select_top(struct device *dev, const struct select_top_args *a);

/* loss.c, sample.c */
void cpu_nll(struct device *dev, const struct nll_args *a);
void cpu_logits(struct device *dev, const struct weight *w, const void *x, float softcap, size_t n_rows, float *out);
void cpu_sample(struct device *dev, const struct sample_args *a);

/* The ops of kernels/train_ops.h, on F32 devices. */
int cpu_weight_make(struct device *dev, const float *master, size_t n_rows, size_t n_cols, enum weight_use use,
                    struct weight **out, struct err *err);
void cpu_weight_refresh(struct device *dev, struct weight *w);
void cpu_rmsnorm_grad(struct device *dev, const struct rmsnorm_grad_args *a);
void cpu_linear_grad(struct device *dev, const struct linear_grad_args *a);
void cpu_low_rank(struct device *dev, const struct low_rank_args *a);
void cpu_low_rank_grad(struct device *dev, const struct low_rank_grad_args *a);
void cpu_act_mul_grad(struct device *dev, const float *gate_up, enum act act, size_t n_rows, size_t n, const float *dout,
                      float *dgate_up);
void cpu_embed_grad(struct device *dev, const int32_t *ids, size_t n_rows, size_t n_cols, float scale, const float *dout,
                    float *dtable);
void cpu_predict_grad(struct device *dev, const struct predict_grad_args *a);
void cpu_gate_log(struct device *dev, const struct gate_log_args *a);
void cpu_gate_log_grad(struct device *dev, const struct gate_log_grad_args *a);
void cpu_gate_sample(struct device *dev, const float *u, const struct attend_seq_args *sequences,
                     const uint64_t *sequence_id, uint64_t seed, int layer, float clip, uint8_t *open);
void cpu_attend_seq(struct device *dev, const struct attend_seq_args *a);
void cpu_attend_seq_grad(struct device *dev, const struct attend_seq_grad_args *a);
void cpu_nll_grad(struct device *dev, const struct nll_grad_args *a);
void cpu_adamw(struct device *dev, const struct adamw_args *a);
void cpu_norm_sq(struct device *dev, const float *x, size_t n, double *sum);

#endif
