#include "analyze/comparison.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

struct ranked {
    double value;
    size_t index;
};

static int descending(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;
    if (x->value != y->value)
        return x->value > y->value ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* Sorts; rank (by index) of equal values is the mean of their places. */
static void rank_values(struct ranked *sorted, size_t n, double *rank) {
    qsort(sorted, n, sizeof *sorted, descending);
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && sorted[end].value == sorted[i].value;)
            end++;
        for (size_t j = i; j < end; j++)
            rank[sorted[j].index] = (double)(i + end - 1) / 2;
    }
}

/* Pearson's correlation of the pairs that have no NaN. */
static double correlate(const double *x, const double *y, size_t n, size_t stride, size_t least) {
    double mean_x = 0, mean_y = 0, xx = 0, yy = 0, xy = 0;
    size_t m = 0;
    for (size_t i = 0; i < n; i++)
        if (!isnan(x[i * stride]) && !isnan(y[i * stride])) {
            mean_x += x[i * stride];
            mean_y += y[i * stride];
            m++;
        }
    mean_x /= (double)m;
    mean_y /= (double)m;
    for (size_t i = 0; i < n; i++)
        if (!isnan(x[i * stride]) && !isnan(y[i * stride])) {
            double dx = x[i * stride] - mean_x, dy = y[i * stride] - mean_y;
            xx += dx * dx;
            yy += dy * dy;
            xy += dx * dy;
        }
    return m >= least && xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : (double)NAN;
}

/* Space of a comparison. */
struct ranking {
    struct ranked *a, *b;  /* (n) the known ones */
    double *rank_a, *rank_b; /* (n) by place among the known */
    unsigned char *top;
};

static void compare_known(const struct ranking *r, size_t n_top, struct comparison *out) {
    size_t n = out->n_heads, both = 0;
    for (size_t i = 0; i < n; i++) {
        out->mean_a += r->a[i].value / (double)n;
        out->mean_b += r->b[i].value / (double)n;
        out->mean_absolute_difference += fabs(r->b[i].value - r->a[i].value) / (double)n;
    }
    rank_values(r->a, n, r->rank_a);
    rank_values(r->b, n, r->rank_b);
    out->spearman = correlate(r->rank_a, r->rank_b, n, 1, 2);
    out->n_top = n_top < n ? n_top : n;
    for (size_t i = 0; i < out->n_top; i++)
        r->top[r->a[i].index] = 1;
    for (size_t i = 0; i < out->n_top; i++)
        both += r->top[r->b[i].index];
    out->top_overlap = out->n_top ? (double)both / (double)out->n_top : (double)NAN;
}

int comparison_compute(const double *a, const double *b, size_t n, size_t n_top, double *difference, struct comparison *out,
                       struct err *err) {
    struct ranking r = {.a = mem_alloc(n, sizeof *r.a, "a comparison", err),
                        .b = mem_alloc(n, sizeof *r.b, "a comparison", err),
                        .rank_a = mem_alloc(n, sizeof *r.rank_a, "a comparison", err),
                        .rank_b = mem_alloc(n, sizeof *r.rank_b, "a comparison", err),
                        .top = mem_alloc(n, 1, "a comparison", err)};
    int rc = r.a && r.b && r.rank_a && r.rank_b && r.top ? OK : ERR_MEMORY;
    *out = (struct comparison){0};
    for (size_t i = 0; rc == OK && i < n; i++) {
        if (difference)
            difference[i] = b[i] - a[i];
        if (isnan(a[i]) || isnan(b[i]))
            continue;
        r.a[out->n_heads] = (struct ranked){a[i], out->n_heads};
        r.b[out->n_heads] = (struct ranked){b[i], out->n_heads};
        out->n_heads++;
    }
    if (rc == OK && out->n_heads > 0)
        compare_known(&r, n_top, out);
    else
        out->mean_a = out->mean_b = out->mean_absolute_difference = out->spearman = out->top_overlap = NAN;
    free(r.a);
    free(r.b);
    free(r.rank_a);
    free(r.rank_b);
    free(r.top);
    return rc;
}

int correlation_compute(const struct statistics *s, enum head_ratio ratio, double **out, struct err *err) {
    size_t n = s->n_layers * s->n_kv_heads, n_pairs;
    double *value = mem_alloc(s->n_cells * n, sizeof *value, "correlations", err);
    *out = NULL;
    if (!size_mul(n, n, &n_pairs) || !(*out = mem_alloc(n_pairs, sizeof **out, "correlations", err)) || !value) {
        free(value);
        free(*out);
        *out = NULL;
        return err_memory(err, "correlations of heads", 0);
    }
    for (size_t i = 0; i < s->n_cells * n; i++) {
        double whole = head_ratio_whole(&s->cells[i], ratio);
        value[i] = whole > 0 ? head_ratio_part(&s->cells[i], ratio) / whole : (double)NAN;
    }
    for (size_t a = 0; a < n; a++)
        for (size_t b = a; b < n; b++)
            (*out)[a * n + b] = (*out)[b * n + a] = correlate(value + a, value + b, s->n_cells, n, 3);
    free(value);
    return OK;
}

void variation_compute(const struct statistics *of_corpus, size_t n_corpora, enum head_ratio ratio,
                       struct head_variation *out) {
    size_t n = n_corpora ? of_corpus->n_layers * of_corpus->n_kv_heads : 0;
    for (size_t head = 0; head < n; head++) {
        double part = 0, whole = 0, of_documents = 0, of_corpora = 0;
        for (size_t c = 0; c < n_corpora; c++) {
            const struct head_squares *squares = &of_corpus[c].squares[head];
            double p = head_ratio_part(&of_corpus[c].heads[head], ratio),
                   w = head_ratio_whole(&of_corpus[c].heads[head], ratio);
            part += p;
            whole += w;
            of_documents += ratio == RATIO_FAR_ATTENTION ? squares->far : squares->density;
            of_corpora += w > 0 ? p * p / w : 0;
        }
        double mean = part / whole, chance = mean * (1 - mean);
        out[head] = (struct head_variation){NAN, NAN, NAN};
        if (!(whole > 0))
            continue;
        out[head].within = fmax(0, (of_documents - of_corpora) / whole);
        out[head].between = fmax(0, of_corpora / whole - mean * mean);
        if (chance > 0)
            out[head].explained = (out[head].within + out[head].between) / chance;
    }
}
