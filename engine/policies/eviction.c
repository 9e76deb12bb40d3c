/* What policies that evict have in common: the budget, when pairs are dropped, and who shares the budget. */
#include <string.h>

#include "engine/policies/policies.h"

static int take_allocation(struct policy_params *params, enum allocation *out, struct err *err) {
    const char *text = policy_take(params, "allocation");
    for (int i = 0; text && i < 3; i++)
        if (strcmp(text, allocation_names[i]) == 0) {
            *out = (enum allocation)i;
            return OK;
        }
    return text ? err_set(err, ERR_USAGE, "", "--policy %s: allocation=%s is not head, layer or model", params->spec, text)
                : OK;
}

/* budget=X grows with the sequence, constant=N does not: either, not both. */
static int take_budget(struct policy_params *params, int inside, struct eviction_rule *rule, struct err *err) {
    rule->share = -1;
    int rc = policy_take_real(params, "budget", 0, 1, &rule->share, err);
    if (rc == OK)
        rc = policy_take_int(params, "constant", 0, POLICY_MAX_COUNT, &rule->constant, err);
    if (rc != OK)
        return rc;
    if (rule->share >= 0 && rule->constant)
        return err_set(err, ERR_USAGE, "", "--policy %s: budget grows with the sequence and constant does not: give one",
                       params->spec);
    if (rule->constant && rule->constant < inside)
        return err_set(err, ERR_USAGE, "", "--policy %s: a budget of %d pairs is below window + sinks = %d\n"
                       "(use a larger constant or a smaller --window)", params->spec, rule->constant, inside);
    if (rule->share < 0)
        rule->share = 0.25;
    return OK;
}

int policy_take_eviction(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                         struct err *err) {
    struct eviction_rule *rule = &policy->evict;
    policy->scorer = SCORER_CONST;
    policy_fill_score(policy, request->model, 1);
    rule->chunk = policy->base_window;
    rule->pool = 1;
    int rc = take_budget(params, policy->base_window + policy->sinks, rule, err);
    if (rc == OK)
        rc = policy_take_int(params, "chunk", 1, POLICY_MAX_COUNT, &rule->chunk, err);
    if (rc == OK)
        rc = take_allocation(params, &policy->allocation, err);
    if (!rule->constant)
        policy->knob = (struct policy_knob){.key = "budget", .rising = true, .scale = KNOB_LINEAR, .min = 0, .max = 1};
    if (rule->constant)
        str_printf(&policy->parameters, ",\"budget\":\"constant\",\"constant\":%d", rule->constant);
    else
        str_printf(&policy->parameters, ",\"budget\":%.17g", rule->share);
    str_printf(&policy->parameters, ",\"chunk\":%d,\"allocation\":\"%s\"", rule->chunk,
               allocation_names[policy->allocation]);
    return rc;
}
