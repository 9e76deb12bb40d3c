#include "reports/number_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

enum { MAX_COLUMNS = 1000, MAX_CELL = 40 };

static int refuse(const char *path, size_t line, const char *what, struct err *err) {
    struct str where = {0};
    str_printf(&where, "%s:%zu", path, line);
    err_set(err, ERR_INPUT, str_text(&where), "%s (is this a log of spkv train? A table of policies has the columns "
            "read_fraction and nll_change)", what);
    str_free(&where);
    return ERR_INPUT;
}

/* A whole cell; empty is NaN. */
static bool parse_cell(const char *begin, const char *end, double *out) {
    char text[MAX_CELL + 1], *stop;
    size_t n = (size_t)(end - begin);
    *out = NAN;
    if (n == 0)
        return true;
    if (n > MAX_CELL || strspn(begin, "+-.0123456789einfaE") < n)
        return false;
    memcpy(text, begin, n);
    text[n] = 0;
    *out = strtod(text, &stop);
    return *stop == 0;
}

static const char *cell_end(const char *at, const char *end) {
    const char *comma = memchr(at, ',', (size_t)(end - at));
    return comma ? comma : end;
}

static int parse_row(const char *at, const char *end, double *row, size_t n_columns, const char *path, size_t line,
                     struct err *err) {
    for (size_t c = 0; c < n_columns; c++) {
        const char *stop = cell_end(at, end);
        if (!parse_cell(at, stop, &row[c]))
            return refuse(path, line, "not a number", err);
        if ((stop == end) != (c + 1 == n_columns))
            return refuse(path, line, "another number of columns than in the first line", err);
        at = stop + 1;
    }
    return OK;
}

static int parse_header(const char *text, size_t n, struct number_table *t, const char *path, struct err *err) {
    if (n == 0 || memchr(text, 0, n))
        return refuse(path, 1, "no names of columns", err);
    if (!(t->header = mem_strndup(text, n, err)))
        return ERR_MEMORY;
    t->n_columns = 1;
    for (char *p = t->header; *p; p++)
        if (*p == ',') {
            *p = 0;
            t->n_columns++;
        }
    return t->n_columns <= MAX_COLUMNS ? OK : refuse(path, 1, "too many columns", err);
}

static size_t count_lines(const char *text, const char *end) {
    size_t n = 0;
    for (; (text = memchr(text, '\n', (size_t)(end - text))); text++)
        n++;
    return n;
}

static int parse_rows(const char *text, const char *end, struct number_table *t, const char *path, struct err *err) {
    size_t n_rows = count_lines(text, end), n;
    if (!size_mul(n_rows, t->n_columns, &n))
        return err_memory(err, "a table", n_rows);
    if (n_rows > 0 && !(t->values = mem_alloc(n, sizeof *t->values, "a table", err)))
        return ERR_MEMORY;
    for (; t->n_rows < n_rows; t->n_rows++) {
        const char *line_end = memchr(text, '\n', (size_t)(end - text));
        int rc = parse_row(text, line_end, t->values + t->n_rows * t->n_columns, t->n_columns, path, t->n_rows + 2, err);
        if (rc != OK)
            return rc;
        text = line_end + 1;
    }
    return OK;
}

int number_table_read(const char *path, struct number_table *out, struct err *err) {
    struct number_table t = {0};
    char *text = NULL, *first_end;
    size_t n = 0;
    *out = t;
    int rc = file_read_all(path, (size_t)1 << 31, &text, &n, err);
    if (rc != OK)
        return rc;
    first_end = memchr(text, '\n', n);
    rc = first_end ? parse_header(text, (size_t)(first_end - text), &t, path, err) : refuse(path, 1, "no line", err);
    if (rc == OK)
        rc = parse_rows(first_end + 1, text + n, &t, path, err);
    free(text);
    if (rc == OK)
        *out = t;
    else
        number_table_free(&t);
    return rc;
}

void number_table_free(struct number_table *t) {
    free(t->header);
    free(t->values);
    *t = (struct number_table){0};
}

int number_table_find(const struct number_table *t, const char *name, const char *path, size_t *column, struct err *err) {
    const char *at = t->header;
    for (*column = 0; *column < t->n_columns; ++*column, at += strlen(at) + 1)
        if (strcmp(at, name) == 0)
            return OK;
    return err_set(err, ERR_INPUT, path, "no column \"%s\" (is this a log of spkv train?)", name);
}
