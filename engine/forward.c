#include "engine/forward.h"

static void norm(const struct model *m, const struct step *s, float *x, const float *add, const float *weight,
                 float *out_f32, void *out_act) {
    m->ops->rmsnorm(m->dev, &(struct rmsnorm_args){
        .x = x, .add = add, .weight = weight, .eps = (float)m->config->rms_norm_eps, .plus_one = m->config->norm_plus_one,
        .n_rows = s->n_rows, .n_groups = 1, .n_cols = (size_t)m->config->d_model, .ld_x = (size_t)m->config->d_model,
        .out_f32 = out_f32, .out_act = out_act});
}

struct low_rank_args model_low_rank_args(const struct model *m, const struct step *s, const struct projection *p,
                                         const void *x, float *low) {
    return (struct low_rank_args){
        .a = p->lora_a, .b = p->lora_b, .scale = m->lora_scale, .rank = m->lora_rank, .n_in = p->n_in,
        .n_out = p->n_out, .x = x, .low = low, .n_rows = s->n_rows};
}

/* `low` is read only where a low-rank update stands beside the weight. */
static void project(const struct model *m, const struct step *s, const struct projection *p, const void *x, float *low,
                    float *y, size_t ld) {
    m->ops->linear(m->dev, &(struct linear_args){.w = p->weight, .x = x, .bias = p->bias, .y = y, .n_rows = s->n_rows,
                                                 .ld_y = ld});
    if (!p->lora_a)
        return;
    struct low_rank_args args = model_low_rank_args(m, s, p, x, low);
    args.y = y;
    args.ld_y = ld;
    m->ops->train->low_rank(m->dev, &args);
}

/* The residual moves on to the buffer of its next role. */
static void carry(const struct model *m, const struct step *s, float *to, const float *from) {
    if (to != from)
        m->ops->copy(m->dev, to, from, s->n_rows * (size_t)m->config->d_model * real_size(m->ops, m->dev));
}

/* Norm per head (Qwen3, Gemma 3) of n_heads heads that lie side by side at `raw`, into x. */
static void norm_heads(const struct model *m, const struct step *s, float *raw, float *x, const float *weight,
                       size_t n_heads, size_t ld) {
    const struct model_config *c = m->config;
    if (weight)
        m->ops->rmsnorm(m->dev, &(struct rmsnorm_args){
            .x = raw, .weight = weight, .eps = (float)c->rms_norm_eps, .plus_one = c->norm_plus_one,
            .n_rows = s->n_rows, .n_groups = n_heads, .n_cols = (size_t)c->head_dim, .ld_x = ld, .out_f32 = x});
}

static void rotate_heads(const struct model *m, const struct step *s, const struct layer_config *layer, float *x,
                         size_t n_heads, size_t ld) {
    if (layer->rope)
        m->ops->rope(m->dev, &(struct rope_args){
            .x = x, .pos = s->a->pos, .table = s->rope[layer->rope_kind],
            .n_rows = s->n_rows, .n_heads = n_heads, .head_dim = (size_t)m->config->head_dim, .ld_x = ld});
}

/* Adds the queries of a step, not yet rotated, to what an eviction policy knows of them. */
static void query_sums(const struct model *m, const struct step *s, int l, const float *q, size_t ld) {
    size_t n_heads = (size_t)m->config->n_heads, dim = (size_t)m->config->head_dim;
    if (!s->eviction || !s->eviction->query_sum || m->config->layers[l].sliding_window > 0)
        return;
    size_t at = (size_t)l * (size_t)s->cache->n_slots * n_heads * dim * (dim + 1);
    m->ops->query_sums(m->dev, &(struct query_sums_args){
        .batch = s->batch, .q = q, .n_heads = n_heads, .head_dim = dim, .ld_q = ld, .skip = s->eviction->skip,
        .sum = s->eviction->query_sum + at});
}

struct predict_args model_predict_args(const struct model *m, const struct step *s, int l) {
    const struct model_layer *w = &m->layers[l];
    const struct layer_activations *a = &s->a->layers[l];
    return (struct predict_args){
        .h = m->predictor->input == PREDICTOR_NORMED ? a->h : a->x,
        .fc1 = w->fc1, .b1 = w->b1, .fc2 = w->fc2, .b2 = w->b2, .act = m->predictor->act, .sigmoid = m->predictor->sigmoid,
        .n_rows = s->n_rows, .n_kv_heads = (size_t)m->config->n_kv_heads,
        .u = real_at(m, s->a->utility, gates_at(m, s, l))};
}

static float *keys_of(const struct model *m, float *qkv) {
    return real_at(m, qkv, (size_t)m->config->n_heads * (size_t)m->config->head_dim);
}

static float *values_of(const struct model *m, float *qkv) {
    return real_at(m, qkv, (size_t)(m->config->n_heads + m->config->n_kv_heads) * (size_t)m->config->head_dim);
}

static size_t qkv_width(const struct model *m) {
    return (size_t)(m->config->n_heads + 2 * m->config->n_kv_heads) * (size_t)m->config->head_dim;
}

static struct predict_args gates_args(const struct model *m, const struct step *s, int l) {
    const struct predictor_config *config = &s->policy->gates->config;
    const struct gate_layer *w = &s->gates[l];
    const struct layer_activations *a = &s->a->layers[l];
    return (struct predict_args){
        .h = config->input == PREDICTOR_NORMED ? a->h : a->x,
        .fc1 = w->fc1, .b1 = w->b1, .fc2 = w->fc2, .b2 = w->b2, .act = config->act, .sigmoid = config->sigmoid,
        .n_rows = s->n_rows, .n_kv_heads = (size_t)m->config->n_kv_heads,
        .u = real_at(m, s->a->utility, gates_at(m, s, l))};
}

/* Whether the scorer reads the normed input of attention. */
static bool scores_normed(const struct model *m, const struct policy *policy) {
    return policy->scorer == SCORER_PREDICTOR ? m->predictor->input == PREDICTOR_NORMED
           : policy->scorer == SCORER_GATES   ? policy->gates->config.input == PREDICTOR_NORMED
                                              : false;
}

/* The step's rows of scores that were there before. */
static void take_given(const struct model *m, const struct step *s, int l, float *utility) {
    size_t kv = (size_t)m->config->n_kv_heads, size = kv * real_size(m->ops, m->dev);
    for (int i = 0; i < s->batch.n_seq; i++) {
        size_t slot = (size_t)l * (size_t)s->cache->n_slots + (size_t)s->batch.slots[i];
        size_t row = (size_t)s->batch.row_splits[i];
        const char *from = (const char *)s->given + (slot * (size_t)s->cache->max_len + (size_t)s->batch.pos0[i]) * size;
        m->ops->copy(m->dev, (char *)utility + row * size, from, ((size_t)s->batch.row_splits[i + 1] - row) * size);
    }
}

/* Scores and gates of the step's pairs in layer l. */
static void score(const struct model *m, const struct step *s, int l) {
    const struct policy *policy = s->policy;
    size_t n_kv_heads = (size_t)m->config->n_kv_heads;
    float *utility = real_at(m, s->a->utility, gates_at(m, s, l));
    bool sliding = m->config->layers[l].sliding_window > 0;
    if (sliding || policy->scorer == SCORER_CONST) {
        m->ops->score_const(m->dev, real_at(m, (float *)(uintptr_t)s->head_score, (size_t)l * n_kv_heads), s->n_rows,
                            n_kv_heads, utility);
    } else if (policy->scorer == SCORER_RANDOM) {
        m->ops->score_random(m->dev, &s->batch, policy->seed, l, n_kv_heads, utility);
    } else if (policy->scorer == SCORER_GIVEN) {
        take_given(m, s, l, utility);
    } else if (policy->scorer == SCORER_KEY_NORM) {
        m->ops->score_key_norm(m->dev, keys_of(m, s->a->layers[l].qkv), qkv_width(m), s->n_rows, n_kv_heads,
                               (size_t)m->config->head_dim, utility);
    } else {
        struct predict_args args = policy->scorer == SCORER_GATES ? gates_args(m, s, l) : model_predict_args(m, s, l);
        m->ops->predict(m->dev, &args);
    }
    m->ops->gate(m->dev, utility, s->n_rows * n_kv_heads, (float)policy->threshold, policy->strict,
                 s->a->open + gates_at(m, s, l));
}

static void attend_stats(const struct model *m, const struct step *s, int l, const struct attend_args *attend) {
    const struct step_stats *stats = s->stats;
    size_t kv = (size_t)m->config->n_kv_heads, at = (size_t)l * (size_t)s->batch.n_seq * kv;
    size_t future_at = (size_t)l * (size_t)s->cache->n_slots * (size_t)s->cache->max_len * kv;
    struct attend_stats_args args = {.attend = attend, .window = stats->window, .sinks = stats->sinks};
    if (stats->far_sum) {
        args.far_sum = stats->far_sum + at;
        args.sink_sum = stats->sink_sum + at;
        args.distance_sum = stats->distance_sum + at * (size_t)stats->n_bins;
        args.bin_of_distance = stats->bin_of_distance;
        args.n_bins = stats->n_bins;
    }
    if (stats->future_max) {
        args.future_max = real_at(m, stats->future_max, future_at);
        args.future_sum = real_at(m, stats->future_sum, future_at);
    }
    m->ops->attend_stats(m->dev, &args);
    if (stats->value_norm) {
        size_t head_dim = (size_t)m->config->head_dim, per_layer = attend->n_heads * head_dim * head_dim;
        m->ops->output_norm(m->dev, &(struct output_norm_args){
            .v = attend->v, .gram = real_at(m, (float *)(uintptr_t)stats->output_gram, (size_t)l * per_layer),
            .n_rows = s->n_rows, .n_heads = attend->n_heads, .n_kv_heads = kv, .head_dim = head_dim,
            .ld_v = attend->ld_qkv, .norm = real_at(m, stats->value_norm, gates_at(m, s, l))});
    }
}

/* Where attention in layer l adds what it gives each key, for an eviction policy; NULL = nowhere. */
static float *column_sum(const struct model *m, const struct step *s, int l) {
    if (!s->eviction || !s->eviction->column_sum || m->config->layers[l].sliding_window > 0)
        return NULL;
    size_t items = (size_t)m->config->n_kv_heads * (size_t)s->cache->max_len;
    return real_at(m, s->eviction->column_sum, (size_t)(l * s->cache->n_slots) * items);
}

static void attend_cache(const struct model *m, const struct step *s, int l) {
    const struct model_config *c = m->config;
    const struct layer_activations *a = &s->a->layers[l];
    const float *k = keys_of(m, a->qkv), *v = values_of(m, a->qkv);
    float *columns = column_sum(m, s, l);
    const uint8_t *open = s->all_open ? s->all_open : s->a->open + gates_at(m, s, l);
    const struct attend_args args = {
        .cache = s->cache, .batch = s->batch, .layer = l, .q = a->qkv, .k = k, .v = v, .open = open, .n_rows = s->n_rows,
        .n_heads = (size_t)c->n_heads, .ld_qkv = qkv_width(m), .scale = (float)c->attention_scale,
        .softcap = (float)c->attention_softcap, .out = a->attended, .lse = s->stats || columns ? a->lse : NULL,
        .column_sum = columns, .column_from = columns ? s->eviction->column_from : NULL};
    m->ops->attend_cache(m->dev, &args);
    if (s->stats && c->layers[l].sliding_window == 0)
        attend_stats(m, s, l, &args);
    m->ops->kv_append(m->dev, &(struct kv_append_args){
        .cache = s->cache, .batch = s->batch, .layer = l, .k = k, .v = v, .open = open, .ld_kv = qkv_width(m)});
}

struct attend_seq_args model_attend_seq_args(const struct model *m, const struct step *s, int l) {
    const struct model_config *c = m->config;
    const struct layer_activations *a = &s->a->layers[l];
    bool sliding = c->layers[l].sliding_window > 0;
    return (struct attend_seq_args){
        .n_seq = s->batch.n_seq, .row_splits = s->batch.row_splits, .q = a->qkv, .k = keys_of(m, a->qkv),
        .v = values_of(m, a->qkv), .n_rows = s->n_rows, .n_heads = (size_t)c->n_heads, .n_kv_heads = (size_t)c->n_kv_heads,
        .head_dim = (size_t)c->head_dim, .ld_qkv = qkv_width(m), .window = s->sequences->window + l * c->n_kv_heads,
        .sinks = sliding ? 0 : s->policy->sinks,
        .log_gate = sliding || !s->sequences->gates ? NULL : real_at(m, s->a->log_gate, gates_at(m, s, l)),
        .scale = (float)c->attention_scale, .softcap = (float)c->attention_softcap, .out = a->attended, .lse = a->lse};
}

uint8_t *model_acting_gates(const struct model *m, const struct step *s, int l) {
    bool own = s->sequences->sampled || s->sequences->imposed;
    return (own ? s->a->acting : s->a->open) + gates_at(m, s, l);
}

static void attend_sequences(const struct model *m, const struct step *s, int l) {
    const struct step_sequences *how = s->sequences;
    const struct attend_seq_args args = model_attend_seq_args(m, s, l);
    float *u = real_at(m, s->a->utility, gates_at(m, s, l));
    uint8_t *acting = model_acting_gates(m, s, l);
    if (args.log_gate && how->sampled)
        m->ops->train->gate_sample(m->dev, u, &args, s->batch.sequence_id, how->seed, l, how->sample_clip, acting);
    if (args.log_gate)
        m->ops->train->gate_log(m->dev, &(struct gate_log_args){
            .u = u, .open = acting, .n = s->n_rows * args.n_kv_heads, .blend = how->blend, .hard = how->hard,
            .log_gate = real_at(m, s->a->log_gate, gates_at(m, s, l))});
    m->ops->train->attend_seq(m->dev, &args);
}

/* Leaves the block's output in a->delta. */
static void attention_block(const struct model *m, const struct step *s, int l, const float *add) {
    const struct model_config *c = m->config;
    const struct model_layer *w = &m->layers[l];
    const struct layer_activations *a = &s->a->layers[l];
    size_t d = (size_t)c->d_model, ld = qkv_width(m);
    norm(m, s, a->x, add, w->attention_norm, scores_normed(m, s->policy) ? a->h : NULL, a->normed);
    project(m, s, &w->q, a->normed, a->low.q, w->q_norm ? a->qkv_raw : a->qkv, ld);
    project(m, s, &w->k, a->normed, a->low.k, keys_of(m, w->k_norm ? a->qkv_raw : a->qkv), ld);
    project(m, s, &w->v, a->normed, a->low.v, values_of(m, a->qkv), ld);
    norm_heads(m, s, a->qkv_raw, a->qkv, w->q_norm, (size_t)c->n_heads, ld);
    norm_heads(m, s, keys_of(m, a->qkv_raw), keys_of(m, a->qkv), w->k_norm, (size_t)c->n_kv_heads, ld);
    query_sums(m, s, l, a->qkv, ld);
    rotate_heads(m, s, &c->layers[l], a->qkv, (size_t)c->n_heads, ld);
    rotate_heads(m, s, &c->layers[l], keys_of(m, a->qkv), (size_t)c->n_kv_heads, ld);
    if (s->cache || s->sequences->gates)
        score(m, s, l);
    if (s->cache)
        attend_cache(m, s, l);
    else
        attend_sequences(m, s, l);
    project(m, s, &w->o, a->attended, a->low.o, a->attention_out, d);
    if (w->attention_post_norm)
        norm(m, s, a->attention_out, NULL, w->attention_post_norm, s->a->delta, NULL);
}

/* Adds the attention block's delta to the residual and leaves the MLP's output in a->delta. */
static void mlp_block(const struct model *m, const struct step *s, int l) {
    const struct model_config *c = m->config;
    const struct model_layer *w = &m->layers[l];
    const struct layer_activations *a = &s->a->layers[l];
    size_t d = (size_t)c->d_model, d_ffn = (size_t)c->d_ffn;
    carry(m, s, a->x_mid, a->x);
    norm(m, s, a->x_mid, s->a->delta, w->ffn_norm, NULL, a->mlp_normed);
    project(m, s, &w->gate, a->mlp_normed, a->low.gate, a->gate_up, 2 * d_ffn);
    project(m, s, &w->up, a->mlp_normed, a->low.up, real_at(m, a->gate_up, d_ffn), 2 * d_ffn);
    m->ops->act_mul(m->dev, a->gate_up, c->ffn_act, s->n_rows, d_ffn, a->mlp_act);
    project(m, s, &w->down, a->mlp_act, a->low.down, a->mlp_out, d);
    if (w->ffn_post_norm)
        norm(m, s, a->mlp_out, NULL, w->ffn_post_norm, s->a->delta, NULL);
}

void model_forward_layer(const struct model *m, const struct step *s, int l) {
    attention_block(m, s, l, NULL);
    mlp_block(m, s, l);
}

void model_forward(const struct model *m, const struct step *s) {
    const struct layer_activations *layers = s->a->layers;
    int n_layers = m->config->n_layers;
    m->ops->embed(m->dev, m->embed, s->a->ids, s->n_rows, (float)m->config->embed_scale, layers[0].x);
    for (int l = 0; l < n_layers; l++) {
        if (l > 0)
            carry(m, s, layers[l].x, layers[l - 1].x_mid);
        attention_block(m, s, l, l > 0 ? s->a->delta : NULL); /* the residual takes each delta in the next norm */
        mlp_block(m, s, l);
    }
    carry(m, s, s->a->x_out, layers[n_layers - 1].x_mid);
    norm(m, s, s->a->x_out, s->a->delta, m->final_norm, NULL, s->a->final);
}
