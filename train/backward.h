/* backward.h - the backward pass over a step of whole sequences that model_forward() ran, layer by layer in reverse. */
#ifndef SPKV_TRAIN_BACKWARD_H
#define SPKV_TRAIN_BACKWARD_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/forward.h"
#include "train/params.h"

/* Gradients on their way down, device memory. */
struct backward_space {
    float *dx;        /* (max_rows, d_model) f32: of the residual */
    float *dnormed;   /* (max_rows, d_model) f32: of the input of a block, after its norm */
    float *dout;      /* (max_rows, d_model) f32: of the output of a block, before its norm; NULL without such norms */
    float *dinner;    /* (max_rows, max(d_ffn, n_heads * head_dim)) f32: of mlp_act, of attended */
    float *dqkv;      /* (max_rows, (n_heads + 2 n_kv_heads) * head_dim) f32 */
    float *dutility;  /* (max_rows, n_kv_heads) f32 */
};
int backward_space_create(const struct model *model, size_t max_rows, struct backward_space *out, struct err *err);
void backward_space_free(const struct model *model, struct backward_space *space); /* legal on a zeroed struct */

struct backward_args {
    const struct step *step;
    const struct params *params;
    const struct backward_space *space;
    const struct nll_args *loss;
    float loss_scale;  /* the loss is loss_scale * sum of nll + density * sum of utilities */
    bool utilities;    /* gradients reach them */
    float slope;       /* of utilities in the gates, see struct gate_log_grad_args */
    float density;
    bool recompute;    /* of a layer only x was kept */
};
void model_backward(const struct model *model, const struct backward_args *args);

#endif
