#include "engine/model_tensors.h"

#include <stdio.h>

/* What a dimension follows from. */
enum extent { NONE, D_MODEL, D_FFN, D_Q, D_KV, HEAD_DIM, KV_HEADS, HIDDEN, RANK };

/* What a model must have for a tensor to be there. */
enum need { ALWAYS, QKV_BIAS, O_BIAS, MLP_BIAS, QK_NORM, SANDWICH, NO_SANDWICH, LORA, PREDICTOR };

struct entry {
    const char *name; /* below "model.layers.N." */
    size_t place;     /* in struct model_layer */
    enum extent rows, cols;
    enum need need;
};

#define AT(member) offsetof(struct model_layer, member)

static const struct entry entries[] = {
    {"input_layernorm.weight", AT(attention_norm), NONE, D_MODEL, ALWAYS},
    {"self_attn.q_proj.weight", AT(q), D_Q, D_MODEL, ALWAYS},
    {"self_attn.q_proj.lora_A.weight", AT(q.lora_a), RANK, D_MODEL, LORA},
    {"self_attn.q_proj.lora_B.weight", AT(q.lora_b), D_Q, RANK, LORA},
    {"self_attn.k_proj.weight", AT(k), D_KV, D_MODEL, ALWAYS},
    {"self_attn.k_proj.lora_A.weight", AT(k.lora_a), RANK, D_MODEL, LORA},
    {"self_attn.k_proj.lora_B.weight", AT(k.lora_b), D_KV, RANK, LORA},
    {"self_attn.v_proj.weight", AT(v), D_KV, D_MODEL, ALWAYS},
    {"self_attn.v_proj.lora_A.weight", AT(v.lora_a), RANK, D_MODEL, LORA},
    {"self_attn.v_proj.lora_B.weight", AT(v.lora_b), D_KV, RANK, LORA},
    {"self_attn.o_proj.weight", AT(o), D_MODEL, D_Q, ALWAYS},
    {"self_attn.o_proj.lora_A.weight", AT(o.lora_a), RANK, D_Q, LORA},
    {"self_attn.o_proj.lora_B.weight", AT(o.lora_b), D_MODEL, RANK, LORA},
    {"self_attn.q_proj.bias", AT(q.bias), NONE, D_Q, QKV_BIAS},
    {"self_attn.k_proj.bias", AT(k.bias), NONE, D_KV, QKV_BIAS},
    {"self_attn.v_proj.bias", AT(v.bias), NONE, D_KV, QKV_BIAS},
    {"self_attn.o_proj.bias", AT(o.bias), NONE, D_MODEL, O_BIAS},
    {"self_attn.q_norm.weight", AT(q_norm), NONE, HEAD_DIM, QK_NORM},
    {"self_attn.k_norm.weight", AT(k_norm), NONE, HEAD_DIM, QK_NORM},
    {"post_attention_layernorm.weight", AT(attention_post_norm), NONE, D_MODEL, SANDWICH},
    {"pre_feedforward_layernorm.weight", AT(ffn_norm), NONE, D_MODEL, SANDWICH},
    {"post_attention_layernorm.weight", AT(ffn_norm), NONE, D_MODEL, NO_SANDWICH},
    {"mlp.gate_proj.weight", AT(gate), D_FFN, D_MODEL, ALWAYS},
    {"mlp.gate_proj.lora_A.weight", AT(gate.lora_a), RANK, D_MODEL, LORA},
    {"mlp.gate_proj.lora_B.weight", AT(gate.lora_b), D_FFN, RANK, LORA},
    {"mlp.up_proj.weight", AT(up), D_FFN, D_MODEL, ALWAYS},
    {"mlp.up_proj.lora_A.weight", AT(up.lora_a), RANK, D_MODEL, LORA},
    {"mlp.up_proj.lora_B.weight", AT(up.lora_b), D_FFN, RANK, LORA},
    {"mlp.down_proj.weight", AT(down), D_MODEL, D_FFN, ALWAYS},
    {"mlp.down_proj.lora_A.weight", AT(down.lora_a), RANK, D_FFN, LORA},
    {"mlp.down_proj.lora_B.weight", AT(down.lora_b), D_MODEL, RANK, LORA},
    {"mlp.gate_proj.bias", AT(gate.bias), NONE, D_FFN, MLP_BIAS},
    {"mlp.up_proj.bias", AT(up.bias), NONE, D_FFN, MLP_BIAS},
    {"mlp.down_proj.bias", AT(down.bias), NONE, D_MODEL, MLP_BIAS},
    {"post_feedforward_layernorm.weight", AT(ffn_post_norm), NONE, D_MODEL, SANDWICH},
    {"self_attn.utility_predictor.fc1.weight", AT(fc1), HIDDEN, D_MODEL, PREDICTOR},
    {"self_attn.utility_predictor.fc1.bias", AT(b1), NONE, HIDDEN, PREDICTOR},
    {"self_attn.utility_predictor.fc2.weight", AT(fc2), KV_HEADS, HIDDEN, PREDICTOR},
    {"self_attn.utility_predictor.fc2.bias", AT(b2), NONE, KV_HEADS, PREDICTOR},
};
enum { N_ENTRIES = sizeof entries / sizeof *entries };

static size_t extent_of(const struct model *m, const struct model_layer *layer, enum extent extent) {
    const struct model_config *c = m->config;
    const size_t head_dim = (size_t)c->head_dim;
    switch (extent) {
    case D_MODEL:
        return (size_t)c->d_model;
    case D_FFN:
        return (size_t)c->d_ffn;
    case D_Q:
        return (size_t)c->n_heads * head_dim;
    case D_KV:
        return (size_t)c->n_kv_heads * head_dim;
    case HEAD_DIM:
        return head_dim;
    case KV_HEADS:
        return (size_t)c->n_kv_heads;
    case HIDDEN:
        return layer->predictor_hidden;
    case RANK:
        return m->lora_rank;
    case NONE:
        break;
    }
    return 0;
}

static bool has(const struct model_config *c, enum need need) {
    switch (need) {
    case QKV_BIAS:
        return c->qkv_bias;
    case O_BIAS:
        return c->o_bias;
    case MLP_BIAS:
        return c->mlp_bias;
    case QK_NORM:
        return c->qk_norm;
    case SANDWICH:
        return c->sandwich_norms;
    case NO_SANDWICH:
        return !c->sandwich_norms;
    case ALWAYS:
    case LORA:
    case PREDICTOR:
        break;
    }
    return true;
}

static struct model_tensor layer_tensor(struct model *m, size_t l, const struct entry *e) {
    struct model_layer *layer = &m->layers[l];
    void *place = (char *)layer + e->place;
    struct model_tensor t = {.n_rows = extent_of(m, layer, e->rows), .n_cols = extent_of(m, layer, e->cols),
                             .predictor = e->need == PREDICTOR, .lora = e->need == LORA, .present = has(m->config, e->need)};
    snprintf(t.name, sizeof t.name, "model.layers.%zu.%s", l, e->name);
    if (e->rows == NONE || t.lora)
        t.vector = place;
    else if (t.predictor)
        t.weight = place;
    else
        t.weight = &(t.projection = place)->weight;
    if (t.predictor || t.lora)
        t.present = t.vector ? *t.vector != NULL : *t.weight != NULL;
    return t;
}

size_t model_n_tensors(const struct model *m) {
    return 3 + (size_t)m->config->n_layers * N_ENTRIES;
}

struct model_tensor model_tensor_at(struct model *m, size_t i) {
    size_t d = (size_t)m->config->d_model, vocab = (size_t)m->config->vocab_size, n = model_n_tensors(m);
    if (i == 0)
        return (struct model_tensor){"model.embed_tokens.weight", vocab, d, .weight = &m->embed, .present = true};
    if (i == n - 2)
        return (struct model_tensor){"model.norm.weight", 0, d, .vector = &m->final_norm, .present = true};
    if (i == n - 1)
        return (struct model_tensor){"lm_head.weight", vocab, d, .weight = &m->lm_head,
                                     .present = !m->config->tie_embeddings};
    return layer_tensor(m, (i - 1) / N_ENTRIES, &entries[(i - 1) % N_ENTRIES]);
}
