#include "engine/policy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/gate_network.h"
#include "engine/policies/policies.h"

static const struct policy_class *const classes[] = {
    &policy_full, &policy_window, &policy_random, &policy_spkv, &policy_layout_class, &policy_keynorm, &policy_duo,
    &policy_gates, &policy_oracle,
    &policy_full, &policy_window, &policy_random, &policy_spkv, &policy_layout_class,
    &policy_h2o,  &policy_tova,   &policy_snapkv, &policy_expected_attention,
};
enum { N_CLASSES = sizeof classes / sizeof *classes, DEFAULT_WINDOW = 128 };

const char *const allocation_names[3] = {"head", "layer", "model"};

const char *policy_take(struct policy_params *params, const char *key) {
    for (int i = 0; i < params->n; i++)
        if (params->item[i].value && strcmp(params->item[i].key, key) == 0) {
            const char *value = params->item[i].value;
            params->item[i].value = NULL;
            return value;
        }
    return NULL;
}

int policy_take_real(struct policy_params *params, const char *key, double min, double max, double *out, struct err *err) {
    const char *text = policy_take(params, key);
    char *end;
    if (!text)
        return OK;
    double x = strtod(text, &end);
    if (end == text || *end || !(x >= min && x <= max))
        return err_set(err, ERR_USAGE, "", "--policy %s: %s=%s is not a number from %g to %g", params->spec, key, text, min,
                       max);
    *out = x;
    return OK;
}

void policy_need_threshold(struct policy *policy, const struct policy_params *params, const char *meaning) {
    policy->threshold_meaning = meaning;
    if (!params->threshold_given)
        policy->threshold = (double)NAN;
}

static bool has_param(const struct policy_params *params, const char *key) {
    for (int i = 0; i < params->n; i++)
        if (strcmp(params->item[i].key, key) == 0)
            return true;
    return false;
}

int policy_take_int(struct policy_params *params, const char *key, int min, int max, int *out, struct err *err) {
    double x = *out;
    int rc = policy_take_real(params, key, min, max, &x, err);
    if (rc == OK && x != floor(x))
        rc = err_set(err, ERR_USAGE, "", "--policy %s: %s must be a whole number", params->spec, key);
    if (rc == OK)
        *out = (int)x;
    return rc;
}

/* Splits "NAME:key=value,..." inside `copy`, which the result points into. */
static int split(char *copy, struct policy_params *params, struct err *err) {
    char *next = strchr(copy, ':');
    if (next)
        *next++ = 0;
    while (next && *next) {
        char *item = next, *equals;
        next = strchr(item, ',');
        if (next)
            *next++ = 0;
        equals = strchr(item, '=');
        if (!equals || equals == item || params->n == (int)(sizeof params->item / sizeof *params->item))
            return err_set(err, ERR_USAGE, "", "--policy %s: \"%s\" is not key=value", params->spec, item);
        *equals = 0;
        params->item[params->n].key = item;
        params->item[params->n++].value = equals + 1;
    }
    return OK;
}

static const struct policy_class *find_class(const char *name) {
    for (int i = 0; i < N_CLASSES; i++)
        if (strcmp(classes[i]->name, name) == 0)
            return classes[i];
    return NULL;
}

static int unknown_class(const char *name, struct err *err) {
    struct str names = {0};
    for (int i = 0; i < N_CLASSES; i++)
        str_printf(&names, "%s%s", i ? ", " : "", classes[i]->name);
    err_set(err, ERR_USAGE, "", "\"%s\" is not a policy (there are: %s)", name, str_text(&names));
    str_free(&names);
    return ERR_USAGE;
}

void policy_use_predictor(struct policy *policy, const struct predictor_config *config) {
    policy->gated = true;
    policy->scores = config->sigmoid ? SCORE_SIGMOID : SCORE_REAL;
    policy->strict = config->strict;
    policy->knob = config->sigmoid
                       ? (struct policy_knob){.key = "threshold", .scale = KNOB_LOGIT, .min = 0, .max = 1}
                       : (struct policy_knob){.key = "threshold", .scale = KNOB_LINEAR, .min = -INFINITY, .max = INFINITY};
    policy->allocation = ALLOCATION_MODEL;
    policy->fitted = config->fitted;
    if (config->fitted)
        str_puts(&policy->parameters, ",\"predictor\":\"" PREDICTOR_FITTED "\"");
}

void policy_fill_score(struct policy *policy, const struct model_config *model, float score) {
    for (size_t i = 0; i < (size_t)model->n_layers * (size_t)model->n_kv_heads; i++)
        policy->head_score[i] = score;
}

/* The values that every policy has: from the request, then from the specification. */
static int resolve_common(struct policy *policy, struct policy_params *params, const struct policy_request *request,
                          struct err *err) {
    double seed = 0;
    params->window_given = request->window > 0 || has_param(params, "window");
    params->sinks_given = request->sinks >= 0 || has_param(params, "sinks");
    params->threshold_given = !isnan(request->threshold) || has_param(params, "threshold");
    policy->base_window = request->window      ? request->window
                          : request->predictor ? request->predictor->window
                                               : DEFAULT_WINDOW;
    policy->threshold = !isnan(request->threshold) ? request->threshold
                        : request->predictor       ? request->predictor->threshold
                                                   : 0.5;
    policy->sinks = request->sinks >= 0 ? request->sinks : 0;
    policy->seed = request->seed;
    int rc = policy_take_int(params, "window", 1, POLICY_MAX_COUNT, &policy->base_window, err);
    if (rc == OK)
        rc = policy_take_int(params, "sinks", 0, POLICY_MAX_COUNT, &policy->sinks, err);
    if (rc == OK)
        rc = policy_take_real(params, "threshold", -1e30, 1e30, &policy->threshold, err);
    for (int i = 0; i < params->n && rc == OK; i++)
        if (strcmp(params->item[i].key, "seed") == 0) {
            rc = policy_take_real(params, "seed", 0, 0x1p53, &seed, err);
            policy->seed = (uint64_t)seed;
        }
    return rc;
}

/* The model's own sliding layers keep exactly their ring under every policy (method: such heads are outside it). */
static void set_windows(struct policy *policy, const struct model_config *model) {
    for (int l = 0; l < model->n_layers; l++)
        for (int h = 0; h < model->n_kv_heads; h++) {
            int *window = &policy->window[l * model->n_kv_heads + h];
            if (model->layers[l].sliding_window > 0)
                *window = model->layers[l].sliding_window;
            else if (*window == 0)
                *window = policy->base_window;
        }
}

static int refuse_leftover(const struct policy_params *params, const char *name, struct err *err) {
    for (int i = 0; i < params->n; i++)
        if (params->item[i].value)
            return err_set(err, ERR_USAGE, "", "policy %s has no parameter \"%s\"", name, params->item[i].key);
    return OK;
}

static void describe(struct policy *policy) {
    struct str own = policy->parameters;
    policy->parameters = (struct str){0};
    str_printf(&policy->parameters, "{\"name\":\"%s\",\"window\":%d,\"sinks\":%d", policy->name, policy->base_window,
               policy->sinks);
    if (policy->scores != SCORE_NONE && !isnan(policy->threshold))
        str_printf(&policy->parameters, ",\"threshold\":%.17g,\"comparison\":\"%s\"", policy->threshold,
                   policy->strict ? ">" : ">=");
    if (policy->scorer == SCORER_RANDOM)
        str_printf(&policy->parameters, ",\"density\":%.17g,\"seed\":%llu", policy->density,
                   (unsigned long long)policy->seed);
    str_puts(&policy->parameters, str_text(&own));
    str_putc(&policy->parameters, '}');
    str_free(&own);
}

int policy_create(const char *spec, const struct policy_request *request, struct policy **out, struct err *err) {
    size_t n_heads = (size_t)request->model->n_layers * (size_t)request->model->n_kv_heads;
    struct policy_params params = {.spec = spec};
    const struct policy_class *class;
    struct policy *policy = NULL;
    char *copy = mem_strdup(spec, err);
    int rc = ERR_MEMORY;
    *out = NULL;
    if (!copy || !(policy = mem_alloc(1, sizeof *policy, "a policy", err)) ||
        !(policy->window = mem_alloc(n_heads, sizeof *policy->window, "windows", err)) ||
        !(policy->head_score = mem_alloc(n_heads, sizeof *policy->head_score, "head scores", err)))
        goto out;
    if ((rc = split(copy, &params, err)) != OK)
        goto out;
    if (!(class = find_class(copy))) {
        rc = unknown_class(copy, err);
        goto out;
    }
    policy->name = class->name;
    if ((rc = resolve_common(policy, &params, request, err)) != OK ||
        (rc = class->resolve(policy, &params, request, err)) != OK ||
        (rc = refuse_leftover(&params, class->name, err)) != OK)
        goto out;
    if (policy->scorer == SCORER_CONST) {
        policy->threshold = 0.5; /* between the two constants */
        policy->strict = false;
    }
    set_windows(policy, request->model);
    describe(policy);
    if (policy->parameters.failed) {
        rc = err_memory(err, "policy parameters", 0);
        goto out;
    }
    *out = policy;
    policy = NULL;
out:
    policy_free(policy);
    free(copy);
    return rc;
}

int policy_check(const struct policy *policy, struct err *err) {
    if (!isnan(policy->threshold))
        return OK;
    return err_set(err, ERR_USAGE, "", "policy %s needs a threshold, %s: %s:threshold=X\n(threshold=-1e30 keeps all and "
                   "records the scores, from which to choose)", policy->name, policy->threshold_meaning, policy->name);
}

void policy_free(struct policy *policy) {
    if (!policy)
        return;
    free(policy->window);
    free(policy->head_score);
    gate_network_free(policy->gates);
    str_free(&policy->parameters);
    free(policy);
}

int policy_step(const struct policy *policy, int fed, int n) {
    int chunk = policy->evict.chunk, room = chunk ? chunk - fed % chunk : n;
    return n < room ? n : room;
}

int policy_budget(const struct policy *policy, int n_tok) {
    const struct eviction_rule *rule = &policy->evict;
    int inside = policy->base_window + policy->sinks, left = n_tok > inside ? n_tok - inside : 0;
    if (rule->constant)
        return left < rule->constant - inside ? left : rule->constant - inside;
    return (int)floor(rule->share * left + 1e-9); /* 0.29 * 100 is 29 */
}

void policy_describe_all(struct str *out) {
    for (int i = 0; i < N_CLASSES; i++)
        str_printf(out, "  %-18s %s\n", classes[i]->name, classes[i]->help);
}
