/* Paired comparisons: intervals against numpy (scripts/reference/paired_intervals.py), changes and gaps by hand, losses by
 * document against the invented run. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "analyze/paired.h"
#include "tests/fake_run.h"
#include "tests/scratch.h"

static const struct resampling usual = {.seed = 1, .n = 1000, .level = 0.95};

static void assert_near(double found, double expected) {
    if (!(fabs(found - expected) <= 1e-12 * fabs(expected)))
        fail_msg("%.17g, expected %.17g", found, expected);
}

static struct estimate ratio(const double *part, const double *whole, size_t n, const struct resampling *r) {
    struct estimate out;
    struct err err = {0};
    assert_int_equal(interval_of_ratio(part, whole, n, r, &out, &err), OK);
    return out;
}

static void intervals_equal_those_of_numpy(void **state) {
    static const struct {
        struct resampling resampling;
        struct estimate expected;
    } cases[] = {
        {{3, 500, 0.95}, {0.177731673582296, 0.1276144146842958, 0.22523512005729579}},
        {{12345678901, 200, 0.9}, {0.177731673582296, 0.1380539550501774, 0.22127223788654965}},
    };
    double part[30], whole[30];
    (void)state;
    for (int i = 0; i < 30; i++) {
        part[i] = (7 * i * i) % 23 - 5;
        whole[i] = 40 + (11 * i) % 17;
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct estimate found = ratio(part, whole, 30, &cases[i].resampling);
        assert_near(found.value, cases[i].expected.value);
        assert_near(found.low, cases[i].expected.low);
        assert_near(found.high, cases[i].expected.high);
    }
}

/* Two documents give the ratios 1/2, 1 and 3/2 with probabilities 1/4, 1/2 and 1/4; one document gives its own. */
static void intervals_of_few_documents(void **state) {
    static const double part[] = {1, 3}, whole[] = {2, 2}, none[] = {0, 0};
    (void)state;
    struct estimate two = ratio(part, whole, 2, &usual), middle = ratio(part, whole, 2, &(struct resampling){1, 1000, 0.4});
    assert_near(two.value, 1);
    assert_near(two.low, 0.5);
    assert_near(two.high, 1.5);
    assert_near(middle.low, 1);
    assert_near(middle.high, 1);
    struct estimate one = ratio(part, whole, 1, &usual);
    assert_true(one.value == 0.5 && one.low == 0.5 && one.high == 0.5);
    struct estimate missing = ratio(part, none, 2, &usual);
    assert_true(isnan(missing.value) && isnan(missing.low) && isnan(missing.high));
    assert_true(isnan(ratio(part, whole, 0, &usual).value));
}

/* Three documents: losses of full attention, of the window alone, and of something between. */
static double full_nll[] = {20, 30, 50}, window_nll[] = {22, 36, 52}, x_nll[] = {21, 31, 51};
static double full_far[] = {10, 20, 30}, window_far[] = {12, 26, 32}, x_far[] = {11, 21, 31};
static uint64_t documents[] = {0, 1, 2};
static double counts[] = {10, 15, 25}, far_counts[] = {5, 10, 15};

static struct document_losses losses(double *nll, double *far_nll) {
    return (struct document_losses){3, documents, nll, counts, far_nll, far_counts};
}

static void changes_and_gaps_by_hand(void **state) {
    struct document_losses full = losses(full_nll, full_far), window = losses(window_nll, window_far),
                           x = losses(x_nll, x_far);
    struct estimate out;
    struct err err = {0};
    (void)state;
    assert_int_equal(paired_nll_change(&x, &full, &usual, &out, &err), OK);
    assert_near(out.value, 3.0 / 100); /* one nat more in each document */
    assert_true(out.low > 0.02 - 1e-12 && out.low < out.value && out.high > out.value && out.high < 0.05 + 1e-12);
    assert_int_equal(paired_gap_recovered(&x, &window, &full, &usual, &out, &err), OK);
    assert_near(out.value, 7.0 / 10);
    assert_near(out.low, 0.5);     /* only documents 0 and 2: (1 + 1) / (2 + 2) */
    assert_near(out.high, 5.0 / 6); /* only document 1 */
    assert_near(paired_gap(&window, &full), 10.0 / 60);
    /* What is measured against itself has no change at all; the ends of the scale are 1 and 0. */
    assert_int_equal(paired_nll_change(&full, &full, &usual, &out, &err), OK);
    assert_true(out.value == 0 && out.low == 0 && out.high == 0);
    assert_int_equal(paired_gap_recovered(&full, &window, &full, &usual, &out, &err), OK);
    assert_true(out.value == 1 && out.low == 1 && out.high == 1);
    assert_int_equal(paired_gap_recovered(&window, &window, &full, &usual, &out, &err), OK);
    assert_true(out.value == 0 && out.low == 0 && out.high == 0);
}

static void different_text_is_refused(void **state) {
    double other_counts[] = {10, 15, 24};
    struct document_losses a = losses(full_nll, full_far), b = a;
    struct err err = {0};
    (void)state;
    assert_int_equal(document_losses_check(&a, "a.h5", &b, "b.h5", &err), OK);
    b.n_predicted = other_counts;
    assert_int_equal(document_losses_check(&a, "a.h5", &b, "b.h5", &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "document 2"));
    b.n = 2;
    err.code = OK;
    assert_int_equal(document_losses_check(&a, "a.h5", &b, "b.h5", &err), ERR_INPUT);
}

static struct profile *record(struct scratch *s, const struct fake_run *run) {
    scratch_open(s);
    return fake_profile(scratch_path(s, "run.h5"), run);
}

static void losses_of_the_invented_run(void **state) {
    enum { N = 40, FAR_FROM = 16 };
    static const struct fake_run run = {.n_sequences = N, .score = PROFILE_SCORE_SIGMOID, .gates = true,
                                        .record = PROFILE_RECORD_TOKENS};
    struct scratch s;
    struct document_losses l;
    struct err err = {0};
    (void)state;
    struct profile *profile = record(&s, &run);
    assert_int_equal(document_losses_read(profile, FAR_FROM, &l, &err), OK);
    assert_int_equal(l.n, N / 2); /* two sequences a document */
    for (size_t d = 0; d < l.n; d++) {
        double far_sum = 0, n_far = 0;
        for (size_t i = 2 * d; i < 2 * d + 2; i++)
            for (size_t t = FAR_FROM; t < fake_length(i); t++)
                if (!isnan(fake_nll(i, t))) {
                    far_sum += (double)fake_nll(i, t);
                    n_far += 1;
                }
        assert_true(l.document[d] == fake_document(2 * d));
        assert_true(l.n_far[d] == n_far);
        assert_true(l.far_nll[d] == far_sum);
        assert_true(l.n_predicted[d] >= n_far && l.nll[d] > 0);
    }
    document_losses_free(&l);
    profile_close(profile);
    scratch_close(&s);
}

static void runs_without_tokens_are_refused(void **state) {
    static const struct fake_run run = {.n_sequences = 6, .score = PROFILE_SCORE_SIGMOID, .gates = true};
    struct scratch s;
    struct document_losses l;
    struct err err = {0};
    (void)state;
    struct profile *profile = record(&s, &run);
    assert_int_equal(document_losses_read(profile, 16, &l, &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "--record tokens"));
    profile_close(profile);
    scratch_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(intervals_equal_those_of_numpy),
        cmocka_unit_test(intervals_of_few_documents),
        cmocka_unit_test(changes_and_gaps_by_hand),
        cmocka_unit_test(different_text_is_refused),
        cmocka_unit_test(losses_of_the_invented_run),
        cmocka_unit_test(runs_without_tokens_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
