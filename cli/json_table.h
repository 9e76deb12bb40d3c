/* json_table.h - rows of flat JSON objects as CSV: the same names and values in both forms. */
#ifndef SPKV_CLI_JSON_TABLE_H
#define SPKV_CLI_JSON_TABLE_H

#include <jansson.h>

#include "base/err.h"

/* Columns are the members of the first row, in its order, but for arrays and objects; every row has them. null is an empty
 * field. Written atomically; no rows, no header. */
int json_write_csv(const json_t *rows, const char *path, struct err *err);

#endif
