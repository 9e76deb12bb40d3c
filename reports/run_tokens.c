#include "reports/run_tokens.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "analyze/token_ranking.h"
#include "base/file.h"
#include "reports/canvas.h"
#include "reports/keep_map.h"
#include "reports/page.h"
#include "reports/run_sequence.h"
#include "reports/text.h"
#include "reports/token_strip.h"
#include "reports/token_table.h"

enum { N_RANKED = 20, MAX_INLINE_BYTES = 1 << 20 /* of a picture inside the page */ };

struct place {
    struct profile *profile;
    const struct run *run;
    const struct run_tokens_options *options;
    const char *dir;
    struct str *page;
};

static int write_strip(const struct place *p, const struct run_sequence *s, struct err *err) {
    struct str path = {0}, text = {0}, context = {0};
    str_printf(&path, "%s/tokens_%llu.csv", p->dir, (unsigned long long)s->index);
    int rc = path.failed ? err_memory(err, "a path", path.len)
                         : token_strip_write_csv(p->profile, s, p->options->text, path.data, err);
    run_sequence_put(s, &text);
    str_puts(&text, token_quantity_of(p->profile) == TOKEN_OPEN
                        ? " Every token has the colour of how many heads keep it when it leaves the window."
                        : " Every token has the colour of its mean utility over all heads.");
    if (s->n > TOKEN_STRIP_PAGE_TOKENS)
        str_printf(&text, " Here are the first %d; tokens_%llu.csv has all.", TOKEN_STRIP_PAGE_TOKENS,
                   (unsigned long long)s->index);
    run_put_context(p->run, &context);
    if (rc == OK) {
        page_put_heading(p->page, "A text and what is kept of it");
        rc = token_strip_put_html(p->profile, s, p->options->text, TOKEN_STRIP_PAGE_TOKENS, p->page, err);
        page_put_note(p->page, str_text(&text));
        page_put_note(p->page, str_text(&context));
    }
    p->page->failed |= text.failed || context.failed;
    str_free(&path);
    str_free(&text);
    str_free(&context);
    return rc;
}

/* The picture inside the page where it is small enough, else its name. */
static int show_map(const struct place *p, const char *path, const char *name, size_t width, struct err *err) {
    struct stat info;
    char *bytes = NULL;
    size_t n = 0;
    page_put_heading(p->page, "Keep map");
    if (stat(path, &info) == 0 && info.st_size > MAX_INLINE_BYTES) {
        struct str note = {0};
        str_printf(&note, "%s.png shows every token and head of this sequence; it is too large for this page.", name);
        page_put_note(p->page, str_text(&note));
        str_free(&note);
        return OK;
    }
    int rc = file_read_all(path, MAX_INLINE_BYTES, &bytes, &n, err);
    if (rc != OK)
        return rc;
    page_begin_scroll(p->page, "keep map");
    str_printf(p->page, "<img width=\"%zu\" alt=\"A row per token, a column per head; the numbers are in %s.csv.gz.\" "
                        "src=\"data:image/png;base64,", width, name);
    text_put_base64(p->page, bytes, n);
    str_puts(p->page, "\">\n");
    page_end_scroll(p->page);
    free(bytes);
    return OK;
}

static int write_map(const struct place *p, const struct run_sequence *s, struct err *err) {
    char name[40];
    struct keep_map_geometry g;
    struct str path = {0};
    if (!keep_map_possible(p->profile)) {
        page_put_note(p->page, "Too many heads for a keep map.");
        return OK;
    }
    snprintf(name, sizeof name, "keep_map_%llu", (unsigned long long)s->index);
    str_printf(&path, "%s/%s.png", p->dir, name);
    int rc = path.failed ? err_memory(err, "a path", path.len)
                         : keep_map_write(p->profile, p->run, s, p->dir, name, &g, err);
    if (rc == OK)
        rc = show_map(p, path.data, name, g.width / CANVAS_SCALE, err);
    str_free(&path);
    return rc;
}

static int write_sequence(const struct place *p, uint64_t index, struct err *err) {
    struct run_sequence s;
    int rc = run_sequence_find(p->profile, p->run, index, &s, err);
    if (rc != OK || s.n == 0)
        return rc;
    rc = write_strip(p, &s, err);
    return rc == OK ? write_map(p, &s, err) : rc;
}

static int write_ranking(const struct place *p, struct err *err) {
    struct token_ranking ranking;
    struct table table;
    struct str caption = {0};
    char *path = file_join(p->dir, "most_kept_tokens.csv", err);
    int rc = path ? token_ranking_compute(p->profile, N_RANKED, &ranking, err) : ERR_MEMORY;
    if (rc == OK) {
        token_table_fill(&ranking, p->options->text, &table);
        rc = table_write_csv(&table, path, err);
        str_printf(&caption, "Tokens that heads keep most and least, of %zu that occur %llu times or more in the run.",
                   ranking.n_ids, (unsigned long long)ranking.min_occurrences);
        page_put_table(p->page, &table, str_text(&caption), "most_kept_tokens.csv");
        table_free(&table);
        token_ranking_free(&ranking);
    }
    p->page->failed |= caption.failed;
    str_free(&caption);
    free(path);
    return rc;
}

int run_tokens_write(struct profile *profile, const struct run *run, const struct run_tokens_options *options,
                     const char *dir, struct str *page, struct err *err) {
    struct place p = {profile, run, options, dir, page};
    uint64_t first;
    int rc = OK;
    if (token_quantity_of(profile) == TOKEN_NOTHING) {
        if (run->meta->has_gates || options->n_sequences)
            page_put_note(page, "Which tokens heads keep was not recorded: spkv profile --record tokens,open does, and the "
                                "report then shows a text with every token coloured and its keep map.");
        return OK;
    }
    if (profile_n_sequences(profile) == 0)
        return OK;
    if (!options->text || !options->text->put)
        page_put_note(page, "The tokenizer of the model was not found where it was when the run was recorded, so ids "
                            "stand for tokens: spkv report --tokenizer FILE names it.");
    for (size_t i = 0; rc == OK && i < options->n_sequences; i++)
        rc = write_sequence(&p, options->sequences[i], err);
    if (rc == OK && options->n_sequences == 0 && (rc = run_sequence_first(profile, &first, err)) == OK)
        rc = write_sequence(&p, first, err);
    return rc == OK ? write_ranking(&p, err) : rc;
}
