#include "engine/activations.h"

#include <stdlib.h>

#include "base/mem.h"

/* Makes buffers; sticky failure in `failed`. */
struct maker {
    const struct model *model;
    struct activations *a;
    size_t max_rows, real, act; /* bytes of an element */
    bool failed;
};

/* (max_rows, n) elements of `size` bytes on the device. */
static void *make(struct maker *m, size_t n, size_t size) {
    size_t n_bytes;
    void *out = NULL;
    if (!m->failed && size_mul(m->max_rows, n, &n_bytes) && size_mul(n_bytes, size, &n_bytes))
        out = m->model->ops->mem_alloc(m->model->dev, n_bytes);
    if (out)
        m->a->buffers[m->a->n_buffers++] = out;
    else
        m->failed = true;
    return out;
}

/* `shared`: one buffer for all. */
static struct low_activations make_low(struct maker *m, bool shared) {
    struct low_activations low = {0};
    float **places[] = {&low.q, &low.k, &low.v, &low.o, &low.gate, &low.up, &low.down};
    for (size_t i = 0; i < sizeof places / sizeof *places && m->model->lora_rank > 0; i++)
        *places[i] = shared && i > 0 ? low.q : make(m, m->model->lora_rank, m->real);
    return low;
}

static size_t largest(size_t a, size_t b, size_t c) {
    return a > b ? (a > c ? a : c) : (b > c ? b : c);
}

/* Buffers for one layer in which nothing lives longer than a forward pass needs it. */
static void make_short(struct maker *m, struct layer_activations *layer, bool lse) {
    const struct model_config *c = m->model->config;
    size_t d = (size_t)c->d_model, d_ffn = (size_t)c->d_ffn, head_dim = (size_t)c->head_dim;
    size_t n_q = (size_t)c->n_heads * head_dim, n_kv = (size_t)c->n_kv_heads * head_dim;
    layer->x = layer->x_mid = make(m, d, m->real);
    layer->h = make(m, d, m->real);
    layer->normed = layer->attended = layer->mlp_normed = layer->mlp_act = make(m, largest(d, d_ffn, n_q), m->act);
    layer->qkv = layer->qkv_raw = make(m, n_q + 2 * n_kv, m->real);
    layer->gate_up = make(m, 2 * d_ffn, m->real);
    layer->attention_out = layer->mlp_out = m->a->delta;
    layer->lse = lse ? make(m, (size_t)c->n_heads, m->real) : NULL;
    layer->low = make_low(m, true);
}

/* ... in which everything that a backward pass reads is still there after the layer. */
static void make_long(struct maker *m, struct layer_activations *layer) {
    const struct model_config *c = m->model->config;
    size_t d = (size_t)c->d_model, d_ffn = (size_t)c->d_ffn, head_dim = (size_t)c->head_dim;
    size_t n_q = (size_t)c->n_heads * head_dim, n_kv = (size_t)c->n_kv_heads * head_dim;
    bool h = m->model->predictor && m->model->predictor->input == PREDICTOR_NORMED;
    layer->x = make(m, d, m->real);
    layer->x_mid = make(m, d, m->real);
    layer->h = h ? make(m, d, m->real) : NULL;
    layer->normed = make(m, d, m->act);
    layer->qkv = make(m, n_q + 2 * n_kv, m->real);
    layer->qkv_raw = c->qk_norm ? make(m, n_q + 2 * n_kv, m->real) : layer->qkv;
    layer->lse = make(m, (size_t)c->n_heads, m->real);
    layer->attended = make(m, n_q, m->act);
    layer->mlp_normed = make(m, d, m->act);
    layer->gate_up = make(m, 2 * d_ffn, m->real);
    layer->mlp_act = make(m, d_ffn, m->act);
    layer->attention_out = c->sandwich_norms ? make(m, d, m->real) : m->a->delta;
    layer->mlp_out = c->sandwich_norms ? make(m, d, m->real) : m->a->delta;
    layer->low = make_low(m, false);
}

static void make_layers(struct maker *m, enum keep keep, bool attention_stats) {
    struct layer_activations *layers = m->a->layers;
    size_t n_layers = (size_t)m->model->config->n_layers, d = (size_t)m->model->config->d_model;
    for (size_t l = 0; l < n_layers; l++) {
        if (keep == KEEP_ALL)
            make_long(m, &layers[l]);
        else if (l > 0)
            layers[l] = layers[0];
        else if (keep == KEEP_INPUTS)
            make_long(m, &layers[0]);
        else
            make_short(m, &layers[0], attention_stats);
        if (keep == KEEP_INPUTS && l > 0)
            layers[l].x = make(m, d, m->real);
    }
    m->a->x_out = keep == KEEP_NOTHING ? layers[0].x : make(m, d, m->real);
}

static void make_step(struct maker *m, enum keep keep) {
    const struct model_config *c = m->model->config;
    struct activations *a = m->a;
    size_t d = (size_t)c->d_model, n_gates = (size_t)c->n_layers * (size_t)c->n_kv_heads;
    a->ids = make(m, 1, sizeof *a->ids);
    a->pos = make(m, 1, sizeof *a->pos);
    a->delta = make(m, d, m->real);
    a->utility = make(m, n_gates, m->real);
    a->open = make(m, n_gates, 1);
    a->final = make(m, d, m->act);
    if (keep != KEEP_NOTHING) {
        a->acting = make(m, n_gates, 1);
        a->log_gate = make(m, n_gates, m->real);
    }
}

int activations_create(const struct model *m, size_t max_rows, enum keep keep, bool attention_stats, struct activations *a,
                       struct err *err) {
    enum { MAX_STEP = 9, MAX_LAYER = 20 };
    size_t n_layers = (size_t)m->config->n_layers;
    struct maker maker = {.model = m, .a = a, .max_rows = max_rows, .real = real_size(m->ops, m->dev),
                          .act = dtype_size(m->ops->device_dtype(m->dev))};
    *a = (struct activations){.max_rows = max_rows};
    a->layers = mem_alloc(n_layers, sizeof *a->layers, "activations", err);
    a->buffers = mem_alloc(MAX_STEP + n_layers * MAX_LAYER, sizeof *a->buffers, "activations", err);
    maker.failed = !a->layers || !a->buffers;
    if (!maker.failed) {
        make_step(&maker, keep);
        make_layers(&maker, keep, attention_stats);
    }
    if (!maker.failed)
        return OK;
    activations_free(m, a);
    int rc = m->ops->sync(m->dev, err);
    return rc != OK ? rc : err_memory(err, "activations", SIZE_MAX);
}

void activations_free(const struct model *m, struct activations *a) {
    for (size_t i = 0; i < a->n_buffers; i++)
        m->ops->mem_free(m->dev, a->buffers[i]);
    free(a->buffers);
    free(a->layers);
    *a = (struct activations){0};
}
