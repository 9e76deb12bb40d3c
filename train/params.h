/* params.h - what is trained: f32 masters of a model's tensors on its device, with gradients and AdamW moments, under the
 * tensors' Hugging Face names. While it lives, the model's handles read the masters, so every session of that model sees the
 * current weights. */
#ifndef SPKV_TRAIN_PARAMS_H
#define SPKV_TRAIN_PARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/model.h"

enum trained {
    TRAIN_ALL,       /* model and predictor */
    TRAIN_PREDICTOR, /* the model stays frozen; static gates are a predictor with fc2.bias alone */
    TRAIN_LORA,      /* ... but for low-rank updates of its projections (arXiv 2106.09685), trained with the predictor or, in
                        a dense model, alone: they stand beside their weights, see model_load_unmerged() */
};

enum param_group { PARAM_MODEL, PARAM_PREDICTOR };

struct param {
    char name[128];         /* "model.layers.0.self_attn.q_proj.weight" */
    size_t n_rows, n_cols;  /* a vector has n_rows = 0 and n_cols items */
    size_t n;               /* items */
    enum param_group group; /* low-rank updates belong to the model */
    bool decay;             /* weight decay acts: matrices, and every tensor of the predictor */
    float *master;          /* (n) device f32 */
    float *grad, *m, *v;    /* the same shape */
    struct weight *weight;  /* the model's handle over master; NULL for vectors and low-rank updates */
};

struct params {
    struct model *model;    /* borrowed */
    size_t n;
    struct param *list;     /* (n) in the model's order; tied embeddings once */
    size_t n_items;         /* over all */
    double *norms_dev, *norms; /* (n) squared norms of the gradients, on the device and in host memory */
};

/* Takes the tensors over from a loaded model whose backend has ops->train: masters are the model's current values, widened;
 * gradients and moments are zero. The model must stay alive, and goes back to no other weights when this is freed: free
 * sessions first, then params, then the model. */
int params_create(struct model *model, enum trained what, struct params **out, struct err *err);
void params_free(struct params *p);

/* The parameter of that name, or NULL: not trained. */
struct param *params_find(const struct params *p, const char *name);
/* The gradient of a model tensor given by its place in the model (a struct weight * or a float * of a vector); NULL where it
 * is not trained. */
float *params_grad_of(const struct params *p, const void *tensor);

void params_zero_grad(struct params *p);

/* Norm of all gradients times scale. ERR_INPUT names the first tensor with a NaN or infinity. Waits for the device. */
int params_grad_norm(const struct params *p, double scale, double *norm, struct err *err);

struct params_step {
    double lr_model, lr_predictor;
    double beta1, beta2, eps, decay_model, decay_predictor;
    double grad_scale;
    int64_t step;            /* counted from 1 */
    bool freeze_predictor;   /* phase 2: no change, moments stay */
};
void params_update(struct params *p, const struct params_step *s);

#endif
