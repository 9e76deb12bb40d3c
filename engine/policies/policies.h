/* policies.h - the entries of the policy table. Private to engine/policy.c and engine/policies/. */
#ifndef SPKV_ENGINE_POLICIES_H
#define SPKV_ENGINE_POLICIES_H

#include "engine/policy.h"

/* key=value pairs of a specification, with the generic ones taken out; each class takes its own. */
struct policy_params {
    int n;
    struct {
        char *key, *value; /* value NULL once taken */
    } item[16];
    const char *spec; /* for messages */
};

struct policy_class {
    const char *name, *help;
    /* Completes a policy whose window, sinks, threshold and seed are set already. */
    int (*resolve)(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                   struct err *err);
};

/* Takes a parameter; NULL when absent. */
const char *policy_take(struct policy_params *params, const char *key);
/* Takes a number in [min, max]; *out keeps its value when absent. */
int policy_take_real(struct policy_params *params, const char *key, double min, double max, double *out, struct err *err);

int policy_take_int(struct policy_params *params, const char *key, int min, int *out, struct err *err);

/* What eviction policies share: every pair is kept when it leaves the ring, budget, chunk and allocation are taken, and
 * described in policy->parameters. */
int policy_take_eviction(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                         struct err *err);

/* head_score = score everywhere. */
void policy_fill_score(struct policy *policy, const struct model_config *model, float score);

extern const struct policy_class policy_full, policy_window, policy_random, policy_spkv, policy_layout_class,
    policy_h2o, policy_tova, policy_snapkv, policy_expected_attention;

#endif
