/* shots.h - few-shot examples before a question, drawn and joined as the lm-evaluation-harness (0.4.13) does: context, a
 * space and the gold answer, and an empty line behind each. */
#ifndef SPKV_DATASETS_SHOTS_H
#define SPKV_DATASETS_SHOTS_H

#include <stdbool.h>

#include "base/str.h"
#include "datasets/python_random.h"
#include "datasets/row_file.h"
#include "datasets/rows.h"

struct shots {
    const struct row_file *file;    /* borrowed; the pool */
    const struct row_kind *kind;
    size_t n;                       /* examples a question */
    bool first;                     /* the first ones, else random */
    bool exclude;                   /* questions come from the pool: none is its own example */
    struct python_random random;    /* goes on from question to question */
};

/* Sets file and exclude: the pool is the file `from`, or the task's own at `path` where `from` is NULL or the same. It is read
 * into `pool`; free that in any case. */
int shots_open(struct shots *shots, const char *path, const char *from, struct row_file *pool, struct err *err);

/* Appends the examples of a question; `row` is its row. ERR_INPUT when the pool is too small. */
int shots_put(struct shots *shots, const json_t *row, struct str *out, struct err *err);

#endif
