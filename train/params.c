#include "train/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/model_tensors.h"
#include "kernels/train_ops.h"

/* A zeroed device array of n items of `size` bytes. */
static void *zeroed(const struct model *m, size_t n, size_t size, int *rc) {
    size_t n_bytes;
    void *out = NULL;
    if (*rc == OK && size_mul(n, size, &n_bytes) && (out = m->ops->mem_alloc(m->dev, n_bytes)))
        m->ops->fill(m->dev, out, 0, n_bytes);
    if (!out)
        *rc = *rc == OK ? ERR_MEMORY : *rc;
    return out;
}

/* The current values of a matrix as f32, through the op that reads rows of any weight. */
static float *widen_matrix(const struct params *p, const struct model_tensor *t, int *rc, struct err *err) {
    const struct model *m = p->model;
    float *out = zeroed(m, t->n_rows * t->n_cols, real_size(m->ops, m->dev), rc);
    int32_t *rows = NULL, *rows_dev = NULL;
    if (*rc == OK && !(rows = mem_alloc(t->n_rows, sizeof *rows, "row numbers", err)))
        *rc = ERR_MEMORY;
    rows_dev = zeroed(m, t->n_rows, sizeof *rows, rc);
    if (*rc == OK) {
        for (size_t i = 0; i < t->n_rows; i++)
            rows[i] = (int32_t)i;
        m->ops->upload(m->dev, rows_dev, rows, t->n_rows * sizeof *rows);
        m->ops->embed(m->dev, *t->weight, rows_dev, t->n_rows, 1, out);
        *rc = m->ops->sync(m->dev, err);
    }
    m->ops->mem_free(m->dev, rows_dev);
    free(rows);
    return out;
}

/* Puts a handle over the master in the place of the model's own. */
static int take_matrix(struct params *p, struct param *param, const struct model_tensor *t, struct err *err) {
    struct model *m = p->model;
    bool tied = *t->weight == m->lm_head && t->weight == &m->embed;
    int rc = OK;
    param->master = widen_matrix(p, t, &rc, err);
    if (rc == OK)
        rc = m->ops->train->weight_make(m->dev, param->master, t->n_rows, t->n_cols,
                                        t->predictor ? WEIGHT_F32 : WEIGHT_COMPUTE, &param->weight, err);
    if (rc != OK)
        return rc;
    m->ops->weight_free(m->dev, *t->weight);
    *t->weight = param->weight;
    if (tied)
        m->lm_head = m->embed;
    return OK;
}

static bool is_trained(const struct model_tensor *t, enum trained what) {
    return t->present && (t->predictor || what == TRAIN_ALL || (what == TRAIN_LORA && t->lora));
}

static int take(struct params *p, const struct model_tensor *t, struct err *err) {
    struct param *param = &p->list[p->n++];
    size_t real = real_size(p->model->ops, p->model->dev);
    int rc = OK;
    *param = (struct param){.n_rows = t->n_rows, .n_cols = t->n_cols, .n = (t->n_rows > 0 ? t->n_rows : 1) * t->n_cols,
                            .group = t->predictor ? PARAM_PREDICTOR : PARAM_MODEL, .decay = t->n_rows > 0 || t->predictor};
    memcpy(param->name, t->name, sizeof param->name);
    p->n_items += param->n;
    param->grad = zeroed(p->model, param->n, real, &rc);
    param->m = zeroed(p->model, param->n, real, &rc);
    param->v = zeroed(p->model, param->n, real, &rc);
    if (t->vector)
        param->master = *t->vector; /* f32 on the device already: the model keeps it */
    else if (rc == OK)
        rc = take_matrix(p, param, t, err);
    return rc;
}

/* What the model's own matrices borrowed is not read any more once all of them are taken. */
static void drop_owned(struct model *m) {
    for (size_t i = 0; i < m->n_owned; i++)
        free(m->owned[i]);
    m->n_owned = 0;
}

int params_create(struct model *model, enum trained what, struct params **out, struct err *err) {
    size_t n = model_n_tensors(model);
    struct params *p = mem_alloc(1, sizeof *p, "parameters", err);
    int rc = p ? OK : ERR_MEMORY;
    *out = NULL;
    ASSERT(model->ops->train);
    if (rc == OK) {
        p->model = model;
        p->list = mem_alloc(n, sizeof *p->list, "parameters", err);
        p->norms = mem_alloc(n, sizeof *p->norms, "gradient norms", err);
        rc = p->list && p->norms ? OK : ERR_MEMORY;
    }
    for (size_t i = 0; i < n && rc == OK; i++) {
        struct model_tensor t = model_tensor_at(model, i);
        if (is_trained(&t, what))
            rc = take(p, &t, err);
    }
    if (rc == OK)
        p->norms_dev = zeroed(model, n, sizeof *p->norms_dev, &rc);
    if (rc == OK)
        rc = model->ops->sync(model->dev, err);
    if (rc == OK && p->n == 0)
        rc = err_set(err, ERR_INPUT, "", "there is nothing to train: the model is frozen, and has neither predictor nor "
                                        "low-rank updates");
    if (rc == OK && what == TRAIN_ALL)
        drop_owned(model);
    if (rc == OK)
        *out = p;
    else
        params_free(p);
    return rc == ERR_MEMORY ? err_set(err, rc, "", "out of memory for parameters, gradients and moments of the model") : rc;
}

void params_free(struct params *p) {
    if (!p)
        return;
    const struct model *m = p->model;
    for (size_t i = 0; i < p->n; i++) {
        struct param *param = &p->list[i];
        m->ops->mem_free(m->dev, param->grad);
        m->ops->mem_free(m->dev, param->m);
        m->ops->mem_free(m->dev, param->v);
        if (param->weight)
            m->ops->mem_free(m->dev, param->master);
    }
    if (m)
        m->ops->mem_free(m->dev, p->norms_dev);
    free(p->norms);
    free(p->list);
    free(p);
}

struct param *params_find(const struct params *p, const char *name) {
    for (size_t i = 0; i < p->n; i++)
        if (strcmp(p->list[i].name, name) == 0)
            return &p->list[i];
    return NULL;
}

float *params_grad_of(const struct params *p, const void *tensor) {
    for (size_t i = 0; i < p->n && tensor; i++)
        if (p->list[i].weight == tensor || p->list[i].master == tensor)
            return p->list[i].grad;
    return NULL;
}

void params_zero_grad(struct params *p) {
    const struct model *m = p->model;
    for (size_t i = 0; i < p->n; i++)
        m->ops->fill(m->dev, p->list[i].grad, 0, p->list[i].n * real_size(m->ops, m->dev));
}

int params_grad_norm(const struct params *p, double scale, double *norm, struct err *err) {
    const struct model *m = p->model;
    double sum = 0;
    m->ops->fill(m->dev, p->norms_dev, 0, p->n * sizeof *p->norms_dev);
    for (size_t i = 0; i < p->n; i++)
        m->ops->train->norm_sq(m->dev, p->list[i].grad, p->list[i].n, &p->norms_dev[i]);
    m->ops->download(m->dev, p->norms, p->norms_dev, p->n * sizeof *p->norms);
    int rc = m->ops->sync(m->dev, err);
    for (size_t i = 0; i < p->n && rc == OK; i++) {
        if (!isfinite(p->norms[i]))
            return err_set(err, ERR_INPUT, p->list[i].name, "the gradient is not finite (try a smaller learning rate)");
        sum += p->norms[i];
    }
    *norm = sqrt(sum) * scale;
    return rc;
}

void params_update(struct params *p, const struct params_step *s) {
    const struct model *m = p->model;
    for (size_t i = 0; i < p->n; i++) {
        struct param *param = &p->list[i];
        bool predictor = param->group == PARAM_PREDICTOR;
        if (predictor && s->freeze_predictor)
            continue;
        m->ops->train->adamw(m->dev, &(struct adamw_args){
            .param = param->master, .m = param->m, .v = param->v, .grad = param->grad, .n = param->n,
            .lr = (float)(predictor ? s->lr_predictor : s->lr_model), .beta1 = (float)s->beta1, .beta2 = (float)s->beta2,
            .eps = (float)s->eps, .grad_scale = (float)s->grad_scale, .step = s->step,
            .weight_decay = (float)(!param->decay ? 0 : predictor ? s->decay_predictor : s->decay_model)});
        if (param->weight)
            m->ops->train->weight_refresh(m->dev, param->weight);
    }
}
