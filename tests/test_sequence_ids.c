/* Sequences of real text through the real tokenizer, against the `tokenizers` library: what scripts/reference/sequences.py
 * prints for the same arguments. Needs the development data. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "datasets/sequences.h"

#define TOKENIZER "../shared/models/stories260k/tokenizer.json"

struct digest {
    uint64_t n_sequences, n_tokens, n_scored, hash;
};

/* 64-bit FNV-1a over 8 little-endian bytes. */
static uint64_t fnv(uint64_t hash, uint64_t value) {
    for (int i = 0; i < 64; i += 8)
        hash = (hash ^ (value >> i & 0xFF)) * 0x100000001B3u;
    return hash;
}

static void add(struct digest *d, const struct sequence *q) {
    d->n_sequences++;
    d->n_tokens += q->n_tok;
    d->hash = fnv(fnv(fnv(d->hash, q->document), q->offset), q->n_tok);
    for (size_t i = 0; i < q->n_tok; i++) {
        bool scored = !q->scored || q->scored[i];
        d->n_scored += scored;
        d->hash = fnv(d->hash, 2 * (uint64_t)q->tokens[i] + scored);
    }
}

static void expect_digest(const char *path, struct sequence_options options, struct digest wanted) {
    struct tokenizer *tokenizer;
    struct corpus *corpus;
    struct sequences *sequences;
    struct sequence q;
    struct err err = {0};
    struct digest got = {.hash = 0xCBF29CE484222325u};
    struct corpus_options corpus_options = {0};
    char argument[256], *arguments[] = {argument};
    int end = 0;
    if (!file_exists(TOKENIZER) || !file_exists(path)) {
        print_message("SKIP: %s or %s is not there\n", TOKENIZER, path);
        skip();
    }
    snprintf(argument, sizeof argument, "%s", path);
    if (tokenizer_open(TOKENIZER, &tokenizer, &err) != OK ||
        corpus_open(arguments, 1, &corpus_options, &corpus, &err) != OK ||
        sequences_create(corpus, tokenizer, &options, &sequences, &err) != OK)
        fail_msg("%s: %s", err.where, err.message);
    struct source source = sequences_source(sequences);
    while (source.next(source.self, &q, &end, &err) == OK && !end)
        add(&got, &q);
    assert_string_equal(err.message, "");
    assert_int_equal(got.n_sequences, wanted.n_sequences);
    assert_int_equal(got.n_tokens, wanted.n_tokens);
    assert_int_equal(got.n_scored, wanted.n_scored);
    assert_int_equal(got.hash, wanted.hash);
    sequences_free(sequences);
    corpus_close(corpus);
    tokenizer_free(tokenizer);
}

static void test_text(void **state) {
    (void)state;
    expect_digest("../shared/data/wikitext-2/valid.txt", (struct sequence_options){.max_length = 512},
                  (struct digest){1335, 683141, 683141, 0x3293277d306c0a26});
}

static void test_questions(void **state) {
    (void)state;
    expect_digest("../shared/data/tasks", (struct sequence_options){.max_length = 300, .stride = 100},
                  (struct digest){2620, 468471, 122972, 0xc09939af3f8f0077});
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_questions),
    };
    return cmocka_run_group_tests_name("sequence ids", tests, NULL, NULL);
}
