/* random: every pair is kept with the same probability, drawn from (seed, sequence, layer, KV head, position). The
 * baseline that any scorer has to beat. */
#include "engine/policies/policies.h"

static int resolve(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                   struct err *err) {
    (void)request;
    policy->scorer = SCORER_RANDOM;
    policy->gated = true;
    policy->density = 0.25;
    policy->knob = (struct policy_knob){.key = "density", .rising = true, .scale = KNOB_LINEAR, .min = 0, .max = 1};
    int rc = policy_take_real(params, "density", 0, 1, &policy->density, err);
    /* A uniform score in [0, 1) reaches 1 - density with probability density. */
    policy->threshold = 1 - policy->density;
    policy->strict = false;
    return rc;
}

const struct policy_class policy_random = {"random", "density=X: each pair kept with probability X (0.25)", resolve};
