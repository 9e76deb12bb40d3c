/* model.h - the weights of a checkpoint on a device.
 *
 * A model is shared by its sessions, and immutable but for a trainer (train/params.h). It borrows the checkpoint (mapped
 * weights are used in place), the ops and the device: free it before them. Pointers below are device memory unless they say
 * host. */
#ifndef SPKV_ENGINE_MODEL_H
#define SPKV_ENGINE_MODEL_H

#include "engine/checkpoint.h"
#include "engine/config.h"
#include "kernels/ops.h"

/* A matrix with what belongs to it. */
struct projection {
    size_t n_out, n_in;
    struct weight *weight;                /* (n_out, n_in) */
    float *bias;                          /* (n_out) or NULL */
    float *lora_a, *lora_b;               /* (lora_rank, n_in), (n_out, lora_rank): a low-rank update that is trained beside
                                             its weight; NULL = none, or merged */
};

struct model_layer {
    float *attention_norm;                /* (d_model) before attention */
    float *attention_post_norm;           /* (d_model) Gemma: after it, else NULL */
    float *ffn_norm, *ffn_post_norm;      /* (d_model) before and (Gemma) after the MLP */
    float *q_norm, *k_norm;               /* (head_dim) or NULL */
    struct projection q, k, v, o;         /* (n_heads|n_kv_heads * head_dim, d_model), o (d_model, n_heads * head_dim) */
    struct projection gate, up, down;     /* (d_ffn, d_model) twice, (d_model, d_ffn) */
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
    size_t lora_rank;                             /* of low-rank updates beside their weights; 0 = there are none */
    float lora_scale;                             /* ... their factor */
    void **owned; /* (n_owned) host memory that weights borrow: merged and predictor matrices */
    size_t n_owned, owned_cap;
    size_t weight_bytes;                          /* read by a forward pass of one token */
};

/* Uploads and checks every tensor: shapes, and no NaN or infinity (ERR_INPUT names file and tensor). */
int model_load(const struct checkpoint *checkpoint, const struct ops *ops, struct device *dev, struct model **out,
               struct err *err);
/* The same for training: low-rank updates stay beside their weights, and those as they are stored. */
int model_load_unmerged(const struct checkpoint *checkpoint, const struct ops *ops, struct device *dev, struct model **out,
                        struct err *err);
void model_free(struct model *model);

/* Uploads n values as the device's f32 (doubles on an F64 device); NULL and ERR_MEMORY on failure. Free with mem_free. */
float *model_upload_real(const struct ops *ops, struct device *dev, const float *values, size_t n, struct err *err);

/* RoPE tables of n_pos positions, one for each of config->n_rope kinds; freed with mem_free, after failures too. */
int model_upload_rope(const struct model *model, size_t n_pos, float *out[2], struct err *err);

#endif
