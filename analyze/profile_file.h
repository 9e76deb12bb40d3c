/* profile_file.h - one HDF5 file of a run: written in one go from columns that somebody hands out, opened and validated for
 * reading. Segments, shards and finished files all are such files. Internal to analyze/.
 *
 * Layout of the file (axis names are dimension scales):
 *   /                 attributes of profile_attribute.c; datasets of profile_field.c
 *   /utility_edge /position_edge /distance_edge   edges, coordinates of their own axis
 *   /corpus_name (corpus), /source_name /source_hash /source_corpus (source), /token_class_name (token_class)
 *   /layer_sliding_window (layer), /head_window (layer, kv_head)
 *   /tokens/...       token-level datasets, /tokens/row_splits (row_split = sequence + 1)
 *   /provenance       attributes only */
#ifndef SPKV_ANALYZE_PROFILE_FILE_H
#define SPKV_ANALYZE_PROFILE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "analyze/profile_field.h"

/* What a file is made of. */
struct profile_columns {
    const struct profile_meta *meta;
    size_t n_sequences, n_tokens;
    const uint64_t *row_splits; /* (n_sequences + 1), NULL without tokens */
    void *self;
    /* Rows first .. first + n - 1 of a per-sequence or per-token field into out. */
    int (*read_rows)(void *self, enum profile_field field, uint64_t first, size_t n, void *out, struct err *err);
    /* A whole summed field; the caller frees *out. */
    int (*read_sum)(void *self, enum profile_field field, void **out, struct err *err);
};

/* Writes `path` through `temporary` (on the same file system), which is fsynced and renamed, or removed on failure. */
int profile_file_write(const char *path, const char *temporary, const struct profile_columns *columns, struct err *err);

/* An opened file: everything small in memory, the rest on request. */
struct profile_part {
    char *path;
    hid_t file;                          /* -1 while closed */
    hid_t dataset[PROFILE_N_FIELDS];     /* -1 while not opened */
    struct profile_meta meta;
    struct profile_dims dims;
    uint64_t *index;                     /* (n_sequences) sequence_index */
    uint64_t *row_splits;                /* (n_sequences + 1), NULL without tokens */
};

/* Reads and checks a part; the file stays open until profile_part_close_file(). */
int profile_part_open(const char *path, struct profile_part *out, struct err *err);
void profile_part_close_file(struct profile_part *part); /* reading opens it again */
void profile_part_close_dataset(struct profile_part *part, enum profile_field field); /* likewise */
void profile_part_free(struct profile_part *part);       /* legal on a zeroed struct */

int profile_part_read_rows(struct profile_part *part, enum profile_field field, uint64_t first, size_t n, void *out,
                           struct err *err);
int profile_part_read_sum(struct profile_part *part, enum profile_field field, void **out, struct err *err);

#endif
