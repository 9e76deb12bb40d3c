/* eval_rolling.c - perplexity of texts in windows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "cli/eval.h"
#include "datasets/corpus.h"

struct rolling_run {
    struct evaluation *e;
    const struct eval_task *task;
    struct eval_row *row;
    struct corpus *corpus;
    struct eval_batch batch;
    double *nll[N_SIDES];       /* (n) of each document */
    size_t nll_cap[N_SIDES], n;
    uint64_t n_tok, n_words, n_bytes;
    double sum[N_SIDES];
};

bool eval_rolling_takes(const struct row_kind *row_kind, const json_t *first_row) {
    (void)first_row;
    return !row_kind || strcmp(row_kind_name(row_kind), "text") == 0;
}

/* Fields of re.split(r"\s+", text): runs of white space, and one more. */
static uint64_t count_words(const char *text, size_t n) {
    uint64_t words = 1;
    bool before = false;
    for (size_t i = 0; i < n;) {
        unsigned code_point;
        i += utf8_decode(text + i, n - i, &code_point);
        bool space = is_python_space(code_point);
        words += space && !before;
        before = space;
    }
    return words;
}

static json_t *item_json(const struct rolling_run *r, const struct document *d, uint64_t words, size_t n_tok) {
    json_t *object = json_pack("{s:s, s:I, s:I, s:I, s:I, s:f}", "task", r->task->name, "item", (json_int_t)d->index,
                               "n_tok", (json_int_t)n_tok, "n_words", (json_int_t)words, "n_bytes", (json_int_t)d->n,
                               "log_likelihood", -r->nll[SIDE_POLICY][r->n]);
    if (r->e->scorings[SIDE_FULL])
        json_object_set_new(object, "log_likelihood_full", json_real(-r->nll[SIDE_FULL][r->n]));
    return object;
}

static int run_document(struct rolling_run *r, const struct document *d, struct err *err) {
    uint64_t words = count_words(d->text, d->n);
    size_t n_tok = 0;
    eval_batch_clear(&r->batch);
    int rc = eval_batch_windows(r->e, &r->batch, d->text, d->n, err);
    if (rc == OK && r->batch.n_requests)
        rc = eval_score(r->e, &r->batch, r->row, err);
    for (int side = 0; rc == OK && side < N_SIDES; side++)
        rc = mem_grow(&r->nll[side], &r->nll_cap[side], r->n + 1, sizeof(double), "results", err);
    for (int side = 0; rc == OK && side < N_SIDES; side++) {
        r->nll[side][r->n] = n_tok = 0;
        for (size_t i = 0; r->e->scorings[side] && i < r->batch.n_requests; i++) {
            r->nll[side][r->n] -= r->batch.scores[side][i].log_likelihood;
            r->sum[side] -= r->batch.scores[side][i].log_likelihood;
        }
    }
    for (size_t i = 0; rc == OK && i < r->batch.n_requests; i++)
        n_tok += r->batch.scores[SIDE_POLICY][i].n_scored;
    if (rc == OK && r->e->items.stream)
        rc = eval_put_item(r->e, item_json(r, d, words, n_tok), err);
    r->n++;
    r->n_tok += n_tok;
    r->n_words += words;
    r->n_bytes += d->n;
    return rc;
}

static void put_metric(struct rolling_run *r, const char *name, double (*of)(double per_unit), uint64_t n_units) {
    double value = of(r->sum[SIDE_POLICY] / (double)n_units);
    eval_put_metric(r->row, name, value, (double)NAN,
                    r->e->scorings[SIDE_FULL] ? of(r->sum[SIDE_FULL] / (double)n_units) : (double)NAN);
}

static double as_it_is(double nat) {
    return nat;
}

static double in_bits(double nat) {
    return nat / log(2);
}

static int fill_row(struct rolling_run *r, struct err *err) {
    if (r->n_tok == 0)
        return err_set(err, ERR_INPUT, r->task->path, "the texts have no tokens: there is nothing to predict");
    put_metric(r, "nat_per_token", as_it_is, r->n_tok);
    put_metric(r, "word_perplexity", exp, r->n_words);
    put_metric(r, "byte_perplexity", exp, r->n_bytes);
    put_metric(r, "bits_per_byte", in_bits, r->n_bytes);
    r->row->n_items = r->n;
    double *full = r->e->scorings[SIDE_FULL] ? r->nll[SIDE_FULL] : NULL;
    return eval_put_change(r->e, r->row, r->nll[SIDE_POLICY], full, r->n, err);
}

int eval_rolling_run(struct evaluation *e, const struct eval_task *task, struct eval_row *row, struct err *err) {
    struct rolling_run r = {.e = e, .task = task, .row = row};
    struct corpus_options options = {0};
    struct document document;
    char *path = mem_strdup(task->path, err);
    bool end = false;
    int rc = path ? corpus_open(&path, 1, &options, &r.corpus, err) : ERR_MEMORY;
    e->progress.unit = "texts";
    while (rc == OK && !end && (e->options->limit == 0 || r.n < e->options->limit)) {
        rc = corpus_next(r.corpus, &document, &end, err);
        if (rc == OK && !end && (rc = run_document(&r, &document, err)) == OK)
            eval_advance(e, 1);
    }
    if (rc == OK)
        rc = fill_row(&r, err);
    corpus_close(r.corpus);
    eval_batch_free(&r.batch);
    for (int side = 0; side < N_SIDES; side++)
        free(r.nll[side]);
    free(path);
    return rc;
}
