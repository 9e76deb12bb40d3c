/* Gradients of products with a weight, and of looking rows of it up. */
#include "kernels/ref/ref.h"

struct linear_grad {
    double *x, *dx;           /* (n_rows, n_in) */
    double *w_row, *dw_row;   /* (n_in) */
};

static bool linear_grad_alloc(struct device *dev, const struct linear_grad_args *a, struct linear_grad *l) {
    size_t n_in = a->w->n_cols;
    l->x = ref_scratch(dev, (2 * a->n_rows + 2) * n_in * sizeof *l->x);
    if (!l->x)
        return false;
    l->dx = l->x + a->n_rows * n_in;
    l->w_row = l->dx + a->n_rows * n_in;
    l->dw_row = l->w_row + n_in;
    return true;
}

/* Everything that output o gives. */
static void linear_grad_output(struct device *dev, const struct linear_grad_args *a, struct linear_grad *l, size_t o) {
    size_t n_in = a->w->n_cols;
    double dbias = 0;
    weight_row(a->w, o, l->w_row);
    for (size_t i = 0; i < n_in; i++)
        l->dw_row[i] = 0;
    for (size_t r = 0; r < a->n_rows; r++) {
        double dy = real_load(dev, a->dy, r * a->ld_dy + o);
        dbias += dy;
        if (a->dx)
            add_scaled(l->dx + r * n_in, dy, l->w_row, n_in);
        if (a->dw)
            add_scaled(l->dw_row, dy, l->x + r * n_in, n_in);
    }
    for (size_t i = 0; i < n_in && a->dw; i++)
        real_add(dev, a->dw, o * n_in + i, l->dw_row[i]);
    if (a->dbias)
        real_add(dev, a->dbias, o, dbias);
}

void ref_linear_grad(struct device *dev, const struct linear_grad_args *a) {
    size_t n = a->n_rows * a->w->n_cols;
    struct linear_grad l;
    ASSERT(a->ld_dy >= a->w->n_rows);
    if (ref_failed(dev) || a->n_rows == 0 || !linear_grad_alloc(dev, a, &l))
        return;
    if (a->dw)
        widen(a->x, dev->dtype, 0, n, l.x);
    for (size_t i = 0; i < n; i++)
        l.dx[i] = a->dx && a->add_dx ? real_load(dev, a->dx, i) : 0;
    for (size_t o = 0; o < a->w->n_rows; o++)
        linear_grad_output(dev, a, &l, o);
    for (size_t i = 0; i < n && a->dx; i++)
        real_store(dev, a->dx, i, l.dx[i]);
}

/* Whether an id stands in the first n. */
static bool id_seen(const int32_t *ids, size_t n, int32_t id) {
    for (size_t i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

/* Rows of equal ids are summed at the first of them. */
void ref_embed_grad(struct device *dev, const int32_t *ids, size_t n_rows, size_t n_cols, float scale, const float *dout,
                    float *dtable) {
    double *sum = NULL;
    if (ref_failed(dev) || !(sum = ref_scratch(dev, n_cols * sizeof *sum)))
        return;
    for (size_t first = 0; first < n_rows; first++) {
        if (id_seen(ids, first, ids[first]))
            continue;
        for (size_t i = 0; i < n_cols; i++)
            sum[i] = 0;
        for (size_t r = first; r < n_rows; r++)
            for (size_t i = 0; i < n_cols && ids[r] == ids[first]; i++)
                sum[i] += (double)scale * real_load(dev, dout, r * n_cols + i);
        for (size_t i = 0; i < n_cols; i++)
            real_add(dev, dtable, (size_t)ids[first] * n_cols + i, sum[i]);
    }
}
