/* token_values.h - what a run recorded about single tokens, block by block: which heads keep each of them or, where gates
 * were not recorded, how the heads score it. Memory is one block, however long the run. One thread (profile.h). */
#ifndef SPKV_ANALYZE_TOKEN_VALUES_H
#define SPKV_ANALYZE_TOKEN_VALUES_H

#include <stddef.h>
#include <stdint.h>

#include "analyze/profile.h"
#include "base/err.h"

enum token_quantity {
    TOKEN_NOTHING, /* the run was not asked to record any of this */
    TOKEN_OPEN,    /* 1 where the gate is open, so that the head keeps the pair when it leaves the window, else 0 */
    TOKEN_UTILITY, /* score of the predictor, 0 to 1 */
};

/* Open where it was recorded, else utility (of sigmoid scores), else nothing. */
enum token_quantity token_quantity_of(const struct profile *profile);

struct token_values {
    struct profile *profile; /* borrowed */
    enum token_quantity quantity;
    size_t n_heads;          /* n_layers * n_kv_heads */
    size_t cap;              /* tokens that fit a block */
    uint64_t first;          /* the block: tokens first .. first + n - 1 of the run */
    size_t n;
    int32_t *id;             /* (cap) */
    float *nll;              /* (cap) nat, NaN = no loss */
    float *value;            /* (cap, n_heads), NaN = missing: a layer without gates */
    void *raw;
};

/* token_quantity_of(profile) must not be TOKEN_NOTHING. */
int token_values_open(struct profile *profile, struct token_values *out, struct err *err);
void token_values_close(struct token_values *values); /* legal on a zeroed struct */

/* Reads a block of n tokens (n <= cap) from token `first` of the run on. */
int token_values_read(struct token_values *values, uint64_t first, size_t n, struct err *err);

/* Sum of the values of token i of the block over the heads that have one, and how many these are. */
double token_values_sum(const struct token_values *values, size_t i, size_t *n_known);

#endif
