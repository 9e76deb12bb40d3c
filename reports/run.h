/* run.h - one run as reports see it: what a run file says, read once, as plain arrays. Everything that draws or prints takes
 * a const struct run; nothing here touches HDF5 after run_load(). */
#ifndef SPKV_REPORTS_RUN_H
#define SPKV_REPORTS_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "analyze/profile.h"
#include "analyze/statistics.h"
#include "base/err.h"
#include "base/str.h"

struct run {
    const char *path; /* borrowed from the profile, as is meta */
    const struct profile_meta *meta;
    size_t number; /* from 1, among several in one report; 0 = the only one */
    bool partial; /* the run was not finished: what is closed of it */
    struct statistics statistics;
    struct head_measure measure;

    /* (n_layers, n_kv_heads, bins), summed over corpora and groups; NULL and 0 where the run has none. */
    double *utility;
    size_t n_utility_bins;
    const float *utility_edges; /* (n_utility_bins + 1), borrowed */
    struct bin_density positions;
    const uint32_t *position_edges; /* (positions.n_bins + 1), borrowed */
    struct bin_density classes; /* of tokens, named by meta->class_names */
    double *distance; /* attention mass by distance, edges meta->distance_edges */
    size_t n_distance_bins;
};

/* Reads everything; the profile must stay open as long as the run is used. */
int run_load(struct profile *profile, struct run *out, struct err *err);
void run_free(struct run *run); /* legal on a zeroed struct */

/* One column of heads, all layers added up: for ratios of sums. */
struct head_sums run_sum_head(const struct run *run, size_t kv_head);

static inline const struct head_sums *run_head(const struct run *run, size_t layer, size_t kv_head) {
    return &run->statistics.heads[layer * run->statistics.n_kv_heads + kv_head];
}

/* Last component of a path without trailing slashes: what people call a model or a corpus. Nothing is escaped. */
void run_put_short_name(struct str *s, const char *path);

/* "Model SmolLM2-135M (30 layers x 3 KV heads). Corpus novels. Policy spkv, window 128, ..." - one paragraph under every
 * picture, so that none loses what it shows. */
void run_put_context(const struct run *run, struct str *s);
/* The same without the policy: what several runs over one text under different attention share. */
void run_put_measurement(const struct run *run, struct str *s);
void run_put_corpora(const struct run *run, struct str *s);
void run_put_policy(const struct run *run, struct str *s);

/* "smol.h5", or "run 2 (smol.h5)" among several. */
void run_put_name(const struct run *run, struct str *s);

/* "sliding-window layer", "not enough tokens": what a hatched cell of this run is. */
const char *run_missing(const struct run *run);

#endif
