/* table.h - rows of counts, numbers and texts that go out as CSV and as an HTML table. Filled cell by cell, row by row;
 * errors are sticky and reported when the table is written. One thread per table.
 *
 * CSV: RFC 4180 with LF line ends; a header line of column names, which carry the unit; numbers with a decimal
 * point, written so that they read back exactly; a missing value (NaN) is an empty field. */
#ifndef SPKV_REPORTS_TABLE_H
#define SPKV_REPORTS_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

enum column_kind { COLUMN_COUNT, COLUMN_REAL, COLUMN_TEXT };

struct column {
    const char *name;  /* CSV: "n_kept", "nll_nat_per_token" */
    const char *title; /* HTML; NULL leaves the column out there */
    enum column_kind kind;
    int decimals;      /* of a real in HTML */
};

struct cell {
    double real;
    uint64_t count;
    char *text; /* owned */
};

struct table {
    const struct column *columns; /* borrowed */
    size_t n_columns;
    struct cell *cells; /* (rows, n_columns) */
    size_t n_cells, cap;
    bool failed;
};

void table_init(struct table *t, const struct column *columns, size_t n_columns);
void table_free(struct table *t); /* legal on a zeroed struct */

/* The next cell, of the kind of its column. */
void table_put_count(struct table *t, uint64_t count);
void table_put_real(struct table *t, double real);
void table_put_text(struct table *t, const char *text);

size_t table_n_rows(const struct table *t);

/* Appends one line of CSV per row, the header first when `header`. */
void table_put_csv(const struct table *t, bool header, struct str *out);
int table_write_csv(const struct table *t, const char *path, struct err *err); /* atomic */

/* Appends a <table class="data"> whose cells carry data-v, the number to sort by. */
void table_put_html(const struct table *t, const char *caption, struct str *out);

#endif
