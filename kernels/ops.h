/* ops.h - the op table: everything a backend does. The model, the session and the trainer are written once against it.
 *
 * Memory. Pointers named `_dev`, and every pointer inside an args struct unless it says host, are device addresses from
 * mem_alloc() or mem_reserve(): nobody but a backend may dereference them. Matrices are row-major; `ld` is the distance
 * of rows in elements. "act" elements have the device's compute dtype (device_dtype()): f32, or bf16 where operands of
 * matrix products and the cache are bf16 and everything else (residual, norms, RoPE, softmax, scores, losses) is f32.
 * On a device of dtype F64 (reference only) "f32" buffers hold doubles too: read "real" for f32 in every contract;
 * real_size() tells the size.
 *
 * Order and errors. Ops are queued in order and return nothing. The first failure is kept by the device, later ops do
 * nothing, and sync() reports it. Zero rows are legal everywhere and do nothing. Outputs may alias inputs only where said.
 * Shape rules that a caller could break are ASSERTs. One thread at a time per device.
 *
 * Numbers. NaN and infinities propagate as in IEEE arithmetic; -INFINITY is the mask. Results are bitwise equal for equal
 * arguments and thread count. */
#ifndef SPKV_KERNELS_OPS_H
#define SPKV_KERNELS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/dtype.h"
#include "kernels/kv_cache.h"

struct device; /* one opened backend: threads, scratch, queue, sticky error */
struct weight; /* a matrix in the one layout that all its users read */
struct train_ops;

struct device_options {
    int n_threads;    /* 0 = as many as the machine has */
    enum dtype dtype; /* compute dtype: F32 or BF16; F64 in the reference */
    int index;        /* which GPU */
};

/* A matrix in host memory, not necessarily aligned. */
struct host_matrix {
    const void *data;
    enum dtype dtype;
    size_t n_rows, n_cols;
};

enum act { ACT_NONE, ACT_SILU, ACT_GELU, ACT_GELU_TANH };

/* x may be changed first: x += add (both f32, same ld). Then every run of n_cols elements, n_groups of them side by side
 * in a row, is scaled by weight / sqrt(mean of squares + eps) (RMSNorm, arXiv 1910.07467). */
struct rmsnorm_args {
    float *x;             /* (n_rows, n_groups * n_cols) f32, ld_x */
    const float *add;     /* NULL, or (n_rows, n_groups * n_cols) f32, ld_x */
    const float *weight;  /* (n_cols) f32 */
    float eps;
    bool plus_one;        /* Gemma: factor is 1 + weight */
    size_t n_rows, n_groups, n_cols, ld_x;
    float *out_f32;       /* NULL, or f32, ld_x; may be x itself (then `add` must be NULL) */
    void *out_act;        /* NULL, or act elements, ld n_groups * n_cols */
};

struct linear_args {
    const struct weight *w; /* (n_out, n_in) */
    const void *x;          /* (n_rows, n_in) act, contiguous */
    const float *bias;      /* NULL or (n_out) f32 */
    float *y;               /* (n_rows, n_out) f32, ld_y: y = x w^T + bias */
    size_t n_rows, ld_y;
};

struct rope_args {
    float *x;             /* (n_rows, n_heads * head_dim) f32, ld_x; rotated in place, first half with second half */
    const int32_t *pos;   /* (n_rows) */
    const float *table;   /* (n_pos, head_dim) f32: head_dim / 2 cosines, then as many sines, attention factor included */
    size_t n_rows, n_heads, head_dim, ld_x;
    bool inverse;         /* rotate back: the gradient of the rotation */
};

/* Utility predictor: u = output(fc2 * act(fc1 * h + b1) + b2) (arXiv 2605.14037; method.md section 2).
 * fc1 NULL: a linear predictor, u = output(fc2 * h + b2) with fc2 (n_kv_heads, d_model). fc1 and fc2 NULL: static gates,
 * u = output(b2). All in f32. */
struct predict_args {
    const float *h;            /* (n_rows, d_model) f32 */
    const struct weight *fc1;  /* (hidden, d_model), prepared with WEIGHT_F32 */
    const float *b1;           /* (hidden) */
    const struct weight *fc2;  /* (n_kv_heads, hidden), prepared with WEIGHT_F32 */
    const float *b2;           /* (n_kv_heads) */
    enum act act;
    bool sigmoid;              /* output: sigmoid or identity */
    size_t n_rows, n_kv_heads;
    float *u;                  /* (n_rows, n_kv_heads) f32 */
};

/* The largest sqrt(v gram[h] v) over the query heads h of the group of v: with gram[h] = W_o[h]^T W_o[h] the norm of what a
 * value becomes behind the output projection. 0 where rounding makes the product negative. */
struct output_norm_args {
    const float *v;      /* (n_rows, n_kv_heads * head_dim) f32, ld_v */
    const float *gram;   /* (n_heads, head_dim, head_dim) f32, symmetric */
    size_t n_rows, n_heads, n_kv_heads, head_dim, ld_v;
    float *norm;         /* (n_rows, n_kv_heads) f32 */
};

/* The rows of one step: n_seq runs of consecutive rows, run i = rows row_splits[i] .. row_splits[i+1]-1 = the next tokens
 * of cache slot slots[i], first of them at position pos0[i] = tokens fed before. Host arrays, read during the call. */
struct kv_batch {
    int n_seq;
    const int *slots;            /* (n_seq) distinct */
    const int *row_splits;       /* (n_seq + 1), row_splits[0] = 0; every run has at least one row */
    const int *pos0;             /* (n_seq) */
    const uint64_t *sequence_id; /* (n_seq) global index of the sequence: the key of random gates */
};

/* Attention of the rows of a step over what they may see (method.md sections 3 and 4): query at position t sees key s <= t
 * when t - s < window of the KV head, or the gate of s is open, or s < sinks (last two not in ring_only layers). Keys come
 * from the long-term store (all visible), from the ring (gate stored there) and from the step's own rows (gate in `open`).
 * The cache is not changed. Query head h reads KV head h / (n_heads / n_kv_heads). */
struct attend_args {
    const struct kv_cache *cache;
    struct kv_batch batch;
    int layer;
    const float *q;          /* (n_rows, n_heads * head_dim) f32, ld_qkv; after norm and RoPE */
    const float *k, *v;      /* (n_rows, n_kv_heads * head_dim) f32, ld_qkv */
    const uint8_t *open;     /* (n_rows, n_kv_heads) gates of the rows, 0 or 1 */
    size_t n_rows, n_heads, ld_qkv;
    float scale;             /* logit = softcap(scale * q.k) */
    float softcap;           /* 0 = none, else cap * tanh(logit / cap) */
    void *out;               /* (n_rows, n_heads * head_dim) act, contiguous */
    float *lse;              /* NULL, or (n_rows, n_heads) f32: log of the sum of exp(logit) over visible keys */
    float *column_sum;       /* NULL, or (n_slots, n_kv_heads, max_len) f32 by cache slot and position of the key, added to:
                                its softmax weights, mean over the group's query heads, summed over the queries of positions
                                >= column_from. Then lse is there too, and the cache notes positions */
    const int *column_from;  /* (n_seq) host */
};

/* Sums of softmax weights of a step, for head maps and the oracle of dense models (method.md section 11). Every output is
 * added to. */
struct attend_stats_args {
    const struct attend_args *attend; /* the arguments of the attend_cache call, lse filled */
    int window, sinks;                /* what "far" means here, whatever the cache holds */
    double *far_sum, *sink_sum;       /* (n_seq, n_kv_heads) f64 mean over the group's query heads, summed over queries: mass
                                         on keys with t - s >= window and s >= sinks; on keys with s < sinks; NULL with
                                         distance_sum NULL to skip */
    double *distance_sum;             /* (n_seq, n_kv_heads, n_bins) f64 mass by distance t - s; NULL to skip */
    const int32_t *bin_of_distance;   /* (max_len) bin of every distance, device */
    int n_bins;
    float *future_max, *future_sum;   /* (n_slots, max_len, n_kv_heads) f32 by cache slot and position s of the key: the
                                         largest weight, and the sum, from queries t >= s + window of all query heads of
                                         the group; both NULL to skip */
};

/* Sums of queries before their rotation, for policies that expect future queries to resemble past ones: per query head the
 * sum of q (head_dim), then of q q^T (head_dim, head_dim) on and above the diagonal, over the rows of positions >= skip.
 * Added to; nothing reads or writes below the diagonal. */
struct query_sums_args {
    struct kv_batch batch;
    const float *q;          /* (n_rows, n_heads * head_dim) f32, ld_q */
    size_t n_heads, head_dim, ld_q;
    int skip;
    double *sum;             /* (n_slots, n_heads, head_dim * (head_dim + 1)) f64 */
};

/* Scores of the long-term pairs of one layer of a slot, in their order, from what attention added up. Pairs of sinks score
 * INFINITY. */
struct column_score_args {
    const struct kv_cache *cache; /* with positions */
    int slot, layer;
    const float *column_sum;      /* (n_slots, n_kv_heads, max_len) f32 by position */
    bool mean_heads;              /* the mean over KV heads counts for all of them */
    int pool;                     /* odd: mean over this many neighbours in the store, zeros beyond its ends and for sinks */
    float *score;                 /* (n_kv_heads, max_len) f32; the first n_long of each head are written */
};

/* The same from sums of queries (Expected Attention, arXiv 2510.00636): with mean m and covariance S of the queries and R
 * the mean rotation of future positions, softmax over the pairs of scale m.R'k + scale^2 / 2 R'k.S R'k, meant over the query
 * heads of the group, times |v|. Sinks are outside the softmax. */
struct expected_score_args {
    const struct kv_cache *cache;
    int slot, layer;
    size_t n_heads;
    const double *query_sum;  /* (n_slots, n_heads, head_dim * (head_dim + 1)) f64 */
    int n_queries;            /* in the sums; 0: no query is known and only |v| counts */
    const float *rotation;    /* (head_dim) f32: row of the RoPE table of the last position; NULL = no rotation */
    const float *future;      /* (head_dim) f32: mean cosines and sines of the steps from there to future positions */
    float scale;
    float *score;             /* (n_kv_heads, max_len) f32 */
};

/* Marks the k best scores of each set of n_lanes neighbouring lanes; ties go to the lower lane, then the lower index. NaN is
 * never marked. Lane i has n[i] scores, the first of its row. */
struct select_top_args {
    const float *score;       /* (n_sets * n_lanes, stride) f32 */
    const int32_t *n;         /* (n_sets * n_lanes) */
    size_t n_sets, n_lanes, stride, k;
    uint8_t *keep;            /* (n_sets * n_lanes, stride) u8: 1 or 0 for every score */
};

/* Takes the step's pairs into the cache, after attend_cache of the same layer: pairs that leave the ring go to the
 * long-term store when open or below sinks, else away; a run longer than the window passes through in order. Updates
 * n_fed, n_long, n_kept, visible_pairs. Pages come from the free list (kv_cache_reserve() made sure). */
struct kv_append_args {
    struct kv_cache *cache;
    struct kv_batch batch;
    int layer;
    const float *k, *v;  /* (n_rows, n_kv_heads * head_dim) f32, ld_kv */
    const uint8_t *open; /* (n_rows, n_kv_heads) */
    size_t ld_kv;
};

/* -log softmax(softcap(x w^T))[target] per row, tile by tile over the vocabulary, and whether the target is what greedy
 * sampling would take. */
struct nll_args {
    const struct weight *w;  /* (vocab_size, d_model) */
    const void *x;           /* (n_rows, d_model) act */
    const int32_t *target;   /* (n_rows); -1 = no loss, nll gets NaN */
    float softcap;           /* 0 = none */
    size_t n_rows;
    float *nll;              /* (n_rows) f32 */
    uint8_t *is_argmax;      /* NULL, or (n_rows) u8: 1 where no logit is larger and none of a lower id as large, else 0 */
};

struct sample_args {
    const float *logits;     /* (n_rows, n_vocab) f32 */
    size_t n_rows, n_vocab;
    float temperature;       /* 0 = greedy: the largest, ties to the lower id, NaN never */
    int top_k;               /* 0 = all */
    float top_p;             /* 1 = all */
    uint64_t seed;
    const uint64_t *sequence_id; /* (n_rows) host */
    const int *position;     /* (n_rows) host: position of the token to be drawn */
    int32_t *id;             /* (n_rows) */
};

enum weight_use {
    WEIGHT_COMPUTE, /* the device's compute dtype; f32 devices may keep bf16 and f16 as stored and widen tiles */
    WEIGHT_F32,     /* results as if widened to f32: predictors */
};

struct ops {
    const char *name; /* "ref", "guard", "cpu", "cuda" */

    /* --- device and memory ------------------------------------------------------------------------------------ */
    int (*open)(const struct device_options *options, struct device **out, struct err *err);
    void (*close)(struct device *dev); /* after everything made on it was freed; NULL is legal */
    enum dtype (*device_dtype)(const struct device *dev);
    int (*device_threads)(const struct device *dev);
    const char *(*device_describe)(const struct device *dev); /* "AVX-512 AMX-BF16, 2 threads"; borrowed */

    void *(*mem_alloc)(struct device *dev, size_t n_bytes); /* 64-byte aligned, undefined content; NULL: sticky ERR_MEMORY */
    void (*mem_free)(struct device *dev, void *ptr_dev);    /* NULL is legal */
    /* Address space that costs nothing until committed. commit makes the first n_bytes usable; what was not yet usable is
     * zero, the rest keeps its content. */
    void *(*mem_reserve)(struct device *dev, size_t max_bytes);
    bool (*mem_commit)(struct device *dev, void *ptr_dev, size_t n_bytes); /* false and sticky ERR_MEMORY when exhausted */
    void (*mem_release)(struct device *dev, void *ptr_dev, size_t max_bytes);
    void (*upload)(struct device *dev, void *dst_dev, const void *src_host, size_t n_bytes); /* src is free on return */
    void (*download)(struct device *dev, void *dst_host, const void *src_dev, size_t n_bytes); /* valid after sync */
    void (*copy)(struct device *dev, void *dst_dev, const void *src_dev, size_t n_bytes); /* no overlap */
    void (*fill)(struct device *dev, void *dst_dev, int byte, size_t n_bytes);
    /* Reads n bytes with all threads and forgets them: what the memory can do, for benchmarks. 64-byte aligned. */
    void (*read)(struct device *dev, const void *src_dev, size_t n_bytes);
    int (*sync)(struct device *dev, struct err *err); /* waits; reports the first failure since open, which stays */

    /* A matrix for `linear`, `embed`, `nll` and `logits`. Where the stored bytes serve as they are, the host memory stays
     * in use and must outlive the weight; *borrowed says so. Otherwise the caller may drop the host memory. */
    int (*weight_prepare)(struct device *dev, const struct host_matrix *matrix, enum weight_use use, struct weight **out,
                          bool *borrowed, struct err *err);
    void (*weight_free)(struct device *dev, struct weight *w);
    size_t (*weight_bytes)(const struct weight *w); /* memory that a forward pass reads for it */

    /* --- the forward pass --------------------------------------------------------------------------------------- */
    /* out (n_rows, d_model) f32 = scale * row ids[r] of table; ids (n_rows) in range. */
    void (*embed)(struct device *dev, const struct weight *table, const int32_t *ids, size_t n_rows, float scale, float *out);
    void (*rmsnorm)(struct device *dev, const struct rmsnorm_args *a);
    void (*linear)(struct device *dev, const struct linear_args *a);
    /* x (n) f32 += add (n) f32 */
    void (*add)(struct device *dev, float *x, const float *add, size_t n);
    /* out (n_rows, n) act = act(gate) * up, gate_up (n_rows, 2 n) f32 with the gate half first */
    void (*act_mul)(struct device *dev, const float *gate_up, enum act act, size_t n_rows, size_t n, void *out);
    void (*rope)(struct device *dev, const struct rope_args *a);
    /* out (n, n_cols) act = x rows index[i] (n) of act matrix x (.., n_cols) */
    void (*gather)(struct device *dev, const void *x, const int32_t *index, size_t n, size_t n_cols, void *out);

    /* --- scores and gates ---------------------------------------------------------------------------------------- */
    void (*predict)(struct device *dev, const struct predict_args *a);
    /* u (n_rows, n_kv_heads) f32 = value[kv_head] in every row */
    void (*score_const)(struct device *dev, const float *value, size_t n_rows, size_t n_kv_heads, float *u);
    /* u (n_rows, n_kv_heads) f32 = rng_uniform(seed, sequence, layer, kv_head, position): open at threshold 1 - density */
    void (*score_random)(struct device *dev, const struct kv_batch *batch, uint64_t seed, int layer, size_t n_kv_heads,
                         float *u);
    /* u (n_rows, n_kv_heads) f32 = -|k[row, kv_head]|, the Euclidean norm; k (n_rows, n_kv_heads * head_dim) f32, ld. */
    void (*score_key_norm)(struct device *dev, const float *k, size_t ld, size_t n_rows, size_t n_kv_heads, size_t head_dim,
                           float *u);
    void (*output_norm)(struct device *dev, const struct output_norm_args *a);
    /* open (n) u8 = u >= threshold (strict: u > threshold), compared in f32; NaN is closed */
    void (*gate)(struct device *dev, const float *u, size_t n, float threshold, bool strict, uint8_t *open);

    /* --- attention over the cache ------------------------------------------------------------------------------- */
    void (*attend_cache)(struct device *dev, const struct attend_args *a);
    void (*attend_stats)(struct device *dev, const struct attend_stats_args *a);
    void (*kv_append)(struct device *dev, const struct kv_append_args *a);
    /* Ends a dense prefill of one layer of a slot, whose pairs were all kept until now (fed with open = 1): those with
     * open[position * n_kv_heads + kv_head] = 0 and position >= sinks leave the long-term store, the others move up in
     * order, pages that are not needed any more go back, and the ring's gates take the same values. open (n_fed, n_kv_heads)
     * u8. n_long and n_kept are counted anew, visible_pairs stays. Does nothing in ring_only layers. */
    void (*kv_prune)(struct device *dev, struct kv_cache *cache, int slot, int layer, const uint8_t *open);
    /* Long-term pair i of a head of the layer stays when keep[kv_head * max_len + i] != 0 or it is a sink; the others go as
     * under kv_prune. keep (n_kv_heads, max_len) u8. */
    void (*kv_evict)(struct device *dev, struct kv_cache *cache, int slot, int layer, const uint8_t *keep);
    void (*query_sums)(struct device *dev, const struct query_sums_args *a);
    void (*column_score)(struct device *dev, const struct column_score_args *a);
    void (*expected_score)(struct device *dev, const struct expected_score_args *a);
    void (*select_top)(struct device *dev, const struct select_top_args *a);
    /* Gives the slot's pages back and zeroes its counters. */
    void (*kv_reset)(struct device *dev, struct kv_cache *cache, int slot);
    /* Slot `to`, which must be empty, becomes an equal of slot `from` in pages of its own; kv_cache_copy() made sure that
     * there are enough. */
    void (*kv_copy)(struct device *dev, struct kv_cache *cache, int from, int to);
    /* Logical rows of a lane: pairs index[0..n) counted as long-term entries 0 .. n_long-1, then ring slots by position
     * ascending; k and v (n, head_dim) f32, device memory. For tests and statistics. */
    void (*kv_read)(struct device *dev, const struct kv_cache *cache, int slot, int layer, int kv_head, const int32_t *index,
                    size_t n, float *k, float *v);

    /* --- losses and tokens ---------------------------------------------------------------------------------------- */
    void (*nll)(struct device *dev, const struct nll_args *a);
    /* out (n_rows, vocab_size) f32 = softcap(x w^T) */
    void (*logits)(struct device *dev, const struct weight *w, const void *x, float softcap, size_t n_rows, float *out);
    void (*sample)(struct device *dev, const struct sample_args *a);

    const struct train_ops *train; /* kernels/train_ops.h; NULL where the backend does not train */
};

const struct ops *ops_ref(void);   /* plain C, accumulates in double, one thread; F32, BF16 and F64 devices */
const struct ops *ops_guard(void); /* tests: the reference over memory that is unreadable outside an op or a copy */
const struct ops *ops_cpu(void);   /* SIMD variants chosen at open, oneDNN, OpenMP */
const struct ops *ops_cuda(void);  /* NVIDIA GPUs; NULL in a build without CUDA. open says why there is none to use */

/* Bytes of a "f32" element on this device: 4, or 8 on an F64 device. */
static inline size_t real_size(const struct ops *ops, const struct device *dev) {
    return ops->device_dtype(dev) == DTYPE_F64 ? 8 : 4;
}

#endif
