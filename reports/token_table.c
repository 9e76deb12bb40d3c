#include "reports/token_table.h"

#include <string.h>

#include "reports/text.h"

void token_put_visible(const char *text, struct str *out) {
    while (*text) {
        size_t n = strcspn(text, "\n\r\t");
        struct str part = {0};
        str_append(&part, text, n);
        text_put_clean(out, str_text(&part));
        out->failed |= part.failed;
        str_free(&part);
        text += n;
        if (*text) {
            str_puts(out, *text == '\n' ? "\xe2\x8f\x8e" : *text == '\r' ? "\xe2\x86\x90" : "\xe2\x87\xa5");
            text++;
        }
    }
}

static void put_tokens(const int32_t *ids, size_t n, const struct token_text *text, struct str *out) {
    struct str bytes = {0};
    for (size_t i = 0; i < n; i++)
        token_text_put(text, ids[i], &bytes);
    token_put_visible(str_text(&bytes), out);
    out->failed |= bytes.failed;
    str_free(&bytes);
}

void token_put_example(const struct ranked_token *t, const struct token_text *text, struct str *out) {
    put_tokens(t->context, t->n_before, text, out);
    str_puts(out, "\xc2\xbb");
    put_tokens(&t->id, 1, text, out);
    str_puts(out, "\xc2\xab");
    put_tokens(t->context + t->n_before + 1, t->n_context - t->n_before - 1, text, out);
}

static const struct column kept_columns[] = {{"list", "list", COLUMN_TEXT, 0},
                                             {"token", "token", COLUMN_TEXT, 0},
                                             {"token_id", "id", COLUMN_COUNT, 0},
                                             {"n_occurrences", "occurrences", COLUMN_COUNT, 0},
                                             {"n_pairs", NULL, COLUMN_COUNT, 0},
                                             {"share", "share kept", COLUMN_REAL, 4},
                                             {"example_share", "in the example", COLUMN_REAL, 4},
                                             {"example", "example with its surroundings", COLUMN_TEXT, 0}};
static const struct column utility_columns[] = {{"list", "list", COLUMN_TEXT, 0},
                                                {"token", "token", COLUMN_TEXT, 0},
                                                {"token_id", "id", COLUMN_COUNT, 0},
                                                {"n_occurrences", "occurrences", COLUMN_COUNT, 0},
                                                {"n_pairs", NULL, COLUMN_COUNT, 0},
                                                {"mean_utility", "mean utility", COLUMN_REAL, 4},
                                                {"example_utility", "in the example", COLUMN_REAL, 4},
                                                {"example", "example with its surroundings", COLUMN_TEXT, 0}};

static void put_row(const struct ranked_token *t, const char *list, const struct token_text *text, struct table *out) {
    struct str token = {0}, example = {0};
    put_tokens(&t->id, 1, text, &token);
    token_put_example(t, text, &example);
    table_put_text(out, list);
    table_put_text(out, str_text(&token));
    table_put_count(out, (uint64_t)t->id);
    table_put_count(out, t->n);
    table_put_count(out, t->n_pairs);
    table_put_real(out, t->share);
    table_put_real(out, t->example_share);
    table_put_text(out, str_text(&example));
    out->failed |= token.failed || example.failed;
    str_free(&token);
    str_free(&example);
}

void token_table_fill(const struct token_ranking *r, const struct token_text *text, struct table *out) {
    table_init(out, r->quantity == TOKEN_OPEN ? kept_columns : utility_columns, sizeof kept_columns / sizeof *kept_columns);
    for (size_t i = 0; i < r->n; i++)
        put_row(&r->most[i], "most kept", text, out);
    for (size_t i = 0; i < r->n; i++)
        put_row(&r->least[i], "least kept", text, out);
}

static void put_list(const struct ranked_token *tokens, size_t n, const char *title, const struct token_text *text,
                     struct str *out) {
    str_printf(out, "\n%s\n", title);
    for (size_t i = 0; i < n; i++) {
        str_printf(out, "  %6.2f %%  %6llu x  ", 100 * tokens[i].share, (unsigned long long)tokens[i].n);
        put_tokens(&tokens[i].id, 1, text, out);
        str_puts(out, "\n                       ");
        token_put_example(&tokens[i], text, out);
        str_putc(out, '\n');
    }
}

void token_put_ranking(const struct token_ranking *r, const struct token_text *text, struct str *out) {
    bool open = r->quantity == TOKEN_OPEN;
    str_printf(out,
               "%zu different tokens that occur %llu times or more; %s over all heads and occurrences; an example each\n",
               r->n_ids, (unsigned long long)r->min_occurrences, open ? "share of open gates" : "mean utility");
    put_list(r->most, r->n, open ? "most kept tokens" : "tokens of highest utility", text, out);
    put_list(r->least, r->n, open ? "least kept tokens" : "tokens of lowest utility", text, out);
}
