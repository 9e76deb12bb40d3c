/* Losses through the output matrix, and their gradients: one pass over the vocabulary for the sums of exponentials,
 * a second one for the gradient. */
#include <math.h>

#include "kernels/ref/ref.h"

/* Log of a sum of exponentials, one term at a time: the sum is kept relative to the largest term so far. */
struct log_sum {
    double max, sum;
};

static void log_sum_add(struct log_sum *s, double x) {
    if (x > s->max) {
        s->sum = s->sum * exp(s->max - x) + 1;
        s->max = x;
    } else if (x != -INFINITY) {
        s->sum += exp(x - s->max); /* NaN comes here and stays */
    }
}

/* What both passes work on. */
struct loss {
    double *x, *dx;       /* (n_rows, d_model) */
    double *w_row, *dw_row; /* (d_model) */
    double *target_logit; /* (n_rows) */
    double *below;        /* (n_rows) the largest logit of the ids below the target */
    struct log_sum *sum;  /* (n_rows) */
};

static bool loss_alloc(struct device *dev, const struct nll_args *a, struct loss *l) {
    size_t n = a->n_rows, d_model = a->w->n_cols;
    double *memory = ref_scratch(dev, (2 * n * d_model + 2 * d_model + 2 * n) * sizeof *memory + n * sizeof *l->sum);
    if (!memory)
        return false;
    l->x = memory;
    l->dx = l->x + n * d_model;
    l->w_row = l->dx + n * d_model;
    l->dw_row = l->w_row + d_model;
    l->target_logit = l->dw_row + d_model;
    l->below = l->target_logit + n;
    l->sum = (struct log_sum *)(void *)(l->below + n);
    return true;
}

static double loss_logit(const struct nll_args *a, const struct loss *l, size_t row) {
    size_t d_model = a->w->n_cols;
    return ref_softcap(dot(l->x + row * d_model, l->w_row, d_model), (double)a->softcap);
}

/* Fills l, and a->nll. */
static bool loss_forward(struct device *dev, const struct nll_args *a, struct loss *l) {
    if (ref_failed(dev) || !loss_alloc(dev, a, l))
        return false;
    widen(a->x, dev->dtype, 0, a->n_rows * a->w->n_cols, l->x);
    for (size_t r = 0; r < a->n_rows; r++) {
        ASSERT(a->target[r] >= -1 && (a->target[r] < 0 || (size_t)a->target[r] < a->w->n_rows));
        l->sum[r] = (struct log_sum){-INFINITY, 0};
        l->target_logit[r] = l->below[r] = NAN;
    }
    for (size_t o = 0; o < a->w->n_rows; o++) {
        weight_row(a->w, o, l->w_row);
        for (size_t r = 0; r < a->n_rows; r++) {
            if (a->target[r] < 0)
                continue;
            double logit = loss_logit(a, l, r);
            if (o == (size_t)a->target[r]) {
                l->target_logit[r] = logit;
                l->below[r] = l->sum[r].max;
            }
            log_sum_add(&l->sum[r], logit);
        }
    }
    for (size_t r = 0; r < a->n_rows; r++)
        real_store(dev, a->nll, r, l->sum[r].max + log(l->sum[r].sum) - l->target_logit[r]);
    return true;
}

void ref_nll(struct device *dev, const struct nll_args *a) {
    struct loss l;
    if (!loss_forward(dev, a, &l))
        return;
    for (size_t r = 0; r < a->n_rows && a->is_argmax; r++)
        a->is_argmax[r] = l.target_logit[r] == l.sum[r].max && l.target_logit[r] > l.below[r];
}

/* Adds what logit o of every row gives to l->dx, and writes l->dw_row. */
static void loss_backward_row(const struct nll_grad_args *g, struct loss *l, size_t o) {
    const struct nll_args *a = g->forward;
    size_t d_model = a->w->n_cols;
    weight_row(a->w, o, l->w_row);
    for (size_t i = 0; i < d_model; i++)
        l->dw_row[i] = 0;
    for (size_t r = 0; r < a->n_rows; r++) {
        if (a->target[r] < 0)
            continue;
        double logit = loss_logit(a, l, r), p = exp(logit - l->sum[r].max) / l->sum[r].sum;
        double dlogit = (double)g->scale * (p - (o == (size_t)a->target[r])) * softcap_slope(logit, (double)a->softcap);
        add_scaled(l->dx + r * d_model, dlogit, l->w_row, d_model);
        add_scaled(l->dw_row, dlogit, l->x + r * d_model, d_model);
    }
}

void ref_nll_grad(struct device *dev, const struct nll_grad_args *g) {
    const struct nll_args *a = g->forward;
    size_t d_model = a->w->n_cols;
    struct loss l;
    if (!loss_forward(dev, a, &l))
        return;
    for (size_t i = 0; i < a->n_rows * d_model; i++)
        l.dx[i] = 0;
    for (size_t o = 0; o < a->w->n_rows; o++) {
        loss_backward_row(g, &l, o);
        for (size_t i = 0; i < d_model && g->dw; i++)
            real_add(dev, g->dw, o * d_model + i, l.dw_row[i]);
    }
    for (size_t i = 0; i < a->n_rows * d_model; i++)
        real_store(dev, g->dx, i, l.dx[i]);
}
