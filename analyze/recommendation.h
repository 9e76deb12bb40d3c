/* recommendation.h - candidate layouts under one budget, side by side: what each covers of the heads' density, what it
 * costs, what is lost when only whole layers can be global, and how far the choice rests on the documents profiled. */
#ifndef SPKV_ANALYZE_RECOMMENDATION_H
#define SPKV_ANALYZE_RECOMMENDATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "analyze/budget.h"
#include "analyze/layer_types.h"
#include "analyze/profile_meta.h"
#include "analyze/stability.h"

enum { RECOMMENDATION_MAX_ROWS = 16, RECOMMENDATION_MAX_RANKINGS = 4, RECOMMENDATION_DRAWS = 20 };

/* Heads ranked by something else than the run's own measure: becomes a row of its own. */
struct head_ranking {
    const char *name;    /* "far-attention", "learned", "imported" */
    const char *origin;  /* file or directory it came from */
    const double *value; /* (n_layers, n_kv_heads) >= 0, NaN = missing */
    size_t n_global;     /* of a ready layout, 0 = a ranking */
};

struct recommendation_input {
    const struct profile_meta *meta;     /* of the run, or the first of several */
    const struct statistics *statistics; /* of all of them */
    const struct head_measure *measure;
    struct budget budget;
    uint32_t window, sinks;              /* of local heads */
    const uint32_t *windows;             /* (n_layers, n_kv_heads) or NULL */
    const struct head_ranking *rankings;
    size_t n_rankings;
    const struct strategy *pattern;      /* of one's own, NULL = none */
    uint32_t least;                      /* heads per layer of densest-minimum */
    uint32_t n_draws;                    /* of random */
    uint64_t seed;
    const uint64_t *contexts;
    size_t n_contexts;
    const char *wanted;                  /* strategy that is judged; ERR_USAGE when there is no such row */
};

/* One row of the table. Of random draws the layout is the first one, coverages are means. */
struct recommended {
    struct layout *layout;
    struct layout *layers;               /* the same as whole layers */
    struct layer_rounding rounding;
    double coverage, layer_coverage;     /* NaN when nothing can be covered */
    size_t n_draws;                      /* 1, but for random */
    double coverage_sd, coverage_low, coverage_high; /* of the draws: standard deviation, least and largest */
};

struct recommendation {
    size_t n_eligible, n_global;
    struct recommended rows[RECOMMENDATION_MAX_ROWS];
    size_t n, chosen;
    bool is_ranking;                     /* the chosen strategy depends on what was profiled, */
    struct stability stability;          /* and this is how far */
    struct bootstrap bootstrap;
    struct intervals intervals;          /* of the measure, 95 % */
};

int recommendation_compute(const struct recommendation_input *input, struct recommendation *out, struct err *err);

/* One more row, which becomes the chosen one, with a layout that was made elsewhere under the same budget; takes the layout
 * over, on failure too. */
int recommendation_add(const struct recommendation_input *input, struct layout *layout,
                       struct recommendation *recommendation, struct err *err);
void recommendation_free(struct recommendation *recommendation); /* legal on a zeroed struct */

/* Names of all rows that an input can have, "interleaved" and rankings included; NULL-terminated. */
extern const char *const recommendation_strategies[];

#endif
