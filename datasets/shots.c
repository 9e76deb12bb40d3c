#include "datasets/shots.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* Rows of the pool, in order. */
struct pool {
    size_t *row; /* (cap) */
    size_t n;
};

static bool is_allowed(const struct shots *s, const json_t *row, size_t i) {
    return !s->exclude || !json_equal(s->file->rows[i], row);
}

/* Of a row without choices: the prompt with its completion behind. */
static int put_solved(const struct shots *s, const json_t *row, const char *where, struct str *out, struct err *err) {
    const struct row_fields fields = {0};
    struct row_texts texts = {0};
    int rc = row_render(s->kind, row, &fields, where, &texts, err);
    for (size_t i = 0; rc == OK && i < texts.len; i++) {
        str_append(out, str_text(&texts.bytes) + texts.items[i].begin, texts.items[i].n);
        str_puts(out, "\n\n");
    }
    rc = rc == OK && (out->failed || texts.bytes.failed) ? err_memory(err, "examples", out->len) : rc;
    row_texts_free(&texts);
    return rc;
}

static int put_example(const struct shots *s, size_t i, struct str *out, struct err *err) {
    struct choice_question q = {0};
    char where[4096];
    row_file_where(s->file, i, where, sizeof where);
    if (!row_kind_has_choices(s->kind))
        return put_solved(s, s->file->rows[i], where, out, err);
    int rc = row_question(s->kind, s->file->rows[i], where, &q, err);
    if (rc == OK) {
        str_puts(out, choice_context(&q, q.gold));
        choice_put_continuation(&q, q.gold, out);
        str_puts(out, "\n\n");
    }
    choice_question_free(&q);
    return rc == OK && out->failed ? err_memory(err, "examples", out->len) : rc;
}

/* All allowed rows, at most `cap`. */
static void take_allowed(const struct shots *s, const json_t *row, size_t cap, struct pool *pool) {
    pool->n = 0;
    for (size_t i = 0; i < s->file->n && pool->n < cap; i++)
        if (is_allowed(s, row, i))
            pool->row[pool->n++] = i;
}

/* One more than is needed is drawn where the question itself may be among them; where that was not enough, because rows are
 * there twice, the harness draws again from what is allowed. */
static int draw_examples(struct shots *s, const json_t *row, struct pool *pool, struct err *err) {
    size_t n_draw = s->n + s->exclude, n = 0;
    if (n_draw > s->file->n)
        return OK;
    int rc = python_random_sample(&s->random, s->file->n, n_draw, pool->row, err);
    for (size_t i = 0; rc == OK && i < n_draw && n < s->n; i++)
        if (is_allowed(s, row, pool->row[i]))
            pool->row[n++] = pool->row[i];
    pool->n = n;
    if (rc != OK || n == s->n)
        return rc;
    size_t *chosen = mem_alloc(s->n, sizeof *chosen, "examples", err);
    take_allowed(s, row, s->file->n, pool);
    rc = chosen ? OK : ERR_MEMORY;
    if (rc == OK && pool->n >= s->n)
        rc = python_random_sample(&s->random, pool->n, s->n, chosen, err);
    for (size_t i = 0; rc == OK && pool->n >= s->n && i < s->n; i++)
        chosen[i] = pool->row[chosen[i]];
    for (size_t i = 0; rc == OK && pool->n >= s->n && i < s->n; i++)
        pool->row[i] = chosen[i];
    pool->n = pool->n < s->n ? pool->n : s->n;
    free(chosen);
    return rc;
}

int shots_open(struct shots *shots, const char *path, const char *from, struct row_file *pool, struct err *err) {
    shots->exclude = !from || strcmp(from, path) == 0;
    shots->file = pool;
    return row_file_read(shots->exclude ? path : from, 0, pool, err);
}

int shots_put(struct shots *s, const json_t *row, struct str *out, struct err *err) {
    struct pool pool = {.row = mem_alloc(s->file->n + 1, sizeof *pool.row, "examples", err)};
    int rc = pool.row ? OK : ERR_MEMORY;
    if (rc == OK && s->first)
        take_allowed(s, row, s->n, &pool);
    else if (rc == OK)
        rc = draw_examples(s, row, &pool, err);
    if (rc == OK && pool.n < s->n)
        rc = err_set(err, ERR_INPUT, s->file->path, "holds %zu rows: too few for %zu examples that are not the question "
                     "itself", s->file->n, s->n);
    for (size_t i = 0; rc == OK && i < s->n; i++)
        rc = put_example(s, pool.row[i], out, err);
    free(pool.row);
    return rc;
}
