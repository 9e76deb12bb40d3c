/* Corpora: what becomes a document, and what is refused. Expectations are written by hand or counted in the raw files. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/str.h"
#include "datasets/corpus.h"
#include "datasets/stream.h"
#include "tests/scratch.h"

static int open_scratch(void **state) {
    *state = test_malloc(sizeof(struct scratch));
    scratch_open(*state);
    return 0;
}

static int close_scratch(void **state) {
    scratch_close(*state);
    test_free(*state);
    return 0;
}

/* All documents of some arguments as "prompt|rest" items, each followed by a byte 01. */
static int read_all(char **arguments, size_t n, const struct corpus_options *options, struct str *out, struct err *err) {
    struct corpus *corpus;
    struct document d;
    bool end = false;
    int rc = corpus_open(arguments, n, options, &corpus, err);
    if (rc != OK)
        return rc;
    for (uint64_t i = 0; (rc = corpus_next(corpus, &d, &end, err)) == OK && !end; i++) {
        assert_int_equal(d.index, i);
        assert_true(d.n_prompt <= d.n && d.file < corpus_n_files(corpus));
        str_append(out, d.text, d.n_prompt);
        if (d.n_prompt)
            str_putc(out, '|');
        str_append(out, d.text + d.n_prompt, d.n - d.n_prompt);
        str_putc(out, '\1');
    }
    if (rc == OK && corpus_bytes_total(corpus))
        assert_int_equal(corpus_bytes_done(corpus), corpus_bytes_total(corpus));
    corpus_close(corpus);
    return rc;
}

static void expect_documents(char *path, const struct corpus_options *options, const char *wanted) {
    struct str got = {0};
    struct err err = {0};
    int rc = read_all(&path, 1, options, &got, &err);
    if (rc != OK)
        print_error("%s: %s\n", err.where, err.message);
    assert_int_equal(rc, OK);
    assert_string_equal(str_text(&got), wanted);
    str_free(&got);
}

static void expect_error(char *path, const struct corpus_options *options, int code, const char *where,
                         const char *message) {
    struct str got = {0};
    struct err err = {0};
    int rc = read_all(&path, 1, options, &got, &err);
    str_free(&got);
    if (rc != code || !strstr(err.where, where) || !strstr(err.message, message))
        fail_msg("expected %d \"%s\" \"%s\", got %d \"%s\" \"%s\"", code, where, message, rc, err.where, err.message);
}

static const struct corpus_options DEFAULTS = {0}, SPLIT = {.split_blank = true};

static void test_text_keeps_its_bytes(void **state) {
    const struct scratch *s = *state;
    expect_documents(scratch_write_text(s, "a.txt", "one\r\ntwo\r\n\r\nthree"), &DEFAULTS, "one\r\ntwo\r\n\r\nthree\1");
    expect_documents(scratch_write_text(s, "bom.txt", "\xEF\xBB\xBFx\xEF\xBB\xBFy\n"), &DEFAULTS, "x\xEF\xBB\xBFy\n\1");
    expect_documents(scratch_write_text(s, "short.txt", "x"), &DEFAULTS, "x\1");
}

static void test_blank_lines_split(void **state) {
    const struct scratch *s = *state;
    expect_documents(scratch_write_text(s, "a.txt", "\n\r\none\r\ntwo\r\n\r\n \t\n three\n\n\nfour"), &SPLIT,
                     "one\r\ntwo\r\n\1 three\n\1" "four\1");
    expect_documents(scratch_write_text(s, "bom.txt", "\xEF\xBB\xBF\nx\n\n"), &SPLIT, "x\n\1");
    expect_error(scratch_write_text(s, "b.txt", "\n \n\r\n"), &SPLIT, ERR_INPUT, "b.txt", "no text");
}

static void test_jsonl(void **state) {
    const struct scratch *s = *state;
    char *path = scratch_write_text(s, "a.jsonl", "\xEF\xBB\xBF{\"text\": \"a\\r\\nb\", \"id\": 18446744073709551615}\r\n"
                                    "\n  \n"
                                    "{\"text\": \"\"}\n{\"x\": 1, \"text\": \"\\u00e9\xC3\xA9\"}");
    expect_documents(path, &DEFAULTS, "a\r\nb\1\1\xC3\xA9\xC3\xA9\1");
    expect_error(scratch_write_text(s, "b.jsonl", "\n\n"), &DEFAULTS, ERR_INPUT, "b.jsonl", "no row");
}

static void test_empty_files(void **state) {
    const struct scratch *s = *state;
    expect_error(scratch_write_text(s, "a.txt", ""), &DEFAULTS, ERR_INPUT, "a.txt", "no text");
    expect_error(scratch_write_text(s, "bom.txt", "\xEF\xBB\xBF"), &DEFAULTS, ERR_INPUT, "bom.txt", "no text");
    expect_error(scratch_write_text(s, "a.jsonl", ""), &DEFAULTS, ERR_INPUT, "a.jsonl", "no row");
    expect_error(scratch_write_gzip(s, "a.txt.gz", "", 0), &DEFAULTS, ERR_INPUT, "a.txt.gz", "no text");
    expect_error(scratch_write_zstd(s, "a.jsonl.zst", "", 0), &DEFAULTS, ERR_INPUT, "a.jsonl.zst", "no row");
}

/* --- compression --- */

/* Two members or frames, the second longer than the read buffers and hard to compress. */
struct packed {
    char *text;
    size_t n_text;
    char *data[2]; /* gzip, zstd */
    size_t n_data[2];
};

static void pack_twice(struct packed *p, size_t n) {
    char *joined;
    size_t n_parts[2], half = n / 3;
    unsigned random = 1;
    p->n_text = n;
    assert_non_null(p->text = malloc(n));
    for (size_t i = 0; i < n; i++)
        p->text[i] = (char)(i % 61 == 60 ? '\n' : ' ' + (random = random * 1103515245u + 12345u, random >> 16) % 90);
    for (int zstd = 0; zstd < 2; zstd++) {
        void *(*pack)(const void *, size_t, size_t *) = zstd ? scratch_zstd : scratch_gzip;
        void *first = pack(p->text, half, &n_parts[0]), *second = pack(p->text + half, n - half, &n_parts[1]);
        assert_non_null(joined = malloc(n_parts[0] + n_parts[1]));
        memcpy(joined, first, n_parts[0]);
        memcpy(joined + n_parts[0], second, n_parts[1]);
        free(first);
        free(second);
        p->data[zstd] = joined;
        p->n_data[zstd] = n_parts[0] + n_parts[1];
    }
}

static void packed_free(struct packed *p) {
    free(p->text);
    free(p->data[0]);
    free(p->data[1]);
}

static void test_joined_members_and_frames(void **state) {
    const struct scratch *s = *state;
    struct packed p;
    pack_twice(&p, 1500000);
    for (int zstd = 0; zstd < 2; zstd++) {
        char *path = scratch_write(s, zstd ? "a.txt.zst" : "a.txt.gz", p.data[zstd], p.n_data[zstd]);
        struct str got = {0};
        assert_int_equal(read_all(&path, 1, &DEFAULTS, &got, NULL), OK);
        assert_int_equal(got.len, p.n_text + 1);
        assert_memory_equal(got.data, p.text, p.n_text);
        str_free(&got);
    }
    packed_free(&p);
}

/* Cut anywhere but between the two parts, the data must never pass for a shorter text. */
static void test_truncated_data(void **state) {
    const struct scratch *s = *state;
    struct packed p;
    pack_twice(&p, 300);
    for (int zstd = 0; zstd < 2; zstd++) {
        size_t n_passed = 0;
        for (size_t cut = 1; cut < p.n_data[zstd]; cut++) {
            char *path = scratch_write(s, zstd ? "a.txt.zst" : "a.txt.gz", p.data[zstd], cut);
            struct str got = {0};
            struct err err = {0};
            int rc = read_all(&path, 1, &DEFAULTS, &got, &err);
            n_passed += rc == OK;
            if (rc == OK)
                assert_int_equal(got.len, p.n_text / 3 + 1);
            else
                assert_true(rc == ERR_INPUT && strstr(err.message, "truncated"));
            str_free(&got);
        }
        assert_int_equal(n_passed, 1);
    }
    packed_free(&p);
}

static void test_damaged_data(void **state) {
    const struct scratch *s = *state;
    struct packed p;
    pack_twice(&p, 3000);
    p.data[0][p.n_data[0] - 5] ^= 1; /* in the checksum of the last member */
    expect_error(scratch_write(s, "a.txt.gz", p.data[0], p.n_data[0]), &DEFAULTS, ERR_INPUT, "a.txt.gz", "damaged gzip");
    p.data[1][1] ^= 1; /* in the magic number */
    expect_error(scratch_write(s, "a.txt.zst", p.data[1], p.n_data[1]), &DEFAULTS, ERR_INPUT, "a.txt.zst", "damaged zstd");
    expect_error(scratch_write_text(s, "b.txt.gz", "plain text"), &DEFAULTS, ERR_INPUT, "b.txt.gz", "damaged gzip");
    packed_free(&p);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

static long peak_kib(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

static void test_long_files_stream(void **state) {
    const struct scratch *s = *state;
    enum { N_ROWS = 1 << 20 };
    const char row[] = "{\"text\": \"0123456789012345678901234567890123456789012345678901234567890123456789\"}\n";
    struct str text = {0}, chunk = {0};
    struct document d;
    struct corpus *corpus;
    bool end = false;
    for (int i = 0; i < 1 << 10; i++)
        str_puts(&chunk, row);
    size_t n_frame;
    void *frame = scratch_zstd(chunk.data, chunk.len, &n_frame);
    for (int i = 0; i < N_ROWS >> 10; i++)
        str_append(&text, frame, n_frame);
    char *path = scratch_write(s, "a.jsonl.zst", text.data, text.len);
    free(frame);
    str_free(&chunk);
    str_free(&text);
    long before = peak_kib();
    assert_int_equal(corpus_open(&path, 1, &DEFAULTS, &corpus, NULL), OK);
    uint64_t n = 0;
    for (; corpus_next(corpus, &d, &end, NULL) == OK && !end; n++)
        assert_int_equal(d.n, 70);
    corpus_close(corpus);
    assert_int_equal(n, N_ROWS); /* 86 MB of rows */
    assert_true(SANITIZED || peak_kib() - before < 16 * 1024);
}

/* --- directories and names --- */

static void test_directory(void **state) {
    const struct scratch *s = *state;
    char dir[512];
    snprintf(dir, sizeof dir, "%s", scratch_path(s, "d"));
    scratch_write_text(s, "d/b.txt", "b");
    scratch_write_text(s, "d/a/z.txt", "az");
    scratch_write_text(s, "d/a.txt", "a");
    scratch_write_text(s, "d/a-b.jsonl", "{\"text\": \"a-b\"}");
    scratch_write_gzip(s, "d/B.txt.gz", "B", 1);
    scratch_write_text(s, "d/.hidden.txt", "no");
    scratch_write_text(s, "d/.git/x.txt", "no");
    scratch_write_text(s, "d/skip.csv", "no");
    scratch_write_text(s, "d/a/txt", "no");
    scratch_write_text(s, "d/a/.txt", "no");
    assert_int_equal(symlink("../d/b.txt", scratch_path(s, "d/link.txt")), 0);
    expect_documents(dir, &DEFAULTS, "B\1a-b\1" "a\1az\1" "b\1" "b\1"); /* '-' < '.' < '/' */
    struct corpus *corpus;
    char *arguments[] = {scratch_path(s, "d/b.txt"), dir};
    assert_int_equal(corpus_open(arguments, 2, &DEFAULTS, &corpus, NULL), OK);
    assert_int_equal(corpus_n_skipped(corpus), 2);
    assert_int_equal(corpus_n_files(corpus), 7);
    assert_int_equal(corpus_file(corpus, 0)->corpus, 0);
    assert_int_equal(corpus_file(corpus, 1)->corpus, 1);
    assert_string_equal(file_basename(corpus_file(corpus, 4)->name), "z.txt");
    corpus_close(corpus);
    assert_int_equal(symlink("../a", scratch_path(s, "d/a/back")), 0);
    expect_error(dir, &DEFAULTS, ERR_INPUT, "d/a/back", "leads back");
}

static void test_names_that_are_refused(void **state) {
    const struct scratch *s = *state;
    scratch_write_text(s, "e/readme.md", "x");
    expect_error(scratch_path(s, "e"), &DEFAULTS, ERR_INPUT, "/e", "no .txt or .jsonl file (1 others skipped)");
    expect_error(scratch_path(s, "e/readme.md"), &DEFAULTS, ERR_INPUT, "readme.md", "expected a regular file named .txt");
    expect_error(scratch_path(s, "absent.txt"), &DEFAULTS, ERR_IO, "absent.txt", "No such file");
    expect_error(scratch_path(s, ".gz"), &DEFAULTS, ERR_IO, ".gz", "");
    assert_int_equal(mkfifo(scratch_path(s, "pipe.txt"), 0600), 0);
    expect_error(scratch_path(s, "pipe.txt"), &DEFAULTS, ERR_INPUT, "pipe.txt", "regular file");
    char *text = scratch_write_text(s, "a.txt", "x"), *rows = scratch_write_text(s, "a.jsonl", "{\"text\": \"x\"}");
    expect_error(text, &(struct corpus_options){.field = "text"}, ERR_USAGE, "--field", "no corpus is .jsonl");
    expect_error(rows, &SPLIT, ERR_USAGE, "--split-blank", "every corpus is .jsonl");
}

/* --- UTF-8 --- */

static void test_invalid_utf8(void **state) {
    const struct scratch *s = *state;
    expect_error(scratch_write_text(s, "a.txt", "ab\ncd\xC3("), &DEFAULTS, ERR_INPUT, "a.txt", "byte 5 (0xc3)");
    expect_error(scratch_write_text(s, "b.txt", "\xEF\xBB\xBF" "ab\ncd\xED\xA0\x80"), &DEFAULTS, ERR_INPUT, "b.txt",
                 "byte 8 (0xed)");
    expect_error(scratch_write_text(s, "c.txt", "ab\n\ncd\xFF"), &SPLIT, ERR_INPUT, "c.txt", "byte 6 (0xff)");
    expect_error(scratch_write_text(s, "d.jsonl", "{\"text\": \"a\"}\n{\"text\": \"\xC0\x80\"}\n"), &DEFAULTS, ERR_INPUT,
                 "d.jsonl", "byte 24 (0xc0)");
    expect_error(scratch_write(s, "u16.txt", "\xFF\xFEh\0i\0", 6), &DEFAULTS, ERR_INPUT, "u16.txt", "UTF-16");
    expect_error(scratch_write_text(s, "end.txt", "abc\xE2\x82"), &DEFAULTS, ERR_INPUT, "end.txt", "byte 3 (0xe2)");
    struct packed p;
    pack_twice(&p, 1000000);
    p.text[777777] = (char)0x80;
    expect_error(scratch_write_gzip(s, "e.txt.gz", p.text, p.n_text), &DEFAULTS, ERR_INPUT, "e.txt.gz",
                 "byte 777777 (0x80)");
    expect_error(scratch_write_zstd(s, "e.txt.zst", p.text, p.n_text), &SPLIT, ERR_INPUT, "e.txt.zst", "byte 777777 (0x80)");
    packed_free(&p);
}

/* Characters that straddle the boundaries of the read buffer are valid. */
static void test_buffer_boundaries(void **state) {
    const struct scratch *s = *state;
    struct str text = {0}, rows = {0}, got = {0};
    for (int i = 0; i < 400000; i++)
        str_puts(&text, "\xE2\x82\xAC");
    char *path = scratch_write(s, "a.txt", text.data, text.len);
    assert_int_equal(read_all(&path, 1, &DEFAULTS, &got, NULL), OK);
    assert_int_equal(got.len, text.len + 1);
    assert_memory_equal(got.data, text.data, text.len);
    str_clear(&got);
    str_printf(&rows, "{\"text\": \"x\"}\n{\"text\": \"%s\"}\n{\"text\": \"y\"}\n", text.data);
    path = scratch_write(s, "a.jsonl", rows.data, rows.len);
    assert_int_equal(read_all(&path, 1, &DEFAULTS, &got, NULL), OK);
    assert_int_equal(got.len, text.len + 5);
    assert_memory_equal(got.data + 2, text.data, text.len);
    str_free(&text);
    str_free(&rows);
    str_free(&got);
}

/* --- hashes --- */

static void test_hashes(void **state) {
    const struct scratch *s = *state;
    struct corpus *corpus;
    struct document d;
    bool end;
    char hex[33], wanted[33], *path = scratch_write_text(s, "a.txt", "one text");
    assert_int_equal(stream_hash_file(scratch_write_text(s, "empty", ""), hex, NULL), OK);
    assert_string_equal(hex, "99aa06d3014798d86001c324468d497f"); /* XXH3-128 of nothing, from its specification */
    assert_int_equal(file_hash(path, wanted, NULL), OK);
    assert_int_equal(corpus_open(&path, 1, &DEFAULTS, &corpus, NULL), OK);
    assert_string_equal(corpus_file(corpus, 0)->hash, "");
    assert_int_equal(corpus_hash_file(corpus, 0, NULL), OK);
    assert_string_equal(corpus_file(corpus, 0)->hash, wanted);
    scratch_write_text(s, "a.txt", "one texT");
    struct err err = {0};
    assert_int_equal(corpus_next(corpus, &d, &end, &err), OK);
    assert_int_equal(corpus_next(corpus, &d, &end, &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "changed"));
    corpus_close(corpus);
}

static void test_hash_of_stored_bytes(void **state) {
    const struct scratch *s = *state;
    struct packed p;
    struct corpus *corpus;
    struct document d;
    bool end = false;
    char wanted[33];
    pack_twice(&p, 900000);
    char *path = scratch_write(s, "a.txt.gz", p.data[0], p.n_data[0]);
    assert_int_equal(file_hash(path, wanted, NULL), OK); /* one shot over the whole file */
    assert_int_equal(corpus_open(&path, 1, &DEFAULTS, &corpus, NULL), OK);
    while (!end)
        assert_int_equal(corpus_next(corpus, &d, &end, NULL), OK);
    assert_string_equal(corpus_file(corpus, 0)->hash, wanted);
    assert_string_equal(corpus_file(corpus, 0)->kind, "text file");
    corpus_close(corpus);
    packed_free(&p);
}

/* --- standard input --- */

static void feed_stdin(const char *path) {
    int fd = open(path, O_RDONLY);
    assert_true(fd > 0);
    assert_int_equal(dup2(fd, STDIN_FILENO), STDIN_FILENO);
    close(fd);
}

static void test_stdin(void **state) {
    const struct scratch *s = *state;
    int saved = dup(STDIN_FILENO);
    char dash[] = "-", *twice[] = {dash, dash};
    struct str got = {0};
    feed_stdin(scratch_write_text(s, "in", "{\"text\": \"x\"}\n{\"no\": \"y\"}\n"));
    expect_documents(dash, &DEFAULTS, "{\"text\": \"x\"}\n{\"no\": \"y\"}\n\1");
    feed_stdin(scratch_path(s, "in"));
    expect_error(dash, &(struct corpus_options){.stdin_jsonl = true}, ERR_INPUT, "stdin:2", "\"text\" is missing");
    assert_int_equal(read_all(twice, 2, &DEFAULTS, &got, NULL), ERR_USAGE);
    str_free(&got);
    if (saved >= 0)
        dup2(saved, STDIN_FILENO);
    close(saved);
}

/* --- the development data, counted apart from the reader --- */

static void test_shared_data(void **state) {
    (void)state;
    char data[] = "../shared/data", *path = data;
    struct corpus *corpus;
    struct document d;
    bool end = false;
    uint64_t n_text_bytes = 0, n_wanted = 0, n_rows = 0, n_rows_wanted = 0;
    if (!file_is_dir(data)) {
        print_message("SKIP: ../shared/data is not there\n");
        skip();
    }
    assert_int_equal(corpus_open(&path, 1, &DEFAULTS, &corpus, NULL), OK);
    for (struct err err = {0}; !end;) {
        if (corpus_next(corpus, &d, &end, &err) != OK)
            fail_msg("%s: %s", err.where, err.message);
        bool text = !end && strcmp(corpus_file(corpus, d.file)->kind, "text file") == 0;
        n_text_bytes += text ? d.n : 0;
        n_rows += !text && !end;
    }
    for (size_t i = 0; i < corpus_n_files(corpus); i++) {
        const struct corpus_file *f = corpus_file(corpus, i);
        struct file_map map;
        assert_int_equal(file_map_open(f->name, &map, NULL), OK);
        const char *text = map.data;
        if (strstr(f->name, ".txt"))
            n_wanted += map.size - (memcmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0);
        else
            for (size_t k = 0; k < map.size; k++)
                n_rows_wanted += text[k] == '\n';
        file_map_close(&map);
    }
    print_message("%zu files, %llu bytes of text, %llu rows\n", corpus_n_files(corpus), (unsigned long long)n_text_bytes,
                  (unsigned long long)n_rows);
    assert_int_equal(n_text_bytes, n_wanted);
    assert_int_equal(n_rows, n_rows_wanted);
    corpus_close(corpus);
}

#define WITH_SCRATCH(test) cmocka_unit_test_setup_teardown(test, open_scratch, close_scratch)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_SCRATCH(test_text_keeps_its_bytes),
        WITH_SCRATCH(test_blank_lines_split),
        WITH_SCRATCH(test_jsonl),
        WITH_SCRATCH(test_empty_files),
        WITH_SCRATCH(test_joined_members_and_frames),
        WITH_SCRATCH(test_truncated_data),
        WITH_SCRATCH(test_damaged_data),
        WITH_SCRATCH(test_long_files_stream),
        WITH_SCRATCH(test_directory),
        WITH_SCRATCH(test_names_that_are_refused),
        WITH_SCRATCH(test_invalid_utf8),
        WITH_SCRATCH(test_buffer_boundaries),
        WITH_SCRATCH(test_hashes),
        WITH_SCRATCH(test_hash_of_stored_bytes),
        WITH_SCRATCH(test_stdin),
        cmocka_unit_test(test_shared_data),
    };
    return cmocka_run_group_tests_name("corpus", tests, NULL, NULL);
}
