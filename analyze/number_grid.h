/* number_grid.h - text that is a matrix of numbers: one row a line, no header. Files of strangers: every cell must be a
 * finite number, every row as long as the first, errors name file and line, memory grows with the text. */
#ifndef SPKV_ANALYZE_NUMBER_GRID_H
#define SPKV_ANALYZE_NUMBER_GRID_H

#include <stddef.h>

#include "base/err.h"

struct number_grid {
    size_t n_rows, n_columns; /* at least 1 */
    size_t first_line;        /* of the first row, from 1; rows stand in lines one after the other */
    double *values;           /* (n_rows, n_columns), free() it */
};

/* Cells are separated by `separator`; spaces around them, a carriage return at the end and empty lines before and after the
 * matrix do not count. ERR_INPUT with "PATH:LINE". */
int number_grid_parse(const char *text, size_t n, char separator, size_t max_rows, size_t max_columns, const char *path,
                      struct number_grid *out, struct err *err);

/* Sets ERR_INPUT with "PATH:LINE" and returns it. */
int number_grid_refuse(const char *path, size_t line, struct err *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
