#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/statistics.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/compare.h"

const char *const row_role_names[3] = {"reference", "as given", "calibrated"};

char *compare_path(const struct policy_comparison *c, const char *folder, const struct weights *w, const char *spec,
                   struct err *err) {
    struct str path = {0};
    char *name = plain_name(spec, strlen(spec), err);
    str_printf(&path, "%s/%s/%s-%s.h5", c->options->output, folder, w->name, name ? name : "");
    free(name);
    if (!name || path.failed) {
        str_free(&path);
        err_memory(err, "a path", strlen(spec));
    }
    return path.data;
}

/* --- one row ---------------------------------------------------------------------------------------------------------- */

static int describe_policy(struct compare_row *row, struct err *err) {
    struct policy *policy;
    int rc = loaded_policy(row->weights->loaded, &row->weights->run, row->spec, &policy, err);
    if (rc != OK)
        return rc;
    row->policy = policy->name;
    row->knob = policy->knob.key;
    row->allocation = policy->allocation;
    row->window = policy->base_window;
    row->sinks = policy->sinks;
    row->chunk = (uint32_t)policy->evict.chunk;
    rc = json_parse_object(policy->parameters.data, policy->parameters.len, row->spec, &row->parameters, err);
    policy_free(policy);
    return rc;
}

/* Two calibrations may end at the same value: one run serves both. */
static bool ran_before(const struct policy_comparison *c, const struct compare_row *row) {
    for (size_t i = 0; i < c->n; i++)
        if (&c->rows[i] != row && strcmp(c->rows[i].path, row->path) == 0)
            return true;
    return false;
}

static int measure_row(struct policy_comparison *c, struct compare_row *row, struct err *err) {
    struct corpus_options_cli corpus = c->measured_corpus;
    if (ran_before(c, row)) {
        corpus.resume = true;
        corpus.force = false;
    }
    const struct measurement m = {.run = &row->weights->run, .corpus = &corpus, .loaded = row->weights->loaded,
                                  .policy = row->spec, .path = row->path, .command = c->command};
    if (!c->options->run.quiet)
        fprintf(stderr, "compare: row %zu: %s on the %s weights\n", c->n, row->spec, row->weights->name);
    int rc = measurement_run(&m, PROFILE_RECORD_TOKENS, err);
    return rc == OK ? figures_read(row->path, c->far_from, &row->figures, &c->text, err) : rc;
}

/* Takes `spec` over and measures the row. */
static int add_row(struct policy_comparison *c, struct compare_row values, char *spec, struct err *err) {
    int rc = mem_grow(&c->rows, &c->cap, c->n + 1, sizeof *c->rows, "rows", err);
    if (rc != OK) {
        free(spec);
        return rc;
    }
    struct compare_row *row = &c->rows[c->n];
    *row = values;
    row->spec = spec;
    row->path = compare_path(c, "runs", row->weights, spec, err);
    c->n++;
    rc = row->path ? describe_policy(row, err) : ERR_MEMORY;
    return rc == OK ? measure_row(c, row, err) : rc;
}

static int add_plain(struct policy_comparison *c, enum row_role role, const struct weights *w, const char *spec,
                     struct err *err) {
    char *copy = mem_strdup(spec, err);
    struct compare_row row = {.role = role, .weights = w, .wanted = NAN, .calibration_wanted = NAN,
                              .calibrated = NAN};
    return copy ? add_row(c, row, copy, err) : ERR_MEMORY;
}

static int add_calibrated(struct policy_comparison *c, struct compared_policy *p, double wanted, struct err *err) {
    struct compare_row row = {.role = ROW_CALIBRATED, .weights = p->weights};
    char *spec;
    int rc = compare_calibrate(c, p, wanted, &row, &spec, err);
    return rc == OK ? add_row(c, row, spec, err) : rc;
}

/* --- all rows --------------------------------------------------------------------------------------------------------- */

static size_t n_wanted(const struct compare_options *o) {
    return o->n_fractions + o->match_spkv;
}

/* After the first run the others can be foretold. */
static void say_time(const struct policy_comparison *c, double seconds) {
    size_t n = (size_t)1 + (c->own != NULL) + (c->options->twin != NULL);
    char text[32];
    for (size_t i = 0; i < c->n_policies; i++)
        n += c->policies[i].knob.key ? n_wanted(c->options) : 1;
    clock_format_duration(seconds * (double)n, text);
    if (seconds > 1)
        cli_note(c->options->run.quiet, "about %zu more runs of this text, %s; and several of the calibration text for each",
                 n, text);
}

static int add_references(struct policy_comparison *c, struct err *err) {
    uint64_t start = clock_us();
    int rc = add_plain(c, ROW_REFERENCE, &c->dense, "full", err);
    if (rc == OK)
        say_time(c, (double)(clock_us() - start) * 1e-6);
    if (rc == OK)
        rc = add_plain(c, ROW_REFERENCE, &c->dense, "window", err);
    if (rc == OK && c->trained.loaded && c->trained.loaded != c->dense.loaded)
        rc = add_plain(c, ROW_REFERENCE, &c->trained, "full", err);
    return rc;
}

/* SP-KV at its threshold: what --match spkv takes its read fraction from. */
static int add_own(struct policy_comparison *c, double *read_fraction, struct err *err) {
    int rc = add_plain(c, ROW_AS_GIVEN, c->own, "spkv", err);
    if (rc != OK)
        return rc;
    struct compare_row *own = &c->rows[c->n - 1];
    *read_fraction = own->figures.read_fraction;
    if (c->options->match_spkv) {
        own->wanted = *read_fraction;
        cli_note(c->options->run.quiet, "SP-KV reads %.4f of the text: the others are calibrated to that", *read_fraction);
    }
    return OK;
}

static int add_policy_rows(struct policy_comparison *c, struct compared_policy *p, double own, struct err *err) {
    const struct compare_options *o = c->options;
    bool is_own = strcmp(p->spec, "spkv") == 0;
    int rc = OK;
    if (!p->knob.key)
        return add_plain(c, ROW_AS_GIVEN, p->weights, p->spec, err);
    if (o->match_spkv && !is_own)
        rc = add_calibrated(c, p, own, err);
    for (size_t i = 0; rc == OK && i < o->n_fractions; i++)
        rc = add_calibrated(c, p, o->fractions[i], err);
    return rc;
}

static void find_overlap(struct policy_comparison *c) {
    c->overlap = hashes_meet(c->text.file_hashes, c->calibration_text.file_hashes);
    if (c->overlap && c->options->n_calibrate)
        cli_note(false, "files of --calibrate are measured too: values found there flatter the match");
    c->overlap = c->overlap && strcmp(c->calibration_kind, "other documents") != 0;
}

/* Sums of one corpus, and its change against full attention (row 0). */
static int read_corpora(struct policy_comparison *c, struct compare_row *row, struct err *err) {
    struct profile *profile;
    int rc = profile_open(row->path, &profile, err);
    if (rc != OK)
        return rc;
    c->n_corpora = profile_meta(profile)->n_corpora;
    if (row->chunk == 0)
        row->chunk = profile_meta(profile)->chunk;
    row->batch = profile_meta(profile)->batch;
    if (!(row->corpora = mem_alloc(c->n_corpora, sizeof *row->corpora, "corpora", err)))
        rc = ERR_MEMORY;
    for (size_t i = 0; rc == OK && i < c->n_corpora; i++) {
        struct statistics s = {0};
        rc = statistics_compute(profile, (int)i, &s, err);
        if (rc == OK)
            row->corpora[i] = (struct corpus_figures){.n_predicted = s.n_predicted, .nll = statistics_nll(&s),
                                                      .read_fraction = head_read_fraction(&s.total),
                                                      .long_range_density = head_long_density(&s.total),
                                                      .kv_fraction = head_kv_fraction(&s.total)};
        statistics_free(&s);
        row->corpora[i].nll_change = row->corpora[i].nll / c->rows[ROW_FULL].corpora[i].nll - 1;
    }
    profile_close(profile);
    return rc;
}

static int compare_rows(struct policy_comparison *c, struct err *err) {
    const struct resampling resampling = {.seed = c->options->run.seed, .n = c->options->n_resamples, .level = 0.95};
    const struct figures *full = &c->rows[ROW_FULL].figures, *window = &c->rows[ROW_WINDOW].figures;
    int rc = OK;
    for (size_t i = 0; rc == OK && i < c->n; i++) {
        struct compare_row *row = &c->rows[i];
        row->matched = fabs(row->figures.read_fraction - row->wanted) <= c->options->tolerance * row->wanted;
        rc = figures_compare(&row->figures, row->path, full, c->rows[ROW_FULL].path, window, &resampling, err);
        if (rc == OK)
            rc = read_corpora(c, row, err);
    }
    c->gap = rc == OK ? paired_gap(&window->losses, &full->losses) : (double)NAN;
    return rc;
}

int compare_measure(struct policy_comparison *c, struct err *err) {
    double own = NAN;
    int rc = add_references(c, err);
    if (rc == OK && c->own)
        rc = add_own(c, &own, err);
    for (size_t i = 0; rc == OK && i < c->n_policies; i++)
        rc = add_policy_rows(c, &c->policies[i], own, err);
    if (rc == OK)
        find_overlap(c);
    return rc == OK ? compare_rows(c, err) : rc;
}
