/* token_ranking.h - which entries of the vocabulary heads keep most and least, with the place where that shows best. Out of
 * what a run recorded about single tokens (token_values.h), in one pass. */
#ifndef SPKV_ANALYZE_TOKEN_RANKING_H
#define SPKV_ANALYZE_TOKEN_RANKING_H

#include <stddef.h>
#include <stdint.h>

#include "analyze/profile.h"
#include "analyze/token_values.h"
#include "base/err.h"

enum { TOKEN_RANKING_OCCURRENCES = 5, TOKEN_RANKING_CONTEXT = 8 };

struct ranked_token {
    int32_t id;
    uint64_t n;             /* occurrences that have a value */
    double share;           /* of all its pairs (occurrences x heads) those that are kept; mean utility without gates */
    uint64_t n_pairs;
    double example_share;   /* of the example: its first occurrence of largest (least kept: smallest) share */
    size_t row;             /* sequence that holds the example, and where */
    size_t position;
    /* Ids around and including the example, from position - n_before on. */
    int32_t context[2 * TOKEN_RANKING_CONTEXT + 1];
    size_t n_before, n_context;
};

struct token_ranking {
    enum token_quantity quantity;
    uint64_t min_occurrences; /* that an id needed to take part */
    size_t n_ids;             /* that took part */
    struct ranked_token *most, *least; /* (n), best first: by share, then more occurrences, then lower id */
    size_t n;
};

/* The n_top most and least kept ids among those that occur TOKEN_RANKING_OCCURRENCES times (once, when none does so often).
 * ERR_INPUT for ids outside the model's vocabulary. */
int token_ranking_compute(struct profile *profile, size_t n_top, struct token_ranking *out, struct err *err);
void token_ranking_free(struct token_ranking *ranking); /* legal on a zeroed struct */

#endif
