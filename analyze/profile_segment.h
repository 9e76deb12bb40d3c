/* profile_segment.h - the rows of an open segment in memory, one growing column per dataset. Internal to analyze/. */
#ifndef SPKV_ANALYZE_PROFILE_SEGMENT_H
#define SPKV_ANALYZE_PROFILE_SEGMENT_H

#include "analyze/profile_row.h"

struct profile_segment {
    const struct profile_row_plan *plan;
    size_t n_sequences, n_tokens, n_bytes; /* n_bytes: of all columns that grow */
    void *column[PROFILE_N_FIELDS];        /* rows and tokens; whole sums */
    size_t cap[PROFILE_N_FIELDS];          /* bytes */
    uint64_t *row_splits;                  /* (n_sequences + 1) */
    size_t splits_cap;
};

int profile_segment_init(struct profile_segment *segment, const struct profile_row_plan *plan, struct err *err);
void profile_segment_free(struct profile_segment *segment);

/* Appends a finished row of batch `batch`; its sums are added to those of its corpus and group. */
int profile_segment_append(struct profile_segment *segment, const struct profile_row *row, uint64_t batch, struct err *err);

/* Writes it as a file; the segment keeps its rows. */
int profile_segment_write(struct profile_segment *segment, const struct profile_meta *meta, const char *path,
                          const char *temporary, struct err *err);

/* Forgets all rows. */
void profile_segment_clear(struct profile_segment *segment);

#endif
