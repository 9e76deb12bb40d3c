/* training_log.h - the log of a training run, as spkv train writes it: log.csv, a line a step, and heads.csv beside it, the
 * long-range density of every head at some of the steps. */
#ifndef SPKV_REPORTS_TRAINING_LOG_H
#define SPKV_REPORTS_TRAINING_LOG_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/* What is read of a step; NaN = not measured. */
enum training_column {
    TRAINING_STEP,
    TRAINING_TOKENS,
    TRAINING_LOSS, /* of the step, under its own gates */
    TRAINING_BLEND, /* 0 with soft gates, rising to 1 as they anneal to hard ones */
    TRAINING_GATE_DENSITY,
    TRAINING_LONG_DENSITY,
    TRAINING_EVAL_HARD, /* held-out losses: hard gates, full attention */
    TRAINING_EVAL_FULL,
    TRAINING_EVAL_LONG_DENSITY,
    TRAINING_N_COLUMNS
};

struct training_log {
    char *path;          /* as given */
    size_t n_steps;
    double *columns;     /* (TRAINING_N_COLUMNS, n_steps); steps rise */

    size_t n_head_steps; /* 0: no heads.csv, or nothing in it */
    size_t n_layers, n_kv_heads;
    double *head_steps;  /* (n_head_steps) */
    double *density;     /* (n_head_steps, n_layers, n_kv_heads), NaN = none */
};

/* Whether an argument is one: a .csv file, or a directory with a log.csv. */
bool training_log_is(const char *path);

/* Opens a log.csv, or the one in a directory. ERR_INPUT with file and line for what is no such log or has no step. */
int training_log_read(const char *path, struct training_log **out, struct err *err);
void training_log_free(struct training_log *log); /* NULL is fine */

const double *training_log_column(const struct training_log *log, enum training_column column); /* (n_steps), borrowed */
double training_log_last(const struct training_log *log, enum training_column column); /* last value there is, or NaN */

#endif
