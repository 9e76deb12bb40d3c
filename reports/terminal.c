#include "reports/terminal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "reports/colormap.h"
#include "reports/run_maps.h"
#include "reports/terminal_color.h"
#include "reports/terminal_map.h"
#include "reports/text.h"

enum { N_EXTREMES = 5, LABEL = 20 /* columns of the names of numbers */ };

/* -- facts and totals -- */

static void put_name(const char *name, struct str *out) {
    str_printf(out, "  %-*s", LABEL, name);
}

static void put_clean_line(const char *name, const struct str *text, struct str *out) {
    put_name(name, out);
    text_put_clean(out, str_text(text));
    str_putc(out, '\n');
    out->failed |= text->failed;
}

static void put_facts(const struct run *run, struct str *out) {
    const struct profile_meta *m = run->meta;
    struct str text = {0};
    text_put_clean(out, run->path);
    str_puts(out, run->partial ? " (not finished: what is closed of it)\n" : "\n");
    run_put_short_name(&text, m->model_path);
    str_printf(&text, ": %s, %u layers x %u KV heads of size %u", m->model_type, m->n_layers, m->n_kv_heads, m->head_dim);
    put_clean_line("model", &text, out);
    str_clear(&text);
    run_put_corpora(run, &text);
    str_printf(&text, " (%zu file%s)", m->n_sources, m->n_sources == 1 ? "" : "s");
    put_clean_line("corpus", &text, out);
    str_clear(&text);
    run_put_policy(run, &text);
    put_clean_line("policy", &text, out);
    str_clear(&text);
    str_printf(&text, "%s prefill, chunk %u, batch %u, %s on %s, %u threads", m->prefill, m->chunk, m->batch, m->dtype,
               m->backend, m->threads);
    put_clean_line("run", &text, out);
    str_free(&text);
}

static void put_amount(const struct statistics *s, struct str *out) {
    put_name("amount", out);
    text_put_count(out, s->n_sequences);
    str_puts(out, s->n_sequences == 1 ? " sequence of " : " sequences of ");
    text_put_count(out, s->shortest);
    if (s->longest != s->shortest) {
        str_puts(out, " to ");
        text_put_count(out, s->longest);
    }
    str_puts(out, " tokens, ");
    text_put_count(out, s->n_tokens);
    str_puts(out, " in all\n");
}

static void put_share(const char *name, double share, const char *of, struct str *out) {
    if (isnan(share))
        return;
    put_name(name, out);
    str_printf(out, "%6.2f %%  %s\n", 100 * share, of);
}

static void put_bytes(const struct run *run, struct str *out) {
    const struct statistics *s = &run->statistics;
    double n = (double)s->n_sequences, used = (double)s->cache_bytes_used / n, full = (double)s->cache_bytes_full / n;
    if (s->n_sequences == 0)
        return;
    put_name("cache, a sequence", out);
    text_put_bytes(out, used);
    str_puts(out, " used, ");
    text_put_bytes(out, (double)s->cache_bytes_allocated / n);
    str_puts(out, " allocated, ");
    text_put_bytes(out, full);
    str_puts(out, " full");
    if (full > 0)
        str_printf(out, " (used / full %.1f %%)", 100 * used / full);
    str_putc(out, '\n');
    put_name("cache, peak", out);
    text_put_bytes(out, (double)run->meta->pool_peak_bytes);
    str_puts(out, " held by the pool at once\n");
}

static void put_totals(const struct run *run, struct str *out) {
    const struct statistics *s = &run->statistics;
    double nll = statistics_nll(s);
    put_amount(s, out);
    if (!isnan(nll)) {
        put_name("loss", out);
        str_printf(out, "%.4f nat per token (perplexity %.4g, ", nll, exp(nll));
        text_put_count(out, s->n_predicted);
        str_puts(out, " predicted)\n");
    }
    put_share("most likely token", statistics_argmax(s), "of predictions are right", out);
    put_share("answers exact", statistics_exact(s), "of answers have every token predicted right", out);
    if (s->has_gates) {
        put_share("long-range density", head_long_density(&s->total), "of the pairs that left the window were kept", out);
        put_share("gate density", head_gate_density(&s->total), "of all pairs had an open gate", out);
    }
    if (s->has_attention) {
        put_share("far attention", head_far_attention(&s->total), "of attention lies outside window and sinks", out);
        if (run->meta->sinks > 0)
            put_share("sink attention", head_sink_attention(&s->total), "of attention lies on the sinks", out);
    }
    put_share("KV fraction", head_kv_fraction(&s->total), "of all pairs are in the cache at the end", out);
    put_share("read fraction", head_read_fraction(&s->total), "of what full attention reads was read", out);
    put_bytes(run, out);
}

/* -- layers ---------------------------------------------------------------------------------------------------------------
 */

/* A bar of `share` of `columns` places, to an eighth where blocks may be used, padded to its full length. */
static void put_bar(double share, int columns, const struct terminal_options *o, struct str *out) {
    int eighths = (int)lround(fmin(fmax(share, 0), 1) * columns * 8), whole = eighths / 8;
    if (!o->color) {
        int marks = (eighths + 4) / 8;
        for (int i = 0; i < columns; i++)
            str_putc(out, i < marks ? '#' : ' ');
        return;
    }
    terminal_put_color(out, colormap_at(COLORMAP_VIRIDIS, 0.25 + 0.75 * share), false, o->truecolor);
    for (int i = 0; i < whole; i++)
        str_puts(out, "\xe2\x96\x88");
    if (eighths % 8) {
        char block[4] = {(char)0xe2, (char)0x96, (char)(0x90 - eighths % 8), 0}; /* U+2588 less the missing eighths */
        str_puts(out, block);
    }
    terminal_put_plain(out);
    for (int i = whole + (eighths % 8 != 0); i < columns; i++)
        str_putc(out, ' ');
}

static void put_layers(const struct run *run, const struct run_quantity *q, const struct terminal_options *o,
                       struct str *out) {
    const struct statistics *s = &run->statistics;
    int columns = o->width - 36;
    columns = columns < 10 ? 10 : columns > 50 ? 50 : columns;
    str_printf(out, "\n%s by layer (0 to 1; lowest and highest KV head)\n", q->quantity);
    for (size_t l = 0; l < s->n_layers; l++) {
        struct head_sums sums = run->statistics.layers[l];
        double x = q->ratio(&sums), low = NAN, high = NAN;
        for (size_t k = 0; k < s->n_kv_heads; k++) {
            double y = q->ratio(run_head(run, l, k));
            low = fmin(low, y);
            high = fmax(high, y);
        }
        str_printf(out, "  %3zu ", l);
        if (isnan(x)) {
            str_puts(out, s->sliding[l] ? "sliding-window layer\n" : "no value\n");
            continue;
        }
        put_bar(x, columns, o, out);
        str_printf(out, " %.3f  %.3f to %.3f\n", x, low, high);
    }
}

/* -- extremes -------------------------------------------------------------------------------------------------------------
 */

struct ranked {
    double value;
    size_t layer, head;
};

/* Descending; ties to the lower layer, then the lower head. */
static int compare_ranked(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;
    if (x->value != y->value)
        return x->value < y->value ? 1 : -1;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    return x->head < y->head ? -1 : x->head > y->head;
}

/* The heads that have a value, from high to low; free *out. */
static size_t rank_heads(const struct run *run, const struct run_quantity *q, struct ranked **out) {
    const struct statistics *s = &run->statistics;
    size_t n = 0, n_heads = s->n_layers * s->n_kv_heads;
    *out = mem_alloc(n_heads, sizeof **out, "heads", NULL);
    for (size_t h = 0; *out && h < n_heads; h++) {
        struct ranked r = {q->ratio(&s->heads[h]), h / s->n_kv_heads, h % s->n_kv_heads};
        if (!isnan(r.value))
            (*out)[n++] = r;
    }
    if (n)
        qsort(*out, n, sizeof **out, compare_ranked);
    return n;
}

static void put_extremes(const struct run *run, const struct run_quantity *q, struct str *out) {
    struct ranked *heads;
    size_t n = rank_heads(run, q, &heads);
    if (n > 1)
        str_printf(out, "\n  %-28s  %s\n", "highest heads", "lowest heads");
    for (size_t i = 0; n > 1 && i < N_EXTREMES && i < n; i++) {
        const struct ranked *high = &heads[i], *low = &heads[n - 1 - i];
        str_printf(out, "  layer %3zu, head %3zu  %.3f     layer %3zu, head %3zu  %.3f\n", high->layer, high->head,
                   high->value, low->layer, low->head, low->value);
    }
    free(heads);
}

/* -- the whole ------------------------------------------------------------------------------------------------------------
 */

static void put_map(const struct run *run, const struct run_quantity *q, const struct terminal_options *o, struct str *out) {
    struct run_map map;
    if (run_map_create(run, q, &map, NULL) != OK) {
        out->failed = true;
        return;
    }
    const struct heatmap *m = &map.map;
    terminal_put_map(&(struct terminal_map){q->quantity, m->n_layers, m->n_kv_heads, m->values, m->low, m->high}, o, out);
    run_map_free(&map);
}

void terminal_put_run(const struct run *run, const struct terminal_options *options, struct str *out) {
    const struct run_quantity *q[RUN_MAX_MAPS];
    put_facts(run, out);
    put_totals(run, out);
    if (run_quantities(run, q) == 0) {
        str_puts(out,
                 "\nNothing was counted per head: no sequence is long enough to leave the window, or the run is empty.\n");
        return;
    }
    put_layers(run, q[0], options, out);
    put_extremes(run, q[0], out);
    if (options->map)
        put_map(run, options->quantity ? options->quantity : q[0], options, out);
}
