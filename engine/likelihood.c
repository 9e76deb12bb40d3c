#include "engine/likelihood.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "engine/session.h"

enum { MIN_SHARED = 2 }; /* a beginning of one token is not worth a step of its own */

/* A stretch of one request's tokens on its way through a slot. */
struct track {
    const struct score_group *group;
    const struct score_request *request;
    struct score *score; /* of the request; of the group's first one while the common beginning is fed */
    int slot;
    size_t shared, fed, end; /* tokens; feeding stops at end */
};

struct scoring {
    const struct model *model;
    struct scoring_options options;
    struct session *session; /* made anew when a longer request or a larger group comes */
    size_t n_slots, max_len, max_rows;
    struct track *tracks;    /* (n_slots) one for every request in hand */
    int *slots, *n_tok;      /* (n_slots) of the step, with the tracks that are in it */
    struct track **fed;
    const int32_t **tokens;
    int32_t *target;         /* (max_rows) */
    float *nll;
    uint8_t *is_argmax;
    uint32_t *n_kept;        /* (n_layers, n_kv_heads) */
    uint64_t *visible;
};

int scoring_create(const struct model *model, const struct scoring_options *options, struct scoring **out, struct err *err) {
    struct scoring *s = mem_alloc(1, sizeof *s, "a scoring", err);
    size_t n_lanes = (size_t)model->config->n_layers * (size_t)model->config->n_kv_heads;
    *out = NULL;
    if (!s)
        return ERR_MEMORY;
    s->model = model;
    s->options = *options;
    if (!(s->n_kept = mem_alloc(n_lanes, sizeof *s->n_kept, "counters", err)) ||
        !(s->visible = mem_alloc(n_lanes, sizeof *s->visible, "counters", err))) {
        scoring_free(s);
        return ERR_MEMORY;
    }
    *out = s;
    return OK;
}

static void free_arrays(struct scoring *s) {
    void *arrays[] = {s->tracks, s->slots, s->n_tok, s->fed, s->tokens, s->target, s->nll, s->is_argmax};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    session_free(s->session);
    s->tracks = NULL;
    s->slots = s->n_tok = NULL;
    s->fed = NULL;
    s->tokens = NULL;
    s->target = NULL;
    s->nll = NULL;
    s->is_argmax = NULL;
    s->session = NULL;
}

void scoring_free(struct scoring *s) {
    if (!s)
        return;
    free_arrays(s);
    free(s->n_kept);
    free(s->visible);
    free(s);
}

/* A session for groups of up to n_slots requests of up to max_len fed tokens. */
static int make_session(struct scoring *s, size_t n_slots, size_t max_len, struct err *err) {
    size_t chunk = s->options.chunk < max_len ? s->options.chunk : max_len, rows = s->options.batch * chunk;
    free_arrays(s);
    s->n_slots = n_slots;
    s->max_len = max_len;
    s->max_rows = rows > n_slots ? rows : n_slots;
    if (!(s->tracks = mem_alloc(n_slots, sizeof *s->tracks, "a batch", err)) ||
        !(s->slots = mem_alloc(n_slots, sizeof *s->slots, "a batch", err)) ||
        !(s->n_tok = mem_alloc(n_slots, sizeof *s->n_tok, "a batch", err)) ||
        !(s->fed = mem_alloc(n_slots, sizeof(struct track *), "a batch", err)) ||
        !(s->tokens = mem_alloc(n_slots, sizeof(int32_t *), "a batch", err)) ||
        !(s->target = mem_alloc(s->max_rows, sizeof *s->target, "a batch", err)) ||
        !(s->nll = mem_alloc(s->max_rows, sizeof *s->nll, "a batch", err)) ||
        !(s->is_argmax = mem_alloc(s->max_rows, 1, "a batch", err)))
        return ERR_MEMORY;
    struct session_options options = {.n_slots = (int)n_slots, .max_len = (int)max_len, .max_rows = s->max_rows,
                                      .policy = s->options.policy, .dense_prefill = s->options.dense_prefill};
    return session_create(s->model, &options, &s->session, err);
}

static int prepare(struct scoring *s, const struct score_group *groups, size_t n_groups, struct err *err) {
    size_t n_slots = s->options.batch, max_len = 1, limit = (size_t)s->model->config->max_positions;
    for (size_t g = 0; g < n_groups; g++) {
        n_slots = groups[g].n > n_slots ? groups[g].n : n_slots;
        for (size_t i = 0; i < groups[g].n; i++) {
            const struct score_request *r = &groups[g].requests[i];
            ASSERT(r->n_context >= 1 && r->n_context < r->n_tok && r->n_tok - 1 <= limit);
            max_len = r->n_tok - 1 > max_len ? r->n_tok - 1 : max_len;
        }
    }
    if (s->session && n_slots <= s->n_slots && max_len <= s->max_len)
        return OK;
    max_len = 2 * max_len < limit ? 2 * max_len : limit; /* the next ones will be longer */
    return make_session(s, n_slots > s->n_slots ? n_slots : s->n_slots, max_len > s->max_len ? max_len : s->max_len, err);
}

/* Fed tokens that all requests of a group begin with, no more than any of their contexts. */
static size_t shared_length(const struct score_group *g) {
    const struct score_request *first = &g->requests[0];
    size_t n = first->n_context;
    for (size_t i = 1; i < g->n; i++) {
        const struct score_request *r = &g->requests[i];
        size_t end = r->n_context < n ? r->n_context : n;
        for (n = 0; n < end && r->tokens[n] == first->tokens[n]; n++)
            ;
    }
    return n < MIN_SHARED ? 0 : n;
}

/* Feeds the next tokens of every track that is not at its end and for which there is room; *n is how many took part. */
static int feed_step(struct scoring *s, struct track *tracks, size_t n_tracks, size_t *n, struct err *err) {
    size_t rows = 0;
    *n = 0;
    for (size_t i = 0; i < n_tracks; i++) {
        struct track *t = &tracks[i];
        size_t left = t->end - t->fed, take = left < s->options.chunk ? left : s->options.chunk;
        take = (size_t)policy_step(s->options.policy, (int)t->fed, (int)take);
        if (take == 0 || rows + take > s->max_rows)
            continue;
        s->fed[*n] = t;
        s->slots[*n] = t->slot;
        s->tokens[*n] = t->request->tokens + t->fed;
        s->n_tok[(*n)++] = (int)take;
        rows += take;
    }
    return session_feed(s->session, &(struct feed){(int)*n, s->slots, s->tokens, s->n_tok}, err);
}

static void add_token(const struct scoring *s, struct score *score, size_t query, double log_likelihood, bool is_argmax) {
    const struct policy *p = s->options.policy;
    score->log_likelihood += log_likelihood;
    score->is_greedy &= is_argmax;
    score->n_scored++;
    score->n_far += query >= (size_t)p->base_window + (size_t)p->sinks;
}

/* Behind the common beginning every request goes its own way: the first token of those whose context ends here. */
static void score_branch(const struct scoring *s, const struct track *t, const float *logits) {
    size_t vocab = (size_t)s->model->config->vocab_size, best = 0;
    double sum = 0;
    for (size_t i = 1; i < vocab; i++)
        best = logits[i] > logits[best] ? i : best;
    for (size_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - (double)logits[best]);
    for (size_t i = 0; i < t->group->n; i++) {
        const struct score_request *r = &t->group->requests[i];
        size_t target = (size_t)r->tokens[t->shared];
        if (r->n_context == t->shared)
            add_token(s, &t->score[i], t->shared - 1, (double)logits[target] - (double)logits[best] - log(sum),
                      target == best);
    }
}

/* The common beginnings, one track a group. */
static int feed_shared(struct scoring *s, struct track *tracks, size_t n_tracks, struct err *err) {
    const float *logits;
    size_t n, vocab = (size_t)s->model->config->vocab_size;
    int rc;
    while ((rc = feed_step(s, tracks, n_tracks, &n, err)) == OK && n > 0) {
        bool any_end = false;
        for (size_t i = 0; i < n; i++) {
            s->fed[i]->fed += (size_t)s->n_tok[i];
            any_end |= s->fed[i]->fed == s->fed[i]->end;
        }
        if (any_end && (rc = session_logits(s->session, &logits, err)) != OK)
            return rc;
        for (size_t i = 0; i < n; i++)
            if (s->fed[i]->fed == s->fed[i]->end)
                score_branch(s, s->fed[i], logits + i * vocab);
    }
    return rc;
}

/* What follows, one track a request. */
static int feed_own(struct scoring *s, struct track *tracks, size_t n_tracks, struct err *err) {
    size_t n;
    int rc;
    while ((rc = feed_step(s, tracks, n_tracks, &n, err)) == OK && n > 0) {
        size_t row = 0;
        for (size_t i = 0; i < n; i++)
            for (size_t j = s->fed[i]->fed; j < s->fed[i]->fed + (size_t)s->n_tok[i]; j++)
                s->target[row++] = j + 1 >= s->fed[i]->request->n_context ? s->fed[i]->request->tokens[j + 1] : -1;
        if ((rc = session_nll(s->session, s->target, s->nll, s->is_argmax, err)) != OK)
            return rc;
        row = 0;
        for (size_t i = 0; i < n; i++)
            for (int j = 0; j < s->n_tok[i]; j++, row++, s->fed[i]->fed++)
                if (s->target[row] >= 0)
                    add_token(s, s->fed[i]->score, s->fed[i]->fed, -(double)s->nll[row], s->is_argmax[row]);
    }
    return rc;
}

/* What the cache of a request's slot holds and was asked for. */
static int count(struct scoring *s, const struct track *t, struct err *err) {
    const struct model_config *c = s->model->config;
    const struct policy *p = s->options.policy;
    struct kv_counts counts = {.n_kept = s->n_kept, .visible_pairs = s->visible};
    uint64_t n = (uint64_t)session_length(s->session, t->slot);
    int rc = kv_cache_read_counts(session_cache(s->session), t->slot, &counts, err);
    for (size_t i = 0; rc == OK && i < (size_t)c->n_layers * (size_t)c->n_kv_heads; i++) {
        uint64_t inside = (uint64_t)p->window[i] + (uint64_t)p->sinks;
        if (c->layers[i / (size_t)c->n_kv_heads].sliding_window > 0)
            continue;
        t->score->n_left_window += n > inside ? n - inside : 0;
        t->score->n_kept += s->n_kept[i];
        t->score->visible_pairs += s->visible[i];
        t->score->causal_pairs += n * (n + 1) / 2;
    }
    return rc;
}

/* After the common beginning of a group: requests that are done with it are counted, the others get slots of their own. */
static int branch(struct scoring *s, const struct track *shared, struct track *own, size_t *n_own, struct err *err) {
    const struct score_group *g = shared->group;
    size_t first = *n_own;
    int rc = OK;
    for (size_t i = 0; rc == OK && i < g->n; i++) {
        struct track t = {.group = g, .request = &g->requests[i], .score = &shared->score[i], .slot = shared->slot + (int)i,
                          .shared = shared->shared, .fed = shared->shared, .end = g->requests[i].n_tok - 1};
        if (t.end > t.fed) {
            own[(*n_own)++] = t;
            continue;
        }
        t.slot = shared->slot;
        rc = count(s, &t, err);
    }
    for (size_t i = first; rc == OK && i < *n_own && shared->shared; i++)
        if (own[i].slot != shared->slot)
            rc = session_fork(s->session, shared->slot, own[i].slot, err);
    return rc;
}

/* Groups that fit the slots together. */
static int run_bundle(struct scoring *s, const struct score_group *groups, size_t n_groups, struct score *scores,
                      struct err *err) {
    struct track *shared = mem_alloc(n_groups, sizeof *shared, "a batch", err);
    size_t n_own = 0;
    int slot = 0, rc = shared ? OK : ERR_MEMORY;
    for (size_t g = 0; rc == OK && g < n_groups; g++) {
        size_t n = shared_length(&groups[g]);
        shared[g] = (struct track){.group = &groups[g], .request = groups[g].requests, .score = scores + slot, .slot = slot,
                                   .shared = n, .end = n};
        for (size_t i = 0; i < groups[g].n; i++, slot++) {
            session_reset(s->session, slot, groups[g].id);
            scores[slot] = (struct score){.is_greedy = true};
        }
    }
    if (rc == OK)
        rc = feed_shared(s, shared, n_groups, err);
    for (int i = 0; rc == OK && i < slot; i++) /* slots without a common beginning have nothing dense to end */
        session_end_prefill(s->session, i);
    for (size_t g = 0; rc == OK && g < n_groups; g++)
        rc = branch(s, &shared[g], s->tracks, &n_own, err);
    if (rc == OK)
        rc = feed_own(s, s->tracks, n_own, err);
    for (size_t i = 0; rc == OK && i < n_own; i++)
        rc = count(s, &s->tracks[i], err);
    for (int i = 0; rc == OK && i < slot; i++)
        if (!isfinite(scores[i].log_likelihood))
            rc = err_set(err, ERR_INPUT, "", "a log-likelihood is not finite: the model's numbers overflow\n"
                         "(try --dtype f32; if it persists the checkpoint is broken)");
    free(shared);
    return rc;
}

/* In a dense prefill a context is dense to its end: requests whose contexts differ become groups of their own. */
static int split_groups(const struct score_group *groups, size_t *n_groups, struct score_group **out, struct err *err) {
    size_t n_requests = 0, n = 0;
    for (size_t g = 0; g < *n_groups; g++)
        n_requests += groups[g].n;
    if (!(*out = mem_alloc(n_requests, sizeof **out, "groups", err)))
        return ERR_MEMORY;
    for (size_t g = 0; g < *n_groups; g++) {
        bool common = true;
        for (size_t i = 0; i < groups[g].n; i++)
            common &= groups[g].requests[i].n_context == shared_length(&groups[g]);
        if (common)
            (*out)[n++] = groups[g];
        for (size_t i = 0; !common && i < groups[g].n; i++)
            (*out)[n++] = (struct score_group){.requests = &groups[g].requests[i], .n = 1, .id = groups[g].id};
    }
    *n_groups = n;
    return OK;
}

int scoring_run(struct scoring *s, const struct score_group *groups, size_t n_groups, struct score *scores,
                struct err *err) {
    struct score_group *split = NULL;
    int rc = s->options.dense_prefill ? split_groups(groups, &n_groups, &split, err) : OK;
    if (split)
        groups = split;
    if (rc == OK)
        rc = prepare(s, groups, n_groups, err);
    for (size_t first = 0, done = 0, n; rc == OK && first < n_groups; first += n) {
        size_t n_requests = 0;
        for (n = 0; n < s->options.batch && first + n < n_groups && n_requests + groups[first + n].n <= s->n_slots; n++)
            n_requests += groups[first + n].n;
        rc = run_bundle(s, groups + first, n, scores + done, err);
        done += n_requests;
    }
    free(split);
    return rc;
}
