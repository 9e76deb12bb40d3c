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
#include "kernels/dtype.h"

enum { MAX_TENSOR_DIMS = 8 };

struct tensor {
    const char *name;
    const char *file;     /* path of the file that holds it, for messages */
    enum dtype dtype;
    int n_dims;
    size_t shape[MAX_TENSOR_DIMS];
    size_t n_items;
    const void *data;     /* mapped, not necessarily aligned */
};

struct checkpoint;

/* Opens DIR. `predictor_dir` (NULL: none) names a directory of its own with spkv_config.json and spkv.safetensors; without
 * it a predictor is looked for among the model's tensors ("spkv" in config.json), then beside it in DIR. */
int checkpoint_open(const char *dir, const char *predictor_dir, struct checkpoint **out, struct err *err);
void checkpoint_close(struct checkpoint *checkpoint);

const char *checkpoint_dir(const struct checkpoint *checkpoint);
const struct model_config *checkpoint_config(const struct checkpoint *checkpoint);
const struct predictor_config *checkpoint_predictor(const struct checkpoint *checkpoint); /* NULL = none */

/* The tensor, or NULL. Predictor and low-rank tensors are found by the names of formats.md section 2. */
const struct tensor *checkpoint_find(const struct checkpoint *checkpoint, const char *name);

/* The tensor with exactly this shape (n_dims 1 or 2; n_cols ignored for 1), or ERR_INPUT naming file, tensor, both shapes
 * and the likely cause. A missing tensor is ERR_INPUT too. */
int checkpoint_require(const struct checkpoint *checkpoint, const char *name, int n_dims, size_t n_rows, size_t n_cols,
                       const struct tensor **out, struct err *err);

/* All tensors, predictor included, in name order. */
size_t checkpoint_n_tensors(const struct checkpoint *checkpoint);
const struct tensor *checkpoint_tensor(const struct checkpoint *checkpoint, size_t i);

/* XXH3-128 over config.json, then every tensor's name, dtype, shape and bytes in name order, lower-case hex. Computed on
 * first use (reads the whole model once). base_hash leaves out predictor tensors and the "spkv" object. */
const char *checkpoint_model_hash(struct checkpoint *checkpoint);
const char *checkpoint_base_hash(struct checkpoint *checkpoint);

/* A sentence for the user when spkv_config.json names another base_model_hash than this model's, else NULL. */
const char *checkpoint_warning(struct checkpoint *checkpoint);

/* Refuses weights that hold NaN or infinity: ERR_INPUT naming file, tensor and index of the first. */
int tensor_check_finite(const struct tensor *tensor, struct err *err);

#endif
