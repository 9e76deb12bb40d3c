#include "analyze/recommendation.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

const char *const recommendation_strategies[] = {
    "interleaved-a", "interleaved-b", "random",  "densest-layers", "densest-minimum", "densest-even", "densest-heads",
    "interleaved",   "far-attention", "learned", "imported",       NULL,
};

/* What rows are made with. */
struct maker {
    const struct recommendation_input *input;
    struct strategy_input ranked; /* value: what the row ranks */
    struct recommendation *out;
};

static double coverage(const struct maker *m, const struct layout *layout) {
    return layout_coverage(layout, m->input->measure->value);
}

static int give_windows(const struct maker *m, struct layout *layout, struct err *err) {
    size_t n = (size_t)layout->n_layers * layout->n_kv_heads;
    if (!m->input->windows)
        return OK;
    if (!(layout->windows = mem_alloc(n, sizeof *layout->windows, "windows of a layout", err)))
        return ERR_MEMORY;
    memcpy(layout->windows, m->input->windows, n * sizeof *layout->windows);
    return OK;
}

static int round_layers(const struct maker *m, const struct layout *heads, struct layout **layers,
                        struct layer_rounding *rounding, struct err *err) {
    return layer_types_round(heads, m->input->measure->value, layers, rounding, err);
}

/* A layout of a strategy and the same as whole layers. */
static int make_pair(const struct maker *m, const struct strategy *strategy, struct layout **heads, struct layout **layers,
                     struct layer_rounding *rounding, struct err *err) {
    *layers = NULL;
    int rc = strategy_apply(strategy, &m->ranked, m->out->n_global, heads, err);
    if (rc == OK)
        rc = give_windows(m, *heads, err);
    if (rc == OK)
        rc = round_layers(m, *heads, layers, rounding, err);
    if (rc != OK) {
        layout_free(*heads);
        *heads = NULL;
    }
    return rc;
}

static int predict(const struct maker *m, struct layout *layout, double covered, struct err *err) {
    const struct profile_meta *meta = m->input->meta;
    return layout_predict(layout, covered, m->input->contexts, m->input->n_contexts, meta->head_dim, meta->element_bytes,
                          meta->sliding_window, err);
}

/* A row whose layouts are there. */
static int finish_row(struct maker *m, struct err *err) {
    struct recommended *row = &m->out->rows[m->out->n++];
    row->n_draws = 1;
    row->coverage = row->coverage_low = row->coverage_high = coverage(m, row->layout);
    row->layer_coverage = coverage(m, row->layers);
    int rc = predict(m, row->layout, row->coverage, err);
    return rc == OK ? predict(m, row->layers, row->layer_coverage, err) : rc;
}

static int add_row(struct maker *m, const struct strategy *strategy, struct err *err) {
    ASSERT(m->out->n < RECOMMENDATION_MAX_ROWS);
    struct recommended *row = &m->out->rows[m->out->n];
    int rc = make_pair(m, strategy, &row->layout, &row->layers, &row->rounding, err);
    return rc == OK ? finish_row(m, err) : rc;
}

/* Further draws of a row that holds the first one. */
static int add_draws(struct maker *m, const struct strategy *first, struct err *err) {
    struct recommended *row = &m->out->rows[m->out->n - 1];
    struct strategy draw = *first;
    double squares = 0, sum = row->coverage, of_layers = row->layer_coverage, start = row->coverage;
    for (uint32_t i = 1; i < m->input->n_draws; i++) {
        struct layout *heads, *layers;
        struct layer_rounding rounding;
        draw.seed = first->seed + i;
        int rc = make_pair(m, &draw, &heads, &layers, &rounding, err);
        if (rc != OK)
            return rc;
        double covered = coverage(m, heads);
        sum += covered;
        squares += (covered - start) * (covered - start);
        of_layers += coverage(m, layers);
        row->coverage_low = fmin(row->coverage_low, covered);
        row->coverage_high = fmax(row->coverage_high, covered);
        layout_free(heads);
        layout_free(layers);
    }
    double n = m->input->n_draws, off = sum / n - start;
    row->n_draws = m->input->n_draws;
    row->coverage = sum / n;
    row->layer_coverage = of_layers / n;
    row->coverage_sd = n > 1 ? sqrt(fmax(0, (squares - n * off * off) / (n - 1))) : 0;
    return OK;
}

static int add_baselines(struct maker *m, struct err *err) {
    size_t n;
    const struct strategy *table = strategy_table(&n);
    int rc = OK;
    for (size_t i = 0; rc == OK && i < n; i++) {
        struct strategy own = table[i];
        own.seed = m->input->seed;
        own.least = m->input->least;
        rc = add_row(m, &own, err);
        if (rc == OK && own.kind == STRATEGY_RANDOM_HEADS)
            rc = add_draws(m, &own, err);
    }
    if (rc == OK && m->input->pattern)
        rc = add_row(m, m->input->pattern, err);
    return rc;
}

/* made_by of a row that ranks by something else. */
static void sign_ranking(const struct head_ranking *ranking, size_t n_global, json_t *made_by) {
    char text[96];
    json_object_set_new(made_by, "ranked_by", json_string(ranking->origin));
    if (ranking->n_global == 0 || ranking->n_global == n_global)
        return;
    snprintf(text, sizeof text, "%zu global heads in the pattern, lowest layers and heads first", ranking->n_global);
    json_array_append_new(json_object_get(made_by, "changed_to_fit"), json_string(text));
}

static int add_rankings(struct maker *m, struct err *err) {
    int rc = OK;
    for (size_t i = 0; rc == OK && i < m->input->n_rankings; i++) {
        const struct head_ranking *ranking = &m->input->rankings[i];
        struct strategy strategy = {.kind = STRATEGY_DENSEST_HEADS, .name = ranking->name};
        m->ranked.value = ranking->value;
        rc = add_row(m, &strategy, err);
        if (rc == OK)
            sign_ranking(ranking, m->out->n_global, m->out->rows[m->out->n - 1].layout->made_by);
    }
    m->ranked.value = m->input->measure->value;
    return rc;
}

static int find_budget(const struct maker *m, struct err *err) {
    const struct recommendation_input *in = m->input;
    struct layout *local;
    int rc = layout_create(in->meta->n_layers, in->meta->n_kv_heads, in->measure->sliding, in->window, in->sinks, &local,
                           err);
    if (rc != OK)
        return rc;
    if ((rc = give_windows(m, local, err)) == OK) {
        m->out->n_eligible = layout_n_eligible(local);
        rc = budget_heads(&in->budget, local, in->meta->head_dim, in->meta->element_bytes, in->meta->sliding_window,
                          &m->out->n_global, err);
    }
    layout_free(local);
    return rc;
}

static int find_wanted(struct maker *m, struct err *err) {
    for (size_t i = 0; i < m->out->n; i++)
        if (strcmp(layout_strategy(m->out->rows[i].layout), m->input->wanted) == 0) {
            m->out->chosen = i;
            return OK;
        }
    return err_set(err, ERR_USAGE, "--strategy", "\"%s\" needs an option that was not given: interleaved --period, "
                   "far-attention --attention, learned --learned, imported --pattern", m->input->wanted);
}

/* Stability of the chosen row, where its heads follow from the run itself. */
static int judge(struct maker *m, struct err *err) {
    const struct recommendation_input *in = m->input;
    enum head_ratio ratio = in->measure->kind == HEAD_MEASURE_DENSITY ? RATIO_LONG_DENSITY : RATIO_FAR_ATTENTION;
    const struct strategy *named = strategy_find(in->wanted);
    struct recommendation *out = m->out;
    int rc = bootstrap_draw(in->seed, BOOTSTRAP_RESAMPLES, in->statistics->n_cells, &out->bootstrap, err);
    if (rc == OK)
        rc = bootstrap_intervals(&out->bootstrap, in->statistics, ratio, STABILITY_SHARE, &out->intervals, err);
    out->is_ranking = named && strategy_is_ranking(named);
    if (rc != OK || !out->is_ranking)
        return rc;
    struct strategy own = *named;
    own.least = in->least;
    return stability_compute(&own, &m->ranked, out->n_global, in->statistics, ratio, &out->bootstrap, &out->stability, err);
}

int recommendation_compute(const struct recommendation_input *input, struct recommendation *out, struct err *err) {
    struct maker m = {.input = input, .out = out,
                      .ranked = {.n_layers = input->meta->n_layers, .n_kv_heads = input->meta->n_kv_heads,
                                 .value = input->measure->value, .sliding = input->measure->sliding,
                                 .window = input->window, .sinks = input->sinks}};
    ASSERT(input->n_rankings <= RECOMMENDATION_MAX_RANKINGS && input->n_draws > 0);
    *out = (struct recommendation){0};
    int rc = find_budget(&m, err);
    if (rc == OK)
        rc = add_baselines(&m, err);
    if (rc == OK)
        rc = add_rankings(&m, err);
    if (rc == OK)
        rc = find_wanted(&m, err);
    if (rc == OK)
        rc = judge(&m, err);
    if (rc != OK)
        recommendation_free(out);
    return rc;
}

int recommendation_add(const struct recommendation_input *input, struct layout *layout, struct recommendation *r,
                       struct err *err) {
    struct maker m = {.input = input, .out = r};
    ASSERT(r->n < RECOMMENDATION_MAX_ROWS);
    struct recommended *row = &r->rows[r->n];
    int rc = round_layers(&m, layout, &row->layers, &row->rounding, err);
    if (rc != OK) {
        layout_free(layout);
        return rc;
    }
    r->chosen = r->n;
    row->layout = layout;
    return finish_row(&m, err);
}

void recommendation_free(struct recommendation *r) {
    for (size_t i = 0; i < r->n; i++) {
        layout_free(r->rows[i].layout);
        layout_free(r->rows[i].layers);
    }
    stability_free(&r->stability);
    bootstrap_free(&r->bootstrap);
    intervals_free(&r->intervals);
    *r = (struct recommendation){0};
}
