#include "reports/page.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reports/page_assets.h"
#include "reports/text.h"

enum { LONG_TABLE = 40 /* rows; longer ones are folded */ };

static void put_element(struct str *page, const char *tag, const char *text) {
    str_printf(page, "<%s>", tag);
    text_put_clean_html(page, text);
    str_printf(page, "</%s>\n", tag);
}

void page_begin(struct str *page, const char *title, const char *lead) {
    str_puts(page, PAGE_MARK "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                             "<meta http-equiv=\"Content-Security-Policy\" content=\"");
    str_puts(page, page_policy);
    str_puts(page, "\">\n<meta name=\"color-scheme\" content=\"light dark\">\n");
    put_element(page, "title", title);
    str_printf(page, "<style>%s</style>\n</head>\n<body>\n<main>\n<button id=\"theme\" type=\"button\" hidden></button>\n",
               page_style);
    put_element(page, "h1", title);
    str_puts(page, "<p class=\"lead\">");
    text_put_clean_html(page, lead);
    str_puts(page, " <a href=\"#words\">What the words mean</a>.</p>\n");
}

void page_put_section(struct str *page, const char *heading) {
    put_element(page, "h2", heading);
}

void page_put_heading(struct str *page, const char *heading) {
    put_element(page, "h3", heading);
}

void page_put_note(struct str *page, const char *text) {
    str_puts(page, "<p class=\"note\">");
    text_put_clean_html(page, text);
    str_puts(page, "</p>\n");
}

void page_begin_fold(struct str *page, const char *summary) {
    str_puts(page, "<details>");
    put_element(page, "summary", summary);
}

void page_end_fold(struct str *page) {
    str_puts(page, "</details>\n");
}

void page_begin_scroll(struct str *page, const char *label) {
    str_puts(page, "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"");
    text_put_clean_html(page, label);
    str_puts(page, "\">\n");
}

void page_end_scroll(struct str *page) {
    str_puts(page, "</div>\n");
}

static void put_tile(struct str *page, const char *value, const char *label) {
    str_puts(page, "<li><b>");
    text_put_clean_html(page, value);
    str_puts(page, "</b><span>");
    text_put_clean_html(page, label);
    str_puts(page, "</span></li>\n");
}

/* A share as "12.3 %"; no tile for what is missing. */
static void put_share(struct str *page, double share, const char *label) {
    char text[32];
    if (isnan(share))
        return;
    snprintf(text, sizeof text, "%.1f %%", 100 * share);
    put_tile(page, text, label);
}

static void put_tiles(struct str *page, const struct run *run) {
    const struct statistics *s = &run->statistics;
    struct str text = {0};
    str_puts(page, "<ul class=\"tiles\">\n");
    if (s->has_gates) {
        put_share(page, head_long_density(&s->total), "long-range density");
        put_share(page, head_gate_density(&s->total), "gate density");
    }
    if (s->has_attention)
        put_share(page, head_far_attention(&s->total), "far attention");
    put_share(page, head_kv_fraction(&s->total), "KV fraction");
    put_share(page, head_read_fraction(&s->total), "read fraction");
    if (!isnan(statistics_nll(s))) {
        str_printf(&text, "%.4f", statistics_nll(s));
        put_tile(page, str_text(&text), "loss, nat per token");
    }
    if (s->n_sequences) {
        str_clear(&text);
        text_put_bytes(&text, (double)s->cache_bytes_used / (double)s->n_sequences);
        str_puts(&text, " of ");
        text_put_bytes(&text, (double)s->cache_bytes_full / (double)s->n_sequences);
        put_tile(page, str_text(&text), "cache used of full, mean per sequence");
    }
    str_puts(page, "</ul>\n");
    page->failed |= text.failed;
    str_free(&text);
}

static void put_fact(struct str *page, const char *name, const char *value) {
    if (!value || !*value)
        return;
    str_puts(page, "<dt>");
    text_put_clean_html(page, name);
    str_puts(page, "</dt><dd>");
    text_put_clean_html(page, value);
    str_puts(page, "</dd>\n");
}

/* A fact that is put together; `text` is cleared for the next one. */
static void put_built(struct str *page, const char *name, struct str *text) {
    put_fact(page, name, str_text(text));
    page->failed |= text->failed;
    str_clear(text);
}

static void put_model_facts(struct str *page, const struct run *run, struct str *text) {
    const struct profile_meta *m = run->meta;
    put_fact(page, "run file", run->path);
    put_fact(page, "model", m->model_path);
    str_printf(text, "%s, %u layers, %u query heads over %u KV heads of size %u", m->model_type, m->n_layers, m->n_heads,
               m->n_kv_heads, m->head_dim);
    put_built(page, "architecture", text);
    for (size_t i = 0; i < m->n_corpora; i++) {
        str_puts(text, i ? ", " : "");
        str_puts(text, m->corpus_names[i]);
    }
    put_built(page, "corpus", text);
    run_put_policy(run, text);
    put_built(page, "policy", text);
    put_fact(page, "its parameters",
             m->policy_parameters && strcmp(m->policy_parameters, "{}") != 0 ? m->policy_parameters : NULL);
}

static void put_run_facts(struct str *page, const struct run *run, struct str *text) {
    const struct profile_meta *m = run->meta;
    const struct statistics *s = &run->statistics;
    text_put_count(text, s->n_sequences);
    str_puts(text, " sequences, ");
    text_put_count(text, s->n_tokens);
    str_printf(text, " tokens (%u to %u a sequence), ", s->shortest, s->longest);
    text_put_count(text, s->n_predicted);
    str_puts(text, " predicted");
    put_built(page, "amount", text);
    text_put_bytes(text, (double)s->cache_bytes_used);
    str_puts(text, " used, ");
    text_put_bytes(text, (double)s->cache_bytes_allocated);
    str_puts(text, " allocated, ");
    text_put_bytes(text, (double)s->cache_bytes_full);
    str_puts(text, " full, summed over sequences; peak of the pool ");
    text_put_bytes(text, (double)m->pool_peak_bytes);
    put_built(page, "cache bytes", text);
    str_printf(text,
               "%s prefill in chunks of %u, batch %u, at most %u tokens a sequence, %s, backend %s, %u threads, seed %llu",
               m->prefill, m->chunk, m->batch, m->max_length, m->dtype, m->backend, m->threads, (unsigned long long)m->seed);
    put_built(page, "settings", text);
    put_fact(page, "command", m->command_line);
    str_printf(text, "%s to %s on %s (%s%s%s)", m->time_start, m->time_end, m->host, m->cpu, m->gpu && *m->gpu ? ", " : "",
               m->gpu ? m->gpu : "");
    put_built(page, "when and where", text);
    str_printf(text, "spkv %s, commit %s", m->program_version, m->git_commit);
    put_built(page, "recorded by", text);
    put_fact(page, "model hash", m->model_hash);
}

void page_put_run(struct str *page, const struct run *run) {
    struct str text = {0};
    if (run->number)
        str_printf(&text, "Run %zu: ", run->number);
    run_put_short_name(&text, run->path);
    put_element(page, "h2", str_text(&text));
    str_clear(&text);
    run_put_context(run, &text);
    put_element(page, "p", str_text(&text));
    str_clear(&text);
    if (run->partial)
        page_put_note(page, "This run was not finished: the numbers are those of the sequences that had been closed.");
    put_tiles(page, run);
    page_begin_fold(page, "All facts of the run");
    str_puts(page, "<dl class=\"facts\">\n");
    put_model_facts(page, run, &text);
    put_run_facts(page, run, &text);
    str_puts(page, "</dl>\n");
    page_end_fold(page);
    page->failed |= text.failed;
    str_free(&text);
}

void page_put_training(struct str *page, const char *summary) {
    put_element(page, "h2", "Training");
    put_element(page, "p", summary);
}

static void put_caption(struct str *page, const char *const *caption, size_t n) {
    str_puts(page, "<figcaption>");
    for (size_t i = 0; i < n; i++) {
        str_puts(page, i ? " " : "");
        text_put_clean_html(page, caption[i]);
    }
    str_puts(page, "</figcaption>\n</figure>\n");
}

int page_put_heatmap(struct str *page, const struct heatmap *map, struct err *err) {
    page_put_heading(page, map->title);
    str_puts(page, "<figure>\n");
    page_begin_scroll(page, map->title);
    int rc = heatmap_put_svg(map, page, err);
    page_end_scroll(page);
    put_caption(page, map->caption, map->n_caption);
    return rc;
}

void page_put_figure(struct str *page, const struct figure *figure, const struct str *svg, const char *notice) {
    page_put_heading(page, figure->title);
    if (!svg) {
        page_put_note(page, notice);
        return;
    }
    str_puts(page, "<figure>\n");
    page_begin_scroll(page, figure->title);
    str_puts(page, "<img alt=\"");
    text_put_clean_html(page, figure->alt);
    str_puts(page, "\" src=\"data:image/svg+xml;base64,");
    text_put_base64(page, str_text(svg), svg->len);
    str_puts(page, "\">\n");
    page_end_scroll(page);
    put_caption(page, figure->caption, figure->n_caption);
}

void page_put_table(struct str *page, const struct table *table, const char *caption, const char *file) {
    bool folded = table_n_rows(table) > LONG_TABLE;
    if (table_n_rows(table) == 0)
        return;
    if (folded) {
        struct str summary = {0};
        str_printf(&summary, "%s Table of %zu rows", caption, table_n_rows(table));
        page_begin_fold(page, str_text(&summary));
        page->failed |= summary.failed;
        str_free(&summary);
    }
    page_begin_scroll(page, caption);
    table_put_html(table, caption, page);
    page_end_scroll(page);
    str_printf(page, "<p class=\"lead\">With all counters: <code>%s</code></p>\n%s", file,
               folded ? "</details>\n" : "");
}

static void put_glossary(struct str *page) {
    str_printf(page, "<h2 id=\"words\">What the words mean</h2>\n<p>%s</p>\n<dl class=\"words\">\n", page_glossary_lead);
    for (const struct page_word *w = page_words; w->word; w++)
        str_printf(page, "<dt>%s</dt><dd>%s</dd>\n", w->word, w->meaning);
    str_printf(page, "</dl>\n<p>%s</p>\n", page_glossary_end);
}

void page_end(struct str *page, const char *version) {
    put_glossary(page);
    str_puts(page, "</main>\n<footer>Made by <code>spkv report</code>");
    text_put_clean_html(page, version);
    str_puts(page, ". This page is complete in itself; the pictures and tables lie beside it as files.</footer>\n");
    str_printf(page, "<div id=\"value\" aria-hidden=\"true\" hidden></div>\n<script>%s</script>\n</body>\n</html>\n", page_script);
}
