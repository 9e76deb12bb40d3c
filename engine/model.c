#include "engine/model.h"

#include <stdlib.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/lora.h"
#include "engine/model_tensors.h"
#include "engine/predictor.h"
#include "engine/rope.h"

/* What every load needs. After the first failure `rc` is not OK and later loads do nothing. */
struct loader {
    const struct checkpoint *checkpoint;
    const struct ops *ops;
    struct device *dev;
    struct model *model;
    struct err *err;
    bool unmerged; /* low-rank updates stay apart */
    int rc;
};

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

int model_upload_rope(const struct model *m, size_t n_pos, float *out[2], struct err *err) {
    const struct model_config *c = m->config;
    float *table = NULL;
    size_t n;
    int rc = OK;
    if (!size_mul(n_pos, (size_t)c->head_dim, &n) || !(table = mem_alloc(n, sizeof *table, "RoPE tables", err)))
        rc = err_memory(err, "RoPE tables", n_pos);
    for (int i = 0; i < c->n_rope && rc == OK; i++) {
        rc = rope_table(&c->rope[i], c->head_dim, c->max_positions, n_pos, table, err);
        if (rc == OK && !(out[i] = model_upload_real(m->ops, m->dev, table, n, err)))
            rc = ERR_MEMORY;
    }
    free(table);
    return rc;
}

/* Widened to f32 and uploaded. */
static void load_vector(struct loader *l, const struct model_tensor *t) {
    const struct tensor *tensor;
    bool matrix = t->n_rows > 0;
    float *wide;
    l->rc = checkpoint_require(l->checkpoint, t->name, matrix ? 2 : 1, matrix ? t->n_rows : t->n_cols, t->n_cols, &tensor,
                               l->err);
    if (l->rc != OK || (l->rc = tensor_check_finite(tensor, l->err)) != OK)
        return;
    if (!(wide = mem_alloc(tensor->n_items, sizeof *wide, t->name, l->err))) {
        l->rc = ERR_MEMORY;
        return;
    }
    tensor_to_f32(tensor, wide);
    if (!(*t->vector = model_upload_real(l->ops, l->dev, wide, tensor->n_items, l->err)))
        l->rc = ERR_MEMORY;
    free(wide);
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

static void load_matrix(struct loader *l, const struct model_tensor *t) {
    const struct tensor *tensor;
    float *merged = NULL;
    if ((l->rc = checkpoint_require(l->checkpoint, t->name, 2, t->n_rows, t->n_cols, &tensor, l->err)) != OK ||
        (l->rc = tensor_check_finite(tensor, l->err)) != OK ||
        (!(l->unmerged && t->projection) &&
         (l->rc = lora_merge(l->checkpoint, t->name, t->n_rows, t->n_cols, &merged, l->err)) != OK))
        return;
    if (merged && l->unmerged)
        l->rc = err_set(l->err, ERR_INPUT, tensor->file, "a low-rank update of tensor %s cannot be trained, only those of "
                                                         "the layers' projections", t->name);
    else if (merged)
        *t->weight = prepare_owned(l, &merged, t->n_rows, t->n_cols, WEIGHT_COMPUTE);
    else
        *t->weight = prepare_mapped(l, &(struct host_matrix){tensor->data, tensor->dtype, t->n_rows, t->n_cols});
    if (t->projection) {
        t->projection->n_out = t->n_rows;
        t->projection->n_in = t->n_cols;
    }
    if (*t->weight)
        l->model->weight_bytes += l->ops->weight_bytes(*t->weight);
    free(merged);
}

static float *upload_predictor_vector(struct loader *l, const float *data, size_t n) {
    float *out = NULL;
    if (l->rc == OK && data && !(out = model_upload_real(l->ops, l->dev, data, n, l->err)))
        l->rc = ERR_MEMORY;
    return out;
}

static void load_predictor(struct loader *l, int layer) {
    const struct model_config *c = l->model->config;
    struct model_layer *w = &l->model->layers[layer];
    struct predictor_layer p = {0};
    if (c->layers[layer].sliding_window > 0 || (l->rc = predictor_layer_read(l->checkpoint, layer, &p, l->err)) != OK)
        return;
    w->predictor_hidden = p.hidden;
    w->fc1 = prepare_owned(l, &p.fc1, p.hidden, (size_t)c->d_model, WEIGHT_F32);
    w->b1 = upload_predictor_vector(l, p.b1, p.hidden);
    w->fc2 = prepare_owned(l, &p.fc2, (size_t)c->n_kv_heads, p.hidden, WEIGHT_F32);
    w->b2 = upload_predictor_vector(l, p.b2, (size_t)c->n_kv_heads);
    predictor_layer_free(&p);
}

static void load_all(struct loader *l) {
    struct model *m = l->model;
    for (size_t i = 0; i < model_n_tensors(m) && l->rc == OK; i++) {
        struct model_tensor t = model_tensor_at(m, i);
        if (t.lora ? l->unmerged && checkpoint_find(l->checkpoint, t.name) : t.present && t.vector)
            load_vector(l, &t);
        else if (t.present)
            load_matrix(l, &t);
    }
    if (m->config->tie_embeddings)
        m->lm_head = m->embed;
    else if (m->embed)
        m->weight_bytes -= l->ops->weight_bytes(m->embed); /* one row of it is read, not the table */
    for (int i = 0; m->predictor && i < m->config->n_layers && l->rc == OK; i++)
        load_predictor(l, i);
}

static int load(const struct checkpoint *checkpoint, const struct ops *ops, struct device *dev, bool unmerged,
                struct model **out, struct err *err) {
    const struct predictor_config *added = checkpoint_added(checkpoint);
    struct model *m = mem_alloc(1, sizeof *m, "a model", err);
    *out = NULL;
    if (!m)
        return ERR_MEMORY;
    m->checkpoint = checkpoint;
    m->config = checkpoint_config(checkpoint);
    m->predictor = checkpoint_predictor(checkpoint);
    m->ops = ops;
    m->dev = dev;
    struct loader l = {.checkpoint = checkpoint, .ops = ops, .dev = dev, .model = m, .err = err,
                       .unmerged = unmerged && added && added->lora_r > 0};
    if (l.unmerged) {
        m->lora_rank = (size_t)added->lora_r;
        m->lora_scale = (float)(added->lora_alpha / added->lora_r);
    }
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

int model_load(const struct checkpoint *checkpoint, const struct ops *ops, struct device *dev, struct model **out,
               struct err *err) {
    return load(checkpoint, ops, dev, false, out, err);
}

int model_load_unmerged(const struct checkpoint *checkpoint, const struct ops *ops, struct device *dev, struct model **out,
                        struct err *err) {
    return load(checkpoint, ops, dev, true, out, err);
}

static void free_tensors(struct model *m) {
    if (m->config->tie_embeddings)
        m->lm_head = NULL; /* the embedding once more */
    for (size_t i = 0; i < model_n_tensors(m); i++) {
        struct model_tensor t = model_tensor_at(m, i);
        if (t.vector) {
            m->ops->mem_free(m->dev, *t.vector);
            *t.vector = NULL; /* two entries may share a place */
        } else if (*t.weight) {
            m->ops->weight_free(m->dev, *t.weight);
        }
    }
}

void model_free(struct model *m) {
    if (!m)
        return;
    if (m->layers)
        free_tensors(m);
    for (size_t i = 0; i < m->n_owned; i++)
        free(m->owned[i]);
    free(m->owned);
    free(m->layers);
    free(m);
}
