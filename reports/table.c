#include "reports/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "reports/text.h"

void table_init(struct table *t, const struct column *columns, size_t n_columns) {
    *t = (struct table){.columns = columns, .n_columns = n_columns};
}

void table_free(struct table *t) {
    for (size_t i = 0; i < t->n_cells; i++)
        free(t->cells[i].text);
    free(t->cells);
    *t = (struct table){0};
}

static const struct column *column_of(const struct table *t, size_t cell) {
    return &t->columns[cell % t->n_columns];
}

static void put(struct table *t, enum column_kind kind, struct cell cell) {
    ASSERT(column_of(t, t->n_cells)->kind == kind);
    if (t->failed || mem_grow(&t->cells, &t->cap, t->n_cells + 1, sizeof cell, "a table", NULL) != OK) {
        t->failed = true;
        free(cell.text);
        return;
    }
    t->cells[t->n_cells++] = cell;
}

void table_put_count(struct table *t, uint64_t count) {
    put(t, COLUMN_COUNT, (struct cell){.count = count});
}

void table_put_real(struct table *t, double real) {
    put(t, COLUMN_REAL, (struct cell){.real = real});
}

void table_put_text(struct table *t, const char *text) {
    char *copy = mem_strdup(text, NULL);
    if (!copy)
        t->failed = true;
    put(t, COLUMN_TEXT, (struct cell){.text = copy});
}

size_t table_n_rows(const struct table *t) {
    return t->n_columns ? t->n_cells / t->n_columns : 0;
}

static void put_csv_text(struct str *out, const char *text) {
    if (!strpbrk(text, ",\"\r\n")) {
        str_puts(out, text);
        return;
    }
    str_putc(out, '"');
    for (const char *p = text; *p; p++) {
        if (*p == '"')
            str_putc(out, '"');
        str_putc(out, *p);
    }
    str_putc(out, '"');
}

static void put_csv_cell(struct str *out, const struct column *column, const struct cell *cell) {
    if (column->kind == COLUMN_COUNT)
        str_printf(out, "%llu", (unsigned long long)cell->count);
    else if (column->kind == COLUMN_REAL)
        text_put_double(out, cell->real);
    else
        put_csv_text(out, cell->text);
}

void table_put_csv(const struct table *t, bool header, struct str *out) {
    for (size_t i = 0; header && i < t->n_columns; i++) {
        put_csv_text(out, t->columns[i].name);
        str_putc(out, i + 1 == t->n_columns ? '\n' : ',');
    }
    for (size_t i = 0; i < t->n_cells; i++) {
        put_csv_cell(out, column_of(t, i), &t->cells[i]);
        str_putc(out, (i + 1) % t->n_columns == 0 ? '\n' : ',');
    }
    out->failed |= t->failed;
}

int table_write_csv(const struct table *t, const char *path, struct err *err) {
    struct str text = {0};
    table_put_csv(t, true, &text);
    int rc = text.failed ? err_memory(err, "a table", text.len) : file_write_all(path, str_text(&text), text.len, err);
    str_free(&text);
    return rc;
}

static void put_html_cell(struct str *out, const struct column *column, const struct cell *cell) {
    if (column->kind == COLUMN_TEXT) {
        str_puts(out, "<td class=\"text\">");
        text_put_clean_html(out, cell->text);
    } else if (column->kind == COLUMN_COUNT) {
        str_printf(out, "<td data-v=\"%llu\">", (unsigned long long)cell->count);
        text_put_count(out, cell->count);
    } else {
        str_puts(out, "<td data-v=\"");
        text_put_double(out, cell->real);
        str_puts(out, "\">");
        text_put_fixed(out, cell->real, column->decimals);
    }
    str_puts(out, "</td>");
}

/* People see columns that have a title and, of reals, at least one value. */
static bool is_shown(const struct table *t, size_t column) {
    if (!t->columns[column].title)
        return false;
    if (t->columns[column].kind != COLUMN_REAL)
        return true;
    for (size_t i = column; i < t->n_cells; i += t->n_columns)
        if (!isnan(t->cells[i].real))
            return true;
    return false;
}

static void put_html_head(const struct table *t, const char *caption, struct str *out) {
    str_puts(out, "<table class=\"data\">\n<caption>");
    text_put_clean_html(out, caption);
    str_puts(out, "</caption>\n<thead><tr>");
    for (size_t i = 0; i < t->n_columns; i++)
        if (is_shown(t, i)) {
            str_puts(out, t->columns[i].kind == COLUMN_TEXT ? "<th scope=\"col\" class=\"text\">" : "<th scope=\"col\">");
            text_put_clean_html(out, t->columns[i].title);
            str_puts(out, "</th>");
        }
    str_puts(out, "</tr></thead>\n");
}

void table_put_html(const struct table *t, const char *caption, struct str *out) {
    bool *shown = mem_alloc(t->n_columns, sizeof *shown, "a table", NULL);
    if (!shown) {
        out->failed = true;
        return;
    }
    for (size_t i = 0; i < t->n_columns; i++)
        shown[i] = is_shown(t, i);
    put_html_head(t, caption, out);
    str_puts(out, "<tbody>\n");
    for (size_t i = 0; i < t->n_cells; i++) {
        if (i % t->n_columns == 0)
            str_puts(out, "<tr>");
        if (shown[i % t->n_columns])
            put_html_cell(out, column_of(t, i), &t->cells[i]);
        if ((i + 1) % t->n_columns == 0)
            str_puts(out, "</tr>\n");
    }
    str_puts(out, "</tbody>\n</table>\n");
    out->failed |= t->failed;
    free(shown);
}
