/* candidates.h - ways of attention that were measured or only predicted, to be drawn beside each other: layouts out of their
 * files, rows of the tables of spkv compare and spkv verify, the runs in a directory of spkv verify. Columns are found by
 * their names, so that tables may have more of them and in any order. */
#ifndef SPKV_REPORTS_CANDIDATES_H
#define SPKV_REPORTS_CANDIDATES_H

#include <stdbool.h>
#include <stddef.h>

#include "analyze/paired.h"
#include "base/err.h"

struct candidate {
    char *group;   /* what a line of a figure joins: policy or strategy */
    char *name;    /* this one: specification, or name of a layout file */
    char *column;  /* "zero_shot", "healed", or "" where the source knows no such thing */
    char *origin;  /* a sentence: model, text, amounts, window, as far as the source says */
    bool is_layout;   /* comes from a layout file */
    /* NaN = not said. Fractions of what full attention needs. */
    double n_global, coverage, predicted_kv_fraction; /* of a layout, at CANDIDATE_CONTEXT tokens */
    double read_fraction, kv_fraction;                /* measured; bytes used over full */
    struct estimate nll_change, gap_recovered;
};

enum { CANDIDATE_CONTEXT = 32768 };

struct candidates {
    struct candidate *items; /* (n) */
    size_t n, cap;
};

/* Whether an argument is something for the functions below. */
bool candidates_is_layout(const char *path);    /* ends in .json */
bool candidates_is_table(const char *path);     /* a CSV file with read_fraction and nll_change */
bool candidates_is_directory(const char *path); /* holds compare.csv, or zero_shot/full.h5 and zero_shot/window.h5 */

/* Adds what the source holds. ERR_INPUT names file and place. A layout counts once for its prediction and once for every
 * column that was measured. */
int candidates_add_layout(struct candidates *to, const char *path, struct err *err);
int candidates_add_table(struct candidates *to, const char *path, struct err *err);
int candidates_add_directory(struct candidates *to, const char *path, struct err *err);

/* A new item with nothing known, for the makers above: the texts that are set with it are copied. */
int candidates_add(struct candidates *to, const char *group, const char *name, const char *column, const char *origin,
                   struct candidate **out, struct err *err);
void candidates_free(struct candidates *candidates); /* legal on a zeroed struct */

#endif
