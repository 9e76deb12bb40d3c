#include "train/backward.h"

#include "base/mem.h"
#include "kernels/train_ops.h"

static float *work_array(const struct model *m, size_t max_rows, size_t n, bool *failed) {
    size_t n_bytes;
    float *out = NULL;
    if (!*failed && size_mul(max_rows, n, &n_bytes) && size_mul(n_bytes, real_size(m->ops, m->dev), &n_bytes))
        out = m->ops->mem_alloc(m->dev, n_bytes);
    if (!out)
        *failed = true;
    return out;
}

int backward_space_create(const struct model *m, size_t max_rows, struct backward_space *out, struct err *err) {
    const struct model_config *c = m->config;
    size_t d = (size_t)c->d_model, d_ffn = (size_t)c->d_ffn, head_dim = (size_t)c->head_dim;
    size_t n_q = (size_t)c->n_heads * head_dim, n_kv = (size_t)c->n_kv_heads * head_dim;
    bool failed = false;
    *out = (struct backward_space){
        .dx = work_array(m, max_rows, d, &failed),
        .dnormed = work_array(m, max_rows, d, &failed),
        .dout = c->sandwich_norms ? work_array(m, max_rows, d, &failed) : NULL,
        .dinner = work_array(m, max_rows, d_ffn > n_q ? d_ffn : n_q, &failed),
        .dqkv = work_array(m, max_rows, n_q + 2 * n_kv, &failed),
        .dutility = work_array(m, max_rows, (size_t)c->n_kv_heads, &failed)};
    return failed ? err_memory(err, "gradients", max_rows) : OK;
}

void backward_space_free(const struct model *m, struct backward_space *space) {
    float *arrays[] = {space->dx, space->dnormed, space->dout, space->dinner, space->dqkv, space->dutility};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        m->ops->mem_free(m->dev, arrays[i]);
    *space = (struct backward_space){0};
}

/* Norm over d_model. */
static void norm_grad(const struct model *m, const struct backward_args *a, const float *x, const float *weight,
                      const float *dy, float *dx, bool add_dx) {
    size_t d = (size_t)m->config->d_model;
    m->ops->train->rmsnorm_grad(m->dev, &(struct rmsnorm_grad_args){
        .x = x, .weight = weight, .eps = (float)m->config->rms_norm_eps, .plus_one = m->config->norm_plus_one,
        .n_rows = a->step->n_rows, .n_groups = 1, .n_cols = d, .ld_x = d, .dy = dy, .ld_dy = d, .dx = dx, .ld_dx = d,
        .add_dx = add_dx, .dweight = params_grad_of(a->params, weight)});
}

/* x, low and the gradients of one projection. */
struct projection_flow {
    const void *x;
    float *low;
    const float *dy;
    size_t ld_dy;
    float *dx;
    bool add_dx;
};

static void project_grad(const struct model *m, const struct backward_args *a, const struct projection *p,
                         const struct projection_flow *f) {
    m->ops->train->linear_grad(m->dev, &(struct linear_grad_args){
        .w = p->weight, .x = f->x, .dy = f->dy, .n_rows = a->step->n_rows, .ld_dy = f->ld_dy, .dx = f->dx,
        .add_dx = f->add_dx, .dw = params_grad_of(a->params, p->weight), .dbias = params_grad_of(a->params, p->bias)});
    if (!p->lora_a)
        return;
    const struct low_rank_args forward = model_low_rank_args(m, a->step, p, f->x, f->low);
    m->ops->train->low_rank_grad(m->dev, &(struct low_rank_grad_args){
        .forward = &forward, .dy = f->dy, .ld_dy = f->ld_dy, .da = params_grad_of(a->params, p->lora_a),
        .db = params_grad_of(a->params, p->lora_b), .dx = f->dx});
}

/* Of n_heads heads that lie side by side: the rotation, then the norm per head, of which `raw` went in. */
static void prepare_heads_grad(const struct model *m, const struct backward_args *a, const struct layer_config *layer,
                               const float *raw, const float *weight, float *dx, size_t n_heads, size_t ld) {
    const struct model_config *c = m->config;
    size_t head_dim = (size_t)c->head_dim, n_rows = a->step->n_rows;
    if (layer->rope)
        m->ops->rope(m->dev, &(struct rope_args){
            .x = dx, .pos = a->step->a->pos, .table = a->step->rope[layer->rope_kind], .n_rows = n_rows,
            .n_heads = n_heads, .head_dim = head_dim, .ld_x = ld, .inverse = true});
    if (weight)
        m->ops->train->rmsnorm_grad(m->dev, &(struct rmsnorm_grad_args){
            .x = raw, .weight = weight, .eps = (float)c->rms_norm_eps, .plus_one = c->norm_plus_one, .n_rows = n_rows,
            .n_groups = n_heads, .n_cols = head_dim, .ld_x = ld, .dy = dx, .ld_dy = ld, .dx = dx, .ld_dx = ld,
            .dweight = params_grad_of(a->params, weight)});
}

/* From log gates to the predictor and its input, whose gradient joins that of the normed input or of the residual. */
static void predictor_grad(const struct model *m, const struct backward_args *a, int l) {
    const struct model_layer *w = &m->layers[l];
    const struct predict_args forward = model_predict_args(m, a->step, l);
    float *du = a->space->dutility;
    m->ops->train->gate_log_grad(m->dev, &(struct gate_log_grad_args){
        .u = forward.u, .open = model_acting_gates(m, a->step, l), .n = forward.n_rows * forward.n_kv_heads,
        .blend = a->step->sequences->blend, .slope = a->slope, .dlog_gate = du, .density = a->density, .du = du});
    m->ops->train->predict_grad(m->dev, &(struct predict_grad_args){
        .forward = &forward, .du = du, .dfc1 = params_grad_of(a->params, w->fc1), .db1 = params_grad_of(a->params, w->b1),
        .dfc2 = params_grad_of(a->params, w->fc2), .db2 = params_grad_of(a->params, w->b2),
        .dh = m->predictor->input == PREDICTOR_NORMED ? a->space->dnormed : a->space->dx});
}

/* space->dx: from the gradient of the residual after a block to that before it. */
static void mlp_grad(const struct model *m, const struct backward_args *a, int l) {
    const struct model_layer *w = &m->layers[l];
    const struct layer_activations *kept = &a->step->a->layers[l];
    const struct backward_space *s = a->space;
    size_t d = (size_t)m->config->d_model, d_ffn = (size_t)m->config->d_ffn;
    const float *dout = s->dx;
    float *dgate = kept->gate_up, *dup = real_at(m, dgate, d_ffn); /* in the place of what they are of */
    if (w->ffn_post_norm) {
        norm_grad(m, a, kept->mlp_out, w->ffn_post_norm, s->dx, s->dout, false);
        dout = s->dout;
    }
    project_grad(m, a, &w->down, &(struct projection_flow){kept->mlp_act, kept->low.down, dout, d, s->dinner, false});
    m->ops->train->act_mul_grad(m->dev, kept->gate_up, m->config->ffn_act, a->step->n_rows, d_ffn, s->dinner, dgate);
    project_grad(m, a, &w->gate, &(struct projection_flow){kept->mlp_normed, kept->low.gate, dgate, 2 * d_ffn,
                                                                s->dnormed, false});
    project_grad(m, a, &w->up, &(struct projection_flow){kept->mlp_normed, kept->low.up, dup, 2 * d_ffn, s->dnormed, true});
    norm_grad(m, a, kept->x_mid, w->ffn_norm, s->dnormed, s->dx, true);
}

static void attention_grad(const struct model *m, const struct backward_args *a, int l) {
    const struct model_config *c = m->config;
    const struct model_layer *w = &m->layers[l];
    const struct layer_activations *kept = &a->step->a->layers[l];
    const struct backward_space *s = a->space;
    const struct attend_seq_args forward = model_attend_seq_args(m, a->step, l);
    size_t d = (size_t)c->d_model, ld = forward.ld_qkv, n_q = forward.n_heads * forward.head_dim;
    float *dq = s->dqkv, *dk = real_at(m, dq, n_q), *dv = real_at(m, dk, forward.n_kv_heads * forward.head_dim);
    bool utilities = a->utilities && forward.log_gate;
    const float *dout = s->dx;
    if (w->attention_post_norm) {
        norm_grad(m, a, kept->attention_out, w->attention_post_norm, s->dx, s->dout, false);
        dout = s->dout;
    }
    project_grad(m, a, &w->o, &(struct projection_flow){kept->attended, kept->low.o, dout, d, s->dinner, false});
    m->ops->train->attend_seq_grad(m->dev, &(struct attend_seq_grad_args){
        .forward = &forward, .dout = s->dinner, .dq = dq, .dk = dk, .dv = dv,
        .dlog_gate = utilities ? s->dutility : NULL});
    prepare_heads_grad(m, a, &c->layers[l], kept->qkv_raw, w->q_norm, dq, forward.n_heads, ld);
    prepare_heads_grad(m, a, &c->layers[l], real_at(m, kept->qkv_raw, n_q), w->k_norm, dk, forward.n_kv_heads, ld);
    project_grad(m, a, &w->q, &(struct projection_flow){kept->normed, kept->low.q, dq, ld, s->dnormed, false});
    project_grad(m, a, &w->k, &(struct projection_flow){kept->normed, kept->low.k, dk, ld, s->dnormed, true});
    project_grad(m, a, &w->v, &(struct projection_flow){kept->normed, kept->low.v, dv, ld, s->dnormed, true});
    if (utilities)
        predictor_grad(m, a, l);
    norm_grad(m, a, kept->x, w->attention_norm, s->dnormed, s->dx, true);
}

/* The lowest layer that holds something trained: below it nobody needs gradients. */
static int lowest_layer(const struct model *m, const struct backward_args *a) {
    int l = 0;
    if (params_grad_of(a->params, m->embed) || m->lora_rank > 0)
        return 0;
    while (l < m->config->n_layers && !(a->utilities && m->layers[l].b2))
        l++;
    return l;
}

void model_backward(const struct model *m, const struct backward_args *a) {
    const struct step *s = a->step;
    float *dembed = params_grad_of(a->params, m->embed);
    int lowest = lowest_layer(m, a);
    m->ops->train->nll_grad(m->dev, &(struct nll_grad_args){
        .forward = a->loss, .scale = a->loss_scale, .dx = a->space->dnormed, .dw = params_grad_of(a->params, m->lm_head)});
    norm_grad(m, a, s->a->x_out, m->final_norm, a->space->dnormed, a->space->dx, false);
    for (int l = m->config->n_layers - 1; l >= lowest; l--) {
        if (a->recompute && l < m->config->n_layers - 1) /* the last layer is still there */
            model_forward_layer(m, s, l);
        mlp_grad(m, a, l);
        attention_grad(m, a, l);
    }
    if (dembed)
        m->ops->train->embed_grad(m->dev, s->a->ids, s->n_rows, (size_t)m->config->d_model, (float)m->config->embed_scale,
                                  a->space->dx, dembed);
}
