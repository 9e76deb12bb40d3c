/* paired.h - runs of the same sequences under different attention, compared: losses by document, differences with intervals
 * over documents. Pieces of one document are not independent, so a bootstrap draws whole documents; the same draws serve
 * both sides, so that what makes a text hard cancels. Plain values, any thread but for reading (profile.h). */
#ifndef SPKV_ANALYZE_PAIRED_H
#define SPKV_ANALYZE_PAIRED_H

#include <stddef.h>
#include <stdint.h>

#include "analyze/profile.h"
#include "base/err.h"

/* Sums over the predictions of each document, in ascending order of documents; arrays of (n). */
struct document_losses {
    size_t n;
    uint64_t *document;
    double *nll, *n_predicted;  /* all predictions, nat */
    double *far_nll, *n_far;    /* of tokens at positions far_from and later of their sequence */
};

/* Reads a run that recorded tokens. ERR_INPUT when it did not, or is incomplete. */
int document_losses_read(struct profile *profile, uint32_t far_from, struct document_losses *out, struct err *err);

/* Room for `cap` documents, all sums 0 and n = 0. */
int document_losses_create(size_t cap, struct document_losses *out, struct err *err);
void document_losses_free(struct document_losses *losses); /* legal on a zeroed struct */

/* ERR_INPUT unless both hold the same documents with the same numbers of predictions. */
int document_losses_check(const struct document_losses *a, const char *a_name, const struct document_losses *b,
                          const char *b_name, struct err *err);

struct estimate {
    double value, low, high; /* NaN = missing */
};

enum { PAIRED_RESAMPLES = 2000 }; /* unless --resamples says otherwise */

struct resampling {
    uint64_t seed;
    uint32_t n;   /* resamples, at least 1 */
    double level; /* 0.95 */
};

/* Sum of part over sum of whole, with the percentile interval over n documents drawn with replacement (quantiles
 * interpolate linearly). Missing where the sum of whole is 0; resamples in which it is are left out. */
int interval_of_ratio(const double *part, const double *whole, size_t n, const struct resampling *resampling,
                      struct estimate *out, struct err *err);

/* Relative change of the loss against a base: sum of x / sum of base - 1. */
int paired_nll_change(const struct document_losses *x, const struct document_losses *base,
                      const struct resampling *resampling, struct estimate *out, struct err *err);

/* (window - x) / (window - full), over predictions at far positions (method.md section 10). */
int paired_gap_recovered(const struct document_losses *x, const struct document_losses *window,
                         const struct document_losses *full, const struct resampling *resampling, struct estimate *out,
                         struct err *err);

/* The whole gap, window / full - 1 over predictions at far positions; NaN without any. */
double paired_gap(const struct document_losses *window, const struct document_losses *full);

#endif
