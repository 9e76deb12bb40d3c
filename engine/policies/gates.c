/* gates: as spkv, with a predictor from a directory of its own: one of ours, or of KVzap (engine/gate_network.h). */
#include <math.h>

#include "engine/gate_network.h"
#include "engine/policies/policies.h"

static int resolve(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                   struct err *err) {
    const char *dir = policy_take(params, "file");
    if (!dir || !request->model_dir)
        return err_set(err, ERR_USAGE, "", "policy gates needs a directory: --policy gates:file=DIR");
    int rc = gate_network_read(dir, request->model_dir, &policy->gates, err);
    if (rc != OK)
        return rc;
    const struct predictor_config *config = &policy->gates->config;
    policy->scorer = SCORER_GATES;
    policy_use_predictor(policy, config);
    if (!params->window_given)
        policy->base_window = config->window;
    str_printf(&policy->parameters, ",\"format\":\"%s\",\"gates_hash\":\"%s\"", policy->gates->format,
               policy->gates->hash);
    if (isnan(config->threshold))
        policy_need_threshold(policy, params, "the least score that is kept (KVzap: about -9 to -3)");
    else if (!params->threshold_given)
        policy->threshold = config->threshold;
    return OK;
}

const struct policy_class policy_gates = {"gates", "file=DIR[,threshold=X]: a predictor that is not the model's, or KVzap's",
                                          resolve};
