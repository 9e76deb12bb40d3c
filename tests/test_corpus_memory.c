/* Memory that runs out at the k-th allocation, for every k: an error each time, and nothing leaks. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "datasets/corpus.h"
#include "datasets/recall.h"
#include "tests/scratch.h"

/* While armed, allocations are counted, number fail_at fails, and live blocks are counted. */
static struct {
    bool armed;
    long n, fail_at, live;
} heap;

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
enum { OWNS_HEAP = 1 };
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *block, size_t size);
extern void __libc_free(void *block);

static bool fails(void) {
    if (heap.armed && ++heap.n == heap.fail_at) {
        errno = ENOMEM;
        return true;
    }
    heap.live += heap.armed;
    return false;
}

void *malloc(size_t size) {
    return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    return fails() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *block, size_t size) {
    if (fails())
        return NULL;
    heap.live -= heap.armed && block;
    return __libc_realloc(block, size);
}

void free(void *block) {
    heap.live -= heap.armed && block;
    __libc_free(block);
}
#else
enum { OWNS_HEAP = 0 };
#endif

static int read_corpus(void *path, struct err *err) {
    char *arguments[] = {path};
    struct corpus_options options = {.field = "prompt=prompt,completion=completion"};
    struct corpus *corpus;
    struct document d;
    bool end = false;
    int rc = corpus_open(arguments, 1, &options, &corpus, err);
    if (rc != OK)
        return rc;
    rc = corpus_hash_file(corpus, 0, err);
    while (rc == OK && !end)
        rc = corpus_next(corpus, &d, &end, err);
    corpus_close(corpus);
    return rc;
}

static int write_recall(void *stream, struct err *err) {
    struct recall_options options = {.n_rows = 3, .n_items = 4, .n_queries = 1, .n_fillers = 2};
    return recall_write(stream, &options, err);
}

static void run_out(int (*work)(void *, struct err *), void *argument, int least) {
    int rc = ERR_MEMORY, k;
    if (!OWNS_HEAP) {
        print_message("SKIP: a sanitizer owns the heap\n");
        skip();
    }
    for (k = 1; rc != OK; k++) {
        struct err err = {0};
        heap.n = heap.live = 0;
        heap.fail_at = k;
        heap.armed = true;
        rc = work(argument, &err);
        heap.armed = false;
        if (heap.live != 0 || (rc != OK && (rc != ERR_MEMORY || err.code != rc || !err.message[0])))
            fail_msg("allocation %d: %ld blocks leak, code %d \"%s\"", k, heap.live, rc, err.message);
    }
    print_message("%d allocations\n", k - 2);
    assert_true(k - 2 >= least && heap.n < heap.fail_at); /* each of them failed once */
}

static const char ROWS[] = "{\"prompt\": \"a\", \"completion\": \"b\", \"x\": [1, {\"y\": 2}]}\n"
                           "{\"prompt\": \"c\", \"completion\": \"d\"}\n";

static void test_rows(void **state) {
    run_out(read_corpus, scratch_write_text(*state, "a.jsonl", ROWS), 30);
}

static void test_gzip_rows(void **state) {
    run_out(read_corpus, scratch_write_gzip(*state, "a.jsonl.gz", ROWS, sizeof ROWS - 1), 30);
}

static void test_zstd_rows(void **state) {
    run_out(read_corpus, scratch_write_zstd(*state, "a.jsonl.zst", ROWS, sizeof ROWS - 1), 30);
}

static void test_directory(void **state) {
    scratch_write_text(*state, "d/e/a.jsonl", ROWS);
    scratch_write_text(*state, "d/b.jsonl", ROWS);
    run_out(read_corpus, scratch_path(*state, "d"), 30);
}

static void test_recall(void **state) {
    (void)state;
    FILE *stream = fopen("/dev/null", "w");
    assert_non_null(stream);
    write_recall(stream, NULL); /* the stream has its buffer now */
    run_out(write_recall, stream, 5);
    fclose(stream);
}

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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_gzip_rows),
        cmocka_unit_test(test_zstd_rows),
        cmocka_unit_test(test_directory),
        cmocka_unit_test(test_recall),
    };
    return cmocka_run_group_tests_name("corpus memory", tests, open_scratch, close_scratch);
}
