#include "reports/run_maps.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "reports/run_facts.h"

static const struct run_quantity quantities[] = {
    {"density", "long_range_density", "Long-range density by layer and KV head", "long-range density",
     "Of the key-value pairs that left the local window, the share that the head kept for later queries: 0 = it lives from "
     "its "
     "window alone, 1 = it keeps everything.",
     head_long_density},
    {"far_attention", "far_attention", "Far attention by layer and KV head", "far attention",
     "Share of a head's attention that falls on keys outside the window and the sinks, mean over all queries, under full "
     "attention. It shows which heads look far; it is not the density of a pruned cache.",
     head_far_attention},
    {"sink_attention", "sink_attention", "Attention on the sinks by layer and KV head", "attention on the sinks",
     "Share of a head's attention that falls on the first tokens of the sequence (the sinks), mean over all queries.",
     head_sink_attention},
    {"read_fraction", "read_fraction", "Read fraction by layer and KV head", "read fraction",
     "Of all query-key pairs that full causal attention reads, the share that was read: window, sinks and kept pairs "
     "together. "
     "Short sequences raise it, because everything inside the window is read.",
     head_read_fraction},
    {"gate_density", "gate_density", "Gate density by layer and KV head", "gate density",
     "Share of all key-value pairs whose gate was open by score alone, those still inside the window included.",
     head_gate_density},
    {"mean_utility", "mean_utility", "Mean utility by layer and KV head", "mean utility",
     "Mean score of the utility predictor over all key-value pairs, before the threshold.", head_mean_utility},
};

/* Ratios that only say what the policy is: everything open, everything read. */
static bool is_telling(const struct run *run, const struct run_quantity *q) {
    if (q->ratio == head_long_density || q->ratio == head_gate_density)
        return run->statistics.has_gates;
    if (q->ratio == head_mean_utility)
        return run->statistics.has_scores && run->meta->score != PROFILE_SCORE_NONE;
    if (q->ratio == head_sink_attention)
        return run->statistics.has_attention && run->meta->sinks > 0;
    if (q->ratio == head_far_attention)
        return run->statistics.has_attention;
    return run->statistics.has_gates || !run->statistics.has_attention;
}

size_t run_quantities(const struct run *run, const struct run_quantity *out[RUN_MAX_MAPS]) {
    size_t n = 0, n_heads = run->statistics.n_layers * run->statistics.n_kv_heads;
    for (size_t i = 0; i < sizeof quantities / sizeof *quantities; i++) {
        bool any = false;
        for (size_t h = 0; !any && h < n_heads; h++)
            any = !isnan(quantities[i].ratio(&run->statistics.heads[h]));
        if (any && is_telling(run, &quantities[i]))
            out[n++] = &quantities[i];
    }
    return n;
}

/* (layers, heads), then per layer, then per head. */
static int allocate(const struct run *run, struct run_map *out, struct err *err) {
    size_t layers = run->statistics.n_layers, heads = run->statistics.n_kv_heads, n;
    *out = (struct run_map){0};
    if (!size_mul(layers, heads, &n) || !size_add(n, layers + heads, &n))
        return err_memory(err, "a heatmap", 0);
    if (!(out->values = mem_alloc(n, sizeof *out->values, "a heatmap", err)))
        return ERR_MEMORY;
    out->map = (struct heatmap){.n_layers = layers,
                                .n_kv_heads = heads,
                                .values = out->values,
                                .layer_values = out->values + layers * heads,
                                .head_values = out->values + layers * heads + layers,
                                .missing = run_missing(run)};
    return OK;
}

static void fill(const struct run *run, const struct run_quantity *q, double *values) {
    size_t layers = run->statistics.n_layers, heads = run->statistics.n_kv_heads;
    for (size_t i = 0; i < layers * heads; i++)
        values[i] = q->ratio(&run->statistics.heads[i]);
    for (size_t l = 0; l < layers; l++) {
        struct head_sums sums = run->statistics.layers[l];
        values[layers * heads + l] = q->ratio(&sums);
    }
    for (size_t k = 0; k < heads; k++) {
        struct head_sums sums = run_sum_head(run, k);
        values[layers * heads + layers + k] = q->ratio(&sums);
    }
}

static int finish(struct run_map *out, const char *sentence, struct err *err) {
    if (out->title.failed || out->value_title.failed || out->context.failed) {
        run_map_free(out);
        return err_memory(err, "a caption", 0);
    }
    out->caption[0] = sentence;
    out->caption[1] =
        "Bars: the same of a whole layer and of a whole column of heads (ratios of sums, not means of ratios).";
    out->caption[2] = str_text(&out->context);
    out->map.title = str_text(&out->title);
    out->map.value_title = str_text(&out->value_title);
    out->map.caption = out->caption;
    out->map.n_caption = 3;
    return OK;
}

/* Ratios have the fixed range 0 to 1; scores of other kinds the round range that holds them. */
static void set_range(struct run_map *out, bool ratio) {
    double low = 0, high = 1;
    size_t n = out->map.n_layers * out->map.n_kv_heads;
    int decimals;
    if (!ratio) {
        low = INFINITY;
        high = -INFINITY;
        for (size_t i = 0; i < n; i++)
            if (isfinite(out->values[i])) {
                low = fmin(low, out->values[i]);
                high = fmax(high, out->values[i]);
            }
        if (!(high > low)) {
            low = isfinite(low) ? low - 0.5 : 0;
            high = low + 1;
        }
        double step = tick_step(low, high, 6, &decimals);
        low = floor(low / step) * step;
        high = ceil(high / step) * step;
    }
    out->map.low = low;
    out->map.high = high;
}

int run_map_create(const struct run *run, const struct run_quantity *q, struct run_map *out, struct err *err) {
    int rc = allocate(run, out, err);
    if (rc != OK)
        return rc;
    fill(run, q, out->values);
    set_range(out, q->ratio != head_mean_utility || run->meta->score == PROFILE_SCORE_SIGMOID);
    str_puts(&out->title, q->title);
    str_puts(&out->value_title, q->quantity);
    run_put_context(run, &out->context);
    return finish(out, q->sentence, err);
}

int run_map_create_difference(const struct run *a, const struct run *b, const struct run_quantity *q, struct run_map *out,
                              struct err *err) {
    static const double ends[] = {0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1};
    struct run_map from = {0};
    double largest = 0;
    size_t end = 0;
    int rc = allocate(b, out, err);
    if (rc == OK)
        rc = allocate(a, &from, err);
    if (rc != OK) {
        run_map_free(out);
        return rc;
    }
    size_t n = out->map.n_layers * out->map.n_kv_heads;
    fill(a, q, from.values);
    fill(b, q, out->values);
    for (size_t i = 0; i < n + out->map.n_layers + out->map.n_kv_heads; i++)
        out->values[i] -= from.values[i];
    for (size_t i = 0; i < n; i++)
        largest = fmax(largest, isnan(out->values[i]) ? 0 : fabs(out->values[i]));
    while (end + 1 < sizeof ends / sizeof *ends && ends[end] < largest)
        end++;
    out->map.high = fmax(ends[end], largest);
    out->map.low = -out->map.high;
    out->map.map = COLORMAP_DIVERGING;
    run_map_free(&from);
    str_printf(&out->title, "Difference of %s: ", q->quantity);
    run_put_name(b, &out->title);
    str_puts(&out->title, " minus ");
    run_put_name(a, &out->title);
    str_printf(&out->value_title, "difference of %s", q->quantity);
    str_puts(&out->context, "Second run: ");
    run_put_context(b, &out->context);
    str_puts(&out->context, " First run: ");
    run_put_context(a, &out->context);
    return finish(out, "Orange: the head has more in the second run than in the first; blue: less.", err);
}

void run_map_free(struct run_map *map) {
    free(map->values);
    str_free(&map->title);
    str_free(&map->value_title);
    str_free(&map->context);
    *map = (struct run_map){0};
}

int run_map_write(const struct run_map *map, const struct run *run, const char *path, struct err *err) {
    struct run_facts facts;
    char range[64];
    int rc = run_facts_create(run, map->map.title, map->map.caption[0], &facts, err);
    if (rc != OK)
        return rc;
    snprintf(range, sizeof range, "%g to %g", map->map.low, map->map.high);
    run_facts_add(&facts, "Range of colours", range);
    rc = heatmap_write_png(&map->map, facts.facts, facts.n, path, NULL, err);
    run_facts_free(&facts);
    return rc;
}

const struct run_quantity *run_common_quantity(const struct run *a, const struct run *b) {
    const struct run_quantity *of_a[RUN_MAX_MAPS], *of_b[RUN_MAX_MAPS];
    size_t n_a = run_quantities(a, of_a), n_b = run_quantities(b, of_b);
    if (a->statistics.n_layers != b->statistics.n_layers || a->statistics.n_kv_heads != b->statistics.n_kv_heads)
        return NULL;
    for (size_t i = 0; i < n_b; i++)
        for (size_t j = 0; j < n_a; j++)
            if (of_a[j] == of_b[i])
                return of_b[i];
    return NULL;
}
