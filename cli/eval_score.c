/* eval_score.c - requests under the policy and under full attention, and the figures made of them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "cli/eval.h"
#include "cli/eval_means.h"

static int open_side(struct evaluation *e, enum eval_side side, const struct policy *policy, struct err *err) {
    const struct run_options_cli *run = &e->options->run;
    struct scoring_options options = {.policy = policy, .batch = (size_t)run->batch, .chunk = (size_t)run->chunk,
                                      .dense_prefill = run->dense_prefill};
    return scoring_create(e->loaded.model, &options, &e->scorings[side], err);
}

int evaluation_open(struct evaluation *e, struct err *err) {
    const struct eval_options *o = e->options;
    int limit, rc = loaded_open(&o->run, true, &e->loaded, err);
    if (rc != OK)
        return rc;
    limit = e->loaded.model->config->max_positions;
    if (o->max_length > limit)
        return err_set(err, ERR_USAGE, "", "--max-length %d: this model takes %d", o->max_length, limit);
    limit = o->max_length ? o->max_length : limit;
    if (o->stride > limit)
        return err_set(err, ERR_USAGE, "", "--stride %d would leave out tokens: a window holds %d", o->stride, limit);
    rc = text_encoder_open(o->run.model, e->loaded.tokenizer, e->loaded.model->config, o->bos, (size_t)limit, &e->encoder,
                           err);
    if (rc == OK)
        rc = open_side(e, SIDE_POLICY, e->loaded.policy, err);
    if (rc == OK && !o->alone && strcmp(e->loaded.policy->name, "full") != 0 &&
        (rc = loaded_policy(&e->loaded, &o->run, "full", &e->full, err)) == OK)
        rc = open_side(e, SIDE_FULL, e->full, err);
    return rc;
}

void evaluation_close(struct evaluation *e) {
    for (int side = 0; side < N_SIDES; side++)
        scoring_free(e->scorings[side]);
    file_out_discard(&e->items);
    text_encoder_free(&e->encoder);
    policy_free(e->full);
    loaded_close(&e->loaded);
    free(e->rows);
    chat_free(&e->chat);
    eval_ruler_free(e);
}

struct eval_row *eval_next_row(struct evaluation *e, const struct eval_task *task) {
    if (e->n_rows == e->options->n_tasks * EVAL_ROWS_PER_TASK)
        return NULL;
    struct eval_row *row = &e->rows[e->n_rows++];
    *row = (struct eval_row){.task = task, .nll_change = {NAN, NAN, NAN}};
    snprintf(row->name, sizeof row->name, "%s", task->name);
    return row;
}

int eval_batch_group(struct eval_batch *b, struct err *err) {
    int rc = mem_grow(&b->splits, &b->splits_cap, b->n_groups + 2, sizeof *b->splits, "requests", err);
    if (rc == OK) {
        b->n_groups++;
        b->splits[b->n_groups - 1] = b->splits[b->n_groups] = b->n_requests;
    }
    return rc;
}

int eval_batch_span(struct eval_batch *b, const struct token_span *span, struct err *err) {
    int rc = mem_grow(&b->spans, &b->spans_cap, b->n_requests + 1, sizeof *b->spans, "requests", err);
    if (rc == OK) {
        b->spans[b->n_requests++] = *span;
        b->splits[b->n_groups] = b->n_requests;
    }
    return rc;
}

int eval_batch_text(struct evaluation *e, struct eval_batch *b, const char *context, const char *continuation,
                    const char *where, struct err *err) {
    struct token_span span;
    struct err inner = {0};
    int rc = encode_continuation(&e->encoder, context, continuation, &b->tokens, &span, &inner);
    if (rc != OK)
        return err_set(err, rc, where, "%s", inner.message);
    if (span.n_cut && !e->options->truncate)
        return err_set(err, ERR_INPUT, where, "context and continuation are %zu tokens, the model takes %zu: take fewer "
                       "--shots, shorten the text, or let --truncate cut it from the left as lm-eval does",
                       span.n_tok + span.n_cut - 1, e->encoder.max_length);
    return eval_batch_span(b, &span, err);
}

void eval_batch_clear(struct eval_batch *b) {
    b->first_id += b->n_groups;
    b->tokens.len = 0;
    b->n_requests = b->n_groups = 0;
}

void eval_batch_free(struct eval_batch *b) {
    free(b->tokens.data);
    free(b->spans);
    free(b->splits);
    for (int side = 0; side < N_SIDES; side++)
        free(b->scores[side]);
    *b = (struct eval_batch){0};
}

int eval_batch_windows(struct evaluation *e, struct eval_batch *b, const char *text, size_t n, struct err *err) {
    struct token_list *tokens = &b->tokens;
    size_t n_special, first = tokens->len;
    int rc = mem_grow(&tokens->data, &tokens->cap, first + 1, sizeof *tokens->data, "tokens", err);
    if (rc != OK)
        return rc;
    tokens->data[tokens->len++] = e->encoder.prefix_id;
    rc = encode_text(&e->encoder, text, n, tokens, &n_special, err);
    for (size_t i = 0; rc == OK; i++) {
        struct token_span span = rolling_window(tokens->len - first, e->encoder.max_length, (size_t)e->options->stride, i);
        if (span.n_tok == 0)
            break;
        span.first += first;
        if ((rc = eval_batch_group(b, err)) == OK)
            rc = eval_batch_span(b, &span, err);
    }
    return rc;
}

static void count(const struct eval_batch *b, struct eval_row *row) {
    for (size_t i = 0; i < b->n_requests; i++) {
        const struct score *s = &b->scores[SIDE_POLICY][i];
        row->n_scored += s->n_scored;
        row->n_far += s->n_far;
        row->n_kept += s->n_kept;
        row->n_left_window += s->n_left_window;
        row->visible_pairs += s->visible_pairs;
        row->causal_pairs += s->causal_pairs;
        row->n_truncated += b->spans[i].n_cut > 0;
    }
}

static int score_groups(struct evaluation *e, struct eval_batch *b, struct err *err) {
    struct score_request *requests = mem_alloc(b->n_requests, sizeof *requests, "requests", err);
    struct score_group *groups = mem_alloc(b->n_groups, sizeof *groups, "requests", err);
    int rc = requests && groups ? OK : ERR_MEMORY;
    for (size_t i = 0; rc == OK && i < b->n_requests; i++)
        requests[i] = (struct score_request){.tokens = b->tokens.data + b->spans[i].first, .n_tok = b->spans[i].n_tok,
                                             .n_context = b->spans[i].n_context};
    for (size_t g = 0; rc == OK && g < b->n_groups; g++)
        groups[g] = (struct score_group){.requests = requests + b->splits[g], .n = b->splits[g + 1] - b->splits[g],
                                         .id = b->first_id + g};
    for (int side = 0; rc == OK && side < N_SIDES; side++)
        if (e->scorings[side])
            rc = scoring_run(e->scorings[side], groups, b->n_groups, b->scores[side], err);
    free(requests);
    free(groups);
    return rc;
}

/* --- scores in the journal: for each side, eight numbers a request --- */

static json_t *pack_scores(const struct evaluation *e, const struct eval_batch *b) {
    json_t *sides = json_array();
    for (int side = 0; side < N_SIDES; side++) {
        json_t *list = json_array();
        for (size_t i = 0; e->scorings[side] && i < b->n_requests; i++) {
            const struct score *s = &b->scores[side][i];
            json_array_append_new(list, json_pack("[f, b, I, I, I, I, I, I]", s->log_likelihood, s->is_greedy,
                                                  (json_int_t)s->n_scored, (json_int_t)s->n_far, (json_int_t)s->n_kept,
                                                  (json_int_t)s->n_left_window, (json_int_t)s->visible_pairs,
                                                  (json_int_t)s->causal_pairs));
        }
        json_array_append_new(sides, list);
    }
    return sides;
}

static bool unpack_score(json_t *from, struct score *s) {
    int greedy = 0;
    json_int_t n[6] = {0};
    bool good = json_unpack(from, "[F, b, I, I, I, I, I, I]", &s->log_likelihood, &greedy, &n[0], &n[1], &n[2], &n[3], &n[4],
                            &n[5]) == 0;
    s->is_greedy = greedy;
    s->n_scored = (size_t)n[0];
    s->n_far = (size_t)n[1];
    s->n_kept = (uint64_t)n[2];
    s->n_left_window = (uint64_t)n[3];
    s->visible_pairs = (uint64_t)n[4];
    s->causal_pairs = (uint64_t)n[5];
    return good;
}

static bool unpack_scores(const struct evaluation *e, const json_t *sides, struct eval_batch *b) {
    for (int side = 0; side < N_SIDES; side++)
        for (size_t i = 0; e->scorings[side] && i < b->n_requests; i++)
            if (!unpack_score(json_array_get(json_array_get(sides, (size_t)side), i), &b->scores[side][i]))
                return false;
    return true;
}

int eval_score(struct evaluation *e, struct eval_batch *b, struct eval_row *row, struct err *err) {
    struct str key = {0};
    json_t *stored = NULL;
    int rc = OK;
    for (int side = 0; rc == OK && side < N_SIDES; side++)
        rc = mem_grow(&b->scores[side], &b->scores_cap[side], b->n_requests, sizeof(struct score), "scores", err);
    if (e->journal) {
        str_printf(&key, "%zu:%llu:%zu", e->n_rows, (unsigned long long)b->first_id, b->n_requests);
        stored = eval_journal_take(e->journal, str_text(&key));
    }
    if (rc == OK && stored && !unpack_scores(e, stored, b))
        rc = err_set(err, ERR_INPUT, e->options->output, "the interrupted run has a line that is no result (--force begins "
                     "anew)");
    if (rc == OK && !stored && (rc = score_groups(e, b, err)) == OK && e->journal)
        rc = eval_journal_put(e->journal, str_text(&key), pack_scores(e, b), err);
    json_decref(stored);
    str_free(&key);
    if (rc == OK)
        count(b, row);
    return rc == OK && *e->stop ? err_set(err, ERR_INCOMPLETE, "", "stopped before the end: there is no result") : rc;
}

void eval_advance(struct evaluation *e, size_t n) {
    e->n_done += n;
    progress_update(&e->progress, e->n_done);
}

int eval_put_item(struct evaluation *e, json_t *item, struct err *err) {
    int rc = item ? OK : err_set(err, ERR_MEMORY, "", "out of memory for an item");
    if (rc == OK && e->items.stream &&
        (json_dumpf(item, e->items.stream, JSON_COMPACT) != 0 || fputc('\n', e->items.stream) == EOF))
        rc = err_set(err, ERR_IO, e->options->output, "cannot write");
    json_decref(item);
    return rc;
}

json_t *eval_scores_json(const struct score *scores, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:f, s:b, s:I}", "log_likelihood", scores[i].log_likelihood, "is_greedy",
                                              scores[i].is_greedy, "n_tok", (json_int_t)scores[i].n_scored));
    return list;
}

void eval_put_metric(struct eval_row *row, const char *name, double value, double stderror, double full) {
    ASSERT(row->n_metrics < EVAL_MAX_METRICS);
    row->metrics[row->n_metrics++] = (struct eval_metric){name, value, stderror, full, NAN, NAN};
}

static double share(const uint8_t *flags, size_t n) {
    size_t sum = 0;
    for (size_t i = 0; flags && i < n; i++)
        sum += flags[i];
    return flags && n ? (double)sum / (double)n : (double)NAN;
}

void eval_put_share(struct eval_row *row, const char *name, const uint8_t *policy, const uint8_t *full, size_t n) {
    double mean = share(policy, n);
    eval_put_metric(row, name, mean, n > 1 ? sqrt(mean * (1 - mean) / (double)(n - 1)) : (double)NAN, share(full, n));
}

int eval_put_change(const struct evaluation *e, struct eval_row *row, const double *policy, const double *full, size_t n,
                    struct err *err) {
    struct resampling resampling = {.seed = e->options->run.seed, .n = e->options->n_resamples, .level = 0.95};
    if (!full)
        return OK;
    int rc = interval_of_ratio(policy, full, n, &resampling, &row->nll_change, err);
    row->nll_change.value -= 1;
    row->nll_change.low -= 1;
    row->nll_change.high -= 1;
    return rc;
}
