/* output_gram.h - the Gram matrices of a model's output projections: how long a value becomes behind W_o. */
#ifndef SPKV_ENGINE_OUTPUT_GRAM_H
#define SPKV_ENGINE_OUTPUT_GRAM_H

#include "engine/model.h"

/* W_o[h]^T W_o[h] of every layer and query head, W_o[h] (d_model, head_dim) the columns that read head h; a norm behind
 * attention (Gemma) is left out. (n_layers, n_heads, head_dim, head_dim) f32 on the device, freed with mem_free. */
int output_gram_create(const struct model *model, float **out, struct err *err);

#endif
