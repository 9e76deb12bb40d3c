/* profile_row.h - the counters of one sequence while it is computed: gates come in token ranges, then the finished sequence.
 * Adding gates costs a few nanoseconds a score. Internal to analyze/. */
#ifndef SPKV_ANALYZE_PROFILE_ROW_H
#define SPKV_ANALYZE_PROFILE_ROW_H

#include "analyze/bins.h"
#include "analyze/profile_field.h"
#include "analyze/profile_writer.h"

/* What all rows of a run share. */
struct profile_row_plan {
    const struct profile_meta *meta;
    struct profile_dims dims;
    struct score_bins scores; /* zero without scores */
};

struct profile_row {
    uint64_t index, document, offset;
    uint32_t source, corpus;
    size_t n_tok;
    bool finished;                 /* the counters below n_open are filled */
    /* From gates. Per-layer counts hold for each head of the layer. */
    uint32_t *n_scored;            /* (n_layers) */
    uint32_t *n_open;              /* (n_layers, n_kv_heads) */
    double *utility_sum;           /* (n_layers, n_kv_heads), NULL without scores */
    uint32_t *histogram;           /* (n_layers, n_kv_heads, utility bins), NULL without scores */
    uint32_t *position_scored;     /* (n_layers, position bins) */
    uint32_t *position_open;       /* (n_layers, n_kv_heads, position bins) */
    uint32_t *class_scored;        /* (n_layers, classes), NULL without classes */
    uint32_t *class_open;          /* (n_layers, n_kv_heads, classes) */
    void *token[PROFILE_N_FIELDS]; /* per-token fields that are recorded, (n_tok[, n_layers, n_kv_heads]) */
    /* From the finished sequence. */
    uint32_t n_predicted, n_argmax;
    double nll_sum;
    uint64_t bytes_used, bytes_allocated, bytes_full;
    uint32_t *n_left_window, *n_kept; /* (n_layers, n_kv_heads) */
    uint64_t *visible_pairs;
    double *far_sum, *sink_sum;       /* NULL without attention */
    double *distance;                 /* (n_layers, n_kv_heads, distance bins), rounded to multiples of 2^-20 */
};

int profile_row_create(const struct profile_row_plan *plan, const struct profile_sequence *sequence,
                       struct profile_row **out, struct err *err);
void profile_row_free(struct profile_row *row);

int profile_row_add_gates(struct profile_row *row, const struct profile_row_plan *plan, const struct profile_gates *gates,
                          struct err *err);
int profile_row_finish(struct profile_row *row, const struct profile_row_plan *plan, const struct profile_counters *counters,
                       struct err *err);

#endif
