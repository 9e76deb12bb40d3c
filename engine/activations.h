/* activations.h - the buffers of one step of a model (engine/forward.c), by their role. Inference lets many roles share a
 * buffer and gives every layer the same ones; training keeps what the backward pass reads. All device memory. */
#ifndef SPKV_ENGINE_ACTIVATIONS_H
#define SPKV_ENGINE_ACTIVATIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/model.h"

/* (max_rows, lora_rank) f32 each: between the two matrices of a low-rank update that stands beside its weight. NULL in other
 * models; may be one buffer. */
struct low_activations {
    float *q, *k, *v, *o, *gate, *up, *down;
};

/* What one layer makes, in its order. "may be": the same buffer, so that the later role overwrites the earlier. */
struct layer_activations {
    float *x;             /* (max_rows, d_model) f32: residual before attention */
    void *normed;         /* (max_rows, d_model) act: its norm */
    float *h;             /* the same in f32, for predictors that read it */
    float *qkv_raw;       /* (max_rows, (n_heads + 2 n_kv_heads) * head_dim) f32: q and k before their norms; may be qkv */
    float *qkv;           /* the same shape: q, k, v as attention reads them */
    void *attended;       /* (max_rows, n_heads * head_dim) act; may be normed */
    float *lse;           /* (max_rows, n_heads) f32; NULL where nobody asks */
    float *attention_out; /* (max_rows, d_model) f32: before its norm (Gemma); may be delta */
    float *x_mid;         /* (max_rows, d_model) f32: residual before the MLP; may be x */
    void *mlp_normed;     /* (max_rows, d_model) act: its norm; may be normed */
    float *gate_up;       /* (max_rows, 2 d_ffn) f32 */
    void *mlp_act;        /* (max_rows, d_ffn) act; may be normed */
    float *mlp_out;       /* (max_rows, d_model) f32: before its norm (Gemma); may be delta */
    struct low_activations low;
};

struct activations {
    size_t max_rows;
    int32_t *ids, *pos;   /* (max_rows) */
    float *delta;         /* (max_rows, d_model) f32: what is to be added to the residual */
    float *utility;       /* (n_layers, max_rows, n_kv_heads) f32, packed to the step's n_rows */
    uint8_t *open;        /* the same shape: utility against the threshold */
    uint8_t *acting;      /* ... sampled or imposed gates; NULL in inference */
    float *log_gate;      /* ... f32, what a gate adds to logits; NULL in inference */
    struct layer_activations *layers; /* (n_layers), host */
    float *x_out;         /* (max_rows, d_model) f32: residual after the last layer; may be x */
    void *final;          /* (max_rows, d_model) act: its norm */
    void **buffers;       /* (n_buffers) every allocation once, host */
    size_t n_buffers;
};

enum keep {
    KEEP_NOTHING, /* inference */
    KEEP_INPUTS,  /* x of every layer; the rest of a layer until the next one runs */
    KEEP_ALL,
};

int activations_create(const struct model *model, size_t max_rows, enum keep keep, bool attention_stats,
                       struct activations *out, struct err *err);
void activations_free(const struct model *model, struct activations *a);

#endif
