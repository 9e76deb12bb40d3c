#include "cli/recommend_runs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/profile.h"
#include "base/file.h"
#include "base/mem.h"
#include "cli/head_values.h"
#include "cli/static_gates.h"

enum { MAX_CORPORA = 64 }; /* that are told apart; every one is a pass over the file */

/* Statistics of every corpus of every run, for the variation. */
struct corpora {
    struct statistics *items;
    size_t n, cap;
};

static int differ(const char *path, const char *first, const char *what, const char *a, const char *b, struct err *err) {
    return err_set(err, ERR_INPUT, path, "does not go with %s: %s is %s here and %s there", first, what, b, a);
}

static int check_same(const struct profile *first, const struct profile *other, bool policy, struct err *err) {
    const struct profile_meta *a = profile_meta(first), *b = profile_meta(other);
    const char *path = profile_path(other), *name = profile_path(first);
    if (a->n_layers != b->n_layers || a->n_kv_heads != b->n_kv_heads)
        return err_set(err, ERR_INPUT, path, "does not go with %s: %u layers x %u KV heads here and %u x %u there", name,
                       b->n_layers, b->n_kv_heads, a->n_layers, a->n_kv_heads);
    if (*a->base_model_hash && *b->base_model_hash && strcmp(a->base_model_hash, b->base_model_hash) != 0)
        return err_set(err, ERR_INPUT, path, "does not go with %s: base_model_hash is %s here and %s there\n(profile the "
                       "same checkpoint, under --policy full --record attention for its attention)", name, b->base_model_hash,
                       a->base_model_hash);
    if (!policy)
        return OK;
    if (strcmp(a->model_hash, b->model_hash) != 0)
        return differ(path, name, "model_hash", a->model_hash, b->model_hash, err);
    if (strcmp(a->policy, b->policy) != 0)
        return differ(path, name, "the policy", a->policy, b->policy, err);
    if (strcmp(a->policy_parameters, b->policy_parameters) != 0)
        return differ(path, name, "policy_parameters", a->policy_parameters, b->policy_parameters, err);
    if (strcmp(a->prefill, b->prefill) != 0)
        return differ(path, name, "prefill", a->prefill, b->prefill, err);
    return OK;
}

static int add_corpora(struct profile *profile, struct corpora *c, struct err *err) {
    size_t n = profile_meta(profile)->n_corpora;
    bool apart = n > 1 && n <= MAX_CORPORA;
    int rc = mem_grow(&c->items, &c->cap, c->n + (apart ? n : 1), sizeof *c->items, "statistics", err);
    for (size_t i = 0; rc == OK && i < (apart ? n : 1); i++)
        if ((rc = statistics_compute(profile, apart ? (int)i : -1, &c->items[c->n], err)) == OK)
            c->n++;
    return rc;
}

static int join_run(struct recommend_runs *r, struct profile *profile, struct err *err) {
    struct statistics own = {0};
    int rc = check_same(r->profile, profile, true, err);
    if (rc == OK)
        rc = statistics_compute(profile, -1, &own, err);
    if (rc == OK)
        rc = statistics_join(&r->statistics, &own, profile_path(profile), err);
    statistics_free(&own);
    return rc;
}

static int read_run(const char *path, size_t i, struct recommend_runs *r, struct corpora *c, struct err *err) {
    struct profile *profile;
    int rc = profile_open(path, &profile, err);
    if (rc != OK)
        return rc;
    r->partial |= profile_is_partial(profile);
    if (!file_is_dir(path))
        rc = file_hash(path, r->hashes[i], err);
    if (rc == OK && i == 0)
        rc = statistics_compute(profile, -1, &r->statistics, err);
    else if (rc == OK)
        rc = join_run(r, profile, err);
    if (rc == OK)
        rc = add_corpora(profile, c, err);
    if (i == 0)
        r->profile = profile;
    else
        profile_close(profile);
    return rc;
}

static int check_measure(const struct recommend_runs *r, struct err *err) {
    const struct profile_meta *meta = profile_meta(r->profile);
    const char *path = profile_path(r->profile);
    if (r->measure.kind == HEAD_MEASURE_NONE)
        return err_set(err, ERR_INPUT, path, "records neither gates nor attention, so heads cannot be ranked: profile again "
                       "with --record attention (dense model) or under --policy spkv");
    for (size_t i = 0; i < r->measure.n_layers * r->measure.n_kv_heads; i++)
        if (r->measure.value[i] > 0)
            return OK;
    return err_set(err, ERR_INPUT, path,
                   "has no head with a %s above 0: no sequence is longer than window + sinks (%u + %u; the longest has %u "
                   "tokens), or everything beyond was dropped", r->measure.name, meta->window, meta->sinks,
                   r->statistics.longest);
}

static int read_runs(const struct recommend_sources *s, struct recommend_runs *r, struct err *err) {
    struct corpora corpora = {0};
    int rc = OK;
    for (size_t i = 0; rc == OK && i < s->n_runs; i++)
        rc = read_run(s->runs[i], i, r, &corpora, err);
    if (rc == OK)
        rc = head_measure_compute(&r->statistics, profile_meta(r->profile), &r->measure, err);
    if (rc == OK)
        rc = check_measure(r, err);
    if (rc == OK &&
        !(r->variation = mem_alloc(r->measure.n_layers * r->measure.n_kv_heads, sizeof *r->variation, "variation", err)))
        rc = ERR_MEMORY;
    if (rc == OK)
        variation_compute(corpora.items, corpora.n,
                          r->measure.kind == HEAD_MEASURE_DENSITY ? RATIO_LONG_DENSITY : RATIO_FAR_ATTENTION, r->variation);
    r->n_corpora = corpora.n;
    for (size_t i = 0; i < corpora.n; i++)
        statistics_free(&corpora.items[i]);
    free(corpora.items);
    return rc;
}

static void add_ranking(struct recommend_runs *r, const char *name, const char *origin, double *value, size_t n_global) {
    r->owned[r->n_rankings] = value;
    r->rankings[r->n_rankings++] = (struct head_ranking){name, origin, value, n_global};
}

static int rank_by_attention(struct recommend_runs *r, const char *path, const struct statistics *s, struct err *err) {
    size_t n = s->n_layers * s->n_kv_heads;
    if (!s->has_attention)
        return err_set(err, ERR_INPUT, path, "has no far_attention_sum: profile the dense model with --policy "
                       "full --record attention");
    double *value = mem_alloc(n, sizeof *value, "far attention", err);
    if (!value)
        return ERR_MEMORY;
    for (size_t i = 0; i < n; i++)
        value[i] = head_far_attention(&s->heads[i]);
    add_ranking(r, "far-attention", path, value, 0);
    return OK;
}

/* Windows come from the run of the dense model where one is given, else from the first run. */
static int choose_windows(const struct recommend_sources *s, struct recommend_runs *r, struct profile *run,
                          const struct statistics *statistics, struct err *err) {
    uint32_t sinks = s->sinks >= 0 ? (uint32_t)s->sinks : profile_meta(run)->sinks;
    return s->window_mass < 0 ? OK : window_choose(run, statistics, s->window_mass, s->window_scope, sinks > 0, &r->windows,
                                                   err);
}

static int read_attention(const struct recommend_sources *s, struct recommend_runs *r, struct err *err) {
    struct profile *run = NULL;
    struct statistics statistics = {0};
    int rc = profile_open(s->attention, &run, err);
    if (rc == OK)
        rc = check_same(r->profile, run, false, err);
    if (rc == OK)
        rc = statistics_compute(run, -1, &statistics, err);
    if (rc == OK)
        rc = rank_by_attention(r, s->attention, &statistics, err);
    if (rc == OK)
        rc = choose_windows(s, r, run, &statistics, err);
    statistics_free(&statistics);
    profile_close(run);
    return rc;
}

static int read_learned(const struct recommend_sources *s, struct recommend_runs *r, struct err *err) {
    double *value;
    int rc = static_gates_read(s->learned, profile_meta(r->profile), &value, &r->same_base, err);
    if (rc == OK)
        add_ranking(r, "learned", s->learned, value, 0);
    return rc;
}

static int read_pattern(const struct recommend_sources *s, struct recommend_runs *r, struct err *err) {
    const struct profile_meta *meta = profile_meta(r->profile);
    struct head_values values;
    int rc = head_values_read(s->pattern, meta->n_kv_heads, &values, err);
    if (rc != OK)
        return rc;
    if (values.n_layers != meta->n_layers || values.n_kv_heads != meta->n_kv_heads) {
        rc = err_set(err, ERR_INPUT, s->pattern, "is for %u layers x %u KV heads, the profiled model has %u x %u",
                     values.n_layers, values.n_kv_heads, meta->n_layers, meta->n_kv_heads);
        head_values_free(&values);
        return rc;
    }
    add_ranking(r, "imported", s->pattern, values.value, values.n_global);
    return OK;
}

int recommend_runs_read(const struct recommend_sources *s, struct recommend_runs *out, struct err *err) {
    ASSERT(s->n_runs > 0 && s->n_runs <= RECOMMEND_MAX_RUNS);
    *out = (struct recommend_runs){.same_base = true};
    int rc = read_runs(s, out, err);
    if (rc == OK && s->attention)
        rc = read_attention(s, out, err);
    else if (rc == OK)
        rc = choose_windows(s, out, out->profile, &out->statistics, err);
    if (rc == OK && s->learned)
        rc = read_learned(s, out, err);
    if (rc == OK && s->pattern)
        rc = read_pattern(s, out, err);
    return rc;
}

void recommend_runs_free(struct recommend_runs *r) {
    for (size_t i = 0; i < r->n_rankings; i++)
        free(r->owned[i]);
    free(r->windows);
    free(r->variation);
    head_measure_free(&r->measure);
    statistics_free(&r->statistics);
    profile_close(r->profile);
    *r = (struct recommend_runs){0};
}
