/* row_file.h - all rows of one JSON Lines file (.jsonl, also .gz or .zst) in memory, with the lines they stand on: what
 * tasks are read from. Immutable once read. */
#ifndef SPKV_DATASETS_ROW_FILE_H
#define SPKV_DATASETS_ROW_FILE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct row_file {
    const char *path; /* borrowed */
    json_t **rows;    /* (n) objects, owned */
    uint64_t *line;   /* (n) from 1 */
    size_t n, rows_cap, line_cap;
};

/* The first `limit` rows, 0 = all; lines of white space are passed over. ERR_INPUT for a file without rows. Free in any
 * case. */
int row_file_read(const char *path, uint64_t limit, struct row_file *out, struct err *err);
void row_file_free(struct row_file *file); /* legal on a zeroed struct */

/* "FILE:LINE" of row i. */
void row_file_where(const struct row_file *file, size_t i, char *where, size_t n);

#endif
