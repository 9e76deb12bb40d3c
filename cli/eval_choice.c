/* eval_choice.c - questions with choices: which answer is the likeliest? */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "cli/eval.h"
#include "datasets/shots.h"

static const char *const metric_names[N_CHOICE_UNITS] = {"acc", "acc_norm", "acc_bytes"}; /* by enum choice_unit */

struct choice_run {
    struct evaluation *e;
    const struct eval_task *task;
    struct eval_row *row;
    struct row_file file, pool;
    struct shots shots;
    struct eval_batch batch;
    struct choice_question questions[EVAL_BLOCK];
    uint8_t *right[N_CHOICE_UNITS][N_SIDES]; /* (n) */
    double *gold_nll[N_SIDES];          /* (n) */
    double *log_likelihood;             /* of the choices of one question */
    size_t log_likelihood_cap;
};

/* Samples of lm-eval are told from those of generation and perplexity by their second arguments. */
bool eval_choice_takes(const struct row_kind *row_kind, const json_t *first_row) {
    struct choice_question q = {0};
    struct err ignored = {0};
    bool samples = row_kind && strcmp(row_kind_name(row_kind), "lm-eval samples") == 0;
    bool takes = row_kind && row_kind_has_choices(row_kind);
    if (samples && json_object_get(first_row, "arguments"))
        takes = row_question(row_kind, first_row, "", &q, &ignored) == OK || q.continuations.n > 0;
    choice_question_free(&q);
    return takes;
}

/* --- items --- */

static int add_requests(struct choice_run *r, const struct choice_question *q, const char *before, const char *where,
                        struct err *err) {
    struct str context = {0}, continuation = {0};
    int rc = eval_batch_group(&r->batch, err);
    for (size_t i = 0; rc == OK && i < q->n_choices; i++) {
        str_clear(&context);
        str_clear(&continuation);
        str_printf(&context, "%s%s%s", str_text(&q->heading), before, choice_context(q, i));
        choice_put_continuation(q, i, &continuation);
        rc = context.failed || continuation.failed
                 ? err_memory(err, "a prompt", context.len)
                 : eval_batch_text(r->e, &r->batch, str_text(&context), str_text(&continuation), where, err);
    }
    str_free(&context);
    str_free(&continuation);
    return rc;
}

static int add_item(struct choice_run *r, size_t item, struct choice_question *q, struct err *err) {
    struct str examples = {0};
    char where[4096];
    row_file_where(&r->file, item, where, sizeof where);
    choice_question_clear(q);
    int rc = row_question(r->task->row_kind, r->file.rows[item], where, q, err);
    if (rc == OK && r->shots.n)
        rc = shots_put(&r->shots, r->file.rows[item], &examples, err);
    if (rc == OK)
        rc = add_requests(r, q, str_text(&examples), where, err);
    str_free(&examples);
    return rc;
}

static json_t *item_json(const struct choice_run *r, size_t item, const struct choice_question *q, size_t group) {
    static const char *const keys[N_SIDES] = {"scores", "scores_full"};
    size_t first = r->batch.splits[group];
    json_t *object = json_pack("{s:s, s:I, s:I, s:I}", "task", r->task->name, "item", (json_int_t)item, "line",
                               (json_int_t)r->file.line[item], "gold", (json_int_t)q->gold);
    for (int unit = 0; unit < N_CHOICE_UNITS; unit++)
        json_object_set_new(object, metric_names[unit], json_integer(r->right[unit][SIDE_POLICY][item]));
    for (int side = 0; side < N_SIDES; side++)
        if (r->e->scorings[side])
            json_object_set_new(object, keys[side], eval_scores_json(r->batch.scores[side] + first, q->n_choices));
    return object;
}

/* Alone, a choice is right when greedy decoding would write it. */
static bool is_right(const struct choice_question *q, const double *log_likelihood, const struct score *scores,
                     enum choice_unit unit) {
    return q->n_choices == 1 ? scores[0].is_greedy : choice_best(q, log_likelihood, unit) == q->gold;
}

static int judge_item(struct choice_run *r, size_t item, const struct choice_question *q, size_t group, struct err *err) {
    int rc = mem_grow(&r->log_likelihood, &r->log_likelihood_cap, q->n_choices, sizeof(double), "scores", err);
    if (rc != OK)
        return rc;
    for (int side = 0; side < N_SIDES; side++) {
        if (!r->e->scorings[side])
            continue;
        const struct score *scores = r->batch.scores[side] + r->batch.splits[group];
        for (size_t i = 0; i < q->n_choices; i++)
            r->log_likelihood[i] = scores[i].log_likelihood;
        for (int unit = 0; unit < N_CHOICE_UNITS; unit++)
            r->right[unit][side][item] = is_right(q, r->log_likelihood, scores, (enum choice_unit)unit);
        r->gold_nll[side][item] = -r->log_likelihood[q->gold];
    }
    return r->e->items.stream ? eval_put_item(r->e, item_json(r, item, q, group), err) : OK;
}

static int run_block(struct choice_run *r, size_t first, size_t n, struct err *err) {
    int rc = OK;
    eval_batch_clear(&r->batch);
    for (size_t i = 0; rc == OK && i < n; i++)
        rc = add_item(r, first + i, &r->questions[i], err);
    if (rc == OK)
        rc = eval_score(r->e, &r->batch, r->row, err);
    for (size_t i = 0; rc == OK && i < n; i++)
        rc = judge_item(r, first + i, &r->questions[i], i, err);
    if (rc == OK)
        eval_advance(r->e, n);
    return rc;
}

/* --- the task --- */

static int open_shots(struct choice_run *r, struct err *err) {
    const struct eval_options *o = r->e->options;
    const char *sampler = o->shot_sampler ? o->shot_sampler : strcmp(row_kind_name(r->task->row_kind), "mmlu") == 0 ? "first"
                                                                                                                  : "random";
    if (o->n_shots == 0)
        return OK;
    if (strcmp(row_kind_name(r->task->row_kind), "lm-eval samples") == 0)
        return err_set(err, ERR_USAGE, r->task->path, "--shots: samples of lm-eval hold their examples already");
    r->shots = (struct shots){.kind = r->task->row_kind, .n = (size_t)o->n_shots, .first = strcmp(sampler, "first") == 0};
    python_random_seed(&r->shots.random, o->shot_seed);
    return shots_open(&r->shots, r->task->path, o->shots_from, &r->pool, err);
}

static int open_run(struct choice_run *r, struct err *err) {
    int rc = row_file_read(r->task->path, r->e->options->limit, &r->file, err);
    for (int side = 0; rc == OK && side < N_SIDES; side++) {
        for (int unit = 0; unit < N_CHOICE_UNITS; unit++)
            if (!(r->right[unit][side] = mem_alloc(r->file.n, 1, "results", err)))
                return ERR_MEMORY;
        if (!(r->gold_nll[side] = mem_alloc(r->file.n, sizeof(double), "results", err)))
            return ERR_MEMORY;
    }
    return rc == OK ? open_shots(r, err) : rc;
}

static void close_run(struct choice_run *r) {
    for (int side = 0; side < N_SIDES; side++) {
        for (int unit = 0; unit < N_CHOICE_UNITS; unit++)
            free(r->right[unit][side]);
        free(r->gold_nll[side]);
    }
    for (size_t i = 0; i < EVAL_BLOCK; i++)
        choice_question_free(&r->questions[i]);
    free(r->log_likelihood);
    eval_batch_free(&r->batch);
    row_file_free(&r->pool);
    row_file_free(&r->file);
    free(r);
}

static double mean(const double *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    return sum / (double)n;
}

static int fill_row(struct choice_run *r, struct err *err) {
    bool beside = r->e->scorings[SIDE_FULL];
    size_t n = r->file.n;
    for (int unit = 0; unit < N_CHOICE_UNITS; unit++)
        eval_put_share(r->row, metric_names[unit], r->right[unit][SIDE_POLICY], beside ? r->right[unit][SIDE_FULL] : NULL,
                       n);
    eval_put_metric(r->row, "gold_nll", mean(r->gold_nll[SIDE_POLICY], n), (double)NAN,
                    beside ? mean(r->gold_nll[SIDE_FULL], n) : (double)NAN);
    r->row->n_items = n;
    r->row->n_shots = r->e->options->n_shots;
    return eval_put_change(r->e, r->row, r->gold_nll[SIDE_POLICY], beside ? r->gold_nll[SIDE_FULL] : NULL, n, err);
}

int eval_choice_run(struct evaluation *e, const struct eval_task *task, struct eval_row *row, struct err *err) {
    struct choice_run *r = mem_alloc(1, sizeof *r, "a task", err);
    if (!r)
        return ERR_MEMORY;
    r->e = e;
    r->task = task;
    r->row = row;
    int rc = open_run(r, err);
    e->progress.total = r->file.n;
    for (size_t first = 0; rc == OK && first < r->file.n; first += EVAL_BLOCK)
        rc = run_block(r, first, r->file.n - first < EVAL_BLOCK ? r->file.n - first : EVAL_BLOCK, err);
    if (rc == OK)
        rc = fill_row(r, err);
    close_run(r);
    return rc;
}
