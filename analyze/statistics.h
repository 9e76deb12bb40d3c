/* statistics.h - ratios out of the counters of a run file (definitions of arXiv 2605.14037 and docs/): sums
 * first, then one division; 0/0 is NaN, "missing". Aggregates are ratios of sums, never means of ratios. */
#ifndef SPKV_ANALYZE_STATISTICS_H
#define SPKV_ANALYZE_STATISTICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "analyze/profile.h"
#include "base/err.h"

/* Sums over sequences of one head, or over the heads of a layer, or over everything. The model's own sliding layers count
 * nothing here. */
struct head_sums {
    uint64_t n_scored, n_open, n_left_window, n_kept;
    uint64_t visible_pairs, causal_pairs;
    uint64_t n_resident;        /* min(T, window + sinks) + n_kept */
    uint64_t n_tok;             /* T once per head */
    double utility_sum;
    double far_sum, sink_sum;   /* attention mass, with attention_queries */
    uint64_t attention_queries;
};

void head_sums_add(struct head_sums *to, const struct head_sums *from);

double head_gate_density(const struct head_sums *s);       /* n_open / n_scored */
double head_long_density(const struct head_sums *s);       /* n_kept / n_left_window: the default "density" */
double head_kv_fraction(const struct head_sums *s);        /* n_resident / n_tok */
double head_read_fraction(const struct head_sums *s);      /* visible_pairs / causal_pairs */
double head_mean_utility(const struct head_sums *s);       /* utility_sum / n_scored */
double head_far_attention(const struct head_sums *s);      /* far_sum / attention_queries */
double head_sink_attention(const struct head_sums *s);     /* sink_sum / attention_queries */

/* The same as numerator and denominator, for what adds up before it divides. */
enum head_ratio { RATIO_GATE_DENSITY, RATIO_LONG_DENSITY, RATIO_KV_FRACTION, RATIO_READ_FRACTION, RATIO_FAR_ATTENTION };
double head_ratio_part(const struct head_sums *s, enum head_ratio ratio);
double head_ratio_whole(const struct head_sums *s, enum head_ratio ratio);

/* Over documents: sum of part^2 / whole of a ratio, which with the sums gives the variance of the documents' ratios, each
 * weighted by its whole. */
struct head_squares {
    double density, far;        /* of head_long_density and head_far_attention */
};

/* Pieces of one document are not independent, so whatever resamples does it with documents. They are kept as cells: one a
 * document, or, in a run of more documents than cells, document number i (counted in the run's order) in cell i mod the
 * number of cells. */
enum { STATISTICS_MAX_CELLS = 256 };

struct statistics {
    size_t n_layers, n_kv_heads, n_sequences;
    uint64_t n_documents, n_tokens, n_predicted, n_argmax;
    uint64_t n_answers, n_exact;                           /* sequences of which only some tokens were predicted, a prompt and
                                                              its answer; those of them with every prediction right */
    double nll_sum;                                        /* nat */
    uint64_t cache_bytes_used, cache_bytes_allocated, cache_bytes_full; /* summed over sequences */
    uint32_t shortest, longest;                            /* sequence length; 0 without sequences */
    bool has_scores, has_gates, has_attention, has_argmax;
    struct head_sums *heads;                               /* (n_layers, n_kv_heads) */
    struct head_sums *layers;                              /* (n_layers) */
    struct head_sums total;
    struct head_squares *squares;                          /* (n_layers, n_kv_heads) */
    size_t n_cells, max_cells;                             /* in use; STATISTICS_MAX_CELLS, less for very many heads */
    struct head_sums *cells;                               /* (max_cells, n_layers, n_kv_heads) */
    bool *sliding;                                         /* (n_layers) the model's own sliding layer */
};

/* Streams over the file in blocks: memory does not grow with it. corpus < 0: all; else only sequences of that corpus.
 * ERR_INPUT when the pieces of a document do not follow one another. */
int statistics_compute(struct profile *profile, int corpus, struct statistics *out, struct err *err);

/* Adds the documents of another run of the same model behind those of `to`: ERR_INPUT naming `where` when its shape, its
 * sliding layers or what it recorded differ. */
int statistics_join(struct statistics *to, const struct statistics *from, const char *where, struct err *err);
void statistics_free(struct statistics *statistics); /* legal on a zeroed struct */

double statistics_nll(const struct statistics *s);    /* nat per predicted token */
double statistics_argmax(const struct statistics *s); /* n_argmax / n_predicted: the most likely token is the right one */
double statistics_exact(const struct statistics *s);  /* n_exact / n_answers, each token after the right ones before it */

/* What pictures show and layouts rank by: long-range density where the run had gates, else far attention, else NaN
 * everywhere (kind NONE). */
enum head_measure_kind { HEAD_MEASURE_NONE, HEAD_MEASURE_DENSITY, HEAD_MEASURE_FAR_ATTENTION };

struct head_measure {
    enum head_measure_kind kind;
    const char *name;       /* "long-range density", "far attention", static */
    const char *caption;    /* one sentence that says what it is, static */
    size_t n_layers, n_kv_heads;
    double *value;          /* (n_layers, n_kv_heads), 0 to 1; NaN = missing */
    bool *sliding;          /* (n_layers) */
};
int head_measure_compute(const struct statistics *statistics, const struct profile_meta *meta, struct head_measure *out,
                         struct err *err);
void head_measure_free(struct head_measure *measure);

/* Share of open gates by position bin or token class, per (layer, kv_head, bin) as sums; divide open by scored.
 * field_open / field_scored: PROFILE_POSITION_* or PROFILE_CLASS_*. Free both. */
struct bin_density {
    size_t n_bins;
    double *scored, *open;  /* (n_layers, n_kv_heads, n_bins) */
};
int statistics_positions(struct profile *profile, int corpus, struct bin_density *out, struct err *err);
int statistics_classes(struct profile *profile, int corpus, struct bin_density *out, struct err *err);
void bin_density_free(struct bin_density *density);

/* The share in one bin, summed over a layer (layer >= 0) or all layers (< 0), one head (kv_head >= 0) or all; NaN where
 * nothing was scored. */
double bin_density_share(const struct bin_density *density, size_t n_layers, size_t n_kv_heads, int layer, int kv_head,
                         size_t bin);

#endif
