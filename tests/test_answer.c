/* Scores of generated texts, against the rules restated in Python (scripts/reference/make_answer_cases.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "datasets/answer.h"

static void decode_hex(const char *hex, struct str *out) {
    unsigned byte;
    str_clear(out);
    for (; sscanf(hex, "%2x", &byte) == 1; hex += 2)
        str_putc(out, (char)byte);
}

static void check_number(const json_t *row, const char *key, bool found, const struct str *number) {
    const char *expected = json_string_value(json_object_get(row, key));
    assert_int_equal(found, expected != NULL);
    if (expected)
        assert_string_equal(str_text(number), expected);
}

static void check_row(const json_t *row, double *sum) {
    struct str text = {0}, clean = {0}, number = {0};
    const json_t *references = json_object_get(row, "references");
    double all, part;
    decode_hex(json_string_value(json_object_get(row, "text")), &text);
    answer_clean(str_text(&text), text.len, &clean);
    assert_int_equal(answer_match_all(&clean, references, &all, NULL), OK);
    assert_int_equal(answer_match_part(&clean, references, &part, NULL), OK);
    assert_float_equal(all, json_number_value(json_object_get(row, "all")), 0);
    assert_float_equal(part, json_number_value(json_object_get(row, "part")), 0);
    check_number(row, "strict", answer_strict_number(str_text(&text), text.len, &number), &number);
    check_number(row, "last", answer_last_number(str_text(&text), text.len, &number), &number);
    *sum += all;
    str_free(&text);
    str_free(&clean);
    str_free(&number);
}

static void test_against_python(void **state) {
    (void)state;
    FILE *file = fopen("tests/data/answers/cases.jsonl", "r");
    char *line = NULL;
    size_t cap = 0, n = 0;
    double sum = 0, rounded = -1;
    ssize_t len;
    assert_non_null(file);
    while ((len = getline(&line, &cap, file)) > 0) {
        json_t *row;
        assert_int_equal(json_parse(line, (size_t)len, "cases", &row, NULL), OK);
        if (json_has(row, "text")) {
            check_row(row, &sum);
            n++;
        } else {
            rounded = json_number_value(json_object_get(row, "rounded"));
        }
        json_decref(row);
    }
    assert_int_equal(n, 400);
    assert_float_equal(answer_percent(sum, n), rounded, 0);
    free(line);
    fclose(file);
}

/* What can be said without Python: a control character between two words parts them, and one at an end goes. */
static void test_control_characters(void **state) {
    (void)state;
    struct str clean = {0};
    answer_clean("\0 one\0two\x1f", 10, &clean);
    assert_int_equal(clean.len, 7);
    assert_memory_equal(clean.data, "one\ntwo", 7);
    str_free(&clean);
}

/* Fractions that a sloppy rounding would get wrong. */
static void test_percent(void **state) {
    (void)state;
    assert_float_equal(answer_percent(1, 3), 33.33, 0);
    assert_float_equal(answer_percent(2, 3), 66.67, 0);
    assert_float_equal(answer_percent(0, 5), 0, 0);
    assert_float_equal(answer_percent(1, 800), 0.12, 0);  /* 0.125 is exact: half to even, as Python's round() */
    assert_float_equal(answer_percent(3, 800), 0.38, 0);  /* 0.375 */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_python),
        cmocka_unit_test(test_control_characters),
        cmocka_unit_test(test_percent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
