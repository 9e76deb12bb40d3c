/* budget.h - how many heads may stay global: every way of saying it ends in that one number, which all strategies share. */
#ifndef SPKV_ANALYZE_BUDGET_H
#define SPKV_ANALYZE_BUDGET_H

#include <stddef.h>
#include <stdint.h>

#include "analyze/cost_model.h"
#include "analyze/layout.h"

enum budget_kind {
    BUDGET_HEADS,       /* amount: global heads */
    BUDGET_HEAD_SHARE,  /* of the heads that can be global, rounded to the nearest */
    BUDGET_KV_SHARE,    /* of the bytes of K and V of one sequence of `context` tokens with all heads global */
    BUDGET_KV_BYTES,    /* those bytes */
    BUDGET_DECODE_TIME, /* seconds of a decode step at that context, by `cost` */
};

struct budget {
    enum budget_kind kind;
    double amount;
    uint64_t context;
    const struct cost_model *cost; /* of BUDGET_DECODE_TIME */
};

/* The most global heads within the budget, whichever they are: with windows of their own the heads that cost most are
 * counted. local: all heads local, with their windows. ERR_INPUT when windows alone exceed the budget, ERR_USAGE when more
 * heads are asked for than the model has. */
int budget_heads(const struct budget *budget, const struct layout *local, uint32_t head_dim, uint32_t element_bytes,
                 const uint32_t *sliding_window, size_t *n_global, struct err *err);

#endif
