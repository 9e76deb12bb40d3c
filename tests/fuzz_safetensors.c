/* Any bytes as a safetensors file: refused, or a list of tensors that tile their data and can be read in full. */
#include <stdint.h>
#include <string.h>

#include "engine/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct safetensors file;
    struct err err = {0};
    char shape[256];
    size_t n_bytes = 0;
    int rc = safetensors_parse(data, size, "input", &file, &err);
    ASSERT(rc == OK ? err.code == OK : rc == ERR_INPUT && err.code == rc && err.message[0] && !file.tensors);
    for (size_t i = 0; i < file.n_tensors; i++) {
        const struct tensor *t = &file.tensors[i];
        ASSERT(safetensors_find(&file, t->name) == t);
        ASSERT((const uint8_t *)t->data >= data && t->n_items <= size);
        tensor_check_finite(t, NULL);
        tensor_format_shape(t, shape, sizeof shape);
        n_bytes += t->n_items * dtype_size(t->dtype);
    }
    uint64_t n_header = 0;
    for (int i = 7; rc == OK && i >= 0; i--)
        n_header = n_header << 8 | data[i];
    ASSERT(rc != OK || n_bytes == size - 8 - n_header);
    safetensors_close(&file);
    return 0;
}
