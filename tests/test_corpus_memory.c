/* Memory that runs out at the k-th allocation, for every k: an error each time, and nothing leaks. */
#include <stdio.h>

#include "datasets/corpus.h"
#include "datasets/recall.h"
#include "tests/failing_heap.h"
#include "tests/scratch.h"

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

/* Every allocation fails once, and each failure is an error. */
static void run_out(int (*work)(void *, struct err *), void *argument, long least) {
    long k = 1;
    heap_begin();
    while (heap_fail_at(k, work, argument) != OK)
        k++;
    print_message("%ld allocations\n", k - 1);
    assert_true(k - 1 >= least && heap.n < k);
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
