/* strategy.h - chooses the global heads of a layout under a common budget (arXiv 2605.14037, section 4, strategies A to D;
 * densest layers and the spread ones are ours). Far attention, static gates and imported patterns are densest heads of
 * another matrix. */
#ifndef SPKV_ANALYZE_STRATEGY_H
#define SPKV_ANALYZE_STRATEGY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "analyze/layout.h"
#include "base/err.h"

enum strategy_kind {
    STRATEGY_INTERLEAVED,     /* layers phase, phase + period, ...; with force_last the last layer too */
    STRATEGY_RANDOM_HEADS,    /* drawn with a seed */
    STRATEGY_DENSEST_LAYERS,  /* layers by the mean of their heads */
    STRATEGY_DENSEST_HEADS,
    STRATEGY_MINIMUM_HEADS,   /* densest heads, but at least `least` in every layer */
    STRATEGY_EVEN_HEADS,      /* the densest of every layer, as many in each as the budget allows, one more in some */
};

/* The matrix that is ranked, usually a head_measure. */
struct strategy_input {
    uint32_t n_layers, n_kv_heads;
    const double *value;      /* (n_layers, n_kv_heads) >= 0, NaN = missing, counts as 0 */
    const bool *sliding;      /* (n_layers), NULL = none */
    uint32_t window, sinks;
};

struct strategy {
    enum strategy_kind kind;
    const char *name;         /* recorded as made_by.strategy */
    uint32_t period, phase;   /* interleaved */
    bool force_last;
    uint64_t seed;            /* random */
    uint32_t least;           /* minimum */
};

/* The named baselines: "interleaved-a" (period 4, phase 0), "interleaved-b" (period 4, phase 3, last layer), "random",
 * "densest-layers", "densest-minimum" (one head a layer), "densest-even", "densest-heads". NULL for another name. */
const struct strategy *strategy_find(const char *name);
const struct strategy *strategy_table(size_t *n);

/* Chooses exactly n_global heads. Ties go to the lower layer, then the lower head. A pattern takes its layers in order, then
 * the last layer; past the budget it drops layers from the end of that list, under it it adds layers from the end of the
 * model; a budget that is no multiple of n_kv_heads leaves one layer with its lowest heads only (densest-layers: its densest
 * heads); a minimum that the budget cannot pay for in every layer is lowered. What was changed is said in
 * made_by.changed_to_fit. ERR_INPUT when n_global exceeds the eligible heads. */
int strategy_apply(const struct strategy *strategy, const struct strategy_input *input, size_t n_global, struct layout **out,
                   struct err *err);

/* Whether the heads depend on the values that are ranked (patterns and draws do not). */
bool strategy_is_ranking(const struct strategy *strategy);

#endif
