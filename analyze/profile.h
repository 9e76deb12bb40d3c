/* profile.h - the run file: reading, joining, checking. Writing while a model runs is profile_writer.h; the settings a file
 * carries are profile_meta.h.
 *
 * A run file is HDF5 (written so that h5py, xarray and netCDF tools open it with named dimensions) and holds raw counters:
 * per sequence, layer and KV head, or summed per (corpus, bootstrap group, layer, KV head, bin). While a run is going on, or
 * after it was interrupted, NAME.part/ holds closed segment files of the same form; a profile is opened from either.
 *
 * One thread at a time for the whole HDF5 library: callers of this folder run on one thread. Foreign files are untrusted:
 * shapes are checked against each other and against the file before anything is allocated, every error names file and
 * dataset. */
#ifndef SPKV_ANALYZE_PROFILE_H
#define SPKV_ANALYZE_PROFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "analyze/profile_meta.h"
#include "base/err.h"

/* Every dataset of the file. S = sequence, L = layer, K = KV head, C = corpus, G = group, T = token. */
enum profile_field {
    PROFILE_SEQUENCE_INDEX,    /* (S) u64, ascending over a whole profile */
    PROFILE_SEQUENCE_LENGTH,   /* (S) u32 */
    PROFILE_N_PREDICTED,       /* (S) u32 */
    PROFILE_N_ARGMAX,          /* (S) u32, since schema 1.1 */
    PROFILE_NLL_SUM,           /* (S) f64, nat */
    PROFILE_SEQUENCE_DOCUMENT, /* (S) u64 */
    PROFILE_SEQUENCE_OFFSET,   /* (S) u64 */
    PROFILE_SEQUENCE_SOURCE,   /* (S) u32 */
    PROFILE_SEQUENCE_BATCH,    /* (S) u64 batch of the plan */
    PROFILE_CACHE_BYTES_USED, PROFILE_CACHE_BYTES_ALLOCATED, PROFILE_CACHE_BYTES_FULL, /* (S) u64 */
    PROFILE_N_SCORED, PROFILE_N_OPEN, PROFILE_N_LEFT_WINDOW, PROFILE_N_KEPT,           /* (S, L, K) u32 */
    PROFILE_VISIBLE_PAIRS,     /* (S, L, K) u64 */
    PROFILE_UTILITY_SUM,       /* (S, L, K) f64 */
    PROFILE_FAR_ATTENTION_SUM, PROFILE_SINK_ATTENTION_SUM, /* (S, L, K) f64 */
    PROFILE_ATTENTION_QUERIES, /* (S, L, K) u64 */
    PROFILE_UTILITY_HISTOGRAM, /* (C, G, L, K, utility bin) u64 */
    PROFILE_POSITION_SCORED, PROFILE_POSITION_OPEN, /* (C, G, L, K, position bin) u64 */
    PROFILE_CLASS_SCORED, PROFILE_CLASS_OPEN,       /* (C, G, L, K, token class) u64 */
    PROFILE_ATTENTION_DISTANCE,                     /* (C, G, L, K, distance bin) f64 */
    PROFILE_TOKEN_ID,          /* (T) i32 */
    PROFILE_TOKEN_NLL,         /* (T) f32, NaN where no loss */
    PROFILE_TOKEN_IS_ARGMAX,   /* (T) u8: 0, 1, 255 = missing (no loss); since schema 1.1 */
    PROFILE_TOKEN_UTILITY,     /* (T, L, K) f32, or u8 round(254 u) with 255 = missing */
    PROFILE_TOKEN_OPEN,        /* (T, L, K) u8: 0, 1, 255 = missing (sliding layers) */
    PROFILE_TOKEN_FUTURE_MAX, PROFILE_TOKEN_FUTURE_MEAN, /* (T, L, K) f32 */
    PROFILE_N_FIELDS,
};

struct profile;

/* Opens a finished file, or NAME.part/ (what is closed of it). The rows of a profile are in ascending order of
 * sequence_index. ERR_INPUT for what is no run file, for a higher major schema version and for damage. */
int profile_open(const char *path, struct profile **out, struct err *err);
void profile_close(struct profile *profile);

const char *profile_path(const struct profile *profile);
const struct profile_meta *profile_meta(const struct profile *profile); /* borrowed until close */
bool profile_is_partial(const struct profile *profile);                 /* a directory, or a file with complete = 0 */

size_t profile_n_sequences(const struct profile *profile);
uint64_t profile_n_tokens(const struct profile *profile); /* tokens with token-level values, 0 without option tokens */

/* Dataset name ("n_kept", "tokens/id"), unit and description. */
const char *profile_field_name(enum profile_field field);
const char *profile_field_units(enum profile_field field);
const char *profile_field_title(enum profile_field field);

bool profile_has(const struct profile *profile, enum profile_field field);

/* Items in one row of a per-sequence or per-token field (1, or L * K), or of a whole summed field. */
size_t profile_row_items(const struct profile *profile, enum profile_field field);
size_t profile_item_bytes(const struct profile *profile, enum profile_field field);

/* Rows first .. first + n - 1 of a per-sequence field (or tokens of a per-token field), in the field's own type, into out
 * (n * row_items items). ERR_INPUT when the file has no such dataset; asking past the end is a bug (ASSERT). */
int profile_read_rows(struct profile *profile, enum profile_field field, uint64_t first, size_t n, void *out,
                      struct err *err);

/* Tokens of sequence row `row`: numbers first .. first + n - 1 in the per-token fields. Needs option tokens. */
int profile_token_range(struct profile *profile, size_t row, uint64_t *first, size_t *n, struct err *err);

/* A whole summed field (C, G, L, K, bins), added over all parts, u64 or f64. Free *out. */
int profile_read_sum(struct profile *profile, enum profile_field field, void **out, struct err *err);

/* The same added over the groups of one corpus (corpus < 0: of all), (L, K, bins) in double. Free *out. */
int profile_read_bins(struct profile *profile, enum profile_field field, int corpus, double **out, size_t *n_bins,
                      struct err *err);

/* Bin edges, borrowed, n_edges = bins + 1: bin i is [edge[i], edge[i + 1]), the last one closed. Real scores have
 * -infinity and infinity outside. NULL and 0 where there are none. */
const float *profile_utility_edges(const struct profile *profile, size_t *n_edges);
const uint32_t *profile_position_edges(const struct profile *profile, size_t *n_edges);

/* Joins the shards of a run (each a finished file or the closed segments of one) into one flat file, equal dataset by
 * dataset to the run that was never split. Demands every shard once, the same settings everywhere, and sequences 0 .. N-1
 * without gap or repetition: ERR_INPUT naming the first thing that is wrong. */
int profile_merge(const char *const *paths, size_t n_paths, const char *out, bool force, struct err *err);

/* Writes what is closed in NAME.part/ (segments that cannot be read are left out and reported) as one valid file with
 * complete = 0. */
int profile_recover(const char *part_dir, const char *out, bool force, void (*report)(void *self, const char *text),
                    void *self, struct err *err);

/* Verifies a file or NAME.part/: schema, shapes, checksums of all data, and that the counters agree with each other. Every
 * problem found is handed to `report`, one line each; *n_problems counts them. An error is returned only when the check
 * itself cannot go on. */
int profile_check(const char *path, void (*report)(void *self, const char *text), void *self, size_t *n_problems,
                  struct err *err);

#endif
