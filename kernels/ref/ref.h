/* ref.h - private to the reference backend and its guard: what a device and a weight are, element access, and the ops
 * by name. Plain C, one thread, every sum in double. Device memory is host memory here. */
#ifndef SPKV_KERNELS_REF_REF_H
#define SPKV_KERNELS_REF_REF_H

#include "base/err.h"
#include "kernels/ops.h"
#include "kernels/train_ops.h"

struct device {
    enum dtype dtype;   /* compute dtype */
    struct err failure; /* the first one; code 0 while all is well */
    void *scratch;      /* grows, see ref_scratch() */
    size_t scratch_bytes;
};

struct weight {
    const void *data;   /* (n_rows, n_cols) as stored, borrowed (by the guard: from its region) */
    enum dtype dtype;
    size_t n_rows, n_cols;
    bool to_bf16;       /* elements count as rounded to bf16: compute weights on a BF16 device */
};

/* ---- elements ---- */

/* dtype of "f32" buffers on this device. */
static inline enum dtype ref_real(const struct device *dev) {
    return dev->dtype == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32;
}

static inline double real_load(const struct device *dev, const void *data, size_t i) {
    return dev->dtype == DTYPE_F64 ? ((const double *)data)[i] : (double)((const float *)data)[i];
}

static inline void real_store(const struct device *dev, void *data, size_t i, double value) {
    if (dev->dtype == DTYPE_F64)
        ((double *)data)[i] = value;
    else
        ((float *)data)[i] = (float)value;
}

/* The value after a round trip through a dtype. */
static inline double rounded(double value, enum dtype dtype) {
    return dtype == DTYPE_F64 ? value : dtype == DTYPE_F32 ? (double)(float)value
                                                           : (double)bf16_to_f32(f32_to_bf16((float)value));
}

static inline double weight_load(const struct weight *w, size_t i) {
    double value = dtype_load(w->data, w->dtype, i);
    return w->to_bf16 ? rounded(value, DTYPE_BF16) : value;
}

static inline void weight_row(const struct weight *w, size_t row, double *out) {
    for (size_t i = 0; i < w->n_cols; i++)
        out[i] = weight_load(w, row * w->n_cols + i);
}

/* Elements first .. first + n - 1 as doubles. */
static inline void widen(const void *data, enum dtype dtype, size_t first, size_t n, double *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = dtype_load(data, dtype, first + i);
}

static inline double dot(const double *a, const double *b, size_t n) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* y (n) += a * x (n) */
static inline void add_scaled(double *y, double a, const double *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

static inline void real_add(const struct device *dev, void *data, size_t i, double value) {
    real_store(dev, data, i, real_load(dev, data, i) + value);
}

double ref_act(enum act act, double x);
double ref_act_slope(enum act act, double x);
double ref_softcap(double logit, double cap);

/* Slope of the soft-cap where it gives `capped`. */
static inline double softcap_slope(double capped, double cap) {
    return cap != 0 ? 1 - capped / cap * (capped / cap) : 1;
}

/* True after the first failure: ops do nothing then. */
static inline bool ref_failed(const struct device *dev) {
    return dev->failure.code != OK;
}

/* At least n_bytes of memory, undefined content, until the next call; NULL and a failed device when exhausted. */
void *ref_scratch(struct device *dev, size_t n_bytes);

/* ---- cached pairs ---- */

/* Rows of a lane's pages are numbered through its page list: ring slot r is row r, long-term entry j is row
 * lane_long_row() + j. */
static inline size_t lane_long_row(const struct kv_cache *c, int window) {
    return (size_t)kv_ring_pages(window, c->page_slots) * (size_t)c->page_slots;
}

/* Keys of a row, head_dim elements of cache dtype; its values lie pair_v() further. */
static inline char *lane_k(const struct kv_cache *c, size_t lane, size_t row) {
    size_t slots = (size_t)c->page_slots;
    int32_t page = c->page_list[lane * (size_t)c->list_len + row / slots];
    ASSERT(page >= 0);
    return (char *)c->pool + (size_t)page * c->page_bytes + row % slots * (size_t)c->head_dim * dtype_size(c->dtype);
}

static inline char *lane_v(const struct kv_cache *c, size_t lane, size_t row) {
    return lane_k(c, lane, row) + c->page_bytes / 2;
}

/* ---- ops ---- */

int ref_open(const struct device_options *options, struct device **out, struct err *err);
void ref_close(struct device *dev);
/* What open does after the allocation, for a device inside a larger struct. ERR_INPUT for dtypes that are none. */
int ref_device_init(struct device *dev, const struct device_options *options, struct err *err);
enum dtype ref_device_dtype(const struct device *dev);
int ref_device_threads(const struct device *dev);
const char *ref_device_describe(const struct device *dev);
void *ref_mem_alloc(struct device *dev, size_t n_bytes);
void ref_mem_free(struct device *dev, void *ptr_dev);
void *ref_mem_reserve(struct device *dev, size_t max_bytes);
bool ref_mem_commit(struct device *dev, void *ptr_dev, size_t n_bytes);
void ref_mem_release(struct device *dev, void *ptr_dev, size_t max_bytes);
void ref_upload(struct device *dev, void *dst_dev, const void *src_host, size_t n_bytes);
void ref_download(struct device *dev, void *dst_host, const void *src_dev, size_t n_bytes);
void ref_copy(struct device *dev, void *dst_dev, const void *src_dev, size_t n_bytes);
void ref_read(struct device *dev, const void *src_dev, size_t n_bytes);
void ref_fill(struct device *dev, void *dst_dev, int byte, size_t n_bytes);
int ref_sync(struct device *dev, struct err *err);

int ref_weight_prepare(struct device *dev, const struct host_matrix *matrix, enum weight_use use, struct weight **out,
                       bool *borrowed, struct err *err);
void ref_weight_free(struct device *dev, struct weight *w);
size_t ref_weight_bytes(const struct weight *w);
void ref_embed(struct device *dev, const struct weight *table, const int32_t *ids, size_t n_rows, float scale, float *out);
void ref_linear(struct device *dev, const struct linear_args *a);
void ref_logits(struct device *dev, const struct weight *w, const void *x, float softcap, size_t n_rows, float *out);
void ref_nll(struct device *dev, const struct nll_args *a);

void ref_rmsnorm(struct device *dev, const struct rmsnorm_args *a);
void ref_rope(struct device *dev, const struct rope_args *a);
void ref_add(struct device *dev, float *x, const float *add, size_t n);
void ref_act_mul(struct device *dev, const float *gate_up, enum act act, size_t n_rows, size_t n, void *out);
void ref_gather(struct device *dev, const void *x, const int32_t *index, size_t n, size_t n_cols, void *out);

void ref_predict(struct device *dev, const struct predict_args *a);
void ref_score_const(struct device *dev, const float *value, size_t n_rows, size_t n_kv_heads, float *u);
void ref_output_norm(struct device *dev, const struct output_norm_args *a);
void ref_score_key_norm(struct device *dev, const float *k, size_t ld, size_t n_rows, size_t n_kv_heads, size_t head_dim,
                        float *u);
void ref_score_random(struct device *dev, const struct kv_batch *batch, uint64_t seed, int layer, size_t n_kv_heads,
                      float *u);
void ref_gate(struct device *dev, const float *u, size_t n, float threshold, bool strict, uint8_t *open);

void ref_attend_cache(struct device *dev, const struct attend_args *a);
void ref_attend_stats(struct device *dev, const struct attend_stats_args *a);
void ref_kv_append(struct device *dev, const struct kv_append_args *a);
void ref_kv_prune(struct device *dev, struct kv_cache *c, int slot, int layer, const uint8_t *open);
void ref_kv_evict(struct device *dev, struct kv_cache *c, int slot, int layer, const uint8_t *keep);
void ref_query_sums(struct device *dev, const struct query_sums_args *a);
void ref_column_score(struct device *dev, const struct column_score_args *a);
void ref_expected_score(struct device *dev, const struct expected_score_args *a);
void ref_select_top(struct device *dev, const struct select_top_args *a);
void ref_kv_reset(struct device *dev, struct kv_cache *cache, int slot);
void ref_kv_copy(struct device *dev, struct kv_cache *cache, int from, int to);
void ref_kv_read(struct device *dev, const struct kv_cache *cache, int slot, int layer, int kv_head, const int32_t *index,
                 size_t n, float *k, float *v);

void ref_sample(struct device *dev, const struct sample_args *a);

/* ---- training ---- */

int ref_weight_make(struct device *dev, const float *master, size_t n_rows, size_t n_cols, enum weight_use use,
                    struct weight **out, struct err *err);
void ref_weight_refresh(struct device *dev, struct weight *w);
void ref_rmsnorm_grad(struct device *dev, const struct rmsnorm_grad_args *a);
void ref_linear_grad(struct device *dev, const struct linear_grad_args *a);
void ref_low_rank(struct device *dev, const struct low_rank_args *a);
void ref_low_rank_grad(struct device *dev, const struct low_rank_grad_args *a);
void ref_act_mul_grad(struct device *dev, const float *gate_up, enum act act, size_t n_rows, size_t n, const float *dout,
                      float *dgate_up);
void ref_embed_grad(struct device *dev, const int32_t *ids, size_t n_rows, size_t n_cols, float scale, const float *dout,
                    float *dtable);
void ref_predict_grad(struct device *dev, const struct predict_grad_args *a);
void ref_gate_log(struct device *dev, const struct gate_log_args *a);
void ref_gate_log_grad(struct device *dev, const struct gate_log_grad_args *a);
void ref_gate_sample(struct device *dev, const float *u, const struct attend_seq_args *sequences,
                     const uint64_t *sequence_id, uint64_t seed, int layer, float clip, uint8_t *open);
void ref_attend_seq(struct device *dev, const struct attend_seq_args *a);
void ref_attend_seq_grad(struct device *dev, const struct attend_seq_grad_args *g);
void ref_nll_grad(struct device *dev, const struct nll_grad_args *a);
void ref_adamw(struct device *dev, const struct adamw_args *a);
void ref_norm_sq(struct device *dev, const float *x, size_t n, double *sum);

#endif
