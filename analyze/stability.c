#include "analyze/stability.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

/* What is applied again and again. */
struct repeated {
    const struct strategy *strategy;
    struct strategy_input input; /* value: (n_layers, n_kv_heads) of the resample */
    size_t n_global;
    const struct statistics *statistics;
    enum head_ratio ratio;
    double *value;
};

static int layout_of(struct repeated *r, const struct bootstrap *bootstrap, size_t resample, struct layout **out,
                     struct err *err) {
    bootstrap_heads(bootstrap, r->statistics, r->ratio, resample, r->value);
    return strategy_apply(r->strategy, &r->input, r->n_global, out, err);
}

static int count_chosen(struct repeated *r, const struct bootstrap *bootstrap, double *share, struct err *err) {
    size_t n = (size_t)r->input.n_layers * r->input.n_kv_heads;
    int rc = OK;
    for (size_t resample = 0; rc == OK && resample < bootstrap->n_resamples; resample++) {
        struct layout *layout;
        if ((rc = layout_of(r, bootstrap, resample, &layout, err)) != OK)
            break;
        for (size_t i = 0; i < n; i++)
            share[i] += layout->heads[i] == HEAD_GLOBAL;
        layout_free(layout);
    }
    for (size_t i = 0; i < n; i++)
        share[i] /= (double)bootstrap->n_resamples;
    return rc;
}

/* Two "resamples": every other cell, and the rest. */
static int compare_halves(struct repeated *r, double *overlap, struct err *err) {
    size_t n_cells = r->statistics->n_cells, both = 0;
    double count[2 * STATISTICS_MAX_CELLS] = {0};
    struct bootstrap halves = {.n_resamples = 2, .n_cells = n_cells, .count = count};
    struct layout *layout[2] = {0};
    for (size_t cell = 0; cell < n_cells; cell++)
        count[cell % 2 * n_cells + cell] = 1;
    int rc = layout_of(r, &halves, 0, &layout[0], err);
    if (rc == OK)
        rc = layout_of(r, &halves, 1, &layout[1], err);
    for (size_t i = 0; rc == OK && i < (size_t)r->input.n_layers * r->input.n_kv_heads; i++)
        both += layout[0]->heads[i] == HEAD_GLOBAL && layout[1]->heads[i] == HEAD_GLOBAL;
    layout_free(layout[0]);
    layout_free(layout[1]);
    *overlap = (double)both / (double)r->n_global;
    return rc;
}

/* The x below which a standard normal number lies with probability p; infinite for p = 1. */
static double normal_quantile(double p) {
    double low = -40, high = 40;
    if (p >= 1)
        return INFINITY;
    for (int i = 0; i < 80; i++) {
        double middle = (low + high) / 2;
        if (0.5 * erfc(-middle / sqrt(2)) < p)
            low = middle;
        else
            high = middle;
    }
    return (low + high) / 2;
}

/* A head that is chosen with probability p lies normal_quantile(p) standard errors above the cut, and those shrink with the
 * square root of the number of documents. */
static double factor_of(double share) {
    double distance = normal_quantile(share), wanted = normal_quantile(STABILITY_SHARE);
    return distance >= wanted ? 1 : distance > 0 ? wanted * wanted / (distance * distance) : (double)INFINITY;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int judge(const struct layout *layout, struct stability *s, struct err *err) {
    size_t n = (size_t)layout->n_layers * layout->n_kv_heads, chosen = 0;
    double *factor = mem_alloc(s->n_chosen, sizeof *factor, "stability", err);
    if (!factor)
        return ERR_MEMORY;
    for (size_t i = 0; i < n; i++)
        if (layout->heads[i] == HEAD_GLOBAL) {
            s->n_stable += s->share[i] >= STABILITY_SHARE;
            factor[chosen++] = factor_of(s->share[i]);
        }
    qsort(factor, s->n_chosen, sizeof *factor, ascending);
    size_t needed = (size_t)ceil(STABILITY_ENOUGH * (double)s->n_chosen);
    s->enough = s->n_stable >= needed;
    s->factor = s->enough ? 1 : factor[needed - 1];
    free(factor);
    return OK;
}

int stability_compute(const struct strategy *strategy, const struct strategy_input *input, size_t n_global,
                      const struct statistics *statistics, enum head_ratio ratio, const struct bootstrap *bootstrap,
                      struct stability *out, struct err *err) {
    size_t n = (size_t)input->n_layers * input->n_kv_heads;
    struct repeated r = {strategy, *input, n_global, statistics, ratio, mem_alloc(n, sizeof(double), "stability", err)};
    struct layout *layout = NULL;
    *out = (struct stability){.n_chosen = n_global};
    out->share = mem_alloc(n, sizeof *out->share, "stability", err);
    r.input.value = r.value;
    int rc = r.value && out->share ? OK : ERR_MEMORY;
    out->judged = statistics->n_cells > 1 && n_global > 0;
    if (rc == OK && out->judged) {
        rc = strategy_apply(strategy, input, n_global, &layout, err);
        if (rc == OK)
            rc = count_chosen(&r, bootstrap, out->share, err);
        if (rc == OK)
            rc = compare_halves(&r, &out->halves_overlap, err);
        if (rc == OK)
            rc = judge(layout, out, err);
    }
    layout_free(layout);
    free(r.value);
    if (rc != OK)
        stability_free(out);
    return rc;
}

void stability_free(struct stability *stability) {
    free(stability->share);
    *stability = (struct stability){0};
}
