/* config.h - what a checkpoint is: config.json of the supported model types, read with the defaults that transformers 5.23
 * has for each type, and the configuration of a utility predictor. Plain values, no ownership beyond the per-layer array.
 *
 * Both spellings are read: rope_theta + rope_scaling and rope_parameters (nested per layer type for gemma3_text),
 * torch_dtype and dtype. What would make the model compute something else is refused by name with a remedy; keys that
 * transformers does not look at for the type are not looked at. */
#ifndef SPKV_ENGINE_CONFIG_H
#define SPKV_ENGINE_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/ops.h"

enum model_type {
    MODEL_LLAMA,
    MODEL_MISTRAL,
    MODEL_QWEN2,
    MODEL_QWEN3,
    MODEL_GEMMA2,
    MODEL_GEMMA3_TEXT,
    MODEL_SMOLLM3,
};

enum rope_type { ROPE_DEFAULT, ROPE_LINEAR, ROPE_DYNAMIC, ROPE_LLAMA3, ROPE_YARN };

/* RoPE of one kind of layer. Fields that a type does not use are 0. */
struct rope_config {
    enum rope_type type;
    double theta, factor;
    double low_freq_factor, high_freq_factor;               /* llama3 */
    double beta_fast, beta_slow, mscale, mscale_all_dim;    /* yarn */
    double attention_factor;                                /* yarn; 0 = computed from factor and mscale */
    bool truncate;                                          /* yarn: round the correction range, default true */
    int original_max_positions;                             /* llama3, yarn; dynamic: max_position_embeddings */
};

struct layer_config {
    int sliding_window; /* 0 = full attention, else visible when t - s < sliding_window */
    bool rope;          /* false: no rotation (SmolLM3) */
    int rope_kind;      /* index into model_config.rope */
};

enum { MAX_EOS_IDS = 16 };

struct model_config {
    enum model_type type;
    int n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ffn, vocab_size, max_positions;
    double rms_norm_eps;
    enum act ffn_act;
    bool qkv_bias, o_bias, mlp_bias; /* which projections carry biases */
    bool qk_norm;                    /* RMSNorm per head on q and k before RoPE */
    bool norm_plus_one;              /* Gemma norms: 1 + weight */
    bool sandwich_norms;             /* Gemma: norms after attention and after the MLP too */
    bool tie_embeddings;
    double embed_scale;              /* 1, or sqrt(d_model) rounded to f32: transformers rounds it to the dtype it runs in,
                                        and its f32 run is what every dtype here is judged against */
    double attention_scale;          /* multiplies q.k */
    double attention_softcap, final_softcap; /* 0 = none */
    int n_rope;                      /* 1, or 2: [0] full layers, [1] sliding layers (Gemma 3) */
    struct rope_config rope[2];
    struct layer_config *layers;     /* (n_layers), owned */
    int bos_id;                      /* -1 = none */
    int n_eos, eos_id[MAX_EOS_IDS];  /* generation_config.json wins over config.json */
};

/* Reads DIR/config.json and, when present, DIR/generation_config.json. Refuses by name what is not supported. */
int model_config_read(const char *dir, struct model_config *out, struct err *err);

/* The same from parsed objects; `generation` (a generation_config.json) may be NULL. `where` and `generation_where` name the
 * files in messages. */
int model_config_parse(const json_t *object, const char *where, const json_t *generation, const char *generation_where,
                       struct model_config *out, struct err *err);
void model_config_free(struct model_config *config);

const char *model_type_name(enum model_type type);

enum predictor_input { PREDICTOR_NORMED, PREDICTOR_RESIDUAL };

struct predictor_config {
    int window;
    double threshold;
    bool strict;              /* comparison ">" instead of ">=" */
    enum predictor_input input;
    enum act act;             /* ACT_NONE: linear predictor */
    bool sigmoid;             /* output "sigmoid" or "identity" */
    bool fitted;              /* by regression to an oracle, as "method" in "trained_with" says: PREDICTOR_FITTED */
    int lora_r;               /* 0 = no low-rank updates */
    double lora_alpha;
};

/* What such a predictor is called wherever it is named: it is none of KVzap's. */
#define PREDICTOR_FITTED "fitted (KVzap-style)"

/* Reads the "spkv" object of a config.json or a whole spkv_config.json. Absent fields: window 128, threshold 0.5, comparison
 * ">=", input "normed", activation "silu", output "sigmoid", no low-rank updates ("r" asks for "lora_alpha" too). */
int predictor_config_read(const json_t *object, const char *where, struct predictor_config *out, struct err *err);

/* The object that reads back to it, with every field; NULL when memory runs out. Release with json_decref(). */
json_t *predictor_config_json(const struct predictor_config *config);

#endif
