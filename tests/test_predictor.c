/* Predictors in every shape they are stored in, and low-rank updates. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/lora.h"
#include "engine/predictor.h"
#include "tests/small_model.h"

/* --- shapes of predictors --------------------------------------------------------------------------------------------- */

/* Opens a model whose layer 0 has the tensors of *m as predictor, and reads that layer. */
static int read_layer(struct maker *m, const char *activation, struct predictor_layer *out, struct err *err) {
    struct scratch s;
    char config[256];
    scratch_open(&s);
    maker_add_model(m);
    maker_write(m, &s, "model.safetensors");
    snprintf(config, sizeof config, CONFIG ",\"spkv\":{\"activation\":\"%s\"}}", activation);
    scratch_write_text(&s, "config.json", config);
    struct checkpoint *c = must_open(&s, NULL);
    int rc = predictor_layer_read(c, 0, out, err);
    checkpoint_close(c); /* what was read is owned */
    scratch_close(&s);
    return rc;
}

static void test_trunk(void **state) {
    struct maker m = {0};
    struct predictor_layer p;
    (void)state;
    maker_add_trunk(&m, PREDICTOR);
    assert_int_equal(read_layer(&m, "silu", &p, NULL), OK);
    assert_int_equal(p.hidden, 3);
    assert_true(p.fc1[23] == 24.0f / 8 && p.b1[2] == 4.0f / 8 && p.fc2[5] == 8.0f / 8 && p.b2[1] == 5.0f / 8);
    predictor_layer_free(&p);
    predictor_layer_free(&p); /* harmless */
}

static void test_trunk_per_head(void **state) {
    static const float want[2][6] = {{3, 4, 5, 0, 0, 0}, {0, 0, 0, 6, 7, 8}};
    struct predictor_layer p;
    (void)state;
    for (int flat = 0; flat < 2; flat++) {
        struct maker m = {0};
        maker_add(&m, PREDICTOR "fc1.weight", 1, 2, 3, 8);
        maker_add(&m, PREDICTOR "fc1.bias", 2, 2, 3, 0);
        if (flat)
            maker_add(&m, PREDICTOR "fc2.weight", 3, 2, 3, 0);
        else
            maker_add(&m, PREDICTOR "fc2.weight", 3, 2, 1, 3);
        maker_add(&m, PREDICTOR "fc2.bias", 4, 2, flat ? 0 : 1, 0);
        assert_int_equal(read_layer(&m, "gelu", &p, NULL), OK);
        assert_int_equal(p.hidden, 6);
        assert_true(p.fc1[47] == 48.0f / 8 && p.b1[5] == 7.0f / 8 && p.b2[1] == 5.0f / 8);
        for (int i = 0; i < 12; i++)
            assert_true(p.fc2[i] == want[i / 6][i % 6] / 8);
        predictor_layer_free(&p);
    }
}

static void test_linear_and_static(void **state) {
    struct maker m = {0};
    struct predictor_layer p;
    struct err err = {0};
    (void)state;
    maker_add(&m, PREDICTOR "fc2.weight", 3, 2, 8, 0);
    maker_add(&m, PREDICTOR "fc2.bias", 4, 2, 0, 0);
    assert_int_equal(read_layer(&m, "none", &p, NULL), OK);
    assert_int_equal(p.hidden, 8);
    assert_true(!p.fc1 && !p.b1 && p.fc2[15] == 18.0f / 8 && p.b2[0] == 4.0f / 8);
    predictor_layer_free(&p);

    maker_add(&m, PREDICTOR "fc2.weight", 3, 2, 8, 0);
    maker_add(&m, PREDICTOR "fc2.bias", 4, 2, 0, 0);
    assert_int_equal(read_layer(&m, "silu", &p, &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "fc1.weight is missing"));
    assert_non_null(strstr(err.message, "only a predictor with activation \"none\" does without"));

    maker_add(&m, PREDICTOR "fc2.bias", 4, 2, 0, 0);
    assert_int_equal(read_layer(&m, "silu", &p, NULL), OK);
    assert_true(p.hidden == 0 && !p.fc1 && !p.b1 && !p.fc2 && p.b2[1] == 5.0f / 8);
    predictor_layer_free(&p);
}

static void test_predictor_shapes(void **state) {
    static const struct {
        size_t shape[4][3]; /* fc1.weight, fc1.bias, fc2.weight, fc2.bias; 0 = absent */
        const char *message;
    } bad[] = {
        {{{3, 8}, {3}, {2, 3}, {0}}, "fc2.bias is missing, expected 2"},
        {{{3, 8}, {3}, {2, 3}, {3}}, "fc2.bias is 3, expected 2: was the predictor made for another model?"},
        {{{3, 7}, {3}, {2, 3}, {2}}, "fc1.weight is 3x7, expected (any)x8 or 2x(any)x8"},
        {{{8}, {3}, {2, 3}, {2}}, "fc1.weight is 8, expected (any)x8"},
        {{{3, 3, 8}, {3, 3}, {3, 3}, {2}}, "fc1.weight is 3x3x8"},
        {{{3, 8}, {0}, {2, 3}, {2}}, "fc1.bias is missing, expected 3"},
        {{{3, 8}, {2}, {2, 3}, {2}}, "fc1.bias is 2, expected 3"},
        {{{2, 3, 8}, {3}, {2, 3}, {2}}, "fc1.bias is 3, expected 2x3"},
        {{{3, 8}, {3}, {0}, {2}}, "fc2.weight is missing, expected 2x3"},
        {{{3, 8}, {3}, {4, 3}, {2}}, "fc2.weight is 4x3, expected 2x3"},
        {{{3, 8}, {3}, {2, 1, 3}, {2}}, "fc2.weight is 2x1x3, expected 2x3"},
        {{{0}, {3}, {2, 3}, {2}}, "fc1.weight is missing, expected beside fc1.bias"},
        {{{0}, {0}, {2, 7}, {2}}, "fc2.weight is 2x7, expected 2x8"},
    };
    static const char *const names[] = {PREDICTOR "fc1.weight", PREDICTOR "fc1.bias", PREDICTOR "fc2.weight",
                                        PREDICTOR "fc2.bias"};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct maker m = {0};
        struct predictor_layer p;
        struct err err = {0};
        for (int k = 0; k < 4; k++)
            if (bad[i].shape[k][0])
                maker_add(&m, names[k], 1, bad[i].shape[k][0], bad[i].shape[k][1], bad[i].shape[k][2]);
        assert_int_equal(read_layer(&m, "none", &p, &err), ERR_INPUT);
        assert_null(p.fc1);
        assert_null(p.b2);
        if (!strstr(err.message, bad[i].message))
            fail_msg("says \"%s\"\n  expected \"%s\"", err.message, bad[i].message);
    }
    struct maker m = {0};
    struct predictor_layer p;
    struct err err = {0};
    maker_add(&m, PREDICTOR "fc2.bias", INFINITY, 2, 0, 0);
    assert_int_equal(read_layer(&m, "none", &p, &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "fc2.bias holds inf at element 0 of 2"));
}

/* --- low-rank updates ------------------------------------------------------------------------------------------------- */

static void write_lora(const struct scratch *s, size_t r, size_t n_cols, size_t n_rows, bool both) {
    struct maker m = {0};
    maker_add(&m, "base_model.model." ATTENTION "k_proj.lora_A.weight", -3, r, n_cols, 0);
    if (both)
        maker_add(&m, "base_model.model." ATTENTION "k_proj.lora_B.weight", -5, n_rows, r, 0);
    maker_add(&m, "base_model.model." PREDICTOR "fc2.bias", 4, 2, 0, 0);
    maker_write(&m, s, "other/spkv.safetensors");
    scratch_write_text(s, "other/spkv_config.json", "{\"r\":2,\"lora_alpha\":3}");
}

static void test_lora(void **state) {
    struct scratch s;
    float *merged;
    (void)state;
    scratch_open(&s);
    write_model(&s, CONFIG "}");
    write_lora(&s, 2, 8, 4, true);
    struct checkpoint *c = must_open(&s, scratch_path(&s, "other"));
    assert_int_equal(lora_merge(c, ATTENTION "q_proj.weight", 8, 8, &merged, NULL), OK);
    assert_null(merged);
    assert_int_equal(lora_merge(c, ATTENTION "k_proj.weight", 4, 8, &merged, NULL), OK);
    assert_non_null(merged);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 8; j++) { /* W + 3/2 B A of the values that maker_add() wrote: exact in f32 */
            double sum = 0;
            for (int k = 0; k < 2; k++)
                sum += (-5 + i * 2 + k) / 8.0 * ((-3 + k * 8 + j) / 8.0);
            assert_true((double)merged[i * 8 + j] == (5 + i * 8 + j) / 8.0 + 1.5 * sum);
        }
    free(merged);
    checkpoint_close(c);
    c = must_open(&s, NULL); /* without the predictor's directory the model is what it was */
    assert_int_equal(lora_merge(c, ATTENTION "k_proj.weight", 4, 8, &merged, NULL), OK);
    assert_null(merged);
    checkpoint_close(c);
    scratch_close(&s);
}

static void test_lora_refused(void **state) {
    static const struct {
        size_t r, n_cols, n_rows;
        const char *message;
    } bad[] = {
        {3, 8, 4, "k_proj.lora_A.weight is 3x8, expected 2x8"},
        {2, 7, 4, "k_proj.lora_A.weight is 2x7, expected 2x8"},
        {2, 8, 8, "k_proj.lora_B.weight is 8x2, expected 4x2"},
    };
    struct scratch s;
    struct maker m = {0};
    float *merged;
    (void)state;
    scratch_open(&s);
    write_model(&s, CONFIG "}");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err err = {0};
        write_lora(&s, bad[i].r, bad[i].n_cols, bad[i].n_rows, true);
        struct checkpoint *c = must_open(&s, scratch_path(&s, "other"));
        assert_int_equal(lora_merge(c, ATTENTION "k_proj.weight", 4, 8, &merged, &err), ERR_INPUT);
        assert_null(merged);
        if (!strstr(err.message, bad[i].message))
            fail_msg("says \"%s\"", err.message);
        checkpoint_close(c);
    }
    write_lora(&s, 2, 8, 4, false);
    must_refuse(&s, scratch_path(&s, "other"), "other/spkv.safetensors", "has no partner " ATTENTION "k_proj.lora_B.weight");
    maker_add(&m, ATTENTION "z_proj.lora_A.weight", 1, 2, 8, 0);
    maker_write(&m, &s, "other/spkv.safetensors");
    must_refuse(&s, scratch_path(&s, "other"), "other/spkv.safetensors",
                "updates " ATTENTION "z_proj.weight, which the model does not have");
    scratch_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trunk),
        cmocka_unit_test(test_trunk_per_head),
        cmocka_unit_test(test_linear_and_static),
        cmocka_unit_test(test_predictor_shapes),
        cmocka_unit_test(test_lora),
        cmocka_unit_test(test_lora_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
