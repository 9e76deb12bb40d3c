/* Model directories: single files and shards, predictors in every placement, hashes against an independent computation
 * (scripts/reference/make_hash_case.py), and what a broken directory says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "engine/predictor.h"
#include "engine/shards.h"
#include "tests/small_model.h"

/* --- models ----------------------------------------------------------------------------------------------------------- */

static void test_single(void **state) {
    struct scratch s;
    (void)state;
    scratch_open(&s);
    write_model(&s, CONFIG "}");
    struct checkpoint *c = must_open(&s, NULL);
    assert_string_equal(checkpoint_dir(c), s.dir);
    assert_int_equal(checkpoint_config(c)->n_kv_heads, 2);
    assert_null(checkpoint_predictor(c));
    assert_null(checkpoint_warning(c));
    assert_int_equal(checkpoint_n_tensors(c), 4);
    for (size_t i = 1; i < 4; i++)
        assert_true(strcmp(checkpoint_tensor(c, i - 1)->name, checkpoint_tensor(c, i)->name) < 0);
    const struct tensor *t = checkpoint_find(c, "model.norm.weight");
    assert_true(dtype_load(t->data, t->dtype, 2) == 9.0 / 8);
    assert_null(checkpoint_find(c, "model.norm"));
    checkpoint_close(c);
    checkpoint_close(NULL);
    scratch_close(&s);
}

static void expect_require(const struct checkpoint *c, const char *name, int n_dims, size_t rows, size_t cols,
                           const char *where, const char *message) {
    const struct tensor *t;
    struct err err = {0};
    assert_int_equal(checkpoint_require(c, name, n_dims, rows, cols, &t, &err), ERR_INPUT);
    assert_null(t);
    assert_non_null(strstr(err.where, where));
    assert_string_equal(err.message, message);
}

static void test_require(void **state) {
    struct scratch s;
    const struct tensor *t;
    (void)state;
    scratch_open(&s);
    write_model(&s, CONFIG "}");
    struct checkpoint *c = must_open(&s, NULL);
    assert_int_equal(checkpoint_require(c, ATTENTION "k_proj.weight", 2, 4, 8, &t, NULL), OK);
    assert_ptr_equal(t, checkpoint_find(c, ATTENTION "k_proj.weight"));
    assert_int_equal(checkpoint_require(c, "model.norm.weight", 1, 8, 99, &t, NULL), OK);
    expect_require(c, ATTENTION "k_proj.weight", 2, 2, 8, "model.safetensors",
                   "tensor model.layers.0.self_attn.k_proj.weight is 4x8, expected 2x8\n(num_key_value_heads is 2 and "
                   "head_dim 2 in config.json: is the config of another model beside these weights?)");
    expect_require(c, "model.embed_tokens.weight", 2, 17, 8, "model.safetensors",
                   "tensor model.embed_tokens.weight is 16x8, expected 17x8\n(vocab_size is 16 and hidden_size 8 in "
                   "config.json: is the config of another model beside these weights?)");
    expect_require(c, "model.norm.weight", 2, 8, 1, "model.safetensors",
                   "tensor model.norm.weight is 8, expected 8x1\n(hidden_size is 8 in config.json: is the config of another "
                   "model beside these weights?)");
    expect_require(c, "lm_head.weight", 2, 16, 8, s.dir,
                   "tensor lm_head.weight is missing\n(tie_word_embeddings is false in config.json: set it to true if the "
                   "output layer is the embedding)");
    expect_require(c, "model.layers.1.input_layernorm.weight", 1, 8, 0, s.dir,
                   "tensor model.layers.1.input_layernorm.weight is missing\n(is the config of another model beside these "
                   "weights, or is a shard missing?)");
    checkpoint_close(c);
    scratch_close(&s);
}

static void write_shards(const struct scratch *s) {
    struct maker m = {0};
    maker_add(&m, "model.embed_tokens.weight", 1, 16, 8, 0);
    maker_add(&m, "model.norm.weight", 100, 8, 0, 0); /* the index takes it from the other shard */
    maker_write(&m, s, "model-00001-of-00002.safetensors");
    maker_add(&m, ATTENTION "k_proj.weight", 5, 4, 8, 0);
    maker_add(&m, "model.norm.weight", 7, 8, 0, 0);
    maker_write(&m, s, "model-00002-of-00002.safetensors");
    scratch_write_text(s, "config.json", CONFIG "}");
    scratch_write_text(s, "model.safetensors.index.json",
                       "{\"metadata\":{\"total_size\":1},\"weight_map\":{"
                       "\"model.norm.weight\":\"model-00002-of-00002.safetensors\","
                       "\"model.embed_tokens.weight\":\"model-00001-of-00002.safetensors\","
                       "\"" ATTENTION "k_proj.weight\":\"model-00002-of-00002.safetensors\"}}");
}

static void test_shards(void **state) {
    struct scratch s;
    char blob[512];
    (void)state;
    scratch_open(&s);
    write_shards(&s);
    struct checkpoint *c = must_open(&s, NULL);
    assert_int_equal(checkpoint_n_tensors(c), 3);
    const struct tensor *t = checkpoint_find(c, "model.norm.weight");
    assert_non_null(strstr(t->file, "model-00002-of-00002.safetensors"));
    assert_true(dtype_load(t->data, t->dtype, 0) == 7.0 / 8);
    checkpoint_close(c);

    /* The cache of the hub keeps blobs elsewhere and links to them. */
    snprintf(blob, sizeof blob, "%s", scratch_path(&s, "blob"));
    assert_int_equal(rename(scratch_path(&s, "model-00002-of-00002.safetensors"), blob), 0);
    must_refuse(&s, NULL, "model-00002-of-00002.safetensors", "no such file, but the index places 2 tensors in it");
    assert_int_equal(symlink("blob", scratch_path(&s, "model-00002-of-00002.safetensors")), 0);
    checkpoint_close(must_open(&s, NULL));

    /* model.safetensors is taken where it is there too. */
    write_model(&s, CONFIG "}");
    c = must_open(&s, NULL);
    assert_int_equal(checkpoint_n_tensors(c), 4);
    checkpoint_close(c);
    scratch_close(&s);
}

static void test_index_refused(void **state) {
    static const char *const names[] = {
        "../model-00001-of-00002.safetensors", "/etc/x.safetensors", "a/b.safetensors", "", ".", "..", "model.bin",
        ".safetensors", "..safetensors", "x.safetensors/",
    };
    static const struct {
        const char *index, *message;
    } bad[] = {
        {"{}", "\"weight_map\" is missing or empty"},
        {"{\"weight_map\":{}}", "\"weight_map\" is missing or empty"},
        {"{\"weight_map\":[1]}", "\"weight_map\" is an array"},
        {"{\"weight_map\":{\"a\":1}}", "gives no file name for a"},
        {"{\"weight_map\":{\"a\":null}}", "gives no file name for a"},
        {"{\"weight_map\":{\"a\":{\"file\":\"x\"}}}", "gives no file name for a"},
        {"[]", "object was expected"},
        {"{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\",\"a\":\"model-00002-of-00002.safetensors\"}}",
         "duplicate"},
    };
    struct scratch s;
    char index[256], expected[128];
    (void)state;
    scratch_open(&s);
    write_shards(&s);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        scratch_write_text(&s, "model.safetensors.index.json", bad[i].index);
        must_refuse(&s, NULL, "model.safetensors.index.json", bad[i].message);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_false(shard_name_is_plain(names[i]));
        snprintf(index, sizeof index, "{\"weight_map\":{\"w\":\"%s\"}}", names[i]);
        snprintf(expected, sizeof expected, "places w in \"%s\", which is no plain file name", names[i]);
        scratch_write_text(&s, "model.safetensors.index.json", index);
        must_refuse(&s, NULL, "model.safetensors.index.json", expected);
    }
    scratch_write_text(&s, "model.safetensors.index.json",
                       "{\"weight_map\":{\"model.absent\":\"model-00001-of-00002.safetensors\"}}");
    must_refuse(&s, NULL, "model-00001-of-00002.safetensors", "tensor model.absent is not here");
    scratch_close(&s);
}

static void test_broken_directories(void **state) {
    struct scratch s;
    struct checkpoint *c;
    struct err err = {0};
    (void)state;
    scratch_open(&s);
    must_refuse(&s, NULL, "config.json", "give the folder of a Hugging Face model");
    scratch_write_text(&s, "config.json", CONFIG "}");
    must_refuse(&s, NULL, s.dir, "neither model.safetensors nor model.safetensors.index.json");
    scratch_write_text(&s, "model.safetensors", "short");
    must_refuse(&s, NULL, "model.safetensors", "5 bytes are too few");
    write_model(&s, "{\"model_type\":\"bert\"}");
    must_refuse(&s, NULL, "config.json", "model type \"bert\"");
    assert_int_equal(checkpoint_open(scratch_path(&s, "none"), NULL, &c, &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "there is no such folder"));
    err = (struct err){0};
    assert_int_equal(checkpoint_open(scratch_path(&s, "config.json"), NULL, &c, &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "this is a file"));
    scratch_close(&s);
}

/* --- predictors ------------------------------------------------------------------------------------------------------- */

/* A dense model in S, and in S/other a trunk with PEFT's names and a window of 9. */
static void write_other(const struct scratch *s, const char *config) {
    struct maker m = {0};
    maker_add_trunk(&m, "base_model.model." PREDICTOR);
    maker_write(&m, s, "other/spkv.safetensors");
    scratch_write_text(s, "other/spkv_config.json", config);
}

static void test_placements(void **state) {
    struct scratch s;
    struct maker m = {0};
    (void)state;
    scratch_open(&s);
    write_model(&s, CONFIG "}");
    write_other(&s, "{\"window\":9}");
    struct checkpoint *c = must_open(&s, scratch_path(&s, "other")); /* in a directory of its own */
    assert_int_equal(checkpoint_predictor(c)->window, 9);
    assert_int_equal(checkpoint_n_tensors(c), 8);
    assert_non_null(strstr(checkpoint_find(c, PREDICTOR "fc2.bias")->file, "other/spkv.safetensors"));
    checkpoint_close(c);

    maker_add_model(&m); /* among the tensors, static gates */
    maker_add(&m, PREDICTOR "fc2.bias", 4, 2, 0, 0);
    maker_write(&m, &s, "model.safetensors");
    scratch_write_text(&s, "config.json", CONFIG ",\"spkv\":{\"window\":5}}");
    c = must_open(&s, NULL);
    assert_int_equal(checkpoint_predictor(c)->window, 5);
    assert_int_equal(checkpoint_n_tensors(c), 5);
    assert_null(checkpoint_warning(c));
    checkpoint_close(c);
    c = must_open(&s, scratch_path(&s, "other")); /* a directory that is asked for replaces them all */
    assert_int_equal(checkpoint_predictor(c)->window, 9);
    assert_int_equal(checkpoint_n_tensors(c), 8);
    assert_non_null(strstr(checkpoint_find(c, PREDICTOR "fc2.bias")->file, "other/spkv.safetensors"));
    checkpoint_close(c);

    scratch_write_text(&s, "config.json", CONFIG "}"); /* tensors without a configuration */
    c = must_open(&s, NULL);
    assert_null(checkpoint_predictor(c));
    assert_non_null(strstr(checkpoint_warning(c), "they are ignored"));
    checkpoint_close(c);

    write_model(&s, CONFIG ",\"spkv\":{\"window\":5}}"); /* a configuration without tensors */
    must_refuse(&s, NULL, "config.json", "no predictor tensor");
    maker_add_trunk(&m, PREDICTOR); /* beside */
    maker_write(&m, &s, "spkv.safetensors");
    scratch_write_text(&s, "spkv_config.json", "{\"window\":7}");
    c = must_open(&s, NULL);
    assert_int_equal(checkpoint_predictor(c)->window, 7);
    checkpoint_close(c);
    scratch_close(&s);
}

static void test_predictor_files_refused(void **state) {
    static const struct {
        const char *tensor, *message;
    } bad[] = {
        {"model.norm.weight", "neither of a predictor nor a low-rank update"},
        {"model.layers.2.self_attn.utility_predictor.fc2.bias", "the model has 2 layers"},
        {"model.layers.99999999999999999999.self_attn.utility_predictor.fc2.bias", "the model has 2 layers"},
        {"model.layers.-1.self_attn.utility_predictor.fc2.bias", "not named as a predictor's"},
        {"layers.0.self_attn.utility_predictor.fc2.bias", "not named as a predictor's"},
        {PREDICTOR "fc3.bias", "is unknown: a predictor has fc1 and fc2"},
        {ATTENTION "q_proj.lora_A.weight", "no configuration gives its \"r\""},
        {ATTENTION "q_proj.lora_embedding_A", "low-rank update of an unknown kind"},
    };
    struct scratch s;
    struct maker m = {0};
    (void)state;
    scratch_open(&s);
    write_model(&s, CONFIG "}");
    must_refuse(&s, scratch_path(&s, "other"), "other/spkv_config.json", "a predictor is a folder with");
    scratch_write_text(&s, "other/spkv_config.json", "{}");
    must_refuse(&s, scratch_path(&s, "other"), "other/spkv.safetensors", "fetch the predictor's weights");
    maker_write(&m, &s, "other/spkv.safetensors");
    must_refuse(&s, scratch_path(&s, "other"), "other/spkv.safetensors", "there is no tensor");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        maker_add(&m, bad[i].tensor, 1, 2, 0, 0);
        maker_write(&m, &s, "other/spkv.safetensors");
        must_refuse(&s, scratch_path(&s, "other"), "other/spkv.safetensors", bad[i].message);
    }
    maker_add(&m, PREDICTOR "fc2.bias", 1, 2, 0, 0);
    maker_add(&m, "base_model.model." PREDICTOR "fc2.bias", 1, 2, 0, 0);
    maker_write(&m, &s, "other/spkv.safetensors");
    must_refuse(&s, scratch_path(&s, "other"), "other/spkv.safetensors", "is there twice");
    write_other(&s, "{\"window\":0}");
    must_refuse(&s, scratch_path(&s, "other"), "other/spkv_config.json", "\"window\" is 0");
    scratch_close(&s);
}

/* --- hashes ----------------------------------------------------------------------------------------------------------- */

static void test_hash_definition(void **state) {
    struct checkpoint *c;
    json_t *expected = NULL;
    struct err err = {0};
    (void)state;
    assert_int_equal(json_read_object("tests/data/hash/expected.json", 1000, &expected, &err), OK);
    if (checkpoint_open("tests/data/hash", NULL, &c, &err) != OK)
        fail_msg("%s: %s", err.where, err.message);
    assert_string_equal(checkpoint_model_hash(c), json_string_value(json_object_get(expected, "model_hash")));
    assert_string_equal(checkpoint_base_hash(c), json_string_value(json_object_get(expected, "base_hash")));
    assert_string_equal(checkpoint_model_hash(c), json_string_value(json_object_get(expected, "model_hash")));
    checkpoint_close(c);
    json_decref(expected);
}

static void test_base_hash(void **state) {
    struct scratch s;
    struct maker m = {0};
    char base[33], model[33], config[256];
    (void)state;
    scratch_open(&s);
    write_model(&s, CONFIG "}");
    struct checkpoint *c = must_open(&s, NULL);
    snprintf(base, sizeof base, "%s", checkpoint_base_hash(c));
    snprintf(model, sizeof model, "%s", checkpoint_model_hash(c));
    checkpoint_close(c);

    maker_add_trunk(&m, PREDICTOR); /* a predictor among the tensors changes the model, not its base */
    maker_add_model(&m);
    maker_write(&m, &s, "model.safetensors");
    scratch_write_text(&s, "config.json", CONFIG ", \"spkv\": {\"window\": 5}}");
    c = must_open(&s, NULL);
    assert_string_equal(checkpoint_base_hash(c), base);
    assert_string_not_equal(checkpoint_model_hash(c), model);
    checkpoint_close(c);

    snprintf(config, sizeof config, "{\"base_model_hash\":\"%s\"}", base);
    write_other(&s, config);
    c = must_open(&s, scratch_path(&s, "other"));
    assert_null(checkpoint_warning(c));
    checkpoint_close(c);
    config[strlen(config) - 3] ^= 1;
    write_other(&s, config);
    c = must_open(&s, scratch_path(&s, "other"));
    assert_non_null(strstr(checkpoint_warning(c), base));
    assert_non_null(strstr(checkpoint_warning(c), "calibrate its threshold anew"));
    checkpoint_close(c);

    scratch_write_text(&s, "config.json", CONFIG ",\"rope_theta\":5000}");
    c = must_open(&s, NULL);
    assert_string_not_equal(checkpoint_base_hash(c), base);
    checkpoint_close(c);
    scratch_close(&s);
}

/* --- real files ------------------------------------------------------------------------------------------------------- */

static void test_real_models(void **state) {
    static const char *const dirs[] = {"../shared/models/stories260k", "../shared/models/stories260k-spkv"};
    const struct tensor *t;
    (void)state;
    if (!file_is_dir(dirs[0]) || !file_is_dir(dirs[1])) {
        printf("SKIP: %s is absent\n", dirs[0]);
        skip();
    }
    for (int i = 0; i < 2; i++) {
        struct checkpoint *c;
        struct err err = {0};
        if (checkpoint_open(dirs[i], NULL, &c, &err) != OK)
            fail_msg("%s: %s", err.where, err.message);
        const struct model_config *config = checkpoint_config(c);
        assert_int_equal(config->n_layers, 5);
        assert_int_equal(config->n_kv_heads, 4);
        assert_int_equal(config->head_dim, 8);
        assert_true(config->tie_embeddings && config->eos_id[0] == 2);
        assert_int_equal(checkpoint_n_tensors(c), i ? 67 : 47);
        assert_int_equal(checkpoint_require(c, "model.layers.4.self_attn.k_proj.weight", 2, 32, 64, &t, NULL), OK);
        for (size_t k = 0; k < checkpoint_n_tensors(c); k++)
            assert_int_equal(tensor_check_finite(checkpoint_tensor(c, k), NULL), OK);
        assert_int_equal(checkpoint_predictor(c) != NULL, i);
        for (int layer = 0; i == 1 && layer < 5; layer++) {
            struct predictor_layer p;
            assert_int_equal(predictor_layer_read(c, layer, &p, &err), OK);
            assert_true(p.hidden > 0 && p.fc1 && p.b1 && p.fc2 && p.b2);
            predictor_layer_free(&p);
        }
        if (i == 1)
            assert_int_equal(checkpoint_predictor(c)->window, 32);
        checkpoint_close(c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single),
        cmocka_unit_test(test_require),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_index_refused),
        cmocka_unit_test(test_broken_directories),
        cmocka_unit_test(test_placements),
        cmocka_unit_test(test_predictor_files_refused),
        cmocka_unit_test(test_hash_definition),
        cmocka_unit_test(test_base_hash),
        cmocka_unit_test(test_real_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
