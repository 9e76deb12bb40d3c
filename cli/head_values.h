/* head_values.h - one number per head, out of whatever holds one: a run file (its density, or far attention), a layout (1 =
 * global), the pattern of another tool. */
#ifndef SPKV_CLI_HEAD_VALUES_H
#define SPKV_CLI_HEAD_VALUES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct head_values {
    uint32_t n_layers, n_kv_heads;
    double *value;        /* (n_layers, n_kv_heads), NaN = missing; owned */
    const char *quantity; /* "long-range density", "imported value", ... */
    size_t n_global;      /* of a layout, else 0 */
};

/* n_kv_heads as in head_pattern_read(). */
int head_values_read(const char *path, uint32_t n_kv_heads, struct head_values *out, struct err *err);
void head_values_free(struct head_values *values); /* legal on a zeroed struct */

/* What a path holds, told by its first bytes: HDF5 or a directory of segments; JSON with "spkv-layout". */
bool is_run(const char *path);
bool is_layout(const char *path);

#endif
