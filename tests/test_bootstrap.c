/* Densities, intervals over documents, variances, correlations and comparisons of the invented run against numpy
 * (scripts/reference/make_statistics.py), to 1e-12. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "analyze/bootstrap.h"
#include "analyze/comparison.h"
#include "base/file.h"
#include "base/json.h"
#include "tests/fake_run.h"
#include "tests/must.h"
#include "tests/scratch.h"

static struct scratch scratch;
static json_t *expected;

static char *in_dir(const char *name) {
    return scratch_path(&scratch, name);
}

static struct statistics compute(struct profile *p, int corpus) {
    struct err err = {0};
    struct statistics s;
    must(statistics_compute(p, corpus, &s, &err), &err);
    return s;
}

static double number(const char *key) {
    return json_number_value(json_object_get(expected, key));
}

/* null is NaN. */
static void assert_number(double found, const json_t *wanted, const char *what, size_t i) {
    if (!wanted)
        fail_msg("%s[%zu] is not in the file", what, i);
    bool equal = json_is_null(wanted) ? isnan(found) : fabs(found - json_number_value(wanted)) <= 1e-12;
    if (!equal)
        fail_msg("%s[%zu]: %.17g, expected %.17g", what, i, found, json_number_value(wanted));
}

static void assert_numbers(const double *found, size_t n, const json_t *wanted, const char *what) {
    assert_int_equal(json_array_size(wanted), n);
    for (size_t i = 0; i < n; i++)
        assert_number(found[i], json_array_get(wanted, i), what, i);
}

static double ratio_of(const struct head_sums *s, enum head_ratio ratio) {
    return head_ratio_part(s, ratio) / head_ratio_whole(s, ratio);
}

static void check_intervals(const struct statistics *s, enum head_ratio ratio, const json_t *wanted, const char *name) {
    struct err err = {0};
    struct bootstrap b;
    struct intervals found;
    must(bootstrap_draw((uint64_t)number("seed"), (size_t)number("resamples"), s->n_cells, &b, &err), &err);
    must(bootstrap_intervals(&b, s, ratio, number("level"), &found, &err), &err);
    assert_numbers(&found.heads->low, 2 * FAKE_LH, json_object_get(wanted, "heads"), name);
    assert_numbers(&found.layers->low, 2 * FAKE_LAYERS, json_object_get(wanted, "layers"), name);
    assert_numbers(&found.total.low, 2, json_object_get(wanted, "total"), name);
    double heads[FAKE_LH], again[FAKE_LH]; /* one resample, all heads, against intervals of that one alone */
    bootstrap_heads(&b, s, ratio, 0, heads);
    struct bootstrap one = {.n_resamples = 1, .n_cells = b.n_cells, .count = b.count};
    intervals_free(&found);
    must(bootstrap_intervals(&one, s, ratio, 0.5, &found, &err), &err);
    for (int i = 0; i < FAKE_LH; i++)
        again[i] = found.heads[i].low;
    for (int i = 0; i < FAKE_LH; i++)
        assert_true(isnan(heads[i]) ? isnan(again[i]) : fabs(heads[i] - again[i]) < 1e-14);
    intervals_free(&found);
    bootstrap_free(&b);
}

static void check_ratio(const struct statistics *s, enum head_ratio ratio, const json_t *wanted, const char *name) {
    for (size_t i = 0; i < FAKE_LH; i++)
        assert_number(ratio_of(&s->heads[i], ratio), json_array_get(json_object_get(wanted, "heads"), i), name, i);
    for (size_t i = 0; i < FAKE_LAYERS; i++)
        assert_number(ratio_of(&s->layers[i], ratio), json_array_get(json_object_get(wanted, "layers"), i), name, i);
    assert_number(ratio_of(&s->total, ratio), json_object_get(wanted, "total"), name, 0);
    check_intervals(s, ratio, json_object_get(wanted, "intervals"), name);
}

static void check_variation(struct profile *p, enum head_ratio ratio, const json_t *wanted) {
    struct statistics of_corpus[2] = {compute(p, 0), compute(p, 1)};
    struct head_variation v[FAKE_LH];
    double flat[3 * FAKE_LH];
    variation_compute(of_corpus, 2, ratio, v);
    for (size_t i = 0; i < FAKE_LH; i++) {
        flat[i] = v[i].within;
        flat[FAKE_LH + i] = v[i].between;
        flat[2 * FAKE_LH + i] = v[i].explained;
    }
    assert_numbers(flat, 3 * FAKE_LH, wanted, "variation");
    statistics_free(&of_corpus[0]);
    statistics_free(&of_corpus[1]);
}

static void check_correlation(const struct statistics *s, enum head_ratio ratio, const json_t *wanted) {
    struct err err = {0};
    double *found;
    must(correlation_compute(s, ratio, &found, &err), &err);
    assert_numbers(found, FAKE_LH * FAKE_LH, wanted, "correlation");
    free(found);
}

static void check_case(const char *name, size_t n) {
    static const char *const ratios[] = {[RATIO_GATE_DENSITY] = "gate_density", [RATIO_LONG_DENSITY] = "long_density",
                                         [RATIO_KV_FRACTION] = "kv_fraction", [RATIO_READ_FRACTION] = "read_fraction"};
    const json_t *wanted = json_object_get(expected, name);
    assert_int_equal(json_integer_value(json_object_get(wanted, "n_sequences")), n);
    struct fake_run gated = {.n_sequences = n, .score = PROFILE_SCORE_SIGMOID, .gates = true};
    struct fake_run dense = {.n_sequences = n, .record = PROFILE_RECORD_ATTENTION};
    struct profile *p = fake_profile(in_dir(name), &gated);
    struct profile *q = fake_profile(in_dir(n > 100 ? "dense-many" : "dense-few"), &dense);
    struct statistics s = compute(p, -1), d = compute(q, -1);
    assert_int_equal(json_integer_value(json_object_get(wanted, "n_documents")), s.n_documents);
    for (int i = 0; i < 4; i++)
        check_ratio(&s, (enum head_ratio)i, json_object_get(wanted, ratios[i]), ratios[i]);
    check_ratio(&d, RATIO_FAR_ATTENTION, json_object_get(wanted, "far_attention"), "far_attention");
    const json_t *density = json_object_get(wanted, "long_density"), *far = json_object_get(wanted, "far_attention");
    check_variation(p, RATIO_LONG_DENSITY, json_object_get(density, "variation"));
    check_variation(q, RATIO_FAR_ATTENTION, json_object_get(far, "variation"));
    check_correlation(&s, RATIO_LONG_DENSITY, json_object_get(density, "correlation"));
    check_correlation(&d, RATIO_FAR_ATTENTION, json_object_get(far, "correlation"));
    double a[FAKE_LH], b[FAKE_LH], difference[FAKE_LH];
    for (int i = 0; i < FAKE_LH; i++) {
        a[i] = head_long_density(&s.heads[i]);
        b[i] = head_far_attention(&d.heads[i]);
    }
    struct comparison c;
    struct err err = {0};
    must(comparison_compute(a, b, FAKE_LH, (size_t)number("top"), difference, &c, &err), &err);
    const json_t *comparison = json_object_get(wanted, "comparison");
    assert_number(c.spearman, json_object_get(comparison, "spearman"), "spearman", 0);
    assert_number(c.top_overlap, json_object_get(comparison, "top_overlap"), "top_overlap", 0);
    assert_number(c.mean_absolute_difference, json_object_get(comparison, "mean_absolute_difference"), "difference", 0);
    assert_true(difference[0] == b[0] - a[0] && isnan(difference[2]) && c.n_heads == 4);
    statistics_free(&s);
    statistics_free(&d);
    profile_close(p);
    profile_close(q);
}

static void test_few(void **state) {
    (void)state;
    check_case("few", 44);
}

/* More documents than cells. */
static void test_many(void **state) {
    (void)state;
    check_case("many", 600);
}

/* Two runs joined are the run that holds the documents of both, in cells too. */
static void test_join(void **state) {
    (void)state;
    struct err err = {0};
    struct fake_run run = {.n_sequences = 600, .score = PROFILE_SCORE_SIGMOID, .gates = true};
    struct fake_run dense = {.n_sequences = 4, .record = PROFILE_RECORD_ATTENTION};
    struct profile *p = fake_profile(in_dir("join"), &run), *q = fake_profile(in_dir("join-dense"), &dense);
    struct statistics a = compute(p, 0), b = compute(p, 1), d = compute(q, -1), all = compute(p, -1);
    uint64_t n_a = a.n_documents, n_b = b.n_documents;
    must(statistics_join(&a, &b, "b", &err), &err);
    assert_int_equal(a.n_documents, n_a + n_b);
    assert_int_equal(a.n_cells, a.n_documents < 256 ? a.n_documents : 256);
    assert_memory_equal(&a.heads[5].n_kept, &all.heads[5].n_kept, sizeof(uint64_t));
    assert_int_equal(a.total.visible_pairs, all.total.visible_pairs);
    assert_int_equal(a.longest, all.longest);
    assert_int_equal(a.n_tokens, all.n_tokens);
    assert_int_equal(statistics_join(&a, &d, "d", &err), ERR_INPUT);
    assert_string_equal(err.where, "d");
    statistics_free(&a), statistics_free(&b), statistics_free(&d), statistics_free(&all);
    profile_close(p), profile_close(q);
}

static void test_comparison_by_hand(void **state) {
    (void)state;
    struct err err = {0};
    struct comparison c;
    double a[] = {1, 2, 2, 4, NAN}, b[] = {4, 3, 2, 1, 9}, flat[] = {1, 1, 1, 1, 1};
    must(comparison_compute(a, b, 5, 2, NULL, &c, &err), &err);
    /* ranks of a: 3, 1.5, 1.5, 0; of b: 0, 1, 2, 3. Sum of products of deviations -4.5, of squares 4.5 and 5. */
    assert_true(fabs(c.spearman - -4.5 / sqrt(4.5 * 5)) < 1e-15);
    assert_true(c.n_heads == 4 && c.n_top == 2 && c.top_overlap == 0.5); /* 3, 1 against 0, 1 */
    assert_true(c.mean_a == 2.25 && c.mean_b == 2.5 && c.mean_absolute_difference == (3 + 1 + 0 + 3) / 4.0);
    must(comparison_compute(a, flat, 5, 9, NULL, &c, &err), &err);
    assert_true(isnan(c.spearman) && c.n_top == 4 && c.top_overlap == 1);
    must(comparison_compute(a, b, 0, 2, NULL, &c, &err), &err);
    assert_true(c.n_heads == 0 && isnan(c.top_overlap) && isnan(c.mean_a));
}

static void test_interval_by_hand(void **state) {
    (void)state;
    double v[] = {5, NAN, 1, 2, 4, 3}, none[] = {NAN, NAN}, one[] = {7};
    struct interval i = interval_of(v, 6, 0.5), missing = interval_of(none, 2, 0.9), single = interval_of(one, 1, 0.9);
    assert_true(i.low == 2 && i.high == 4);
    assert_true(isnan(missing.low) && isnan(missing.high) && single.low == 7 && single.high == 7);
}

static int setup(void **state) {
    (void)state;
    struct err err = {0};
    if (json_read_object("tests/data/statistics/expected.json", 1 << 20, &expected, &err) != OK)
        return -1;
    scratch_open(&scratch);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    json_decref(expected);
    scratch_close(&scratch);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_few),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_join),
        cmocka_unit_test(test_comparison_by_hand),
        cmocka_unit_test(test_interval_by_hand),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
