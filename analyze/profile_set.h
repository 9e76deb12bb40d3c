/* profile_set.h - inside a profile: the parts (files) of one run and the order of their rows. Internal to analyze/. */
#ifndef SPKV_ANALYZE_PROFILE_SET_H
#define SPKV_ANALYZE_PROFILE_SET_H

#include "analyze/bins.h"
#include "analyze/profile_file.h"

/* Consecutive rows of one part that are consecutive in the profile too. */
struct profile_run {
    uint32_t part;
    uint64_t row, part_row;     /* first row, in the profile and in the part */
    uint64_t token, part_token; /* first token likewise */
    size_t n, n_tok;
};

struct profile {
    char *path;
    struct profile_part *parts; /* (n_parts), all of equal settings but for the shard */
    size_t n_parts;
    struct profile_run *runs;   /* (n_runs), ascending by row */
    size_t n_runs;
    size_t n_sequences;
    uint64_t n_tokens;
    struct score_bins scores;   /* zero without scores */
    uint32_t position_edges[34];
    size_t n_open, max_open;    /* open files */
    size_t oldest;              /* where to look for the next one to close */
};

/* A profile over several files (n >= 1); `name` for messages. Settings are compared, sequences must not repeat. */
int profile_open_set(const char *const *paths, size_t n, const char *name, struct profile **out, struct err *err);

/* Closes a dataset in all parts, with the chunks that HDF5 keeps for it; reading opens it again. */
void profile_drop_field(struct profile *profile, enum profile_field field);

/* Paths of the closed segments in a NAME.part directory, in order. */
int profile_list_segments(const char *dir, char ***out, size_t *n, struct err *err);
void profile_free_segments(char **paths, size_t n);

/* Writes a profile as one flat file, with this meta, through `temporary`. */
int profile_write_flat(struct profile *profile, const struct profile_meta *meta, const char *path, const char *temporary,
                       struct err *err);

/* ERR_INPUT unless the rows are sequences 0 .. n_total - 1. */
int profile_set_complete(const struct profile *profile, uint64_t n_total, struct err *err);

/* Settings of all parts together: peaks, earliest and latest time. Borrows from the profile. */
void profile_set_meta(const struct profile *profile, struct profile_meta *out);

#endif
