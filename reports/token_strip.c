#include "reports/token_strip.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "analyze/token_values.h"
#include "base/file.h"
#include "reports/page.h"
#include "reports/table.h"
#include "reports/text.h"
#include "reports/token_table.h"

size_t token_strip_step(double share) {
    double step = floor(share * TOKEN_STRIP_STEPS);
    return step < 0 ? 0 : step >= TOKEN_STRIP_STEPS ? TOKEN_STRIP_STEPS - 1 : (size_t)step;
}

/* Value of a token in words: "kept by 3 of 21 heads" or "mean utility 0.412 of 21 heads". */
static void put_value(enum token_quantity quantity, double sum, size_t n, struct str *out) {
    if (n == 0)
        str_puts(out, "no gates");
    else if (quantity == TOKEN_OPEN)
        str_printf(out, "kept by %.0f of %zu heads", sum, n);
    else
        str_printf(out, "mean utility %.3f of %zu heads", sum / (double)n, n);
}

static void put_span(const struct token_values *v, size_t i, size_t position, const struct token_text *text,
                     struct str *out) {
    struct str token = {0}, shown = {0};
    size_t n;
    double sum = token_values_sum(v, i, &n);
    token_text_put(text, v->id[i], &token);
    token_put_visible(str_text(&token), &shown);
    if (n)
        str_printf(out, "<span class=\"c%zu\" data-v=\"", token_strip_step(sum / (double)n));
    else
        str_puts(out, "<span class=\"cn\" data-v=\"");
    if (n)
        text_put_double(out, v->quantity == TOKEN_OPEN ? sum : sum / (double)n);
    str_printf(out, "\" title=\"token %zu: ", position);
    put_value(v->quantity, sum, n, out);
    if (!isnan(v->nll[i]))
        str_printf(out, ", loss %.2f nat", (double)v->nll[i]);
    str_puts(out, "\">");
    str_put_html(out, str_text(&shown), shown.len);
    str_puts(out, "</span>");
    if (token.len && memchr(token.data, '\n', token.len))
        str_putc(out, '\n');
    out->failed |= token.failed || shown.failed;
    str_free(&token);
    str_free(&shown);
}

/* Calls `put` for the first n tokens of the sequence. */
static int walk(struct profile *profile, const struct run_sequence *s, size_t n,
                int (*put)(void *self, const struct token_values *v, size_t i, size_t position, struct err *err), void *self,
                struct err *err) {
    struct token_values v;
    int rc = token_values_open(profile, &v, err);
    if (rc != OK)
        return rc;
    for (size_t first = 0; rc == OK && first < n; first += v.n) {
        rc = token_values_read(&v, s->first + first, n - first < v.cap ? n - first : v.cap, err);
        for (size_t i = 0; rc == OK && i < v.n; i++)
            rc = put(self, &v, i, first + i, err);
    }
    token_values_close(&v);
    return rc;
}

static void put_legend(enum token_quantity quantity, struct str *out) {
    str_puts(out, quantity == TOKEN_OPEN ? "<p class=\"striplegend\">kept by " : "<p class=\"striplegend\">mean utility ");
    for (size_t i = 0; i < TOKEN_STRIP_STEPS; i++)
        str_printf(out, "<span class=\"c%zu\">%s</span>", i,
                   i == 0                       ? quantity == TOKEN_OPEN ? "no head" : "0"
                   : i + 1 == TOKEN_STRIP_STEPS ? quantity == TOKEN_OPEN ? "all heads" : "1"
                                                : "&#160;");
    str_puts(out, "</p>\n");
}

struct strip {
    const struct token_text *text;
    struct str *out;
};

static int put_html(void *self, const struct token_values *v, size_t i, size_t position, struct err *err) {
    const struct strip *s = self;
    put_span(v, i, position, s->text, s->out);
    return s->out->failed ? err_memory(err, "a strip of tokens", s->out->len) : OK;
}

int token_strip_put_html(struct profile *profile, const struct run_sequence *sequence, const struct token_text *text,
                         size_t max_tokens, struct str *out, struct err *err) {
    struct strip s = {text, out};
    put_legend(token_quantity_of(profile), out);
    page_begin_scroll(out, "text, every token coloured");
    str_puts(out, "<div class=\"strip\">");
    int rc = walk(profile, sequence, sequence->n < max_tokens ? sequence->n : max_tokens, put_html, &s, err);
    str_puts(out, "</div>\n");
    page_end_scroll(out);
    return rc;
}

/* -- CSV, a block of rows at a time -- */

static const struct column columns_open[] = {
    {"position", NULL, COLUMN_COUNT, 0}, {"token_id", NULL, COLUMN_COUNT, 0}, {"token", NULL, COLUMN_TEXT, 0},
    {"nll_nat", NULL, COLUMN_REAL, 0},   {"n_heads", NULL, COLUMN_COUNT, 0},  {"n_kept", NULL, COLUMN_REAL, 0},
    {"share", NULL, COLUMN_REAL, 0}};
static const struct column columns_utility[] = {
    {"position", NULL, COLUMN_COUNT, 0}, {"token_id", NULL, COLUMN_COUNT, 0}, {"token", NULL, COLUMN_TEXT, 0},
    {"nll_nat", NULL, COLUMN_REAL, 0},   {"n_heads", NULL, COLUMN_COUNT, 0},  {"utility_sum", NULL, COLUMN_REAL, 0},
    {"share", NULL, COLUMN_REAL, 0}};

enum { N_COLUMNS = sizeof columns_open / sizeof *columns_open };

struct csv {
    const struct token_text *text;
    FILE *stream;
};

static int put_csv(void *self, const struct token_values *v, size_t i, size_t position, struct err *err) {
    const struct csv *c = self;
    struct str token = {0}, clean = {0}, line = {0};
    struct table row;
    size_t n;
    double sum = token_values_sum(v, i, &n);
    token_text_put(c->text, v->id[i], &token);
    token_put_visible(str_text(&token), &clean);
    table_init(&row, v->quantity == TOKEN_OPEN ? columns_open : columns_utility, N_COLUMNS);
    table_put_count(&row, position);
    table_put_count(&row, (uint64_t)v->id[i]);
    table_put_text(&row, str_text(&clean));
    table_put_real(&row, (double)v->nll[i]);
    table_put_count(&row, n);
    table_put_real(&row, n ? sum : (double)NAN);
    table_put_real(&row, n ? sum / (double)n : (double)NAN);
    table_put_csv(&row, position == 0, &line);
    int rc = line.failed || token.failed || clean.failed ? err_memory(err, "a table", line.len) : OK;
    if (rc == OK)
        fwrite(str_text(&line), 1, line.len, c->stream); /* commit sees ferror */
    table_free(&row);
    str_free(&token);
    str_free(&clean);
    str_free(&line);
    return rc;
}

int token_strip_write_csv(struct profile *profile, const struct run_sequence *sequence, const struct token_text *text,
                          const char *path, struct err *err) {
    struct file_out out = {0};
    int rc = file_out_open(&out, path, err);
    if (rc == OK)
        rc = walk(profile, sequence, sequence->n, put_csv, &(struct csv){text, out.stream}, err);
    if (rc == OK)
        rc = file_out_commit(&out, err);
    file_out_discard(&out);
    return rc;
}
