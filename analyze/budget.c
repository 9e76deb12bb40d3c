#include "analyze/budget.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

static int descending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* Pairs that a head holds more when it is global, largest first; returns how many heads. */
static size_t rank_extra(const struct layout *local, uint64_t context, double *extra) {
    size_t n = 0;
    for (size_t i = 0; i < (size_t)local->n_layers * local->n_kv_heads; i++) {
        if (local->heads[i] == HEAD_SLIDING)
            continue;
        uint64_t near = (uint64_t)layout_window(local, i / local->n_kv_heads, i % local->n_kv_heads) + local->sinks;
        extra[n++] = context > near ? (double)(context - near) : 0;
    }
    qsort(extra, n, sizeof *extra, descending);
    return n;
}

static int from_bytes(const struct budget *budget, const struct layout *local, uint32_t head_dim, uint32_t element_bytes,
                      const uint32_t *sliding_window, size_t *n_global, struct err *err) {
    double *extra = mem_alloc((size_t)local->n_layers * local->n_kv_heads, sizeof *extra, "a budget", err);
    if (!extra)
        return ERR_MEMORY;
    size_t n = rank_extra(local, budget->context, extra);
    double per_pair = 2.0 * head_dim * element_bytes, all = 0,
           used = layout_kv_bytes(local, budget->context, head_dim, element_bytes, sliding_window);
    for (size_t i = 0; i < n; i++)
        all += extra[i] * per_pair;
    double limit = budget->kind == BUDGET_KV_SHARE      ? budget->amount * (used + all)
                   : budget->kind == BUDGET_DECODE_TIME ? (budget->amount - budget->cost->base_s) /
                                                              (budget->cost->per_byte_s * budget->cost->batch)
                                                        : budget->amount;
    int rc = OK;
    limit *= 1 + 1e-12; /* a share that was computed from these very bytes is met */
    if (used > limit)
        rc = err_set(err, ERR_INPUT, "budget", "windows alone take %.0f bytes at a context of %llu tokens, the budget is "
                     "%.0f", used, (unsigned long long)budget->context, fmax(limit, 0));
    for (*n_global = 0; *n_global < n && used + extra[*n_global] * per_pair <= limit; (*n_global)++)
        used += extra[*n_global] * per_pair;
    free(extra);
    return rc;
}

int budget_heads(const struct budget *budget, const struct layout *local, uint32_t head_dim, uint32_t element_bytes,
                 const uint32_t *sliding_window, size_t *n_global, struct err *err) {
    size_t n = layout_n_eligible(local);
    if (budget->kind != BUDGET_HEADS && budget->kind != BUDGET_HEAD_SHARE)
        return from_bytes(budget, local, head_dim, element_bytes, sliding_window, n_global, err);
    double heads = budget->kind == BUDGET_HEADS ? budget->amount : floor(budget->amount * (double)n + 0.5);
    if (heads > (double)n)
        return err_set(err, ERR_USAGE, "budget", "%.0f global heads were asked for, the model has %zu that can be global",
                       heads, n);
    *n_global = (size_t)heads;
    return OK;
}
