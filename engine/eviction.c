#include "engine/eviction.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "engine/rope.h"

struct eviction {
    const struct model *model;
    const struct policy *policy;
    struct kv_cache *cache;
    float *const *rope;
    struct step_eviction step;
    int *column_from;   /* host (n_slots) */
    float *column_sum;  /* device (n_layers, n_slots, n_kv_heads, max_len); NULL when scores come from queries */
    double *query_sum;  /* device (n_layers, n_slots, n_heads, head_dim * (head_dim + 1)); NULL else */
    float *future[2];   /* device (head_dim): mean rotation from a position to those after it, by kind of RoPE */
    float *score;       /* device (n_layers, n_kv_heads, max_len) */
    uint8_t *keep;      /* the same shape */
};

static size_t column_items(const struct eviction *e) {
    return (size_t)e->cache->n_kv_heads * (size_t)e->cache->max_len;
}

static size_t query_items(const struct eviction *e) {
    size_t dim = (size_t)e->cache->head_dim;
    return (size_t)e->model->config->n_heads * dim * (dim + 1);
}

/* The slots of layer l. */
static float *columns_of(const struct eviction *e, int l) {
    return e->column_sum ? real_at(e->model, e->column_sum, (size_t)(l * e->cache->n_slots) * column_items(e)) : NULL;
}

static double *queries_of(const struct eviction *e, int l) {
    return e->query_sum ? e->query_sum + (size_t)(l * e->cache->n_slots) * query_items(e) : NULL;
}

static void *device_array(const struct eviction *e, size_t count, size_t size, int *rc) {
    size_t n_bytes;
    void *out = *rc == OK && size_mul(count, size, &n_bytes) ? e->model->ops->mem_alloc(e->model->dev, n_bytes) : NULL;
    if (!out && *rc == OK)
        *rc = ERR_MEMORY;
    return out;
}

/* Mean cosines and sines of the angles 1 .. n_future times every frequency. */
static int create_future(struct eviction *e, int kind, struct err *err) {
    int dim = e->cache->head_dim, half = dim / 2, n = e->policy->evict.n_future, rc = OK;
    float *mean = mem_alloc((size_t)dim * 2, sizeof *mean, "mean rotations", err), attention_factor;
    if (!mean)
        return ERR_MEMORY;
    float *frequency = mean + dim;
    rope_frequencies(&e->model->config->rope[kind], dim, frequency, &attention_factor);
    for (int d = 0; d < half; d++) {
        double cosine = 0, sine = 0;
        for (int j = 1; j <= n; j++) {
            cosine += cos(j * (double)frequency[d]) / n;
            sine += sin(j * (double)frequency[d]) / n;
        }
        mean[d] = (float)cosine;
        mean[half + d] = (float)sine;
    }
    if (!(e->future[kind] = model_upload_real(e->model->ops, e->model->dev, mean, (size_t)dim, err)))
        rc = ERR_MEMORY;
    free(mean);
    return rc;
}

bool eviction_needs_attention(const struct policy *policy) {
    return policy->evict.chunk > 0 && !policy->evict.by_expectation;
}

int eviction_create(const struct model *model, const struct policy *policy, struct kv_cache *cache, float *const *rope,
                    struct eviction **out, struct err *err) {
    struct eviction *e = mem_alloc(1, sizeof *e, "an eviction policy", err);
    int rc = OK;
    *out = NULL;
    if (!e)
        return ERR_MEMORY;
    *e = (struct eviction){.model = model, .policy = policy, .cache = cache, .rope = rope};
    size_t n_layers = (size_t)cache->n_layers, n_slots = (size_t)cache->n_slots, real = real_size(model->ops, model->dev);
    if (!(e->column_from = mem_alloc(n_slots, sizeof *e->column_from, "an eviction policy", err)))
        rc = ERR_MEMORY;
    e->score = device_array(e, n_layers * column_items(e), real, &rc);
    e->keep = device_array(e, n_layers * column_items(e), 1, &rc);
    if (policy->evict.by_expectation)
        e->query_sum = device_array(e, n_layers * n_slots * query_items(e), sizeof(double), &rc);
    else
        e->column_sum = device_array(e, n_layers * n_slots * column_items(e), real, &rc);
    for (int i = 0; policy->evict.by_expectation && i < model->config->n_rope && rc == OK; i++)
        rc = create_future(e, i, err);
    if (rc != OK)
        eviction_free(e);
    else
        *out = e;
    return rc;
}

void eviction_free(struct eviction *e) {
    if (!e)
        return;
    void *on_device[] = {e->column_sum, e->query_sum, e->future[0], e->future[1], e->score, e->keep};
    for (size_t i = 0; i < sizeof on_device / sizeof *on_device; i++)
        e->model->ops->mem_free(e->model->dev, on_device[i]);
    free(e->column_from);
    free(e);
}

static void clear_columns(struct eviction *e, int slot) {
    size_t n = column_items(e);
    for (int l = 0; l < e->cache->n_layers && e->column_sum; l++)
        e->model->ops->fill(e->model->dev, real_at(e->model, columns_of(e, l), (size_t)slot * n), 0,
                            n * real_size(e->model->ops, e->model->dev));
}

void eviction_reset(struct eviction *e, int slot) {
    size_t n = query_items(e);
    clear_columns(e, slot);
    for (int l = 0; l < e->cache->n_layers && e->query_sum; l++)
        e->model->ops->fill(e->model->dev, queries_of(e, l) + (size_t)slot * n, 0, n * sizeof(double));
}

void eviction_copy(struct eviction *e, int from, int to) {
    const struct ops *ops = e->model->ops;
    size_t n = column_items(e), n_bytes = n * real_size(ops, e->model->dev), m = query_items(e);
    for (int l = 0; l < e->cache->n_layers && e->column_sum; l++)
        ops->copy(e->model->dev, real_at(e->model, columns_of(e, l), (size_t)to * n),
                  real_at(e->model, columns_of(e, l), (size_t)from * n), n_bytes);
    for (int l = 0; l < e->cache->n_layers && e->query_sum; l++)
        ops->copy(e->model->dev, queries_of(e, l) + (size_t)to * m, queries_of(e, l) + (size_t)from * m, m * sizeof(double));
}

static int end_of(const struct kv_batch *batch, int i) {
    return batch->pos0[i] + batch->row_splits[i + 1] - batch->row_splits[i];
}

/* Whether sequence i of a step drops pairs at its end. */
static bool drops(const struct eviction *e, const struct kv_batch *batch, int i) {
    int chunk = e->policy->evict.chunk;
    return end_of(batch, i) / chunk > batch->pos0[i] / chunk;
}

const struct step_eviction *eviction_begin_step(struct eviction *e, const struct kv_batch *batch) {
    const struct eviction_rule *rule = &e->policy->evict;
    bool observed = false;
    for (int i = 0; i < batch->n_seq; i++) {
        int end = drops(e, batch, i) ? end_of(batch, i) : (batch->pos0[i] / rule->chunk + 1) * rule->chunk;
        e->column_from[i] = rule->carry ? 0 : end - rule->observe;
        observed |= e->column_from[i] < end_of(batch, i);
    }
    e->step = (struct step_eviction){.column_sum = observed ? e->column_sum : NULL, .column_from = e->column_from,
                                     .query_sum = e->query_sum, .skip = rule->skip};
    return &e->step;
}

/* The RoPE table row of a position in layer l, NULL without RoPE. */
static const float *rotation(const struct eviction *e, int l, int pos) {
    const struct layer_config *layer = &e->model->config->layers[l];
    return layer->rope ? real_at(e->model, e->rope[layer->rope_kind], (size_t)pos * (size_t)e->cache->head_dim) : NULL;
}

static void score_layer(struct eviction *e, int slot, int l, int n_tok) {
    const struct model *m = e->model;
    const struct eviction_rule *rule = &e->policy->evict;
    float *score = real_at(m, e->score, (size_t)l * column_items(e));
    if (rule->by_expectation)
        m->ops->expected_score(m->dev, &(struct expected_score_args){
            .cache = e->cache, .slot = slot, .layer = l, .n_heads = (size_t)m->config->n_heads,
            .query_sum = queries_of(e, l), .n_queries = n_tok > rule->skip ? n_tok - rule->skip : 0,
            .rotation = rotation(e, l, n_tok - 1), .future = e->future[m->config->layers[l].rope_kind],
            .scale = (float)m->config->attention_scale, .score = score});
    else
        m->ops->column_score(m->dev, &(struct column_score_args){
            .cache = e->cache, .slot = slot, .layer = l, .column_sum = columns_of(e, l), .mean_heads = rule->mean_heads,
            .pool = rule->pool, .score = score});
}

/* Marks what stays: the best of every head, layer or of the whole model, and the sinks. */
static void select_pairs(struct eviction *e, int slot, int budget) {
    const struct model *m = e->model;
    const struct kv_cache *c = e->cache;
    size_t n_layers = (size_t)c->n_layers, n_heads = (size_t)c->n_kv_heads, n_full = 0, k = (size_t)(budget + c->sinks);
    for (size_t l = 0; l < n_layers; l++)
        n_full += m->config->layers[l].sliding_window == 0; /* the others have no long-term pairs */
    struct select_top_args args = {.score = e->score, .n = c->n_long + kv_lane(c, slot, 0, 0),
                                   .stride = (size_t)c->max_len, .keep = e->keep};
    switch (e->policy->allocation) {
    case ALLOCATION_HEAD: args.n_sets = n_layers * n_heads, args.n_lanes = 1, args.k = k; break;
    case ALLOCATION_LAYER: args.n_sets = n_layers, args.n_lanes = n_heads, args.k = k * n_heads; break;
    case ALLOCATION_MODEL: args.n_sets = 1, args.n_lanes = n_layers * n_heads, args.k = k * n_heads * n_full; break;
    }
    m->ops->select_top(m->dev, &args);
}

static void drop_pairs(struct eviction *e, int slot, int n_tok) {
    const struct model *m = e->model;
    int outside = n_tok - e->policy->base_window - e->cache->sinks, budget = policy_budget(e->policy, n_tok);
    if (budget >= outside)
        return;
    for (int l = 0; l < e->cache->n_layers; l++)
        score_layer(e, slot, l, n_tok);
    select_pairs(e, slot, budget);
    for (int l = 0; l < e->cache->n_layers; l++)
        m->ops->kv_evict(m->dev, e->cache, slot, l, e->keep + (size_t)l * column_items(e));
}

void eviction_end_step(struct eviction *e, const struct kv_batch *batch) {
    for (int i = 0; i < batch->n_seq; i++) {
        if (!drops(e, batch, i))
            continue;
        drop_pairs(e, batch->slots[i], end_of(batch, i));
        if (!e->policy->evict.carry)
            clear_columns(e, batch->slots[i]);
    }
}
