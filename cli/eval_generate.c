/* eval_generate.c - tasks that ask for a text: RULER, GSM8K, prompts with a completion. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/eval.h"
#include "cli/eval_means.h"
#include "datasets/exercise.h"
#include "datasets/shots.h"
#include "engine/generation.h"

/* One row of the file. */
struct item {
    struct exercise exercise;
    size_t first, n_tok; /* its prompt, in generate_run.tokens */
    size_t max_new;
    double scores[N_SIDES][EXERCISE_MAX_SCORES];
};

struct generate_run {
    struct evaluation *e;
    const struct eval_task *task;
    struct row_file file, pool;
    struct shots shots;
    struct item *items;          /* (file.n) */
    struct token_list tokens;
    struct session *sessions[N_SIDES];
    uint32_t *n_kept;            /* (n_layers, n_kv_heads) */
    uint64_t *visible;
    size_t n_done;
};

bool eval_generate_takes(const struct row_kind *row_kind, const json_t *first_row) {
    return exercise_takes(row_kind, first_row);
}

/* --- prompts --- */

static int put_prompt(struct generate_run *r, const json_t *row, struct item *item, struct str *out, struct err *err) {
    const struct exercise *x = &item->exercise;
    struct str message = {0};
    int rc = r->shots.n ? shots_put(&r->shots, row, &message, err) : OK;
    str_append(&message, str_text(&x->input), x->input.len);
    chat_put(&r->e->chat, str_text(&message), message.len, out);
    str_append(out, str_text(&x->prefix), x->prefix.len);
    out->failed |= message.failed;
    str_free(&message);
    return rc == OK && out->failed ? err_memory(err, "a prompt", out->len) : rc;
}

/* A template brings its own start token. */
static int encode_prompt(struct generate_run *r, struct item *item, const struct str *text, struct err *err) {
    const struct evaluation *e = r->e;
    size_t n_special;
    item->first = r->tokens.len;
    int rc = chat_is_on(&e->chat) ? tokenizer_encode(e->loaded.tokenizer, str_text(text), text->len, &r->tokens, err)
                                  : encode_text(&e->encoder, str_text(text), text->len, &r->tokens, &n_special, err);
    item->n_tok = r->tokens.len - item->first;
    return rc;
}

static int count_answer(struct generate_run *r, struct item *item, struct err *err) {
    const json_t *reference = json_array_get(item->exercise.references, 0);
    struct token_list ids = {0};
    item->max_new = item->exercise.max_new;
    if (item->max_new)
        return OK;
    int rc = tokenizer_encode(r->e->loaded.tokenizer, json_string_value(reference), json_string_length(reference), &ids,
                              err);
    item->max_new = ids.len;
    free(ids.data);
    return rc;
}

/* A task of RULER is a row of the table and named after its length: a file has one. */
static int check_length(const struct generate_run *r, size_t i, const char *where, struct err *err) {
    int length = r->items[i].exercise.max_length, first = r->items[0].exercise.max_length;
    if (length == first)
        return OK;
    return err_set(err, ERR_INPUT, where, "\"max_length\" is %d, but %d in the first row: put rows of another length into a "
                   "file of their own", length, first);
}

static int read_item(struct generate_run *r, size_t i, struct err *err) {
    struct item *item = &r->items[i];
    struct str text = {0};
    struct err inner = {0};
    char where[4096];
    row_file_where(&r->file, i, where, sizeof where);
    int rc = exercise_read(r->task->row_kind, r->file.rows[i], r->task->path, where, &item->exercise, err);
    if (rc == OK)
        rc = check_length(r, i, where, err);
    if (rc == OK)
        rc = put_prompt(r, r->file.rows[i], item, &text, err);
    if (rc == OK && ((rc = encode_prompt(r, item, &text, &inner)) != OK || (rc = count_answer(r, item, &inner)) != OK))
        rc = err_set(err, rc, where, "%s", inner.message);
    if (rc == OK && item->n_tok == 0)
        rc = err_set(err, ERR_INPUT, where, "the prompt is empty");
    if (rc == OK && item->n_tok + item->max_new > r->e->encoder.max_length)
        rc = err_set(err, ERR_INPUT, where, "the prompt and its answer are %zu + %zu tokens, the model takes %zu: make the "
                     "task shorter (spkv tasks ruler --length), or take fewer --shots", item->n_tok, item->max_new,
                     r->e->encoder.max_length);
    str_free(&text);
    return rc;
}

/* --- answers --- */

static int open_session(struct generate_run *r, enum eval_side side, const struct policy *policy, struct err *err) {
    const struct run_options_cli *run = &r->e->options->run;
    size_t longest = 0;
    for (size_t i = 0; i < r->file.n; i++)
        if (r->items[i].n_tok + r->items[i].max_new > longest)
            longest = r->items[i].n_tok + r->items[i].max_new;
    struct session_options options = {.n_slots = 1,
                                      .max_len = (int)longest,
                                      .max_rows = longest < (size_t)run->chunk ? longest : (size_t)run->chunk,
                                      .policy = policy,
                                      .dense_prefill = run->dense_prefill};
    return session_create(r->e->loaded.model, &options, &r->sessions[side], err);
}

/* What an item was answered, under both sides, and what the policy's cache held and was asked for meanwhile. */
struct answers {
    struct str text[N_SIDES];
    uint64_t n_new, n_far, n_kept, n_left_window, visible_pairs, causal_pairs;
};

static void answers_free(struct answers *a) {
    for (int side = 0; side < N_SIDES; side++)
        str_free(&a->text[side]);
}

static int count_cache(struct generate_run *r, struct answers *a, struct err *err) {
    const struct model_config *c = r->e->loaded.model->config;
    const struct policy *p = r->e->loaded.policy;
    struct kv_counts counts = {.n_kept = r->n_kept, .visible_pairs = r->visible};
    uint64_t n = (uint64_t)session_length(r->sessions[SIDE_POLICY], 0);
    int rc = kv_cache_read_counts(session_cache(r->sessions[SIDE_POLICY]), 0, &counts, err);
    for (size_t i = 0; rc == OK && i < (size_t)c->n_layers * (size_t)c->n_kv_heads; i++) {
        uint64_t inside = (uint64_t)p->window[i] + (uint64_t)p->sinks;
        if (c->layers[i / (size_t)c->n_kv_heads].sliding_window > 0)
            continue;
        a->n_left_window += n > inside ? n - inside : 0;
        a->n_kept += r->n_kept[i];
        a->visible_pairs += r->visible[i];
        a->causal_pairs += n * (n + 1) / 2;
    }
    return rc;
}

static bool is_done(void *self, const char *text, size_t n) {
    return exercise_is_done(self, text, n);
}

/* A zero byte, which JSON cannot carry through, becomes a line break: to the rules it is the same. */
static void replace_zeros(struct str *text) {
    for (size_t i = 0; i < text->len; i++)
        if (text->data[i] == 0)
            text->data[i] = '\n';
}

static int generate_answer(struct generate_run *r, size_t i, enum eval_side side, struct answers *out, struct err *err) {
    struct item *item = &r->items[i];
    const struct policy *p = r->e->loaded.policy;
    struct generation_options options = {.max_new = item->max_new,
                                         .stops = item->exercise.stops,
                                         .n_stops = item->exercise.n_stops,
                                         .sampling = {.top_p = 1},
                                         .chunk = (size_t)r->e->options->run.chunk,
                                         .is_done = is_done,
                                         .self = &item->exercise};
    size_t n_new;
    int rc = generate_text(r->sessions[side], 0, i, r->e->loaded.model, r->e->loaded.tokenizer, r->tokens.data + item->first,
                           item->n_tok, &options, &out->text[side], &n_new, err);
    replace_zeros(&out->text[side]);
    if (rc != OK || side == SIDE_FULL)
        return rc;
    out->n_new = n_new; /* the first was drawn behind the prompt, each other one behind the one before it */
    for (size_t query = item->n_tok - 1; query < item->n_tok - 1 + n_new; query++)
        out->n_far += query >= (size_t)p->base_window + (size_t)p->sinks;
    return count_cache(r, out, err);
}

/* Answers in the journal: both texts and six numbers. */
static json_t *pack_answers(const struct answers *a) {
    return json_pack("[s#, s#, I, I, I, I, I, I]", str_text(&a->text[SIDE_POLICY]), (int)a->text[SIDE_POLICY].len,
                     str_text(&a->text[SIDE_FULL]), (int)a->text[SIDE_FULL].len, (json_int_t)a->n_new, (json_int_t)a->n_far,
                     (json_int_t)a->n_kept, (json_int_t)a->n_left_window, (json_int_t)a->visible_pairs,
                     (json_int_t)a->causal_pairs);
}

static bool unpack_answers(json_t *from, struct answers *a) {
    const char *text[N_SIDES];
    json_int_t n[6];
    if (json_unpack(from, "[s, s, I, I, I, I, I, I]", &text[SIDE_POLICY], &text[SIDE_FULL], &n[0], &n[1], &n[2], &n[3],
                    &n[4], &n[5]) != 0)
        return false;
    for (int side = 0; side < N_SIDES; side++)
        str_puts(&a->text[side], text[side]);
    a->n_new = (uint64_t)n[0];
    a->n_far = (uint64_t)n[1];
    a->n_kept = (uint64_t)n[2];
    a->n_left_window = (uint64_t)n[3];
    a->visible_pairs = (uint64_t)n[4];
    a->causal_pairs = (uint64_t)n[5];
    return true;
}

/* Of the journal where it has them, else generated. */
static int find_answers(struct generate_run *r, size_t i, struct answers *out, struct err *err) {
    struct eval_journal *journal = r->e->journal;
    char key[64];
    int rc = OK;
    snprintf(key, sizeof key, "%zu:answer:%zu", r->e->n_rows, i);
    json_t *stored = journal ? eval_journal_take(journal, key) : NULL;
    if (stored && !unpack_answers(stored, out))
        rc = err_set(err, ERR_INPUT, r->e->options->output, "the interrupted run has a line that is no answer (--force "
                     "begins anew)");
    for (int side = 0; rc == OK && !stored && side < N_SIDES; side++)
        if (r->sessions[side])
            rc = generate_answer(r, i, (enum eval_side)side, out, err);
    if (rc == OK && !stored && journal)
        rc = eval_journal_put(journal, key, pack_answers(out), err);
    json_decref(stored);
    return rc;
}

static int put_item(struct generate_run *r, size_t i, const struct eval_row *row, const struct answers *a, struct err *err) {
    static const char *const keys[N_SIDES] = {"pred", "pred_full"};
    const struct exercise *x = &r->items[i].exercise;
    json_t *object = json_pack("{s:s, s:I, s:I, s:I, s:O}", "task", row->name, "item", (json_int_t)i, "line",
                               (json_int_t)r->file.line[i], "n_prompt_tok", (json_int_t)r->items[i].n_tok, "outputs",
                               x->references);
    for (size_t score = 0; score < exercise_n_scores(x); score++)
        json_object_set_new(object, exercise_score_name(x, score), json_real(r->items[i].scores[SIDE_POLICY][score]));
    for (int side = 0; side < N_SIDES; side++)
        if (r->sessions[side])
            json_object_set_new(object, keys[side], json_stringn(str_text(&a->text[side]), a->text[side].len));
    return eval_put_item(r->e, object, err);
}

static void count_answers(const struct answers *a, struct eval_row *row) {
    row->n_scored += a->n_new;
    row->n_far += a->n_far;
    row->n_kept += a->n_kept;
    row->n_left_window += a->n_left_window;
    row->visible_pairs += a->visible_pairs;
    row->causal_pairs += a->causal_pairs;
}

static int run_item(struct generate_run *r, size_t i, struct eval_row *row, struct err *err) {
    struct item *item = &r->items[i];
    struct answers answers = {0};
    int rc = find_answers(r, i, &answers, err);
    for (int side = 0; rc == OK && side < N_SIDES; side++)
        if (r->sessions[side])
            rc = exercise_score(&item->exercise, str_text(&answers.text[side]), answers.text[side].len, item->scores[side],
                                err);
    if (rc == OK)
        count_answers(&answers, row);
    if (rc == OK && r->e->items.stream)
        rc = put_item(r, i, row, &answers, err);
    answers_free(&answers);
    if (rc == OK && *r->e->stop)
        rc = err_set(err, ERR_INCOMPLETE, "", "stopped before the end: there is no result");
    eval_advance(r->e, 1);
    return rc;
}

/* --- a row of the table: the items of one task of RULER, or of the whole file --- */

/* Items first, first + 1, ... with the task of the first, at most --limit. */
static size_t next_of_task(const struct generate_run *r, const struct ruler_task *task, size_t i) {
    while (i < r->file.n && r->items[i].exercise.ruler != task)
        i++;
    return i;
}

static int run_row(struct generate_run *r, const struct ruler_task *task, struct eval_row *row, struct err *err) {
    const struct eval_options *o = r->e->options;
    const struct exercise *x = NULL;
    struct eval_scores scores[EXERCISE_MAX_SCORES] = {{.n = 0}};
    int rc = OK;
    for (size_t i = next_of_task(r, task, 0), n = 0; rc == OK && i < r->file.n && (o->limit == 0 || n < o->limit);
         i = next_of_task(r, task, i + 1), n++) {
        x = &r->items[i].exercise;
        rc = run_item(r, i, row, err);
        for (size_t score = 0; rc == OK && score < exercise_n_scores(x); score++)
            rc = eval_scores_add(&scores[score], r->items[i].scores[SIDE_POLICY][score],
                                 r->items[i].scores[SIDE_FULL][score], err);
    }
    for (size_t score = 0; rc == OK && score < exercise_n_scores(x); score++)
        rc = eval_put_scores(r->e, row, exercise_score_name(x, score), &scores[score], task != NULL, err);
    if (rc == OK && task)
        rc = eval_ruler_add(r->e, task, x->max_length, row, &scores[0], err);
    row->n_items = scores[0].n;
    row->n_shots = o->n_shots;
    for (size_t score = 0; score < EXERCISE_MAX_SCORES; score++)
        eval_scores_free(&scores[score]);
    return rc;
}

static bool seen_before(const struct generate_run *r, size_t i) {
    return next_of_task(r, r->items[i].exercise.ruler, 0) < i;
}

/* After its task; with the length where there may be several. */
static void name_row(const struct generate_run *r, const struct exercise *x, struct eval_row *row) {
    if (r->e->options->n_tasks > 1 && x->max_length)
        snprintf(row->name, sizeof row->name, "%s %d", ruler_task_name(x->ruler), x->max_length);
    else
        snprintf(row->name, sizeof row->name, "%s", ruler_task_name(x->ruler));
}

/* The first row is there already. */
static int run_rows(struct generate_run *r, struct eval_row *row, struct err *err) {
    int rc = OK;
    for (size_t i = 0; rc == OK && i < r->file.n; i++) {
        const struct ruler_task *task = r->items[i].exercise.ruler;
        if (seen_before(r, i))
            continue;
        if (i > 0 && !(row = eval_next_row(r->e, r->task)))
            return err_set(err, ERR_INPUT, r->task->path, "more tasks in a file than there are");
        if (task)
            name_row(r, &r->items[i].exercise, row);
        rc = run_row(r, task, row, err);
    }
    return rc;
}

/* --- the task --- */

static int open_shots(struct generate_run *r, struct err *err) {
    const struct eval_options *o = r->e->options;
    if (o->n_shots == 0)
        return OK;
    if (strcmp(row_kind_name(r->task->row_kind), "ruler") == 0)
        return err_set(err, ERR_USAGE, r->task->path, "--shots: rows of RULER hold their examples already");
    r->shots = (struct shots){.kind = r->task->row_kind, .n = (size_t)o->n_shots,
                              .first = o->shot_sampler && strcmp(o->shot_sampler, "first") == 0};
    python_random_seed(&r->shots.random, o->shot_seed);
    return shots_open(&r->shots, r->task->path, o->shots_from, &r->pool, err);
}

static int open_run(struct generate_run *r, struct err *err) {
    const struct evaluation *e = r->e;
    bool ruler = strcmp(row_kind_name(r->task->row_kind), "ruler") == 0; /* its limit counts within a task */
    size_t n_lanes = (size_t)e->loaded.model->config->n_layers * (size_t)e->loaded.model->config->n_kv_heads;
    int rc = row_file_read(r->task->path, ruler ? 0 : e->options->limit, &r->file, err);
    if (rc == OK && (!(r->items = mem_alloc(r->file.n, sizeof *r->items, "items", err)) ||
                     !(r->n_kept = mem_alloc(n_lanes, sizeof *r->n_kept, "counters", err)) ||
                     !(r->visible = mem_alloc(n_lanes, sizeof *r->visible, "counters", err))))
        return ERR_MEMORY;
    if (rc == OK)
        rc = open_shots(r, err);
    for (size_t i = 0; rc == OK && i < r->file.n; i++)
        rc = read_item(r, i, err);
    if (rc == OK)
        rc = open_session(r, SIDE_POLICY, e->loaded.policy, err);
    if (rc == OK && e->full)
        rc = open_session(r, SIDE_FULL, e->full, err);
    return rc;
}

static void close_run(struct generate_run *r) {
    for (int side = 0; side < N_SIDES; side++)
        session_free(r->sessions[side]);
    for (size_t i = 0; r->items && i < r->file.n; i++)
        exercise_free(&r->items[i].exercise);
    free(r->items);
    free(r->tokens.data);
    free(r->n_kept);
    free(r->visible);
    row_file_free(&r->pool);
    row_file_free(&r->file);
}

int eval_generate_run(struct evaluation *e, const struct eval_task *task, struct eval_row *row, struct err *err) {
    struct generate_run r = {.e = e, .task = task};
    int rc = eval_open_chat(e, err);
    if (rc == OK)
        rc = open_run(&r, err);
    e->progress.total = r.file.n;
    if (rc == OK)
        rc = run_rows(&r, row, err);
    close_run(&r);
    return rc;
}
