/* snapkv: the pairs that the last queries gave most attention to, smoothed over neighbours (SnapKV, arXiv 2404.14469). Ours:
 * the choice is made again at every chunk boundary, not once after the prompt; the query heads of a group vote together;
 * neighbours are those in the store, which after the first choice need not be neighbours in the text; the window is what is
 * safe, the observed queries are the last `observe` of it. */
#include "engine/policies/policies.h"

enum { OBSERVE = 32, POOL = 5 };

static int resolve(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                   struct err *err) {
    struct eviction_rule *rule = &policy->evict;
    int rc = policy_take_eviction(policy, params, request, err);
    rule->observe = rule->chunk < OBSERVE ? rule->chunk : OBSERVE;
    rule->pool = POOL;
    if (rc == OK)
        rc = policy_take_int(params, "observe", 1, POLICY_MAX_COUNT, &rule->observe, err);
    if (rc == OK)
        rc = policy_take_int(params, "pool", 1, POLICY_MAX_COUNT, &rule->pool, err);
    if (rc == OK && (rule->observe > rule->chunk || rule->pool % 2 == 0))
        rc = err_set(err, ERR_USAGE, "", "--policy %s: observe is at most the chunk (%d) and pool is odd", params->spec,
                     rule->chunk);
    str_printf(&policy->parameters, ",\"observe\":%d,\"pool\":%d", rule->observe, rule->pool);
    return rc;
}

const struct policy_class policy_snapkv = {
    "snapkv", "evicts: budget=X of the pairs, those with most attention of the last observe=N (32) queries", resolve};
