/* model.h - the weights of a checkpoint on a device, and the forward pass, written once against the op table.
 *
 * A model is immutable and shared by its sessions. It borrows the checkpoint (mapped weights are used in place), the ops
 * and the device: free it before them. Pointers below are device memory unless they say host. */
#ifndef SPKV_ENGINE_MODEL_H
#define SPKV_ENGINE_MODEL_H

#include "engine/checkpoint.h"
#include "engine/config.h"
#include "engine/policy.h"
#include "kernels/ops.h"

struct model_layer {
    float *attention_norm;                /* (d_model) before attention */
    float *attention_post_norm;           /* (d_model) Gemma: after it, else NULL */
    float *ffn_norm, *ffn_post_norm;      /* (d_model) before and (Gemma) after the MLP */
    float *q_norm, *k_norm;               /* (head_dim) or NULL */
    struct weight *q, *k, *v, *o;         /* (n_heads|n_kv_heads * head_dim, d_model), o (d_model, n_heads * head_dim) */
    float *q_bias, *k_bias, *v_bias, *o_bias;
    struct weight *gate, *up, *down;      /* (d_ffn, d_model) twice, (d_model, d_ffn) */
    float *gate_bias, *up_bias, *down_bias;
    struct weight *fc1, *fc2;             /* predictor, see struct predict_args; NULL where it has none */
    float *b1, *b2;
    size_t predictor_hidden;              /* columns of fc2 */
};

struct model {
    const struct checkpoint *checkpoint;          /* borrowed */
    const struct model_config *config;            /* the checkpoint's */
    const struct predictor_config *predictor;     /* the checkpoint's, NULL = none */
    const struct ops *ops;
    struct device *dev;
    struct weight *embed, *lm_head;               /* (vocab_size, d_model); one handle when tied */
    float *final_norm;                            /* (d_model) */
    struct model_layer *layers;                   /* (n_layers), host */
    void **owned; /* (n_owned) host memory that weights borrow: merged and predictor matrices */
    size_t n_owned, owned_cap;
    size_t weight_bytes;                          /* read by a forward pass of one token */
};

/* Uploads and checks every tensor: shapes, and no NaN or infinity (ERR_INPUT names file and tensor). */
int model_load(const struct checkpoint *checkpoint, const struct ops *ops, struct device *dev, struct model **out,
               struct err *err);
void model_free(struct model *model);

/* Work space of one step and what it leaves behind. All device memory, allocated by activations_create(). */
struct activations {
    size_t max_rows;
    int32_t *ids, *pos;     /* (max_rows) */
    float *x, *delta, *h;   /* (max_rows, d_model) f32: residual, what is to be added to it, normed attention input */
    void *act;              /* (max_rows, max(d_model, d_ffn, n_heads * head_dim)) act */
    float *qkv;             /* (max_rows, (n_heads + 2 n_kv_heads) * head_dim) f32 */
    float *gate_up;         /* (max_rows, 2 d_ffn) f32 */
    float *utility;         /* (n_layers, max_rows, n_kv_heads) f32, packed to the step's n_rows */
    uint8_t *open;          /* (n_layers, max_rows, n_kv_heads), the same */
    float *lse;             /* (max_rows, n_heads) f32; NULL without attention statistics */
    void *final;            /* (max_rows, d_model) act: final norm of the last step */
};
int activations_create(const struct model *model, size_t max_rows, bool attention_stats, struct activations *out,
                       struct err *err);
void activations_free(const struct model *model, struct activations *a);

/* Where a step adds its attention statistics; device arrays, see struct attend_stats_args. */
struct step_stats {
    int window, sinks, n_bins;
    double *far_sum, *sink_sum;        /* (n_layers, n_seq, n_kv_heads) */
    double *distance_sum;              /* (n_layers, n_seq, n_kv_heads, n_bins) */
    const int32_t *bin_of_distance;
};

/* One step: the rows of `batch` through all layers; ids and positions lie in a->ids and a->pos. */
struct step {
    struct kv_batch batch;
    size_t n_rows;
    struct kv_cache *cache;
    const struct policy *policy;
    float *const *rope;              /* host array of config->n_rope device tables */
    const float *head_score;         /* (n_layers, n_kv_heads) device copy of the policy's constants */
    struct activations *a;
    const uint8_t *all_open;         /* NULL = gates act; dense prefill: (n_rows, n_kv_heads) ones that stand in for them */
    const struct step_stats *stats;  /* NULL = none */
};
void model_forward(const struct model *model, const struct step *step);

/* Uploads n values as the device's f32 (doubles on an F64 device); NULL and ERR_MEMORY on failure. Free with mem_free. */
float *model_upload_real(const struct ops *ops, struct device *dev, const float *values, size_t n, struct err *err);

#endif
