/* Cosine and sine tables against those of transformers' rotary modules (tests/data/config/rope.json, written by
 * scripts/reference/make_config_cases.py), for positions up to 8000. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/rope.h"

static const json_t *at(const json_t *array, size_t i) {
    const json_t *value = json_array_get(array, i);
    assert_non_null(value);
    return value;
}

static double stored(const json_t *array, size_t i) {
    return (double)(float)json_number_value(at(array, i)); /* the shortest decimal of an f32 */
}

/* Largest error as a share of the bound. An f32 cosine has an ulp of 2^-24 or less. Ours is the correctly rounded one of the
 * f32 angle (half an ulp), torch's within 1 ulp; both are then multiplied by the attention factor and rounded (half an ulp
 * each): 2.5 ulp. Where torch's power function gave a frequency that differs in its last bits, the angle differs by that
 * times the position, and both angles are rounded (half an ulp each). */
static double compare_row(const json_t *test, size_t row, double position, const float *table, const float *inv_freq,
                          size_t half, double factor) {
    const json_t *cosines = at(json_object_get(test, "cos"), row), *sines = at(json_object_get(test, "sin"), row);
    const json_t *frequencies = json_object_get(test, "inv_freq");
    double worst = 0;
    for (size_t i = 0; i < half; i++) {
        double off = fabs((double)inv_freq[i] - stored(frequencies, i));
        double angle_error = off > 0 ? position * off + position * stored(frequencies, i) * 0x1p-23 : 0;
        double bound = factor * (2.5 * 0x1p-24 + angle_error);
        double error_cos = fabs((double)table[i] - stored(cosines, i));
        double error_sin = fabs((double)table[half + i] - stored(sines, i));
        worst = fmax(worst, fmax(error_cos, error_sin) / bound);
    }
    return worst;
}

/* torch's power function is off in the last bit for about 1 % of the arguments (at most 2 of 32 seen): more means that our
 * roundings differ from its. */
static void compare_frequencies(const char *name, const json_t *frequencies, const float *inv_freq, size_t half) {
    size_t n_off = 0;
    for (size_t i = 0; i < half; i++)
        n_off += (double)inv_freq[i] != stored(frequencies, i);
    if (n_off > 1 + half / 16)
        fail_msg("%s: %zu of %zu frequencies differ", name, n_off, half);
}

static double compare_case(const json_t *test) {
    const char *name = json_string_value(json_object_get(test, "name"));
    const json_t *positions = json_object_get(test, "positions");
    struct model_config config;
    struct err err = {0};
    float factor;
    double worst = 0;
    assert_int_equal(model_config_parse(json_object_get(test, "config"), "config.json", NULL, NULL, &config, &err), OK);
    size_t half = (size_t)config.head_dim / 2, n_rows = json_array_size(positions);
    size_t n_pos = (size_t)json_integer_value(at(positions, n_rows - 1)) + 1;
    float *table = malloc(n_pos * 2 * half * sizeof *table), *inv_freq = malloc(half * sizeof *inv_freq);
    assert_non_null(table);
    assert_non_null(inv_freq);
    rope_frequencies(&config.rope[0], config.head_dim, inv_freq, &factor);
    compare_frequencies(name, json_object_get(test, "inv_freq"), inv_freq, half);
    assert_int_equal(rope_table(&config.rope[0], config.head_dim, config.max_positions, n_pos, table, &err), OK);
    for (size_t r = 0; r < n_rows; r++) {
        size_t p = (size_t)json_integer_value(at(positions, r));
        double share = compare_row(test, r, (double)p, table + p * 2 * half, inv_freq, half, (double)factor);
        if (!(share <= 1))
            fail_msg("%s: position %zu is off by %.2f times the bound", name, p, share);
        worst = fmax(worst, share);
    }
    free(table);
    free(inv_freq);
    model_config_free(&config);
    return worst;
}

static void test_tables(void **state) {
    json_error_t problem;
    json_t *tests = json_load_file("tests/data/config/rope.json", 0, &problem), *test;
    double worst = 0;
    size_t i;
    (void)state;
    if (!tests)
        fail_msg("tests/data/config/rope.json: %s (tests run from the project root)", problem.text);
    assert_true(json_array_size(tests) >= 8);
    json_array_foreach(tests, i, test)
        worst = fmax(worst, compare_case(test));
    printf("%zu tables, largest error %.2f of the bound\n", json_array_size(tests), worst);
    json_decref(tests);
}

static void test_dynamic_length(void **state) {
    struct rope_config rope = {.type = ROPE_DYNAMIC, .theta = 10000, .factor = 2, .original_max_positions = 16};
    float table[17 * 4];
    struct err err = {0};
    (void)state;
    assert_int_equal(rope_table(&rope, 4, 16, 16, table, &err), OK);
    assert_int_equal(rope_table(&rope, 4, 16, 17, table, &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "max_position_embeddings (16)"));
}

static void test_first_row(void **state) {
    struct rope_config rope = {.type = ROPE_DEFAULT, .theta = 10000};
    float row[4];
    (void)state;
    assert_int_equal(rope_table(&rope, 4, 16, 0, row, NULL), OK); /* nothing to do */
    assert_int_equal(rope_table(&rope, 4, 16, 1, row, NULL), OK);
    assert_true(row[0] == 1 && row[1] == 1 && row[2] == 0 && row[3] == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_dynamic_length),
        cmocka_unit_test(test_first_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
