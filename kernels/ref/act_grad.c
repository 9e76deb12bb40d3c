#include <math.h>

#include "kernels/ref/ref.h"

double ref_act_slope(enum act act, double x) {
    double s, t;
    switch (act) {
    case ACT_SILU:
        s = 1 / (1 + exp(-x));
        return s * (1 + x * (1 - s));
    case ACT_GELU: /* Phi(x) + x phi(x) */
        return 0.5 * (1 + erf(x * M_SQRT1_2)) + x * exp(-0.5 * x * x) * 0.5 * M_2_SQRTPI * M_SQRT1_2;
    case ACT_GELU_TANH:
        t = tanh(M_2_SQRTPI * M_SQRT1_2 * (x + 0.044715 * x * x * x));
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * M_2_SQRTPI * M_SQRT1_2 * (1 + 3 * 0.044715 * x * x);
    case ACT_NONE:
        break;
    }
    return 1;
}

void ref_act_mul_grad(struct device *dev, const float *gate_up, enum act act, size_t n_rows, size_t n, const float *dout,
                      float *dgate_up) {
    if (ref_failed(dev))
        return;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < n; i++) {
            size_t at = r * 2 * n + i;
            double gate = real_load(dev, gate_up, at), up = real_load(dev, gate_up, at + n);
            double d = real_load(dev, dout, r * n + i);
            real_store(dev, dgate_up, at, d * up * ref_act_slope(act, gate));
            real_store(dev, dgate_up, at + n, d * ref_act(act, gate));
        }
}
