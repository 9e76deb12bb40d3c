#include "engine/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/lora.h"
#include "engine/predictor.h"

/* What every load needs. After the first failure `rc` is not OK and later loads do nothing. */
struct loader {
    const struct checkpoint *checkpoint;
    const struct ops *ops;
    struct device *dev;
    struct model *model;
    struct err *err;
    int rc;
    char prefix[64]; /* "model.layers.N." */
};

static const char *full_name(const struct loader *l, const char *name, char out[160]) {
    snprintf(out, 160, "%s%s", l->prefix, name);
    return out;
}

float *model_upload_real(const struct ops *ops, struct device *dev, const float *values, size_t n, struct err *err) {
    size_t size = real_size(ops, dev);
    double *wide = NULL;
    float *out = ops->mem_alloc(dev, n * size);
    if (size == 8 && out && (wide = mem_alloc(n, size, "a vector", err)))
        for (size_t i = 0; i < n; i++)
            wide[i] = (double)values[i];
    if (out && (size == 4 || wide))
        ops->upload(dev, out, size == 8 ? (const void *)wide : values, n * size);
    if (ops->sync(dev, err) != OK || !out || (size == 8 && !wide)) {
        ops->mem_free(dev, out);
        out = NULL;
    }
    free(wide);
    return out;
}

/* A vector of n elements, widened to f32 and uploaded. */
static float *load_vector(struct loader *l, const char *name, size_t n) {
    const struct tensor *tensor;
    char full[160];
    float *wide, *out = NULL;
    if (l->rc != OK ||
        (l->rc = checkpoint_require(l->checkpoint, full_name(l, name, full), 1, n, 0, &tensor, l->err)) != OK ||
        (l->rc = tensor_check_finite(tensor, l->err)) != OK)
        return NULL;
    if (!(wide = mem_alloc(n, sizeof *wide, full, l->err))) {
        l->rc = ERR_MEMORY;
        return NULL;
    }
    for (size_t i = 0; i < n; i++)
        wide[i] = (float)dtype_load(tensor->data, tensor->dtype, i);
    if (!(out = model_upload_real(l->ops, l->dev, wide, n, l->err)))
        l->rc = ERR_MEMORY;
    free(wide);
    return out;
}

/* A mapped matrix: bytes that the device copied are not needed any more. */
static struct weight *prepare_mapped(struct loader *l, const struct host_matrix *matrix) {
    struct weight *out = NULL;
    bool borrowed = false;
    l->rc = l->ops->weight_prepare(l->dev, matrix, WEIGHT_COMPUTE, &out, &borrowed, l->err);
    if (l->rc == OK && !borrowed)
        file_map_drop(matrix->data, matrix->n_rows * matrix->n_cols * dtype_size(matrix->dtype));
    return out;
}

/* An f32 matrix in memory from malloc(), which the model takes over when the device borrows it: then *data becomes NULL. */
static struct weight *prepare_owned(struct loader *l, float **data, size_t n_rows, size_t n_cols, enum weight_use use) {
    struct model *m = l->model;
    struct weight *out = NULL;
    bool borrowed = false;
    if (l->rc != OK || !*data ||
        (l->rc = mem_grow(&m->owned, &m->owned_cap, m->n_owned + 1, sizeof *m->owned, "weights", l->err)) != OK)
        return NULL;
    l->rc = l->ops->weight_prepare(l->dev, &(struct host_matrix){*data, DTYPE_F32, n_rows, n_cols}, use, &out, &borrowed,
                                   l->err);
    if (l->rc == OK && borrowed) {
        m->owned[m->n_owned++] = *data;
        *data = NULL;
    }
    return out;
}

static struct weight *load_matrix(struct loader *l, const char *name, size_t n_rows, size_t n_cols) {
    const struct tensor *tensor;
    struct weight *out = NULL;
    float *merged = NULL;
    char full[160];
    if (l->rc != OK ||
        (l->rc = checkpoint_require(l->checkpoint, full_name(l, name, full), 2, n_rows, n_cols, &tensor, l->err)) != OK ||
        (l->rc = tensor_check_finite(tensor, l->err)) != OK ||
        (l->rc = lora_merge(l->checkpoint, full, n_rows, n_cols, &merged, l->err)) != OK)
        return NULL;
    if (merged)
        out = prepare_owned(l, &merged, n_rows, n_cols, WEIGHT_COMPUTE);
    else
        out = prepare_mapped(l, &(struct host_matrix){tensor->data, tensor->dtype, n_rows, n_cols});
    if (out)
        l->model->weight_bytes += l->ops->weight_bytes(out);
    free(merged);
    return out;
}

static float *load_bias(struct loader *l, bool wanted, const char *name, size_t n) {
    return wanted ? load_vector(l, name, n) : NULL;
}

static void load_attention(struct loader *l, struct model_layer *w) {
    const struct model_config *c = l->model->config;
    size_t d = (size_t)c->d_model, n_q = (size_t)c->n_heads * (size_t)c->head_dim,
           n_kv = (size_t)c->n_kv_heads * (size_t)c->head_dim;
    w->attention_norm = load_vector(l, "input_layernorm.weight", d);
    w->q = load_matrix(l, "self_attn.q_proj.weight", n_q, d);
    w->k = load_matrix(l, "self_attn.k_proj.weight", n_kv, d);
    w->v = load_matrix(l, "self_attn.v_proj.weight", n_kv, d);
    w->o = load_matrix(l, "self_attn.o_proj.weight", d, n_q);
    w->q_bias = load_bias(l, c->qkv_bias, "self_attn.q_proj.bias", n_q);
    w->k_bias = load_bias(l, c->qkv_bias, "self_attn.k_proj.bias", n_kv);
    w->v_bias = load_bias(l, c->qkv_bias, "self_attn.v_proj.bias", n_kv);
    w->o_bias = load_bias(l, c->o_bias, "self_attn.o_proj.bias", d);
    w->q_norm = load_bias(l, c->qk_norm, "self_attn.q_norm.weight", (size_t)c->head_dim);
    w->k_norm = load_bias(l, c->qk_norm, "self_attn.k_norm.weight", (size_t)c->head_dim);
}

static void load_mlp(struct loader *l, struct model_layer *w) {
    const struct model_config *c = l->model->config;
    size_t d = (size_t)c->d_model, d_ffn = (size_t)c->d_ffn;
    if (c->sandwich_norms) {
        w->attention_post_norm = load_vector(l, "post_attention_layernorm.weight", d);
        w->ffn_norm = load_vector(l, "pre_feedforward_layernorm.weight", d);
        w->ffn_post_norm = load_vector(l, "post_feedforward_layernorm.weight", d);
    } else {
        w->ffn_norm = load_vector(l, "post_attention_layernorm.weight", d);
    }
    w->gate = load_matrix(l, "mlp.gate_proj.weight", d_ffn, d);
    w->up = load_matrix(l, "mlp.up_proj.weight", d_ffn, d);
    w->down = load_matrix(l, "mlp.down_proj.weight", d, d_ffn);
    w->gate_bias = load_bias(l, c->mlp_bias, "mlp.gate_proj.bias", d_ffn);
    w->up_bias = load_bias(l, c->mlp_bias, "mlp.up_proj.bias", d_ffn);
    w->down_bias = load_bias(l, c->mlp_bias, "mlp.down_proj.bias", d);
}

static float *upload_predictor_vector(struct loader *l, const float *data, size_t n) {
    float *out = NULL;
    if (l->rc == OK && data && !(out = model_upload_real(l->ops, l->dev, data, n, l->err)))
        l->rc = ERR_MEMORY;
    return out;
}

static void load_predictor(struct loader *l, int layer, struct model_layer *w) {
    const struct model_config *c = l->model->config;
    struct predictor_layer p = {0};
    if (l->rc != OK || !l->model->predictor || c->layers[layer].sliding_window > 0)
        return;
    if ((l->rc = predictor_layer_read(l->checkpoint, layer, &p, l->err)) != OK)
        return;
    w->fc1 = prepare_owned(l, &p.fc1, p.hidden, (size_t)c->d_model, WEIGHT_F32);
    w->b1 = upload_predictor_vector(l, p.b1, p.hidden);
    w->fc2 = prepare_owned(l, &p.fc2, (size_t)c->n_kv_heads, p.hidden, WEIGHT_F32);
    w->b2 = upload_predictor_vector(l, p.b2, (size_t)c->n_kv_heads);
    predictor_layer_free(&p);
}

static void load_all(struct loader *l) {
    struct model *m = l->model;
    size_t d = (size_t)m->config->d_model, vocab = (size_t)m->config->vocab_size;
    m->embed = load_matrix(l, "model.embed_tokens.weight", vocab, d);
    m->final_norm = load_vector(l, "model.norm.weight", d);
    m->lm_head = m->config->tie_embeddings ? m->embed : load_matrix(l, "lm_head.weight", vocab, d);
    if (!m->config->tie_embeddings && m->embed)
        m->weight_bytes -= l->ops->weight_bytes(m->embed); /* one row of it is read, not the table */
    for (int i = 0; i < m->config->n_layers && l->rc == OK; i++) {
        snprintf(l->prefix, sizeof l->prefix, "model.layers.%d.", i);
        load_attention(l, &m->layers[i]);
        load_mlp(l, &m->layers[i]);
        load_predictor(l, i, &m->layers[i]);
    }
}

int model_load(const struct checkpoint *checkpoint, const struct ops *ops, struct device *dev, struct model **out,
               struct err *err) {
    struct model *m = mem_alloc(1, sizeof *m, "a model", err);
    *out = NULL;
    if (!m)
        return ERR_MEMORY;
    m->checkpoint = checkpoint;
    m->config = checkpoint_config(checkpoint);
    m->predictor = checkpoint_predictor(checkpoint);
    m->ops = ops;
    m->dev = dev;
    struct loader l = {.checkpoint = checkpoint, .ops = ops, .dev = dev, .model = m, .err = err};
    if (!(m->layers = mem_alloc((size_t)m->config->n_layers, sizeof *m->layers, "layers", err)))
        l.rc = ERR_MEMORY;
    else
        load_all(&l);
    if (l.rc == OK)
        l.rc = ops->sync(dev, err);
    if (l.rc != OK)
        model_free(m);
    else
        *out = m;
    return l.rc;
}

static void free_layer(const struct model *m, struct model_layer *w) {
    float *vectors[] = {w->attention_norm, w->attention_post_norm, w->ffn_norm, w->ffn_post_norm, w->q_norm, w->k_norm,
                        w->q_bias, w->k_bias, w->v_bias, w->o_bias, w->gate_bias, w->up_bias, w->down_bias, w->b1, w->b2};
    struct weight *matrices[] = {w->q, w->k, w->v, w->o, w->gate, w->up, w->down, w->fc1, w->fc2};
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        m->ops->mem_free(m->dev, vectors[i]);
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
        if (matrices[i])
            m->ops->weight_free(m->dev, matrices[i]);
}

void model_free(struct model *m) {
    if (!m)
        return;
    for (int i = 0; m->layers && i < m->config->n_layers; i++)
        free_layer(m, &m->layers[i]);
    if (m->lm_head && m->lm_head != m->embed)
        m->ops->weight_free(m->dev, m->lm_head);
    if (m->embed)
        m->ops->weight_free(m->dev, m->embed);
    m->ops->mem_free(m->dev, m->final_norm);
    for (size_t i = 0; i < m->n_owned; i++)
        free(m->owned[i]);
    free(m->owned);
    free(m->layers);
    free(m);
}

/* One device array of n items of `size` bytes per row; sticky failure in *rc. */
static void *work_array(const struct model *m, size_t max_rows, size_t n, size_t size, bool *failed) {
    size_t n_bytes;
    void *out = NULL;
    if (!*failed && size_mul(max_rows, n, &n_bytes) && size_mul(n_bytes, size, &n_bytes))
        out = m->ops->mem_alloc(m->dev, n_bytes);
    if (!out)
        *failed = true;
    return out;
}

int activations_create(const struct model *m, size_t max_rows, bool attention_stats, struct activations *a,
                       struct err *err) {
    const struct model_config *c = m->config;
    size_t d = (size_t)c->d_model, d_ffn = (size_t)c->d_ffn, head_dim = (size_t)c->head_dim,
           real = real_size(m->ops, m->dev);
    size_t n_q = (size_t)c->n_heads * head_dim, n_gates = (size_t)c->n_layers * (size_t)c->n_kv_heads;
    size_t act = dtype_size(m->ops->device_dtype(m->dev)), widest = d_ffn > n_q ? d_ffn : n_q;
    bool failed = false;
    *a = (struct activations){.max_rows = max_rows};
    if (widest < d)
        widest = d;
    a->ids = work_array(m, max_rows, 1, sizeof *a->ids, &failed);
    a->pos = work_array(m, max_rows, 1, sizeof *a->pos, &failed);
    a->x = work_array(m, max_rows, d, real, &failed);
    a->delta = work_array(m, max_rows, d, real, &failed);
    a->h = work_array(m, max_rows, d, real, &failed);
    a->act = work_array(m, max_rows, widest, act, &failed);
    a->qkv = work_array(m, max_rows, n_q + 2 * (size_t)c->n_kv_heads * head_dim, real, &failed);
    a->gate_up = work_array(m, max_rows, 2 * d_ffn, real, &failed);
    a->utility = work_array(m, max_rows, n_gates, real, &failed);
    a->open = work_array(m, max_rows, n_gates, 1, &failed);
    a->final = work_array(m, max_rows, d, act, &failed);
    if (attention_stats)
        a->lse = work_array(m, max_rows, (size_t)c->n_heads, real, &failed);
    if (!failed)
        return OK;
    activations_free(m, a);
    int rc = m->ops->sync(m->dev, err);
    return rc != OK ? rc : err_memory(err, "activations", SIZE_MAX);
}

void activations_free(const struct model *m, struct activations *a) {
    void *arrays[] = {a->ids, a->pos,     a->x,       a->delta, a->h,   a->act,
                      a->qkv, a->gate_up, a->utility, a->open,  a->lse, a->final};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        m->ops->mem_free(m->dev, arrays[i]);
    *a = (struct activations){0};
}
