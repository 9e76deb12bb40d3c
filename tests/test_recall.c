/* Recall texts: the completion must follow from the prompt, and from nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/str.h"
#include "datasets/recall.h"
#include "datasets/rows.h"

static void generate(const struct recall_options *options, char **text, size_t *n) {
    FILE *stream = open_memstream(text, n);
    struct err err = {0};
    assert_non_null(stream);
    assert_int_equal(recall_write(stream, options, &err), OK);
    assert_int_equal(fclose(stream), 0);
}

static size_t count(const char *text, const char *what) {
    size_t n = 0;
    for (const char *hit = text; (hit = strstr(hit, what)); hit += strlen(what))
        n++;
    return n;
}

/* Calls check(prompt, completion) for every row. */
static void each_row(const struct recall_options *options, void (*check)(const char *, const char *)) {
    char *text, *line;
    size_t n, n_rows = 0;
    generate(options, &text, &n);
    for (char *save = NULL, *rest = text; (line = strtok_r(rest, "\n", &save)); rest = NULL, n_rows++) {
        json_t *row;
        assert_int_equal(row_parse(line, strlen(line), "row", &row, NULL), OK);
        assert_int_equal(json_object_size(row), 2);
        check(json_string_value(json_object_get(row, "prompt")), json_string_value(json_object_get(row, "completion")));
        json_decref(row);
    }
    assert_int_equal(n_rows, options->n_rows);
    free(text);
}

static void check_facts(const char *prompt, const char *completion) {
    char name[32], fact[80];
    unsigned code, seen;
    assert_int_equal(sscanf(completion, " %u.", &code), 1);
    assert_in_range(code, 10, 99);
    assert_int_equal(sscanf(strstr(prompt, "Remember the code of "), "Remember the code of %31[A-Za-z]. It is", name), 1);
    snprintf(fact, sizeof fact, "The code of %s is ", name);
    assert_int_equal(count(prompt, fact), 1); /* one answer only */
    assert_int_equal(sscanf(strstr(prompt, fact) + strlen(fact), "%u.", &seen), 1);
    assert_int_equal(seen, code);
    assert_int_equal(count(prompt, "The code of "), 7);
}

static void check_names(const char *prompt, const char *completion) {
    char name[32], surname[32], whole[80];
    assert_int_equal(sscanf(completion, " %31[A-Za-z] came back home.", surname), 1);
    assert_int_equal(sscanf(strstr(prompt, "Then "), "Then %31[A-Za-z]", name), 1);
    snprintf(whole, sizeof whole, "%s %s is at the ", name, surname);
    assert_int_equal(count(prompt, whole), 1);
    snprintf(whole, sizeof whole, "%s ", name);
    assert_int_equal(count(prompt, whole), 1);
}

static void check_copy(const char *prompt, const char *completion) {
    static const char start[] = "Here is a list:";
    assert_memory_equal(prompt, start, sizeof start - 1);
    assert_memory_equal(prompt + sizeof start - 1, completion, strlen(completion));
    assert_int_equal(count(completion, ","), 6);
    assert_int_equal(count(prompt, " to the "), 5);
}

static void check_pairs(const char *prompt, const char *completion) {
    char word[32], pair[80];
    unsigned number;
    const char *asked = strrchr(prompt, ' ') + 1, *again = strstr(prompt, "Again:");
    assert_int_equal(sscanf(completion, " %u.", &number), 1);
    assert_in_range(number, 10, 99);
    snprintf(word, sizeof word, " %s ", asked);
    snprintf(pair, sizeof pair, " %s %u", asked, number);
    assert_int_equal(count(prompt, word), 1); /* its pair; asked for once, at the end */
    assert_int_equal(count(prompt, pair), 1);
    assert_true(again && strstr(prompt, pair) < again);
}

static void check_series(const char *prompt, const char *completion) {
    static const char start[] = "Words: ";
    char first[32];
    assert_int_equal(sscanf(prompt, "Words: %31[a-z]", first), 1);
    assert_memory_equal(prompt, start, sizeof start - 1);
    assert_memory_equal(prompt + sizeof start - 1 + strlen(first), completion, strlen(completion));
    assert_string_equal(strrchr(prompt, ' ') + 1, first);
    assert_int_equal(count(completion, " "), 6);
}

static void check_notes(const char *prompt, const char *completion) {
    char subject[32], value[32], note[80], word[80];
    const char *asked = strrchr(prompt, '.') + 1;
    assert_int_equal(sscanf(asked, " The %31[a-z] was", subject), 1);
    assert_int_equal(sscanf(completion, " %31[A-Za-z].", value), 1);
    snprintf(note, sizeof note, "The %s is %s. ", subject, value);
    snprintf(word, sizeof word, " %s.", value);
    assert_int_equal(count(prompt, note), 1);
    assert_int_equal(count(prompt, word), 1);
    assert_int_equal(count(prompt, " is "), 7);
}

static void test_answers(void **state) {
    (void)state;
    struct recall_options options = {.n_rows = 200, .seed = 3, .n_items = 7, .n_queries = 1, .n_fillers = 5};
    static void (*const checks[])(const char *, const char *) = {check_facts, check_names, check_copy, check_pairs,
                                                                  check_series, check_notes};
    for (int i = 0; i < 6; i++) {
        options.kind = (enum recall_kind)(RECALL_FACTS + i);
        each_row(&options, checks[i]);
    }
}

static void check_every_answer(const char *prompt, const char *completion) {
    char answered[256], *rest = answered;
    size_t n_asked = 0;
    int n = snprintf(answered, sizeof answered, "%s%s", strrchr(prompt, ' '), completion); /* " cemer 17, balan 20." */
    assert_in_range(n, 1, sizeof answered - 1);
    for (const char *pair; (pair = strtok_r(rest, ",.", &rest)); n_asked++) {
        assert_int_equal(count(prompt, pair), 1);   /* right */
        assert_true(n_asked == 0 || count(completion, pair) == 1); /* asked for once */
    }
    assert_int_equal(n_asked, 5);
}

static void check_few_words(const char *prompt, const char *completion) {
    char word[32];
    int number, n = 0;
    (void)completion;
    for (const char *at = prompt + strlen("Pairs:"); sscanf(at, " %31s %d%n", word, &number, &n) == 2; at += n + 1) {
        assert_non_null(strstr("balan bamer banix barol", word)); /* the first four */
        assert_in_range(number, 10, 13);
        if (at[n] == '.')
            return;
    }
    fail_msg("no end of the pairs: %s", prompt);
}

static void test_words(void **state) {
    (void)state;
    each_row(&(struct recall_options){.kind = RECALL_PAIRS, .n_rows = 100, .n_items = 4, .n_queries = 4, .n_words = 4},
             check_few_words);
}

static void test_queries(void **state) {
    (void)state;
    each_row(&(struct recall_options){.kind = RECALL_PAIRS, .n_rows = 100, .n_items = 6, .n_queries = 5, .n_fillers = 1},
             check_every_answer);
    char *all, *more;
    size_t n;
    struct recall_options options = {.kind = RECALL_FACTS, .n_rows = 1, .n_items = 3, .n_queries = 3};
    generate(&options, &all, &n);
    assert_int_equal(count(all, "Remember the code of "), 3);
    options.n_queries = 30; /* at most all */
    generate(&options, &more, &n);
    assert_string_equal(all, more);
    free(all);
    free(more);
}

static void test_seeds(void **state) {
    (void)state;
    char *texts[3];
    size_t n[3];
    for (int i = 0; i < 3; i++)
        generate(&(struct recall_options){.n_rows = 30 + (uint64_t)(i == 1), .seed = i == 2, .n_items = 8, .n_queries = 1,
                                          .n_fillers = 8},
                 &texts[i], &n[i]);
    assert_true(n[1] > n[0]);
    assert_memory_equal(texts[0], texts[1], n[0]); /* a row does not depend on their number */
    assert_string_not_equal(texts[0], texts[2]);
    for (int i = 0; i < 3; i++)
        free(texts[i]);
}

/* Written down once: the same on every machine and in every version. */
static void test_same_bytes(void **state) {
    (void)state;
    char *text;
    size_t n;
    generate(&(struct recall_options){.n_rows = 1, .seed = 5, .n_items = 2, .n_queries = 1}, &text, &n);
    assert_string_equal(text, "{\"prompt\": \"The code of Ruth is 11. The code of Peter is 34. Remember the code of Peter. It is\", "
                              "\"completion\": \" 34.\"}""\n");
    free(text);
}

static void test_limits_and_text(void **state) {
    (void)state;
    char *text;
    size_t n;
    generate(&(struct recall_options){.kind = RECALL_COPY, .n_rows = 1, .n_items = RECALL_MAX_ITEMS, .n_queries = 1,
                                      .plain_text = true},
             &text, &n);
    assert_int_equal(count(text, ","), 2 * (RECALL_MAX_ITEMS - 1));
    assert_memory_equal(text, "{\"text\": ", 9);
    free(text);
    generate(&(struct recall_options){.kind = RECALL_FACTS, .n_rows = 1, .n_items = RECALL_MIN_ITEMS, .n_queries = 1},
             &text, &n);
    assert_int_equal(count(text, "The code of "), 2);
    free(text);
}

enum { LENGTH = 300, DEPTH = 40, LONGEST = 16 /* tokens of a sentence */ };
static struct tokenizer *tokenizer;

/* As full as it can be, with DEPTH percent of the sentences in front of the pairs. */
static void check_length(const char *prompt, const char *completion) {
    struct token_list ids = {0};
    char whole[8192];
    size_t n_prefix;
    int n = snprintf(whole, sizeof whole, "%s%s", prompt, completion);
    assert_in_range(n, 1, sizeof whole - 1);
    assert_int_equal(tokenizer_encode(tokenizer, whole, (size_t)n, &ids, NULL), OK);
    tokenizer_prefix(tokenizer, &n_prefix);
    assert_in_range(ids.len + n_prefix, LENGTH - LONGEST, LENGTH);
    free(ids.data);
    const char *pairs = strstr(prompt, "Pairs:");
    assert_non_null(pairs);
    size_t n_behind = count(pairs, " to the "), n_all = count(prompt, " to the ");
    assert_int_equal(n_all - n_behind, n_all * DEPTH / 100);
    check_pairs(prompt, completion);
}

static void test_length(void **state) {
    (void)state;
    struct recall_options options = {.kind = RECALL_PAIRS, .n_rows = 20, .n_items = 4, .n_queries = 1, .depth = DEPTH,
                                     .length = LENGTH};
    struct err err = {0};
    FILE *sink = fopen("/dev/null", "w");
    assert_int_equal(tokenizer_open("datasets/demo/model/tokenizer.json", &tokenizer, NULL), OK);
    options.tokenizer = tokenizer;
    each_row(&options, check_length);
    options.length = 10;
    assert_int_equal(recall_write(sink, &options, &err), ERR_USAGE);
    assert_string_equal(err.where, "--length");
    assert_non_null(strstr(err.message, "too few"));
    fclose(sink);
    tokenizer_free(tokenizer);
}

static void test_full_disk(void **state) {
    (void)state;
    FILE *full = fopen("/dev/full", "w");
    struct err err = {0};
    if (!full)
        skip();
    setvbuf(full, NULL, _IONBF, 0);
    assert_int_equal(recall_write(full, &(struct recall_options){.n_rows = 2, .n_items = 2, .n_queries = 1}, &err), ERR_IO);
    assert_non_null(strstr(err.message, "No space left"));
    fclose(full);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_queries), cmocka_unit_test(test_words),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_limits_and_text),
        cmocka_unit_test(test_length),
        cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests_name("recall", tests, NULL, NULL);
}
