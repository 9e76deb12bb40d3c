/* Sequences: how documents are cut. The tokenizer is a stand-in of this file, so that every piece can be written by hand:
 * a token a byte (its value), but "ab" is one token, 256. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/str.h"
#include "datasets/sequences.h"
#include "tests/scratch.h"

struct tokenizer {
    int32_t prefix[3], suffix[3];
    size_t n_prefix, n_suffix;
};

enum { BOS = 301, BOS2, EOS = 401 };

static const struct tokenizer PLAIN = {0}, WITH_BOS = {.prefix = {BOS}, .n_prefix = 1},
                              WITH_ALL = {.prefix = {BOS, BOS2}, .suffix = {EOS}, .n_prefix = 2, .n_suffix = 1};

int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t n, struct token_list *out,
                     struct err *err) {
    (void)tokenizer;
    int rc = mem_grow(&out->data, &out->cap, out->len + n, sizeof *out->data, "tokens", err);
    for (size_t i = 0; rc == OK && i < n; i++) {
        bool pair = i + 1 < n && text[i] == 'a' && text[i + 1] == 'b';
        out->data[out->len++] = pair ? 256 : (unsigned char)text[i];
        i += pair;
    }
    return rc;
}

const int32_t *tokenizer_prefix(const struct tokenizer *tokenizer, size_t *n) {
    *n = tokenizer->n_prefix;
    return tokenizer->prefix;
}

const int32_t *tokenizer_suffix(const struct tokenizer *tokenizer, size_t *n) {
    *n = tokenizer->n_suffix;
    return tokenizer->suffix;
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

static void put_sequence(struct str *out, const struct sequence *q) {
    str_printf(out, "%llu %llu+%llu ", (unsigned long long)q->index, (unsigned long long)q->document,
               (unsigned long long)q->offset);
    for (size_t i = 0; i < q->n_tok; i++) {
        int32_t t = q->tokens[i];
        str_printf(out, "%s%c", q->scored && !q->scored[i] ? "-" : "",
                   t == BOS ? '<' : t == BOS2 ? '(' : t == EOS ? '>' : t == 256 ? '&' : (char)t);
    }
    str_putc(out, '\n');
}

/* Every sequence as "index document+offset tokens", a minus before each token that is not scored. */
static struct sequence_counts cut(char *path, const struct tokenizer *tokenizer, const struct sequence_options *options,
                                  struct str *out) {
    struct corpus *corpus;
    struct sequences *sequences;
    struct sequence q;
    struct err err = {0};
    int end = 0;
    struct corpus_options corpus_options = {0};
    if (corpus_open(&path, 1, &corpus_options, &corpus, &err) != OK ||
        sequences_create(corpus, tokenizer, options, &sequences, &err) != OK)
        fail_msg("%s: %s", err.where, err.message);
    struct source source = sequences_source(sequences);
    for (uint64_t last = 0;;) {
        if (source.next(source.self, &q, &end, &err) != OK)
            fail_msg("%s: %s", err.where, err.message);
        assert_true(sequences_bytes_done(sequences) >= last);
        last = sequences_bytes_done(sequences);
        if (end)
            break;
        put_sequence(out, &q);
    }
    if (options->limit == 0)
        assert_int_equal(sequences_bytes_done(sequences), sequences_bytes_total(sequences));
    struct sequence_counts counts = sequences_counts(sequences);
    sequences_free(sequences);
    corpus_close(corpus);
    return counts;
}

static struct sequence_counts expect(char *path, const struct tokenizer *tokenizer, struct sequence_options options,
                                     const char *wanted) {
    struct str got = {0};
    struct sequence_counts counts = cut(path, tokenizer, &options, &got);
    assert_string_equal(str_text(&got), wanted);
    str_free(&got);
    return counts;
}

static void test_pieces(void **state) {
    const struct scratch *s = *state;
    char *path = scratch_write_text(s, "a.txt", "0123456789");
    expect(path, &PLAIN, (struct sequence_options){.max_length = 4}, "0 0+0 0123\n1 0+4 4567\n2 0+8 89\n");
    expect(path, &WITH_BOS, (struct sequence_options){.max_length = 4}, "0 0+0 <012\n1 0+3 <345\n2 0+6 <678\n3 0+9 <9\n");
    expect(path, &WITH_ALL, (struct sequence_options){.max_length = 8}, "0 0+0 <(01234>\n1 0+5 <(56789>\n");
    struct sequence_counts c;
    c = expect(path, &WITH_ALL, (struct sequence_options){.max_length = 100}, "0 0+0 <(0123456789>\n");
    assert_int_equal(c.documents, 1);
    assert_int_equal(c.text_bytes, 10);
    assert_int_equal(c.text_tokens, 10);
    assert_int_equal(c.sequences, 1);
    assert_int_equal(c.fed_tokens, 13);
    assert_int_equal(c.dropped_tails, 0);
}

/* Of five documents: every second, all but those, and a limit after the choice. Documents keep their numbers. */
static void test_chosen_documents(void **state) {
    const struct scratch *s = *state;
    char *path = scratch_write_text(s, "five.jsonl", "{\"text\": \"aaaa\"}\n{\"text\": \"bb\"}\n{\"text\": \"ccccc\"}\n"
                                    "{\"text\": \"dd\"}\n{\"text\": \"ee\"}\n");
    struct sequence_options some = {.max_length = 3, .document_every = 2};
    struct sequence_counts c = expect(path, &PLAIN, some, "0 0+0 aaa\n1 2+0 ccc\n2 2+3 cc\n3 4+0 ee\n");
    assert_int_equal(c.documents, 3);
    some.document_rest = true;
    expect(path, &PLAIN, some, "0 1+0 bb\n1 3+0 dd\n");
    some.limit = 1;
    expect(path, &PLAIN, some, "0 1+0 bb\n");
}

static void test_tails(void **state) {
    const struct scratch *s = *state;
    char *path = scratch_write_text(s, "a.txt", "012345678");
    struct sequence_counts c = expect(path, &PLAIN, (struct sequence_options){.max_length = 4}, "0 0+0 0123\n1 0+4 4567\n");
    assert_int_equal(c.dropped_tails, 1);
    assert_int_equal(c.text_tokens, 9);
    assert_int_equal(c.fed_tokens, 8);
    /* One token with the beginning of text is two; nothing between the special ones is nothing. */
    path = scratch_write_text(s, "b.jsonl", "{\"text\": \"\"}\n{\"text\": \"x\"}\n{\"text\": \"yz\"}\n");
    c = expect(path, &PLAIN, (struct sequence_options){.max_length = 4}, "0 2+0 yz\n");
    assert_int_equal(c.dropped_tails, 2);
    c = expect(path, &WITH_ALL, (struct sequence_options){.max_length = 4}, "0 1+0 <(x>\n1 2+0 <(y>\n2 2+1 <(z>\n");
    assert_int_equal(c.dropped_tails, 1);
    assert_int_equal(c.documents, 3);
}

static void test_stride(void **state) {
    const struct scratch *s = *state;
    char *path = scratch_write_text(s, "a.txt", "0123456");
    expect(path, &PLAIN, (struct sequence_options){.max_length = 4, .stride = 2}, "0 0+0 0123\n1 0+2 -2-345\n2 0+4 -4-56\n");
    expect(path, &WITH_BOS, (struct sequence_options){.max_length = 4, .stride = 1},
           "0 0+0 <012\n1 0+1 <-1-23\n2 0+2 <-2-34\n3 0+3 <-3-45\n4 0+4 <-4-56\n");
    expect(path, &PLAIN, (struct sequence_options){.max_length = 4, .stride = 4}, "0 0+0 0123\n1 0+4 456\n");
    expect(path, &PLAIN, (struct sequence_options){.max_length = 7, .stride = 3}, "0 0+0 0123456\n");
}

static void test_limit(void **state) {
    const struct scratch *s = *state;
    char *path = scratch_write_text(s, "a.jsonl", "{\"text\": \"0123\"}\n{\"text\": \"4567\"}\nthis line is never read\n");
    expect(path, &PLAIN, (struct sequence_options){.max_length = 2, .limit = 3}, "0 0+0 01\n1 0+2 23\n2 1+0 45\n");
    expect(path, &PLAIN, (struct sequence_options){.max_length = 2, .limit = 4}, "0 0+0 01\n1 0+2 23\n2 1+0 45\n3 1+2 67\n");
}

static void test_prompts(void **state) {
    const struct scratch *s = *state;
    char *path = scratch_write_text(s, "a.jsonl", "{\"prompt\": \"01\", \"completion\": \"23\"}\n"
                                    "{\"prompt\": \"xa\", \"completion\": \"by\"}\n" /* "ab" has bytes of both */
                                    "{\"prompt\": \"0123\", \"completion\": \"45\"}\n"
                                    "{\"prompt\": \"01\", \"completion\": \"\"}\n"
                                    "{\"prompt\": \"89\"}\n");
    expect(path, &PLAIN, (struct sequence_options){.max_length = 4},
           "0 0+0 -0-123\n1 1+0 -x&y\n2 2+0 -0-1-2-3\n3 2+4 45\n4 3+0 -0-1\n5 4+0 89\n");
    expect(path, &WITH_ALL, (struct sequence_options){.max_length = 7, .stride = 2},
           "0 0+0 -<-(-0-123->\n1 1+0 -<-(-x&y->\n2 2+0 -<-(-0-1-2-3->\n3 2+2 -<-(-2-345->\n"
           "4 3+0 -<-(-0-1->\n5 4+0 <(89>\n");
}

/* Over many lengths: every text token is scored once, pieces lie where the rule puts them, and they make up the text. */
static void test_coverage(void **state) {
    const struct scratch *s = *state;
    char text[64];
    for (int n = 1; n < 40; n++)
        for (size_t length = 2; length < 9; length++)
            for (size_t stride = 0; stride <= length; stride++) {
                for (int i = 0; i < n; i++)
                    text[i] = (char)('0' + i);
                char *path = scratch_write(s, "a.txt", text, (size_t)n);
                struct corpus *corpus;
                struct sequences *sequences;
                struct sequence q;
                struct corpus_options corpus_options = {0};
                struct sequence_options options = {.max_length = length, .stride = stride};
                int end = 0, n_scored[64] = {0};
                size_t step = stride ? stride : length, next = 0;
                assert_int_equal(corpus_open(&path, 1, &corpus_options, &corpus, NULL), OK);
                assert_int_equal(sequences_create(corpus, &PLAIN, &options, &sequences, NULL), OK);
                struct source source = sequences_source(sequences);
                while (source.next(source.self, &q, &end, NULL) == OK && !end) {
                    assert_int_equal(q.offset, next);
                    assert_int_equal(q.n_tok, (size_t)n - next < length ? (size_t)n - next : length);
                    for (size_t i = 0; i < q.n_tok; i++) {
                        assert_int_equal(q.tokens[i], '0' + (int)(next + i));
                        n_scored[next + i] += !q.scored || q.scored[i];
                    }
                    next += step;
                }
                assert_int_equal(end, 1);
                size_t n_dropped = sequences_counts(sequences).dropped_tails;
                for (int i = 0; i < n - (int)n_dropped; i++)
                    assert_int_equal(n_scored[i], 1);
                assert_true(n_dropped <= 1 && (n_dropped == 0 || n_scored[n - 1] == 0));
                sequences_free(sequences);
                corpus_close(corpus);
            }
}

static void test_usage(void **state) {
    const struct scratch *s = *state;
    char *path = scratch_write_text(s, "a.txt", "0123");
    struct corpus_options corpus_options = {0};
    struct corpus *corpus;
    struct sequences *sequences;
    static const struct {
        const struct tokenizer *tokenizer;
        struct sequence_options options;
        int code;
    } cases[] = {
        {&PLAIN, {.max_length = 1}, ERR_USAGE},      {&PLAIN, {.max_length = 2}, OK},
        {&WITH_BOS, {.max_length = 1}, ERR_USAGE},   {&WITH_BOS, {.max_length = 2}, OK},
        {&WITH_ALL, {.max_length = 3}, ERR_USAGE},   {&WITH_ALL, {.max_length = 4}, OK},
        {&PLAIN, {.max_length = 4, .stride = 5}, ERR_USAGE}, {&PLAIN, {.max_length = 4, .stride = 4}, OK},
        {&WITH_BOS, {.max_length = 4, .stride = 4}, ERR_USAGE},
    };
    assert_int_equal(corpus_open(&path, 1, &corpus_options, &corpus, NULL), OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(sequences_create(corpus, cases[i].tokenizer, &cases[i].options, &sequences, NULL), cases[i].code);
        sequences_free(sequences);
    }
    corpus_close(corpus);
}

/* 100 MB in one document. */
static void test_long_document(void **state) {
    const struct scratch *s = *state;
    enum { N = 100 << 20 };
    char *text = malloc(N), *path;
    assert_non_null(text);
    memset(text, 'x', N);
    path = scratch_write(s, "a.txt", text, N);
    free(text);
    struct corpus_options corpus_options = {0};
    struct sequence_options options = {.max_length = 4097};
    struct corpus *corpus;
    struct sequences *sequences;
    struct sequence q;
    int end = 0;
    uint64_t n_tok = 0, n = 0;
    assert_int_equal(corpus_open(&path, 1, &corpus_options, &corpus, NULL), OK);
    assert_int_equal(sequences_create(corpus, &WITH_BOS, &options, &sequences, NULL), OK);
    struct source source = sequences_source(sequences);
    for (; source.next(source.self, &q, &end, NULL) == OK && !end; n++) {
        n_tok += q.n_tok;
        assert_in_range(sequences_bytes_done(sequences), (n + 1) * 4096 - 1, (n + 1) * 4096); /* rounded down */
    }
    assert_int_equal(n, N / 4096);
    assert_int_equal(n_tok, N + N / 4096);
    sequences_free(sequences);
    corpus_close(corpus);
}

static void test_files_and_corpora(void **state) {
    const struct scratch *s = *state;
    struct corpus_options corpus_options = {0};
    struct sequence_options options = {.max_length = 2};
    struct corpus *corpus;
    struct sequences *sequences;
    struct sequence q;
    int end = 0;
    char *arguments[] = {scratch_path(s, "d"), scratch_write_text(s, "x.txt", "xyz_")};
    scratch_write_text(s, "d/a.txt", "ABCD");
    scratch_write_text(s, "d/b.txt", "EF");
    static const struct { uint64_t document, offset; uint32_t source, corpus; } wanted[] = {
        {0, 0, 0, 0}, {0, 2, 0, 0}, {1, 0, 1, 0}, {2, 0, 2, 1}, {2, 2, 2, 1}};
    assert_int_equal(corpus_open(arguments, 2, &corpus_options, &corpus, NULL), OK);
    assert_int_equal(sequences_create(corpus, &PLAIN, &options, &sequences, NULL), OK);
    struct source source = sequences_source(sequences);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(source.next(source.self, &q, &end, NULL), OK);
        assert_int_equal(end, 0);
        assert_true(q.index == i && q.document == wanted[i].document && q.offset == wanted[i].offset &&
                    q.source == wanted[i].source && q.corpus == wanted[i].corpus);
    }
    assert_int_equal(source.next(source.self, &q, &end, NULL), OK);
    assert_int_equal(end, 1);
    sequences_free(sequences);
    corpus_close(corpus);
}

#define WITH_SCRATCH(test) cmocka_unit_test_setup_teardown(test, open_scratch, close_scratch)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_SCRATCH(test_pieces),   WITH_SCRATCH(test_tails),    WITH_SCRATCH(test_stride),
        WITH_SCRATCH(test_limit),    WITH_SCRATCH(test_prompts),  WITH_SCRATCH(test_coverage),
        WITH_SCRATCH(test_usage),    WITH_SCRATCH(test_long_document),
        WITH_SCRATCH(test_files_and_corpora), WITH_SCRATCH(test_chosen_documents),
    };
    return cmocka_run_group_tests_name("sequences", tests, NULL, NULL);
}
