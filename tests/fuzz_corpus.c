/* Fuzz target: rows, compressed streams and corpora on standard input. The first byte chooses ('0' to '5'), the rest is
 * the content. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/str.h"
#include "datasets/corpus.h"
#include "datasets/lines.h"
#include "datasets/rows.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_result(int rc, const struct err *err) {
    ASSERT(rc == OK ? err->code == OK : err->code == rc && err->message[0]);
}

static void check_texts(const struct row_texts *texts) {
    for (size_t i = 0; i < texts->len; i++) {
        const struct row_text *t = &texts->items[i];
        ASSERT(t->n_prompt <= t->n && t->begin <= texts->bytes.len && t->n <= texts->bytes.len - t->begin);
        ASSERT(t->n == 0 || utf8_first_invalid(texts->bytes.data + t->begin, t->n) == t->n);
    }
}

/* Every line as a row, under the kind of the first one that has a kind. */
static void fuzz_rows(const char *text, size_t n) {
    struct row_fields fields;
    struct row_texts texts = {0};
    const struct row_kind *kind = NULL;
    struct err err = {0};
    int rc = row_fields_parse(n % 3 ? NULL : "prompt=a,completion=b", &fields, &err);
    check_result(rc, &err);
    for (const char *end = text + n, *line = text; line < end;) {
        const char *brk = memchr(line, '\n', (size_t)(end - line));
        size_t len = brk ? (size_t)(brk - line) : (size_t)(end - line);
        json_t *row = NULL;
        err = (struct err){0};
        rc = utf8_first_invalid(line, len) < len ? err_set(&err, ERR_INPUT, "", "not UTF-8")
                                                 : row_parse(line, len, "fuzz:1", &row, &err);
        if (rc == OK && !kind)
            rc = row_kind_find(row, &fields, "fuzz:1", &kind, &err);
        if (rc == OK)
            rc = row_render(kind, row, &fields, "fuzz:1", &texts, &err);
        check_result(rc, &err);
        if (rc == OK)
            check_texts(&texts);
        row_texts_clear(&texts);
        json_decref(row);
        line += len + 1;
    }
    row_texts_free(&texts);
    row_fields_free(&fields);
}

/* A nameless file that holds the bytes. */
static int memory_file(const void *data, size_t n) {
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    ASSERT(fd >= 0 && write(fd, data, n) == (ssize_t)n && lseek(fd, 0, SEEK_SET) == 0);
    return fd;
}

/* At most 1 MiB of text: a small file can unpack to gigabytes. */
static void fuzz_stream(const char *data, size_t n, enum stream_format format) {
    char path[64];
    struct stream *stream;
    struct lines *lines = NULL;
    struct err err = {0};
    const char *text = "";
    int fd = memory_file(data, n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int rc = stream_open(path, format, "fuzz", &stream, &err);
    if (rc == OK)
        rc = lines_open(stream, "fuzz", &lines, &err);
    for (size_t total = 0, len; rc == OK && text && total < 1 << 20; total += len)
        rc = lines_next(lines, &text, &len, &err);
    check_result(rc, &err);
    lines_close(lines);
    close(fd);
}

static void fuzz_stdin(const char *data, size_t n, const struct corpus_options *options) {
    char dash[] = "-", *arguments[] = {dash};
    struct corpus *corpus;
    struct document d;
    struct err err = {0};
    bool end = false;
    int fd = memory_file(data, n), saved = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    ASSERT(dup2(fd, STDIN_FILENO) == STDIN_FILENO);
    int rc = corpus_open(arguments, 1, options, &corpus, &err);
    while (rc == OK && (rc = corpus_next(corpus, &d, &end, &err)) == OK && !end)
        ASSERT(d.n_prompt <= d.n && d.file == 0 && (d.n == 0 || utf8_first_invalid(d.text, d.n) == d.n));
    check_result(rc, &err);
    corpus_close(corpus);
    if (saved >= 0)
        dup2(saved, STDIN_FILENO);
    close(saved);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n == 0)
        return 0;
    const char *content = (const char *)data + 1;
    switch (data[0] % 6) {
    case 0: fuzz_rows(content, n - 1); break;
    case 1: fuzz_stream(content, n - 1, STREAM_GZIP); break;
    case 2: fuzz_stream(content, n - 1, STREAM_ZSTD); break;
    case 3: fuzz_stdin(content, n - 1, &(struct corpus_options){0}); break;
    case 4: fuzz_stdin(content, n - 1, &(struct corpus_options){.split_blank = true}); break;
    default: fuzz_stdin(content, n - 1, &(struct corpus_options){.stdin_jsonl = true}); break;
    }
    return 0;
}
