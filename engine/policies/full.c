/* full: the model's own attention. Every pair that leaves the ring is kept. */
#include "engine/policies/policies.h"

static int resolve(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                   struct err *err) {
    (void)params, (void)err;
    policy->scorer = SCORER_CONST;
    policy_fill_score(policy, request->model, 1);
    return OK;
}

const struct policy_class policy_full = {"full", "the model's own attention", resolve};
