/* run_tables.h - the tables of a run: per head, per layer, per position bin, per utility bin, and per sequence. Columns as
 * the CSV files have them; ratios are ratios of the sums beside them, a missing one (0/0) is NaN and an empty CSV field. */
#ifndef SPKV_REPORTS_RUN_TABLES_H
#define SPKV_REPORTS_RUN_TABLES_H

#include "reports/run.h"
#include "reports/run_maps.h"
#include "reports/table.h"

/* Fills a new table; release it with table_free(). */
void run_table_heads(const struct run *run, struct table *out);
void run_table_layers(const struct run *run, struct table *out);

/* One row per bin, layer and KV head; no rows where the run has no such bins. */
void run_table_positions(const struct run *run, struct table *out);
void run_table_classes(const struct run *run, struct table *out);
void run_table_utility(const struct run *run, struct table *out);

/* One row a head of two runs of one shape: what each has of a quantity, and b minus a. */
void run_table_difference(const struct run *a, const struct run *b, const struct run_quantity *quantity, struct table *out);

/* sequences.csv, streamed from the file: length, loss, pairs kept and bytes of each sequence. */
int run_write_sequences(struct profile *profile, const char *path, struct err *err);

#endif
