/* oracle_target.h - what a predictor is fitted to: the logarithm of the largest attention that every token of a micro-batch
 * gets from queries outside its window, under full attention (method.md section 11). Not thread-safe. Free it before its
 * model and policy. */
#ifndef SPKV_TRAIN_ORACLE_TARGET_H
#define SPKV_TRAIN_ORACLE_TARGET_H

#include "engine/model.h"
#include "engine/policy.h"
#include "train/gradient.h"

struct oracle_target;

/* full: policy full with the window that the predictor is for. max_len: tokens of a sequence. */
int oracle_target_create(const struct model *model, const struct policy *full, int max_len, struct oracle_target **out,
                         struct err *err);
void oracle_target_free(struct oracle_target *o);

/* log_target (n_layers, n_rows, n_kv_heads) host f32: the log of the largest weight, at least log 1e-6, below which a pair
 * matters to nobody; NaN where no query lies outside the window, and in the model's own sliding layers. */
int oracle_target_fill(struct oracle_target *o, const struct micro_batch *batch, float *log_target, struct err *err);

#endif
