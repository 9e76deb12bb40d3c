/* recommend_runs.h - what a recommendation is made from: run files of one model under one policy, taken together, and other
 * rankings of its heads. */
#ifndef SPKV_CLI_RECOMMEND_RUNS_H
#define SPKV_CLI_RECOMMEND_RUNS_H

#include "analyze/comparison.h"
#include "analyze/recommendation.h"
#include "analyze/window_choice.h"
#include "base/err.h"

enum { RECOMMEND_MAX_RUNS = 64 };

struct recommend_sources {
    const char *runs[RECOMMEND_MAX_RUNS];
    size_t n_runs;                            /* at least 1 */
    const char *attention, *learned, *pattern; /* NULL = not given */
    double window_mass;                       /* share of the attention mass that windows hold; negative = not asked for */
    enum window_scope window_scope;
    long long sinks;                          /* of the layouts; -1 = as in the run */
};

struct recommend_runs {
    struct profile *profile;                  /* the first run: model, policy, geometry */
    char hashes[RECOMMEND_MAX_RUNS][33];      /* of the run files, "" for directories */
    bool partial;                             /* one of them is incomplete */
    struct statistics statistics;             /* all runs together */
    struct head_measure measure;
    struct head_variation *variation;         /* (n_layers, n_kv_heads) over n_corpora corpora, those of every run */
    size_t n_corpora;
    struct head_ranking rankings[RECOMMENDATION_MAX_RANKINGS];
    size_t n_rankings;
    bool same_base;                           /* static gates belong to the very model that was profiled */
    uint32_t *windows;                        /* (n_layers, n_kv_heads) or NULL */
    double *owned[RECOMMENDATION_MAX_RANKINGS];
};

/* ERR_INPUT naming the file that does not go with the others, or says nothing about heads. Free after failures too. */
int recommend_runs_read(const struct recommend_sources *sources, struct recommend_runs *out, struct err *err);
void recommend_runs_free(struct recommend_runs *runs); /* legal on a zeroed struct */

#endif
