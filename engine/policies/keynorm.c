/* keynorm: pairs whose key has a small norm are kept (Devoto et al., arXiv 2406.11430: keys of small norm get most of the
 * attention). The score is minus the Euclidean norm of the key as attention reads it: behind the norm per head where the
 * model has one, and behind RoPE, which turns it and keeps its length (but for YaRN's attention factor, the same for all).
 *
 * The paper keeps the smallest norms of a whole cache; here the pair is kept or dropped by what is known when it is written,
 * so one threshold for all heads takes the place of a rank: how much each head keeps follows from its norms. */
#include <math.h>

#include "engine/policies/policies.h"

static int resolve(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                   struct err *err) {
    (void)err;
    policy->scorer = SCORER_KEY_NORM;
    policy->gated = true;
    policy->scores = SCORE_REAL;
    policy->strict = false;
    policy->knob = (struct policy_knob){.key = "threshold", .scale = KNOB_LINEAR, .min = -INFINITY, .max = 0};
    policy->allocation = ALLOCATION_MODEL;
    policy->score_min = -4 * sqrt((double)request->model->head_dim); /* components of about 1 up to 4 */
    policy_need_threshold(policy, params, "minus the largest norm of a key that is kept");
    return OK;
}

const struct policy_class policy_keynorm = {"keynorm", "threshold=X: pairs whose key has a norm of at most -X", resolve};
