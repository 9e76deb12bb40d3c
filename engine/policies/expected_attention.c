/* expected-attention: the pairs that future queries are expected to give most attention to, times the norm of their value,
 * when those are as past ones were: normal, with the mean and covariance of the queries before their rotation, at the mean
 * rotation of the next `future` positions (Expected Attention, arXiv 2510.00636; without its epsilon). Ours: the softmax
 * runs over the pairs that compete, window and sinks apart; queries are all those since the beginning but for the first
 * `skip`; with norms on queries (Qwen3, Gemma 3) it is the normed queries that are summed up; a soft-cap is left out. */
#include "engine/policies/policies.h"

enum { N_FUTURE = 512, SKIP = 4 };

static int resolve(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                   struct err *err) {
    struct eviction_rule *rule = &policy->evict;
    int rc = policy_take_eviction(policy, params, request, err);
    rule->by_expectation = true;
    rule->n_future = N_FUTURE;
    rule->skip = SKIP;
    if (rc == OK)
        rc = policy_take_int(params, "future", 1, POLICY_MAX_COUNT, &rule->n_future, err);
    if (rc == OK)
        rc = policy_take_int(params, "skip", 0, POLICY_MAX_COUNT, &rule->skip, err);
    str_printf(&policy->parameters, ",\"future\":%d,\"skip\":%d", rule->n_future, rule->skip);
    return rc;
}

const struct policy_class policy_expected_attention = {
    "expected-attention", "evicts: budget=X of the pairs, those that queries like the past ones would look at", resolve};
