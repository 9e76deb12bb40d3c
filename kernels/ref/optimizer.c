#include <math.h>

#include "kernels/ref/ref.h"

void ref_adamw(struct device *dev, const struct adamw_args *a) {
    double beta1 = (double)a->beta1, beta2 = (double)a->beta2, lr = (double)a->lr;
    double unbias1 = 1 - pow(beta1, (double)a->step), unbias2 = 1 - pow(beta2, (double)a->step);
    ASSERT(a->step >= 1);
    if (ref_failed(dev))
        return;
    for (size_t i = 0; i < a->n; i++) {
        double p = real_load(dev, a->param, i), g = (double)a->grad_scale * real_load(dev, a->grad, i);
        double m = beta1 * real_load(dev, a->m, i) + (1 - beta1) * g;
        double v = beta2 * real_load(dev, a->v, i) + (1 - beta2) * g * g;
        double step = m / unbias1 / (sqrt(v / unbias2) + (double)a->eps);
        real_store(dev, a->m, i, m);
        real_store(dev, a->v, i, v);
        real_store(dev, a->param, i, p - lr * ((double)a->weight_decay * p + step));
    }
}

void ref_norm_sq(struct device *dev, const float *x, size_t n, double *sum) {
    if (ref_failed(dev))
        return;
    for (size_t i = 0; i < n; i++)
        *sum += real_load(dev, x, i) * real_load(dev, x, i);
}
