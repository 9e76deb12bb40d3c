/* map_script.h - a gnuplot script that draws a heatmap of heads again from a table with a row a head, for those who want to
 * change it: `gnuplot NAME.gp` there writes NAME_gnuplot.svg. */
#ifndef SPKV_REPORTS_MAP_SCRIPT_H
#define SPKV_REPORTS_MAP_SCRIPT_H

#include "reports/heatmap.h"

/* table: a CSV file beside the script with the columns layer, kv_head and `column`. */
void map_script_put(const struct heatmap *map, const char *name, const char *table, const char *column, struct str *out);
int map_script_write(const struct heatmap *map, const char *dir, const char *name, const char *table, const char *column,
                     struct err *err);

#endif
