#include "engine/output_gram.h"

#include <stdlib.h>

#include "base/mem.h"

/* The columns of W_o as rows, (n_in, d_model) reals in host memory: a product with the identity reads a weight whatever its
 * layout on the device is. */
static int read_columns(const struct model *m, const struct projection *o, void *columns, struct err *err) {
    const struct ops *ops = m->ops;
    enum dtype act = ops->device_dtype(m->dev);
    size_t n = o->n_in, real = real_size(ops, m->dev);
    void *identity = mem_alloc(n, n * dtype_size(act), "an identity", err), *x = NULL;
    float *y = NULL;
    for (size_t i = 0; identity && i < n; i++)
        dtype_store(identity, act, i * n + i, 1);
    if (identity && (x = ops->mem_alloc(m->dev, n * n * dtype_size(act))) &&
        (y = ops->mem_alloc(m->dev, n * o->n_out * real))) {
        ops->upload(m->dev, x, identity, n * n * dtype_size(act));
        ops->linear(m->dev, &(struct linear_args){.w = o->weight, .x = x, .y = y, .n_rows = n, .ld_y = o->n_out});
        ops->download(m->dev, columns, y, n * o->n_out * real);
    }
    int rc = ops->sync(m->dev, err);
    ops->mem_free(m->dev, x);
    ops->mem_free(m->dev, y);
    free(identity);
    return rc == OK && !identity ? ERR_MEMORY : rc;
}

/* The products of head_dim rows of n_cols numbers with each other, (head_dim, head_dim). */
static void multiply(const void *rows, enum dtype real, size_t head_dim, size_t n_cols, float *gram) {
    for (size_t i = 0; i < head_dim; i++)
        for (size_t j = 0; j <= i; j++) {
            double sum = 0;
            for (size_t c = 0; c < n_cols; c++)
                sum += dtype_load(rows, real, i * n_cols + c) * dtype_load(rows, real, j * n_cols + c);
            gram[i * head_dim + j] = gram[j * head_dim + i] = (float)sum;
        }
}

int output_gram_create(const struct model *m, float **out, struct err *err) {
    const struct model_config *c = m->config;
    size_t n_heads = (size_t)c->n_heads, head_dim = (size_t)c->head_dim, d = (size_t)c->d_model, n = 0;
    enum dtype real = real_size(m->ops, m->dev) == 8 ? DTYPE_F64 : DTYPE_F32;
    size_t head_bytes = head_dim * d * dtype_size(real);
    float *gram = NULL;
    char *columns = mem_alloc(n_heads, head_bytes, "an output projection", err);
    int rc = ERR_MEMORY;
    if (columns && size_mul((size_t)c->n_layers * n_heads, head_dim * head_dim, &n) &&
        (gram = mem_alloc(n, sizeof *gram, "output projections", err)))
        rc = OK;
    for (int l = 0; l < c->n_layers && rc == OK; l++) {
        rc = read_columns(m, &m->layers[l].o, columns, err);
        for (size_t h = 0; h < n_heads && rc == OK; h++)
            multiply(columns + h * head_bytes, real, head_dim, d, gram + ((size_t)l * n_heads + h) * head_dim * head_dim);
    }
    if (rc == OK && !(*out = model_upload_real(m->ops, m->dev, gram, n, err)))
        rc = ERR_MEMORY;
    free(columns);
    free(gram);
    return rc;
}
