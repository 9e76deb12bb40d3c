/* small_model.h - tiny model directories for tests: tensors of known values, a llama of two layers, a predictor. */
#ifndef SPKV_TESTS_SMALL_MODEL_H
#define SPKV_TESTS_SMALL_MODEL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/str.h"
#include "engine/checkpoint.h"
#include "tests/scratch.h"

/* A config.json but for its closing brace: d_model 8, 4 heads, 2 KV heads of 2. */
#define CONFIG \
    "{\"model_type\":\"llama\",\"hidden_size\":8,\"intermediate_size\":12,\"num_hidden_layers\":2," \
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":16"
#define ATTENTION "model.layers.0.self_attn."
#define PREDICTOR ATTENTION "utility_predictor."

/* A safetensors file being made; a zeroed struct is an empty one. */
struct maker {
    struct str header, data;
};

/* An f32 tensor of values base / 8, (base + 1) / 8, ...; dimensions until the first 0. */
void maker_add(struct maker *m, const char *name, float base, size_t a, size_t b, size_t c);
void maker_add_model(struct maker *m);                     /* embedding, q and k of layer 0, last norm */
void maker_add_trunk(struct maker *m, const char *prefix); /* a predictor of width 3 */
void maker_write(struct maker *m, const struct scratch *s, const char *name); /* empties the maker */

/* model.safetensors and config.json. */
void write_model(const struct scratch *s, const char *config);

/* Opens the directory; a refusal fails the test. */
struct checkpoint *must_open(const struct scratch *s, const char *predictor_dir);

/* Demands ERR_INPUT with these parts in `where` and `message`. */
void must_refuse(const struct scratch *s, const char *predictor_dir, const char *where, const char *message);

#endif
