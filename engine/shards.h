/* shards.h - the tensors of a model directory: model.safetensors, or model.safetensors.index.json and the shards it names.
 * Read-only after opening; tensors are borrowed until shards_close(). */
#ifndef SPKV_ENGINE_SHARDS_H
#define SPKV_ENGINE_SHARDS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "engine/safetensors.h"

struct shards {
    size_t n_files;
    struct safetensors *files; /* (n_files) */
    size_t n_tensors;
    struct tensor *tensors;    /* (n_tensors) in strcmp() order of their names */
};

/* model.safetensors is taken where both are present, as transformers does. Of a shard, the tensors that weight_map places
 * in it are taken; one that is not there is ERR_INPUT, and so is a shard name that is no plain file name. */
int shards_open(const char *dir, struct shards *out, struct err *err);
void shards_close(struct shards *shards); /* legal on a zeroed struct */

/* Whether a weight_map value may be opened: a name ending in ".safetensors", without a slash and not hidden ("..", ".x"). */
bool shard_name_is_plain(const char *name);

#endif
