#include "cli/figures.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "analyze/statistics.h"
#include "base/mem.h"
#include "base/str.h"

/* --- the text --------------------------------------------------------------------------------------------------------- */

void measured_text_free(struct measured_text *text) {
    json_decref(text->description);
    json_decref(text->file_hashes);
    *text = (struct measured_text){0};
}

bool hashes_hold(const json_t *array, const char *text) {
    size_t i;
    const json_t *entry;
    json_array_foreach(array, i, entry)
        if (*text && json_is_string(entry) && strcmp(json_string_value(entry), text) == 0)
            return true;
    return false;
}

bool hashes_meet(const json_t *a, const json_t *b) {
    size_t i;
    const json_t *entry;
    json_array_foreach(a, i, entry)
        if (json_is_string(entry) && hashes_hold(b, json_string_value(entry)))
            return true;
    return false;
}

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

int measured_text_describe(const struct profile *profile, struct measured_text *text, struct err *err) {
    const struct profile_meta *meta = profile_meta(profile);
    json_t *corpora = json_array();
    text->file_hashes = json_array();
    for (size_t i = 0; i < meta->n_corpora; i++)
        json_array_append_new(corpora, json_string(meta->corpus_names[i]));
    for (size_t i = 0; i < meta->n_sources; i++)
        json_array_append_new(text->file_hashes, json_string(meta->sources[i].hash));
    text->description =
        json_pack("{s:o, s:I, s:o, s:I, s:I, s:s}", "corpora", corpora, "n_files", (json_int_t)meta->n_sources, "text_hash",
                  hash_of_hashes(text->file_hashes), "max_length", (json_int_t)meta->max_length, "stride",
                  (json_int_t)meta->stride, "prefill", meta->prefill);
    return text->description ? OK : err_memory(err, "a description of the text", 0);
}

/* --- figures ---------------------------------------------------------------------------------------------------------- */

int figures_read(const char *path, uint32_t far_from, struct figures *f, struct measured_text *text, struct err *err) {
    struct profile *profile;
    struct statistics s = {0};
    int rc = profile_open(path, &profile, err);
    if (rc == OK)
        rc = document_losses_read(profile, far_from, &f->losses, err);
    if (rc == OK)
        rc = statistics_compute(profile, -1, &s, err);
    if (rc == OK && !text->description)
        rc = measured_text_describe(profile, text, err);
    if (rc == OK) {
        double n = (double)s.n_sequences;
        f->n_sequences = s.n_sequences;
        f->n_tok = s.n_tokens;
        f->n_predicted = s.n_predicted;
        f->nll = statistics_nll(&s);
        f->read_fraction = head_read_fraction(&s.total);
        f->long_range_density = head_long_density(&s.total);
        f->kv_fraction = head_kv_fraction(&s.total);
        f->kv_bytes_used = (double)s.cache_bytes_used / n;
        f->kv_bytes_allocated = (double)s.cache_bytes_allocated / n;
        f->kv_bytes_full = (double)s.cache_bytes_full / n;
        f->kv_bytes_peak = (double)profile_meta(profile)->pool_peak_bytes;
        f->decode_tok_per_s = NAN;
    }
    f->there = rc == OK;
    statistics_free(&s);
    profile_close(profile);
    return rc;
}

int measurement_run(const struct measurement *m, unsigned record, struct err *err) {
    struct loaded own = *m->loaded;
    struct corpus_result result;
    int rc = loaded_policy(m->loaded, m->run, m->policy, &own.policy, err);
    if (rc != OK)
        return rc;
    rc = run_corpus(m->run, m->corpus, &own, record, m->path, m->command, &result, err);
    policy_free(own.policy);
    return rc;
}

int figures_compare(struct figures *f, const char *name, const struct figures *full, const char *full_name,
                    const struct figures *window, const struct resampling *resampling, struct err *err) {
    int rc = document_losses_check(&full->losses, full_name, &f->losses, name, err);
    if (rc == OK)
        rc = paired_nll_change(&f->losses, &full->losses, resampling, &f->nll_change, err);
    f->against = (struct estimate){NAN, NAN, NAN};
    if (rc == OK)
        rc = paired_gap_recovered(&f->losses, &window->losses, &full->losses, resampling, &f->gap_recovered, err);
    return rc;
}

char *plain_name(const char *text, size_t n, struct err *err) {
    char *name = mem_strndup(text, n, err);
    for (char *p = name; p && *p; p++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.=+", *p))
            *p = '_';
    return name;
}
