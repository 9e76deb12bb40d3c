/* window: sinks and the most recent tokens, nothing else (StreamingLLM, arXiv 2309.17453, with original positions). */
#include "engine/policies/policies.h"

static int resolve(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                   struct err *err) {
    (void)params, (void)err;
    policy->scorer = SCORER_CONST;
    policy->knob = (struct policy_knob){.key = "window", .rising = true, .scale = KNOB_TOKENS};
    policy_fill_score(policy, request->model, 0);
    return OK;
}

const struct policy_class policy_window = {"window", "sinks and the last `window` tokens", resolve};
