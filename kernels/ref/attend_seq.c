/* Attention over whole sequences and its gradient (arXiv 2605.14037; method.md section 3). One sequence and one KV head
 * at a time; logits are those of one query. */
#include <math.h>

#include "kernels/ref/ref.h"

/* One sequence, one KV head. */
struct head {
    const struct attend_seq_args *a;
    size_t first, n_keys, dim, kv_head;
    double *k, *v, *dk, *dv; /* (n_keys, head_dim) */
    double *gate, *dgate;    /* (n_keys) log of the gate; -INFINITY where closed */
    double *capped, *p;      /* (n_keys) of the query at hand: logit without its gate, and softmax weight */
    double *q, *dq, *dout, *out; /* (head_dim) of the query at hand */
};

static bool head_open(struct device *dev, const struct attend_seq_args *a, int seq, size_t kv_head, struct head *h) {
    size_t first = (size_t)a->row_splits[seq], n = (size_t)a->row_splits[seq + 1] - first, dim = a->head_dim;
    double *memory = ref_scratch(dev, (4 * n * dim + 4 * n + 4 * dim) * sizeof *memory);
    if (!memory)
        return false;
    *h = (struct head){.a = a, .first = first, .n_keys = n, .dim = dim, .kv_head = kv_head, .k = memory};
    h->v = h->k + n * dim;
    h->dk = h->v + n * dim;
    h->dv = h->dk + n * dim;
    h->gate = h->dv + n * dim;
    h->dgate = h->gate + n;
    h->capped = h->dgate + n;
    h->p = h->capped + n;
    h->q = h->p + n;
    h->dq = h->q + dim;
    h->dout = h->dq + dim;
    h->out = h->dout + dim;
    for (size_t s = 0; s < n; s++) {
        size_t from = (first + s) * a->ld_qkv + kv_head * dim;
        h->gate[s] = a->log_gate ? real_load(dev, a->log_gate, (first + s) * a->n_kv_heads + kv_head) : -INFINITY;
        h->dgate[s] = 0;
        for (size_t i = 0; i < dim; i++) { /* rounded as a cache would round them */
            h->k[s * dim + i] = rounded(real_load(dev, a->k, from + i), dev->dtype);
            h->v[s * dim + i] = rounded(real_load(dev, a->v, from + i), dev->dtype);
            h->dk[s * dim + i] = h->dv[s * dim + i] = 0;
        }
    }
    return true;
}

/* Whether a key needs no gate. */
static bool ungated(const struct head *h, size_t t, size_t s) {
    return t - s < (size_t)h->a->window[h->kv_head] || s < (size_t)h->a->sinks;
}

/* Whether the query looks at the key at all; what it does not see is not touched: 0 * infinity. */
static bool sees(const struct head *h, size_t t, size_t s) {
    return ungated(h, t, s) || h->gate[s] != -INFINITY;
}

/* Fills q, capped and p of query t; returns the log of the sum of exponentials. */
static double query_forward(struct device *dev, struct head *h, size_t t, size_t query_head) {
    const struct attend_seq_args *a = h->a;
    size_t from = (h->first + t) * a->ld_qkv + query_head * h->dim;
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < h->dim; i++)
        h->q[i] = rounded(real_load(dev, a->q, from + i), dev->dtype);
    for (size_t s = 0; s <= t; s++) {
        h->p[s] = -INFINITY;
        if (!sees(h, t, s))
            continue;
        h->capped[s] = ref_softcap((double)a->scale * dot(h->q, h->k + s * h->dim, h->dim), (double)a->softcap);
        h->p[s] = h->capped[s] + (ungated(h, t, s) ? 0 : h->gate[s]);
        max = h->p[s] > max ? h->p[s] : max;
    }
    for (size_t s = 0; s <= t; s++) {
        h->p[s] = h->p[s] == -INFINITY ? 0 : exp(h->p[s] - max);
        sum += h->p[s];
    }
    for (size_t s = 0; s <= t; s++)
        h->p[s] /= sum;
    return max + log(sum);
}

static void attend_query(struct device *dev, struct head *h, size_t t, size_t query_head) {
    const struct attend_seq_args *a = h->a;
    size_t at = (h->first + t) * a->n_heads + query_head;
    real_store(dev, a->lse, at, query_forward(dev, h, t, query_head));
    for (size_t i = 0; i < h->dim; i++)
        h->out[i] = 0;
    for (size_t s = 0; s <= t; s++)
        if (sees(h, t, s))
            add_scaled(h->out, h->p[s], h->v + s * h->dim, h->dim);
    for (size_t i = 0; i < h->dim; i++)
        dtype_store(a->out, dev->dtype, at * h->dim + i, h->out[i]);
}

/* With L the loss: dL/dp = dout.v, and dL/dlogit = p (dL/dp - sum of p dL/dp). */
static void query_backward(struct device *dev, const struct attend_seq_grad_args *g, struct head *h, size_t t,
                           size_t query_head) {
    const struct attend_seq_args *a = h->a;
    size_t dim = h->dim, at = (h->first + t) * a->n_heads + query_head;
    double mean = 0, scale = (double)a->scale;
    query_forward(dev, h, t, query_head);
    widen(g->dout, ref_real(dev), at * dim, dim, h->dout);
    for (size_t s = 0; s <= t; s++)
        if (sees(h, t, s))
            mean += h->p[s] * dot(h->dout, h->v + s * dim, dim);
    for (size_t i = 0; i < dim; i++)
        h->dq[i] = 0;
    for (size_t s = 0; s <= t; s++) {
        if (!sees(h, t, s))
            continue;
        double dlogit = h->p[s] * (dot(h->dout, h->v + s * dim, dim) - mean);
        double dscore = scale * dlogit * softcap_slope(h->capped[s], (double)a->softcap);
        h->dgate[s] += ungated(h, t, s) ? 0 : dlogit;
        add_scaled(h->dv + s * dim, h->p[s], h->dout, dim);
        add_scaled(h->dk + s * dim, dscore, h->q, dim);
        add_scaled(h->dq, dscore, h->k + s * dim, dim);
    }
    for (size_t i = 0; i < dim; i++)
        real_store(dev, g->dq, (h->first + t) * a->ld_qkv + query_head * dim + i, h->dq[i]);
}

static void head_store(struct device *dev, const struct attend_seq_grad_args *g, const struct head *h) {
    for (size_t s = 0; s < h->n_keys; s++) {
        size_t to = (h->first + s) * h->a->ld_qkv + h->kv_head * h->dim;
        for (size_t i = 0; i < h->dim; i++) {
            real_store(dev, g->dk, to + i, h->dk[s * h->dim + i]);
            real_store(dev, g->dv, to + i, h->dv[s * h->dim + i]);
        }
        if (g->dlog_gate)
            real_store(dev, g->dlog_gate, (h->first + s) * h->a->n_kv_heads + h->kv_head, h->dgate[s]);
    }
}

/* All queries of all sequences and KV heads; backward where g is given. */
static void attend(struct device *dev, const struct attend_seq_args *a, const struct attend_seq_grad_args *g) {
    size_t group = a->n_heads / a->n_kv_heads;
    struct head h;
    ASSERT(a->n_heads % a->n_kv_heads == 0 && a->ld_qkv >= a->n_heads * a->head_dim);
    ASSERT(a->n_seq == 0 || (a->row_splits[0] == 0 && (size_t)a->row_splits[a->n_seq] == a->n_rows));
    for (int seq = 0; seq < a->n_seq; seq++)
        for (size_t kv_head = 0; kv_head < a->n_kv_heads; kv_head++) {
            ASSERT(a->window[kv_head] >= 1);
            if (ref_failed(dev) || !head_open(dev, a, seq, kv_head, &h))
                return;
            for (size_t t = 0; t < h.n_keys; t++)
                for (size_t query_head = kv_head * group; query_head < (kv_head + 1) * group; query_head++)
                    if (g)
                        query_backward(dev, g, &h, t, query_head);
                    else
                        attend_query(dev, &h, t, query_head);
            if (g)
                head_store(dev, g, &h);
        }
}

void ref_attend_seq(struct device *dev, const struct attend_seq_args *a) {
    attend(dev, a, NULL);
}

void ref_attend_seq_grad(struct device *dev, const struct attend_seq_grad_args *g) {
    attend(dev, g->forward, g);
}
