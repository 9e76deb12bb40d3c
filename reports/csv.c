#include "reports/csv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

enum { MAX_COLUMNS = 1000, MAX_BYTES = 64 << 20, MAX_HEADER_BYTES = 1 << 16 };

static int refuse(const char *path, size_t row, const char *what, struct err *err) {
    char where[512];
    snprintf(where, sizeof where, "%.480s:row %zu", path, row + 1);
    return err_set(err, ERR_INPUT, where, "%s", what);
}

/* Cuts one field out of *at and moves it behind the field; *end_of_row tells what stood there. NULL: an open quote or text
 * behind a closing one. */
static const char *cut_field(char **at, bool *end_of_row) {
    char *from = *at, *to = *at, *start = *at;
    bool quoted = *from == '"';
    from += quoted;
    for (; *from && (quoted || (*from != ',' && *from != '\n')); from++) {
        if (quoted && *from == '"' && *++from != '"') {
            quoted = false;
            if (*from == '\r' && from[1] == '\n')
                from++;
            if (*from && *from != ',' && *from != '\n')
                return NULL;
            break;
        }
        *to++ = *from;
    }
    if (quoted)
        return NULL;
    *end_of_row = *from != ',';
    *at = from + (*from != 0);
    if (*end_of_row && to > start && to[-1] == '\r')
        to--;
    *to = 0;
    return start;
}

static int add_cell(struct csv *c, size_t *cap, size_t n, const char *cell, struct err *err) {
    int rc = mem_grow(&c->cells, cap, n + 1, sizeof *c->cells, "a table", err);
    if (rc == OK)
        c->cells[n] = cell;
    return rc;
}

static int cut_rows(struct csv *c, struct err *err) {
    size_t n = 0, cap = 0;
    char *at = c->text;
    for (size_t row = 0; *at; row++) {
        size_t in_row = 0;
        for (bool end = false; !end; in_row++) {
            const char *cell = cut_field(&at, &end);
            if (!cell)
                return refuse(c->path, row, "a quote that does not end its field", err);
            if (in_row == MAX_COLUMNS || (row > 0 && in_row == c->n_columns))
                return refuse(c->path, row, row ? "more fields than the header has" : "too many columns", err);
            int rc = add_cell(c, &cap, n++, cell, err);
            if (rc != OK)
                return rc;
        }
        if (row == 0)
            c->n_columns = in_row;
        else if (in_row < c->n_columns)
            return refuse(c->path, row, "fewer fields than the header has", err);
        c->n_rows = row;
    }
    return n ? OK : refuse(c->path, 0, "no header line", err);
}

int csv_read(const char *path, struct csv *out, struct err *err) {
    struct csv c = {.path = path};
    size_t n;
    *out = c;
    int rc = file_read_all(path, MAX_BYTES, &c.text, &n, err);
    if (rc != OK)
        return rc;
    rc = strlen(c.text) == n ? cut_rows(&c, err) : err_set(err, ERR_INPUT, path, "holds a zero byte: it is no table");
    if (rc == OK)
        *out = c;
    else
        csv_free(&c);
    return rc;
}

void csv_free(struct csv *c) {
    free(c->text);
    free(c->cells);
    *c = (struct csv){0};
}

int csv_column(const struct csv *c, const char *name) {
    for (size_t i = 0; i < c->n_columns; i++)
        if (strcmp(c->cells[i], name) == 0)
            return (int)i;
    return CSV_NO_COLUMN;
}

const char *csv_text(const struct csv *c, size_t row, int column) {
    return column == CSV_NO_COLUMN ? "" : c->cells[(row + 1) * c->n_columns + (size_t)column];
}

int csv_real(const struct csv *c, size_t row, int column, double *out, struct err *err) {
    const char *cell = csv_text(c, row, column);
    char *end;
    *out = NAN;
    if (!*cell)
        return OK;
    *out = strtod(cell, &end);
    if (*end == 0 && isfinite(*out))
        return OK;
    char what[160];
    snprintf(what, sizeof what, "column %.60s: \"%.60s\" is no number", c->cells[column], cell);
    return refuse(c->path, row + 1, what, err);
}

bool csv_has_columns(const char *path, const char *const *names, size_t n) {
    char *text = mem_alloc(MAX_HEADER_BYTES, 1, "a header line", NULL);
    FILE *stream = text ? fopen(path, "rb") : NULL;
    size_t size = stream ? fread(text, 1, MAX_HEADER_BYTES - 1, stream) : 0, found = 0;
    struct csv c = {.text = text, .path = path};
    if (size > 0) {
        text[strcspn(text, "\n")] = 0;
        if (cut_rows(&c, NULL) == OK)
            for (size_t i = 0; i < n; i++)
                found += csv_column(&c, names[i]) != CSV_NO_COLUMN;
    }
    if (stream)
        fclose(stream);
    free(text);
    free(c.cells);
    return size > 0 && found == n;
}
