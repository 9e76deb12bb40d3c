/* Rows that ask for a text: what is read from them, when an answer is complete, what it is worth; means of tasks. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "analyze/task_mean.h"
#include "base/rng.h"
#include "datasets/exercise.h"

static int read_row(const char *json, const char *path, struct exercise *out, struct err *err) {
    const struct row_fields fields = {0};
    const struct row_kind *kind;
    json_t *row;
    *out = (struct exercise){0};
    assert_int_equal(row_parse(json, strlen(json), "f:1", &row, NULL), OK);
    int rc = row_kind_find(row, &fields, "f:1", &kind, err);
    if (rc == OK) {
        assert_true(exercise_takes(kind, row));
        rc = exercise_read(kind, row, path, "f:1", out, err);
    }
    json_decref(row);
    return rc;
}

static struct exercise must_read(const char *json, const char *path) {
    struct exercise x;
    struct err err = {0};
    if (read_row(json, path, &x, &err) != OK)
        fail_msg("%s: %s", err.where, err.message);
    return x;
}

static void must_score(const struct exercise *x, const char *text, double first, double second) {
    double scores[EXERCISE_MAX_SCORES] = {-1, -1};
    assert_int_equal(exercise_score(x, text, strlen(text), scores, NULL), OK);
    assert_float_equal(scores[0], first, 0);
    if (exercise_n_scores(x) == 2)
        assert_float_equal(scores[1], second, 0);
}

#define RULER "{\"index\": 0, \"input\": \"I\", \"outputs\": [\"Ab\", \"Cd\"], \"answer_prefix\": \" P\", \"length\": 9"

static void test_ruler(void **state) {
    (void)state;
    struct exercise x = must_read(RULER ", \"task\": \"vt\", \"max_length\": 4096}", "x.jsonl");
    assert_string_equal(ruler_task_name(x.ruler), "vt");
    assert_int_equal(x.max_length, 4096);
    assert_int_equal(x.max_new, 30);
    assert_string_equal(str_text(&x.input), "I");
    assert_string_equal(str_text(&x.prefix), " P");
    assert_string_equal(exercise_score_name(&x, 0), "string_match");
    must_score(&x, "x AB y", 0.5, 0);
    must_score(&x, "cd, ab", 1, 0);
    assert_false(exercise_is_done(&x, "ab", 2));
    assert_true(exercise_is_done(&x, "ab cD", 5));
    exercise_free(&x);

    x = must_read(RULER "}", "data/qa_2/validation.jsonl"); /* RULER's own files: their folder says which task */
    assert_string_equal(ruler_task_name(x.ruler), "qa_2");
    assert_int_equal(x.max_length, 0);
    must_score(&x, "x AB y", 1, 0); /* any reference */
    assert_true(exercise_is_done(&x, "ab", 2));
    exercise_free(&x);
    x = must_read(RULER "}", "niah_multikey_3.jsonl.gz");
    assert_string_equal(ruler_task_name(x.ruler), "niah_multikey_3");
    exercise_free(&x);
}

static void test_gsm8k(void **state) {
    (void)state;
    struct exercise x = must_read("{\"question\": \"Q?\", \"answer\": \"1 + 1,233 = <<1234=1234>>\\n#### 1,234\"}",
                                  "g.jsonl");
    assert_string_equal(str_text(&x.input), "Question: Q?\nAnswer:");
    assert_int_equal(x.max_new, 256);
    assert_int_equal(x.n_stops, 3);
    assert_string_equal(x.stops[0], "Question:");
    must_score(&x, " It is 1234.\n#### 1234", 1, 1);
    must_score(&x, " It is $1,234.", 0, 1);
    must_score(&x, " #### 1234 or 5", 1, 0);
    must_score(&x, " none", 0, 0);
    assert_false(exercise_is_done(&x, "#### 1234", 9)); /* another digit may follow */
    exercise_free(&x);
}

static void test_completion(void **state) {
    (void)state;
    struct exercise x = must_read("{\"prompt\": \"a b\", \"completion\": \" 52.\"}", "p.jsonl");
    assert_int_equal(x.max_new, 0);
    must_score(&x, " 52.", 1, 0);
    must_score(&x, "52. ", 1, 0);
    must_score(&x, " 52", 0, 0);
    exercise_free(&x);
}

static void must_refuse_row(const char *json, const char *path, const char *message) {
    struct exercise x;
    struct err err = {0};
    assert_int_equal(read_row(json, path, &x, &err), ERR_INPUT);
    assert_string_equal(err.where, "f:1");
    if (!strstr(err.message, message))
        fail_msg("\"%s\" does not say \"%s\"", err.message, message);
    exercise_free(&x);
}

static void test_refusals(void **state) {
    (void)state;
    must_refuse_row(RULER "}", "validation.jsonl", "which task");
    must_refuse_row(RULER ", \"task\": \"vt2\"}", "vt.jsonl", "\"vt2\"");
    must_refuse_row("{\"input\": \"I\", \"outputs\": []}", "vt.jsonl", "empty");
    must_refuse_row("{\"input\": \"I\", \"outputs\": \"x\"}", "vt.jsonl", "outputs");
    must_refuse_row("{\"input\": \"I\", \"outputs\": [\"a\", 1]}", "vt.jsonl", "entry 1");
    must_refuse_row("{\"input\": 3, \"outputs\": [\"a\"]}", "vt.jsonl", "input");
    must_refuse_row("{\"prompt\": \"a\", \"completion\": 3}", "p.jsonl", "completion");
}

/* --- means --- */

static int ascending(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

/* Against the definition written out: every resample draws within each task. */
static void test_means(void **state) {
    (void)state;
    enum { N = 400 };
    const double one[] = {1, 0, 1, 1, 0.5}, two[] = {0, 0, 0.25};
    const struct task_scores tasks[] = {{one, 5, 1}, {two, 3, 3}};
    const struct resampling resampling = {.seed = 7, .n = N, .level = 0.9};
    struct estimate estimate;
    double means[N];
    assert_float_equal(task_mean(tasks, 2), (0.7 + 3 * (0.25 / 3)) / 4, 1e-15);
    assert_true(isnan(task_mean(tasks, 0)));
    for (int r = 0; r < N; r++) {
        double a = 0, b = 0;
        for (uint32_t i = 0; i < 5; i++)
            a += one[(int)(rng_uniform(7, (uint64_t)r, 0, 0, i) * 5)] / 5;
        for (uint32_t i = 0; i < 3; i++)
            b += two[(int)(rng_uniform(7, (uint64_t)r, 1, 0, i) * 3)] / 3;
        means[r] = (a + 3 * b) / 4;
    }
    qsort(means, N, sizeof *means, ascending);
    assert_int_equal(task_mean_interval(tasks, 2, &resampling, &estimate, NULL), OK);
    double low = means[19] + 0.95 * (means[20] - means[19]), high = means[379] + 0.05 * (means[380] - means[379]);
    assert_float_equal(estimate.value, task_mean(tasks, 2), 0);
    assert_float_equal(estimate.low, low, 1e-12); /* the same sums in another order */
    assert_float_equal(estimate.high, high, 1e-12);
    assert_int_equal(task_mean_interval(tasks, 0, &resampling, &estimate, NULL), OK);
    assert_true(isnan(estimate.value));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ruler),      cmocka_unit_test(test_gsm8k), cmocka_unit_test(test_completion),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_means),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
