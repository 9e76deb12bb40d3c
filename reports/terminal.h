/* terminal.h - a run in a terminal: facts, losses, densities by layer, extremes, bytes, a map of layers and heads. Text only
 * is made here; the caller prints it and knows what the terminal can do. Without colour the text is ASCII without any escape
 * sequence, apart from foreign names, which are cleaned of control characters. */
#ifndef SPKV_REPORTS_TERMINAL_H
#define SPKV_REPORTS_TERMINAL_H

#include <jansson.h>
#include <stdbool.h>

#include "base/str.h"
#include "reports/run.h"
#include "reports/run_maps.h"

struct terminal_options {
    bool color; /* escape sequences with 256 colours and block characters may be sent */
    bool truecolor; /* 24-bit colours too */
    bool map; /* draw the layer x head map */
    const struct run_quantity *quantity; /* of the map, one of run_quantities(); NULL = the first */
    int width; /* columns; at least 40 are used */
};

void terminal_put_run(const struct run *run, const struct terminal_options *options, struct str *out);

/* The same numbers as one object: "schema": "spkv-show", "version": 1; missing values are null. A new reference, NULL when
 * out of memory. */
json_t *terminal_json(const struct run *run);

#endif
