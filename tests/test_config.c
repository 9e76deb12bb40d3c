/* config.json of every supported type against what transformers makes of it (tests/data/config/cases.json, written by
 * scripts/reference/make_config_cases.py), and what is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "engine/config.h"
#include "engine/rope.h"
#include "tests/scratch.h"

enum { MAX_HALF = 1024 };

static int n_frequencies, n_bitwise;

/* --- against transformers --------------------------------------------------------------------------------------------- */

static double number(const json_t *expect, const char *key) {
    const json_t *value = json_object_get(expect, key);
    if (json_is_boolean(value))
        return json_is_true(value);
    if (!json_is_number(value))
        fail_msg("the expectation has no number %s", key);
    return json_number_value(value);
}

static void same(const char *name, const char *key, double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance * fabs(want)))
        fail_msg("%s: %s is %.17g, transformers says %.17g", name, key, got, want);
}

static enum act act_of(const char *class_name) {
    if (strcmp(class_name, "SiLUActivation") == 0 || strcmp(class_name, "SiLU") == 0)
        return ACT_SILU;
    if (strcmp(class_name, "GELUTanh") == 0 || strcmp(class_name, "PytorchGELUTanh") == 0)
        return ACT_GELU_TANH;
    if (strcmp(class_name, "GELUActivation") == 0)
        return ACT_GELU;
    fail_msg("unknown activation class %s", class_name);
    return ACT_NONE;
}

static void compare_scalars(const char *name, const struct model_config *c, const json_t *e) {
    const struct {
        const char *key;
        double got, tolerance;
    } fields[] = {
        {"n_layers", c->n_layers, 0},
        {"d_model", c->d_model, 0},
        {"vocab_size", c->vocab_size, 0},
        {"n_heads", c->n_heads, 0},
        {"n_kv_heads", c->n_kv_heads, 0},
        {"head_dim", c->head_dim, 0},
        {"d_ffn", c->d_ffn, 0},
        {"max_positions", c->max_positions, 0},
        {"rms_norm_eps", c->rms_norm_eps, 0},
        {"qkv_bias", c->qkv_bias, 0},
        {"o_bias", c->o_bias, 0},
        {"mlp_bias", c->mlp_bias, 0},
        {"qk_norm", c->qk_norm, 0},
        {"norm_plus_one", c->norm_plus_one, 0},
        {"sandwich_norms", c->sandwich_norms, 0},
        {"tie_embeddings", c->tie_embeddings, 0},
        {"embed_scale", c->embed_scale, 0x1p-24}, /* f32, stored short */
        {"attention_scale", c->attention_scale, 4 * 0x1p-53}, /* x ** -0.5 there, 1 / sqrt(x) here */
        {"attention_softcap", c->attention_softcap, 0},
        {"final_softcap", c->final_softcap, 0},
        {"bos_id", c->bos_id, 0},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        same(name, fields[i].key, fields[i].got, number(e, fields[i].key), fields[i].tolerance);
    assert_int_equal(c->ffn_act, act_of(json_string_value(json_object_get(e, "act"))));
}

static void compare_lists(const char *name, const struct model_config *c, const json_t *e) {
    const json_t *windows = json_object_get(e, "windows"), *rope = json_object_get(e, "rope");
    const json_t *kinds = json_object_get(e, "rope_kind"), *eos = json_object_get(e, "eos_id");
    assert_int_equal(json_array_size(windows), c->n_layers);
    for (int i = 0; i < c->n_layers; i++) {
        size_t k = (size_t)i;
        same(name, "sliding_window", c->layers[i].sliding_window, (double)json_integer_value(json_array_get(windows, k)), 0);
        same(name, "rope", c->layers[i].rope, json_is_true(json_array_get(rope, k)), 0);
        same(name, "rope_kind", c->layers[i].rope_kind, (double)json_integer_value(json_array_get(kinds, k)), 0);
    }
    same(name, "n_eos", c->n_eos, (double)json_array_size(eos), 0);
    for (int i = 0; i < c->n_eos; i++)
        same(name, "eos_id", c->eos_id[i], (double)json_integer_value(json_array_get(eos, (size_t)i)), 0);
}

/* torch's power function may differ in the last bit, and the blend of llama3 magnifies that: smooth = (L / wavelength - low)
 * / (high - low) is off by eps high / (high - low), the result by as much over its share 1 / factor of the frequency. */
static void compare_ropes(const char *name, const struct model_config *c, const json_t *e) {
    const json_t *ropes = json_object_get(e, "ropes");
    float inv_freq[MAX_HALF], factor;
    assert_int_equal(json_array_size(ropes), c->n_rope);
    assert_true(c->head_dim / 2 <= MAX_HALF);
    for (int kind = 0; kind < c->n_rope; kind++) {
        const struct rope_config *rope = &c->rope[kind];
        const json_t *want = json_object_get(json_array_get(ropes, (size_t)kind), "inv_freq");
        double tolerance = 2 * 0x1p-23;
        if (rope->type == ROPE_LLAMA3)
            tolerance *= 1 + rope->factor * rope->high_freq_factor / (rope->high_freq_factor - rope->low_freq_factor);
        rope_frequencies(rope, c->head_dim, inv_freq, &factor);
        assert_int_equal(json_array_size(want), c->head_dim / 2);
        for (int i = 0; i < c->head_dim / 2; i++) {
            double expected = (double)(float)json_number_value(json_array_get(want, (size_t)i)); /* stored short */
            same(name, "inv_freq", (double)inv_freq[i], expected, tolerance);
            n_frequencies++;
            n_bitwise += (double)inv_freq[i] == expected;
        }
        same(name, "attention_factor", (double)factor, number(json_array_get(ropes, (size_t)kind), "attention_factor"),
             0x1p-24);
    }
}

static json_t *read_cases(const char *path) {
    json_error_t problem;
    json_t *cases = json_load_file(path, 0, &problem);
    if (!cases)
        fail_msg("%s: %s (tests run from the project root)", path, problem.text);
    return cases;
}

static void test_cases(void **state) {
    json_t *cases = read_cases("tests/data/config/cases.json"), *item;
    size_t i;
    (void)state;
    assert_true(json_array_size(cases) >= 25);
    json_array_foreach(cases, i, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        const json_t *generation = json_object_get(item, "generation"), *expect = json_object_get(item, "expect");
        struct model_config config;
        struct err err = {0};
        int rc = model_config_parse(json_object_get(item, "config"), "config.json",
                                    json_is_null(generation) ? NULL : generation, "generation_config.json", &config, &err);
        if (rc != OK)
            fail_msg("%s: %s: %s", name, err.where, err.message);
        compare_scalars(name, &config, expect);
        compare_lists(name, &config, expect);
        compare_ropes(name, &config, expect);
        model_config_free(&config);
    }
    printf("%zu configurations, %d of %d frequencies equal to the last bit\n", json_array_size(cases), n_bitwise,
           n_frequencies);
    assert_true(n_bitwise > 0.95 * n_frequencies); /* the rounding of the power function is the only difference */
    json_decref(cases);
}

/* --- refused ---------------------------------------------------------------------------------------------------------- */

#define SMALL \
    "\"hidden_size\":32,\"intermediate_size\":48,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"vocab_size\":64"
#define LLAMA "{\"model_type\":\"llama\"," SMALL
#define QWEN "{\"model_type\":\"qwen3\",\"num_key_value_heads\":2,\"head_dim\":8," SMALL
#define GEMMA "{\"model_type\":\"gemma3_text\",\"head_dim\":8," SMALL

static const struct {
    const char *text, *message; /* a part of the message that names the culprit */
} refused[] = {
    {"{}", "\"model_type\" is missing"},
    {"{\"model_type\": 3}", "\"model_type\" is an integer"},
    {"{\"model_type\": null}", "\"model_type\" is null"},
    {"{\"model_type\": \"gpt2\"}", "model type \"gpt2\" is not supported (supported: llama, mistral"},
    {"{\"model_type\": \"gemma3\"}", "save the text model"},
    {LLAMA ",\"hidden_size\":32}", "duplicate"},
    {"{\"model_type\":\"llama\",\"hidden_size\":0}", "\"hidden_size\" is 0"},
    {"{\"model_type\":\"llama\",\"hidden_size\":-32}", "\"hidden_size\" is -32"},
    {"{\"model_type\":\"llama\",\"hidden_size\":4611686018427387904}", "\"hidden_size\" is 4611686018427387904"},
    {"{\"model_type\":\"llama\",\"hidden_size\":\"32\"}", "\"hidden_size\" is a string"},
    {"{\"model_type\":\"llama\",\"hidden_size\":null}", "\"hidden_size\" is null"},
    {"{\"model_type\":\"llama\",\"hidden_size\":32.5}", "\"hidden_size\" is a real number"},
    {"{\"model_type\":\"llama\",\"num_hidden_layers\":1000000000}", "\"num_hidden_layers\" is 1000000000"},
    {"{\"model_type\":\"llama\",\"hidden_size\":34,\"num_attention_heads\":4}", "give \"head_dim\""},
    {LLAMA ",\"head_dim\":7}", "head_dim 7"},
    {LLAMA ",\"head_dim\":0}", "\"head_dim\" is 0"},
    {LLAMA ",\"num_key_value_heads\":3}", "cannot share 3 key-value heads"},
    {"{\"model_type\":\"mistral\"," SMALL "}", "(it is absent)"}, /* its default of 8 does not fit 4 heads */
    {"{\"model_type\":\"gemma2\",\"num_key_value_heads\":null}", "\"num_key_value_heads\" is null"},
    {"{\"model_type\":\"qwen3\",\"head_dim\":null}", "\"head_dim\" is null"},
    {LLAMA ",\"hidden_act\":\"relu\"}", "activation \"relu\""},
    {GEMMA ",\"hidden_activation\":\"relu\"}", "activation \"relu\" in \"hidden_activation\""},
    {LLAMA ",\"tie_word_embeddings\":1}", "\"tie_word_embeddings\" is an integer"},
    {LLAMA ",\"tie_word_embeddings\":null}", "\"tie_word_embeddings\" is null"},
    {LLAMA ",\"rms_norm_eps\":-1}", "\"rms_norm_eps\" is -1"},
    {LLAMA ",\"torch_dtype\":\"float8_e4m3fn\"}", "torch_dtype \"float8_e4m3fn\""},
    {LLAMA ",\"torch_dtype\":\"float32\",\"dtype\":\"int8\"}", "dtype \"int8\""},
    {LLAMA ",\"quantization_config\":{\"bits\":4}}", "\"quantization_config\""},
    {LLAMA ",\"per_layer_config\":{}}", "\"per_layer_config\""},
    {LLAMA ",\"partial_rotary_factor\":0.5}", "partial_rotary_factor 0.5"},
    {LLAMA ",\"eos_token_id\":\"</s>\"}", "\"eos_token_id\" is a string"},
    {LLAMA ",\"eos_token_id\":[1,\"2\"]}", "\"eos_token_id\"[1]"},
    {LLAMA ",\"eos_token_id\":[1,-2]}", "\"eos_token_id\"[1]"},
    {LLAMA ",\"eos_token_id\":-1}", "\"eos_token_id\" is -1"},
    {LLAMA ",\"eos_token_id\":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}", "17 entries"},
    {LLAMA ",\"layer_types\":[\"full_attention\"]}", "\"layer_types\" has 1 entries for 2 layers"},
    {LLAMA ",\"layer_types\":[\"full_attention\",\"sliding_attention\"],\"sliding_window\":4}", "ignores for llama"},
    {QWEN ",\"layer_types\":[\"full_attention\",\"chunked_attention\"]}", "\"chunked_attention\" of layer 1"},
    {QWEN ",\"layer_types\":[\"full_attention\",7]}", "\"layer_types\"[1] is not a string"},
    {QWEN ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", "use_sliding_window is false"},
    {QWEN ",\"use_sliding_window\":true,\"sliding_window\":0}", "\"sliding_window\" is 0"},
    {QWEN ",\"use_sliding_window\":true,\"sliding_window\":null,"
          "\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", "\"sliding_window\" is not given"},
    {GEMMA ",\"sliding_window\":null}", "layer 0 is a sliding layer"},
    {GEMMA ",\"sliding_window_pattern\":0}", "\"sliding_window_pattern\" is 0"},
    {GEMMA ",\"use_bidirectional_attention\":true}", "\"use_bidirectional_attention\""},
    {GEMMA ",\"attn_logit_softcapping\":0}", "\"attn_logit_softcapping\" is 0"},
    {GEMMA ",\"query_pre_attn_scalar\":0}", "\"query_pre_attn_scalar\" is 0"},
    {GEMMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}", "rename it to \"rope_type\""},
    {GEMMA ",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":5}}", "one object per layer type"},
    {GEMMA ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"yarn\",\"factor\":2,\"truncate\":false}}}",
     "\"truncate\": false"},
    {GEMMA ",\"rope_parameters\":{\"full_attention\":[]}}", "\"full_attention\" is an array"},
    {LLAMA ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}}", "gemma3_text only"},
    {LLAMA ",\"rope_scaling\":[2]}", "\"rope_scaling\" is an array"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"longrope\"}}", "RoPE type \"longrope\""},
    {LLAMA ",\"rope_scaling\":{\"type\":\"mrope\",\"mrope_section\":[1,1,2]}}", "RoPE type \"mrope\""},
    {LLAMA ",\"rope_scaling\":{\"rope_type\":null,\"type\":\"linear\"}}", "\"rope_type\" is null"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", "\"factor\" is missing"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}", "\"factor\" is 0"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2,\"partial_rotary_factor\":0.25}}", "partial_rotary_factor"},
    {LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}", "\"low_freq_factor\" is missing"},
    {LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4}}",
     "must be greater"},
    {LLAMA ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"original_max_position_embeddings\":64}}", "\"factor\" is missing"},
    {LLAMA ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2,\"original_max_position_embeddings\":0}}",
     "\"original_max_position_embeddings\" is 0"},
    {LLAMA ",\"rope_theta\":0}", "\"rope_theta\" is 0"},
    {LLAMA ",\"rope_theta\":null}", "\"rope_theta\" is null"},
    {"{\"model_type\":\"smollm3\"," SMALL ",\"no_rope_layers\":[1]}", "\"no_rope_layers\" has 1 entries for 2 layers"},
    {"{\"model_type\":\"smollm3\"," SMALL ",\"no_rope_layers\":[1,\"0\"]}", "\"no_rope_layers\"[1]"},
    {"{\"model_type\":\"smollm3\"," SMALL ",\"no_rope_layer_interval\":0}", "\"no_rope_layer_interval\" is 0"},
    {"[]", "object was expected"},
    {"{\"model_type\": \"llama\"", "not valid JSON"},
    {"{\"model_type\": \"\xff\"}", "not valid JSON"},
    {"{\"model_type\": NaN}", "not valid JSON"},
};

static int parse_text(const char *text, struct model_config *config, struct err *err) {
    json_t *object = NULL;
    int rc = json_parse_object(text, strlen(text), "config.json", &object, err);
    if (rc == OK)
        rc = model_config_parse(object, "config.json", NULL, NULL, config, err);
    json_decref(object);
    return rc;
}

static void test_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct model_config config = {0};
        struct err err = {0};
        if (parse_text(refused[i].text, &config, &err) == OK)
            fail_msg("accepted: %s", refused[i].text);
        assert_int_equal(err.code, ERR_INPUT);
        assert_string_equal(err.where, "config.json");
        assert_null(config.layers);
        if (!strstr(err.message, refused[i].message))
            fail_msg("%s\n  says \"%s\"\n  expected \"%s\"", refused[i].text, err.message, refused[i].message);
    }
}

/* What each of the refused keys is beside is fine by itself. */
static void test_accepted(void **state) {
    static const char *const accepted[] = {
        LLAMA "}", QWEN "}", GEMMA "}",
        LLAMA ",\"layer_types\":[\"full_attention\",\"full_attention\"],\"sliding_window\":4}",
        LLAMA ",\"use_bidirectional_attention\":null,\"partial_rotary_factor\":1.0,\"torch_dtype\":null,\"spkv\":{\"a\":1}}",
        LLAMA ",\"rope_scaling\":null,\"rope_parameters\":null,\"layer_types\":null,\"quantization_config\":null}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        struct model_config config;
        struct err err = {0};
        if (parse_text(accepted[i], &config, &err) != OK)
            fail_msg("%s\n  says %s", accepted[i], err.message);
        model_config_free(&config);
        model_config_free(&config); /* harmless */
    }
}

static void test_read(void **state) {
    struct scratch s;
    struct model_config config;
    struct err err = {0};
    (void)state;
    scratch_open(&s);
    assert_int_equal(model_config_read(s.dir, &config, &err), ERR_INPUT);
    assert_non_null(strstr(err.where, "config.json"));
    assert_non_null(strstr(err.message, "give the folder of a Hugging Face model"));
    scratch_write_text(&s, "config.json", LLAMA ",\"eos_token_id\":7}");
    err = (struct err){0};
    assert_int_equal(model_config_read(s.dir, &config, &err), OK);
    assert_int_equal(config.eos_id[0], 7);
    model_config_free(&config);
    scratch_write_text(&s, "generation_config.json", "{\"eos_token_id\":[8,9],\"temperature\":0.5}");
    assert_int_equal(model_config_read(s.dir, &config, &err), OK);
    assert_int_equal(config.n_eos, 2);
    assert_int_equal(config.eos_id[1], 9);
    model_config_free(&config);
    scratch_write_text(&s, "generation_config.json", "{\"eos_token_id\":true}");
    assert_int_equal(model_config_read(s.dir, &config, &err), ERR_INPUT);
    assert_non_null(strstr(err.where, "generation_config.json"));
    scratch_close(&s);
}

/* --- predictors ------------------------------------------------------------------------------------------------------- */

static int predictor_text(const char *text, struct predictor_config *out, struct err *err) {
    json_t *object = json_loads(text, 0, NULL);
    assert_non_null(object);
    int rc = predictor_config_read(object, "spkv_config.json", out, err);
    json_decref(object);
    return rc;
}

static void test_predictor(void **state) {
    struct predictor_config c;
    struct err err = {0};
    (void)state;
    assert_int_equal(predictor_text("{}", &c, &err), OK);
    assert_int_equal(c.window, 128);
    assert_true(c.threshold == 0.5 && !c.strict && c.sigmoid && c.lora_r == 0);
    assert_int_equal(c.input, PREDICTOR_NORMED);
    assert_int_equal(c.act, ACT_SILU);
    assert_int_equal(predictor_text("{\"format_version\":1,\"window\":32,\"threshold\":-4.5,\"comparison\":\">\",\"input\":"
                                    "\"residual\",\"activation\":\"gelu\",\"output\":\"identity\",\"r\":4,\"lora_alpha\":8,"
                                    "\"trained_with\":{\"steps\":1}}", &c, &err), OK);
    assert_int_equal(c.window, 32);
    assert_true(c.threshold == -4.5 && c.strict && !c.sigmoid && c.lora_r == 4 && c.lora_alpha == 8);
    assert_int_equal(c.input, PREDICTOR_RESIDUAL);
    assert_int_equal(c.act, ACT_GELU);
    assert_int_equal(predictor_text("{\"activation\":\"none\"}", &c, &err), OK);
    assert_int_equal(c.act, ACT_NONE);
}

static void test_predictor_refused(void **state) {
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"{\"format_version\":2}", "\"format_version\" 2"},
        {"{\"window\":0}", "\"window\" is 0"},
        {"{\"window\":null}", "\"window\" is null"},
        {"{\"threshold\":\"0.5\"}", "\"threshold\" is a string"},
        {"{\"comparison\":\"<\"}", "\"comparison\" is \"<\", expected >= or >"},
        {"{\"input\":\"raw\"}", "\"input\" is \"raw\""},
        {"{\"activation\":\"relu\"}", "expected silu, gelu or none"},
        {"{\"output\":\"tanh\"}", "\"output\" is \"tanh\""},
        {"{\"r\":4}", "without \"lora_alpha\""},
        {"{\"r\":0,\"lora_alpha\":1}", "\"r\" is 0"},
        {"{\"r\":4,\"lora_alpha\":8,\"use_rslora\":true}", "\"use_rslora\""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct predictor_config c;
        struct err err = {0};
        assert_int_equal(predictor_text(bad[i].text, &c, &err), ERR_INPUT);
        if (!strstr(err.message, bad[i].message))
            fail_msg("%s says \"%s\"", bad[i].text, err.message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),     cmocka_unit_test(test_refused),   cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_read),      cmocka_unit_test(test_predictor), cmocka_unit_test(test_predictor_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
