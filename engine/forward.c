/* forward.c - the transformer, once for all families and backends. */
#include "engine/model.h"

/* Element i of a device array of f32 (or double on an F64 device). */
static float *real_at(const struct model *m, float *base, size_t i) {
    return (float *)(void *)((char *)base + i * real_size(m->ops, m->dev));
}

static void norm(const struct model *m, const struct step *s, float *x, const float *add, const float *weight,
                 float *out_f32, void *out_act) {
    m->ops->rmsnorm(m->dev, &(struct rmsnorm_args){
        .x = x, .add = add, .weight = weight, .eps = (float)m->config->rms_norm_eps, .plus_one = m->config->norm_plus_one,
        .n_rows = s->n_rows, .n_groups = 1, .n_cols = (size_t)m->config->d_model, .ld_x = (size_t)m->config->d_model,
        .out_f32 = out_f32, .out_act = out_act});
}

static void project(const struct model *m, const struct step *s, const struct weight *w, const float *bias, float *y,
                    size_t ld) {
    m->ops->linear(m->dev,
                   &(struct linear_args){.w = w, .x = s->a->act, .bias = bias, .y = y, .n_rows = s->n_rows, .ld_y = ld});
}

/* Norm per head (Qwen3, Gemma 3) and rotation of n_heads heads that lie side by side at x. */
static void prepare_heads(const struct model *m, const struct step *s, const struct layer_config *layer, float *x,
                          const float *weight, size_t n_heads, size_t ld) {
    const struct model_config *c = m->config;
    size_t head_dim = (size_t)c->head_dim;
    if (weight)
        m->ops->rmsnorm(m->dev, &(struct rmsnorm_args){
            .x = x, .weight = weight, .eps = (float)c->rms_norm_eps, .plus_one = c->norm_plus_one,
            .n_rows = s->n_rows, .n_groups = n_heads, .n_cols = head_dim, .ld_x = ld, .out_f32 = x});
    if (layer->rope)
        m->ops->rope(m->dev, &(struct rope_args){
            .x = x, .pos = s->a->pos, .table = s->rope[layer->rope_kind],
            .n_rows = s->n_rows, .n_heads = n_heads, .head_dim = head_dim, .ld_x = ld});
}

/* Scores and gates of the step's pairs in layer l. */
static void score(const struct model *m, const struct step *s, int l, float *utility, uint8_t *open) {
    const struct policy *policy = s->policy;
    const struct model_layer *w = &m->layers[l];
    size_t n_kv_heads = (size_t)m->config->n_kv_heads;
    bool sliding = m->config->layers[l].sliding_window > 0;
    if (sliding || policy->scorer == SCORER_CONST)
        m->ops->score_const(m->dev, real_at(m, (float *)(uintptr_t)s->head_score, (size_t)l * n_kv_heads), s->n_rows,
                            n_kv_heads, utility);
    else if (policy->scorer == SCORER_RANDOM)
        m->ops->score_random(m->dev, &s->batch, policy->seed, l, n_kv_heads, utility);
    else
        m->ops->predict(m->dev, &(struct predict_args){
            .h = m->predictor->input == PREDICTOR_NORMED ? s->a->h : s->a->x,
            .fc1 = w->fc1, .b1 = w->b1, .fc2 = w->fc2, .b2 = w->b2, .act = m->predictor->act,
            .sigmoid = m->predictor->sigmoid, .n_rows = s->n_rows, .n_kv_heads = n_kv_heads, .u = utility});
    m->ops->gate(m->dev, utility, s->n_rows * n_kv_heads, (float)policy->threshold, policy->strict, open);
}

static void attend(const struct model *m, const struct step *s, int l, const float *q, const float *k, const float *v,
                   const uint8_t *open, size_t ld) {
    const struct model_config *c = m->config;
    const struct attend_args args = {
        .cache = s->cache, .batch = s->batch, .layer = l, .q = q, .k = k, .v = v, .open = open, .n_rows = s->n_rows,
        .n_heads = (size_t)c->n_heads, .ld_qkv = ld, .scale = (float)c->attention_scale,
        .softcap = (float)c->attention_softcap, .out = s->a->act, .lse = s->stats ? s->a->lse : NULL};
    m->ops->attend_cache(m->dev, &args);
    if (s->stats && c->layers[l].sliding_window == 0) {
        size_t at = (size_t)l * (size_t)s->batch.n_seq * (size_t)c->n_kv_heads;
        m->ops->attend_stats(m->dev, &(struct attend_stats_args){
            .attend = &args, .window = s->stats->window, .sinks = s->stats->sinks, .far_sum = s->stats->far_sum + at,
            .sink_sum = s->stats->sink_sum + at, .distance_sum = s->stats->distance_sum + at * (size_t)s->stats->n_bins,
            .bin_of_distance = s->stats->bin_of_distance, .n_bins = s->stats->n_bins});
    }
    m->ops->kv_append(m->dev, &(struct kv_append_args){
        .cache = s->cache, .batch = s->batch, .layer = l, .k = k, .v = v, .open = open, .ld_kv = ld});
}

/* Leaves the block's output in a->delta. */
static void attention_block(const struct model *m, const struct step *s, int l, const float *add) {
    const struct model_config *c = m->config;
    const struct model_layer *w = &m->layers[l];
    size_t n_q = (size_t)c->n_heads * (size_t)c->head_dim, n_kv = (size_t)c->n_kv_heads * (size_t)c->head_dim;
    size_t ld = n_q + 2 * n_kv, at = (size_t)l * s->n_rows * (size_t)c->n_kv_heads;
    float *q = s->a->qkv, *k = real_at(m, q, n_q), *v = real_at(m, k, n_kv);
    float *utility = real_at(m, s->a->utility, at);
    uint8_t *open = s->a->open + at;
    bool normed_f32 = s->policy->scorer == SCORER_PREDICTOR && m->predictor->input == PREDICTOR_NORMED;
    norm(m, s, s->a->x, add, w->attention_norm, normed_f32 ? s->a->h : NULL, s->a->act);
    project(m, s, w->q, w->q_bias, q, ld);
    project(m, s, w->k, w->k_bias, k, ld);
    project(m, s, w->v, w->v_bias, v, ld);
    prepare_heads(m, s, &c->layers[l], q, w->q_norm, (size_t)c->n_heads, ld);
    prepare_heads(m, s, &c->layers[l], k, w->k_norm, (size_t)c->n_kv_heads, ld);
    score(m, s, l, utility, open);
    attend(m, s, l, q, k, v, s->all_open ? s->all_open : open, ld);
    project(m, s, w->o, w->o_bias, s->a->delta, (size_t)c->d_model);
    if (w->attention_post_norm)
        norm(m, s, s->a->delta, NULL, w->attention_post_norm, s->a->delta, NULL);
}

/* Adds the attention block's delta to the residual and leaves the MLP's output in a->delta. */
static void mlp_block(const struct model *m, const struct step *s, int l) {
    const struct model_config *c = m->config;
    const struct model_layer *w = &m->layers[l];
    size_t d_ffn = (size_t)c->d_ffn;
    norm(m, s, s->a->x, s->a->delta, w->ffn_norm, NULL, s->a->act);
    project(m, s, w->gate, w->gate_bias, s->a->gate_up, 2 * d_ffn);
    project(m, s, w->up, w->up_bias, real_at(m, s->a->gate_up, d_ffn), 2 * d_ffn);
    m->ops->act_mul(m->dev, s->a->gate_up, c->ffn_act, s->n_rows, d_ffn, s->a->act);
    project(m, s, w->down, w->down_bias, s->a->delta, (size_t)c->d_model);
    if (w->ffn_post_norm)
        norm(m, s, s->a->delta, NULL, w->ffn_post_norm, s->a->delta, NULL);
}

void model_forward(const struct model *m, const struct step *s) {
    m->ops->embed(m->dev, m->embed, s->a->ids, s->n_rows, (float)m->config->embed_scale, s->a->x);
    for (int l = 0; l < m->config->n_layers; l++) {
        attention_block(m, s, l, l > 0 ? s->a->delta : NULL); /* the residual takes each delta in the next norm */
        mlp_block(m, s, l);
    }
    norm(m, s, s->a->x, s->a->delta, m->final_norm, NULL, s->a->final);
}
