#include "analyze/bootstrap.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/rng.h"

int bootstrap_draw(uint64_t seed, size_t n_resamples, size_t n_cells, struct bootstrap *out, struct err *err) {
    size_t n;
    *out = (struct bootstrap){.n_resamples = n_resamples, .n_cells = n_cells};
    ASSERT(n_cells <= STATISTICS_MAX_CELLS && size_mul(n_resamples, n_cells, &n));
    if (!(out->count = mem_alloc(n, sizeof *out->count, "resamples", err)))
        return ERR_MEMORY;
    for (size_t r = 0; r < n_resamples; r++)
        for (size_t i = 0; i < n_cells; i++) {
            double u = (double)rng_uniform(seed, r, 0, 0, (uint32_t)i);
            out->count[r * n_cells + (size_t)(u * (double)n_cells)]++;
        }
    return OK;
}

void bootstrap_free(struct bootstrap *b) {
    free(b->count);
    *b = (struct bootstrap){0};
}

void bootstrap_heads(const struct bootstrap *b, const struct statistics *s, enum head_ratio ratio, size_t resample,
                     double *out) {
    size_t n = s->n_layers * s->n_kv_heads;
    const double *count = b->count + resample * b->n_cells;
    for (size_t head = 0; head < n; head++) {
        double part = 0, whole = 0;
        for (size_t cell = 0; cell < b->n_cells; cell++) {
            part += count[cell] * head_ratio_part(&s->cells[cell * n + head], ratio);
            whole += count[cell] * head_ratio_whole(&s->cells[cell * n + head], ratio);
        }
        out[head] = whole > 0 ? part / whole : (double)NAN;
    }
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *sorted, size_t n, double q) {
    double at = q * (double)(n - 1);
    size_t i = (size_t)at;
    return i + 1 < n ? sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}

struct interval interval_of(double *value, size_t n, double level) {
    size_t n_known = 0;
    for (size_t i = 0; i < n; i++)
        if (!isnan(value[i]))
            value[n_known++] = value[i];
    if (n_known == 0)
        return (struct interval){NAN, NAN};
    qsort(value, n_known, sizeof *value, ascending);
    return (struct interval){quantile(value, n_known, (1 - level) / 2), quantile(value, n_known, (1 + level) / 2)};
}

/* Room for the cells of one thing at a time (a head, a layer, everything), and for its resampled ratios. */
struct column {
    double part[STATISTICS_MAX_CELLS], whole[STATISTICS_MAX_CELLS];
    double *resampled; /* (n_resamples) */
};

static struct interval resample(const struct bootstrap *b, struct column *c, double level) {
    for (size_t r = 0; r < b->n_resamples; r++) {
        const double *count = b->count + r * b->n_cells;
        double part = 0, whole = 0;
#pragma omp simd reduction(+ : part, whole)
        for (size_t cell = 0; cell < b->n_cells; cell++) {
            part += count[cell] * c->part[cell];
            whole += count[cell] * c->whole[cell];
        }
        c->resampled[r] = whole > 0 ? part / whole : (double)NAN;
    }
    return interval_of(c->resampled, b->n_resamples, level);
}

/* Heads first .. first + n - 1 added up. */
static struct interval interval_of_heads(const struct bootstrap *b, const struct statistics *s, enum head_ratio ratio,
                                         size_t first, size_t n, double level, struct column *c) {
    for (size_t cell = 0; cell < b->n_cells; cell++) {
        const struct head_sums *heads = s->cells + cell * s->n_layers * s->n_kv_heads + first;
        c->part[cell] = c->whole[cell] = 0;
        for (size_t i = 0; i < n; i++) {
            c->part[cell] += head_ratio_part(&heads[i], ratio);
            c->whole[cell] += head_ratio_whole(&heads[i], ratio);
        }
    }
    return resample(b, c, level);
}

int bootstrap_intervals(const struct bootstrap *b, const struct statistics *s, enum head_ratio ratio, double level,
                        struct intervals *out, struct err *err) {
    size_t n = s->n_layers * s->n_kv_heads;
    struct column c;
    ASSERT(b->n_cells == s->n_cells);
    out->heads = mem_alloc(n, sizeof *out->heads, "intervals", err);
    out->layers = mem_alloc(s->n_layers, sizeof *out->layers, "intervals", err);
    c.resampled = mem_alloc(b->n_resamples, sizeof *c.resampled, "intervals", err);
    if (!out->heads || !out->layers || !c.resampled) {
        free(c.resampled);
        intervals_free(out);
        return ERR_MEMORY;
    }
    for (size_t head = 0; head < n; head++)
        out->heads[head] = interval_of_heads(b, s, ratio, head, 1, level, &c);
    for (size_t layer = 0; layer < s->n_layers; layer++)
        out->layers[layer] = interval_of_heads(b, s, ratio, layer * s->n_kv_heads, s->n_kv_heads, level, &c);
    out->total = interval_of_heads(b, s, ratio, 0, n, level, &c);
    free(c.resampled);
    return OK;
}

void intervals_free(struct intervals *intervals) {
    free(intervals->heads);
    free(intervals->layers);
    *intervals = (struct intervals){0};
}
