/* RoPE parameters of config.json in their spellings: rope_theta + rope_scaling (until transformers 4), rope_parameters
 * (since 5), and for Gemma 3 one set per layer type. Precedence as in transformers 5.23: a non-empty rope_scaling replaces
 * rope_parameters, rope_theta inside it wins over the top level, and the top level over the type's default. */
#include <string.h>

#include "base/json.h"
#include "engine/config_reader.h"

enum { MAX_POSITIONS = 1 << 30 };

static const struct {
    const char *name;
    enum rope_type type;
} kinds[] = {
    {"default", ROPE_DEFAULT}, {"linear", ROPE_LINEAR}, {"dynamic", ROPE_DYNAMIC},
    {"llama3", ROPE_LLAMA3},   {"yarn", ROPE_YARN},
};

static void read_kind(struct config_reader *r, enum rope_type *out) {
    const char *name = "default";
    config_text(r, json_object_get(r->object, "rope_type") ? "rope_type" : "type", &name);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(name, kinds[i].name) == 0) {
            *out = kinds[i].type;
            return;
        }
    config_refuse(r, "RoPE type \"%s\" is not supported (supported: default, linear, dynamic, llama3, yarn): use a "
                     "checkpoint with one of these", name);
}

static void require_real(struct config_reader *r, const char *key, double min, double max, double *out) {
    if (!json_object_get(r->object, key))
        config_refuse(r, "RoPE parameter \"%s\" is missing: add it from the model's original config.json", key);
    config_real(r, key, min, max, out);
}

/* A key whose null means the same as its absence. */
static void optional_real(struct config_reader *r, const char *key, double min, double max, double *out) {
    if (!config_is_null(r, key))
        config_real(r, key, min, max, out);
}

static void refuse_partial(struct config_reader *r) {
    double rotated = 1;
    optional_real(r, "partial_rotary_factor", 0, 1, &rotated);
    if (rotated != 1)
        config_refuse(r, "partial_rotary_factor %g is not supported: only whole heads are rotated", rotated);
}

static void read_yarn(struct config_reader *r, int max_positions, struct rope_config *rope) {
    rope->truncate = true;
    if (config_is_null(r, "factor"))
        rope->factor = (double)max_positions / rope->original_max_positions;
    else
        require_real(r, "factor", 1e-3, 1e6, &rope->factor);
    optional_real(r, "attention_factor", 1e-3, 1e3, &rope->attention_factor);
    optional_real(r, "mscale", 0, 1e3, &rope->mscale);
    optional_real(r, "mscale_all_dim", 0, 1e3, &rope->mscale_all_dim);
    optional_real(r, "beta_fast", 0, 1e6, &rope->beta_fast);
    optional_real(r, "beta_slow", 0, 1e6, &rope->beta_slow);
    config_bool(r, "truncate", &rope->truncate);
    if (rope->beta_fast == 0) /* 0 and null mean the default in transformers */
        rope->beta_fast = 32;
    if (rope->beta_slow == 0)
        rope->beta_slow = 1;
}

/* One set of parameters. `original` is the top level's original_max_position_embeddings, which wins; 0 = none. */
static void read_parameters(struct config_reader *r, int original, int max_positions, struct rope_config *rope) {
    read_kind(r, &rope->type);
    config_real(r, "rope_theta", 1.001, 1e15, &rope->theta);
    refuse_partial(r);
    if (rope->type == ROPE_LINEAR || rope->type == ROPE_DYNAMIC)
        require_real(r, "factor", 1e-3, 1e6, &rope->factor);
    if (rope->type == ROPE_DYNAMIC)
        rope->original_max_positions = max_positions;
    if (rope->type == ROPE_LLAMA3 || rope->type == ROPE_YARN) {
        rope->original_max_positions = original ? original : max_positions;
        if (!original)
            config_int(r, "original_max_position_embeddings", 1, MAX_POSITIONS, &rope->original_max_positions);
    }
    if (rope->type == ROPE_YARN)
        read_yarn(r, max_positions, rope);
    if (rope->type == ROPE_LLAMA3) {
        require_real(r, "factor", 1e-3, 1e6, &rope->factor);
        require_real(r, "low_freq_factor", 1e-6, 1e6, &rope->low_freq_factor);
        require_real(r, "high_freq_factor", 1e-6, 1e6, &rope->high_freq_factor);
        if (rope->high_freq_factor <= rope->low_freq_factor)
            config_refuse(r, "high_freq_factor %g must be greater than low_freq_factor %g", rope->high_freq_factor,
                          rope->low_freq_factor);
    }
}

/* The member of that name when it is an object; NULL when absent or null. */
static json_t *read_object(struct config_reader *r, const char *key) {
    json_t *object = NULL;
    if (r->rc == OK)
        r->rc = json_get_object(r->object, key, &object, r->where, r->err);
    return object;
}

static void read_flat(struct config_reader *r, double theta, struct model_config *out) {
    static const char *const nested[] = {"full_attention", "sliding_attention"};
    const json_t *top = r->object, *parameters = read_object(r, "rope_scaling");
    int original = 0;
    config_int(r, "original_max_position_embeddings", 1, MAX_POSITIONS, &original);
    config_real(r, "rope_theta", 1.001, 1e15, &theta);
    if (!parameters || json_object_size(parameters) == 0)
        parameters = read_object(r, "rope_parameters");
    for (int i = 0; i < 2; i++)
        if (parameters && json_object_get(parameters, nested[i]))
            config_refuse(r, "RoPE parameters per layer type (\"%s\") are read for gemma3_text only: put rope_theta and "
                             "rope_type directly into \"rope_parameters\"", nested[i]);
    out->rope[0].theta = theta;
    if (!parameters)
        return;
    r->object = parameters;
    read_parameters(r, original, out->max_positions, &out->rope[0]);
    r->object = top;
}

static void read_layer_type(struct config_reader *r, const json_t *parameters, const char *theta_key, double theta,
                            struct model_config *out, struct rope_config *rope) {
    const json_t *top = r->object;
    config_real(r, theta_key, 1.001, 1e15, &theta);
    rope->theta = theta;
    if (!parameters)
        return;
    r->object = parameters;
    read_parameters(r, 0, out->max_positions, rope);
    if (rope->type == ROPE_YARN && !rope->truncate) /* it looks for the key outside the per-layer objects, where it is not */
        config_refuse(r, "\"truncate\": false is ignored by transformers for gemma3_text, so the meant model is unclear: "
                         "remove it");
    r->object = top;
}

/* Gemma 3: one set for full layers (rope_theta, rope_scaling), one for sliding layers (rope_local_base_freq). */
static void read_per_layer_type(struct config_reader *r, double theta, double local_theta, struct model_config *out) {
    json_t *scaling = read_object(r, "rope_scaling"), *parameters = read_object(r, "rope_parameters");
    json_t *full = NULL, *sliding = NULL, *merged = NULL, *value;
    const char *key;
    if (parameters) {
        json_object_foreach(parameters, key, value)
            if (strcmp(key, "full_attention") != 0 && strcmp(key, "sliding_attention") != 0)
                config_refuse(r, "\"rope_parameters\" of gemma3_text holds one object per layer type, \"full_attention\" "
                                 "and \"sliding_attention\", not \"%s\": move it into them", key);
        struct config_reader inner = {parameters, r->where, r->err, r->rc};
        full = read_object(&inner, "full_attention");
        sliding = read_object(&inner, "sliding_attention");
        r->rc = inner.rc;
    }
    if (r->rc == OK && scaling) {
        if (json_object_get(scaling, "type") && !json_object_get(scaling, "rope_type"))
            config_refuse(r, "\"rope_scaling\" says \"type\", which transformers ignores for gemma3_text: rename it to "
                             "\"rope_type\"");
        merged = full ? json_copy(full) : json_object();
        if (!merged || json_object_update(merged, scaling) != 0)
            r->rc = err_memory(r->err, "RoPE parameters", 0);
        full = merged;
    }
    out->n_rope = 2;
    read_layer_type(r, full, "rope_theta", theta, out, &out->rope[0]);
    read_layer_type(r, sliding, "rope_local_base_freq", local_theta, out, &out->rope[1]);
    json_decref(merged);
}

void config_rope(struct config_reader *r, double theta, double local_theta, struct model_config *out) {
    refuse_partial(r);
    out->n_rope = 1;
    if (local_theta > 0)
        read_per_layer_type(r, theta, local_theta, out);
    else
        read_flat(r, theta, out);
}
