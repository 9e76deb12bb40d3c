/* train_ops.h - the ops that training needs beside those of kernels/ops.h, whose rules of memory, order, errors and numbers
 * hold here too. A backend that trains offers them as ops->train.
 *
 * Gradients are f32 ("real" on F64 devices), also where the operand of the forward op was act. An output that is "added to"
 * keeps what was there; every other output is written whole. Sums over rows are taken in an order that depends only on the
 * arguments and the thread count, so equal calls give equal bits. */
#ifndef SPKV_KERNELS_TRAIN_OPS_H
#define SPKV_KERNELS_TRAIN_OPS_H

#include "kernels/ops.h"

/* y = x / sqrt(mean of squares + eps) * weight, per group as in struct rmsnorm_args; x is what was normed, after its add. */
struct rmsnorm_grad_args {
    const float *x;      /* (n_rows, n_groups * n_cols) f32, ld_x */
    const float *weight; /* (n_cols) f32 */
    float eps;
    bool plus_one;
    size_t n_rows, n_groups, n_cols, ld_x;
    const float *dy;     /* (n_rows, n_groups * n_cols) f32, ld_dy */
    size_t ld_dy;
    float *dx;           /* (n_rows, n_groups * n_cols) f32, ld_dx; may be dy itself when not added to */
    size_t ld_dx;
    bool add_dx;         /* dx is added to */
    float *dweight;      /* NULL, or (n_cols) f32, added to */
};

/* y = x w^T + bias */
struct linear_grad_args {
    const struct weight *w; /* (n_out, n_in) */
    const void *x;          /* (n_rows, n_in) act, contiguous; only read for dw */
    const float *dy;        /* (n_rows, n_out) f32, ld_dy */
    size_t n_rows, ld_dy;
    float *dx;              /* NULL, or (n_rows, n_in) f32, contiguous */
    bool add_dx;            /* dx is added to */
    float *dw;              /* NULL, or (n_out, n_in) f32, added to */
    float *dbias;           /* NULL, or (n_out) f32, added to */
};

/* A low-rank update of a product with a weight (arXiv 2106.09685): low = x a^T, y += scale * low b^T. */
struct low_rank_args {
    const float *a;      /* (rank, n_in) f32 */
    const float *b;      /* (n_out, rank) f32 */
    float scale;
    size_t rank, n_in, n_out;
    const void *x;       /* (n_rows, n_in) act, contiguous */
    float *low;          /* (n_rows, rank) f32, contiguous: written */
    float *y;            /* (n_rows, n_out) f32, ld_y: added to */
    size_t n_rows, ld_y;
};

struct low_rank_grad_args {
    const struct low_rank_args *forward; /* its low is replaced by the gradient of low; its y is not read */
    const float *dy;     /* (n_rows, n_out) f32, ld_dy */
    size_t ld_dy;
    float *da, *db;      /* shaped like a and b, f32, added to */
    float *dx;           /* (n_rows, n_in) f32, contiguous: added to */
};

/* The gradients of predict (struct predict_args; the hidden layer is computed again). Pointers that are NULL are not
 * wanted; fc1 NULL and fc2 NULL mean what they mean there. Weights were prepared with WEIGHT_F32. */
struct predict_grad_args {
    const struct predict_args *forward; /* its u holds the utilities */
    const float *du;                    /* (n_rows, n_kv_heads) f32 */
    float *dfc1, *db1, *dfc2, *db2;     /* shaped like their parameters, f32, added to */
    float *dh;                          /* (n_rows, d_model) f32, added to */
};

/* What a gate adds to the logits of its pair outside the window (method.md section 3):
 * hard: 0 when open, else -INFINITY; otherwise log((1 - blend) u + blend open + 1e-8). */
struct gate_log_args {
    const float *u;       /* (n) f32 */
    const uint8_t *open;  /* (n) 0 or 1: u against the threshold, or a sample */
    size_t n;
    float blend;          /* 0 soft, 1 all gate */
    bool hard;
    float *log_gate;      /* (n) f32 */
};

/* du = slope * dlog_gate / ((1 - blend) u + blend open + 1e-8) + density. The slope of u in the blend is 1 - blend; a
 * straight-through gradient of sampled gates has slope 1. */
struct gate_log_grad_args {
    const float *u;
    const uint8_t *open;
    size_t n;
    float blend, slope;
    const float *dlog_gate; /* (n) f32 */
    float density;          /* gradient of a density term, the same for every pair */
    float *du;              /* (n) f32; may be dlog_gate itself */
};

/* Causal attention over whole sequences packed one after the other: the only attention with a gradient. Query t of a
 * sequence sees key s <= t of the same sequence with logit
 *     softcap(scale * q.k) + (t - s < window[kv_head] || s < sinks ? 0 : log_gate[s, kv_head])
 * and keys with log_gate -INFINITY outside window and sinks cost nothing: open ones are gathered per KV head. No
 * (T x T) matrix is stored. With equal gates it computes what attend_cache computes step by step. */
struct attend_seq_args {
    int n_seq;
    const int *row_splits;  /* (n_seq + 1) host; sequence i = rows row_splits[i] .. row_splits[i + 1] - 1, positions from 0 */
    const float *q;         /* (n_rows, n_heads * head_dim) f32, ld_qkv; after norm and RoPE */
    const float *k, *v;     /* (n_rows, n_kv_heads * head_dim) f32, ld_qkv */
    size_t n_rows, n_heads, n_kv_heads, head_dim, ld_qkv;
    const int *window;      /* (n_kv_heads) host, each >= 1; INT_MAX = full attention */
    int sinks;
    const float *log_gate;  /* (n_rows, n_kv_heads) f32; NULL: every pair outside window and sinks is closed */
    float scale, softcap;   /* softcap 0 = none */
    void *out;              /* (n_rows, n_heads * head_dim) act, contiguous */
    float *lse;             /* (n_rows, n_heads) f32: log of the sum of exp(logit) over visible keys */
};

struct attend_seq_grad_args {
    const struct attend_seq_args *forward; /* out and lse filled */
    const float *dout;                     /* (n_rows, n_heads * head_dim) f32, contiguous */
    float *dq, *dk, *dv;                   /* as q, k, v with ld_qkv; dq may not be q. Written whole */
    float *dlog_gate;                      /* NULL, or (n_rows, n_kv_heads) f32: sum of dL/dlogit over queries outside the
                                              window (and key not a sink) and the query heads of the group; closed pairs 0 */
};

/* Loss and its gradient through the output matrix; logits never lie in memory for more than a block of rows.
 * d logits = scale * (softmax - one_hot(target)), through the soft-cap; rows without target contribute nothing. */
struct nll_grad_args {
    const struct nll_args *forward; /* nll is written as ops->nll does, is_argmax is not */
    float scale;
    float *dx;                      /* (n_rows, d_model) f32, written; rows without target 0 */
    float *dw;                      /* NULL, or (vocab_size, d_model) f32, added to */
};

/* AdamW (arXiv 1711.05101, as in torch.optim.AdamW): g = grad_scale * grad; m, v moments; bias corrections of `step`
 * (counted from 1); param -= lr * (weight_decay * param + m_hat / (sqrt(v_hat) + eps)). */
struct adamw_args {
    float *param, *m, *v; /* (n) f32 */
    const float *grad;    /* (n) f32 */
    size_t n;
    float lr, beta1, beta2, eps, weight_decay, grad_scale;
    int64_t step;
};

struct train_ops {
    /* A handle over an f32 matrix in device memory, which the caller owns, keeps and may change; after a change
     * weight_refresh() makes the handle follow (f32 devices read the master itself). Freed with ops->weight_free. */
    int (*weight_make)(struct device *dev, const float *master, size_t n_rows, size_t n_cols, enum weight_use use,
                       struct weight **out, struct err *err);
    void (*weight_refresh)(struct device *dev, struct weight *w);

    void (*rmsnorm_grad)(struct device *dev, const struct rmsnorm_grad_args *a);
    void (*linear_grad)(struct device *dev, const struct linear_grad_args *a);
    void (*low_rank)(struct device *dev, const struct low_rank_args *a);
    void (*low_rank_grad)(struct device *dev, const struct low_rank_grad_args *a);
    /* dgate_up (n_rows, 2 n) f32 from dout (n_rows, n) f32 for act_mul of gate_up; dgate_up may be gate_up itself. */
    void (*act_mul_grad)(struct device *dev, const float *gate_up, enum act act, size_t n_rows, size_t n, const float *dout,
                         float *dgate_up);
    /* dtable (vocab_size, n_cols) f32, rows ids[r] added to: scale * dout[r] */
    void (*embed_grad)(struct device *dev, const int32_t *ids, size_t n_rows, size_t n_cols, float scale, const float *dout,
                       float *dtable);
    void (*predict_grad)(struct device *dev, const struct predict_grad_args *a);
    void (*gate_log)(struct device *dev, const struct gate_log_args *a);
    void (*gate_log_grad)(struct device *dev, const struct gate_log_grad_args *a);
    /* open (n_rows, n_kv_heads) u8: 1 with probability u clipped to [clip, 1 - clip], drawn by rng_uniform(seed,
     * sequence_id of the row's sequence, layer, KV head, position). Sequences as in struct attend_seq_args;
     * sequence_id (n_seq) host. */
    void (*gate_sample)(struct device *dev, const float *u, const struct attend_seq_args *sequences,
                        const uint64_t *sequence_id, uint64_t seed, int layer, float clip, uint8_t *open);
    void (*attend_seq)(struct device *dev, const struct attend_seq_args *a);
    void (*attend_seq_grad)(struct device *dev, const struct attend_seq_grad_args *a);
    void (*nll_grad)(struct device *dev, const struct nll_grad_args *a);
    void (*adamw)(struct device *dev, const struct adamw_args *a);
    /* *sum (1) f64, device, added to: squares of x (n) f32 in double, NaN and infinity kept */
    void (*norm_sq)(struct device *dev, const float *x, size_t n, double *sum);
};

#endif
