#include "reports/run_figures.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/bootstrap.h"
#include "analyze/comparison.h"
#include "base/mem.h"
#include "reports/run_maps.h"
#include "reports/text.h"

int run_figure_allocate(struct run_figure *f, size_t n_x, size_t n_series, struct err *err) {
    size_t rows, n;
    if (!size_add(n_series, 4, &rows) || !size_mul(rows, n_x, &n))
        return err_memory(err, "a figure", 0);
    if (!(f->numbers = mem_alloc(n, sizeof *f->numbers, "a figure", err)))
        return ERR_MEMORY;
    f->figure = (struct figure){.n_x = n_x,
                                .x = f->numbers,
                                .from = f->numbers + n_x,
                                .to = f->numbers + 2 * n_x,
                                .all = f->numbers + 3 * n_x,
                                .series = f->numbers + 4 * n_x,
                                .n_series = n_series,
                                .x_low = NAN,
                                .x_high = NAN,
                                .y_low = 0,
                                .y_high = NAN,
                                .mark = NAN};
    return OK;
}

static int allocate_ticks(struct run_figure *f, size_t n, struct err *err) {
    f->ticks = mem_alloc(n, sizeof *f->ticks, "a figure", err);
    f->figure.ticks = f->ticks;
    f->figure.n_ticks = 0;
    return f->ticks ? OK : ERR_MEMORY;
}

static struct figure_tick *add_tick(struct run_figure *f, double at) {
    struct figure_tick *tick = &f->ticks[f->figure.n_ticks++];
    tick->at = at;
    return tick;
}

/* -- density (or far attention) by layer, with the range of its heads -- */

/* The ends of the intervals of all layers, over documents. */
static int fill_intervals(const struct run *run, enum head_ratio ratio, double *low, double *high, struct err *err) {
    struct bootstrap b;
    struct intervals intervals = {0};
    int rc = bootstrap_draw(0, BOOTSTRAP_RESAMPLES, run->statistics.n_cells, &b, err);
    if (rc == OK)
        rc = bootstrap_intervals(&b, &run->statistics, ratio, 0.95, &intervals, err);
    for (size_t l = 0; rc == OK && l < run->statistics.n_layers; l++) {
        low[l] = intervals.layers[l].low;
        high[l] = intervals.layers[l].high;
    }
    intervals_free(&intervals);
    bootstrap_free(&b);
    return rc;
}

/* What the intervals are of, when the run has documents enough for any. */
static bool interval_ratio(const struct run *run, const struct run_quantity *q, enum head_ratio *out) {
    *out = q->ratio == head_far_attention ? RATIO_FAR_ATTENTION : RATIO_LONG_DENSITY;
    return run->statistics.n_cells > 1 && (q->ratio == head_far_attention || q->ratio == head_long_density);
}

static void put_interval_words(const struct run *run, struct str *out) {
    str_printf(out, " Thin lines: 95 %% interval of the layer, %d draws of the %llu documents", BOOTSTRAP_RESAMPLES,
               (unsigned long long)run->statistics.n_documents);
    str_puts(out, run->statistics.n_documents < BOOTSTRAP_FEW_DOCUMENTS ? ", which are too few for good intervals." : ".");
}

static int create_layers(const struct run *run, struct run_figure *f, struct err *err) {
    static const char *const names[] = {"lowest_kv_head", "highest_kv_head", "interval_low", "interval_high"};
    const struct statistics *s = &run->statistics;
    const struct run_quantity *q[RUN_MAX_MAPS];
    enum head_ratio ratio;
    size_t n = s->n_layers;
    run_quantities(run, q);
    bool intervals = interval_ratio(run, q[0], &ratio);
    int rc = run_figure_allocate(f, n, intervals ? 4 : 2, err);
    if (rc == OK && intervals)
        rc = fill_intervals(run, ratio, f->numbers + 6 * n, f->numbers + 7 * n, err);
    if (rc != OK)
        return rc;
    double *all = f->numbers + 3 * n, *low = f->numbers + 4 * n, *high = low + n;
    for (size_t l = 0; l < n; l++) {
        struct head_sums sums = run->statistics.layers[l];
        f->numbers[l] = (double)l;
        all[l] = q[0]->ratio(&sums);
        low[l] = high[l] = NAN;
        for (size_t k = 0; k < s->n_kv_heads; k++) {
            double x = q[0]->ratio(run_head(run, l, k));
            low[l] = fmin(low[l], x); /* of a number and NaN: the number */
            high[l] = fmax(high[l], x);
        }
    }
    str_printf(&f->explanation, "Points: the %s of a whole layer. Bars: from its lowest to its highest KV head.",
               q[0]->quantity);
    if (intervals)
        put_interval_words(run, &f->explanation);
    f->figure.from = f->figure.to = NULL;
    f->figure.name = "by_layer";
    f->figure.kind = FIGURE_PROFILE;
    f->figure.title = q[0]->ratio == head_long_density    ? "Long-range density by layer"
                      : q[0]->ratio == head_far_attention ? "Far attention by layer"
                                                          : "By layer";
    f->figure.alt = "A point per layer with the range of its KV heads; the numbers are in the table of layers.";
    f->figure.x_title = f->figure.x_name = "layer";
    f->figure.y_title = q[0]->quantity;
    f->figure.all_name = "whole layer";
    f->figure.series_names = names;
    f->figure.x_low = -0.6;
    f->figure.x_high = (double)n - 0.4;
    return OK;
}

/* -- utility histogram -- */

/* Bins have equal width on the axis, so a utility lies at its bin plus its place in it. */
static double utility_place(const struct run *run, double u) {
    size_t n = run->n_utility_bins;
    const float *edge = run->utility_edges;
    for (size_t b = 0; b < n; b++)
        if (u < (double)edge[b + 1] || b + 1 == n) {
            double low = (double)edge[b], high = (double)edge[b + 1];
            return isfinite(low) && isfinite(high) ? (double)b + fmin(fmax((u - low) / (high - low), 0), 1)
                                                   : (double)b + 0.5;
        }
    return 0;
}

static int utility_ticks(const struct run *run, struct run_figure *f, struct err *err) {
    static const double sigmoid[] = {0, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 0.999, 1};
    size_t n = run->n_utility_bins;
    double last = -INFINITY, room = (double)n / 17;
    int rc = allocate_ticks(f, n + 16, err);
    if (rc != OK)
        return rc;
    if (run->meta->score == PROFILE_SCORE_SIGMOID)
        for (size_t i = 0; i < sizeof sigmoid / sizeof *sigmoid; i++) {
            double at = utility_place(run, sigmoid[i]);
            if (at - last < room || (sigmoid[i] < 1 && (double)n - at < room))
                continue;
            last = at;
            snprintf(add_tick(f, at)->label, sizeof f->ticks->label, "%g", sigmoid[i]);
        }
    else
        for (size_t b = 1; b < n; b += 8)
            snprintf(add_tick(f, (double)b)->label, sizeof f->ticks->label, "%.3g", (double)run->utility_edges[b]);
    return OK;
}

static void fill_shares(const struct run *run, size_t first, size_t n_heads, double *shares) {
    size_t n = run->n_utility_bins;
    double total = 0;
    memset(shares, 0, n * sizeof *shares);
    for (size_t h = first; h < first + n_heads; h++)
        for (size_t b = 0; b < n; b++)
            shares[b] += run->utility[h * n + b];
    for (size_t b = 0; b < n; b++)
        total += shares[b];
    for (size_t b = 0; b < n; b++)
        shares[b] = total > 0 ? shares[b] / total : NAN;
}

static int create_utility(const struct run *run, struct run_figure *f, struct err *err) {
    const struct statistics *s = &run->statistics;
    size_t n = run->n_utility_bins, heads = s->n_kv_heads;
    int rc = run_figure_allocate(f, n, s->n_layers, err);
    if (rc == OK)
        rc = utility_ticks(run, f, err);
    if (rc != OK)
        return rc;
    for (size_t b = 0; b < n; b++) {
        f->numbers[b] = (double)b + 0.5;
        f->numbers[n + b] = (double)run->utility_edges[b];
        f->numbers[2 * n + b] = (double)run->utility_edges[b + 1];
    }
    fill_shares(run, 0, s->n_layers * heads, f->numbers + 3 * n);
    for (size_t l = 0; l < s->n_layers; l++)
        fill_shares(run, l * heads, heads, f->numbers + (4 + l) * n);
    str_puts(&f->explanation, "How the predictor scored the key-value pairs of each layer. Height: square root of the share "
                              "of the layer's pairs in a "
                              "bin, the same scale for all layers, so that small groups stay visible.");
    if (run->meta->score == PROFILE_SCORE_SIGMOID)
        str_puts(&f->explanation, " Bins are narrower near 0 and 1 and drawn equally wide.");
    if (!isnan(run->meta->threshold)) {
        str_puts(&f->explanation, " Pairs right of the threshold are kept.");
        f->figure.mark = utility_place(run, run->meta->threshold);
        snprintf(f->mark_title, sizeof f->mark_title, "threshold %g", run->meta->threshold);
    }
    f->figure.name = "utility_by_layer";
    f->figure.kind = FIGURE_RIDGES;
    f->figure.title = "Utility of key-value pairs, layer by layer";
    f->figure.alt = "A filled profile per layer over utility; the numbers are in utility_histogram.csv.";
    f->figure.x_name = "bin";
    f->figure.x_title = run->meta->score == PROFILE_SCORE_SIGMOID ? "utility (score of the predictor, 0 to 1)" : "score";
    f->figure.y_title = "layer";
    f->figure.x_low = 0;
    f->figure.x_high = (double)n;
    return OK;
}

/* -- open gates against position -- */

static void position_label(uint32_t position, char out[16]) {
    if (position >= 1 << 20 && position % (1 << 20) == 0)
        snprintf(out, 16, "%uM", position >> 20);
    else if (position >= 1 << 14 && position % 1024 == 0)
        snprintf(out, 16, "%uk", position >> 10);
    else
        snprintf(out, 16, "%u", position);
}

/* Bins up to the last one that holds a token. */
static size_t used_position_bins(const struct run *run) {
    const struct statistics *s = &run->statistics;
    size_t n = run->positions.n_bins;
    while (n > 1 && isnan(bin_density_share(&run->positions, s->n_layers, s->n_kv_heads, -1, -1, n - 1)))
        n--;
    return n;
}

static int create_positions(const struct run *run, struct run_figure *f, struct err *err) {
    const struct statistics *s = &run->statistics;
    size_t n = used_position_bins(run);
    int rc = run_figure_allocate(f, n, s->n_layers, err);
    if (rc == OK)
        rc = allocate_ticks(f, n, err);
    if (rc != OK)
        return rc;
    for (size_t b = 0; b < n; b++) {
        f->numbers[b] = (double)b;
        f->numbers[n + b] = run->position_edges[b];
        f->numbers[2 * n + b] = run->position_edges[b + 1];
        f->numbers[3 * n + b] = bin_density_share(&run->positions, s->n_layers, s->n_kv_heads, -1, -1, b);
        for (size_t l = 0; l < s->n_layers; l++)
            f->numbers[(4 + l) * n + b] = bin_density_share(&run->positions, s->n_layers, s->n_kv_heads, (int)l, -1, b);
        position_label(run->position_edges[b], add_tick(f, (double)b)->label);
    }
    str_puts(&f->explanation,
             "Share of key-value pairs whose gate was open, by the place of their token in its sequence: position 0, 1, "
             "then bins that double (a point at 64 stands for positions 64 to 127).");
    f->figure.name = "density_by_position";
    f->figure.kind = FIGURE_LINES;
    f->figure.title = "Open gates against position in the sequence";
    f->figure.alt = "Lines of gate density over position, one per layer and one for all; the numbers are in positions.csv.";
    f->figure.x_name = "bin";
    f->figure.x_title = "position of the token in its sequence (first of the bin)";
    f->figure.y_title = "gate density";
    f->figure.all_name = "all layers";
    f->figure.x_low = 0;
    f->figure.x_high = n > 1 ? (double)n - 1 : 1;
    f->figure.y_high = 1;
    return OK;
}

/* -- attention within a distance -- */

/* Running share of the mass at distances below the upper edge of each bin. */
static void fill_within(const struct run *run, size_t first, size_t n_heads, size_t n, double *within) {
    size_t stride = run->n_distance_bins;
    double total = 0, so_far = 0;
    for (size_t h = first; h < first + n_heads; h++)
        for (size_t b = 0; b < stride; b++)
            total += run->distance[h * stride + b];
    for (size_t b = 0; b < n; b++) {
        for (size_t h = first; h < first + n_heads; h++)
            so_far += run->distance[h * stride + b];
        within[b] = total > 0 ? so_far / total : NAN;
    }
}

static int create_distance(const struct run *run, struct run_figure *f, struct err *err) {
    const struct statistics *s = &run->statistics;
    const uint32_t *edge = run->meta->distance_edges;
    size_t n = 1, heads = s->n_kv_heads;
    while (n < run->n_distance_bins && edge[n] < s->longest)
        n++;
    int rc = run_figure_allocate(f, n, s->n_layers, err);
    if (rc != OK)
        return rc;
    for (size_t b = 0; b < n; b++) {
        f->numbers[b] = edge[b + 1];
        f->numbers[n + b] = edge[b];
        f->numbers[2 * n + b] = edge[b + 1];
    }
    fill_within(run, 0, s->n_layers * heads, n, f->numbers + 3 * n);
    for (size_t l = 0; l < s->n_layers; l++)
        fill_within(run, l * heads, heads, n, f->numbers + (4 + l) * n);
    str_puts(&f->explanation,
             "Share of all attention that falls on keys less than so many tokens back: what a window of that size would "
             "keep. Full attention of the dense model, before any pruning.");
    f->figure.mark = run->meta->window;
    snprintf(f->mark_title, sizeof f->mark_title, "window %u", run->meta->window);
    f->figure.name = "attention_by_distance";
    f->figure.kind = FIGURE_LINES;
    f->figure.title = "Attention that a window of a given size keeps";
    f->figure.alt = "Rising lines of kept attention over window size, one per layer and one for all.";
    f->figure.x_name = "within_tok";
    f->figure.x_title = "window (tokens, the query's own included)";
    f->figure.y_title = "share of attention kept";
    f->figure.all_name = "all layers";
    f->figure.x_log = true;
    f->figure.y_high = 1;
    return OK;
}

/* -- open gates by class of token -- */

static int create_classes(const struct run *run, struct run_figure *f, struct err *err) {
    const struct statistics *s = &run->statistics;
    size_t n = run->classes.n_bins;
    int rc = run_figure_allocate(f, n, s->n_layers, err);
    if (rc == OK)
        rc = allocate_ticks(f, n, err);
    if (rc != OK)
        return rc;
    for (size_t b = 0; b < n; b++) {
        f->numbers[b] = (double)b;
        f->numbers[3 * n + b] = bin_density_share(&run->classes, s->n_layers, s->n_kv_heads, -1, -1, b);
        for (size_t l = 0; l < s->n_layers; l++)
            f->numbers[(4 + l) * n + b] = bin_density_share(&run->classes, s->n_layers, s->n_kv_heads, (int)l, -1, b);
        snprintf(add_tick(f, (double)b)->label, sizeof f->ticks->label, "%s", run->meta->class_names[b]);
    }
    str_puts(&f->explanation, "Share of key-value pairs whose gate was open, by what their token is. Classes without a "
                              "token have no point.");
    f->figure.from = f->figure.to = NULL;
    f->figure.name = "density_by_class";
    f->figure.kind = FIGURE_LINES;
    f->figure.title = "Open gates by class of token";
    f->figure.alt = "Gate density by class of token, per layer and for all; the numbers are in classes.csv.";
    f->figure.x_name = "class";
    f->figure.x_title = "class of the token";
    f->figure.y_title = "gate density";
    f->figure.all_name = "all layers";
    f->figure.separate = true;
    f->figure.x_low = -0.4;
    f->figure.x_high = (double)n - 0.6;
    f->figure.y_high = 1;
    return OK;
}

/* -- which heads go together -- */

enum { MAX_CORRELATED = 512 /* heads: a pixel each at least */, MIN_CORRELATED_CELLS = 3 };

static bool has_correlations(const struct run *run) {
    const struct statistics *s = &run->statistics;
    size_t n = s->n_layers * s->n_kv_heads;
    return n > 1 && n <= MAX_CORRELATED && s->n_cells >= MIN_CORRELATED_CELLS && run->measure.kind != HEAD_MEASURE_NONE;
}

/* Names the series after the heads. */
static int name_heads(const struct run *run, struct run_figure *f, struct err *err) {
    size_t heads = run->statistics.n_kv_heads;
    if (!(f->names = mem_alloc(f->figure.n_series, sizeof *f->names, "names of heads", err)))
        return ERR_MEMORY;
    for (size_t i = 0; i < f->figure.n_series; i++) {
        char name[64];
        snprintf(name, sizeof name, "layer_%zu_head_%zu", i / heads, i % heads);
        if (!(f->names[i] = mem_strdup(name, err)))
            return ERR_MEMORY;
    }
    f->figure.series_names = (const char *const *)f->names;
    return OK;
}

static int create_correlations(const struct run *run, struct run_figure *f, struct err *err) {
    const struct statistics *s = &run->statistics;
    bool density = run->measure.kind == HEAD_MEASURE_DENSITY;
    size_t n = s->n_layers * s->n_kv_heads, step = 1;
    double *r;
    int rc = run_figure_allocate(f, n, n, err);
    if (rc == OK)
        rc = allocate_ticks(f, s->n_layers, err);
    if (rc == OK)
        rc = name_heads(run, f, err);
    if (rc == OK)
        rc = correlation_compute(s, density ? RATIO_LONG_DENSITY : RATIO_FAR_ATTENTION, &r, err);
    if (rc != OK)
        return rc;
    memcpy(f->numbers + 4 * n, r, n * n * sizeof *r);
    free(r);
    for (size_t i = 0; i < n; i++)
        f->numbers[i] = (double)i;
    while (s->n_layers / step > 20)
        step *= 2;
    for (size_t l = 0; l < s->n_layers; l += step)
        snprintf(add_tick(f, (double)(l * s->n_kv_heads) + ((double)s->n_kv_heads - 1) / 2)->label, sizeof f->ticks->label,
                 "%u", (unsigned)l);
    str_printf(&f->explanation,
               "Correlation (Pearson) of the %s of two heads over the %zu %s of the run: orange, both keep much of the same "
               "texts; blue, one where the other does not; white, no value or none in common. KV heads of a layer stand "
               "side by side.%s",
               run->measure.name, s->n_cells, s->n_cells == s->n_documents ? "documents" : "groups of documents",
               s->n_cells < BOOTSTRAP_FEW_DOCUMENTS ? " Few documents: large values come by chance." : "");
    f->figure.from = f->figure.to = f->figure.all = NULL;
    f->figure.name = "head_correlation";
    f->figure.kind = FIGURE_MATRIX;
    f->figure.title = density ? "Which heads keep together: correlation of densities"
                              : "Which heads look far together: correlation of far attention";
    f->figure.alt = "A matrix of correlations of heads; the numbers are in head_correlation.csv.";
    f->figure.x_name = "head";
    f->figure.x_title = f->figure.y_title = "layer";
    f->figure.z_title = "correlation";
    f->figure.y_low = -1;
    f->figure.y_high = 1;
    return OK;
}

bool run_has_figure(const struct run *run, enum run_figure_kind kind) {
    const struct run_quantity *q[RUN_MAX_MAPS];
    switch (kind) {
    case RUN_FIGURE_LAYERS: return run_quantities(run, q) > 0;
    case RUN_FIGURE_UTILITY: return run->n_utility_bins > 0;
    case RUN_FIGURE_POSITIONS: return run->positions.n_bins > 0 && run->statistics.has_gates;
    case RUN_FIGURE_CLASSES: return run->classes.n_bins > 0 && run->statistics.has_gates;
    case RUN_FIGURE_CORRELATIONS: return has_correlations(run);
    case RUN_FIGURE_DISTANCE: return run->n_distance_bins > 0;
    case RUN_N_FIGURES: break;
    }
    return false;
}

int run_figure_create(const struct run *run, enum run_figure_kind kind, struct run_figure *out, struct err *err) {
    static int (*const create[])(const struct run *, struct run_figure *,
                                 struct err *) = {[RUN_FIGURE_LAYERS] = create_layers,
                                                  [RUN_FIGURE_UTILITY] = create_utility,
                                                  [RUN_FIGURE_POSITIONS] = create_positions,
                                                  [RUN_FIGURE_CLASSES] = create_classes,
                                                  [RUN_FIGURE_CORRELATIONS] = create_correlations,
                                                  [RUN_FIGURE_DISTANCE] = create_distance};
    ASSERT(run_has_figure(run, kind));
    *out = (struct run_figure){0};
    int rc = create[kind](run, out, err);
    run_put_context(run, &out->context);
    return run_figure_finish(out, rc, err);
}

int run_figure_finish(struct run_figure *f, int rc, struct err *err) {
    if (rc == OK && (f->context.failed || f->explanation.failed))
        rc = err_memory(err, "a caption", 0);
    if (rc != OK) {
        run_figure_free(f);
        return rc;
    }
    f->caption[0] = str_text(&f->explanation);
    f->caption[1] = str_text(&f->context);
    f->figure.caption = f->caption;
    f->figure.n_caption = 2;
    f->figure.mark_title = f->mark_title;
    return OK;
}

void run_figure_free(struct run_figure *figure) {
    free(figure->numbers);
    free(figure->ticks);
    for (size_t i = 0; figure->names && i < figure->figure.n_series; i++)
        free(figure->names[i]);
    free(figure->names);
    str_free(&figure->context);
    str_free(&figure->explanation);
    *figure = (struct run_figure){0};
}
