#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "analyze/statistics.h"
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

/* What cannot stand in a file name becomes "_". */
static char *plain_name(const char *text, size_t n, struct err *err) {
    char *name = mem_strndup(text, n, err);
    for (char *p = name; p && *p; p++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.=+", *p))
            *p = '_';
    return name;
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
    json_decref(v->text);
    json_decref(v->file_hashes);
}

/* --- figures ---------------------------------------------------------------------------------------------------------- */

/* Of the hashes of all files, in their order: one for the text. */
static json_t *hash_of_hashes(const json_t *hashes) {
    struct str joined = {0};
    XXH128_canonical_t canonical;
    char hex[33];
    size_t i;
    const json_t *entry;
    json_array_foreach(hashes, i, entry)
        str_puts(&joined, json_string_value(entry));
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(str_text(&joined), joined.len));
    for (i = 0; i < sizeof canonical.digest; i++)
        snprintf(hex + 2 * i, 3, "%02x", canonical.digest[i]);
    str_free(&joined);
    return json_string(hex);
}

/* What was measured on. */
static int describe_text(struct verification *v, const struct profile *profile, struct err *err) {
    const struct profile_meta *meta = profile_meta(profile);
    json_t *corpora = json_array();
    v->file_hashes = json_array();
    for (size_t i = 0; i < meta->n_corpora; i++)
        json_array_append_new(corpora, json_string(meta->corpus_names[i]));
    for (size_t i = 0; i < meta->n_sources; i++)
        json_array_append_new(v->file_hashes, json_string(meta->sources[i].hash));
    v->text = json_pack("{s:o, s:I, s:o, s:I, s:I, s:s}", "corpora", corpora, "n_files", (json_int_t)meta->n_sources,
                        "text_hash", hash_of_hashes(v->file_hashes), "max_length", (json_int_t)meta->max_length, "stride",
                        (json_int_t)meta->stride, "prefill", meta->prefill);
    return v->text ? OK : err_memory(err, "a description of the text", 0);
}

static int read_figures(struct verification *v, const char *path, struct figures *f, struct err *err) {
    struct profile *profile;
    struct statistics s = {0};
    int rc = profile_open(path, &profile, err);
    if (rc == OK)
        rc = document_losses_read(profile, v->far_from, &f->losses, err);
    if (rc == OK)
        rc = statistics_compute(profile, -1, &s, err);
    if (rc == OK && !v->text)
        rc = describe_text(v, profile, err);
    if (rc == OK) {
        double n = (double)s.n_sequences;
        f->n_sequences = s.n_sequences;
        f->n_tok = s.n_tokens;
        f->n_predicted = s.n_predicted;
        f->nll = statistics_nll(&s);
        f->read_fraction = head_read_fraction(&s.total);
        f->long_range_density = head_long_density(&s.total);
        f->kv_bytes_used = (double)s.cache_bytes_used / n;
        f->kv_bytes_allocated = (double)s.cache_bytes_allocated / n;
        f->kv_bytes_full = (double)s.cache_bytes_full / n;
    }
    statistics_free(&s);
    profile_close(profile);
    return rc;
}

int verify_read(struct verification *v, struct verify_case *c, enum verify_column column, struct err *err) {
    struct figures *f = &c->figures[column];
    char *path = verify_path(v, verify_column_names[column], c->name, ".h5", err);
    int rc = path ? read_figures(v, path, f, err) : ERR_MEMORY;
    f->decode_tok_per_s = NAN;
    f->there = rc == OK;
    free(path);
    return rc;
}

int verify_measure(struct verification *v, const struct loaded *loaded, struct verify_case *c, enum verify_column column,
                   struct err *err) {
    const struct verify_options *o = v->options;
    struct figures *f = &c->figures[column];
    struct loaded own = *loaded;
    struct corpus_result result;
    char *path = verify_path(v, verify_column_names[column], c->name, ".h5", err);
    own.policy = NULL;
    int rc = path ? loaded_policy(loaded, &o->run, c->policy, &own.policy, err) : ERR_MEMORY;
    if (rc == OK)
        rc = run_corpus(&o->run, &o->corpus, &own, PROFILE_RECORD_TOKENS, path, v->command, &result, err);
    if (rc == OK)
        rc = verify_read(v, c, column, err);
    if (rc == OK && o->decode_context > 0 && own.policy->scorer != SCORER_GIVEN)
        rc = decode_speed(loaded, own.policy, path, o->decode_context, o->run.chunk, &f->decode_tok_per_s, err);
    policy_free(own.policy);
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
    const struct document_losses *top = &full->figures[column].losses, *bottom = &window->figures[column].losses;
    int rc = OK;
    for (size_t i = 0; rc == OK && i < v->n; i++) {
        struct figures *f = &v->cases[i].figures[column];
        rc = document_losses_check(top, full->name, &f->losses, v->cases[i].name, err);
        if (rc == OK)
            rc = paired_nll_change(&f->losses, top, &resampling, &f->nll_change, err);
        f->against = (struct estimate){NAN, NAN, NAN};
        if (rc == OK && against)
            rc = paired_nll_change(&f->losses, &against->figures[column].losses, &resampling, &f->against, err);
        if (rc == OK)
            rc = paired_gap_recovered(&f->losses, bottom, top, &resampling, &f->gap_recovered, err);
    }
    v->gap[column] = rc == OK ? paired_gap(bottom, top) : (double)NAN;
    return rc;
}
