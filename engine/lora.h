/* lora.h - low-rank updates of a projection (arXiv 2106.09685), stored under PEFT's names, with or without a
 * predictor, and merged once at load: W + lora_alpha / r * B A, computed in f32. Training keeps them apart, see
 * model_load_unmerged(). */
#ifndef SPKV_ENGINE_LORA_H
#define SPKV_ENGINE_LORA_H

#include <stddef.h>

#include "base/err.h"
#include "engine/checkpoint.h"

/* `name` is a projection's weight, "model.layers.0.self_attn.q_proj.weight", of shape (n_rows, n_cols). When the checkpoint
 * holds "...q_proj.lora_A.weight" (r, n_cols) and "...q_proj.lora_B.weight" (n_rows, r), *out gets the merged weight,
 * (n_rows, n_cols) f32, to be freed with free(); otherwise *out is NULL. ERR_INPUT for one without the other and for wrong
 * shapes. */
int lora_merge(const struct checkpoint *checkpoint, const char *name, size_t n_rows, size_t n_cols, float **out,
               struct err *err);

#endif
