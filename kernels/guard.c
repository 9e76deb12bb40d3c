/* guard.c - the reference backend for tests: all device memory lies in one region that is unreadable outside an op or a
 * copy, so that a caller which touches a device buffer by hand dies at once instead of on the first GPU. Fresh memory is
 * full of NaNs, weights are copied into the region (the caller may drop its own), and freed memory is never used again. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/mem.h"
#include "kernels/ref/ref.h"

static const size_t REGION_BYTES = (size_t)1 << 38; /* address space only */

struct guard {
    struct device ref; /* first, so that the reference takes a guard for its own device */
    char *region;
    size_t used_bytes; /* everything given out so far, freed or not; a multiple of the page of the machine */
};

static struct guard *guard_of(struct device *dev) {
    return (struct guard *)(void *)dev;
}

static void protect(struct guard *g, int protection) {
    int rc = g->used_bytes ? mprotect(g->region, g->used_bytes, protection) : 0;
    ASSERT(rc == 0);
}

static void begin(struct device *dev) {
    protect(guard_of(dev), PROT_READ | PROT_WRITE);
}

static void end(struct device *dev) {
    protect(guard_of(dev), PROT_NONE);
}

/* ---- device and memory ------------------------------------------------------------------------------------------- */

static int guard_open(const struct device_options *options, struct device **out, struct err *err) {
    struct guard *g = mem_alloc(1, sizeof *g, "a device", err);
    int rc = g ? ref_device_init(&g->ref, options, err) : ERR_MEMORY;
    if (rc)
        goto out;
    g->region = mmap(NULL, REGION_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (g->region == MAP_FAILED) {
        rc = err_errno(err, errno, "guard backend", "no address space for device memory");
        goto out;
    }
    *out = &g->ref;
    g = NULL;
out:
    free(g);
    return rc;
}

static void guard_close(struct device *dev) {
    if (dev)
        munmap(guard_of(dev)->region, REGION_BYTES);
    ref_close(dev);
}

static const char *guard_device_describe(const struct device *dev) {
    (void)dev;
    return "the reference over memory that is unreadable between ops, 1 thread";
}

static void *guard_mem_reserve(struct device *dev, size_t max_bytes) {
    struct guard *g = guard_of(dev);
    size_t machine_page = 4096, after;
    if (!size_add(max_bytes, 2 * machine_page - 1, &after) || after > REGION_BYTES - g->used_bytes) {
        err_memory(&dev->failure, "memory of the guard backend", max_bytes);
        return NULL;
    }
    void *memory = g->region + g->used_bytes;
    g->used_bytes += after / machine_page * machine_page; /* at least one byte, one page of distance */
    return memory;
}

static void *guard_mem_alloc(struct device *dev, size_t n_bytes) {
    void *memory = guard_mem_reserve(dev, n_bytes);
    if (!memory)
        return NULL;
    begin(dev);
    memset(memory, 0xFF, n_bytes);
    end(dev);
    return memory;
}

static void guard_mem_free(struct device *dev, void *ptr_dev) {
    (void)dev;
    (void)ptr_dev;
}

static bool guard_mem_commit(struct device *dev, void *ptr_dev, size_t n_bytes) {
    (void)ptr_dev;
    (void)n_bytes;
    return !ref_failed(dev);
}

static void guard_mem_release(struct device *dev, void *ptr_dev, size_t max_bytes) {
    (void)dev;
    if (ptr_dev)
        madvise(ptr_dev, max_bytes, MADV_DONTNEED);
}

static void guard_upload(struct device *dev, void *dst_dev, const void *src_host, size_t n_bytes) {
    begin(dev);
    ref_upload(dev, dst_dev, src_host, n_bytes);
    end(dev);
}

static void guard_download(struct device *dev, void *dst_host, const void *src_dev, size_t n_bytes) {
    begin(dev);
    ref_download(dev, dst_host, src_dev, n_bytes);
    end(dev);
}

static void guard_copy(struct device *dev, void *dst_dev, const void *src_dev, size_t n_bytes) {
    begin(dev);
    ref_copy(dev, dst_dev, src_dev, n_bytes);
    end(dev);
}

static void guard_read(struct device *dev, const void *src_dev, size_t n_bytes) {
    begin(dev);
    ref_read(dev, src_dev, n_bytes);
    end(dev);
}

static void guard_fill(struct device *dev, void *dst_dev, int byte, size_t n_bytes) {
    begin(dev);
    ref_fill(dev, dst_dev, byte, n_bytes);
    end(dev);
}

static int guard_weight_prepare(struct device *dev, const struct host_matrix *matrix, enum weight_use use,
                                struct weight **out, bool *borrowed, struct err *err) {
    size_t n_bytes = matrix->n_rows * matrix->n_cols * dtype_size(matrix->dtype);
    void *copy = guard_mem_alloc(dev, n_bytes);
    if (!copy)
        return err_memory(err, "a weight", n_bytes);
    guard_upload(dev, copy, matrix->data, n_bytes);
    struct host_matrix inside = *matrix;
    inside.data = copy;
    int rc = ref_weight_prepare(dev, &inside, use, out, borrowed, err);
    *borrowed = false;
    return rc;
}

/* ---- ops --------------------------------------------------------------------------------------------------------- */

static void guard_embed(struct device *dev, const struct weight *table, const int32_t *ids, size_t n_rows, float scale,
                        float *out) {
    begin(dev);
    ref_embed(dev, table, ids, n_rows, scale, out);
    end(dev);
}

static void guard_rmsnorm(struct device *dev, const struct rmsnorm_args *a) {
    begin(dev);
    ref_rmsnorm(dev, a);
    end(dev);
}

static void guard_linear(struct device *dev, const struct linear_args *a) {
    begin(dev);
    ref_linear(dev, a);
    end(dev);
}

static void guard_add(struct device *dev, float *x, const float *add, size_t n) {
    begin(dev);
    ref_add(dev, x, add, n);
    end(dev);
}

static void guard_act_mul(struct device *dev, const float *gate_up, enum act act, size_t n_rows, size_t n, void *out) {
    begin(dev);
    ref_act_mul(dev, gate_up, act, n_rows, n, out);
    end(dev);
}

static void guard_rope(struct device *dev, const struct rope_args *a) {
    begin(dev);
    ref_rope(dev, a);
    end(dev);
}

static void guard_gather(struct device *dev, const void *x, const int32_t *index, size_t n, size_t n_cols, void *out) {
    begin(dev);
    ref_gather(dev, x, index, n, n_cols, out);
    end(dev);
}

static void guard_predict(struct device *dev, const struct predict_args *a) {
    begin(dev);
    ref_predict(dev, a);
    end(dev);
}

static void guard_score_const(struct device *dev, const float *value, size_t n_rows, size_t n_kv_heads, float *u) {
    begin(dev);
    ref_score_const(dev, value, n_rows, n_kv_heads, u);
    end(dev);
}

static void guard_score_random(struct device *dev, const struct kv_batch *batch, uint64_t seed, int layer,
                               size_t n_kv_heads, float *u) {
    begin(dev);
    ref_score_random(dev, batch, seed, layer, n_kv_heads, u);
    end(dev);
}

static void guard_score_key_norm(struct device *dev, const float *k, size_t ld, size_t n_rows, size_t n_kv_heads,
                                 size_t head_dim, float *u) {
    begin(dev);
    ref_score_key_norm(dev, k, ld, n_rows, n_kv_heads, head_dim, u);
    end(dev);
}

static void guard_output_norm(struct device *dev, const struct output_norm_args *a) {
    begin(dev);
    ref_output_norm(dev, a);
    end(dev);
}

static void guard_gate(struct device *dev, const float *u, size_t n, float threshold, bool strict, uint8_t *open) {
    begin(dev);
    ref_gate(dev, u, n, threshold, strict, open);
    end(dev);
}

static void guard_attend_cache(struct device *dev, const struct attend_args *a) {
    begin(dev);
    ref_attend_cache(dev, a);
    end(dev);
}

static void guard_attend_stats(struct device *dev, const struct attend_stats_args *a) {
    begin(dev);
    ref_attend_stats(dev, a);
    end(dev);
}

static void guard_kv_append(struct device *dev, const struct kv_append_args *a) {
    begin(dev);
    ref_kv_append(dev, a);
    end(dev);
}

static void guard_kv_prune(struct device *dev, struct kv_cache *cache, int slot, int layer, const uint8_t *open) {
    begin(dev);
    ref_kv_prune(dev, cache, slot, layer, open);
    end(dev);
}

static void guard_kv_evict(struct device *dev, struct kv_cache *cache, int slot, int layer, const uint8_t *keep) {
    begin(dev);
    ref_kv_evict(dev, cache, slot, layer, keep);
    end(dev);
}

static void guard_query_sums(struct device *dev, const struct query_sums_args *a) {
    begin(dev);
    ref_query_sums(dev, a);
    end(dev);
}

static void guard_column_score(struct device *dev, const struct column_score_args *a) {
    begin(dev);
    ref_column_score(dev, a);
    end(dev);
}

static void guard_expected_score(struct device *dev, const struct expected_score_args *a) {
    begin(dev);
    ref_expected_score(dev, a);
    end(dev);
}

static void guard_select_top(struct device *dev, const struct select_top_args *a) {
    begin(dev);
    ref_select_top(dev, a);
    end(dev);
}

static void guard_kv_reset(struct device *dev, struct kv_cache *cache, int slot) {
    begin(dev);
    ref_kv_reset(dev, cache, slot);
    end(dev);
}

static void guard_kv_copy(struct device *dev, struct kv_cache *cache, int from, int to) {
    begin(dev);
    ref_kv_copy(dev, cache, from, to);
    end(dev);
}

static void guard_kv_read(struct device *dev, const struct kv_cache *cache, int slot, int layer, int kv_head,
                          const int32_t *index, size_t n, float *k, float *v) {
    begin(dev);
    ref_kv_read(dev, cache, slot, layer, kv_head, index, n, k, v);
    end(dev);
}

static void guard_nll(struct device *dev, const struct nll_args *a) {
    begin(dev);
    ref_nll(dev, a);
    end(dev);
}

static void guard_logits(struct device *dev, const struct weight *w, const void *x, float softcap, size_t n_rows,
                         float *out) {
    begin(dev);
    ref_logits(dev, w, x, softcap, n_rows, out);
    end(dev);
}

static void guard_sample(struct device *dev, const struct sample_args *a) {
    begin(dev);
    ref_sample(dev, a);
    end(dev);
}

/* ---- training ---------------------------------------------------------------------------------------------------- */

static void guard_rmsnorm_grad(struct device *dev, const struct rmsnorm_grad_args *a) {
    begin(dev);
    ref_rmsnorm_grad(dev, a);
    end(dev);
}

static void guard_linear_grad(struct device *dev, const struct linear_grad_args *a) {
    begin(dev);
    ref_linear_grad(dev, a);
    end(dev);
}

static void guard_low_rank(struct device *dev, const struct low_rank_args *a) {
    begin(dev);
    ref_low_rank(dev, a);
    end(dev);
}

static void guard_low_rank_grad(struct device *dev, const struct low_rank_grad_args *a) {
    begin(dev);
    ref_low_rank_grad(dev, a);
    end(dev);
}

static void guard_act_mul_grad(struct device *dev, const float *gate_up, enum act act, size_t n_rows, size_t n,
                               const float *dout, float *dgate_up) {
    begin(dev);
    ref_act_mul_grad(dev, gate_up, act, n_rows, n, dout, dgate_up);
    end(dev);
}

static void guard_embed_grad(struct device *dev, const int32_t *ids, size_t n_rows, size_t n_cols, float scale,
                             const float *dout, float *dtable) {
    begin(dev);
    ref_embed_grad(dev, ids, n_rows, n_cols, scale, dout, dtable);
    end(dev);
}

static void guard_predict_grad(struct device *dev, const struct predict_grad_args *a) {
    begin(dev);
    ref_predict_grad(dev, a);
    end(dev);
}

static void guard_gate_log(struct device *dev, const struct gate_log_args *a) {
    begin(dev);
    ref_gate_log(dev, a);
    end(dev);
}

static void guard_gate_log_grad(struct device *dev, const struct gate_log_grad_args *a) {
    begin(dev);
    ref_gate_log_grad(dev, a);
    end(dev);
}

static void guard_gate_sample(struct device *dev, const float *u, const struct attend_seq_args *sequences,
                              const uint64_t *sequence_id, uint64_t seed, int layer, float clip, uint8_t *open) {
    begin(dev);
    ref_gate_sample(dev, u, sequences, sequence_id, seed, layer, clip, open);
    end(dev);
}

static void guard_attend_seq(struct device *dev, const struct attend_seq_args *a) {
    begin(dev);
    ref_attend_seq(dev, a);
    end(dev);
}

static void guard_attend_seq_grad(struct device *dev, const struct attend_seq_grad_args *a) {
    begin(dev);
    ref_attend_seq_grad(dev, a);
    end(dev);
}

static void guard_nll_grad(struct device *dev, const struct nll_grad_args *a) {
    begin(dev);
    ref_nll_grad(dev, a);
    end(dev);
}

static void guard_adamw(struct device *dev, const struct adamw_args *a) {
    begin(dev);
    ref_adamw(dev, a);
    end(dev);
}

static void guard_norm_sq(struct device *dev, const float *x, size_t n, double *sum) {
    begin(dev);
    ref_norm_sq(dev, x, n, sum);
    end(dev);
}

const struct ops *ops_guard(void) {
    static const struct train_ops train = {
        .weight_make = ref_weight_make,
        .weight_refresh = ref_weight_refresh,
        .rmsnorm_grad = guard_rmsnorm_grad,
        .linear_grad = guard_linear_grad,
        .low_rank = guard_low_rank,
        .low_rank_grad = guard_low_rank_grad,
        .act_mul_grad = guard_act_mul_grad,
        .embed_grad = guard_embed_grad,
        .predict_grad = guard_predict_grad,
        .gate_log = guard_gate_log,
        .gate_log_grad = guard_gate_log_grad,
        .gate_sample = guard_gate_sample,
        .attend_seq = guard_attend_seq,
        .attend_seq_grad = guard_attend_seq_grad,
        .nll_grad = guard_nll_grad,
        .adamw = guard_adamw,
        .norm_sq = guard_norm_sq,
    };
    static const struct ops table = {
        .name = "guard",
        .open = guard_open,
        .close = guard_close,
        .device_dtype = ref_device_dtype,
        .device_threads = ref_device_threads,
        .device_describe = guard_device_describe,
        .mem_alloc = guard_mem_alloc,
        .mem_free = guard_mem_free,
        .mem_reserve = guard_mem_reserve,
        .mem_commit = guard_mem_commit,
        .mem_release = guard_mem_release,
        .upload = guard_upload,
        .download = guard_download,
        .copy = guard_copy,
        .fill = guard_fill,
        .read = guard_read,
        .sync = ref_sync,
        .weight_prepare = guard_weight_prepare,
        .weight_free = ref_weight_free,
        .weight_bytes = ref_weight_bytes,
        .embed = guard_embed,
        .rmsnorm = guard_rmsnorm,
        .linear = guard_linear,
        .add = guard_add,
        .act_mul = guard_act_mul,
        .rope = guard_rope,
        .gather = guard_gather,
        .predict = guard_predict,
        .score_const = guard_score_const,
        .score_random = guard_score_random,
        .score_key_norm = guard_score_key_norm,
        .output_norm = guard_output_norm,
        .gate = guard_gate,
        .attend_cache = guard_attend_cache,
        .attend_stats = guard_attend_stats,
        .kv_append = guard_kv_append,
        .kv_prune = guard_kv_prune,
        .kv_evict = guard_kv_evict,
        .query_sums = guard_query_sums,
        .column_score = guard_column_score,
        .expected_score = guard_expected_score,
        .select_top = guard_select_top,
        .kv_reset = guard_kv_reset,
        .kv_copy = guard_kv_copy,
        .kv_read = guard_kv_read,
        .nll = guard_nll,
        .logits = guard_logits,
        .sample = guard_sample,
        .train = &train,
    };
    return &table;
}
