/* layout: global heads keep everything, local heads their window and the sinks, as a layout file says. */
#include <stdlib.h>

#include "engine/policies/policies.h"

static int resolve(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                   struct err *err) {
    const struct model_config *model = request->model;
    size_t n_heads = (size_t)model->n_layers * (size_t)model->n_kv_heads;
    const char *path = policy_take(params, "file");
    struct policy_layout layout = {0};
    if (!path || !request->load_layout)
        return err_set(err, ERR_USAGE, "", "policy layout needs a layout file: --policy layout:file=layout.json");
    int rc = request->load_layout(request->self, path, &layout, err);
    if (rc != OK)
        return rc;
    policy->scorer = SCORER_CONST;
    policy->allocation = ALLOCATION_MODEL;
    policy->sinks = layout.sinks;
    policy->base_window = layout.base_window;
    for (size_t i = 0; i < n_heads; i++) {
        policy->head_score[i] = layout.global[i] ? 1 : 0;
        policy->window[i] = layout.window[i];
    }
    str_printf(&policy->parameters, ",\"layout_hash\":\"%s\"", layout.hash ? layout.hash : "");
    free(layout.global);
    free(layout.window);
    free(layout.hash);
    return OK;
}

const struct policy_class policy_layout_class = {"layout", "file=F: global and local heads as the layout file says",
                                                 resolve};
