/* duo: heads that a DuoAttention file (arXiv 2410.10819) calls retrieval heads keep everything, the others its sinks and its
 * recent tokens. Chosen by threshold on the file's values, clipped to 0..1, or by the share of heads that are global. */
#include <math.h>
#include <stdlib.h>

#include "engine/policies/policies.h"

static bool eligible(const struct model_config *model, size_t head) {
    return model->layers[head / (size_t)model->n_kv_heads].sliding_window == 0;
}

static size_t n_heads(const struct model_config *model) {
    return (size_t)model->n_layers * (size_t)model->n_kv_heads;
}

/* The n largest values become global, ties to the lower layer, then the lower head. */
static void choose_largest(struct policy *policy, const struct model_config *model, const double *value, size_t n) {
    for (size_t i = 0; i < n_heads(model); i++) {
        size_t before = 0;
        for (size_t j = 0; j < n_heads(model); j++)
            before += eligible(model, j) && (value[j] > value[i] || (value[j] == value[i] && j < i));
        policy->head_score[i] = eligible(model, i) && before < n ? 1 : 0;
    }
}

static void choose(struct policy *policy, const struct model_config *model, const double *value, double share) {
    size_t n = 0;
    for (size_t i = 0; i < n_heads(model); i++)
        n += eligible(model, i) && (!isnan(share) || value[i] >= policy->threshold);
    if (!isnan(share))
        n = (size_t)floor(share * (double)n + 0.5);
    choose_largest(policy, model, value, n);
    str_printf(&policy->parameters, ",\"n_global_heads\":%zu", n);
}

static int resolve(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                   struct err *err) {
    const char *path = policy_take(params, "file");
    struct policy_pattern pattern = {0};
    double share = (double)NAN;
    if (!path || !request->load_pattern)
        return err_set(err, ERR_USAGE, "", "policy duo needs a head file: --policy duo:file=full_attention_heads.tsv");
    int rc = policy_take_real(params, "heads-global", 0, 1, &share, err);
    if (rc == OK && !isnan(share) && params->threshold_given)
        rc = err_set(err, ERR_USAGE, "", "--policy %s: heads-global and threshold exclude each other", params->spec);
    if (rc == OK)
        rc = request->load_pattern(request->self, path, &pattern, err);
    if (rc != OK)
        return rc;
    if (!params->threshold_given)
        policy->threshold = 0.5;
    if (!params->window_given && pattern.window > 0)
        policy->base_window = pattern.window;
    if (!params->sinks_given && pattern.window > 0)
        policy->sinks = pattern.sinks;
    policy->scorer = SCORER_CONST;
    policy->allocation = ALLOCATION_MODEL;
    if (!params->threshold_given)
        policy->knob = (struct policy_knob){.key = "heads-global", .rising = true, .scale = KNOB_LINEAR, .min = 0, .max = 1};
    choose(policy, request->model, pattern.value, share);
    str_printf(&policy->parameters, isnan(share) ? ",\"threshold\":%.17g" : ",\"heads-global\":%.17g",
               isnan(share) ? policy->threshold : share);
    str_printf(&policy->parameters, ",\"pattern_hash\":\"%s\"", pattern.hash ? pattern.hash : "");
    free(pattern.value);
    free(pattern.hash);
    return OK;
}

const struct policy_class policy_duo = {
    "duo", "file=F[,heads-global=X|threshold=X]: retrieval heads of a DuoAttention file keep everything", resolve};
