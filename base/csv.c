#include "base/csv.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

enum { MAX_COLUMNS = 1000, MAX_BYTES = 64 << 20, MAX_HEADER_BYTES = 1 << 16 };

/* A table being cut up in place. */
struct cutter {
    struct csv csv;
    char *at;
    size_t line;
    size_t cells_cap, lines_cap;
};

static int refuse_line(const char *path, size_t line, struct err *err, const char *what) {
    char where[512];
    snprintf(where, sizeof where, "%.480s:%zu", path, line);
    return err_set(err, ERR_INPUT, where, "%s", what);
}

int csv_refuse(const struct csv *csv, size_t row, struct err *err, const char *format, ...) {
    char what[256];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return refuse_line(csv->path, csv->lines[row + 1], err, what);
}

/* Cuts one field out and goes behind it; *end_of_row tells what stood there. NULL: an open quote or text behind a closing
 * one. */
static const char *cut_field(struct cutter *c, bool *end_of_row) {
    char *from = c->at, *to = c->at, *start = c->at;
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
        c->line += *from == '\n';
        *to++ = *from;
    }
    if (quoted)
        return NULL;
    *end_of_row = *from != ',';
    c->line += *from == '\n';
    c->at = from + (*from != 0);
    if (*end_of_row && to > start && to[-1] == '\r')
        to--;
    *to = 0;
    return start;
}

static void skip_empty_lines(struct cutter *c) {
    for (size_t n; c->at[n = c->at[0] == '\r'] == '\n'; c->at += n + 1)
        c->line++;
}

/* The next row: row 0 is the header, which says how many fields the others have. */
static int cut_row(struct cutter *c, size_t row, struct err *err) {
    struct csv *t = &c->csv;
    size_t line = c->line, in_row = 0;
    int rc = mem_grow(&t->lines, &c->lines_cap, row + 1, sizeof *t->lines, "a table", err);
    if (rc != OK)
        return rc;
    t->lines[row] = line;
    for (bool end = false; !end; in_row++) {
        const char *cell = cut_field(c, &end);
        if (!cell)
            return refuse_line(t->path, line, err, "a quote that does not end its field");
        if (in_row == MAX_COLUMNS || (row > 0 && in_row == t->n_columns))
            return refuse_line(t->path, line, err, row ? "more fields than the header has" : "too many columns");
        size_t n = row * t->n_columns + in_row;
        if ((rc = mem_grow(&t->cells, &c->cells_cap, n + 1, sizeof *t->cells, "a table", err)) != OK)
            return rc;
        t->cells[n] = cell;
    }
    if (row == 0)
        t->n_columns = in_row;
    t->n_rows = row;
    return in_row < t->n_columns ? refuse_line(t->path, line, err, "fewer fields than the header has") : OK;
}

/* Takes `text`, zero-terminated, over. */
static int cut_table(char *text, const char *path, struct csv *out, struct err *err) {
    struct cutter c = {.csv = {.text = text, .path = path}, .at = text, .line = 1};
    int rc = OK;
    skip_empty_lines(&c);
    if (!*c.at)
        rc = refuse_line(path, 1, err, "no header line");
    for (size_t row = 0; rc == OK && *c.at; row++) {
        rc = cut_row(&c, row, err);
        skip_empty_lines(&c);
    }
    if (rc != OK)
        csv_free(&c.csv);
    *out = c.csv;
    return rc;
}

/* The same of n bytes that end in a zero byte. */
static int cut_text(char *text, size_t n, const char *path, struct csv *out, struct err *err) {
    if (strlen(text) == n)
        return cut_table(text, path, out, err);
    free(text);
    *out = (struct csv){0};
    return err_set(err, ERR_INPUT, path, "holds a zero byte: it is no table");
}

int csv_read(const char *path, struct csv *out, struct err *err) {
    char *text;
    size_t n;
    *out = (struct csv){0};
    int rc = file_read_all(path, MAX_BYTES, &text, &n, err);
    return rc == OK ? cut_text(text, n, path, out, err) : rc;
}

int csv_parse(const char *text, size_t n, const char *path, struct csv *out, struct err *err) {
    char *copy = mem_alloc(n + 1, 1, "a table", err);
    *out = (struct csv){0};
    if (!copy)
        return ERR_MEMORY;
    memcpy(copy, text, n);
    return cut_text(copy, n, path, out, err);
}

void csv_free(struct csv *c) {
    free(c->text);
    free(c->cells);
    free(c->lines);
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
    return csv_refuse(c, row, err, "%.60s is \"%.60s\", expected a number", c->cells[column], cell);
}

bool csv_has_columns(const char *path, const char *const *names, size_t n) {
    char *text = mem_alloc(MAX_HEADER_BYTES, 1, "a header line", NULL);
    FILE *stream = text ? fopen(path, "rb") : NULL;
    size_t size = stream ? fread(text, 1, MAX_HEADER_BYTES - 1, stream) : 0, found = 0;
    struct csv c = {0};
    if (stream)
        fclose(stream);
    if (size == 0) {
        free(text);
        return false;
    }
    text[strcspn(text, "\n")] = 0;
    if (cut_table(text, path, &c, NULL) == OK)
        for (size_t i = 0; i < n; i++)
            found += csv_column(&c, names[i]) != CSV_NO_COLUMN;
    csv_free(&c);
    return found == n;
}
