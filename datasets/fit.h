/* fit.h - how much filler a row of a given length can have. */
#ifndef SPKV_DATASETS_FIT_H
#define SPKV_DATASETS_FIT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct fit {
    size_t least, most; /* units of filler, least <= most */
    size_t target;      /* tokens */
    /* Tokens of the row with n units, about proportional to n. */
    int (*length)(void *self, size_t n, size_t *n_tok, struct err *err);
    void *self;
};

/* The largest n from least to most whose row has at most `target` tokens; the last row measured is that one. *fits = false
 * and *n_tok the tokens of the smallest row where even that is too long. A pure function of what `length` returns. */
int fit_largest(const struct fit *fit, size_t *n, bool *fits, size_t *n_tok, struct err *err);

#endif
