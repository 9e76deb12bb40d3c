/* Starts of training runs: random models of every family and initial predictors, opened like any checkpoint. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "engine/model.h"
#include "engine/predictor.h"
#include "tests/model_case.h"
#include "tests/must.h"
#include "tests/scratch.h"
#include "train/init.h"

static struct checkpoint *open_dir(const char *dir, const char *predictor_dir) {
    struct checkpoint *c;
    struct err err = {0};
    must(checkpoint_open(dir, predictor_dir, &c, &err), &err);
    return c;
}

/* Mean and standard deviation of a tensor. */
static void moments_of(const struct tensor *t, double *mean, double *deviation) {
    double sum = 0, squares = 0;
    for (size_t i = 0; i < t->n_items; i++) {
        double x = dtype_load(t->data, t->dtype, i);
        sum += x;
        squares += x * x;
    }
    *mean = sum / (double)t->n_items;
    *deviation = sqrt(squares / (double)t->n_items - *mean * *mean);
}

/* N(0, deviation) within five standard errors. */
static void assert_normal(const struct tensor *t, double deviation) {
    double n = (double)t->n_items, mean, found;
    moments_of(t, &mean, &found);
    if (fabs(mean) > 5 * deviation / sqrt(n) || fabs(found / deviation - 1) > 5 / sqrt(2 * n))
        fail_msg("%s: mean %g, deviation %g, expected 0 and %g", t->name, mean, found, deviation);
}

static void assert_constant(const struct tensor *t, double value) {
    assert_non_null(t);
    for (size_t i = 0; i < t->n_items; i++)
        if (dtype_load(t->data, t->dtype, i) != value)
            fail_msg("%s[%zu] is %g, expected %g", t->name, i, dtype_load(t->data, t->dtype, i), value);
}

/* --- models ----------------------------------------------------------------------------------------------------------- */

static void assert_loads(const struct checkpoint *c) {
    struct device *dev;
    struct model *model;
    struct err err = {0};
    must(ops_ref()->open(&(struct device_options){.dtype = DTYPE_F32, .n_threads = 1}, &dev, &err), &err);
    must(model_load(c, ops_ref(), dev, &model, &err), &err);
    model_free(model);
    ops_ref()->close(dev);
}

static void test_families(void **state) {
    char names[64][64];
    int n = model_case_list(names, 64);
    (void)state;
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        struct scratch dir;
        struct err err = {0};
        char config[5000];
        scratch_open(&dir);
        snprintf(config, sizeof config, "tests/data/models/%s/config.json", names[i]);
        must(init_model(config, NULL, 1, scratch_path(&dir, "m"), &err), &err);
        struct checkpoint *c = open_dir(scratch_path(&dir, "m"), NULL);
        assert_loads(c);
        assert_constant(checkpoint_find(c, "model.norm.weight"), checkpoint_config(c)->norm_plus_one ? 0 : 1);
        for (size_t t = 0; t < checkpoint_n_tensors(c); t++) {
            const struct tensor *tensor = checkpoint_tensor(c, t);
            if (tensor->n_dims == 2)
                assert_normal(tensor, 0.02);
            else if (strstr(tensor->name, ".bias"))
                assert_constant(tensor, 0);
        }
        checkpoint_close(c);
        scratch_close(&dir);
    }
}

#define SMALL "{\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":2," \
              "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":512,\"initializer_range\":0.5"

static void test_deterministic(void **state) {
    struct scratch dir;
    struct err err = {0};
    char hash[3][33];
    (void)state;
    scratch_open(&dir);
    scratch_write_text(&dir, "in/config.json", SMALL "}");
    scratch_write_text(&dir, "in/tokenizer.json", "{}");
    for (int i = 0; i < 3; i++) {
        char *config = scratch_path(&dir, "in/config.json");
        must(init_model(config, NULL, i == 2 ? 8 : 7, scratch_path(&dir, "m"), &err), &err);
        must(file_hash(scratch_path(&dir, "m/model.safetensors"), hash[i], &err), &err);
    }
    assert_string_equal(hash[0], hash[1]);
    assert_string_not_equal(hash[0], hash[2]);
    assert_true(file_exists(scratch_path(&dir, "m/tokenizer.json")));
    assert_false(file_exists(scratch_path(&dir, "m/generation_config.json")));
    struct checkpoint *c = open_dir(scratch_path(&dir, "m"), NULL);
    const struct tensor *q0 = checkpoint_find(c, "model.layers.0.self_attn.q_proj.weight"),
                        *q1 = checkpoint_find(c, "model.layers.1.self_attn.q_proj.weight");
    assert_normal(q0, 0.5);
    assert_memory_not_equal(q0->data, q1->data, q0->n_items * sizeof(float));
    checkpoint_close(c);
    scratch_close(&dir);
}

static void test_refused(void **state) {
    struct scratch dir;
    struct err err = {0};
    (void)state;
    scratch_open(&dir);
    char *config = scratch_write_text(&dir, "config.json", "{\"model_type\":\"mamba\"}");
    assert_int_equal(init_model(config, NULL, 1, scratch_path(&dir, "m"), &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "mamba"));
    assert_false(file_exists(scratch_path(&dir, "m")));
    scratch_close(&dir);
}

/* --- predictors ------------------------------------------------------------------------------------------------------- */

/* A small model with an initial predictor beside it. */
static struct checkpoint *start(const struct scratch *dir, struct schedule *s, const char *config) {
    struct err err = {0};
    char *path = scratch_write_text(dir, "in/config.json", config);
    must(init_model(path, NULL, 1, scratch_path(dir, "m"), &err), &err);
    struct checkpoint *dense = open_dir(scratch_path(dir, "m"), NULL);
    must(init_added(checkpoint_config(dense), s, scratch_path(dir, "m"), &err), &err);
    checkpoint_close(dense);
    return open_dir(scratch_path(dir, "m"), NULL);
}

static void test_trunk(void **state) {
    struct schedule s = schedule_default();
    struct scratch dir;
    struct err err = {0};
    struct predictor_layer layer;
    (void)state;
    s.window = 9;
    s.threshold = 0.625;
    s.start_bias = 3;
    s.predictor_activation = ACT_GELU;
    scratch_open(&dir);
    struct checkpoint *c = start(&dir, &s, SMALL "}");
    const struct predictor_config *p = checkpoint_predictor(c);
    assert_true(p->window == 9 && p->threshold == 0.625 && p->act == ACT_GELU && p->sigmoid && !p->strict);
    assert_int_equal(p->input, PREDICTOR_NORMED);
    for (int l = 0; l < 2; l++) {
        must(predictor_layer_read(c, l, &layer, &err), &err);
        assert_int_equal(layer.hidden, 16);
        assert_true(layer.b2[0] == 3 && layer.b2[1] == 3 && layer.b1[15] == 0);
        predictor_layer_free(&layer);
    }
    assert_normal(checkpoint_find(c, "model.layers.1.self_attn.utility_predictor.fc1.weight"), 0.125);
    assert_normal(checkpoint_find(c, "model.layers.1.self_attn.utility_predictor.fc2.weight"), 0.025);
    assert_loads(c);
    checkpoint_close(c);
    s.predictor_hidden = 5;
    c = start(&dir, &s, SMALL "}");
    must(predictor_layer_read(c, 0, &layer, &err), &err);
    assert_int_equal(layer.hidden, 5);
    predictor_layer_free(&layer);
    checkpoint_close(c);
    scratch_close(&dir);
}

static void test_other_kinds(void **state) {
    static const enum predictor_kind kinds[] = {PREDICTOR_LINEAR, PREDICTOR_STATIC, PREDICTOR_STATIC_LAYER};
    static const size_t hidden[] = {64, 0, 0};
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct schedule s = schedule_default();
        struct predictor_layer layer;
        struct scratch dir;
        struct err err = {0};
        s.predictor_kind = kinds[i];
        scratch_open(&dir);
        struct checkpoint *c = start(&dir, &s, SMALL "}");
        must(predictor_layer_read(c, 1, &layer, &err), &err);
        assert_int_equal(layer.hidden, hidden[i]);
        assert_true(!layer.fc1 && !layer.b1 && !layer.fc2 == !hidden[i] && layer.b2[1] == 5);
        predictor_layer_free(&layer);
        assert_loads(c);
        checkpoint_close(c);
        scratch_close(&dir);
    }
}

/* Updates that change nothing yet, of the projections that are asked for; gates or none beside them. */
static void test_lora(void **state) {
    (void)state;
    for (int dense = 0; dense < 2; dense++) {
        struct schedule s = schedule_default();
        struct scratch dir;
        s.trained = TRAIN_LORA;
        s.lora_r = 24;
        s.lora_alpha = dense ? 6 : 0;
        s.lora_targets = dense ? LORA_ALL : LORA_ATTENTION;
        if (dense)
            snprintf(s.policy, sizeof s.policy, "full");
        scratch_open(&dir);
        struct checkpoint *c = start(&dir, &s, SMALL "}");
        assert_int_equal(checkpoint_predictor(c) != NULL, !dense);
        assert_int_equal(checkpoint_added(c)->lora_r, 24);
        assert_true(checkpoint_added(c)->lora_alpha == (dense ? 6 : 48));
        assert_normal(checkpoint_find(c, "model.layers.1.self_attn.k_proj.lora_A.weight"), 0.125);
        assert_constant(checkpoint_find(c, "model.layers.1.self_attn.k_proj.lora_B.weight"), 0);
        assert_int_equal(checkpoint_find(c, "model.layers.0.mlp.down_proj.lora_A.weight") != NULL, dense);
        assert_loads(c);
        checkpoint_close(c);
        scratch_close(&dir);
    }
}

/* A layer with a sliding window of its own gets none. */
static void test_sliding(void **state) {
    struct schedule s = schedule_default();
    struct scratch dir;
    (void)state;
    scratch_open(&dir);
    struct checkpoint *c = start(&dir, &s, "{\"model_type\":\"qwen3\",\"hidden_size\":64,\"intermediate_size\":96,"
                                           "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
                                           "\"head_dim\":16,\"vocab_size\":512,\"use_sliding_window\":true,"
                                           "\"sliding_window\":8,\"layer_types\":[\"sliding_attention\","
                                           "\"full_attention\"]}");
    assert_int_equal(checkpoint_config(c)->layers[0].sliding_window, 8);
    assert_null(checkpoint_find(c, "model.layers.0.self_attn.utility_predictor.fc2.bias"));
    assert_non_null(checkpoint_find(c, "model.layers.1.self_attn.utility_predictor.fc2.bias"));
    assert_loads(c);
    checkpoint_close(c);
    scratch_close(&dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families), cmocka_unit_test(test_deterministic), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_trunk),    cmocka_unit_test(test_other_kinds),   cmocka_unit_test(test_sliding),
        cmocka_unit_test(test_lora),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
