#include "reports/run.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "reports/text.h"

enum { LONG_NAME = 40 /* bytes; longer paths of corpora lose their directories in captions */ };

static int load_bins(struct profile *profile, struct run *run, struct err *err) {
    size_t n_edges;
    int rc = OK;
    if (profile_has(profile, PROFILE_UTILITY_HISTOGRAM)) {
        run->utility_edges = profile_utility_edges(profile, &n_edges);
        rc = profile_read_bins(profile, PROFILE_UTILITY_HISTOGRAM, -1, &run->utility, &run->n_utility_bins, err);
        ASSERT(rc != OK || n_edges == run->n_utility_bins + 1);
    }
    if (rc == OK && run->meta->has_gates && profile_has(profile, PROFILE_POSITION_OPEN)) {
        run->position_edges = profile_position_edges(profile, &n_edges);
        rc = statistics_positions(profile, -1, &run->positions, err);
        ASSERT(rc != OK || n_edges == run->positions.n_bins + 1);
    }
    if (rc == OK && run->meta->has_gates && profile_has(profile, PROFILE_CLASS_OPEN))
        rc = statistics_classes(profile, -1, &run->classes, err);
    if (rc == OK && profile_has(profile, PROFILE_ATTENTION_DISTANCE)) {
        rc = profile_read_bins(profile, PROFILE_ATTENTION_DISTANCE, -1, &run->distance, &run->n_distance_bins, err);
        ASSERT(rc != OK || run->meta->n_distance_edges == run->n_distance_bins + 1);
    }
    return rc;
}

int run_load(struct profile *profile, struct run *out, struct err *err) {
    int rc;
    *out =
        (struct run){.path = profile_path(profile), .meta = profile_meta(profile), .partial = profile_is_partial(profile)};
    if ((rc = statistics_compute(profile, -1, &out->statistics, err)) != OK ||
        (rc = head_measure_compute(&out->statistics, out->meta, &out->measure, err)) != OK ||
        (rc = load_bins(profile, out, err)) != OK)
        run_free(out);
    return rc;
}

void run_free(struct run *run) {
    statistics_free(&run->statistics);
    head_measure_free(&run->measure);
    bin_density_free(&run->positions);
    bin_density_free(&run->classes);
    free(run->utility);
    free(run->distance);
    *run = (struct run){0};
}

struct head_sums run_sum_head(const struct run *run, size_t kv_head) {
    struct head_sums sums = {0};
    for (size_t l = 0; l < run->statistics.n_layers; l++)
        head_sums_add(&sums, run_head(run, l, kv_head));
    return sums;
}

void run_put_short_name(struct str *s, const char *path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    if (begin == end) /* "/" or "" */
        begin = 0;
    str_append(s, path + begin, end - begin);
}

void run_put_name(const struct run *run, struct str *s) {
    if (run->number)
        str_printf(s, "run %zu (", run->number);
    run_put_short_name(s, run->path);
    if (run->number)
        str_putc(s, ')');
}

void run_put_corpora(const struct run *run, struct str *s) {
    for (size_t i = 0; i < run->meta->n_corpora; i++) {
        const char *name = run->meta->corpus_names[i];
        str_puts(s, i ? ", " : "");
        if (strlen(name) <= LONG_NAME)
            str_puts(s, name);
        else
            run_put_short_name(s, name);
    }
}

/* What kind of predictor it was, where the run says so. */
static void put_predictor(const struct profile_meta *m, struct str *s) {
    json_t *parameters = json_loads(m->policy_parameters ? m->policy_parameters : "{}", 0, NULL);
    const char *predictor = json_string_value(json_object_get(parameters, "predictor"));
    if (predictor)
        str_printf(s, ", predictor %s", predictor);
    json_decref(parameters);
}

void run_put_policy(const struct run *run, struct str *s) {
    const struct profile_meta *m = run->meta;
    str_puts(s, m->policy);
    put_predictor(m, s);
    str_printf(s, ", window %u, sinks %u", m->window, m->sinks);
    if (!isnan(m->threshold)) {
        str_puts(s, ", threshold ");
        text_put_double(s, m->threshold);
    }
    if (strcmp(m->prefill, "pruned") != 0)
        str_printf(s, ", %s prefill", m->prefill);
}

static void put_model(const struct run *run, struct str *s) {
    str_puts(s, "Model ");
    run_put_short_name(s, run->meta->model_path);
    str_printf(s, " (%zu layers x %zu KV heads). Corpus: ", run->statistics.n_layers, run->statistics.n_kv_heads);
    run_put_corpora(run, s);
}

static void put_amounts(const struct run *run, struct str *s) {
    const struct statistics *st = &run->statistics;
    text_put_count(s, st->n_sequences);
    str_puts(s, st->n_sequences == 1 ? " sequence, " : " sequences, ");
    text_put_count(s, st->n_tokens);
    str_puts(s, run->partial ? " tokens; the run is not complete." : " tokens.");
}

void run_put_context(const struct run *run, struct str *s) {
    put_model(run, s);
    str_puts(s, ". Policy ");
    run_put_policy(run, s);
    str_puts(s, ". ");
    put_amounts(run, s);
}

void run_put_measurement(const struct run *run, struct str *s) {
    put_model(run, s);
    str_printf(s, ". Window %u. ", run->meta->window);
    put_amounts(run, s);
}

const char *run_missing(const struct run *run) {
    for (size_t l = 0; l < run->statistics.n_layers; l++)
        if (run->statistics.sliding[l])
            return "no value: a layer with a sliding window of the model's own";
    return "no value: nothing was counted here";
}
