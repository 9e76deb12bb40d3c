/* oracle: two passes over a dense model, the first with full attention. A pair is kept when what queries outside its window
 * gave it there reaches the threshold (method.md section 11): a reference with knowledge of the future, for text that is all
 * there before it is run. */
#include <math.h>
#include <string.h>

#include "engine/policies/policies.h"

static int take_score(struct policy *policy, struct policy_params *params, struct err *err) {
    const char *score = policy_take(params, "score");
    if (score && strcmp(score, "max") != 0 && strcmp(score, "mean") != 0)
        return err_set(err, ERR_USAGE, "", "--policy %s: score=%s is neither max nor mean", params->spec, score);
    policy->foresight.mean = score && strcmp(score, "mean") == 0;
    return OK;
}

static int resolve(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                   struct err *err) {
    (void)request;
    int rc = take_score(policy, params, err), value_norm = 0;
    if (rc == OK)
        rc = policy_take_int(params, "value-norm", 0, 1, &value_norm, err);
    policy_need_threshold(policy, params, "the least attention that a pair must get, such as 0.05");
    policy->scorer = SCORER_GIVEN;
    policy->gated = true;
    policy->foresight.value_norm = value_norm;
    policy->scores = value_norm ? SCORE_REAL : SCORE_SIGMOID; /* else a share of attention, 0 to 1 */
    policy->strict = false;
    policy->knob = (struct policy_knob){.key = "threshold", .scale = KNOB_LOG};
    policy->allocation = ALLOCATION_MODEL;
    str_printf(&policy->parameters, ",\"score\":\"%s\",\"value_norm\":%s,\"knows_the_future\":true",
               policy->foresight.mean ? "mean" : "max", value_norm ? "true" : "false");
    return rc;
}

const struct policy_class policy_oracle = {
    "oracle", "threshold=X[,score=max|mean][,value-norm=1]: pairs that get attention later, by a pass ahead", resolve};
