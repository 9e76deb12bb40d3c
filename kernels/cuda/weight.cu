/* Weights go up once, in the dtype that products read. */
#include <stdlib.h>

#include "kernels/cuda/device.cuh"
extern "C" {
#include "base/mem.h"
}

enum { BLOCK_ITEMS = 1 << 20 };

/* Elements of the matrix as dtype `kept`, some at a time: the copy in host memory stays small. */
static int weight_convert(struct device *dev, const struct host_matrix *matrix, struct weight *w, size_t n,
                          struct err *err) {
    size_t size = dtype_size(w->dtype);
    void *block = mem_alloc(n < BLOCK_ITEMS ? n : BLOCK_ITEMS, size, "a part of a weight", err);
    if (!block)
        return ERR_MEMORY;
    for (size_t first = 0; first < n; first += BLOCK_ITEMS) {
        size_t n_items = n - first < BLOCK_ITEMS ? n - first : BLOCK_ITEMS;
        for (size_t i = 0; i < n_items; i++)
            dtype_store(block, w->dtype, i, dtype_load(matrix->data, matrix->dtype, first + i));
        cuda_upload(dev, (char *)w->data + first * size, block, n_items * size);
    }
    free(block);
    return OK;
}

int cuda_weight_prepare(struct device *dev, const struct host_matrix *matrix, enum weight_use use, struct weight **out,
                        bool *borrowed, struct err *err) {
    enum dtype kept = use == WEIGHT_COMPUTE ? dev->dtype : DTYPE_F32;
    size_t n, n_bytes;
    int rc = OK;
    struct weight *w = (struct weight *)mem_alloc(1, sizeof *w, "a weight", err);
    if (!w)
        return ERR_MEMORY;
    *borrowed = false;
    *w = {NULL, kept, matrix->n_rows, matrix->n_cols};
    if (!size_mul(matrix->n_rows, matrix->n_cols, &n) || !size_mul(n, dtype_size(kept), &n_bytes))
        rc = err_memory(err, "a weight", SIZE_MAX);
    else if (!(w->data = cuda_mem_alloc(dev, n_bytes)))
        rc = err_set(err, dev->err.code, dev->err.where, "%s", dev->err.message);
    else if (matrix->dtype == kept)
        cuda_upload(dev, w->data, matrix->data, n_bytes);
    else
        rc = weight_convert(dev, matrix, w, n, err);
    if (rc == OK)
        *out = w;
    else
        cuda_weight_free(dev, w);
    return rc;
}

void cuda_weight_free(struct device *dev, struct weight *w) {
    if (w)
        cuda_mem_free(dev, w->data);
    free(w);
}

size_t cuda_weight_bytes(const struct weight *w) {
    return w->n_rows * w->n_cols * dtype_size(w->dtype);
}
