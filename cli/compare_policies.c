#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/compare.h"

/* --- the weights ------------------------------------------------------------------------------------------------------ */

static int check_tokenizers(const struct policy_comparison *c, struct err *err) {
    const char *twin = c->options->twin;
    if (strcmp(tokenizer_hash(c->model.tokenizer), tokenizer_hash(c->twin.tokenizer)) != 0)
        return err_set(err, ERR_INPUT, twin, "its tokenizer.json is another than that of %s: losses of different tokens "
                       "cannot be compared\n(a twin is trained from the same start with the same tokenizer)",
                       c->options->run.model);
    return OK;
}

static int open_twin(struct policy_comparison *c, struct err *err) {
    struct run_options_cli run = c->options->run;
    if (!c->model.policy->trained)
        return err_set(err, ERR_USAGE, "", "--twin: %s has no predictor that it was trained with, so it is dense itself",
                       run.model);
    run.model = c->options->twin;
    run.predictor = NULL;
    run.policy = "full";
    run.dtype = c->model.dtype_name;
    int rc = loaded_open(&run, true, &c->twin, err);
    return rc == OK ? check_tokenizers(c, err) : rc;
}

int compare_open(struct policy_comparison *c, struct err *err) {
    const struct compare_options *o = c->options;
    int rc = loaded_open(&o->run, true, &c->model, err);
    if (rc == OK && o->twin)
        rc = open_twin(c, err);
    if (rc != OK)
        return rc;
    c->window = (uint32_t)c->model.policy->base_window;
    c->far_from = 2 * c->window;
    c->dense = (struct weights){.name = "dense", .run = o->run, .loaded = o->twin ? &c->twin : &c->model};
    c->dense.run.model = o->twin ? o->twin : o->run.model;
    c->dense.run.window = (int)c->window;
    c->dense.run.sinks = o->run.sinks >= 0 ? o->run.sinks : COMPARE_SINKS;
    if (c->model.policy->trained)
        c->dense.run.threshold = NAN; /* --threshold is SP-KV's */
    if (c->model.policy->trained) {
        c->trained = (struct weights){.name = "spkv", .run = o->run, .loaded = &c->model};
        c->trained.run.window = (int)c->window;
        c->dense.name = o->twin ? "twin" : "spkv";
        if (!o->twin)
            cli_note(o->run.quiet, "no --twin: policies for dense models run on weights that were trained for SP-KV, which "
                     "is not fair to them");
    }
    c->own = c->trained.loaded ? &c->trained : c->model.model->predictor ? &c->dense : NULL;
    return OK;
}

/* --- the list --------------------------------------------------------------------------------------------------------- */

/* Whether a specification gives this parameter. */
static bool gives(const char *spec, const char *key) {
    size_t n = strlen(key);
    for (const char *p = strchr(spec, ':'); p; p = strchr(p + 1, ','))
        if (strncmp(p + 1, key, n) == 0 && p[1 + n] == '=')
            return true;
    return false;
}

static bool is_named(const struct policy_comparison *c, const char *spec) {
    for (size_t i = 0; i < c->n_policies; i++)
        if (strcmp(c->policies[i].spec, spec) == 0)
            return true;
    return false;
}

/* Policies that belong to trained weights run there, all others on the dense ones. */
static int add_policy(struct policy_comparison *c, const char *text, size_t n, struct err *err) {
    struct compared_policy *p = &c->policies[c->n_policies];
    struct policy *policy;
    char *spec = mem_strndup(text, n, err);
    if (!spec)
        return ERR_MEMORY;
    if (strcmp(spec, "full") == 0) { /* a row of every table */
        free(spec);
        return OK;
    }
    if (is_named(c, spec)) {
        err_set(err, ERR_USAGE, "", "--policies: \"%s\" is named twice", spec);
        free(spec);
        return ERR_USAGE;
    }
    *p = (struct compared_policy){.spec = spec, .weights = &c->dense};
    c->n_policies++;
    int rc = OK;
    if (c->trained.loaded && (rc = loaded_policy(&c->model, &c->trained.run, spec, &policy, err)) == OK) {
        if (policy->trained)
            p->weights = &c->trained;
        policy_free(policy);
    }
    if (rc == OK)
        rc = loaded_policy(p->weights->loaded, &p->weights->run, spec, &policy, err);
    if (rc != OK)
        return rc;
    if (policy->knob.key && !gives(spec, policy->knob.key))
        p->knob = policy->knob;
    policy_free(policy);
    return OK;
}

/* End of the policy that begins at text: parameters have commas too, but only they have "=" without ":" before it. */
static const char *end_of_policy(const char *text) {
    const char *end = text + strcspn(text, ",");
    while (*end == ',') {
        size_t n = strcspn(end + 1, ",:=");
        if (end[1 + n] != '=')
            break;
        end += 1 + strcspn(end + 1, ",");
    }
    return end;
}

int compare_list_policies(struct policy_comparison *c, struct err *err) {
    static const char *const always[] = {"window", "random"};
    const char *next = c->options->policies, *end;
    size_t n = strlen(next) + 3; /* more than there can be */
    if (!(c->policies = mem_alloc(n, sizeof *c->policies, "policies", err)))
        return ERR_MEMORY;
    int rc = OK;
    for (; rc == OK && *next; next = *end ? end + 1 : end) {
        end = end_of_policy(next);
        rc = add_policy(c, next, (size_t)(end - next), err);
    }
    for (size_t i = 0; rc == OK && i < 2; i++)
        if (!is_named(c, always[i]))
            rc = add_policy(c, always[i], strlen(always[i]), err);
    return rc;
}

/* --- the end ---------------------------------------------------------------------------------------------------------- */

void compare_close(struct policy_comparison *c) {
    for (size_t i = 0; i < c->n_policies; i++) {
        free(c->policies[i].spec);
        calibration_free(&c->policies[i].calibration);
    }
    for (size_t i = 0; i < c->n; i++) {
        struct compare_row *row = &c->rows[i];
        free(row->spec);
        free(row->path);
        free(row->corpora);
        json_decref(row->parameters);
        document_losses_free(&row->figures.losses);
    }
    free(c->policies);
    free(c->rows);
    measured_text_free(&c->text);
    measured_text_free(&c->calibration_text);
    loaded_close(&c->twin);
    loaded_close(&c->model);
}
