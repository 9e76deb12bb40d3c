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
    SCORER_GATES,     /* another predictor: gates */
    SCORER_KEY_NORM,  /* minus the norm of the key */
    SCORER_GIVEN,     /* what a pass ahead found out, see struct foresight: session_set_scores() */
};

enum score_kind { SCORE_NONE, SCORE_SIGMOID, SCORE_REAL };

/* The parameter that sets how much a policy keeps, for whoever looks for the value with a wanted cost: along it what is read
 * only rises, or only falls. */
enum knob_scale {
    KNOB_LINEAR, /* from min to max, either of which may be infinite */
    KNOB_LOGIT,  /* 0 to 1, what matters close to both ends: thresholds of sigmoid scores */
    KNOB_LOG,    /* above 0, over any number of orders of magnitude; min and max are not used */
    KNOB_TOKENS, /* whole tokens, from the window of the run to the longest sequence; min and max are not used */
};

struct policy_knob {
    const char *key;        /* of its specification, static; NULL = the cost is fixed */
    bool rising;            /* a larger value reads more */
    enum knob_scale scale;
    double min, max;
};

/* Who shares a budget, or a bar that scores have to pass: every KV head has its own, the heads of a layer, all heads of the
 * model. Results are compared within one allocation. */
enum allocation { ALLOCATION_HEAD, ALLOCATION_LAYER, ALLOCATION_MODEL };
extern const char *const allocation_names[3]; /* "head", "layer", "model" */

/* Which future attention is the score of a pair: the largest weight or the mean, as is or times the norm of what its value
 * becomes behind the output projection (the largest over the query heads of the group). */
struct foresight {
    bool mean, value_norm;
};

/* Which long-term pairs an eviction policy drops: whenever a multiple of `chunk` tokens has been fed, all but the best
 * within the budget, sinks apart. Everything in between stays, so that a head holds up to chunk pairs more. */
struct eviction_rule {
    int chunk;           /* 0 = the policy does not evict */
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
    double score_min, score_max; /* SCORE_REAL: where most scores lie, for histograms; both 0 = not known */
    bool fitted;            /* its predictor was fitted to an oracle: PREDICTOR_FITTED stands beside the name */
    bool gated;             /* a gate decides per pair; false: fixed per head (full, window, layout) */
    double threshold;       /* open when score >= threshold; NaN = not given where one is needed: policy_check() */
    const char *threshold_meaning; /* static, of such a policy */
    bool strict;            /* ... > threshold */
    int sinks;
    int *window;            /* (n_layers, n_kv_heads), owned; the model's own sliding_window in its sliding layers */
    float *head_score;      /* (n_layers, n_kv_heads), owned; SCORER_CONST: 1 global, 0 local */
    int base_window;        /* the window of heads without one of their own: the one that counters and records name */
    struct gate_network *gates; /* SCORER_GATES, owned; engine/gate_network.h */
    struct foresight foresight; /* SCORER_GIVEN */
    double density;         /* random: the share of open gates */
    struct eviction_rule evict;
    uint64_t seed;
    struct policy_knob knob;
    enum allocation allocation;
    bool trained;           /* belongs to the weights that its predictor was trained with; else it serves dense models */
    struct str parameters;  /* every parameter with its value, a JSON object, for records */
};

/* A head layout as the layout policy needs it; arrays of (n_layers, n_kv_heads). */
struct policy_layout {
    bool *global;
    int *window;
    int sinks, base_window;
    char *hash; /* of the file, for records */
};

/* Scores of heads from a file of another tool, as the duo policy needs them; the array is of (n_layers, n_kv_heads). */
struct policy_pattern {
    double *value;
    int window, sinks; /* as the file says; window 0 = it does not */
    char *hash;        /* of the file, for records */
};

/* What a policy is resolved against. */
struct policy_request {
    const struct model_config *model;
    const struct predictor_config *predictor; /* NULL = none */
    const char *model_dir; /* of the checkpoint, which gates are read against; NULL: not available */
    int window;       /* 0 = the predictor's, or 128 */
    int sinks;        /* -1 = the policy's default */
    double threshold; /* NaN = the predictor's, or 0.5 */
    uint64_t seed;
    /* Read the layout, or the head pattern, that a policy names and check that it is this model's; the caller frees the
     * arrays. NULL: not available. */
    int (*load_layout)(void *self, const char *path, struct policy_layout *out, struct err *err);
    int (*load_pattern)(void *self, const char *path, struct policy_pattern *out, struct err *err);
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

/* ERR_USAGE for a policy that cannot run before its knob is set. */
int policy_check(const struct policy *policy, struct err *err);

/* "full, window, ..." with one line each, for --help. */
void policy_describe_all(struct str *out);

#endif
