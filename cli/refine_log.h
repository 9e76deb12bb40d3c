/* refine_log.h - the log of a search over layouts: a line of CSV for every layout that was measured, and what is known from
 * it. One thread. */
#ifndef SPKV_CLI_REFINE_LOG_H
#define SPKV_CLI_REFINE_LOG_H

#include <stddef.h>
#include <stdio.h>

#include "base/err.h"

/* A measured layout: heads as "1" global, "0" local, "-" sliding, layer after layer. */
struct refine_entry {
    char *heads;
    double nll; /* nat per token */
};

struct refine_log {
    const char *path;   /* NULL = kept in memory only */
    FILE *stream;
    struct refine_entry *entries;
    size_t n, cap;
};

/* Reads what is there (a line that a kill cut short is dropped) and goes on behind it. ERR_INPUT for another file. */
int refine_log_open(const char *path, struct refine_log *out, struct err *err);
void refine_log_close(struct refine_log *log); /* legal on a zeroed struct */

/* The loss of a layout, NULL when it was not measured. Borrowed until the next entry. */
const double *refine_log_find(const struct refine_log *log, const char *heads);

/* Notes a measurement. `what` is "start", "drop", "add" or "swap"; out and in are "LAYER.HEAD" or ""; best: the loss of the
 * layout that the search stands at. */
int refine_log_add(struct refine_log *log, const char *what, const char *out, const char *in, const char *heads, double nll,
                   double best, struct err *err);

#endif
