/* comparison.h - how two maps of heads (n values each, NaN = missing) differ, and how heads of one run go together. Only
 * heads that both maps know take part; exact functions of their arguments. */
#ifndef SPKV_ANALYZE_COMPARISON_H
#define SPKV_ANALYZE_COMPARISON_H

#include <stddef.h>

#include "analyze/statistics.h"
#include "base/err.h"

struct comparison {
    size_t n_heads;      /* that both maps know */
    double mean_a, mean_b, mean_absolute_difference; /* over those, NaN without any */
    double spearman;     /* correlation of the ranks, equal values sharing their mean rank; NaN where a map is flat */
    size_t n_top;        /* the largest of each map that are compared, ties to the lower index ... */
    double top_overlap;  /* ... and which share of them both have; NaN for n_top = 0 */
};

/* n_top is cut to what is known. difference (n), or NULL: b - a, NaN where one is missing. */
int comparison_compute(const double *a, const double *b, size_t n, size_t n_top, double *difference, struct comparison *out,
                       struct err *err);

/* Correlation (Pearson) of the heads' ratios over the cells of a run, (n, n) with n = n_layers * n_kv_heads, every cell that
 * has both ratios counting once; NaN where a head does not vary or fewer than 3 cells know both. Free *out. */
int correlation_compute(const struct statistics *statistics, enum head_ratio ratio, double **out, struct err *err);

/* How the ratio of a head varies: variances over documents around the mean of their corpus, and of the means of the corpora,
 * both weighted by the ratios' denominators. Their sum over p (1 - p), the variance of gates that open with chance p, is the
 * share that is explained by which document it is. */
struct head_variation {
    double within, between; /* variances; NaN = missing */
    double explained;       /* (within + between) / (p (1 - p)); NaN where p is 0 or 1 */
};

/* of_corpus (n_corpora): statistics_compute() of every corpus; out (n_layers, n_kv_heads). Density, or far attention. */
void variation_compute(const struct statistics *of_corpus, size_t n_corpora, enum head_ratio ratio,
                       struct head_variation *out);

#endif
