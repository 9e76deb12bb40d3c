/* With r = 1 / sqrt(mean of squares + eps) and y = r x w:
 * dx = r (dy w) - x r^3 / n_cols * sum(dy w x), dw = sum over rows of dy r x. */
#include <math.h>

#include "kernels/ref/ref.h"

/* One group of one row, whose x and dy begin at these places; dweight (n_cols) is added to. */
static void group_grad(struct device *dev, const struct rmsnorm_grad_args *a, size_t at_x, size_t at_dy, size_t at_dx,
                       double *dweight) {
    double squares = 0, along = 0;
    for (size_t i = 0; i < a->n_cols; i++) {
        double x = real_load(dev, a->x, at_x + i), w = real_load(dev, a->weight, i) + (a->plus_one ? 1 : 0);
        squares += x * x;
        along += x * w * real_load(dev, a->dy, at_dy + i);
    }
    double r = 1 / sqrt(squares / (double)a->n_cols + (double)a->eps), back = r * r * r * along / (double)a->n_cols;
    for (size_t i = 0; i < a->n_cols; i++) {
        double x = real_load(dev, a->x, at_x + i), w = real_load(dev, a->weight, i) + (a->plus_one ? 1 : 0);
        double dy = real_load(dev, a->dy, at_dy + i), before = a->add_dx ? real_load(dev, a->dx, at_dx + i) : 0;
        dweight[i] += dy * r * x;
        real_store(dev, a->dx, at_dx + i, before + r * w * dy - back * x);
    }
}

void ref_rmsnorm_grad(struct device *dev, const struct rmsnorm_grad_args *a) {
    size_t width = a->n_groups * a->n_cols;
    double *dweight = NULL;
    ASSERT(a->ld_x >= width && a->ld_dy >= width && a->ld_dx >= width && !(a->add_dx && a->dx == a->dy));
    if (ref_failed(dev) || !(dweight = ref_scratch(dev, a->n_cols * sizeof *dweight)))
        return;
    for (size_t i = 0; i < a->n_cols; i++)
        dweight[i] = 0;
    for (size_t r = 0; r < a->n_rows; r++)
        for (size_t at = 0; at < width; at += a->n_cols)
            group_grad(dev, a, r * a->ld_x + at, r * a->ld_dy + at, r * a->ld_dx + at, dweight);
    for (size_t i = 0; i < a->n_cols && a->dweight && a->n_rows; i++)
        real_add(dev, a->dweight, i, dweight[i]);
}
