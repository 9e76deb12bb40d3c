/* terminal_map.h - numbers per layer and KV head drawn in a terminal: with colour two layers a line as half blocks, without
 * it one layer a line in ASCII. Heads that do not fit beside each other go on in a block below. */
#ifndef SPKV_REPORTS_TERMINAL_MAP_H
#define SPKV_REPORTS_TERMINAL_MAP_H

#include <stddef.h>

#include "base/str.h"
#include "reports/terminal.h"

struct terminal_map {
    const char *quantity;
    size_t n_layers, n_kv_heads;
    const double *values; /* (n_layers, n_kv_heads), NaN = no value, hatched */
    double low, high;     /* low < high: the ends of the colours; what lies outside has the colour of the end */
};

void terminal_put_map(const struct terminal_map *map, const struct terminal_options *options, struct str *out);

#endif
