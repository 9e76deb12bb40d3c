/* The gradients of a utility predictor, row by row. */
#include "kernels/ref/ref.h"

/* A layer y = w x + b of the predictor, and what its gradients are summed in. */
struct layer {
    const struct weight *w;
    double *dw, *db;
};

/* Numbers of one row, and sums over all rows. */
struct predictor {
    size_t d_model, n_hidden, n_kv_heads;
    double *h, *dh;           /* (d_model) */
    double *before, *hidden;  /* (n_hidden) under the activation, and after it */
    double *dhidden;          /* (n_hidden) */
    double *dout;             /* (n_kv_heads) */
    struct layer fc1, fc2;
};

static size_t layer_size(const struct weight *w, size_t n_bias) {
    return (w ? w->n_rows * w->n_cols : 0) + n_bias;
}

static bool predictor_alloc(struct device *dev, const struct predict_args *a, struct predictor *p) {
    *p = (struct predictor){.n_hidden = a->fc1 ? a->fc1->n_rows : 0, .n_kv_heads = a->n_kv_heads,
                            .d_model = a->fc1 ? a->fc1->n_cols : a->fc2 ? a->fc2->n_cols : 0};
    size_t n_row = 2 * p->d_model + 3 * p->n_hidden + p->n_kv_heads;
    size_t n_sum = layer_size(a->fc1, p->n_hidden) + layer_size(a->fc2, p->n_kv_heads);
    double *memory = ref_scratch(dev, (n_row + n_sum) * sizeof *memory);
    if (!memory)
        return false;
    p->h = memory;
    p->dh = p->h + p->d_model;
    p->before = p->dh + p->d_model;
    p->hidden = p->before + p->n_hidden;
    p->dhidden = p->hidden + p->n_hidden;
    p->dout = p->dhidden + p->n_hidden;
    p->fc1 = (struct layer){.w = a->fc1, .db = memory + n_row, .dw = memory + n_row + p->n_hidden};
    p->fc2 = (struct layer){.w = a->fc2, .db = p->fc1.db + layer_size(a->fc1, p->n_hidden)};
    p->fc2.dw = p->fc2.db + p->n_kv_heads;
    for (size_t i = 0; i < n_sum; i++)
        memory[n_row + i] = 0;
    return true;
}

/* Backward through one layer: sums the gradients of its parameters and writes dx (w->n_cols). */
static void layer_grad(const struct layer *l, const double *x, const double *dy, double *dx) {
    size_t n_in = l->w->n_cols;
    for (size_t i = 0; i < n_in; i++)
        dx[i] = 0;
    for (size_t o = 0; o < l->w->n_rows; o++) {
        l->db[o] += dy[o];
        add_scaled(l->dw + o * n_in, dy[o], x, n_in);
        for (size_t i = 0; i < n_in; i++)
            dx[i] += dy[o] * weight_load(l->w, o * n_in + i);
    }
}

static void hidden_forward(const struct device *dev, const struct predict_args *a, struct predictor *p) {
    for (size_t o = 0; o < p->n_hidden; o++) {
        p->before[o] = real_load(dev, a->b1, o);
        for (size_t i = 0; i < p->d_model; i++)
            p->before[o] += weight_load(a->fc1, o * p->d_model + i) * p->h[i];
        p->hidden[o] = ref_act(a->act, p->before[o]);
    }
}

static void row_grad(struct device *dev, const struct predict_grad_args *g, struct predictor *p, size_t row) {
    const struct predict_args *a = g->forward;
    for (size_t k = 0; k < p->n_kv_heads; k++) {
        double u = real_load(dev, a->u, row * p->n_kv_heads + k), du = real_load(dev, g->du, row * p->n_kv_heads + k);
        p->dout[k] = a->sigmoid ? du * u * (1 - u) : du;
    }
    if (!a->fc2) {
        add_scaled(p->fc2.db, 1, p->dout, p->n_kv_heads);
        return;
    }
    widen(a->h, ref_real(dev), row * p->d_model, p->d_model, p->h);
    if (a->fc1) {
        hidden_forward(dev, a, p);
        layer_grad(&p->fc2, p->hidden, p->dout, p->dhidden);
        for (size_t i = 0; i < p->n_hidden; i++)
            p->dhidden[i] *= ref_act_slope(a->act, p->before[i]);
        layer_grad(&p->fc1, p->h, p->dhidden, p->dh);
    } else {
        layer_grad(&p->fc2, p->h, p->dout, p->dh);
    }
    for (size_t i = 0; i < p->d_model && g->dh; i++)
        real_add(dev, g->dh, row * p->d_model + i, p->dh[i]);
}

static void add_sums(struct device *dev, float *out, const double *sum, size_t n) {
    for (size_t i = 0; i < n && out; i++)
        real_add(dev, out, i, sum[i]);
}

void ref_predict_grad(struct device *dev, const struct predict_grad_args *g) {
    const struct predict_args *a = g->forward;
    struct predictor p;
    if (ref_failed(dev) || a->n_rows == 0 || !predictor_alloc(dev, a, &p))
        return;
    for (size_t r = 0; r < a->n_rows; r++)
        row_grad(dev, g, &p, r);
    add_sums(dev, g->db2, p.fc2.db, p.n_kv_heads);
    if (a->fc2)
        add_sums(dev, g->dfc2, p.fc2.dw, layer_size(a->fc2, 0));
    if (a->fc1) {
        add_sums(dev, g->db1, p.fc1.db, p.n_hidden);
        add_sums(dev, g->dfc1, p.fc1.dw, layer_size(a->fc1, 0));
    }
}
