/* tova: the pairs that the last query gave most attention to, as the heads of a layer see it together (Token Omission Via
 * Attention, arXiv 2401.06104). Ours: the window is safe (the paper has none); pairs go at chunk boundaries (chunk=1: after
 * every token, as in the paper); where heads share a budget each one has its own scores, because one vote for all of them
 * would leave nothing to share out. */
#include "engine/policies/policies.h"

static int resolve(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                   struct err *err) {
    int rc = policy_take_eviction(policy, params, request, err);
    policy->evict.observe = 1;
    policy->evict.mean_heads = policy->allocation == ALLOCATION_HEAD;
    return rc;
}

const struct policy_class policy_tova = {
    "tova", "evicts: budget=X of the pairs, those with most attention of the last query", resolve};
