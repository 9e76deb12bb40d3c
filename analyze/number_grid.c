#include "analyze/number_grid.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

enum { MAX_CELL = 63 };

int number_grid_refuse(const char *path, size_t line, struct err *err, const char *format, ...) {
    char message[512];
    struct str where = {0};
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    str_printf(&where, "%s:%zu", path, line);
    err_set(err, ERR_INPUT, str_text(&where), "%s", message);
    str_free(&where);
    return ERR_INPUT;
}

/* What is being read: text[at..n). */
struct cursor {
    const char *text;
    size_t at, n, line;
    char separator;
    const char *path;
};

static bool is_blank(char c) {
    return c == ' ' || c == '\r';
}

/* Cuts blanks off both ends of [*begin, *end). */
static void trim(const char **begin, const char **end) {
    while (*begin < *end && is_blank(**begin))
        ++*begin;
    while (*begin < *end && is_blank((*end)[-1]))
        --*end;
}

/* A cell, quoted for a message: printable, cut short. */
static void quote(const char *begin, const char *end, char out[24]) {
    size_t n = 0;
    for (; begin < end && n < 20; begin++)
        out[n++] = *begin >= 0x20 && *begin < 0x7f ? *begin : '?';
    out[n] = 0;
    if (begin < end)
        strcpy(out + n, "...");
}

static int parse_cell(const struct cursor *c, const char *begin, const char *end, size_t column, double *out,
                      struct err *err) {
    char text[MAX_CELL + 1], shown[24], *stop = text;
    trim(&begin, &end);
    size_t n = (size_t)(end - begin);
    if (n > 0 && n <= MAX_CELL) {
        memcpy(text, begin, n);
        text[n] = 0;
        *out = strtod(text, &stop);
        if (stop == text + n && strspn(text, "+-.0123456789eE") == n && isfinite(*out))
            return OK;
    }
    quote(begin, end, shown);
    return number_grid_refuse(c->path, c->line, err, "column %zu: \"%s\" is not a finite number", column + 1, shown);
}

/* The end of the line at the cursor, without its line break. */
static const char *line_end(const struct cursor *c) {
    const char *begin = c->text + c->at, *found = memchr(begin, '\n', c->n - c->at);
    return found ? found : c->text + c->n;
}

/* A line without anything but blanks and separators of its own. */
static bool is_empty(const char *begin, const char *end) {
    while (begin < end && (is_blank(*begin) || *begin == '\t'))
        begin++;
    return begin == end;
}

static void next_line(struct cursor *c, const char *end) {
    c->at = (size_t)(end - c->text) + (end < c->text + c->n);
    c->line++;
}

static void skip_empty(struct cursor *c) {
    while (c->at < c->n && is_empty(c->text + c->at, line_end(c)))
        next_line(c, line_end(c));
}

/* Appends the cells of one line to grid->values. */
static int parse_line(const struct cursor *c, size_t max_columns, struct number_grid *grid, size_t *cap, struct err *err) {
    const char *at = c->text + c->at, *end = line_end(c);
    size_t column = 0, used = grid->n_rows * grid->n_columns;
    for (bool more = true; more; column++) {
        const char *stop = memchr(at, c->separator, (size_t)(end - at));
        more = stop != NULL;
        if (column == max_columns)
            return number_grid_refuse(c->path, c->line, err, "more than %zu columns", max_columns);
        int rc = mem_grow(&grid->values, cap, used + column + 1, sizeof *grid->values, "a matrix", err);
        if (rc == OK)
            rc = parse_cell(c, at, more ? stop : end, column, &grid->values[used + column], err);
        if (rc != OK)
            return rc;
        at = more ? stop + 1 : end;
    }
    if (grid->n_rows > 0 && column != grid->n_columns)
        return number_grid_refuse(c->path, c->line, err, "%zu columns, the first row has %zu", column, grid->n_columns);
    grid->n_columns = column;
    return OK;
}

int number_grid_parse(const char *text, size_t n, char separator, size_t max_rows, size_t max_columns, const char *path,
                      struct number_grid *out, struct err *err) {
    struct cursor c = {.text = text, .n = n, .line = 1, .separator = separator, .path = path};
    struct number_grid grid = {0};
    size_t cap = 0;
    int rc = OK;
    *out = grid;
    skip_empty(&c);
    grid.first_line = c.line;
    while (rc == OK && c.at < n && !is_empty(text + c.at, line_end(&c))) {
        rc = grid.n_rows == max_rows ? number_grid_refuse(path, c.line, err, "more than %zu rows", max_rows)
                                     : parse_line(&c, max_columns, &grid, &cap, err);
        grid.n_rows += rc == OK;
        next_line(&c, line_end(&c));
    }
    skip_empty(&c);
    if (rc == OK && c.at < n)
        rc = number_grid_refuse(path, c.line, err, "numbers after an empty line");
    if (rc == OK && grid.n_rows == 0)
        rc = err_set(err, ERR_INPUT, path, "holds no numbers");
    if (rc == OK)
        *out = grid;
    else
        free(grid.values);
    return rc;
}
