#include "engine/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/session.h"

/* One sequence of the batch in hand, with everything that is reported about it at its end. */
struct member {
    struct sequence sequence;   /* tokens and scored point to the copies below */
    int32_t *tokens;
    uint8_t *scored;
    size_t tokens_cap, scored_cap, fed;
    float *nll;                 /* (n_tok) */
    uint8_t *is_argmax;
    float *utility;             /* (n_layers, n_tok, n_kv_heads) */
    uint8_t *open;
    size_t nll_cap, argmax_cap, utility_cap, open_cap;
};

struct run {
    const struct model *model;
    const struct observer *observer;
    const struct run_options *options;
    struct run_totals *totals;
    struct session *session;
    struct policy *full;        /* of the pass ahead; NULL = the policy needs none */
    struct session *ahead;
    struct member *members;     /* (batch) */
    int n_members;
    bool want_gates;
    bool *gated;                /* (n_layers) */
    int32_t *target;            /* (batch * chunk) */
    float *nll;
    uint8_t *is_argmax;
    int *slots, *n_tok;         /* (batch) of the step */
    const int32_t **tokens;
    uint32_t *n_left, *n_kept;  /* (n_layers, n_kv_heads) */
    uint64_t *visible;
    size_t peak_bytes;
};

static size_t n_lanes(const struct run *r) {
    return (size_t)r->model->config->n_layers * (size_t)r->model->config->n_kv_heads;
}

/* Copies a sequence out of the source. */
static int take_member(struct run *r, const struct sequence *sequence, struct err *err) {
    struct member *m = &r->members[r->n_members];
    size_t n = sequence->n_tok, gates = n * n_lanes(r);
    ASSERT(n >= 2 && n <= (size_t)r->options->max_len);
    int rc = mem_grow(&m->tokens, &m->tokens_cap, n, sizeof *m->tokens, "tokens", err);
    if (rc == OK)
        rc = mem_grow(&m->nll, &m->nll_cap, n, sizeof *m->nll, "losses", err);
    if (rc == OK)
        rc = mem_grow(&m->is_argmax, &m->argmax_cap, n, 1, "losses", err);
    if (rc == OK && sequence->scored)
        rc = mem_grow(&m->scored, &m->scored_cap, n, 1, "tokens", err);
    if (rc == OK && r->want_gates)
        rc = mem_grow(&m->utility, &m->utility_cap, gates, sizeof *m->utility, "utilities", err);
    if (rc == OK && r->want_gates)
        rc = mem_grow(&m->open, &m->open_cap, gates, 1, "gates", err);
    if (rc != OK)
        return rc;
    memcpy(m->tokens, sequence->tokens, n * sizeof *m->tokens);
    if (sequence->scored)
        memcpy(m->scored, sequence->scored, n);
    m->sequence = *sequence;
    m->sequence.tokens = m->tokens;
    m->sequence.scored = sequence->scored ? m->scored : NULL;
    m->fed = 0;
    m->nll[0] = NAN;
    m->is_argmax[0] = 0;
    r->n_members++;
    return OK;
}

/* Position t of a member predicts token t + 1, when there is one that counts. */
static int32_t target_of(const struct member *m, size_t t) {
    bool counts = t + 1 < m->sequence.n_tok && (!m->sequence.scored || m->sequence.scored[t + 1]);
    return counts ? m->tokens[t + 1] : -1;
}

/* Copies the step's gates to their members. */
static int keep_gates(struct run *r, int n_seq, size_t n_rows, struct err *err) {
    const float *utility;
    const uint8_t *open;
    size_t kv = (size_t)r->model->config->n_kv_heads, row = 0;
    int rc = session_gates(r->session, &utility, &open, err);
    for (int i = 0; i < n_seq && rc == OK; i++) {
        struct member *m = &r->members[r->slots[i]];
        size_t n = (size_t)r->n_tok[i] * kv;
        for (int l = 0; l < r->model->config->n_layers; l++) {
            size_t from = ((size_t)l * n_rows + row) * kv, to = ((size_t)l * m->sequence.n_tok + m->fed) * kv;
            memcpy(m->utility + to, utility + from, n * sizeof *utility);
            memcpy(m->open + to, open + from, n);
        }
        row += (size_t)r->n_tok[i];
    }
    return rc;
}

/* The next chunk of every unfinished member into the arrays of the step; returns how many have one. */
static int plan_step(struct run *r, size_t *rows) {
    int n_seq = 0;
    size_t n_rows = 0;
    for (int i = 0; i < r->n_members; i++) {
        struct member *m = &r->members[i];
        size_t left = m->sequence.n_tok - m->fed, n = left < (size_t)r->options->chunk ? left : (size_t)r->options->chunk;
        if (n == 0)
            continue;
        n = (size_t)policy_step(r->options->policy, (int)m->fed, (int)n);
        r->slots[n_seq] = i;
        r->tokens[n_seq] = m->tokens + m->fed;
        r->n_tok[n_seq++] = (int)n;
        for (size_t j = 0; j < n; j++)
            r->target[n_rows++] = target_of(m, m->fed + j);
    }
    *rows = n_rows;
    return n_seq;
}

/* Feeds the next chunk of every unfinished member; *more = whether there was one. */
static int run_step(struct run *r, bool *more, struct err *err) {
    size_t n_rows = 0, row = 0;
    int n_seq = plan_step(r, &n_rows), rc;
    *more = n_seq > 0;
    if (n_seq == 0)
        return OK;
    if ((rc = session_feed(r->session, &(struct feed){n_seq, r->slots, r->tokens, r->n_tok}, err)) != OK ||
        (rc = session_nll(r->session, r->target, r->nll, r->is_argmax, err)) != OK ||
        (r->want_gates && (rc = keep_gates(r, n_seq, n_rows, err)) != OK))
        return rc;
    for (int i = 0; i < n_seq; i++) {
        struct member *m = &r->members[r->slots[i]];
        for (int j = 0; j < r->n_tok[i]; j++, row++)
            if (m->fed + (size_t)j + 1 < m->sequence.n_tok) {
                m->nll[m->fed + (size_t)j + 1] = r->nll[row];
                m->is_argmax[m->fed + (size_t)j + 1] = r->is_argmax[row];
            }
        m->fed += (size_t)r->n_tok[i];
    }
    r->totals->n_tok += n_rows;
    if (r->options->on_step)
        r->options->on_step(r->options->on_step_self, r->totals->n_tok);
    return OK;
}

/* The pass ahead: the batch under full attention, and what it says of every pair for the pass that counts. */
static int look_ahead(struct run *r, struct err *err) {
    const float *scores;
    size_t n_rows;
    int rc = OK, n_seq;
    for (int i = 0; i < r->n_members; i++)
        session_reset(r->ahead, i, r->members[i].sequence.index);
    while (rc == OK && (n_seq = plan_step(r, &n_rows)) > 0) {
        rc = session_feed(r->ahead, &(struct feed){n_seq, r->slots, r->tokens, r->n_tok}, err);
        for (int i = 0; i < n_seq; i++)
            r->members[r->slots[i]].fed += (size_t)r->n_tok[i];
    }
    for (int i = 0; i < r->n_members && rc == OK; i++) {
        struct member *m = &r->members[i];
        m->fed = 0;
        if ((rc = session_foresee(r->ahead, i, &r->options->policy->foresight, &scores, err)) == OK)
            rc = session_set_scores(r->session, i, scores, m->sequence.n_tok, err);
    }
    return rc;
}

static int report_gates(struct run *r, const struct member *m, struct err *err) {
    const struct policy *policy = r->options->policy;
    if (!r->want_gates)
        return OK;
    struct gate_report report = {
        .sequence = &m->sequence, .n = m->sequence.n_tok, .n_layers = r->model->config->n_layers,
        .n_kv_heads = r->model->config->n_kv_heads, .utility = policy->scores != SCORE_NONE ? m->utility : NULL,
        .open = m->open, .layer_stride = m->sequence.n_tok * (size_t)r->model->config->n_kv_heads, .gated = r->gated};
    return r->observer->on_gates(r->observer->self, &report, err);
}

/* Pairs that have left the window of each head, sinks not counted; 0 in the model's own sliding layers. */
static void count_left(struct run *r, size_t n_tok) {
    const struct policy *policy = r->options->policy;
    size_t kv = (size_t)r->model->config->n_kv_heads;
    for (size_t i = 0; i < n_lanes(r); i++) {
        size_t inside = (size_t)policy->window[i] + (size_t)policy->sinks;
        bool sliding = r->model->config->layers[i / kv].sliding_window > 0;
        r->n_left[i] = sliding || n_tok <= inside ? 0 : (uint32_t)(n_tok - inside);
    }
}

static int report_sequence(struct run *r, int slot, struct err *err) {
    struct member *m = &r->members[slot];
    struct kv_counts counts = {.n_kept = r->n_kept, .visible_pairs = r->visible};
    struct sequence_report report = {.sequence = &m->sequence, .nll = m->nll, .is_argmax = m->is_argmax};
    session_end_prefill(r->session, slot);
    int rc = kv_cache_read_counts(session_cache(r->session), slot, &counts, err);
    if (rc == OK && r->observer->want_oracle)
        rc = session_future(r->session, slot, &report.future_max, &report.future_mean, err);
    if (rc != OK)
        return rc;
    for (size_t t = 1; t < m->sequence.n_tok; t++)
        if (!m->sequence.scored || m->sequence.scored[t]) {
            report.n_predicted++;
            report.n_argmax += m->is_argmax[t];
            report.nll_sum += (double)m->nll[t];
        }
    count_left(r, m->sequence.n_tok);
    report.n_left_window = r->n_left;
    report.n_kept = r->n_kept;
    report.visible_pairs = r->visible;
    report.cache_bytes_used = counts.used_bytes;
    report.cache_bytes_allocated = counts.allocated_bytes;
    report.cache_bytes_full = counts.full_bytes;
    report.pool_peak_bytes = kv_cache_peak_bytes(session_cache(r->session));
    report.far_sum = session_far_sum(r->session, slot);
    report.sink_sum = session_sink_sum(r->session, slot);
    report.distance_sum = session_distance_sum(r->session, slot);
    report.n_distance_bins = report.distance_sum ? distance_bins(r->options->max_len, NULL) : 0;
    r->totals->n_sequences++;
    r->totals->n_predicted += report.n_predicted;
    r->totals->nll_sum += report.nll_sum;
    if (!isfinite(report.nll_sum))
        return err_set(err, ERR_INPUT, "", "the loss of sequence %llu is not finite: the model's numbers overflow\n"
                       "(try --dtype f32; if it persists the checkpoint is broken)", (unsigned long long)m->sequence.index);
    return r->observer->on_sequence ? r->observer->on_sequence(r->observer->self, &report, err) : OK;
}

static int run_batch(struct run *r, uint64_t batch, struct err *err) {
    int rc = OK;
    bool more = true;
    uint64_t start = clock_us();
    for (int i = 0; i < r->n_members; i++)
        session_reset(r->session, i, r->members[i].sequence.index);
    if (r->ahead)
        rc = look_ahead(r, err);
    while (more && rc == OK)
        rc = run_step(r, &more, err);
    r->totals->model_us += clock_us() - start;
    for (int i = 0; i < r->n_members && rc == OK; i++)
        if ((rc = report_gates(r, &r->members[i], err)) == OK)
            rc = report_sequence(r, i, err);
    r->totals->n_batches++;
    if (rc == OK && r->observer->on_batch)
        rc = r->observer->on_batch(r->observer->self, batch, err);
    return rc;
}

/* Reads the next batch of the plan; one that is not to be run is read and forgotten. */
static int read_batch(struct run *r, const struct source *source, uint64_t batch, bool wanted, int *n, struct err *err) {
    const struct run_options *o = r->options;
    uint64_t first = batch * (uint64_t)o->batch;
    int rc = OK, end = 0;
    r->n_members = 0;
    for (*n = 0; *n < o->batch && rc == OK; (*n)++) {
        struct sequence sequence;
        if (o->limit && first + (uint64_t)*n >= o->limit)
            return OK;
        rc = source->next(source->self, &sequence, &end, err);
        if (rc != OK || end)
            return rc;
        if (wanted)
            rc = take_member(r, &sequence, err);
    }
    return rc;
}

/* A session under full attention for the pass ahead. */
static int create_ahead(struct run *r, const struct session_options *given, struct err *err) {
    const struct policy *policy = r->options->policy;
    struct policy_request request = {.model = r->model->config, .window = policy->base_window, .sinks = policy->sinks,
                                     .threshold = (double)NAN};
    struct session_options options = {.n_slots = given->n_slots, .max_len = given->max_len, .max_rows = given->max_rows,
                                      .future_attention = true, .value_norms = policy->foresight.value_norm};
    int rc = policy_create("full", &request, &r->full, err);
    options.policy = r->full;
    return rc == OK ? session_create(r->model, &options, &r->ahead, err) : rc;
}

static int create(struct run *r, struct err *err) {
    const struct run_options *o = r->options;
    size_t batch = (size_t)o->batch, chunk = (size_t)(o->chunk < o->max_len ? o->chunk : o->max_len), lanes = n_lanes(r);
    struct session_options options = {.n_slots = o->batch, .max_len = o->max_len, .max_rows = batch * chunk,
                                      .policy = o->policy, .dense_prefill = o->dense_prefill,
                                      .attention_stats = r->observer->want_attention,
                                      .future_attention = r->observer->want_oracle,
                                      .scores_given = o->policy->scorer == SCORER_GIVEN};
    if (!(r->members = mem_alloc(batch, sizeof *r->members, "a batch", err)) ||
        !(r->gated = mem_alloc((size_t)r->model->config->n_layers, sizeof *r->gated, "a batch", err)) ||
        !(r->target = mem_alloc(options.max_rows, sizeof *r->target, "a batch", err)) ||
        !(r->nll = mem_alloc(options.max_rows, sizeof *r->nll, "a batch", err)) ||
        !(r->is_argmax = mem_alloc(options.max_rows, 1, "a batch", err)) ||
        !(r->slots = mem_alloc(batch, sizeof *r->slots, "a batch", err)) ||
        !(r->n_tok = mem_alloc(batch, sizeof *r->n_tok, "a batch", err)) ||
        !(r->tokens = mem_alloc(batch, sizeof *r->tokens, "a batch", err)) ||
        !(r->n_left = mem_alloc(lanes, sizeof *r->n_left, "counters", err)) ||
        !(r->n_kept = mem_alloc(lanes, sizeof *r->n_kept, "counters", err)) ||
        !(r->visible = mem_alloc(lanes, sizeof *r->visible, "counters", err)))
        return ERR_MEMORY;
    for (int l = 0; l < r->model->config->n_layers; l++)
        r->gated[l] = r->model->config->layers[l].sliding_window == 0;
    r->want_gates = o->policy->gated && r->observer->on_gates;
    int rc = session_create(r->model, &options, &r->session, err);
    return rc == OK && options.scores_given ? create_ahead(r, &options, err) : rc;
}

static void destroy(struct run *r) {
    for (int i = 0; r->members && i < r->options->batch; i++) {
        struct member *m = &r->members[i];
        free(m->tokens);
        free(m->scored);
        free(m->nll);
        free(m->is_argmax);
        free(m->utility);
        free(m->open);
    }
    void *arrays[] = {r->members, r->gated,  r->target, r->nll,    r->is_argmax, r->slots,
                      r->n_tok,   r->tokens, r->n_left, r->n_kept, r->visible};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    session_free(r->session);
    session_free(r->ahead);
    policy_free(r->full);
}

int run_source(const struct model *model, const struct source *source, const struct observer *observer,
               const struct run_options *options, struct run_totals *totals, struct err *err) {
    struct run r = {.model = model, .observer = observer, .options = options, .totals = totals};
    int n = options->batch;
    *totals = (struct run_totals){0};
    int rc = create(&r, err);
    for (uint64_t batch = 0; rc == OK && n == options->batch; batch++) { /* a short batch is the last one */
        bool mine = batch % (uint64_t)options->n_shards == (uint64_t)options->shard;
        bool done = mine && options->batch_done && options->batch_done(options->batch_done_self, batch);
        rc = read_batch(&r, source, batch, mine && !done, &n, err);
        if (rc == OK && r.n_members > 0)
            rc = run_batch(&r, batch, err);
        if (rc == OK && n == options->batch && options->stop && *options->stop)
            rc = err_set(err, ERR_INCOMPLETE, "", "stopped after batch %llu", (unsigned long long)batch);
    }
    destroy(&r);
    return rc;
}
