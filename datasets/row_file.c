#include "datasets/row_file.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "datasets/corpus_files.h"
#include "datasets/lines.h"
#include "datasets/rows.h"

static int add_row(struct row_file *f, const char *text, size_t n, uint64_t line, struct err *err) {
    char where[4096];
    json_t *row;
    int rc = mem_grow(&f->rows, &f->rows_cap, f->n + 1, sizeof(json_t *), "rows", err);
    if (rc == OK)
        rc = mem_grow(&f->line, &f->line_cap, f->n + 1, sizeof *f->line, "rows", err);
    if (rc != OK)
        return rc;
    f->line[f->n] = line;
    row_file_where(f, f->n, where, sizeof where);
    if ((rc = row_parse(text, n, where, &row, err)) == OK)
        f->rows[f->n++] = row;
    return rc;
}

/* The one file that the path stands for, which tells how it is packed. */
static int find_file(const char *path, struct file_list *list, struct err *err) {
    int rc = file_list_add(list, path, 0, true, err);
    if (rc == OK && (list->len != 1 || !list->items[0].jsonl))
        rc = err_set(err, ERR_INPUT, path, "a task is one .jsonl file (also .jsonl.gz or .jsonl.zst)");
    return rc;
}

int row_file_read(const char *path, uint64_t limit, struct row_file *out, struct err *err) {
    struct file_list list = {0};
    struct stream *stream;
    struct lines *lines = NULL;
    const char *text = "";
    size_t n;
    *out = (struct row_file){.path = path};
    int rc = find_file(path, &list, err);
    if (rc == OK && (rc = stream_open(path, list.items[0].format, path, &stream, err)) == OK)
        rc = lines_open(stream, path, &lines, err);
    while (rc == OK && text && (limit == 0 || out->n < limit)) {
        rc = lines_next(lines, &text, &n, err);
        if (rc == OK && text && !lines_is_blank(text, n))
            rc = add_row(out, text, n, lines_number(lines), err);
    }
    if (rc == OK && out->n == 0)
        rc = err_set(err, ERR_INPUT, path, "the file holds no row");
    lines_close(lines);
    file_list_free(&list);
    return rc;
}

void row_file_free(struct row_file *f) {
    for (size_t i = 0; i < f->n; i++)
        json_decref(f->rows[i]);
    free(f->rows);
    free(f->line);
    *f = (struct row_file){0};
}

void row_file_where(const struct row_file *f, size_t i, char *where, size_t n) {
    snprintf(where, n, "%s:%llu", f->path, (unsigned long long)f->line[i]);
}
