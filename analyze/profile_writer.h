/* profile_writer.h - records a run while it goes on: takes gates and finished sequences as plain arrays, keeps counters, and
 * writes closed segments NAME.part/NNNNNN.h5 (whole batches of the plan; a temporary, fsynced, renamed), so that a process
 * killed at any moment loses only the open segment. profile_writer_finish() joins the segments into NAME with the code of
 * profile_merge(). One thread. */
#ifndef SPKV_ANALYZE_PROFILE_WRITER_H
#define SPKV_ANALYZE_PROFILE_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "analyze/profile_meta.h"
#include "base/err.h"

struct profile_writer;

struct profile_writer_options {
    bool force;                /* replace NAME and drop NAME.part */
    bool resume;               /* go on with NAME.part, whose settings must be the same */
    uint32_t segment_sequences; /* close a segment at the end of the batch that reaches this many; 0 = 256 */
    double segment_seconds;    /* or this age; 0 = 60 */
};

/* A sequence of the global list, as in engine/source.h. */
struct profile_sequence {
    uint64_t index, document, offset;
    uint32_t source, corpus;
    const int32_t *tokens;  /* (n_tok); used with PROFILE_RECORD_TOKENS */
    const uint8_t *classes; /* (n_tok) token class, or NULL; with PROFILE_RECORD_CLASSES it must be there */
    size_t n_tok;
};

/* Scores and gates of tokens first .. first + n - 1 of a sequence: element (layer, token - first, kv_head) is
 * x[layer * layer_stride + (token - first) * n_kv_heads + kv_head]. */
struct profile_gates {
    const struct profile_sequence *sequence;
    size_t first, n;
    const float *utility;   /* NULL when the policy has no scores */
    const uint8_t *open;    /* 0 or 1; NULL when the policy has no gates */
    size_t layer_stride;
    const bool *gated;      /* (n_layers) false: no score or gate in this layer; NULL = all but sliding layers */
    const float *future_max, *future_mean; /* oracle, same strides; NULL without PROFILE_RECORD_ORACLE */
};

/* One finished sequence; arrays of (n_layers, n_kv_heads), zeros in sliding layers. */
struct profile_counters {
    const struct profile_sequence *sequence;
    size_t n_predicted;
    double nll_sum;
    size_t n_argmax;
    const float *nll;       /* (n_tok); used with PROFILE_RECORD_TOKENS */
    const uint8_t *is_argmax; /* (n_tok) 0 or 1; used where nll is a number, with PROFILE_RECORD_TOKENS */
    const uint32_t *n_left_window, *n_kept;
    const uint64_t *visible_pairs;
    uint64_t cache_bytes_used, cache_bytes_allocated, cache_bytes_full;
    uint64_t pool_peak_bytes;
    const double *far_sum, *sink_sum;  /* with PROFILE_RECORD_ATTENTION: mean over the query heads of a group, summed over
                                          queries; else NULL */
    const double *distance_sum;        /* (n_layers, n_kv_heads, n_distance_edges - 1) */
};

/* Begins or resumes the recording of `meta` (copied) under `path`. ERR_EXISTS when path or path.part is there and neither
 * force nor resume says what to do; ERR_INPUT naming the first difference when resume finds other settings; ERR_EXISTS when
 * another process is writing there. With resume and a finished, equal `path`, *out is NULL and OK is returned: nothing is
 * left to do. */
int profile_writer_create(const char *path, const struct profile_meta *meta, const struct profile_writer_options *options,
                          struct profile_writer **out, struct err *err);

/* Whether a batch of the plan lies in a closed segment already (after resume): it must not be computed again. */
bool profile_writer_has_batch(const struct profile_writer *writer, uint64_t batch);
size_t profile_writer_n_sequences(const struct profile_writer *writer); /* recorded so far, closed segments included */

/* Any order of sequences inside a batch; every token of a scored sequence is reported once, before add_sequence. A NaN score
 * is ERR_INPUT naming layer and head. */
int profile_writer_add_gates(struct profile_writer *writer, const struct profile_gates *gates, struct err *err);
int profile_writer_add_sequence(struct profile_writer *writer, const struct profile_counters *counters, struct err *err);

/* All sequences of this batch have been added. May close a segment. */
int profile_writer_end_batch(struct profile_writer *writer, uint64_t batch, struct err *err);

/* Closes the open segment now (what belongs to an unfinished batch is forgotten): after a stop signal. NAME.part stays for
 * resume. */
int profile_writer_flush(struct profile_writer *writer, struct err *err);

/* The run is over: flushes, joins the segments into NAME, removes NAME.part. n_sequences_total counts the whole list, all
 * shards; an unsharded run must have recorded all of them. */
struct profile_end {
    uint64_t n_sequences_total, n_dropped_tails;
};
int profile_writer_finish(struct profile_writer *writer, const struct profile_end *end, struct err *err);

/* Frees the writer; without finish, closed segments stay in NAME.part. */
void profile_writer_free(struct profile_writer *writer);

#endif
