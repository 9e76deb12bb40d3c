/* Weights, and everything that multiplies by one row after the other of a weight. */
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "kernels/ref/ref.h"

int ref_weight_prepare(struct device *dev, const struct host_matrix *matrix, enum weight_use use, struct weight **out,
                       bool *borrowed, struct err *err) {
    struct weight *w = mem_alloc(1, sizeof *w, "a weight", err);
    if (!w)
        return ERR_MEMORY;
    *w = (struct weight){.data = matrix->data, .dtype = matrix->dtype, .n_rows = matrix->n_rows, .n_cols = matrix->n_cols,
                         .to_bf16 = dev->dtype == DTYPE_BF16 && use == WEIGHT_COMPUTE && matrix->dtype != DTYPE_BF16};
    *borrowed = true;
    *out = w;
    return OK;
}

int ref_weight_make(struct device *dev, const float *master, size_t n_rows, size_t n_cols, enum weight_use use,
                    struct weight **out, struct err *err) {
    const struct host_matrix matrix = {master, ref_real(dev), n_rows, n_cols};
    bool borrowed;
    return ref_weight_prepare(dev, &matrix, use, out, &borrowed, err);
}

void ref_weight_refresh(struct device *dev, struct weight *w) {
    (void)dev; /* the master is read at every use */
    (void)w;
}

void ref_weight_free(struct device *dev, struct weight *w) {
    (void)dev;
    free(w);
}

size_t ref_weight_bytes(const struct weight *w) {
    return w->n_rows * w->n_cols * dtype_size(w->dtype);
}

void ref_embed(struct device *dev, const struct weight *table, const int32_t *ids, size_t n_rows, float scale, float *out) {
    if (ref_failed(dev))
        return;
    for (size_t r = 0; r < n_rows; r++) {
        ASSERT(ids[r] >= 0 && (size_t)ids[r] < table->n_rows);
        for (size_t i = 0; i < table->n_cols; i++)
            real_store(dev, out, r * table->n_cols + i,
                       (double)scale * weight_load(table, (size_t)ids[r] * table->n_cols + i));
    }
}

/* Scratch for one row of a weight and n_rows rows of operands, which are filled in. */
static double *operands(struct device *dev, const struct weight *w, const void *x, size_t n_rows, double **w_row) {
    double *rows = ref_scratch(dev, (n_rows + 1) * w->n_cols * sizeof *rows);
    if (rows) {
        widen(x, dev->dtype, 0, n_rows * w->n_cols, rows);
        *w_row = rows + n_rows * w->n_cols;
    }
    return rows;
}

void ref_linear(struct device *dev, const struct linear_args *a) {
    size_t n_in = a->w->n_cols;
    double *w_row, *x;
    ASSERT(a->ld_y >= a->w->n_rows);
    if (ref_failed(dev) || !(x = operands(dev, a->w, a->x, a->n_rows, &w_row)))
        return;
    for (size_t o = 0; o < a->w->n_rows && a->n_rows; o++) {
        double bias = a->bias ? real_load(dev, a->bias, o) : 0;
        weight_row(a->w, o, w_row);
        for (size_t r = 0; r < a->n_rows; r++)
            real_store(dev, a->y, r * a->ld_y + o, dot(x + r * n_in, w_row, n_in) + bias);
    }
}

double ref_softcap(double logit, double cap) {
    return cap != 0 ? cap * tanh(logit / cap) : logit;
}

void ref_logits(struct device *dev, const struct weight *w, const void *x, float softcap, size_t n_rows, float *out) {
    double *w_row, *rows;
    if (ref_failed(dev) || !(rows = operands(dev, w, x, n_rows, &w_row)))
        return;
    for (size_t o = 0; o < w->n_rows && n_rows; o++) {
        weight_row(w, o, w_row);
        for (size_t r = 0; r < n_rows; r++)
            real_store(dev, out, r * w->n_rows + o, ref_softcap(dot(rows + r * w->n_cols, w_row, w->n_cols), softcap));
    }
}
