/* safetensors.h - one safetensors file: mapped, checked in full, its tensors listed by name. Read-only after opening, so any
 * number of threads may read. Tensors, names and data are borrowed until safetensors_close().
 *
 *   offset  size  content
 *   0       8     n, length of the header, little-endian; n <= 100,000,000 and 8 + n <= size of the file
 *   8       n     UTF-8 JSON object, white space around it allowed: "name": {"dtype": "F32", "shape": [2, 3],
 *                 "data_offsets": [begin, end]}, optionally "__metadata__": {string: string}
 *   8 + n   rest  data; offsets count from here; nothing is aligned
 *
 * Checked: no name twice; shape products without overflow; end - begin = product x element size; sorted by offset the
 * tensors tile the data exactly, without hole or overlap, to the end of the file; dtypes F32, F16, BF16 (others are refused
 * by name); at most MAX_TENSOR_DIMS dimensions; at most 4 million JSON values, so that a hostile header cannot take more
 * than some hundred megabytes of memory. A file that another program truncates while it is mapped ends the process with
 * SIGBUS, as with every mapping: replace model files by renaming. */
#ifndef SPKV_ENGINE_SAFETENSORS_H
#define SPKV_ENGINE_SAFETENSORS_H

#include <stddef.h>

#include "base/err.h"
#include "base/file.h"
#include "kernels/dtype.h"

enum { MAX_TENSOR_DIMS = 8 };

struct tensor {
    const char *name;
    const char *file;     /* path of the file that holds it, for messages */
    enum dtype dtype;     /* F32, BF16 or F16 */
    int n_dims;
    size_t shape[MAX_TENSOR_DIMS];
    size_t n_items;
    const void *data;     /* mapped, not necessarily aligned */
};

struct safetensors {
    char *path;
    struct file_map map;    /* empty when parsed from memory */
    size_t n_tensors;
    struct tensor *tensors; /* (n_tensors) in strcmp() order of their names */
    char *names;            /* the text of all names */
};

/* Maps and checks PATH. ERR_INPUT names the file, the tensor and the rule that does not hold. */
int safetensors_open(const char *path, struct safetensors *out, struct err *err);

/* The same over `size` bytes in memory, which must outlive *out; `path` is only used in messages. */
int safetensors_parse(const void *data, size_t size, const char *path, struct safetensors *out, struct err *err);

void safetensors_close(struct safetensors *file); /* legal on a zeroed struct */

/* The tensor of that name, or NULL. */
const struct tensor *safetensors_find(const struct safetensors *file, const char *name);

/* "32x64", "scalar" for rank 0. */
void tensor_format_shape(const struct tensor *tensor, char *out, size_t n);

/* Refuses weights that hold NaN or infinity: ERR_INPUT naming file, tensor and index of the first. One pass over the bits at
 * memory speed. */
int tensor_check_finite(const struct tensor *tensor, struct err *err);

/* Element values widened to f32, out (n_items). */
void tensor_to_f32(const struct tensor *tensor, float *out);

#endif
