/* What later queries give each pair of a session, the norms of values, and scores that such a pass gave the next one. */
#include <math.h>

#include "base/mem.h"
#include "engine/output_gram.h"
#include "engine/session_internal.h"

/* Elements of the future attention of one slot in one layer. */
static size_t future_items(const struct session *s) {
    return (size_t)s->options.max_len * (size_t)s->model->config->n_kv_heads;
}

static int create_future(struct session *s, struct err *err) {
    int rc = OK;
    size_t n_layers = (size_t)s->model->config->n_layers, n = (size_t)s->options.n_slots * n_layers * future_items(s);
    size_t real = real_size(s->model->ops, s->model->dev);
    s->stats.future_max = session_device_array(s, n, real, &rc);
    s->stats.future_sum = session_device_array(s, n, real, &rc);
    s->host_future_max = session_host_array(n_layers * future_items(s), sizeof(float), &rc, err);
    s->host_future_mean = session_host_array(n_layers * future_items(s), sizeof(float), &rc, err);
    return rc;
}

static int create_value_norms(struct session *s, struct err *err) {
    int rc = OK;
    size_t n_layers = (size_t)s->model->config->n_layers, real = real_size(s->model->ops, s->model->dev);
    s->value_norm = session_device_array(s, (size_t)s->options.n_slots * n_layers * future_items(s), real, &rc);
    s->step_norms = session_device_array(s, s->options.max_rows * (size_t)s->model->config->n_layers *
                                                (size_t)s->model->config->n_kv_heads, real, &rc);
    s->host_norm = session_host_array(n_layers * future_items(s), sizeof(float), &rc, err);
    if (rc == OK)
        rc = output_gram_create(s->model, &s->output_gram, err);
    s->stats.output_gram = s->output_gram;
    s->stats.value_norm = s->step_norms;
    return rc;
}

int session_create_future(struct session *s, struct err *err) {
    const struct model *m = s->model;
    int rc = OK;
    if (s->options.policy->scorer == SCORER_GIVEN)
        s->given = session_device_array(s, (size_t)s->options.n_slots * (size_t)m->config->n_layers * future_items(s),
                                        real_size(m->ops, m->dev), &rc);
    if (rc == OK && s->options.future_attention)
        rc = create_future(s, err);
    return rc == OK && s->options.value_norms ? create_value_norms(s, err) : rc;
}

/* The future attention of a slot in one layer. */
static float *future_of(const struct session *s, float *base, int layer, int slot) {
    size_t part = (size_t)layer * (size_t)s->options.n_slots + (size_t)slot;
    return real_at(s->model, base, part * future_items(s));
}

void session_clear_future(struct session *s, int slot) {
    size_t n_bytes = future_items(s) * real_size(s->model->ops, s->model->dev);
    for (int l = 0; l < s->model->config->n_layers; l++) {
        s->model->ops->fill(s->model->dev, future_of(s, s->stats.future_max, l, slot), 0, n_bytes);
        s->model->ops->fill(s->model->dev, future_of(s, s->stats.future_sum, l, slot), 0, n_bytes);
    }
}

void session_note_norms(struct session *s) {
    size_t kv = (size_t)s->model->config->n_kv_heads, size = kv * real_size(s->model->ops, s->model->dev);
    for (int l = 0; l < s->model->config->n_layers; l++)
        for (int i = 0; i < s->last.n_seq; i++) {
            size_t row = (size_t)s->last.row_splits[i], n = (size_t)s->last.row_splits[i + 1] - row;
            char *to = (char *)future_of(s, s->value_norm, l, s->last.slots[i]) + (size_t)s->last.pos0[i] * size;
            s->model->ops->copy(s->model->dev, to, (char *)s->step_norms + ((size_t)l * s->last.n_rows + row) * size,
                                n * size);
        }
}

/* Turns sums of one layer, in place, into means over the queries outside the window of each token and the heads of a group;
 * NaN where there is none. */
static void future_means(const struct session *s, int layer, size_t n_tok, float *max, float *sum) {
    const struct model_config *c = s->model->config;
    size_t kv = (size_t)c->n_kv_heads, window = (size_t)s->stats.window, group = (size_t)c->n_heads / kv;
    bool sliding = c->layers[layer].sliding_window > 0;
    for (size_t t = 0; t < n_tok; t++) {
        size_t n_queries = sliding || n_tok - t <= window ? 0 : n_tok - t - window;
        for (size_t i = t * kv; i < (t + 1) * kv; i++) {
            max[i] = n_queries ? max[i] : NAN;
            sum[i] = n_queries ? sum[i] / (float)(n_queries * group) : NAN;
        }
    }
}

int session_future(struct session *s, int slot, const float **max, const float **mean, struct err *err) {
    size_t n_tok = (size_t)s->length[slot], n = n_tok * (size_t)s->model->config->n_kv_heads;
    int rc = OK;
    ASSERT(s->options.future_attention);
    for (int l = 0; l < s->model->config->n_layers && rc == OK; l++) {
        float *max_host = s->host_future_max + (size_t)l * n, *mean_host = s->host_future_mean + (size_t)l * n;
        rc = session_download(s, max_host, future_of(s, s->stats.future_max, l, slot), n, err);
        if (rc == OK)
            rc = session_download(s, mean_host, future_of(s, s->stats.future_sum, l, slot), n, err);
        if (rc == OK)
            future_means(s, l, n_tok, max_host, mean_host);
    }
    *max = s->host_future_max;
    *mean = s->host_future_mean;
    return rc;
}

int session_set_scores(struct session *s, int slot, const float *scores, size_t n_tok, struct err *err) {
    const struct model *m = s->model;
    size_t n = n_tok * (size_t)m->config->n_kv_heads, size = real_size(m->ops, m->dev);
    int rc = mem_grow(&s->staging, &s->staging_bytes, n * size, 1, "scores", err);
    ASSERT(s->given && s->length[slot] == 0 && n_tok <= (size_t)s->options.max_len);
    for (int l = 0; l < m->config->n_layers && rc == OK; l++) {
        for (size_t i = 0; i < n; i++)
            dtype_store(s->staging, size == 8 ? DTYPE_F64 : DTYPE_F32, i, (double)scores[(size_t)l * n + i]);
        m->ops->upload(m->dev, future_of(s, s->given, l, slot), s->staging, n * size);
    }
    return rc == OK ? m->ops->sync(m->dev, err) : rc;
}

int session_foresee(struct session *s, int slot, const struct foresight *what, const float **scores, struct err *err) {
    size_t n = (size_t)s->length[slot] * (size_t)s->model->config->n_kv_heads;
    const float *max, *mean;
    int rc = session_future(s, slot, &max, &mean, err);
    float *out = what->mean ? s->host_future_mean : s->host_future_max;
    ASSERT(!what->value_norm || s->options.value_norms);
    for (int l = 0; l < s->model->config->n_layers && rc == OK; l++) {
        float *layer = out + (size_t)l * n;
        if (what->value_norm)
            rc = session_download(s, s->host_norm, future_of(s, s->value_norm, l, slot), n, err);
        for (size_t i = 0; i < n && rc == OK; i++)
            layer[i] = isnan(layer[i]) ? 0 : what->value_norm ? layer[i] * s->host_norm[i] : layer[i];
    }
    *scores = out;
    return rc;
}
