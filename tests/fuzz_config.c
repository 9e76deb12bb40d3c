/* Any bytes as config.json (its member "generation" as generation_config.json, its member "spkv" and itself as a predictor's
 * configuration): refused, or a configuration whose numbers are in range and whose RoPE tables are finite. */
#include <math.h>
#include <stdint.h>

#include "base/json.h"
#include "engine/config.h"
#include "engine/rope.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ropes(const struct model_config *c) {
    enum { MAX_HEAD_DIM = 256 };
    float table[3 * MAX_HEAD_DIM];
    size_t n_pos = c->max_positions < 3 ? (size_t)c->max_positions : 3;
    for (int kind = 0; kind < c->n_rope && c->head_dim <= MAX_HEAD_DIM; kind++) {
        ASSERT(rope_table(&c->rope[kind], c->head_dim, c->max_positions, n_pos, table, NULL) == OK);
        for (size_t i = 0; i < n_pos * (size_t)c->head_dim; i++)
            ASSERT(isfinite(table[i]));
    }
}

static void check_config(const struct model_config *c) {
    ASSERT(c->n_layers > 0 && c->d_model > 0 && c->d_ffn > 0 && c->vocab_size > 0 && c->max_positions > 0);
    ASSERT(c->n_heads > 0 && c->n_kv_heads > 0 && c->n_heads % c->n_kv_heads == 0);
    ASSERT(c->head_dim > 0 && c->head_dim % 2 == 0);
    ASSERT(isfinite(c->attention_scale) && c->attention_scale > 0 && isfinite(c->embed_scale) && c->embed_scale > 0);
    ASSERT(c->n_eos >= 0 && c->n_eos <= MAX_EOS_IDS && c->n_rope >= 1 && c->n_rope <= 2);
    for (int i = 0; i < c->n_layers; i++) {
        ASSERT(c->layers[i].sliding_window >= 0);
        ASSERT(c->layers[i].rope_kind >= 0 && c->layers[i].rope_kind < c->n_rope);
    }
    check_ropes(c);
}

static void try_predictor(const json_t *object) {
    struct predictor_config predictor;
    struct err err = {0};
    int rc = predictor_config_read(object, "input", &predictor, &err);
    ASSERT(rc == err.code && (rc == OK || rc == ERR_INPUT));
    ASSERT(rc != OK || (predictor.window > 0 && isfinite(predictor.threshold)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct model_config config;
    struct err err = {0};
    json_t *object = NULL, *generation, *spkv;
    if (json_parse_object((const char *)data, size, "input", &object, &err) != OK)
        return 0;
    generation = json_object_get(object, "generation");
    spkv = json_object_get(object, "spkv");
    if (!json_is_object(generation))
        generation = NULL;
    int rc = model_config_parse(object, "input", generation, "generation", &config, &err);
    ASSERT(rc == err.code && (rc == OK || rc == ERR_INPUT));
    if (rc == OK)
        check_config(&config);
    model_config_free(&config);
    try_predictor(object);
    if (json_is_object(spkv))
        try_predictor(spkv);
    json_decref(object);
    return 0;
}
