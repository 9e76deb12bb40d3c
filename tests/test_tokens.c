/* Tokens of a run: the strip (every token with its number, nothing of it unescaped), its table, the ranking against a count
 * by hand, and the style sheet's colours. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "reports/colormap.h"
#include "reports/page.h"
#include "reports/run_sequence.h"
#include "reports/token_strip.h"
#include "reports/token_table.h"
#include "tests/fake_run.h"
#include "tests/scratch.h"

enum { SHOWN = 5, N_HEADS = FAKE_LH - FAKE_HEADS /* that have gates */ };

static const struct fake_run fake = {.n_sequences = 70, .score = PROFILE_SCORE_SIGMOID, .gates = true,
                                     .record = PROFILE_RECORD_TOKENS | PROFILE_RECORD_OPEN};

struct world {
    struct scratch scratch;
    struct profile *profile;
    struct run run;
    struct run_sequence sequence;
};

static void must(int rc, const struct err *err) {
    if (rc != OK)
        fail_msg("%s: %s", err->where, err->message);
}

static int open_world(void **state) {
    static struct world w;
    struct err err = {0};
    scratch_open(&w.scratch);
    must(fake_record(scratch_path(&w.scratch, "run.h5"), &fake, &err), &err);
    must(profile_open(scratch_path(&w.scratch, "run.h5"), &w.profile, &err), &err);
    must(run_load(w.profile, &w.run, &err), &err);
    must(run_sequence_find(w.profile, &w.run, SHOWN, &w.sequence, &err), &err);
    *state = &w;
    return 0;
}

static int close_world(void **state) {
    struct world *w = *state;
    run_free(&w->run);
    profile_close(w->profile);
    scratch_close(&w->scratch);
    return 0;
}

#define HOSTILE "\"'><script>alert(1)</script>&\xff\x1b[31m\n"

/* Every third token tries to be more than text. */
static void put_token(const void *self, int32_t id, struct str *out) {
    (void)self;
    if (id % 3 == 0)
        str_puts(out, HOSTILE);
    else
        str_printf(out, " t%d", id);
}

static const struct token_text text = {NULL, put_token};

static size_t count_open(size_t sequence, size_t t) {
    size_t n = 0;
    for (size_t h = 0; h < FAKE_LH; h++)
        n += h / FAKE_HEADS != FAKE_SLIDING && fake_open(&fake, sequence, h / FAKE_HEADS, h % FAKE_HEADS, t);
    return n;
}

static size_t count(const char *where, const char *what) {
    size_t n = 0;
    for (const char *p = where; (p = strstr(p, what)); p++)
        n++;
    return n;
}

static void every_token_has_its_number(void **state) {
    struct world *w = *state;
    struct str html = {0};
    struct err err = {0};
    must(token_strip_put_html(w->profile, &w->sequence, &text, TOKEN_STRIP_PAGE_TOKENS, &html, &err), &err);
    const char *at = strstr(str_text(&html), "<div class=\"strip\">");
    for (size_t t = 0; t < fake_length(SHOWN); t++) {
        char expected[160];
        size_t open = count_open(SHOWN, t);
        at = strstr(at, "<span class=");
        assert_non_null(at);
        snprintf(expected, sizeof expected, "<span class=\"c%zu\" data-v=\"%zu\" title=\"token %zu: kept by %zu of %d heads",
                 open == N_HEADS ? 10 : open * 11 / N_HEADS, open, t, open, N_HEADS);
        if (strncmp(at, expected, strlen(expected)) != 0)
            fail_msg("expected %s, there is %.100s", expected, at);
        at++;
    }
    assert_null(strstr(at, "<span class="));
    str_free(&html);
}

static void nothing_of_a_token_is_markup(void **state) {
    struct world *w = *state;
    struct str html = {0};
    struct err err = {0};
    must(token_strip_put_html(w->profile, &w->sequence, &text, TOKEN_STRIP_PAGE_TOKENS, &html, &err), &err);
    assert_null(strstr(html.data, "<script"));
    assert_null(strchr(html.data, '\x1b'));
    assert_true(count(html.data, "&lt;script&gt;") > 5);
    assert_int_equal(utf8_first_invalid(html.data, html.len), html.len);
    assert_int_equal(count(html.data, "<span"), count(html.data, "</span>"));
    assert_int_equal(count(html.data, "<div"), count(html.data, "</div>"));
    str_free(&html);
}

static void a_long_text_is_cut_on_the_page(void **state) {
    struct world *w = *state;
    struct str html = {0};
    struct err err = {0};
    must(token_strip_put_html(w->profile, &w->sequence, &text, 7, &html, &err), &err);
    assert_int_equal(count(html.data, "data-v="), 7);
    str_free(&html);
}

static void without_a_tokenizer_ids_stand(void **state) {
    struct world *w = *state;
    struct str html = {0};
    struct err err = {0};
    char expected[32];
    must(token_strip_put_html(w->profile, &w->sequence, NULL, 3, &html, &err), &err);
    snprintf(expected, sizeof expected, ">[%d]</span>", fake_token(SHOWN, 1));
    assert_non_null(strstr(html.data, expected));
    str_free(&html);
}

static void the_table_has_the_same_numbers(void **state) {
    struct world *w = *state;
    struct err err = {0};
    char *csv, *line;
    size_t n;
    must(token_strip_write_csv(w->profile, &w->sequence, NULL, scratch_path(&w->scratch, "tokens.csv"), &err), &err);
    must(file_read_all(scratch_path(&w->scratch, "tokens.csv"), 1 << 20, &csv, &n, &err), &err);
    line = csv;
    assert_int_equal(strncmp(line, "position,token_id,token,nll_nat,n_heads,n_kept,share\n", 53), 0);
    for (size_t t = 0; t < fake_length(SHOWN); t++) {
        unsigned long long position, heads, kept;
        int id;
        char nll[64] = "", name[32];
        double share;
        line = strchr(line, '\n') + 1;
        int fields = sscanf(line, "%llu,%d,%31[^,],%63[^,],%llu,%llu,%lf", &position, &id, name, nll, &heads, &kept, &share);
        if (isnan(fake_nll(SHOWN, t)))
            fields = 4 + sscanf(line, "%llu,%d,%31[^,],,%llu,%llu,%lf", &position, &id, name, &heads, &kept, &share) - 3;
        else
            assert_true(fabsf(strtof(nll, NULL) - fake_nll(SHOWN, t)) == 0);
        assert_int_equal(fields, 7);
        assert_int_equal(position, t);
        assert_int_equal(id, fake_token(SHOWN, t));
        assert_int_equal(heads, N_HEADS);
        assert_int_equal(kept, count_open(SHOWN, t));
        assert_true(share == (double)kept / N_HEADS);
    }
    assert_string_equal(strchr(line, '\n'), "\n");
    free(csv);
}

/* Occurrences of an id and the gates open at them, over all sequences. */
static void count_id(int32_t id, uint64_t *n, uint64_t *open) {
    *n = *open = 0;
    for (size_t i = 0; i < fake.n_sequences; i++)
        for (size_t t = 0; t < fake_length(i); t++)
            if (fake_token(i, t) == id) {
                ++*n;
                *open += count_open(i, t);
            }
}

static void assert_ranked(const struct ranked_token *r, bool most) {
    uint64_t n, open;
    size_t shown = count_open(r->row, r->position);
    count_id(r->id, &n, &open);
    assert_int_equal(r->n, n);
    assert_int_equal(r->n_pairs, n * N_HEADS);
    assert_true(fabs(r->share - (double)open / (double)(n * N_HEADS)) < 1e-12);
    assert_int_equal(fake_token(r->row, r->position), r->id); /* rows are the global numbers here */
    assert_true(r->example_share == (double)shown / N_HEADS);
    for (size_t i = 0; i < fake.n_sequences; i++)
        for (size_t t = 0; t < fake_length(i); t++)
            if (fake_token(i, t) == r->id)
                assert_true(most ? count_open(i, t) <= shown : count_open(i, t) >= shown);
    for (size_t i = 0; i < r->n_context; i++)
        assert_int_equal(r->context[i], fake_token(r->row, r->position - r->n_before + i));
    assert_true(r->n_before == 8 || r->n_before == r->position);
    assert_true(r->n_context - r->n_before - 1 == 8 || r->position + r->n_context - r->n_before == fake_length(r->row));
}

static void the_ranking_is_that_of_a_count_by_hand(void **state) {
    struct world *w = *state;
    struct token_ranking r;
    struct err err = {0};
    double best = 0, worst = 1;
    size_t n_ids = 0;
    must(token_ranking_compute(w->profile, 6, &r, &err), &err);
    assert_int_equal(r.n, 6);
    assert_int_equal(r.min_occurrences, TOKEN_RANKING_OCCURRENCES);
    for (int32_t id = 0; id < 512; id++) {
        uint64_t n, open;
        count_id(id, &n, &open);
        if (n < TOKEN_RANKING_OCCURRENCES)
            continue;
        double share = (double)open / (double)(n * N_HEADS);
        n_ids++;
        best = fmax(best, share);
        worst = fmin(worst, share);
    }
    assert_int_equal(r.n_ids, n_ids);
    assert_true(fabs(r.most[0].share - best) < 1e-12 && fabs(r.least[0].share - worst) < 1e-12);
    for (size_t i = 0; i < r.n; i++) {
        assert_ranked(&r.most[i], true);
        assert_ranked(&r.least[i], false);
        assert_true(i == 0 || (r.most[i].share <= r.most[i - 1].share && r.least[i].share >= r.least[i - 1].share));
    }
    token_ranking_free(&r);
}

static void examples_are_escaped(void **state) {
    struct world *w = *state;
    struct token_ranking r;
    struct table table;
    struct str html = {0}, terminal = {0};
    struct err err = {0};
    must(token_ranking_compute(w->profile, 20, &r, &err), &err);
    token_table_fill(&r, &text, &table);
    assert_int_equal(table_n_rows(&table), 40);
    table_put_html(&table, "caption", &html);
    token_put_ranking(&r, &text, &terminal);
    assert_null(strstr(html.data, "<script"));
    assert_null(strchr(terminal.data, '\x1b'));
    str_free(&html);
    str_free(&terminal);
    table_free(&table);
    token_ranking_free(&r);
}

/* page.css writes the colours down; they are those of the colour map, with the text that reads best. */
static void colours_are_those_of_the_map(void **state) {
    (void)state;
    for (size_t i = 0; i < TOKEN_STRIP_STEPS; i++) {
        struct rgb c = colormap_at(COLORMAP_VIRIDIS, (double)i / (TOKEN_STRIP_STEPS - 1));
        char rule[80];
        snprintf(rule, sizeof rule, ".c%zu { background: #%02x%02x%02x; color: %s }", i, c.r, c.g, c.b,
                 rgb_wants_white(c) ? "#fff" : "#000");
        if (!strstr(page_style, rule))
            fail_msg("page.css has no %s", rule);
    }
    assert_int_equal(token_strip_step(0), 0);
    assert_int_equal(token_strip_step(0.5), 5);
    assert_int_equal(token_strip_step(1), 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_token_has_its_number),
        cmocka_unit_test(nothing_of_a_token_is_markup),
        cmocka_unit_test(a_long_text_is_cut_on_the_page),
        cmocka_unit_test(without_a_tokenizer_ids_stand),
        cmocka_unit_test(the_table_has_the_same_numbers),
        cmocka_unit_test(the_ranking_is_that_of_a_count_by_hand),
        cmocka_unit_test(examples_are_escaped),
        cmocka_unit_test(colours_are_those_of_the_map),
    };
    return cmocka_run_group_tests_name("tokens", tests, open_world, close_world);
}
