/* The palindrome task: its rows, and what is scored of them under its tokenizer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/str.h"
#include "datasets/palindrome.h"
#include "datasets/rows.h"
#include "datasets/sequences.h"
#include "tests/scratch.h"

#define TOKENIZER "datasets/palindrome/tokenizer.json"

enum { N_ITEMS = 32, N_INSTRUCTION = 50, N_TOK = 2 * N_ITEMS + N_INSTRUCTION };

static char *generate(const struct palindrome_options *options) {
    char *text;
    size_t n;
    FILE *stream = open_memstream(&text, &n);
    struct err err = {0};
    assert_non_null(stream);
    assert_int_equal(palindrome_write(stream, options, &err), OK);
    assert_int_equal(fclose(stream), 0);
    return text;
}

/* The integers that a text begins with; returns their number. */
static int read_items(const char *text, int *items, int cap) {
    int n = 0, used;
    while (n < cap && sscanf(text, " %d%n", &items[n], &used) == 1) {
        text += used;
        n++;
    }
    return n;
}

static void test_answer_is_reversed(void **state) {
    (void)state;
    struct palindrome_options options = {.n_rows = 300, .seed = 7, .n_items = N_ITEMS, .n_instruction = N_INSTRUCTION};
    char *text = generate(&options), *line;
    int seen[100] = {0};
    size_t n_rows = 0;
    for (char *save = NULL, *rest = text; (line = strtok_r(rest, "\n", &save)); rest = NULL, n_rows++) {
        json_t *row;
        int items[N_ITEMS + 1], answer[N_ITEMS + 1];
        assert_int_equal(row_parse(line, strlen(line), "row", &row, NULL), OK);
        assert_int_equal(read_items(json_string_value(json_object_get(row, "prompt")), items, N_ITEMS + 1), N_ITEMS);
        assert_int_equal(read_items(json_string_value(json_object_get(row, "completion")), answer, N_ITEMS + 1), N_ITEMS);
        for (int i = 0; i < N_ITEMS; i++) {
            assert_in_range(items[i], 10, 99);
            assert_int_equal(answer[i], items[N_ITEMS - 1 - i]);
            seen[items[i]]++;
        }
        json_decref(row);
    }
    assert_int_equal(n_rows, options.n_rows);
    /* 9600 draws from 90 values: a mean of 106.7 and a standard deviation of 10.3 each, so 6 of them either side. */
    for (int i = 10; i < 100; i++)
        assert_in_range(seen[i], 45, 168);
    free(text);
}

/* The first bytes, written down once: the same on every machine. */
static void test_same_bytes(void **state) {
    (void)state;
    char *text = generate(&(struct palindrome_options){.n_rows = 1, .seed = 5, .n_items = 3, .n_instruction = 2});
    assert_string_equal(text, "{\"prompt\": \" 40 51 44 Here the\", \"completion\": \" 44 51 40\"}\n");
    free(text);
    char *few = generate(&(struct palindrome_options){.n_rows = 4, .n_items = 8, .n_instruction = 9, .plain_text = true});
    char *more = generate(&(struct palindrome_options){.n_rows = 5, .n_items = 8, .n_instruction = 9, .plain_text = true});
    assert_memory_equal(few, more, strlen(few)); /* a row does not depend on their number */
    assert_memory_equal(few, "{\"text\": ", 9);
    free(few);
    free(more);
}

/* Every row is 114 tokens, one an integer, of which the last 32 are scored. */
static void test_scored_tokens(void **state) {
    (void)state;
    struct scratch scratch;
    struct tokenizer *tokenizer;
    struct corpus *corpus;
    struct sequences *sequences;
    struct sequence q;
    struct err err = {0};
    int end = 0, n_rows = 0;
    char *text = generate(&(struct palindrome_options){.n_rows = 20, .n_items = N_ITEMS, .n_instruction = N_INSTRUCTION});
    scratch_open(&scratch);
    char *path = scratch_write_text(&scratch, "rows.jsonl", text);
    if (tokenizer_open(TOKENIZER, &tokenizer, &err) != OK ||
        corpus_open(&path, 1, &(struct corpus_options){0}, &corpus, &err) != OK ||
        sequences_create(corpus, tokenizer, &(struct sequence_options){.max_length = N_TOK}, &sequences, &err) != OK)
        fail_msg("%s: %s", err.where, err.message);
    struct source source = sequences_source(sequences);
    for (; source.next(source.self, &q, &end, &err) == OK && !end; n_rows++) {
        assert_int_equal(q.n_tok, N_TOK);
        for (int i = 0; i < N_TOK; i++)
            assert_int_equal(q.scored[i], i >= N_TOK - N_ITEMS);
        for (int i = 0; i < N_ITEMS; i++)
            assert_int_equal(q.tokens[i], q.tokens[N_TOK - 1 - i]);
    }
    assert_string_equal(err.message, "");
    assert_int_equal(n_rows, 20);
    sequences_free(sequences);
    corpus_close(corpus);
    tokenizer_free(tokenizer);
    scratch_close(&scratch);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answer_is_reversed),
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_scored_tokens),
    };
    return cmocka_run_group_tests_name("palindrome", tests, NULL, NULL);
}
