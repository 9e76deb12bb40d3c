/* spkv: a pair is kept when its predicted utility reaches the threshold (arXiv 2605.14037). */
#include "engine/policies/policies.h"

static int resolve(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                   struct err *err) {
    (void)params;
    if (!request->predictor)
        return err_set(err, ERR_INPUT, "",
                       "policy spkv needs a checkpoint with a utility predictor, and this one has none\n"
                       "(name its directory with --predictor, or use --policy full, window or random)");
    policy->scorer = SCORER_PREDICTOR;
    policy_use_predictor(policy, request->predictor);
    policy->trained = !request->predictor->fitted;
    return OK;
}

const struct policy_class policy_spkv = {"spkv", "pairs whose predicted utility reaches the threshold", resolve};
