#include "datasets/corpus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "datasets/corpus_files.h"
#include "datasets/lines.h"
#include "datasets/rows.h"

struct corpus {
    bool split_blank;
    struct row_fields fields;
    struct file_list list;
    size_t current;              /* file that is read, or read next */
    struct lines *lines;         /* of the current file; NULL when it is not open */
    const struct row_kind *kind; /* of the current file; NULL before its first row */
    struct row_texts texts;      /* of the current row */
    size_t next_text;            /* of those */
    struct str block;            /* a document of several lines */
    uint64_t n_documents, bytes_before; /* of finished files */
};

/* Options that no file answers to are a slip of the pen. */
static int check_options(const struct corpus *c, const struct corpus_options *options, struct err *err) {
    bool any_text = false, any_jsonl = false;
    for (size_t i = 0; i < c->list.len; i++) {
        any_jsonl |= c->list.items[i].jsonl;
        any_text |= !c->list.items[i].jsonl;
    }
    if (options->field && !any_jsonl)
        return err_set(err, ERR_USAGE, "--field", "names a field of JSON Lines, and no corpus is .jsonl");
    if (options->split_blank && !any_text)
        return err_set(err, ERR_USAGE, "--split-blank", "splits text files, and every corpus is .jsonl");
    return OK;
}

int corpus_open(char *const *arguments, size_t n, const struct corpus_options *options, struct corpus **out,
                struct err *err) {
    struct corpus *c = mem_alloc(1, sizeof *c, "a corpus", err);
    int rc;
    *out = NULL;
    if (!c)
        return ERR_MEMORY;
    c->split_blank = options->split_blank;
    rc = n == 0 || n > UINT32_MAX ? err_set(err, ERR_USAGE, "", "no corpus given") : OK;
    if (rc == OK)
        rc = row_fields_parse(options->field, &c->fields, err);
    for (size_t i = 0; rc == OK && i < n; i++)
        rc = file_list_add(&c->list, arguments[i], (uint32_t)i, options->stdin_jsonl, err);
    if (rc == OK && c->list.len > UINT32_MAX)
        rc = err_set(err, ERR_INPUT, "", "more than 2^32 corpus files");
    if (rc == OK)
        rc = check_options(c, options, err);
    if (rc != OK) {
        corpus_close(c);
        return rc;
    }
    *out = c;
    return OK;
}

void corpus_close(struct corpus *c) {
    if (!c)
        return;
    lines_close(c->lines);
    row_texts_free(&c->texts);
    row_fields_free(&c->fields);
    str_free(&c->block);
    file_list_free(&c->list);
    free(c);
}

/* --- one file --- */

static const char *shown_name(const struct listed_file *f) {
    return strcmp(f->path, "-") == 0 ? "stdin" : f->path;
}

static int open_current(struct corpus *c, struct err *err) {
    struct listed_file *f = &c->list.items[c->current];
    struct stream *stream;
    int rc = stream_open(f->path, f->format, shown_name(f), &stream, err);
    if (rc != OK || (rc = lines_open(stream, shown_name(f), &c->lines, err)) != OK)
        return rc;
    c->kind = NULL;
    f->file.kind = f->jsonl ? NULL : c->split_blank ? "text between blank lines" : "text file";
    return OK;
}

/* The end of a file was reached: keeps its hash, or compares it with the one taken before. */
static int close_current(struct corpus *c, struct err *err) {
    struct listed_file *f = &c->list.items[c->current];
    char hash[33];
    if (f->file.n_documents == 0)
        return err_set(err, ERR_INPUT, shown_name(f), f->jsonl ? "the file holds no row" : "the file holds no text");
    stream_hash(lines_stream(c->lines), hash);
    if (f->file.hash[0] && strcmp(f->file.hash, hash) != 0)
        return err_set(err, ERR_INPUT, shown_name(f), "the file changed while it was in use");
    memcpy(f->file.hash, hash, sizeof hash);
    c->bytes_before += stream_stored_bytes(lines_stream(c->lines));
    lines_close(c->lines);
    c->lines = NULL;
    c->current++;
    return OK;
}

/* The next run of lines that are not blank; *n is 0 at the end of the file. */
static int next_block(struct corpus *c, const char **text, size_t *n, struct err *err) {
    const char *line;
    size_t len;
    int rc;
    str_clear(&c->block);
    while ((rc = lines_next(c->lines, &line, &len, err)) == OK && line) {
        if (!lines_is_blank(line, len))
            str_append(&c->block, line, len);
        else if (c->block.len > 0)
            break;
        if (c->block.len > LINES_MAX_BYTES)
            return err_set(err, ERR_INPUT, shown_name(&c->list.items[c->current]), "a document of more than %zu bytes ends "
                           "behind line %llu", LINES_MAX_BYTES, (unsigned long long)lines_number(c->lines));
    }
    if (rc == OK && c->block.failed)
        rc = err_memory(err, "a document", c->block.len);
    *text = str_text(&c->block);
    *n = c->block.len;
    return rc;
}

static int render_row(struct corpus *c, const char *line, size_t n, struct err *err) {
    struct listed_file *f = &c->list.items[c->current];
    char where[sizeof err->where];
    json_t *row;
    snprintf(where, sizeof where, "%s:%llu", shown_name(f), (unsigned long long)lines_number(c->lines));
    int rc = row_parse(line, n, where, &row, err);
    if (rc != OK)
        return rc;
    if (!c->kind && (rc = row_kind_find(row, &c->fields, where, &c->kind, err)) == OK)
        f->file.kind = row_kind_name(c->kind);
    if (rc == OK)
        rc = row_render(c->kind, row, &c->fields, where, &c->texts, err);
    json_decref(row);
    return rc;
}

/* Texts of the next row that is not blank; leaves c->texts empty at the end of the file. */
static int next_row(struct corpus *c, struct err *err) {
    const char *line;
    size_t n;
    int rc;
    row_texts_clear(&c->texts);
    c->next_text = 0;
    while ((rc = lines_next(c->lines, &line, &n, err)) == OK && line)
        if (!lines_is_blank(line, n))
            return render_row(c, line, n, err);
    return rc;
}

/* Fills text, n and n_prompt from the current file; *found is false at its end. */
static int next_in_file(struct corpus *c, struct document *out, bool *found, struct err *err) {
    int rc = OK;
    out->n_prompt = 0;
    if (!c->list.items[c->current].jsonl) {
        rc = c->split_blank ? next_block(c, &out->text, &out->n, err) : lines_rest(c->lines, &out->text, &out->n, err);
        *found = out->n > 0;
        return rc;
    }
    if (c->next_text == c->texts.len)
        rc = next_row(c, err);
    *found = c->next_text < c->texts.len;
    if (rc == OK && *found) {
        const struct row_text *t = &c->texts.items[c->next_text++];
        out->text = str_text(&c->texts.bytes) + t->begin;
        out->n = t->n;
        out->n_prompt = t->n_prompt;
    }
    return rc;
}

int corpus_next(struct corpus *c, struct document *out, bool *end, struct err *err) {
    *end = false;
    for (;;) {
        bool found;
        int rc = OK;
        if (!c->lines) {
            *end = c->current == c->list.len;
            if (*end || (rc = open_current(c, err)) != OK)
                return rc;
        }
        if ((rc = next_in_file(c, out, &found, err)) != OK)
            return rc;
        if (found) {
            out->index = c->n_documents++;
            out->file = (uint32_t)c->current;
            c->list.items[c->current].file.n_documents++;
            return OK;
        }
        if ((rc = close_current(c, err)) != OK)
            return rc;
    }
}

/* --- what is known about the files --- */

size_t corpus_n_files(const struct corpus *c) {
    return c->list.len;
}

const struct corpus_file *corpus_file(const struct corpus *c, size_t i) {
    ASSERT(i < c->list.len);
    return &c->list.items[i].file;
}

uint64_t corpus_n_skipped(const struct corpus *c) {
    return c->list.n_skipped;
}

int corpus_hash_file(struct corpus *c, size_t i, struct err *err) {
    ASSERT(i < c->list.len);
    struct listed_file *f = &c->list.items[i];
    if (f->file.hash[0] || strcmp(f->path, "-") == 0)
        return OK;
    return stream_hash_file(f->path, f->file.hash, err);
}

uint64_t corpus_bytes_done(const struct corpus *c) {
    return c->bytes_before + (c->lines ? stream_stored_bytes(lines_stream(c->lines)) : 0);
}

uint64_t corpus_bytes_total(const struct corpus *c) {
    uint64_t total = 0;
    for (size_t i = 0; i < c->list.len; i++) {
        if (strcmp(c->list.items[i].path, "-") == 0)
            return 0;
        total += c->list.items[i].file.n_bytes;
    }
    return total;
}
