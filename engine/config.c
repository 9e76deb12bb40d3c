#include "engine/config.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "engine/config_reader.h"

/* Bounds that no model comes near; they keep every later product of sizes far from overflow. */
enum {
    MAX_LAYERS = 4096,
    MAX_WIDTH = 1 << 20,
    MAX_FFN = 1 << 22,
    MAX_VOCAB = 1 << 24,
    MAX_HEADS = 1 << 14,
    MAX_HEAD_DIM = 1 << 14,
    MAX_CONTEXT = 1 << 30,
    MAX_CONFIG_BYTES = 16 << 20,
};

enum bias_rule {
    BIAS_NONE,  /* never */
    BIAS_QKV,   /* always on q, k and v */
    BIAS_KEY,   /* on q, k, v and o where "attention_bias" is true */
};

/* What each type is when its config.json does not say: configuration_*.py of transformers 5.23. Hugging Face leaves out keys
 * that equal the default, so every one of these numbers is part of the format. */
struct type_info {
    const char *name;
    int vocab_size, d_model, d_ffn, n_layers, n_heads;
    int n_kv_heads;             /* 0 = n_heads */
    int head_dim;               /* 0 = d_model / n_heads */
    int max_positions;
    int sliding_window;         /* 0 = none */
    int bos_id, eos_id;         /* -1 = none */
    double theta, local_theta;  /* local_theta > 0: sliding layers have RoPE parameters of their own */
    double attention_softcap, final_softcap;
    enum bias_rule bias;
    bool gemma;                 /* norms 1 + weight and after each block, scaled embedding, query_pre_attn_scalar, soft caps,
                                   tanh GELU; num_key_value_heads may not be null */
    bool qk_norm, mlp_bias_key, tie_embeddings;
};

static const struct type_info types[] = {
    [MODEL_LLAMA] = {.name = "llama", .vocab_size = 32000, .d_model = 4096, .d_ffn = 11008, .n_layers = 32, .n_heads = 32,
                     .max_positions = 2048, .bos_id = 1, .eos_id = 2, .theta = 1e4, .bias = BIAS_KEY, .mlp_bias_key = true},
    [MODEL_MISTRAL] = {.name = "mistral", .vocab_size = 32000, .d_model = 4096, .d_ffn = 14336, .n_layers = 32,
                       .n_heads = 32, .n_kv_heads = 8, .max_positions = 131072, .sliding_window = 4096, .bos_id = 1,
                       .eos_id = 2, .theta = 1e4, .bias = BIAS_NONE},
    [MODEL_QWEN2] = {.name = "qwen2", .vocab_size = 151936, .d_model = 4096, .d_ffn = 22016, .n_layers = 32, .n_heads = 32,
                     .n_kv_heads = 32, .max_positions = 32768, .sliding_window = 4096, .bos_id = -1, .eos_id = -1,
                     .theta = 1e4, .bias = BIAS_QKV},
    [MODEL_QWEN3] = {.name = "qwen3", .vocab_size = 151936, .d_model = 4096, .d_ffn = 22016, .n_layers = 32, .n_heads = 32,
                     .n_kv_heads = 32, .head_dim = 128, .max_positions = 32768, .sliding_window = 4096, .bos_id = -1,
                     .eos_id = -1, .theta = 1e4, .bias = BIAS_KEY, .qk_norm = true},
    [MODEL_GEMMA2] = {.name = "gemma2", .vocab_size = 256000, .d_model = 2304, .d_ffn = 9216, .n_layers = 26, .n_heads = 8,
                      .n_kv_heads = 4, .head_dim = 256, .max_positions = 8192, .sliding_window = 4096, .bos_id = 2,
                      .eos_id = 1, .theta = 1e4, .attention_softcap = 50, .final_softcap = 30, .bias = BIAS_KEY,
                      .gemma = true, .tie_embeddings = true},
    [MODEL_GEMMA3_TEXT] = {.name = "gemma3_text", .vocab_size = 262208, .d_model = 2304, .d_ffn = 9216, .n_layers = 26,
                           .n_heads = 8, .n_kv_heads = 4, .head_dim = 256, .max_positions = 131072, .sliding_window = 4096,
                           .bos_id = 2, .eos_id = 1, .theta = 1e6, .local_theta = 1e4, .bias = BIAS_KEY, .gemma = true,
                           .qk_norm = true, .tie_embeddings = true},
    [MODEL_SMOLLM3] = {.name = "smollm3", .vocab_size = 128256, .d_model = 2048, .d_ffn = 11008, .n_layers = 36,
                       .n_heads = 16, .n_kv_heads = 4, .max_positions = 32768, .bos_id = 128000, .eos_id = 128001,
                       .theta = 2e6, .bias = BIAS_KEY, .mlp_bias_key = true, .tie_embeddings = true},
};

const char *model_type_name(enum model_type type) {
    return types[type].name;
}

/* --- typed reads ------------------------------------------------------------------------------------------------------ */

bool config_is_null(const struct config_reader *r, const char *key) {
    return json_is_null(json_object_get(r->object, key));
}

void config_refuse(struct config_reader *r, const char *format, ...) {
    char text[1024];
    va_list args;
    if (r->rc != OK)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    r->rc = err_set(r->err, ERR_INPUT, r->where, "%s", text);
}

/* False when the key need not be read: an error came before, or it is null (which is one). */
static bool readable(struct config_reader *r, const char *key) {
    if (config_is_null(r, key))
        config_refuse(r, "\"%s\" is null: give it a value, or remove it to take the type's default", key);
    return r->rc == OK;
}

void config_int(struct config_reader *r, const char *key, int min, int max, int *out) {
    int64_t value = *out;
    if (!readable(r, key))
        return;
    r->rc = json_get_int(r->object, key, min, max, &value, r->where, r->err);
    *out = (int)value;
}

void config_real(struct config_reader *r, const char *key, double min, double max, double *out) {
    if (readable(r, key))
        r->rc = json_get_real(r->object, key, min, max, out, r->where, r->err);
}

void config_bool(struct config_reader *r, const char *key, bool *out) {
    if (readable(r, key))
        r->rc = json_get_bool(r->object, key, out, r->where, r->err);
}

void config_text(struct config_reader *r, const char *key, const char **out) {
    if (readable(r, key))
        r->rc = json_get_string(r->object, key, out, r->where, r->err);
}

static json_t *read_array(struct config_reader *r, const char *key) {
    json_t *array = NULL;
    if (r->rc == OK)
        r->rc = json_get_array(r->object, key, &array, r->where, r->err);
    return array;
}

/* --- what the model is ------------------------------------------------------------------------------------------------ */

static const struct type_info *read_type(struct config_reader *r, struct model_config *out) {
    const char *name = NULL;
    config_text(r, "model_type", &name);
    if (r->rc == OK && !name)
        config_refuse(r, "\"model_type\" is missing: this is not the config.json of a Hugging Face model");
    if (r->rc != OK)
        return NULL;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(name, types[i].name) == 0) {
            out->type = (enum model_type)i;
            return &types[i];
        }
    config_refuse(r, "model type \"%s\" is not supported (supported: llama, mistral, qwen2, qwen3, gemma2, gemma3_text, "
                     "smollm3)%s", name, strcmp(name, "gemma3") == 0
                         ? ": save the text model of this multimodal checkpoint on its own, as gemma3_text" : "");
    return NULL;
}

/* Keys that would make this another model than the rest of the file says. */
static void refuse_unsupported(struct config_reader *r) {
    static const char *const dtypes[] = {"float32", "bfloat16", "float16"};
    const char *key = json_has(r->object, "dtype") ? "dtype" : "torch_dtype", *dtype = dtypes[0];
    bool bidirectional = false, known = false;
    if (json_has(r->object, "quantization_config"))
        config_refuse(r, "\"quantization_config\": quantised weights are not supported: use the checkpoint in bfloat16, "
                         "float16 or float32");
    if (json_has(r->object, "per_layer_config"))
        config_refuse(r, "\"per_layer_config\" is not supported: every layer must have the same shape");
    if (!config_is_null(r, "use_bidirectional_attention"))
        config_bool(r, "use_bidirectional_attention", &bidirectional);
    if (bidirectional)
        config_refuse(r, "\"use_bidirectional_attention\" is not supported: only causal language models are");
    if (!config_is_null(r, key))
        config_text(r, key, &dtype);
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        known |= strcmp(dtype, dtypes[i]) == 0;
    if (!known)
        config_refuse(r, "%s \"%s\" is not supported (supported: float32, bfloat16, float16): convert the weights", key,
                      dtype);
}

static void read_shape(struct config_reader *r, const struct type_info *type, struct model_config *out) {
    out->vocab_size = type->vocab_size;
    out->d_model = type->d_model;
    out->d_ffn = type->d_ffn;
    out->n_layers = type->n_layers;
    out->n_heads = type->n_heads;
    out->head_dim = type->head_dim;
    out->max_positions = type->max_positions;
    config_int(r, "vocab_size", 1, MAX_VOCAB, &out->vocab_size);
    config_int(r, "hidden_size", 1, MAX_WIDTH, &out->d_model);
    config_int(r, "intermediate_size", 1, MAX_FFN, &out->d_ffn);
    config_int(r, "num_hidden_layers", 1, MAX_LAYERS, &out->n_layers);
    config_int(r, "num_attention_heads", 1, MAX_HEADS, &out->n_heads);
    config_int(r, "max_position_embeddings", 1, MAX_CONTEXT, &out->max_positions);
    out->n_kv_heads = type->n_kv_heads ? type->n_kv_heads : out->n_heads;
    if (config_is_null(r, "num_key_value_heads") && !type->gemma)
        out->n_kv_heads = out->n_heads;
    else
        config_int(r, "num_key_value_heads", 1, MAX_HEADS, &out->n_kv_heads);
    if (!config_is_null(r, "head_dim") || type->head_dim)
        config_int(r, "head_dim", 2, MAX_HEAD_DIM, &out->head_dim);
    if (r->rc != OK)
        return;
    if (out->n_heads % out->n_kv_heads != 0)
        config_refuse(r, "%d attention heads cannot share %d key-value heads evenly: correct num_key_value_heads%s",
                      out->n_heads, out->n_kv_heads, json_has(r->object, "num_key_value_heads") ? "" : " (it is absent)");
    if (!out->head_dim && out->d_model % out->n_heads != 0)
        config_refuse(r, "hidden_size %d is no multiple of num_attention_heads %d: give \"head_dim\"", out->d_model,
                      out->n_heads);
    if (!out->head_dim)
        out->head_dim = out->d_model / out->n_heads;
    if (out->head_dim % 2 != 0 || out->head_dim > MAX_HEAD_DIM)
        config_refuse(r, "head_dim %d is not supported: it must be even and at most %d", out->head_dim, MAX_HEAD_DIM);
}

static void read_activation(struct config_reader *r, const struct type_info *type, struct model_config *out) {
    static const struct {
        const char *name;
        enum act act;
    } acts[] = {
        {"silu", ACT_SILU},
        {"swish", ACT_SILU},
        {"gelu", ACT_GELU},
        {"gelu_new", ACT_GELU_TANH},
        {"gelu_pytorch_tanh", ACT_GELU_TANH},
    };
    const char *key = type->gemma ? "hidden_activation" : "hidden_act", *name = type->gemma ? "gelu_pytorch_tanh" : "silu";
    config_text(r, key, &name);
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
        if (strcmp(name, acts[i].name) == 0) {
            out->ffn_act = acts[i].act;
            return;
        }
    config_refuse(r, "activation \"%s\" in \"%s\" is not supported (supported: silu, gelu, gelu_pytorch_tanh)", name, key);
}

static void read_biases(struct config_reader *r, const struct type_info *type, struct model_config *out) {
    bool attention = false;
    if (type->bias == BIAS_KEY)
        config_bool(r, "attention_bias", &attention);
    out->qkv_bias = attention || type->bias == BIAS_QKV;
    out->o_bias = attention;
    if (type->mlp_bias_key)
        config_bool(r, "mlp_bias", &out->mlp_bias);
}

/* A soft cap; null means none, which differs from absent. */
static double read_softcap(struct config_reader *r, const char *key, double preset) {
    if (config_is_null(r, key))
        return 0;
    config_real(r, key, 1e-6, 1e9, &preset);
    return preset;
}

static void read_numbers(struct config_reader *r, const struct type_info *type, struct model_config *out) {
    double scalar = type->gemma ? 256 : out->head_dim;
    out->rms_norm_eps = 1e-6;
    out->tie_embeddings = type->tie_embeddings;
    config_real(r, "rms_norm_eps", 0, 1, &out->rms_norm_eps);
    config_bool(r, "tie_word_embeddings", &out->tie_embeddings);
    out->qk_norm = type->qk_norm;
    out->norm_plus_one = out->sandwich_norms = type->gemma;
    out->embed_scale = 1;
    if (type->gemma) {
        config_real(r, "query_pre_attn_scalar", 1e-6, 1e9, &scalar);
        out->embed_scale = (double)(float)sqrt(out->d_model);
        out->attention_softcap = read_softcap(r, "attn_logit_softcapping", type->attention_softcap);
        out->final_softcap = read_softcap(r, "final_logit_softcapping", type->final_softcap);
    }
    out->attention_scale = 1 / sqrt(scalar);
}

/* --- layers ----------------------------------------------------------------------------------------------------------- */

/* SmolLM3: a layer whose entry in no_rope_layers is 0 has no RoPE; without the list every interval-th layer has none. */
static void read_no_rope(struct config_reader *r, struct model_config *out) {
    int interval = 4;
    const json_t *list = read_array(r, "no_rope_layers");
    if (!list)
        config_int(r, "no_rope_layer_interval", 1, MAX_LAYERS, &interval);
    if (list && json_array_size(list) < (size_t)out->n_layers)
        config_refuse(r, "\"no_rope_layers\" has %zu entries for %d layers: add the missing ones", json_array_size(list),
                      out->n_layers);
    for (int i = 0; r->rc == OK && i < out->n_layers; i++) {
        const json_t *entry = list ? json_array_get(list, (size_t)i) : NULL;
        if (list && !json_is_integer(entry) && !json_is_boolean(entry))
            config_refuse(r, "\"no_rope_layers\"[%d] must be 0 or 1", i);
        out->layers[i].rope = list ? json_integer_value(entry) != 0 || json_is_true(entry) : (i + 1) % interval != 0;
    }
}

/* The window of the layers that slide, 0 = none. */
static int read_window(struct config_reader *r, const struct type_info *type, const struct model_config *out, bool *used) {
    int window = type->sliding_window;
    bool by_flag = out->type == MODEL_QWEN2 || out->type == MODEL_QWEN3 || out->type == MODEL_SMOLLM3;
    *used = !by_flag;
    if (by_flag)
        config_bool(r, "use_sliding_window", used);
    if (config_is_null(r, "sliding_window"))
        return 0;
    config_int(r, "sliding_window", 1, MAX_CONTEXT, &window);
    return window;
}

/* Whether layer i slides when layer_types does not say; `used` as from read_window(), `every` a Gemma's period. */
static bool slides(const struct model_config *out, int i, int window, bool used, int full_layers, int every) {
    switch (out->type) {
    case MODEL_LLAMA: return false;
    case MODEL_MISTRAL: return window > 0;
    case MODEL_QWEN2:
    case MODEL_QWEN3: return used && window > 0 && i >= full_layers;
    case MODEL_GEMMA2:
    case MODEL_GEMMA3_TEXT: return (i + 1) % every != 0;
    case MODEL_SMOLLM3: return used && window > 0 && !out->layers[i].rope;
    }
    return false;
}

/* layer_types[i]: true for sliding_attention. */
static bool read_layer_type(struct config_reader *r, const json_t *list, int i) {
    const char *name = json_string_value(json_array_get(list, (size_t)i));
    if (!name)
        config_refuse(r, "\"layer_types\"[%d] is not a string", i);
    else if (strcmp(name, "sliding_attention") == 0)
        return true;
    else if (strcmp(name, "full_attention") != 0)
        config_refuse(r, "layer type \"%s\" of layer %d is not supported (supported: full_attention, sliding_attention)",
                      name, i);
    return false;
}

/* Sliding layers as transformers masks them: layer_types where given (a llama does not look at it; AutoModel reads a mistral
 * that has it as a ministral, which does), else each type's own pattern. */
static void read_windows(struct config_reader *r, const struct type_info *type, struct model_config *out) {
    bool used, sliding;
    int window = read_window(r, type, out, &used), full_layers = 28, every = out->type == MODEL_GEMMA2 ? 2 : 6;
    const json_t *list = read_array(r, "layer_types");
    config_int(r, "max_window_layers", 0, 1 << 30, &full_layers);
    if (out->type == MODEL_GEMMA3_TEXT)
        config_int(r, "sliding_window_pattern", 1, 1 << 30, &every);
    if (list && json_array_size(list) != (size_t)out->n_layers)
        config_refuse(r, "\"layer_types\" has %zu entries for %d layers: correct it or num_hidden_layers",
                      json_array_size(list), out->n_layers);
    for (int i = 0; r->rc == OK && i < out->n_layers; i++) {
        sliding = list ? read_layer_type(r, list, i) : slides(out, i, window, used, full_layers, every);
        if (!sliding || r->rc != OK)
            continue;
        if (out->type == MODEL_LLAMA)
            config_refuse(r, "\"layer_types\" makes layer %d slide, which transformers ignores for llama: remove it, or use "
                             "model type mistral, which is the same model and follows it", i);
        else if (!used && list && out->type != MODEL_SMOLLM3)
            config_refuse(r, "\"layer_types\" makes layer %d slide, but use_sliding_window is false: set it to true", i);
        else if (window == 0)
            config_refuse(r, "layer %d is a sliding layer, but \"sliding_window\" is not given: give its length", i);
        out->layers[i].sliding_window = window;
        out->layers[i].rope_kind = out->n_rope - 1;
    }
}

static void read_layers(struct config_reader *r, const struct type_info *type, struct model_config *out) {
    if (r->rc != OK)
        return;
    out->layers = mem_alloc((size_t)out->n_layers, sizeof *out->layers, "layers", r->err);
    if (!out->layers) {
        r->rc = ERR_MEMORY;
        return;
    }
    for (int i = 0; i < out->n_layers; i++)
        out->layers[i].rope = true;
    if (out->type == MODEL_SMOLLM3)
        read_no_rope(r, out);
    read_windows(r, type, out);
}

/* --- special tokens --------------------------------------------------------------------------------------------------- */

static void read_eos_list(struct config_reader *r, const json_t *list, struct model_config *out) {
    out->n_eos = 0;
    if (json_array_size(list) > MAX_EOS_IDS)
        config_refuse(r, "\"eos_token_id\" has %zu entries, at most %d are supported: shorten it", json_array_size(list),
                      MAX_EOS_IDS);
    for (size_t i = 0; r->rc == OK && i < json_array_size(list); i++) {
        json_int_t id = json_integer_value(json_array_get(list, i));
        if (!json_is_integer(json_array_get(list, i)) || id < 0 || id > INT32_MAX)
            config_refuse(r, "\"eos_token_id\"[%zu] is not a token id", i);
        out->eos_id[out->n_eos++] = (int)id;
    }
}

/* Ids of one file: those of generation_config.json are read last and win. */
static void read_token_ids(struct config_reader *r, struct model_config *out) {
    const json_t *eos = json_object_get(r->object, "eos_token_id");
    if (!config_is_null(r, "bos_token_id"))
        config_int(r, "bos_token_id", 0, INT32_MAX, &out->bos_id);
    if (json_is_array(eos)) {
        read_eos_list(r, eos, out);
    } else if (json_has(r->object, "eos_token_id")) {
        out->n_eos = 1;
        config_int(r, "eos_token_id", 0, INT32_MAX, &out->eos_id[0]);
    }
}

static void read_special_tokens(struct config_reader *r, const struct type_info *type, const json_t *generation,
                                const char *generation_where, struct model_config *out) {
    out->bos_id = config_is_null(r, "bos_token_id") ? -1 : type->bos_id;
    out->eos_id[0] = type->eos_id;
    out->n_eos = type->eos_id >= 0 && !config_is_null(r, "eos_token_id");
    read_token_ids(r, out);
    if (generation) {
        struct config_reader inner = {generation, generation_where, r->err, r->rc};
        read_token_ids(&inner, out);
        r->rc = inner.rc;
    }
}

/* --- entry ------------------------------------------------------------------------------------------------------------ */

int model_config_parse(const json_t *object, const char *where, const json_t *generation, const char *generation_where,
                       struct model_config *out, struct err *err) {
    struct config_reader r = {object, where, err, OK};
    struct model_config config = {0};
    const struct type_info *type = read_type(&r, &config);
    *out = (struct model_config){0};
    if (!type)
        return r.rc;
    refuse_unsupported(&r);
    read_shape(&r, type, &config);
    read_activation(&r, type, &config);
    read_biases(&r, type, &config);
    read_numbers(&r, type, &config);
    config_rope(&r, type->theta, type->local_theta, &config);
    read_layers(&r, type, &config);
    read_special_tokens(&r, type, generation, generation_where, &config);
    if (r.rc == OK)
        *out = config;
    else
        model_config_free(&config);
    return r.rc;
}

int model_config_read(const char *dir, struct model_config *out, struct err *err) {
    json_t *object = NULL, *generation = NULL;
    char *path = file_join(dir, "config.json", err), *generation_path = file_join(dir, "generation_config.json", err);
    int rc = path && generation_path ? OK : ERR_MEMORY;
    *out = (struct model_config){0};
    if (rc == OK && !file_exists(path))
        rc = err_set(err, ERR_INPUT, path, "no such file: give the folder of a Hugging Face model (config.json, "
                                           "model.safetensors, tokenizer.json)");
    if (rc == OK)
        rc = json_read_object(path, MAX_CONFIG_BYTES, &object, err);
    if (rc == OK && file_exists(generation_path))
        rc = json_read_object(generation_path, MAX_CONFIG_BYTES, &generation, err);
    if (rc == OK)
        rc = model_config_parse(object, path, generation, generation_path, out, err);
    json_decref(object);
    json_decref(generation);
    free(path);
    free(generation_path);
    return rc;
}

void model_config_free(struct model_config *config) {
    free(config->layers);
    *config = (struct model_config){0};
}
