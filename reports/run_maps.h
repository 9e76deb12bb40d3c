/* run_maps.h - the heatmaps of a run: which quantities it has and their values per layer and KV head. */
#ifndef SPKV_REPORTS_RUN_MAPS_H
#define SPKV_REPORTS_RUN_MAPS_H

#include <stdbool.h>
#include <stddef.h>

#include "reports/heatmap.h"
#include "reports/run.h"

/* A quantity that every head, layer and column of heads has as a ratio of sums. */
struct run_quantity {
    const char *name;     /* stem of the PNG: "density" */
    const char *column;   /* in heads.csv: "long_range_density" */
    const char *title;    /* "Long-range density by layer and KV head" */
    const char *quantity; /* "long-range density" */
    const char *sentence; /* what it is and how to read it */
    double (*ratio)(const struct head_sums *sums);
};

enum { RUN_MAX_MAPS = 8 };

/* The quantities of this run, the one to look at first in front. Returns how many; each has at least one value. */
size_t run_quantities(const struct run *run, const struct run_quantity *out[RUN_MAX_MAPS]);

/* A heatmap with its memory. */
struct run_map {
    struct heatmap map;
    double *values;
    struct str title, value_title, context;
    const char *caption[3];
};

int run_map_create(const struct run *run, const struct run_quantity *quantity, struct run_map *out, struct err *err);

/* The same quantity of run b minus run a, whose shapes are equal; the range of colours is symmetric about 0. */
int run_map_create_difference(const struct run *a, const struct run *b, const struct run_quantity *quantity,
                              struct run_map *out, struct err *err);
void run_map_free(struct run_map *map); /* legal on a zeroed struct */

/* The PNG with the facts of the run (of `b`, where it is a difference) in its text chunks. */
int run_map_write(const struct run_map *map, const struct run *run, const char *path, struct err *err);

/* The quantity of `b` that is also one of a, to compare them by; NULL = nothing in common or other shapes. */
const struct run_quantity *run_common_quantity(const struct run *a, const struct run *b);

#endif
