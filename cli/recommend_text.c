#include "cli/recommend_text.h"
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { SETTLED_NEVER = 1000 }; /* times as many documents: that is not a question of more text any more */

static double kv_bytes(const struct recommend_view *v, const struct layout *layout, uint64_t context) {
    const struct profile_meta *meta = v->input->meta;
    return layout_kv_bytes(layout, context, meta->head_dim, meta->element_bytes, meta->sliding_window);
}

/* ~ marks what lies beyond the longest sequence profiled. */
static const char *mark(const struct recommend_view *v, uint64_t context) {
    return context > v->input->statistics->longest ? "~" : "";
}

static void put_bytes(struct str *out, double bytes) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    int unit = 0;
    for (; bytes >= 999.5 && unit < 4; unit++)
        bytes /= 1000;
    char text[32];
    snprintf(text, sizeof text, unit == 0 || bytes >= 99.95 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
    str_printf(out, " %11s", text);
}

static void put_percent(struct str *out, double share) {
    char text[32];
    snprintf(text, sizeof text, isnan(share) ? "-" : "%.2f %%", 100 * share);
    str_printf(out, " %10s", text);
}

static void put_head(const struct recommend_view *v, struct str *out) {
    const struct recommendation_input *in = v->input;
    const struct recommendation *r = v->result;
    str_printf(out, "%zu of %zu KV heads global (%.1f %%), the others see ", r->n_global, r->n_eligible,
               r->n_eligible ? 100.0 * (double)r->n_global / (double)r->n_eligible : 0);
    str_printf(out, in->windows ? "windows of their own" : "a window of %u", in->window);
    str_printf(out, " + %u sinks\n", in->sinks);
    str_printf(out, "coverage: share of the sum of the heads' %s; by layers: of whole layers only, and what that loses\n\n",
               in->measure->name);
    str_printf(out, "  %-16s %10s %10s %10s", "strategy", "coverage", "by layers", "lost");
    for (size_t c = 0; c < in->n_contexts; c++) {
        char title[32];
        snprintf(title, sizeof title, "%sKV@%llu", mark(v, in->contexts[c]), (unsigned long long)in->contexts[c]);
        str_printf(out, " %11s", title);
    }
    if (in->budget.cost)
        str_printf(out, " %11s", "decode step");
    str_puts(out, "  notes\n");
}

static void put_notes(const struct recommended *row, struct str *out) {
    const json_t *changes = json_object_get(row->layout->made_by, "changed_to_fit");
    const char *before = "  ";
    if (row->n_draws > 1) {
        str_printf(out, "  mean of %zu draws, standard deviation %.2f %%, %.2f to %.2f %%", row->n_draws,
                   100 * row->coverage_sd, 100 * row->coverage_low, 100 * row->coverage_high);
        before = "; ";
    }
    for (size_t i = 0; i < json_array_size(changes); i++, before = "; ")
        str_printf(out, "%s%s", before, json_string_value(json_array_get(changes, i)));
}

void recommend_put_table(const struct recommend_view *v, struct str *out) {
    const struct recommendation_input *in = v->input;
    put_head(v, out);
    for (size_t i = 0; i < v->result->n; i++) {
        const struct recommended *row = &v->result->rows[i];
        str_printf(out, "%c %-16s", i == v->result->chosen ? '*' : ' ', layout_strategy(row->layout));
        put_percent(out, row->coverage);
        put_percent(out, row->layer_coverage);
        put_percent(out, row->coverage - row->layer_coverage);
        for (size_t c = 0; c < in->n_contexts; c++)
            put_bytes(out, kv_bytes(v, row->layout, in->contexts[c]));
        if (in->budget.cost)
            str_printf(out, " %8.2f ms",
                       1e3 * cost_model_step(in->budget.cost, kv_bytes(v, row->layout, in->budget.context)));
        put_notes(row, out);
        str_putc(out, '\n');
    }
    if (in->budget.cost)
        str_printf(out, "\ndecode step: batch of %u at a context of %llu, a line through %zu measured rows, off by at most "
                   "%.1f %% there\n", in->budget.cost->batch, (unsigned long long)in->budget.context,
                   in->budget.cost->n_rows, 100 * in->budget.cost->worst_frac);
}

/* -- the verdict ------------------------------------------------------------------------------------------------------ */

double recommend_more_tokens(const struct recommend_view *v) {
    const struct stability *s = &v->result->stability;
    if (!s->judged || s->enough)
        return 0;
    return s->factor > SETTLED_NEVER ? (double)INFINITY : (s->factor - 1) * (double)v->input->statistics->n_tokens;
}

/* 1234567 -> 1.2 million. */
static void put_count(struct str *out, double n) {
    if (n >= 999.5e6)
        str_printf(out, "%.1f billion", n / 1e9);
    else if (n >= 999.5e3)
        str_printf(out, "%.1f million", n / 1e6);
    else if (n >= 10000)
        str_printf(out, "%.0f thousand", n / 1e3);
    else
        str_printf(out, "%.0f", n);
}

static void put_documents(const struct recommend_view *v, struct str *out) {
    const struct statistics *s = v->input->statistics;
    put_count(out, (double)s->n_tokens);
    str_printf(out, " tokens of %llu document%s were profiled, in sequences of up to %u tokens.",
               (unsigned long long)s->n_documents, s->n_documents == 1 ? "" : "s", s->longest);
    if (s->n_documents < BOOTSTRAP_FEW_DOCUMENTS)
        str_printf(out, " Fewer than %d documents: intervals and stability are rough, and look better than they are.",
                   BOOTSTRAP_FEW_DOCUMENTS);
    str_putc(out, '\n');
}

static void put_stability(const struct recommend_view *v, struct str *out) {
    const struct stability *s = &v->result->stability;
    const char *name = v->input->wanted;
    if (!v->result->is_ranking) {
        str_printf(out, "The heads of %s do not depend on this text.\n", name);
        return;
    }
    if (!s->judged) {
        str_printf(out, "Whether other documents would choose the same heads cannot be said: %s.\n",
                   s->n_chosen ? "there is only one" : "none are chosen");
        return;
    }
    str_printf(out, "%s: %zu of %zu chosen heads (%.0f %%) are chosen in at least %.0f %% of %zu resamples of the "
               "documents; the layouts of the two halves share %.0f %%.\n", name, s->n_stable, s->n_chosen,
               100.0 * (double)s->n_stable / (double)s->n_chosen, 100 * STABILITY_SHARE, v->result->bootstrap.n_resamples,
               100 * s->halves_overlap);
    double more = recommend_more_tokens(v);
    if (s->enough) {
        str_puts(out, "The choice is stable on this kind of text.\n");
    } else if (isinf(more)) {
        str_puts(out, "The choice is not stable: heads at the cut are alike, and more text of this kind will hardly settle "
                 "it. Take a few heads more or fewer.\n");
    } else {
        str_puts(out, "The choice is not stable: profile about ");
        put_count(out, more);
        str_printf(out, " tokens more of this kind (%.1f times as many documents).\n", s->factor);
    }
}

/* The head that differs most between documents. */
static void put_variation(const struct recommend_view *v, struct str *out) {
    const struct head_measure *m = v->input->measure;
    size_t n = m->n_layers * m->n_kv_heads, most = n;
    if (v->input->statistics->n_documents < 2)
        return;
    for (size_t i = 0; i < n; i++)
        if (!isnan(v->variation[i].within) && (most == n || v->variation[i].within > v->variation[most].within))
            most = i;
    if (most == n)
        return;
    str_printf(out, "Most dependent on the text: layer %zu head %zu, %s %.3f, standard deviation %.3f between documents",
               most / m->n_kv_heads, most % m->n_kv_heads, m->name, m->value[most], sqrt(v->variation[most].within));
    if (v->n_corpora > 1)
        str_printf(out, ", %.3f between corpora", sqrt(v->variation[most].between));
    str_puts(out, ".\n");
}

void recommend_put_verdict(const struct recommend_view *v, struct str *out) {
    const struct recommendation_input *in = v->input;
    bool beyond = false;
    put_documents(v, out);
    put_stability(v, out);
    put_variation(v, out);
    for (size_t c = 0; c < in->n_contexts; c++)
        beyond |= in->contexts[c] > in->statistics->longest;
    if (beyond)
        str_printf(out, "~ extrapolated: nothing longer than %u tokens was profiled.\n", in->statistics->longest);
    if (in->sinks == 0)
        str_puts(out, "Local heads see no sinks here: most dense models break without their first tokens (--sinks 4).\n");
    str_puts(out, "Coverage alone does not order layouts: measure them on other text (spkv verify).\n");
}

/* -- JSON ------------------------------------------------------------------------------------------------------------- */

json_t *recommend_evidence_json(const struct recommend_view *v) {
    const struct statistics *s = v->input->statistics;
    const struct stability *stable = &v->result->stability;
    json_t *o = json_pack("{s:I, s:I, s:I, s:I}", "documents", (json_int_t)s->n_documents, "sequences",
                          (json_int_t)s->n_sequences, "tokens", (json_int_t)s->n_tokens, "longest_profiled",
                          (json_int_t)s->longest);
    if (v->result->is_ranking && stable->judged) {
        json_object_set_new(o, "stable_share", json_real((double)stable->n_stable / (double)stable->n_chosen));
        json_object_set_new(o, "halves_overlap", json_real(stable->halves_overlap));
    }
    return o;
}

static json_t *bytes_json(const struct recommend_view *v, const struct layout *layout) {
    json_t *o = json_object();
    for (size_t c = 0; c < v->input->n_contexts; c++) {
        char key[32];
        snprintf(key, sizeof key, "%llu", (unsigned long long)v->input->contexts[c]);
        json_object_set_new(o, key, json_real(kv_bytes(v, layout, v->input->contexts[c])));
    }
    return o;
}

static json_t *layers_json(const struct recommend_view *v, const struct recommended *row) {
    json_t *global = json_array();
    for (size_t layer = 0; layer < row->layers->n_layers; layer++)
        if (layout_head(row->layers, layer, 0) == HEAD_GLOBAL)
            json_array_append_new(global, json_integer((json_int_t)layer));
    return json_pack("{s:o, s:o, s:o, s:o, s:I}", "coverage", json_finite(row->layer_coverage), "lost",
                     json_finite(row->coverage - row->layer_coverage), "kv_bytes", bytes_json(v, row->layers), "layers",
                     global, "global_heads", (json_int_t)layout_n_global(row->layers));
}

static json_t *row_json(const struct recommend_view *v, size_t i) {
    const struct recommended *row = &v->result->rows[i];
    json_t *o = json_pack("{s:s, s:b, s:o, s:o, s:O, s:O}", "strategy", layout_strategy(row->layout), "chosen",
                          i == v->result->chosen, "coverage", json_finite(row->coverage), "layer_level",
                          layers_json(v, row), "made_by", row->layout->made_by, "predicted", row->layout->predicted);
    if (row->n_draws > 1)
        json_object_set_new(o, "draws",
                            json_pack("{s:I, s:o, s:o, s:o}", "n", (json_int_t)row->n_draws, "coverage_sd",
                                      json_finite(row->coverage_sd), "coverage_low", json_finite(row->coverage_low),
                                      "coverage_high", json_finite(row->coverage_high)));
    if (v->input->budget.cost)
        json_object_set_new(o, "decode_step_s",
                            json_real(cost_model_step(v->input->budget.cost,
                                                      kv_bytes(v, row->layout, v->input->budget.context))));
    return o;
}

static json_t *heads_json(const struct recommend_view *v) {
    const struct head_measure *m = v->input->measure;
    const struct recommendation *r = v->result;
    json_t *list = json_array();
    for (size_t i = 0; i < m->n_layers * m->n_kv_heads; i++) {
        if (m->sliding[i / m->n_kv_heads])
            continue;
        json_t *o = json_pack("{s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "layer", (json_int_t)(i / m->n_kv_heads),
                              "kv_head", (json_int_t)(i % m->n_kv_heads), "value", json_finite(m->value[i]), "low",
                              json_finite(r->intervals.heads[i].low), "high", json_finite(r->intervals.heads[i].high),
                              "sd_between_documents", json_finite(sqrt(v->variation[i].within)), "sd_between_corpora",
                              json_finite(sqrt(v->variation[i].between)), "explained_by_document",
                              json_finite(v->variation[i].explained));
        if (r->is_ranking && r->stability.judged)
            json_object_set_new(o, "chosen_share", json_real(r->stability.share[i]));
        if (v->input->windows)
            json_object_set_new(o, "window", json_integer(v->input->windows[i]));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *verdict_json(const struct recommend_view *v) {
    struct str text = {0};
    const struct stability *s = &v->result->stability;
    json_t *o = recommend_evidence_json(v), *extrapolated = json_array();
    recommend_put_verdict(v, &text);
    for (size_t c = 0; c < v->input->n_contexts; c++)
        if (*mark(v, v->input->contexts[c]))
            json_array_append_new(extrapolated, json_integer((json_int_t)v->input->contexts[c]));
    json_object_set_new(o, "extrapolated_contexts", extrapolated);
    json_object_set_new(o, "few_documents", json_boolean(v->input->statistics->n_documents < BOOTSTRAP_FEW_DOCUMENTS));
    json_object_set_new(o, "judged", json_boolean(v->result->is_ranking && s->judged));
    if (v->result->is_ranking && s->judged) {
        json_object_set_new(o, "chosen_heads", json_integer((json_int_t)s->n_chosen));
        json_object_set_new(o, "stable_heads", json_integer((json_int_t)s->n_stable));
        json_object_set_new(o, "stable", json_boolean(s->enough));
        json_object_set_new(o, "more_tokens", json_finite(recommend_more_tokens(v)));
    }
    json_object_set_new(o, "text", json_string(str_text(&text)));
    str_free(&text);
    return o;
}

json_t *recommend_json(const struct recommend_view *v) {
    const struct recommendation *r = v->result;
    json_t *rows = json_array();
    for (size_t i = 0; i < r->n; i++)
        json_array_append_new(rows, row_json(v, i));
    return json_pack("{s:s, s:i, s:s, s:I, s:I, s:o, s:o, s:o}", "schema", "spkv-recommend", "version", 1, "measure",
                     v->input->measure->name, "global_heads", (json_int_t)r->n_global, "eligible_heads",
                     (json_int_t)r->n_eligible, "layouts", rows, "heads", heads_json(v), "verdict", verdict_json(v));
}
