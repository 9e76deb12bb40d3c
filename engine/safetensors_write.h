/* safetensors_write.h - writes a safetensors file (layout: engine/safetensors.h) tensor by tensor, without holding more than
 * a block of it in memory. The path holds its old content or the complete new one. The header is padded with spaces so that
 * the data begins at a multiple of 64 bytes. One thread. */
#ifndef SPKV_ENGINE_SAFETENSORS_WRITE_H
#define SPKV_ENGINE_SAFETENSORS_WRITE_H

#include <stddef.h>

#include "base/err.h"
#include "base/file.h"
#include "engine/safetensors.h"
#include "kernels/dtype.h"

/* What a tensor will be. */
struct tensor_plan {
    const char *name;
    enum dtype dtype; /* F32 or BF16 */
    int n_dims;
    size_t shape[MAX_TENSOR_DIMS];
};

/* A member of "__metadata__". transformers wants "format": "pt". */
struct tensor_note {
    const char *key, *value;
};

struct safetensors_writer {
    struct file_out out;
    const struct tensor_plan *plans; /* (n) borrowed until commit or discard */
    size_t n, current;               /* the tensor being written */
    size_t n_left;                   /* items it still lacks */
};

/* Writes the header. Tensors lie in the order of the plans. ERR_INPUT for a name given twice, ERR_IO when the file cannot be
 * made. */
int safetensors_writer_open(const char *path, const struct tensor_plan *plans, size_t n, const struct tensor_note *notes,
                            size_t n_notes, struct safetensors_writer *out, struct err *err);

/* Appends values (n) of the current tensor, rounded to its dtype (to nearest, ties to even); any number of calls a tensor,
 * none of them beyond its end. ERR_IO names the file, on a full disk at the latest in commit. */
int safetensors_writer_put(struct safetensors_writer *w, const float *values, size_t n, struct err *err);

/* All tensors must be complete. The writer is empty afterwards, whatever happens. */
int safetensors_writer_commit(struct safetensors_writer *w, struct err *err);
void safetensors_writer_discard(struct safetensors_writer *w); /* legal on a zeroed or committed struct */

#endif
