#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/statistics.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/compare.h"
#include "cli/json_table.h"
#include "datasets/corpus.h"

/* --- the text --------------------------------------------------------------------------------------------------------- */

static int has_two_documents(const struct corpus_options_cli *o, bool *two, struct err *err) {
    struct corpus_options options = {.split_blank = o->split_blank, .field = o->field};
    struct corpus *corpus;
    struct document document;
    bool end = false;
    int rc = corpus_open(o->corpora, o->n_corpora, &options, &corpus, err);
    for (int i = 0; rc == OK && i < 2 && !end; i++)
        rc = corpus_next(corpus, &document, &end, err);
    *two = rc == OK && !end;
    corpus_close(corpus);
    return rc;
}

/* Other text where it is given, else every fifth document, which is then not measured, else the same text. */
static int choose_text(struct policy_comparison *c, struct err *err) {
    const struct compare_options *o = c->options;
    bool two = false;
    c->measured_corpus = c->calibration_corpus = o->corpus;
    c->calibration_corpus.limit = o->calibrate_limit;
    if (o->n_calibrate) {
        c->calibration_kind = "other text";
        c->calibration_corpus.corpora = (char **)(uintptr_t)o->calibrate;
        c->calibration_corpus.n_corpora = o->n_calibrate;
        return OK;
    }
    int rc = has_two_documents(&o->corpus, &two, err);
    if (rc != OK)
        return rc;
    c->calibration_kind = two ? "other documents" : "the same text";
    if (two) {
        c->measured_corpus.document_every = c->calibration_corpus.document_every = CALIBRATE_EVERY;
        c->measured_corpus.document_rest = true;
        cli_note(o->run.quiet, "documents 0, %d, %d, ... are calibrated on (%llu sequences at most), all others are "
                 "measured (--calibrate names other text)", CALIBRATE_EVERY, 2 * CALIBRATE_EVERY,
                 (unsigned long long)o->calibrate_limit);
    } else {
        cli_note(false, "there is only one document: it is both calibrated on and measured (--calibrate names other text)");
    }
    return rc;
}

/* --- one step --------------------------------------------------------------------------------------------------------- */

/* Runs the calibration text, or takes the finished run of this policy. */
static int measure_step(struct policy_comparison *c, const struct weights *w, const char *spec, double *reached,
                        struct err *err) {
    char *path = compare_path(c, "calibration", w, spec, err);
    const struct measurement m = {.run = &w->run, .corpus = &c->calibration_corpus, .loaded = w->loaded, .policy = spec,
                                  .path = path, .command = c->command};
    struct profile *profile = NULL;
    struct statistics s = {0};
    int rc = path ? measurement_run(&m, 0, err) : ERR_MEMORY;
    if (rc == OK)
        rc = profile_open(path, &profile, err);
    if (rc == OK)
        rc = statistics_compute(profile, -1, &s, err);
    if (rc == OK && !c->calibration_text.description)
        rc = measured_text_describe(profile, &c->calibration_text, err);
    if (rc == OK)
        *reached = head_read_fraction(&s.total);
    statistics_free(&s);
    profile_close(profile);
    free(path);
    return rc;
}

/* --- what the window alone reads -------------------------------------------------------------------------------------- */

/* Pairs that the window and the sinks show in a sequence of n tokens. */
static double pairs_of_window(const struct policy_comparison *c, size_t n) {
    double window = c->window, sinks = c->dense.run.sinks, sum = 0;
    for (size_t t = 1; t <= n; t++)
        sum += fmin((double)t, window) + fmin(fmax((double)t - window, 0), sinks);
    return sum;
}

/* Known from the lengths alone. */
static int read_floor(struct policy_comparison *c, const struct corpus_options_cli *o, double *floor, struct err *err) {
    struct corpus *corpus;
    struct sequences *sequences;
    struct sequence sequence;
    double part = 0, whole = 0;
    int end = 0, rc = corpus_open_sequences(o, &c->model, &corpus, &sequences, err);
    while (rc == OK && !end) {
        struct source source = sequences_source(sequences);
        if ((rc = source.next(source.self, &sequence, &end, err)) != OK || end)
            break;
        part += pairs_of_window(c, sequence.n_tok);
        whole += (double)sequence.n_tok * (double)(sequence.n_tok + 1) / 2;
        c->longest = sequence.n_tok > c->longest ? (uint32_t)sequence.n_tok : c->longest;
    }
    if (rc == OK && whole == 0)
        rc = err_set(err, ERR_INPUT, o->corpora[0], "the text holds no sequence of at least two tokens");
    sequences_free(sequences);
    corpus_close(corpus);
    *floor = rc == OK ? part / whole : (double)NAN;
    return rc;
}

static int check_fractions(const struct policy_comparison *c, struct err *err) {
    const struct compare_options *o = c->options;
    for (size_t i = 0; i < o->n_fractions; i++)
        if (o->fractions[i] < c->floor * (1 - o->tolerance))
            return err_set(err, ERR_USAGE, "", "a read fraction of %g cannot be reached: the window of %u and %d sinks "
                           "alone read %.4g of this text\n(ask for more, give a smaller --window, or longer sequences with "
                           "--max-length)", o->fractions[i], c->window, c->dense.run.sinks, c->floor);
    return OK;
}

int compare_begin_calibration(struct policy_comparison *c, struct err *err) {
    int rc = choose_text(c, err);
    if (rc == OK)
        rc = read_floor(c, &c->measured_corpus, &c->floor, err);
    if (rc == OK)
        rc = check_fractions(c, err);
    return rc == OK ? read_floor(c, &c->calibration_corpus, &c->calibration_floor, err) : rc;
}

/* What is to be read of the calibration text, whose sequences may be shorter or longer: the same share of what the window
 * and the sinks leave. */
static double to_calibration_text(const struct policy_comparison *c, double wanted) {
    return c->floor < 1 ? 1 - (1 - wanted) / (1 - c->floor) * (1 - c->calibration_floor) : wanted;
}

/* --- the search ------------------------------------------------------------------------------------------------------- */

static void set_range(const struct policy_comparison *c, struct compared_policy *p) {
    struct calibration *k = &p->calibration;
    k->rising = p->knob.rising;
    k->whole = p->knob.scale == KNOB_TOKENS;
    k->min = k->whole ? (double)c->window : p->knob.min;
    k->max = k->whole ? fmax((double)c->longest, k->min) : p->knob.max;
    if (p->knob.scale == KNOB_LOGIT) {
        k->scale = CALIBRATION_LOGIT;
    } else if (p->knob.scale == KNOB_LOG) {
        k->scale = CALIBRATION_LOG;
        k->min = 0;
        k->max = INFINITY;
    }
    k->least = c->calibration_floor;
}

static char *with_value(const struct compared_policy *p, double value, struct err *err) {
    struct str spec = {0};
    str_printf(&spec, "%s%c%s=%.17g", p->spec, strchr(p->spec, ':') ? ',' : ':', p->knob.key, value);
    if (spec.failed)
        err_memory(err, "a policy", spec.len);
    return spec.data;
}

static int take_step(struct policy_comparison *c, struct compared_policy *p, double wanted, double value, struct err *err) {
    char *spec = with_value(p, value, err);
    double reached;
    int rc = spec ? measure_step(c, p->weights, spec, &reached, err) : ERR_MEMORY;
    if (rc == OK)
        rc = calibration_add(&p->calibration, value, reached, err);
    if (rc == OK && !c->options->run.quiet)
        fprintf(stderr, "compare: %s: step %zu: %s=%.6g reads %.5f of the calibration text, wanted %.5f\n", p->spec,
                p->calibration.n, p->knob.key, value, reached, wanted);
    free(spec);
    return rc;
}

int compare_calibrate(struct policy_comparison *c, struct compared_policy *p, double wanted, struct compare_row *row,
                      char **spec, struct err *err) {
    double value, target = to_calibration_text(c, wanted),
                  tolerance = c->options->tolerance / 4; /* the rest is for the step to another text */
    int rc = OK;
    set_range(c, p);
    calibration_begin(&p->calibration);
    while (rc == OK && p->calibration.n - p->calibration.n_earlier < CALIBRATE_STEPS &&
           calibration_next(&p->calibration, target, tolerance, &value))
        rc = take_step(c, p, target, value, err);
    const struct calibration_step *best = calibration_best(&p->calibration, target);
    if (rc == OK && !best)
        rc = err_set(err, ERR_USAGE, "", "%s has no value of %s to choose from", p->spec, p->knob.key);
    if (rc != OK)
        return rc;
    if (fabs(best->reached - target) > c->options->tolerance * target)
        cli_note(c->options->run.quiet, "%s reads %.4f of the calibration text at best, wanted %.4f: its row is not matched",
                 p->spec, best->reached, target);
    row->wanted = wanted;
    row->calibration_wanted = target;
    row->calibrated = best->reached;
    row->n_steps = p->calibration.n - p->calibration.n_earlier;
    *spec = with_value(p, best->value, err);
    return *spec ? OK : ERR_MEMORY;
}

int compare_write_calibration(const struct policy_comparison *c, const char *path, struct err *err) {
    json_t *steps = json_array();
    for (size_t i = 0; i < c->n_policies; i++) {
        const struct compared_policy *p = &c->policies[i];
        for (size_t k = 0; k < p->calibration.n; k++)
            json_array_append_new(steps, json_pack("{s:s, s:s, s:s, s:f, s:o}", "policy", p->spec, "weights",
                                                   p->weights->name, "knob", p->knob.key, "value",
                                                   p->calibration.steps[k].value, "read_fraction",
                                                   json_finite(p->calibration.steps[k].reached)));
    }
    int rc = json_array_size(steps) ? json_write_csv(steps, path, err) : OK;
    json_decref(steps);
    return rc;
}
