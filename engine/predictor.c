#include "engine/predictor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { FC1_WEIGHT = PREDICTOR_FC1_WEIGHT, FC1_BIAS, FC2_WEIGHT, FC2_BIAS };

/* The stored tensors of one layer, and who is told what is wrong with them. */
struct parts {
    const struct predictor_tensors *named;
    const struct tensor *const *tensor;
    struct err *err;
};

/* The tensor with one of two shapes given as text for the message, or ERR_INPUT. */
static int refuse_shape(const struct parts *p, int part, const char *expected) {
    const struct tensor *t = p->tensor[part];
    const char *name = p->named->name[part];
    char shape[192];
    if (!t)
        return err_set(p->err, ERR_INPUT, p->named->where,
                       "tensor %s is missing, expected %s: the predictor is incomplete, save it again", name, expected);
    tensor_format_shape(t, shape, sizeof shape);
    return err_set(p->err, ERR_INPUT, t->file,
                   "tensor %s is %s, expected %s: was the predictor made for another model?", name, shape, expected);
}

static bool has_shape(const struct tensor *t, int n_dims, size_t a, size_t b, size_t c) {
    size_t want[] = {a, b, c};
    bool same = t && t->n_dims == n_dims;
    for (int i = 0; same && i < n_dims; i++)
        same = t->shape[i] == want[i];
    return same;
}

/* The part widened to f32 in *out, owned by the caller. */
static int widen(const struct parts *p, int part, float **out) {
    const struct tensor *t = p->tensor[part];
    int rc = tensor_check_finite(t, p->err);
    if (rc != OK)
        return rc;
    *out = mem_alloc(t->n_items, sizeof **out, t->name, p->err);
    if (!*out)
        return ERR_MEMORY;
    tensor_to_f32(t, *out);
    return OK;
}

/* Row k of a (n_heads, width) becomes columns k * width .. of row k of a zero matrix (n_heads, n_heads * width). */
static int spread_diagonal(float **matrix, size_t n_heads, size_t width, struct err *err) {
    size_t n_cols, n_items;
    float *wide = NULL;
    if (size_mul(n_heads, width, &n_cols) && size_mul(n_cols, n_heads, &n_items))
        wide = mem_alloc(n_items, sizeof *wide, "a predictor", err);
    if (!wide)
        return err_memory(err, "a predictor", (unsigned long long)width);
    for (size_t k = 0; k < n_heads; k++)
        memcpy(wide + k * n_cols + k * width, *matrix + k * width, width * sizeof *wide);
    free(*matrix);
    *matrix = wide;
    return OK;
}

static int read_bias(const struct parts *p, size_t n_kv_heads, struct predictor_layer *out) {
    char expected[64];
    const struct tensor *t = p->tensor[FC2_BIAS];
    snprintf(expected, sizeof expected, "%zu", n_kv_heads);
    if (!has_shape(t, 1, n_kv_heads, 0, 0) && !has_shape(t, 2, n_kv_heads, 1, 0))
        return refuse_shape(p, FC2_BIAS, expected);
    return widen(p, FC2_BIAS, &out->b2);
}

/* fc1 of one trunk, or of one trunk a head (3 dimensions). */
static int read_trunk(const struct parts *p, size_t n_kv_heads, size_t d_model, struct predictor_layer *out) {
    const struct tensor *fc1 = p->tensor[FC1_WEIGHT], *b1 = p->tensor[FC1_BIAS], *fc2 = p->tensor[FC2_WEIGHT];
    bool per_head = fc1->n_dims == 3;
    size_t width = fc1->n_dims >= 2 ? fc1->shape[fc1->n_dims - 2] : 0;
    char expected[96];
    int rc;
    snprintf(expected, sizeof expected, "(any)x%zu or %zux(any)x%zu", d_model, n_kv_heads, d_model);
    if (width == 0 || !(per_head ? has_shape(fc1, 3, n_kv_heads, width, d_model) : has_shape(fc1, 2, width, d_model, 0)))
        return refuse_shape(p, FC1_WEIGHT, expected);
    snprintf(expected, sizeof expected, per_head ? "%2$zux%1$zu" : "%1$zu", width, n_kv_heads);
    if (!(per_head ? has_shape(b1, 2, n_kv_heads, width, 0) : has_shape(b1, 1, width, 0, 0)))
        return refuse_shape(p, FC1_BIAS, expected);
    snprintf(expected, sizeof expected, "%zux%zu", n_kv_heads, width);
    if (!has_shape(fc2, 2, n_kv_heads, width, 0) && !(per_head && has_shape(fc2, 3, n_kv_heads, 1, width)))
        return refuse_shape(p, FC2_WEIGHT, expected);
    if ((rc = widen(p, FC1_WEIGHT, &out->fc1)) != OK || (rc = widen(p, FC1_BIAS, &out->b1)) != OK ||
        (rc = widen(p, FC2_WEIGHT, &out->fc2)) != OK)
        return rc;
    out->hidden = per_head ? n_kv_heads * width : width;
    return per_head ? spread_diagonal(&out->fc2, n_kv_heads, width, p->err) : OK;
}

static int read_linear(const struct parts *p, size_t n_kv_heads, size_t d_model, enum act act,
                       struct predictor_layer *out) {
    char expected[96];
    snprintf(expected, sizeof expected, "%zux%zu", n_kv_heads, d_model);
    if (act != ACT_NONE)
        return refuse_shape(p, FC1_WEIGHT, "hidden rows (only a predictor with activation \"none\" does without)");
    if (!has_shape(p->tensor[FC2_WEIGHT], 2, n_kv_heads, d_model, 0))
        return refuse_shape(p, FC2_WEIGHT, expected);
    out->hidden = d_model;
    return widen(p, FC2_WEIGHT, &out->fc2);
}

int predictor_layer_make(const struct predictor_tensors *tensors, const struct model_config *config, enum act act,
                         struct predictor_layer *out, struct err *err) {
    size_t n_kv_heads = (size_t)config->n_kv_heads, d_model = (size_t)config->d_model;
    const struct parts p = {tensors, tensors->part, err};
    *out = (struct predictor_layer){0};
    int rc = read_bias(&p, n_kv_heads, out);
    if (rc == OK && p.tensor[FC1_WEIGHT])
        rc = read_trunk(&p, n_kv_heads, d_model, out);
    else if (rc == OK && p.tensor[FC1_BIAS])
        rc = refuse_shape(&p, FC1_WEIGHT, "beside fc1.bias");
    else if (rc == OK && p.tensor[FC2_WEIGHT])
        rc = read_linear(&p, n_kv_heads, d_model, act, out);
    if (rc != OK)
        predictor_layer_free(out);
    return rc;
}

int predictor_layer_read(const struct checkpoint *checkpoint, int layer, struct predictor_layer *out, struct err *err) {
    static const char *const names[PREDICTOR_N_PARTS] = {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"};
    const struct model_config *config = checkpoint_config(checkpoint);
    struct predictor_tensors tensors = {.where = checkpoint_dir(checkpoint)};
    ASSERT(checkpoint_predictor(checkpoint) && layer >= 0 && layer < config->n_layers);
    for (int i = 0; i < PREDICTOR_N_PARTS; i++) {
        snprintf(tensors.name[i], sizeof tensors.name[i], "model.layers.%d.self_attn.utility_predictor.%s", layer, names[i]);
        tensors.part[i] = checkpoint_find(checkpoint, tensors.name[i]);
    }
    return predictor_layer_make(&tensors, config, checkpoint_predictor(checkpoint)->act, out, err);
}

void predictor_layer_free(struct predictor_layer *layer) {
    free(layer->fc1);
    free(layer->b1);
    free(layer->fc2);
    free(layer->b2);
    *layer = (struct predictor_layer){0};
}
