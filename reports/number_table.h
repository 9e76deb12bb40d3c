/* number_table.h - a CSV file of numbers, as logs of training are: a header line of names, then lines with one number or
 * nothing a column. A last line without its end is one that is still being written, and is left out. */
#ifndef SPKV_REPORTS_NUMBER_TABLE_H
#define SPKV_REPORTS_NUMBER_TABLE_H

#include <stddef.h>

#include "base/err.h"

struct number_table {
    char *header;         /* the names, one zero-terminated string after the other */
    size_t n_rows, n_columns;
    double *values;       /* (n_rows, n_columns), NaN = empty */
};

/* ERR_INPUT with file and line for what is no number, and for lines of another length than the header. */
int number_table_read(const char *path, struct number_table *out, struct err *err);
void number_table_free(struct number_table *t); /* legal on a zeroed struct */

/* The place of the column of that name. ERR_INPUT naming `path` and the column when there is none. */
int number_table_find(const struct number_table *t, const char *name, const char *path, size_t *column, struct err *err);

#endif
