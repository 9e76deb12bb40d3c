/* policy.h - which pairs a cache keeps. A policy says which scorer and gate a new pair gets, how wide the windows are and
 * how many sinks there are; it names ops and owns no kernel. Adding one = a file in engine/policies/ and a line in the
 * table of policy.c. A resolved policy is immutable and shared by any number of sessions of its model. */
#ifndef SPKV_ENGINE_POLICY_H
#define SPKV_ENGINE_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"
#include "engine/config.h"

enum scorer {
    SCORER_CONST,     /* one score per (layer, KV head): head_score */
    SCORER_RANDOM,    /* rng_uniform per (sequence, layer, KV head, position) */
    SCORER_PREDICTOR, /* the checkpoint's utility predictor */
};

enum score_kind { SCORE_NONE, SCORE_SIGMOID, SCORE_REAL };

/* Whose pairs share a budget: those of a KV head, of all heads of a layer, or of all heads of the model. */
enum allocation { ALLOCATION_HEAD, ALLOCATION_LAYER, ALLOCATION_MODEL };

/* Which long-term pairs an eviction policy drops: whenever a multiple of `chunk` tokens has been fed, all but the best
 * within the budget, sinks apart. Everything in between stays, so that a head holds up to chunk pairs more. */
struct eviction_rule {
    int chunk;           /* 0 = the policy does not evict */
    enum allocation allocation;
    double share;        /* growing budget: of a head's pairs outside window and sinks */
    int constant;        /* constant budget: pairs of a head, window and sinks included; 0 = growing */
    bool by_expectation; /* scores from sums of queries (ops->expected_score), else from what attention gave each key */
    int n_future, skip;  /* ... positions ahead that queries are expected at; first positions whose queries do not count */
    int observe;         /* ... else: the last positions before the drop whose queries count */
    bool carry;          /* ... and sums go on from chunk to chunk */
    bool mean_heads;     /* ... the heads of a layer vote together */
    int pool;            /* ... mean over so many neighbours, odd */
};

struct policy {
    const char *name;       /* static */
    enum scorer scorer;
    enum score_kind scores; /* what is worth recording as utility */
    bool gated;             /* a gate decides per pair; false: fixed per head (full, window, layout) */
    double threshold;       /* open when score >= threshold */
    bool strict;            /* ... > threshold */
    int sinks;
    int *window;            /* (n_layers, n_kv_heads), owned; the model's own sliding_window in its sliding layers */
    float *head_score;      /* (n_layers, n_kv_heads), owned; SCORER_CONST: 1 global, 0 local */
    int base_window;        /* the window of heads without one of their own: the one that counters and records name */
    double density;         /* random: the share of open gates */
    struct eviction_rule evict;
    uint64_t seed;
    struct str parameters;  /* every parameter with its value, a JSON object, for records */
};

/* A head layout as the layout policy needs it; arrays of (n_layers, n_kv_heads). */
struct policy_layout {
    bool *global;
    int *window;
    int sinks, base_window;
    char *hash; /* of the file, for records */
};

/* What a policy is resolved against. */
struct policy_request {
    const struct model_config *model;
    const struct predictor_config *predictor; /* NULL = none */
    int window;       /* 0 = the predictor's, or 128 */
    int sinks;        /* -1 = the policy's default */
    double threshold; /* NaN = the predictor's, or 0.5 */
    uint64_t seed;
    /* Reads the layout file a policy names; the caller frees the arrays. NULL: layouts are not available. */
    int (*load_layout)(void *self, const char *path, struct policy_layout *out, struct err *err);
    void *self;
};

/* Resolves "NAME" or "NAME:key=value,...". Keys window, sinks, threshold and seed are known to every policy and win over
 * the request; others belong to the policy. ERR_USAGE names unknown policies, keys and bad values. */
int policy_create(const char *spec, const struct policy_request *request, struct policy **out, struct err *err);
void policy_free(struct policy *policy);

/* Of n tokens that follow `fed` ones of a sequence: how many to feed in one step, so that an eviction policy drops pairs at
 * the positions that its chunk says. n under other policies. */
int policy_step(const struct policy *policy, int fed, int n);
/* Eviction: long-term pairs, sinks apart, that a head may keep of a sequence of n_tok tokens; with a shared budget, on
 * average. */
int policy_budget(const struct policy *policy, int n_tok);

/* "full, window, ..." with one line each, for --help. */
void policy_describe_all(struct str *out);

#endif
