/* h2o: the pairs that all queries so far together gave most attention to, beside the window (Heavy-Hitter Oracle, arXiv
 * 2306.14048). Ours: the window takes the place of the recent half of the budget; the query heads of a group vote together;
 * pairs go at chunk boundaries (chunk=1: after every token, as in the paper). */
#include "engine/policies/policies.h"

static int resolve(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                   struct err *err) {
    int rc = policy_take_eviction(policy, params, request, err);
    policy->evict.observe = policy->evict.chunk;
    policy->evict.carry = true;
    return rc;
}

const struct policy_class policy_h2o = {"h2o", "evicts: budget=X of the pairs, those with most attention so far", resolve};
