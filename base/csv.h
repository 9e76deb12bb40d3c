/* csv.h - a table of texts with a header line, as commands write them: RFC 4180, LF or CRLF, fields in quotes may hold commas
 * and line ends, empty lines do not count. Files of strangers: every row must be as long as the header, errors name file and
 * line. One thread per table. */
#ifndef SPKV_BASE_CSV_H
#define SPKV_BASE_CSV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { CSV_NO_COLUMN = -1 };

struct csv {
    char *text;               /* the file, cut up */
    const char **cells;       /* (n_rows + 1, n_columns), the header first */
    size_t *lines;            /* (n_rows + 1) where each row begins, from 1 */
    size_t n_rows, n_columns; /* rows without the header */
    const char *path;         /* borrowed, for errors */
};

/* `path` must stay as long as the table. ERR_INPUT for a file without header, a zero byte, an open quote, ragged rows. *out
 * is zeroed by a failure. */
int csv_read(const char *path, struct csv *out, struct err *err);
/* The same of n bytes in memory. */
int csv_parse(const char *text, size_t n, const char *path, struct csv *out, struct err *err);
void csv_free(struct csv *csv); /* legal on a zeroed struct */

/* The number of the column of that name, or CSV_NO_COLUMN. */
int csv_column(const struct csv *csv, const char *name);

/* The cell, "" where there is no such column. */
const char *csv_text(const struct csv *csv, size_t row, int column);

/* The number in a cell: NaN where it is empty or there is no such column, ERR_INPUT where it is no finite number. */
int csv_real(const struct csv *csv, size_t row, int column, double *out, struct err *err);

/* Sets ERR_INPUT with "PATH:LINE" of a row, SIZE_MAX for the header, and returns it. */
int csv_refuse(const struct csv *csv, size_t row, struct err *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Whether the header line of a file names all these columns (n); false for what cannot be read. */
bool csv_has_columns(const char *path, const char *const *names, size_t n);

#endif
