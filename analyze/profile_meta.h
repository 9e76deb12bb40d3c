/* profile_meta.h - what a run was: the settings and origins that a run file carries beside its counters. Plain values.
 *
 * Whoever writes fills a struct with borrowed pointers; the writer takes a deep copy. A struct made by
 * profile_meta_copy() or by the reader owns its memory and is released with profile_meta_free(). */
#ifndef SPKV_ANALYZE_PROFILE_META_H
#define SPKV_ANALYZE_PROFILE_META_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum profile_score { PROFILE_SCORE_NONE, PROFILE_SCORE_SIGMOID, PROFILE_SCORE_REAL };

/* What is recorded beyond the counters of heads and positions, which always are. */
enum profile_record {
    PROFILE_RECORD_CLASSES = 1,
    PROFILE_RECORD_TOKENS = 2,
    PROFILE_RECORD_UTILITY = 4,     /* tokens/utility as f32 */
    PROFILE_RECORD_UTILITY_U8 = 8,  /* tokens/utility as round(254 u), 255 = missing; sigmoid scores only */
    PROFILE_RECORD_OPEN = 16,
    PROFILE_RECORD_ATTENTION = 32,
    PROFILE_RECORD_ORACLE = 64,
};

enum {
    PROFILE_MAX_LAYERS = 4096,
    PROFILE_MAX_KV_HEADS = 1024,
    PROFILE_MAX_CLASSES = 255,
    PROFILE_N_GROUPS = 16, /* bootstrap groups: document mod 16 */
};

/* A file of the corpus. */
struct profile_source {
    const char *name;
    const char *hash; /* XXH3-128 of its bytes, or "" when unknown (standard input) */
    uint32_t corpus;  /* index into corpus_names */
};

/* Second number of the file format; the first is 1. */
enum { PROFILE_SCHEMA_MINOR = 1 };

struct profile_meta {
    uint32_t schema_minor;           /* filled by writer and reader; 1 brought n_argmax and tokens/is_argmax */

    /* The model. */
    uint32_t n_layers, n_kv_heads, n_heads, head_dim, vocab_size;
    uint32_t element_bytes;          /* of one cached number: 2 for bf16, 4 for f32 */
    const uint32_t *sliding_window;  /* (n_layers) the model's own sliding window, 0 = full attention; NULL = all 0 */
    const char *model_path, *model_type, *model_hash, *base_model_hash, *tokenizer_hash;

    /* The policy. */
    const char *policy;              /* "spkv", "full", ... */
    const char *policy_parameters;   /* all of them, as one JSON object in a string; members become attributes policy_KEY */
    uint32_t window, sinks;
    double threshold;                /* NaN where the policy has none */
    const uint32_t *head_window;     /* (n_layers, n_kv_heads) windows of a layout's heads; NULL = `window` everywhere */
    enum profile_score score;
    bool has_gates;                  /* the policy opens and closes gates: n_open and open counts exist */
    double score_min, score_max;     /* range of the histogram of real scores; both 0 = -16 to 16 */

    /* The run. */
    const char *prefill;             /* "pruned" or "dense" */
    uint32_t chunk, batch, max_length, stride; /* stride 0: pieces do not overlap */
    uint64_t limit;                  /* 0 = none */
    uint32_t record;                 /* PROFILE_RECORD_* */
    uint32_t shard, n_shards;        /* i of n, n >= 1 */
    uint64_t seed;
    const char *dtype, *backend;     /* actually used */

    /* The corpus. */
    size_t n_corpora;
    const char *const *corpus_names; /* as given on the command line */
    size_t n_sources;
    const struct profile_source *sources;
    size_t n_classes;                /* 0 without PROFILE_RECORD_CLASSES */
    const char *const *class_names;
    size_t n_distance_edges;         /* bins + 1, with PROFILE_RECORD_ATTENTION */
    const uint32_t *distance_edges;  /* bin i holds distances edge[i] <= t - s < edge[i + 1]; edge[0] = 0 */

    /* Where it ran; never compared. */
    const char *program_version, *git_commit, *command_line;
    const char *time_start, *time_end; /* UTC */
    const char *host, *cpu, *gpu;
    uint32_t threads;
    const char *library_versions;    /* a JSON object in a string */

    /* Results that belong to the whole run; kept by the writer, filled by the reader. */
    uint64_t pool_peak_bytes;
    uint64_t n_sequences_total;      /* of the whole list, all shards; 0 = not known yet */
    uint64_t n_dropped_tails;        /* pieces shorter than 2 tokens that were left out */
    bool complete;

    void *owned;                     /* NULL when the pointers are borrowed */
};

/* The eight token classes of a run file, in order of priority. */
extern const char *const profile_class_names[8];

/* Edges of the distance bins up to max_length: 0, 1, ..., 8, then four an octave (10, 12, 14, 16, 20, ...), the last one
 * >= max_length. Writes at most `cap` edges (128 are enough for any 32-bit length) and returns how many. */
size_t profile_distance_edges(uint32_t max_length, uint32_t *edges, size_t cap);

/* Refuses what cannot be written: sizes of 0 or beyond the limits above, missing strings, indices out of range. */
int profile_meta_check(const struct profile_meta *meta, const char *where, struct err *err);

/* Deep copy, owned; sliding_window and head_window are filled in where they were NULL. */
int profile_meta_copy(const struct profile_meta *from, struct profile_meta *to, struct err *err);
void profile_meta_free(struct profile_meta *meta); /* legal on a zeroed or borrowed struct */

/* ERR_INPUT naming the first setting in which two runs differ and both values, unless they are parts of the same run:
 * schema, hashes, geometry, policy and parameters, prefill, lengths, batch, chunk, backend, dtype, seed, record list, limit,
 * corpora, number of shards, and the shard unless other_shard. Machines, times, threads and paths may differ. Both must be
 * copies or come from a file. */
int profile_meta_compare(const struct profile_meta *a, const char *a_name, const struct profile_meta *b,
                         const char *b_name, bool other_shard, struct err *err);

/* "heads,positions,classes,..." of a record mask, into out. */
void profile_record_text(uint32_t record, char out[128]);

#endif
