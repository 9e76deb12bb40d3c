/* head_difference.h - two maps of heads side by side, whatever they come from: runs, layouts, patterns of other tools. */
#ifndef SPKV_CLI_HEAD_DIFFERENCE_H
#define SPKV_CLI_HEAD_DIFFERENCE_H

#include <jansson.h>

#include "analyze/comparison.h"
#include "base/str.h"
#include "cli/head_values.h"

struct head_difference {
    const char *a_name, *b_name; /* borrowed paths */
    struct head_values a, b;
    double *difference;          /* (n_layers, n_kv_heads) b - a, NaN where one is missing */
    struct comparison comparison;
};

/* n_top 0: a quarter of the heads. ERR_INPUT when the two have other shapes. Free after failures too. */
int head_difference_read(const char *a, const char *b, size_t n_top, struct head_difference *out, struct err *err);
void head_difference_free(struct head_difference *difference); /* legal on a zeroed struct */

/* A few lines, and the heads that differ most. */
void head_difference_put(const struct head_difference *difference, struct str *out);

/* The same with the whole map; NULL when memory is short. */
json_t *head_difference_json(const struct head_difference *difference);

#endif
