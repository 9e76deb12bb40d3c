/* Training data: every token once a pass, borders, marks, shares, order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "tests/must.h"
#include "train/batches.h"
#include "train/pieces.h"

enum { CONTEXT = 16, VOCAB = 100000, MAX_TOK = 4096 };

/* A source of n pieces whose tokens are base, base + 1, ...; lengths 2 to CONTEXT in turn. Marks: the second half of a
 * piece counts. */
struct counter {
    int32_t base;
    size_t n, next, n_tok;
    bool marked;
    int32_t tokens[CONTEXT];
    uint8_t scored[CONTEXT];
};

static size_t len_of(size_t piece) {
    return 2 + piece * 7 % (CONTEXT - 1);
}

static int next(void *self, struct sequence *out, int *end, struct err *err) {
    struct counter *c = self;
    size_t len = len_of(c->next);
    (void)err;
    *end = c->next == c->n;
    for (size_t i = 0; i < len && !*end; i++) {
        c->tokens[i] = c->base + (int32_t)c->n_tok++;
        c->scored[i] = i >= len / 2;
    }
    *out = (struct sequence){.index = c->next, .tokens = c->tokens, .scored = c->marked ? c->scored : NULL, .n_tok = len};
    c->next += !*end;
    return OK;
}

static void add(struct batches *b, const char *name, double weight, struct counter counter) {
    struct source source = {.self = &counter, .next = next};
    struct err err = {0};
    must(batches_add(b, name, weight, &source, &err), &err);
}

static struct batches *create(uint64_t seed, bool answer_only) {
    struct batches_options options = {.vocab_size = VOCAB, .context_len = CONTEXT, .max_sequences = 4,
                                      .answer_only = answer_only, .seed = seed};
    struct batches *b;
    struct err err = {0};
    must(batches_create(&options, &b, &err), &err);
    return b;
}

static void test_permutation(void **state) {
    static const uint64_t sizes[] = {1, 2, 3, 4, 5, 16, 17, 1000, 4097};
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (uint64_t key = 0; key < 3; key++) {
            uint64_t n = sizes[s], n_same = 0;
            uint8_t *seen = mem_alloc(n, 1, "marks", NULL);
            for (uint64_t i = 0; i < n; i++) {
                uint64_t at = rng_permute(key, 7, n, i);
                assert_true(at < n);
                assert_int_equal(seen[at]++, 0);
                n_same += at == rng_permute(key, 8, n, i);
            }
            /* Two random orders of n items agree in one place on average (Poisson). */
            assert_true(n < 100 || n_same < 12);
            free(seen);
        }
}

static void test_every_token_once_a_pass(void **state) {
    enum { N = 100 };
    (void)state;
    struct batches *b = create(1, false);
    add(b, "numbers", 1, (struct counter){.n = N});
    uint64_t n_tok = batches_n_tok(b), n_seq = batches_n_sequences(b, 0), n_rows = 0;
    bool reordered = false;
    uint8_t seen[3][MAX_TOK] = {{0}};
    uint64_t previous[3 * N] = {0};
    assert_true(n_tok < MAX_TOK && n_seq < N);
    for (uint64_t i = 0; i < 3 * n_seq; i++) {
        struct micro_batch batch;
        batches_get(b, i, 1, &batch);
        assert_true(batch.row_splits[batch.n_seq] <= CONTEXT);
        n_rows += (uint64_t)batch.row_splits[batch.n_seq];
        for (int r = 0; r < batch.row_splits[batch.n_seq]; r++)
            assert_int_equal(seen[i / n_seq][batch.ids[r]]++, 0);
        previous[i] = (uint64_t)batch.ids[0];
        reordered |= i >= n_seq && previous[i] != previous[i - n_seq];
    }
    assert_int_equal(n_rows, 3 * n_tok);
    assert_true(reordered);
    batches_free(b);
}

static void test_borders(void **state) {
    (void)state;
    struct batches *b = create(2, false);
    struct micro_batch batch;
    uint64_t ids[64], n_ids = 0;
    add(b, "numbers", 1, (struct counter){.n = 50});
    for (uint64_t i = 0; i < 4; i++) {
        batches_get(b, 4 * i, 4, &batch);
        assert_int_equal(batch.row_splits[0], 0);
        for (int s = 0; s < batch.n_seq; s++) {
            int first = batch.row_splits[s], end = batch.row_splits[s + 1];
            for (int r = first; r + 1 < end; r++) {
                assert_int_equal(batch.ids[r + 1], batch.ids[r] + 1);
                assert_int_equal(batch.target[r], batch.ids[r + 1]);
            }
            assert_int_equal(batch.target[end - 1], -1);
            for (uint64_t k = 0; k < n_ids; k++)
                assert_true(ids[k] != batch.sequence_id[s]);
            assert_true(n_ids < 64);
            ids[n_ids++] = batch.sequence_id[s];
        }
    }
    batches_free(b);
}

/* Places of a batch depend on nothing but their number: any cut into micro-batches gives the same rows. */
static void test_any_cut(void **state) {
    (void)state;
    struct batches *a = create(3, false), *b = create(3, false);
    struct micro_batch whole, part;
    add(a, "numbers", 1, (struct counter){.n = 60});
    add(b, "numbers", 1, (struct counter){.n = 60});
    batches_get(a, 9, 4, &whole);
    int row = 0;
    for (uint64_t i = 9; i < 13; i++) {
        batches_get(b, i, 1, &part);
        int n = part.row_splits[part.n_seq];
        assert_memory_equal(part.ids, whole.ids + row, (size_t)n * sizeof *part.ids);
        assert_memory_equal(part.target, whole.target + row, (size_t)n * sizeof *part.target);
        row += n;
    }
    assert_int_equal(row, whole.row_splits[whole.n_seq]);
    assert_int_equal(batches_measure(b, 9, 4).n_rows, row);
    batches_free(a);
    batches_free(b);
}

static void test_marks(void **state) {
    (void)state;
    for (int answer_only = 0; answer_only < 2; answer_only++) {
        struct batches *b = create(4, answer_only);
        uint64_t n_counted = 0, expected = 0, n_seq;
        add(b, "plain", 1, (struct counter){.n = 40, .marked = true});
        n_seq = batches_n_sequences(b, 0);
        for (uint64_t i = 0; i < n_seq; i++) {
            struct micro_batch batch;
            batches_get(b, i, 1, &batch);
            for (int s = 0; s < batch.n_seq; s++) {
                int first = batch.row_splits[s], len = batch.row_splits[s + 1] - first;
                for (int t = 0; t + 1 < len; t++)
                    assert_int_equal(batch.target[first + t] >= 0, !answer_only || t + 1 >= len / 2);
            }
            n_counted += batches_measure(b, i, 1).n_predicted;
        }
        for (size_t p = 0; p < 40; p++)
            expected += answer_only ? len_of(p) - (len_of(p) / 2 > 0 ? len_of(p) / 2 : 1) : len_of(p) - 1;
        assert_int_equal(n_counted, expected);
        batches_free(b);
    }
}

static void test_shares(void **state) {
    static const double weights[] = {1, 6, 3};
    uint64_t n_tok[3] = {0}, all = 0;
    (void)state;
    struct batches *b = create(5, false);
    for (int c = 0; c < 3; c++)
        add(b, "numbers", weights[c], (struct counter){.n = 30 + 40 * (size_t)c, .base = 10000 * c});
    for (uint64_t i = 0; i < 4096; i++) {
        struct batches_place place = batches_place(b, i);
        uint64_t n = batches_measure(b, i, 1).n_rows;
        n_tok[place.corpus] += n;
        all += n;
        if (i == 63) /* mixed from the start on: nobody is more than two sequences off */
            for (int c = 0; c < 3; c++)
                assert_true((double)n_tok[c] > weights[c] / 10 * (double)all - 2 * CONTEXT);
    }
    /* Within 1/1024 of the sequences, whose lengths differ by a factor of 2 at most, and the last, unfinished pass. */
    for (int c = 0; c < 3; c++)
        assert_float_equal((double)n_tok[c] / (double)all, weights[c] / 10, 0.004);
    batches_free(b);
}

static void hash_of(uint64_t seed, size_t n, double weight, bool marked, char hex[33]) {
    struct batches *b = create(seed, false);
    add(b, "numbers", weight, (struct counter){.n = n, .marked = marked});
    batches_hash(b, hex);
    batches_free(b);
}

static void test_hash(void **state) {
    char a[33], b[33];
    (void)state;
    hash_of(1, 50, 1, false, a);
    hash_of(1, 50, 1, false, b);
    assert_string_equal(a, b);
    assert_int_equal(strlen(a), 32);
    hash_of(2, 50, 1, false, b);
    assert_string_not_equal(a, b);
    hash_of(1, 51, 1, false, b);
    assert_string_not_equal(a, b);
    hash_of(1, 50, 2, false, b);
    assert_string_not_equal(a, b);
    hash_of(1, 50, 1, true, b);
    assert_string_not_equal(a, b);
}

static void test_refusals(void **state) {
    (void)state;
    struct counter few = {.n = 2}, large = {.n = 20, .base = VOCAB - 5};
    struct {
        struct counter *counter;
        const char *text;
    } cases[] = {{&few, "less than one sequence"}, {&large, "vocabulary"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct batches *b = create(1, false);
        struct source source = {.self = cases[i].counter, .next = next};
        struct err err = {0};
        assert_int_equal(batches_add(b, "book.txt", 1, &source, &err), ERR_INPUT);
        assert_string_equal(err.where, "book.txt");
        assert_non_null(strstr(err.message, cases[i].text));
        batches_free(b);
    }
}

/* The pieces as a source again: the same sequences, twice. */
static void test_reader(void **state) {
    struct counter first = {.n = 30, .marked = true};
    struct source source = {.self = &first, .next = next};
    struct pieces_reader reader;
    struct pieces *pieces;
    struct err err = {0};
    (void)state;
    must(pieces_read(&source, "numbers", 60000, 25, &pieces, &err), &err); /* 2 bytes a token */
    must(pieces_reader_open(pieces, &reader, &err), &err);
    for (int turn = 0; turn < 2; turn++) {
        struct counter again = {.n = 25, .marked = true};
        struct source got = pieces_reader_source(&reader), want = {.self = &again, .next = next};
        struct sequence a, b;
        int end_a = 0, end_b = 0;
        for (size_t n = 0; !end_b; n++) {
            must(got.next(got.self, &a, &end_a, &err), &err);
            must(want.next(want.self, &b, &end_b, &err), &err);
            assert_int_equal(end_a, end_b);
            assert_true(end_b == 0 || n == 25);
            if (end_b)
                break;
            assert_int_equal(a.n_tok, b.n_tok);
            assert_memory_equal(a.tokens, b.tokens, b.n_tok * sizeof *b.tokens);
            assert_memory_equal(a.scored, b.scored, b.n_tok);
        }
    }
    pieces_reader_close(&reader);
    pieces_free(pieces);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_permutation), cmocka_unit_test(test_every_token_once_a_pass), cmocka_unit_test(test_borders),
        cmocka_unit_test(test_any_cut),     cmocka_unit_test(test_marks),                   cmocka_unit_test(test_shares),
        cmocka_unit_test(test_hash),        cmocka_unit_test(test_refusals),                cmocka_unit_test(test_reader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
