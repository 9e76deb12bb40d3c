/* bootstrap.h - how sure a ratio is: intervals over documents (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
 * percentile method). The cells of struct statistics (documents, or groups of them) are drawn anew with replacement, the
 * ratio of sums is taken for every draw, and the interval holds the middle share of the results. Equal seed, equal
 * intervals. */
#ifndef SPKV_ANALYZE_BOOTSTRAP_H
#define SPKV_ANALYZE_BOOTSTRAP_H

#include <stddef.h>
#include <stdint.h>

#include "analyze/statistics.h"
#include "base/err.h"

enum {
    BOOTSTRAP_RESAMPLES = 1000,
    BOOTSTRAP_FEW_DOCUMENTS = 20, /* below that many intervals are too narrow: say so */
};

/* Resample r takes cell c count[r * n_cells + c] times: n_cells draws, draw i being cell floor(rng_uniform(seed, r, 0, 0, i)
 * * n_cells). */
struct bootstrap {
    size_t n_resamples, n_cells;
    double *count; /* (n_resamples, n_cells) */
};
int bootstrap_draw(uint64_t seed, size_t n_resamples, size_t n_cells, struct bootstrap *out, struct err *err);
void bootstrap_free(struct bootstrap *bootstrap); /* legal on a zeroed struct */

/* The ratio of every head (n_layers, n_kv_heads) in one resample; NaN = missing. */
void bootstrap_heads(const struct bootstrap *bootstrap, const struct statistics *statistics, enum head_ratio ratio,
                     size_t resample, double *out);

struct interval {
    double low, high; /* NaN = missing */
};

/* The middle `level` of n values, linear between the two nearest; NaN among them are left out. Sorts the values. */
struct interval interval_of(double *value, size_t n, double level);

struct intervals {
    struct interval *heads;  /* (n_layers, n_kv_heads) */
    struct interval *layers; /* (n_layers) */
    struct interval total;
};
int bootstrap_intervals(const struct bootstrap *bootstrap, const struct statistics *statistics, enum head_ratio ratio,
                        double level, struct intervals *out, struct err *err);
void intervals_free(struct intervals *intervals); /* legal on a zeroed struct */

#endif
