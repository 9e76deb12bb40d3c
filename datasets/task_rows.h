/* task_rows.h - what the generators of tasks share: the random numbers of a row, and the line of JSON it becomes. */
#ifndef SPKV_DATASETS_TASK_ROWS_H
#define SPKV_DATASETS_TASK_ROWS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "base/str.h"

/* The random numbers of one row: a pure function of seed, task and row, so that the first rows of a file are the same
 * whatever their number. */
struct draws {
    uint64_t seed, row;
    uint32_t task; /* keeps the tasks' numbers apart */
    uint32_t n;    /* drawn so far */
};

unsigned draw(struct draws *draws, size_t n); /* uniform in [0, n), n from 1 to 2^31 */

/* A row and a line end; takes over the row. ERR_MEMORY where it is NULL, ERR_IO when the stream fails. */
int task_row_dump(FILE *stream, json_t *row, struct err *err);

/* {"prompt": ..., "completion": ...}, or {"text": both} when plain_text, and a line end. ERR_MEMORY also when building one
 * of the texts failed, ERR_IO when the stream does. */
int task_row_write(FILE *stream, const struct str *prompt, const struct str *completion, bool plain_text, struct err *err);

#endif
