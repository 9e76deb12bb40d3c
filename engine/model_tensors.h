/* model_tensors.h - the tensors of a model, in one table: names as Hugging Face writes them, shapes, and where struct model
 * keeps them. Loading, freeing, training and saving go through it. */
#ifndef SPKV_ENGINE_MODEL_TENSORS_H
#define SPKV_ENGINE_MODEL_TENSORS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/model.h"

struct model_tensor {
    char name[128];          /* "model.layers.0.self_attn.q_proj.weight" */
    size_t n_rows, n_cols;   /* a vector has n_rows = 0 and n_cols items */
    struct weight **weight;  /* its place in the model: a matrix */
    struct projection *projection; /* that matrix is the weight of it; or NULL */
    float **vector;          /* ... or f32 as it is: a vector, or one of the two matrices of a low-rank update; the other
                                place is NULL */
    bool predictor;          /* of a utility predictor, shaped as struct predict_args wants it */
    bool lora;               /* of a low-rank update beside its weight */
    bool present;            /* the model has it. Tensors of predictors and low-rank updates: once they are loaded */
};

/* How many entries the table has for a model, present or not; entry i, in the order of a Hugging Face model. */
size_t model_n_tensors(const struct model *model);
struct model_tensor model_tensor_at(struct model *model, size_t i);

#endif
