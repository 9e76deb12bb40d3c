#include "engine/session_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static size_t n_lanes(const struct session *s) {
    return (size_t)s->model->config->n_layers * (size_t)s->model->config->n_kv_heads;
}

static bool has_stats(const struct session *s) {
    return s->options.attention_stats || s->options.future_attention;
}

int distance_bins(int max_len, int64_t *edge) {
    int n = 0;
    int64_t low = 0;
    for (int i = 0; low < max_len; i++) {
        int64_t next = (int64_t)ceil(exp2(i / 4.0) - 1e-9);
        if (next <= low)
            continue;
        if (edge)
            edge[n] = low;
        n++;
        low = next;
    }
    if (edge)
        edge[n] = low;
    return n;
}

void *session_device_array(struct session *s, size_t count, size_t size, int *rc) {
    size_t n_bytes;
    void *out = NULL;
    if (*rc == OK && size_mul(count, size, &n_bytes))
        out = s->model->ops->mem_alloc(s->model->dev, n_bytes);
    if (!out && *rc == OK)
        *rc = ERR_MEMORY;
    return out;
}

void *session_host_array(size_t count, size_t size, int *rc, struct err *err) {
    void *out = *rc == OK ? mem_alloc(count, size, "a session", err) : NULL;
    if (!out && *rc == OK)
        *rc = ERR_MEMORY;
    return out;
}

static int create_cache(struct session *s, struct err *err) {
    const struct model_config *c = s->model->config;
    bool *ring_only = mem_alloc((size_t)c->n_layers, sizeof *ring_only, "layer kinds", err);
    if (!ring_only)
        return ERR_MEMORY;
    for (int l = 0; l < c->n_layers; l++)
        ring_only[l] = c->layers[l].sliding_window > 0;
    enum dtype dtype = s->model->ops->device_dtype(s->model->dev);
    struct kv_cache_options options = {
        .n_slots = s->options.n_slots, .n_layers = c->n_layers, .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim,
        .max_len = s->options.max_len, .window = s->options.policy->window, .ring_only = ring_only,
        .sinks = s->options.policy->sinks, .positions = s->options.policy->evict.chunk > 0, .dtype = dtype};
    int rc = kv_cache_create(s->model->ops, s->model->dev, &options, &s->cache, err);
    if (rc == OK && options.positions)
        rc = eviction_create(s->model, s->options.policy, s->cache, s->rope, &s->eviction, err);
    free(ring_only);
    return rc;
}

static int create_distance_sums(struct session *s, struct err *err) {
    int rc = OK, n_bins = distance_bins(s->options.max_len, NULL);
    size_t lanes = n_lanes(s), n_slots = (size_t)s->options.n_slots, n = n_slots * lanes;
    int64_t *edge = session_host_array((size_t)n_bins + 1, sizeof *edge, &rc, err);
    int32_t *bin = session_host_array((size_t)s->options.max_len, sizeof *bin, &rc, err);
    s->far_sum = session_host_array(n, sizeof(double), &rc, err);
    s->sink_sum = session_host_array(n, sizeof(double), &rc, err);
    s->distance_sum = session_host_array(n * (size_t)n_bins, sizeof(double), &rc, err);
    s->host_sums = session_host_array(n * (2 + (size_t)n_bins), sizeof(double), &rc, err);
    s->step_sums = session_device_array(s, n * (2 + (size_t)n_bins), sizeof(double), &rc);
    s->bin_of_distance = session_device_array(s, (size_t)s->options.max_len, sizeof(int32_t), &rc);
    if (rc == OK) {
        distance_bins(s->options.max_len, edge);
        for (int d = 0, b = 0; d < s->options.max_len; d++) {
            b += d >= edge[b + 1];
            bin[d] = b;
        }
        s->model->ops->upload(s->model->dev, s->bin_of_distance, bin, (size_t)s->options.max_len * sizeof *bin);
        rc = s->model->ops->sync(s->model->dev, err);
        s->stats.n_bins = n_bins;
        s->stats.bin_of_distance = s->bin_of_distance;
    }
    free(edge);
    free(bin);
    return rc;
}

static int create_buffers(struct session *s, struct err *err) {
    size_t n_slots = (size_t)s->options.n_slots, rows = s->options.max_rows;
    size_t real = real_size(s->model->ops, s->model->dev), lanes = n_lanes(s);
    int rc = OK;
    s->last.slots = session_host_array(n_slots, sizeof(int), &rc, err);
    s->last.row_splits = session_host_array(n_slots + 1, sizeof(int), &rc, err);
    s->last.pos0 = session_host_array(n_slots, sizeof(int), &rc, err);
    s->last.sequence_id = session_host_array(n_slots, sizeof(uint64_t), &rc, err);
    s->sequence_id = session_host_array(n_slots, sizeof(uint64_t), &rc, err);
    s->length = session_host_array(n_slots, sizeof(int), &rc, err);
    s->ids = session_host_array(rows, sizeof(int32_t), &rc, err);
    s->pos = session_host_array(rows, sizeof(int32_t), &rc, err);
    s->target = session_device_array(s, rows, sizeof(int32_t), &rc);
    s->nll = session_device_array(s, rows, real, &rc);
    s->is_argmax = session_device_array(s, rows, 1, &rc);
    s->sampled = session_device_array(s, n_slots, sizeof(int32_t), &rc);
    s->dense = session_host_array(n_slots, sizeof(bool), &rc, err);
    if (s->options.dense_prefill) {
        size_t n_open = rows * (size_t)s->model->config->n_kv_heads;
        s->gate_history = session_device_array(s, n_slots * lanes, (size_t)s->options.max_len, &rc);
        if ((s->all_open = session_device_array(s, n_open, 1, &rc)))
            s->model->ops->fill(s->model->dev, s->all_open, 1, n_open);
    }
    if (rc == OK &&
        !(s->head_score = model_upload_real(s->model->ops, s->model->dev, s->options.policy->head_score, lanes, err)))
        rc = ERR_MEMORY;
    return rc;
}

int session_create(const struct model *model, const struct session_options *options, struct session **out, struct err *err) {
    struct session *s = mem_alloc(1, sizeof *s, "a session", err);
    *out = NULL;
    if (!s)
        return ERR_MEMORY;
    s->model = model;
    s->options = *options;
    int rc = OK;
    if (options->max_len < 1 || options->max_len > model->config->max_positions)
        rc = err_set(err, ERR_USAGE, "",
                     "%d tokens are more than the %d positions of this model (use a smaller --max-length)", options->max_len,
                     model->config->max_positions);
    else if (options->policy->scorer == SCORER_GIVEN && !options->scores_given)
        rc = err_set(err, ERR_USAGE, "", "policy %s knows the future: it needs the whole text in advance, and can neither "
                     "generate nor be timed token by token (use it in profile and verify)", options->policy->name);
    if (rc == OK && options->dense_prefill && options->policy->evict.chunk)
        rc = err_set(err, ERR_USAGE, "",
                     "policy %s drops pairs at chunk boundaries, of the prompt too\n"
                     "(for a dense prefill make the chunk as long as the prompt: --policy %s:chunk=N)",
                     options->policy->name, options->policy->name);
    if (rc == OK)
        rc = policy_check(options->policy, err);
    if (rc == OK)
        rc = create_buffers(s, err);
    if (rc == OK)
        rc = activations_create(model, options->max_rows, KEEP_NOTHING,
                                has_stats(s) || eviction_needs_attention(options->policy), &s->a, err);
    if (rc == OK)
        rc = model_upload_rope(model, (size_t)options->max_len, s->rope, err);
    if (rc == OK)
        rc = create_cache(s, err);
    if (rc == OK && options->policy->gates)
        rc = gate_layers_create(options->policy->gates, model, &s->gates, err);
    s->stats.window = options->policy->base_window;
    s->stats.sinks = options->policy->sinks;
    if (rc == OK && options->attention_stats)
        rc = create_distance_sums(s, err);
    if (rc == OK)
        rc = session_create_future(s, err);
    if (rc == OK)
        rc = model->ops->sync(model->dev, err);
    if (rc != OK) {
        session_free(s);
        return err_set(err, rc, "", "out of memory for a session of %d sequences (try a smaller --batch or --chunk)",
                       options->n_slots);
    }
    *out = s;
    return OK;
}

void session_free(struct session *s) {
    if (!s)
        return;
    void *on_device[] = {s->rope[0], s->rope[1], s->head_score, s->target, s->nll, s->is_argmax, s->logits, s->last_rows,
                         s->sampled, s->bin_of_distance, s->step_sums, s->all_open, s->gate_history, s->stats.future_max,
                         s->stats.future_sum, s->output_gram, s->step_norms, s->value_norm, s->given};
    void *on_host[] = {s->last.slots,  s->last.row_splits, s->last.pos0,    s->last.sequence_id,
                       s->sequence_id, s->length,          s->dense,        s->ids,
                       s->pos,         s->host_logits,     s->host_utility, s->host_open,
                       s->staging,     s->host_sums,       s->far_sum,      s->sink_sum,
                       s->distance_sum, s->host_future_max, s->host_future_mean, s->host_norm};
    for (size_t i = 0; i < sizeof on_device / sizeof *on_device; i++)
        s->model->ops->mem_free(s->model->dev, on_device[i]);
    for (size_t i = 0; i < sizeof on_host / sizeof *on_host; i++)
        free(on_host[i]);
    gate_layers_free(s->model, s->gates);
    eviction_free(s->eviction);
    kv_cache_free(s->cache);
    activations_free(s->model, &s->a);
    free(s);
}

void session_reset(struct session *s, int slot, uint64_t sequence_id) {
    ASSERT(slot >= 0 && slot < s->options.n_slots);
    kv_cache_reset(s->cache, slot);
    s->sequence_id[slot] = sequence_id;
    s->length[slot] = 0;
    s->dense[slot] = s->options.dense_prefill;
    if (s->options.attention_stats) {
        size_t lanes = n_lanes(s), at = (size_t)slot * lanes, n_bins = (size_t)s->stats.n_bins;
        memset(s->far_sum + at, 0, lanes * sizeof(double));
        memset(s->sink_sum + at, 0, lanes * sizeof(double));
        memset(s->distance_sum + at * n_bins, 0, lanes * n_bins * sizeof(double));
    }
    if (s->options.future_attention)
        session_clear_future(s, slot);
    if (s->eviction)
        eviction_reset(s->eviction, slot);
}

int session_fork(struct session *s, int from, int to, struct err *err) {
    ASSERT(!s->dense[from] && !has_stats(s) && s->length[to] == 0);
    int rc = kv_cache_copy(s->cache, from, to, err);
    if (rc == OK && s->eviction)
        eviction_copy(s->eviction, from, to);
    s->sequence_id[to] = s->sequence_id[from];
    s->length[to] = s->length[from];
    s->dense[to] = false;
    return rc;
}

/* Checks a feed and writes it down as the last step. */
static int stage(struct session *s, const struct feed *feed, struct err *err) {
    struct last_step *last = &s->last;
    last->n_seq = 0;
    last->n_rows = 0;
    last->row_splits[0] = 0;
    for (int i = 0; i < feed->n_seq; i++) {
        int slot = feed->slots[i], n = feed->n_tok[i];
        ASSERT(slot >= 0 && slot < s->options.n_slots && n >= 1 && last->n_rows + (size_t)n <= s->options.max_rows);
        if (n > s->options.max_len - s->length[slot])
            return err_set(err, ERR_INPUT, "", "the sequence grows past %d tokens (use a larger --max-length)",
                           s->options.max_len);
        for (int j = 0; j < n; j++) {
            int32_t id = feed->tokens[i][j];
            if (id < 0 || id >= s->model->config->vocab_size)
                return err_set(err, ERR_INPUT, "",
                               "token id %d is not below the vocabulary size %d of the model\n"
                               "(is the tokenizer.json of another model beside these weights?)",
                               id, s->model->config->vocab_size);
            s->ids[last->n_rows + (size_t)j] = id;
            s->pos[last->n_rows + (size_t)j] = s->length[slot] + j;
        }
        last->slots[i] = slot;
        last->pos0[i] = s->length[slot];
        last->sequence_id[i] = s->sequence_id[slot];
        last->n_rows += (size_t)n;
        last->row_splits[i + 1] = (int)last->n_rows;
    }
    last->n_seq = feed->n_seq;
    return OK;
}

static void clear_step_stats(struct session *s) {
    size_t n = (size_t)s->last.n_seq * n_lanes(s), n_bins = (size_t)s->stats.n_bins;
    s->stats.far_sum = s->step_sums;
    s->stats.sink_sum = s->step_sums + n;
    s->stats.distance_sum = s->step_sums + 2 * n;
    s->model->ops->fill(s->model->dev, s->step_sums, 0, n * (2 + n_bins) * sizeof(double));
    s->stats_pending = true;
}

/* Adds the step's sums, already downloaded, to those of its slots. */
static void add_step_stats(struct session *s) {
    size_t kv = (size_t)s->model->config->n_kv_heads, n_seq = (size_t)s->last.n_seq, lanes = n_lanes(s);
    size_t n = n_seq * lanes, n_bins = (size_t)s->stats.n_bins;
    for (size_t l = 0; l < lanes / kv; l++)
        for (size_t i = 0; i < n_seq; i++)
            for (size_t h = 0; h < kv; h++) {
                size_t from = (l * n_seq + i) * kv + h, to = (size_t)s->last.slots[i] * lanes + l * kv + h;
                s->far_sum[to] += s->host_sums[from];
                s->sink_sum[to] += s->host_sums[n + from];
                for (size_t b = 0; b < n_bins; b++)
                    s->distance_sum[to * n_bins + b] += s->host_sums[2 * n + from * n_bins + b];
            }
}

/* Waits for the device; the step's statistics come along. */
static int wait(struct session *s, struct err *err) {
    bool pending = s->stats_pending;
    if (pending)
        s->model->ops->download(s->model->dev, s->host_sums, s->step_sums,
                                (size_t)s->last.n_seq * n_lanes(s) * (2 + (size_t)s->stats.n_bins) * sizeof(double));
    int rc = s->model->ops->sync(s->model->dev, err);
    s->stats_pending = false;
    if (rc == OK && pending)
        add_step_stats(s);
    return rc;
}

static uint8_t *history(struct session *s, int slot, int layer) {
    size_t kv = (size_t)s->model->config->n_kv_heads, n_layers = (size_t)s->model->config->n_layers;
    return s->gate_history + ((size_t)slot * n_layers + (size_t)layer) * (size_t)s->options.max_len * kv;
}

/* Notes the gates of a step that did not act. */
static void note_gates(struct session *s) {
    size_t kv = (size_t)s->model->config->n_kv_heads;
    for (int l = 0; l < s->model->config->n_layers; l++)
        for (int i = 0; i < s->last.n_seq; i++) {
            size_t row = (size_t)s->last.row_splits[i], n = (size_t)s->last.row_splits[i + 1] - row;
            s->model->ops->copy(s->model->dev, history(s, s->last.slots[i], l) + (size_t)s->last.pos0[i] * kv,
                                s->a.open + ((size_t)l * s->last.n_rows + row) * kv, n * kv);
        }
}

void session_end_prefill(struct session *s, int slot) {
    if (!s->dense[slot])
        return;
    for (int l = 0; l < s->model->config->n_layers; l++)
        s->model->ops->kv_prune(s->model->dev, s->cache, slot, l, history(s, slot, l));
    s->dense[slot] = false;
}

int session_feed(struct session *s, const struct feed *feed, struct err *err) {
    const struct ops *ops = s->model->ops;
    struct device *dev = s->model->dev;
    if (feed->n_seq == 0)
        return OK;
    int rc = s->stats_pending ? wait(s, err) : OK;
    if (rc != OK || (rc = stage(s, feed, err)) != OK ||
        (rc = kv_cache_reserve(s->cache, feed->n_seq, feed->slots, feed->n_tok, err)) != OK)
        return rc;
    struct step step = {
        .batch = {s->last.n_seq, s->last.slots, s->last.row_splits, s->last.pos0, s->last.sequence_id},
        .n_rows = s->last.n_rows, .cache = s->cache, .policy = s->options.policy, .rope = s->rope,
        .gates = s->gates, .given = s->given, .head_score = s->head_score, .a = &s->a};
    bool dense = s->dense[feed->slots[0]];
    for (int i = 1; i < feed->n_seq; i++)
        ASSERT(s->dense[feed->slots[i]] == dense);
    if (dense)
        step.all_open = s->all_open;
    if (s->options.attention_stats)
        clear_step_stats(s);
    if (has_stats(s))
        step.stats = &s->stats;
    if (s->eviction)
        step.eviction = eviction_begin_step(s->eviction, &step.batch);
    ops->upload(dev, s->a.ids, s->ids, s->last.n_rows * sizeof *s->ids);
    ops->upload(dev, s->a.pos, s->pos, s->last.n_rows * sizeof *s->pos);
    model_forward(s->model, &step);
    if (dense)
        note_gates(s);
    if (s->options.value_norms)
        session_note_norms(s);
    if (s->eviction)
        eviction_end_step(s->eviction, &step.batch);
    for (int i = 0; i < feed->n_seq; i++)
        s->length[feed->slots[i]] += feed->n_tok[i];
    return OK;
}

int session_prefill(struct session *s, int slot, const int32_t *tokens, size_t n_tok, size_t chunk, struct err *err) {
    int rc = OK;
    for (size_t at = 0, n_fed; at < n_tok && rc == OK; at += n_fed) {
        const int32_t *piece = tokens + at;
        int n = policy_step(s->options.policy, s->length[slot], (int)(n_tok - at < chunk ? n_tok - at : chunk));
        n_fed = (size_t)n;
        rc = session_feed(s, &(struct feed){1, &slot, &piece, &n}, err);
    }
    return rc;
}

int session_download(struct session *s, float *out, const float *from, size_t n, struct err *err) {
    size_t size = real_size(s->model->ops, s->model->dev);
    if (size == 4) {
        s->model->ops->download(s->model->dev, out, from, n * 4);
        return wait(s, err);
    }
    int rc = mem_grow(&s->staging, &s->staging_bytes, n * size, 1, "a download", err);
    if (rc != OK)
        return rc;
    s->model->ops->download(s->model->dev, s->staging, from, n * size);
    rc = wait(s, err);
    for (size_t i = 0; i < n && rc == OK; i++)
        out[i] = (float)dtype_load(s->staging, DTYPE_F64, i);
    return rc;
}

int session_nll(struct session *s, const int32_t *target, float *nll, uint8_t *is_argmax, struct err *err) {
    const struct model *m = s->model;
    m->ops->upload(m->dev, s->target, target, s->last.n_rows * sizeof *target);
    m->ops->nll(m->dev, &(struct nll_args){.w = m->lm_head,
                                           .x = s->a.final,
                                           .target = s->target,
                                           .softcap = (float)m->config->final_softcap,
                                           .n_rows = s->last.n_rows,
                                           .nll = s->nll,
                                           .is_argmax = is_argmax ? s->is_argmax : NULL});
    if (is_argmax)
        m->ops->download(m->dev, is_argmax, s->is_argmax, s->last.n_rows);
    return session_download(s, nll, s->nll, s->last.n_rows, err);
}

/* Logits of the last rows, on the device. */
static int last_logits(struct session *s, struct err *err) {
    const struct model *m = s->model;
    size_t n_slots = (size_t)s->options.n_slots, d = (size_t)m->config->d_model, vocab = (size_t)m->config->vocab_size;
    int rc = OK;
    if (!s->logits) {
        s->logits = session_device_array(s, n_slots * vocab, real_size(m->ops, m->dev), &rc);
        s->last_rows = session_device_array(s, n_slots * d, dtype_size(m->ops->device_dtype(m->dev)), &rc);
        s->host_logits = session_host_array(n_slots * vocab, sizeof(float), &rc, err);
        if (rc != OK)
            return err_memory(err, "logits", n_slots * vocab * sizeof(float));
    }
    for (int i = 0; i < s->last.n_seq; i++)
        s->ids[i] = s->last.row_splits[i + 1] - 1; /* the step's ids are on the device already */
    m->ops->upload(m->dev, s->target, s->ids, (size_t)s->last.n_seq * sizeof *s->ids);
    m->ops->gather(m->dev, s->a.final, s->target, (size_t)s->last.n_seq, d, s->last_rows);
    m->ops->logits(m->dev, m->lm_head, s->last_rows, (float)m->config->final_softcap, (size_t)s->last.n_seq, s->logits);
    return OK;
}

int session_logits(struct session *s, const float **logits, struct err *err) {
    int rc = last_logits(s, err);
    if (rc == OK)
        rc = session_download(s, s->host_logits, s->logits, (size_t)s->last.n_seq * (size_t)s->model->config->vocab_size,
                              err);
    *logits = s->host_logits;
    return rc;
}

int session_sample(struct session *s, const struct sampling *sampling, int32_t *ids, struct err *err) {
    const struct model *m = s->model;
    int rc = last_logits(s, err);
    if (rc != OK)
        return rc;
    for (int i = 0; i < s->last.n_seq; i++)
        s->pos[i] = s->length[s->last.slots[i]];
    m->ops->sample(m->dev, &(struct sample_args){
        .logits = s->logits, .n_rows = (size_t)s->last.n_seq, .n_vocab = (size_t)m->config->vocab_size,
        .temperature = sampling->temperature, .top_k = sampling->top_k, .top_p = sampling->top_p, .seed = sampling->seed,
        .sequence_id = s->last.sequence_id, .position = s->pos, .id = s->sampled});
    m->ops->download(m->dev, ids, s->sampled, (size_t)s->last.n_seq * sizeof *ids);
    return wait(s, err);
}

int session_gates(struct session *s, const float **utility, const uint8_t **open, struct err *err) {
    size_t n = s->last.n_rows * n_lanes(s);
    int rc = OK;
    if (!s->host_utility) {
        s->host_utility = session_host_array(s->options.max_rows * n_lanes(s), sizeof(float), &rc, err);
        s->host_open = session_host_array(s->options.max_rows * n_lanes(s), 1, &rc, err);
        if (rc != OK)
            return rc;
    }
    s->model->ops->download(s->model->dev, s->host_open, s->a.open, n);
    rc = session_download(s, s->host_utility, s->a.utility, n, err);
    *utility = s->host_utility;
    *open = s->host_open;
    return rc;
}

int session_length(const struct session *s, int slot) {
    return s->length[slot];
}

int session_room(const struct session *s, int slot) {
    return s->options.max_len - s->length[slot];
}

struct kv_cache *session_cache(struct session *s) {
    return s->cache;
}

const double *session_far_sum(const struct session *s, int slot) {
    return s->far_sum ? s->far_sum + (size_t)slot * n_lanes(s) : NULL;
}

const double *session_sink_sum(const struct session *s, int slot) {
    return s->sink_sum ? s->sink_sum + (size_t)slot * n_lanes(s) : NULL;
}

const double *session_distance_sum(const struct session *s, int slot) {
    return s->distance_sum ? s->distance_sum + (size_t)slot * n_lanes(s) * (size_t)s->stats.n_bins : NULL;
}
