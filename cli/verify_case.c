#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/verify.h"

const char *const verify_column_names[N_COLUMNS] = {"zero_shot", "healed"};

/* --- the list --------------------------------------------------------------------------------------------------------- */

char *verify_path(const struct verification *v, const char *folder, const char *name, const char *suffix, struct err *err) {
    struct str path = {0};
    str_printf(&path, "%s/%s/%s%s", v->options->output, folder, name, suffix);
    if (path.failed)
        err_memory(err, "a path", strlen(name));
    return path.data;
}

static int add_case(struct verification *v, const char *name, size_t n_name, const char *policy, struct verify_case **out,
                    struct err *err) {
    int rc = mem_grow(&v->cases, &v->cap, v->n + 1, sizeof *v->cases, "cases", err);
    if (rc != OK)
        return rc;
    struct verify_case *c = &v->cases[v->n];
    *c = (struct verify_case){.name = plain_name(name, n_name, err), .policy = policy ? mem_strdup(policy, err) : NULL};
    v->n++;
    if (!c->name || (policy && !c->policy))
        return ERR_MEMORY;
    for (size_t i = 0; i + 1 < v->n; i++)
        if (strcmp(v->cases[i].name, c->name) == 0)
            return err_set(err, ERR_USAGE, "", "two cases have the name \"%s\" (full, window and spkv are always "
                           "there): give the files other names", c->name);
    *out = c;
    return OK;
}

int verify_add_policy(struct verification *v, const char *name, const char *policy, struct err *err) {
    struct verify_case *c;
    struct policy *resolved;
    int rc = loaded_policy(&v->loaded, &v->options->run, policy, &resolved, err); /* mistakes show before the first run */
    if (rc == OK)
        rc = policy_check(resolved, err);
    if (resolved)
        policy_free(resolved);
    return rc == OK ? add_case(v, name, strlen(name), policy, &c, err) : rc;
}

/* A layout without what verify itself writes and without the hash of its model: a run of it can be resumed after its file
 * got figures, and it fits the healed model. */
static int write_bare(const struct layout *layout, const char *path, struct err *err) {
    struct layout bare = *layout;
    bare.base_model_hash[0] = 0;
    bare.made_by = bare.predicted = bare.measured = NULL;
    return layout_write(&bare, path, err);
}

int verify_add_layout(struct verification *v, const char *path, struct err *err) {
    const char *base = file_basename(path), *dot = strrchr(base, '.');
    struct verify_case *c = NULL;
    struct policy *resolved = NULL;
    struct str spec = {0};
    char *bare = NULL;
    str_printf(&spec, "layout:file=%s", path); /* refuses layouts of other models */
    int rc = loaded_policy(&v->loaded, &v->options->run, str_text(&spec), &resolved, err);
    if (rc == OK)
        rc = add_case(v, base, dot ? (size_t)(dot - base) : strlen(base), NULL, &c, err);
    if (rc == OK)
        rc = layout_read(path, &c->layout, err);
    if (rc == OK && !(bare = verify_path(v, "layouts", c->name, ".json", err)))
        rc = ERR_MEMORY;
    if (rc == OK)
        rc = write_bare(c->layout, bare, err);
    str_clear(&spec);
    str_printf(&spec, "layout:file=%s", bare ? bare : "");
    if (rc == OK && (spec.failed || !(c->policy = mem_strdup(spec.data, err))))
        rc = err_memory(err, "a path", 0);
    if (rc == OK)
        c->layout_path = path;
    policy_free(resolved);
    free(bare);
    str_free(&spec);
    return rc;
}

void verify_free_cases(struct verification *v) {
    for (size_t i = 0; i < v->n; i++) {
        free(v->cases[i].name);
        free(v->cases[i].policy);
        layout_free(v->cases[i].layout);
        for (int k = 0; k < N_COLUMNS; k++)
            document_losses_free(&v->cases[i].figures[k].losses);
    }
    free(v->cases);
    measured_text_free(&v->text);
}

/* --- figures ---------------------------------------------------------------------------------------------------------- */

int verify_read(struct verification *v, struct verify_case *c, enum verify_column column, struct err *err) {
    char *path = verify_path(v, verify_column_names[column], c->name, ".h5", err);
    int rc = path ? figures_read(path, v->far_from, &c->figures[column], &v->text, err) : ERR_MEMORY;
    free(path);
    return rc;
}

static int time_decoding(const struct verification *v, const struct loaded *loaded, const struct verify_case *c,
                         const char *path, double *tok_per_s, struct err *err) {
    struct policy *policy;
    int rc = loaded_policy(loaded, &v->options->run, c->policy, &policy, err);
    if (rc != OK)
        return rc;
    if (policy->scorer != SCORER_GIVEN) /* that is for text that is all there */
        rc = decode_speed(loaded, policy, path, v->options->decode_context, v->options->run.chunk, tok_per_s, err);
    policy_free(policy);
    return rc;
}

int verify_measure(struct verification *v, const struct loaded *loaded, struct verify_case *c, enum verify_column column,
                   struct err *err) {
    const struct verify_options *o = v->options;
    char *path = verify_path(v, verify_column_names[column], c->name, ".h5", err);
    const struct measurement m = {.run = &o->run, .corpus = &o->corpus, .loaded = loaded, .policy = c->policy, .path = path,
                                  .command = v->command};
    int rc = path ? measurement_run(&m, PROFILE_RECORD_TOKENS, err) : ERR_MEMORY;
    if (rc == OK)
        rc = verify_read(v, c, column, err);
    if (rc == OK && o->decode_context > 0)
        rc = time_decoding(v, loaded, c, path, &c->figures[column].decode_tok_per_s, err);
    free(path);
    return rc;
}

const struct verify_case *verify_find(const struct verification *v, const char *name) {
    for (size_t i = 0; name && i < v->n; i++)
        if (strcmp(v->cases[i].name, name) == 0)
            return &v->cases[i];
    return NULL;
}

int verify_compare(struct verification *v, enum verify_column column, struct err *err) {
    const struct resampling resampling = {.seed = v->options->run.seed, .n = v->options->n_resamples, .level = 0.95};
    const struct verify_case *full = &v->cases[CASE_FULL], *window = &v->cases[CASE_WINDOW],
                             *against = verify_find(v, v->options->against);
    const struct figures *top = &full->figures[column], *bottom = &window->figures[column];
    int rc = OK;
    for (size_t i = 0; rc == OK && i < v->n; i++) {
        struct figures *f = &v->cases[i].figures[column];
        rc = figures_compare(f, v->cases[i].name, top, full->name, bottom, &resampling, err);
        if (rc == OK && against)
            rc = paired_nll_change(&f->losses, &against->figures[column].losses, &resampling, &f->against, err);
    }
    v->gap[column] = rc == OK ? paired_gap(&bottom->losses, &top->losses) : (double)NAN;
    return rc;
}
