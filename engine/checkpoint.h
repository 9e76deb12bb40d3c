/* checkpoint.h - an opened Hugging Face directory: configuration, tensors by name, predictor, hashes. Read-only and
 * memory-mapped; everything handed out is borrowed until checkpoint_close().
 *
 * safetensors files are checked in full before the first tensor is handed out: header length, tiling without holes or
 * overlap, checked sizes, plain shard names, dtypes F32, F16, BF16 (engine/safetensors.h). */
#ifndef SPKV_ENGINE_CHECKPOINT_H
#define SPKV_ENGINE_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "engine/config.h"
#include "engine/safetensors.h"

struct checkpoint;

/* Opens DIR: config.json, then model.safetensors, or model.safetensors.index.json and its shards (plain file names only).
 * `predictor_dir` (NULL: none) names a directory of its own with spkv_config.json and spkv.safetensors; without it a
 * predictor is looked for among the model's tensors ("spkv" in config.json), then beside it in DIR. A predictor from
 * spkv.safetensors takes the place of all predictor and low-rank tensors of the model; that file may hold nothing else
 * (low-rank tensors alone leave a dense model), and its names may begin with PEFT's "base_model.model.". ERR_INPUT for
 * broken files, for low-rank tensors without their projection or without "r" and "lora_alpha", and for predictors of layers
 * that the model does not have. */
int checkpoint_open(const char *dir, const char *predictor_dir, struct checkpoint **out, struct err *err);
void checkpoint_close(struct checkpoint *checkpoint);

const char *checkpoint_dir(const struct checkpoint *checkpoint);
const struct model_config *checkpoint_config(const struct checkpoint *checkpoint);
const struct predictor_config *checkpoint_predictor(const struct checkpoint *checkpoint); /* NULL = none */
/* The configuration of what was added to the model: the predictor's, or of low-rank updates without a predictor (a dense
 * model), where only "r" and "lora_alpha" count. NULL = nothing was added. */
const struct predictor_config *checkpoint_added(const struct checkpoint *checkpoint);

/* The tensor, or NULL. Predictor tensors are named as in engine/predictor.h, low-rank ones as in engine/lora.h. */
const struct tensor *checkpoint_find(const struct checkpoint *checkpoint, const char *name);

/* The tensor with exactly this shape (n_dims 1 or 2; n_cols ignored for 1), or ERR_INPUT naming file, tensor, both shapes
 * and the likely cause. A missing tensor is ERR_INPUT too. */
int checkpoint_require(const struct checkpoint *checkpoint, const char *name, int n_dims, size_t n_rows, size_t n_cols,
                       const struct tensor **out, struct err *err);

/* All tensors, predictor included, in name order. */
size_t checkpoint_n_tensors(const struct checkpoint *checkpoint);
const struct tensor *checkpoint_tensor(const struct checkpoint *checkpoint, size_t i);

/* XXH3-128 in canonical lower-case hex, computed on first use (reads the whole model once; one caller at a time until then).
 *
 * model_hash: the bytes of config.json, then for every tensor in name order: name, a zero byte, "F32", "BF16" or "F16", a
 * zero byte, the number of dimensions and each dimension as 64-bit little-endian integers, the data as stored.
 *
 * base_hash: the same without predictor and low-rank tensors, and over the canonical text of config.json without its "spkv"
 * member in place of the file's bytes, so that adding a predictor to a model leaves it unchanged. Canonical text: no white
 * space; members of every object sorted by the bytes of their keys; integers in decimal; reals as printf("%.17g"), the
 * exponent without plus sign and leading zeros, ".0" appended where neither point nor exponent shows; strings in ASCII with
 * \" \\ \b \f \n \r \t and upper-case \uXXXX (pairs of surrogates) for what else is below U+0020 or above U+007F. */
const char *checkpoint_model_hash(struct checkpoint *checkpoint);
const char *checkpoint_base_hash(struct checkpoint *checkpoint);

/* What the user should know, one sentence a line: the predictor names another base_model_hash than this model's (computed
 * when there is something to compare), or predictor tensors are ignored because no configuration says how to read them. NULL
 * when there is nothing. */
const char *checkpoint_warning(struct checkpoint *checkpoint);

#endif
