/* policies.h - the entries of the policy table. Private to engine/policy.c and engine/policies/. */
#ifndef SPKV_ENGINE_POLICIES_H
#define SPKV_ENGINE_POLICIES_H

#include "engine/policy.h"

enum { POLICY_MAX_COUNT = 1 << 30 };

/* key=value pairs of a specification, with the generic ones taken out; each class takes its own. */
struct policy_params {
    int n;
    struct {
        char *key, *value; /* value NULL once taken */
    } item[16];
    const char *spec; /* for messages */
    bool window_given, sinks_given, threshold_given; /* by the user: not a default, nor the predictor's */
};

struct policy_class {
    const char *name, *help;
    /* Completes a policy whose window, sinks, threshold and seed are set already: scorer, gates, and where they are not all
     * zero knob, allocation, trained. */
    int (*resolve)(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                   struct err *err);
};

/* Takes a parameter; NULL when absent. */
const char *policy_take(struct policy_params *params, const char *key);
/* Takes a number in [min, max]; *out keeps its value when absent. */
int policy_take_real(struct policy_params *params, const char *key, double min, double max, double *out, struct err *err);

/* The same for a whole number. */
int policy_take_int(struct policy_params *params, const char *key, int min, int max, int *out, struct err *err);

/* The policy has to be given a threshold, since its scores have no scale that a default could know: NaN unless the user gave
 * one. `meaning`, static, says what it is. */
void policy_need_threshold(struct policy *policy, const struct policy_params *params, const char *meaning);

/* Scores, comparison and knob of a predictor; one that was fitted and not trained is named so in the parameters. */
void policy_use_predictor(struct policy *policy, const struct predictor_config *config);

/* What eviction policies share: every pair is kept when it leaves the ring, budget, chunk and allocation are taken, and
 * described in policy->parameters. */
int policy_take_eviction(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                         struct err *err);

/* head_score = score everywhere. */
void policy_fill_score(struct policy *policy, const struct model_config *model, float score);

extern const struct policy_class policy_full, policy_window, policy_random, policy_spkv, policy_layout_class, policy_keynorm,
    policy_duo, policy_gates, policy_oracle, policy_h2o, policy_tova, policy_snapkv, policy_expected_attention;

#endif
