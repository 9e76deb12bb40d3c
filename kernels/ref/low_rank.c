/* Low-rank updates of products, and their gradients. */
#include "kernels/ref/ref.h"

void ref_low_rank(struct device *dev, const struct low_rank_args *a) {
    ASSERT(a->ld_y >= a->n_out);
    if (ref_failed(dev))
        return;
    for (size_t r = 0; r < a->n_rows; r++) {
        for (size_t k = 0; k < a->rank; k++) {
            double sum = 0;
            for (size_t i = 0; i < a->n_in; i++)
                sum += dtype_load(a->x, dev->dtype, r * a->n_in + i) * real_load(dev, a->a, k * a->n_in + i);
            real_store(dev, a->low, r * a->rank + k, sum);
        }
        for (size_t o = 0; o < a->n_out; o++) {
            double sum = 0;
            for (size_t k = 0; k < a->rank; k++)
                sum += real_load(dev, a->low, r * a->rank + k) * real_load(dev, a->b, o * a->rank + k);
            real_add(dev, a->y, r * a->ld_y + o, (double)a->scale * sum);
        }
    }
}

/* db += scale * dy^T low */
static void grad_b(struct device *dev, const struct low_rank_grad_args *g) {
    const struct low_rank_args *a = g->forward;
    for (size_t o = 0; o < a->n_out; o++)
        for (size_t k = 0; k < a->rank; k++) {
            double sum = 0;
            for (size_t r = 0; r < a->n_rows; r++)
                sum += real_load(dev, g->dy, r * g->ld_dy + o) * real_load(dev, a->low, r * a->rank + k);
            real_add(dev, g->db, o * a->rank + k, (double)a->scale * sum);
        }
}

/* low = scale * dy b, its own gradient */
static void grad_low(struct device *dev, const struct low_rank_grad_args *g) {
    const struct low_rank_args *a = g->forward;
    for (size_t r = 0; r < a->n_rows; r++)
        for (size_t k = 0; k < a->rank; k++) {
            double sum = 0;
            for (size_t o = 0; o < a->n_out; o++)
                sum += real_load(dev, g->dy, r * g->ld_dy + o) * real_load(dev, a->b, o * a->rank + k);
            real_store(dev, a->low, r * a->rank + k, (double)a->scale * sum);
        }
}

/* da += low^T x, dx += low a, where low holds its gradient */
static void grad_a(struct device *dev, const struct low_rank_grad_args *g) {
    const struct low_rank_args *a = g->forward;
    for (size_t i = 0; i < a->n_in; i++) {
        for (size_t k = 0; k < a->rank; k++) {
            double sum = 0;
            for (size_t r = 0; r < a->n_rows; r++)
                sum += real_load(dev, a->low, r * a->rank + k) * dtype_load(a->x, dev->dtype, r * a->n_in + i);
            real_add(dev, g->da, k * a->n_in + i, sum);
        }
        for (size_t r = 0; r < a->n_rows; r++) {
            double sum = 0;
            for (size_t k = 0; k < a->rank; k++)
                sum += real_load(dev, a->low, r * a->rank + k) * real_load(dev, a->a, k * a->n_in + i);
            real_add(dev, g->dx, r * a->n_in + i, sum);
        }
    }
}

void ref_low_rank_grad(struct device *dev, const struct low_rank_grad_args *g) {
    ASSERT(g->ld_dy >= g->forward->n_out);
    if (ref_failed(dev) || g->forward->n_rows == 0)
        return;
    grad_b(dev, g);
    grad_low(dev, g);
    grad_a(dev, g);
}
