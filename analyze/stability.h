/* stability.h - would other documents have chosen the same heads? A strategy is applied again to resampled documents
 * (bootstrap.h) and to either half of them. */
#ifndef SPKV_ANALYZE_STABILITY_H
#define SPKV_ANALYZE_STABILITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "analyze/bootstrap.h"
#include "analyze/strategy.h"

#define STABILITY_SHARE 0.95   /* of the resamples that must choose a head, for it to be called stable */
#define STABILITY_ENOUGH 0.90  /* of the chosen heads that must be stable, for the layout to be called so */

struct stability {
    bool judged;            /* false with fewer than 2 documents, or nothing chosen: the rest is 0 then */
    size_t n_chosen, n_stable;
    double *share;          /* (n_layers, n_kv_heads) share of the resamples that choose the head */
    double halves_overlap;  /* share of the heads that the layouts of the two halves of the documents have in common */
    bool enough;            /* n_stable >= STABILITY_ENOUGH * n_chosen */
    double factor;          /* times as many documents would do, by the normal approximation; 1 when enough already, infinite
                               where chosen heads lie at the cut itself */
};

/* `input` as for the layout, whose values come from `statistics` by `ratio`. */
int stability_compute(const struct strategy *strategy, const struct strategy_input *input, size_t n_global,
                      const struct statistics *statistics, enum head_ratio ratio, const struct bootstrap *bootstrap,
                      struct stability *out, struct err *err);
void stability_free(struct stability *stability); /* legal on a zeroed struct */

#endif
