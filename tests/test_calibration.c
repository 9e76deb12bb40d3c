/* The search for a knob's value, on functions whose answer is known: smooth, steep at the ends, falling, with jumps, without
 * limits, whole numbers against trying all of them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "analyze/calibration.h"

typedef double (*function)(double value);

/* Searches and returns how many steps it took; *best is what it found. */
static size_t search(struct calibration *c, function read, double wanted, double tolerance, struct calibration_step *best) {
    struct err err = {0};
    double value;
    size_t before = c->n;
    calibration_begin(c);
    while (calibration_next(c, wanted, tolerance, &value)) {
        assert_true(c->n < before + 100);
        assert_true(value >= c->min && value <= c->max);
        for (size_t i = 0; i < c->n; i++)
            assert_true(c->steps[i].value != value); /* nothing is measured twice */
        assert_int_equal(calibration_add(c, value, read(value), &err), OK);
    }
    *best = *calibration_best(c, wanted);
    return c->n - before;
}

static void assert_within(const struct calibration_step *step, double wanted, double tolerance) {
    if (!(fabs(step->reached - wanted) <= tolerance * wanted))
        fail_msg("%.17g reads %.17g, wanted %.17g", step->value, step->reached, wanted);
}

static double random_density(double x) { return 0.1 + 0.9 * x; }

static void a_straight_line_takes_one_step(void **state) {
    struct calibration c = {.min = 0, .max = 1, .rising = true, .least = 0.1};
    struct calibration_step best;
    (void)state;
    assert_int_equal(search(&c, random_density, 0.37, 0.002, &best), 1);
    assert_within(&best, 0.37, 1e-12);
    assert_int_equal(search(&c, random_density, 0.37, 0.002, &best), 0); /* known already */
    calibration_free(&c);
}

/* Utilities of a trained predictor: two thirds near 0.001, the rest near 0.999. */
static double two_heaps(double threshold) {
    double x = log(threshold / (1 - threshold));
    return 0.1 + 0.6 / (1 + exp(2 * (x + 7))) + 0.3 / (1 + exp(2 * (x - 7)));
}

static void thresholds_near_both_ends_are_found(void **state) {
    static const double wanted[] = {0.12, 0.2, 0.39, 0.41, 0.6, 0.95};
    struct calibration c = {.min = 0, .max = 1, .scale = CALIBRATION_LOGIT, .least = 0.1};
    struct calibration_step best;
    size_t n = 0;
    (void)state;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        n += search(&c, two_heaps, wanted[i], 0.0025, &best);
        assert_within(&best, wanted[i], 0.0025);
    }
    assert_true(n <= 6 * 9);
    calibration_free(&c);
}

/* Real scores: what is kept has a norm of at most the threshold. */
static double far_norms(double threshold) { return 0.05 + 0.95 / (1 + exp(-(threshold - 300) / 20)); }
static double negative_scores(double threshold) { return 0.05 + 0.95 / (1 + exp((threshold + 70) / 2)); }

static void a_scale_without_ends_is_widened(void **state) {
    struct calibration up = {.min = 0, .max = INFINITY, .rising = true, .least = 0.05},
                       down = {.min = -INFINITY, .max = INFINITY, .least = 0.05};
    struct calibration_step best;
    (void)state;
    assert_true(search(&up, far_norms, 0.5, 0.0025, &best) <= 20);
    assert_within(&best, 0.5, 0.0025);
    assert_true(search(&down, negative_scores, 0.3, 0.0025, &best) <= 20);
    assert_within(&best, 0.3, 0.0025);
    calibration_free(&up);
    calibration_free(&down);
}

static double two_levels(double x) { return x < 0.25 ? 0.2 : 0.8; }

/* Attention to come: half of the pairs under a ten thousandth. */
static double future_attention(double threshold) { return 0.05 + 0.95 / (1 + threshold / 1e-4); }

static void small_thresholds_are_found_by_their_order(void **state) {
    static const double wanted[] = {0.5, 0.06, 0.99};
    struct calibration c = {.min = 0, .max = INFINITY, .scale = CALIBRATION_LOG, .least = 0.05};
    struct calibration_step best;
    (void)state;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        assert_true(search(&c, future_attention, wanted[i], 0.0025, &best) <= 20);
        assert_within(&best, wanted[i], 0.0025);
    }
    calibration_free(&c);
}

static void a_jump_ends_at_its_nearer_side(void **state) {
    struct calibration c = {.min = 0, .max = 1, .rising = true, .least = 0.2};
    struct calibration_step best;
    (void)state;
    search(&c, two_levels, 0.6, 0.0025, &best);
    assert_true(best.reached == 0.8);
    search(&c, two_levels, 0.3, 0.0025, &best);
    assert_true(best.reached == 0.2);
    calibration_free(&c);
}

/* A budget that chunks do not let below a half. */
static double at_least_half(double budget) { return 0.5 + 0.5 * floor(20 * budget) / 20; }

static void a_floor_is_noticed(void **state) {
    struct calibration c = {.min = 0, .max = 1, .rising = true, .least = 0.2};
    struct calibration_step best;
    (void)state;
    assert_true(search(&c, at_least_half, 0.3, 0.0025, &best) <= 6);
    assert_true(best.reached == 0.5);
    calibration_free(&c);
}

/* Pairs of a window of x tokens in sequences of 97. */
static double window_of(double x) { return (x * 97 - x * (x - 1) / 2) / (97 * 98 / 2); }

static void whole_numbers_equal_trying_them_all(void **state) {
    (void)state;
    for (double wanted = 0.17; wanted < 1; wanted += 0.013) {
        struct calibration c = {.min = 8, .max = 97, .rising = true, .whole = true, .least = window_of(8)};
        struct calibration_step best, nearest = {8, window_of(8)};
        search(&c, window_of, wanted, 0, &best);
        for (int x = 8; x <= 97; x++)
            if (fabs(window_of(x) - wanted) < fabs(nearest.reached - wanted))
                nearest = (struct calibration_step){x, window_of(x)};
        assert_true(best.value == nearest.value);
        calibration_free(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_straight_line_takes_one_step),
        cmocka_unit_test(thresholds_near_both_ends_are_found),
        cmocka_unit_test(a_scale_without_ends_is_widened),
        cmocka_unit_test(small_thresholds_are_found_by_their_order),
        cmocka_unit_test(a_jump_ends_at_its_nearer_side),
        cmocka_unit_test(a_floor_is_noticed),
        cmocka_unit_test(whole_numbers_equal_trying_them_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
