#include "cli/eval_means.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/task_mean.h"
#include "base/mem.h"
#include "datasets/answer.h"

struct ruler_result {
    const struct ruler_task *task;
    const struct eval_task *file;
    int length;
    struct eval_scores scores;
    bool floor; /* out of every average */
};

int eval_scores_add(struct eval_scores *s, double policy, double full, struct err *err) {
    const double score[N_SIDES] = {policy, full};
    int rc = OK;
    for (int side = 0; rc == OK && side < N_SIDES; side++)
        if ((rc = mem_grow(&s->score[side], &s->cap[side], s->n + 1, sizeof(double), "scores", err)) == OK)
            s->score[side][s->n] = score[side];
    s->n += rc == OK;
    return rc;
}

void eval_scores_free(struct eval_scores *s) {
    for (int side = 0; side < N_SIDES; side++)
        free(s->score[side]);
    *s = (struct eval_scores){0};
}

static double sum(const double *x, size_t n) {
    double total = 0;
    for (size_t i = 0; i < n; i++)
        total += x[i];
    return total;
}

static struct resampling resampling_of(const struct evaluation *e) {
    return (struct resampling){.seed = e->options->run.seed, .n = e->options->n_resamples, .level = 0.95};
}

/* A figure with its interval; all may be NaN. */
static void put_figure(struct eval_row *row, const char *name, const struct estimate *value, double full) {
    eval_put_metric(row, name, value->value, (double)NAN, full);
    row->metrics[row->n_metrics - 1].low = value->low;
    row->metrics[row->n_metrics - 1].high = value->high;
}

/* Weighted mean of tasks under the policy with its interval, and under full attention, `unit` times. */
static int put_mean(const struct evaluation *e, struct eval_row *row, const char *name, const struct eval_scores *const *of,
                    const double *weight, size_t n, double unit, struct err *err) {
    struct task_scores *tasks = mem_alloc(n, sizeof *tasks, "scores", err);
    struct resampling resampling = resampling_of(e);
    struct estimate value;
    int rc = tasks ? OK : ERR_MEMORY;
    for (size_t i = 0; rc == OK && i < n; i++)
        tasks[i] = (struct task_scores){of[i]->score[SIDE_POLICY], of[i]->n, weight[i]};
    if (rc == OK)
        rc = task_mean_interval(tasks, n, &resampling, &value, err);
    for (size_t i = 0; rc == OK && i < n; i++)
        tasks[i].score = of[i]->score[SIDE_FULL];
    if (rc == OK) {
        value = (struct estimate){value.value * unit, value.low * unit, value.high * unit};
        put_figure(row, name, &value, e->full ? task_mean(tasks, n) * unit : (double)NAN);
    }
    free(tasks);
    return rc;
}

int eval_put_scores(const struct evaluation *e, struct eval_row *row, const char *name, const struct eval_scores *s,
                    bool as_ruler, struct err *err) {
    const double one = 1;
    int rc = put_mean(e, row, name, (const struct eval_scores *const[]){s}, &one, 1, as_ruler ? 100 : 1, err);
    if (rc != OK || !as_ruler)
        return rc;
    struct eval_metric *m = &row->metrics[row->n_metrics - 1];
    m->value = answer_percent(sum(s->score[SIDE_POLICY], s->n), s->n);
    m->full = e->full ? answer_percent(sum(s->score[SIDE_FULL], s->n), s->n) : (double)NAN;
    return OK;
}

/* --- RULER --- */

int eval_ruler_add(struct evaluation *e, const struct ruler_task *task, int length, struct eval_row *row,
                   struct eval_scores *scores, struct err *err) {
    bool is_full = strcmp(e->loaded.policy->name, "full") == 0;
    const double *reference = e->full ? scores->score[SIDE_FULL] : is_full ? scores->score[SIDE_POLICY] : NULL;
    for (size_t i = 0; i < e->n_ruler; i++)
        if (e->ruler[i].task == task && e->ruler[i].length == length)
            return err_set(err, ERR_INPUT, row->task->path, "%s of length %d comes more than once: an average would count "
                           "it twice", ruler_task_name(task), length);
    int rc = mem_grow(&e->ruler, &e->ruler_cap, e->n_ruler + 1, sizeof *e->ruler, "results", err);
    if (rc != OK)
        return rc;
    bool floor = reference && answer_percent(sum(reference, scores->n), scores->n) < EVAL_FLOOR;
    snprintf(row->note, sizeof row->note, "%s", floor ? "floor" : reference ? "" : "floor not known (--alone)");
    e->ruler[e->n_ruler++] = (struct ruler_result){task, row->task, length, *scores, floor};
    *scores = (struct eval_scores){.n = scores->n};
    return OK;
}

void eval_ruler_free(struct evaluation *e) {
    for (size_t i = 0; i < e->n_ruler; i++)
        eval_scores_free(&e->ruler[i].scores);
    free(e->ruler);
    e->ruler = NULL;
    e->n_ruler = 0;
}

/* Means are named after what they are the mean of. */
static const char *const TASK_MEANS[RULER_N_TASKS + 1] = {
    "mean, 0 tasks", "mean, 1 task", "mean, 2 tasks", "mean, 3 tasks", "mean, 4 tasks", "mean, 5 tasks", "mean, 6 tasks",
    "mean, 7 tasks", "mean, 8 tasks", "mean, 9 tasks", "mean, 10 tasks", "mean, 11 tasks", "mean, 12 tasks",
    "mean, 13 tasks"};
static const char *const GROUP_MEANS[RULER_N_GROUPS + 1] = {"mean, 0 groups", "mean, 1 group", "mean, 2 groups",
                                                             "mean, 3 groups", "mean, 4 groups"};

/* The results of one length that count, with the weights of both means. */
struct counted {
    const struct eval_scores *scores[RULER_N_TASKS];
    double task_weight[RULER_N_TASKS], group_weight[RULER_N_TASKS];
    size_t n, n_groups, n_floor, n_items;
};

static void count_results(const struct evaluation *e, int length, struct counted *out) {
    size_t in_group[RULER_N_GROUPS] = {0};
    enum ruler_group group[RULER_N_TASKS];
    *out = (struct counted){0};
    for (size_t i = 0; i < e->n_ruler; i++) {
        const struct ruler_result *r = &e->ruler[i];
        if (r->length != length)
            continue;
        out->n_floor += r->floor;
        if (r->floor)
            continue;
        out->n_items += r->scores.n;
        group[out->n] = ruler_task_group(r->task);
        in_group[group[out->n]]++;
        out->task_weight[out->n] = 1;
        out->scores[out->n++] = &r->scores;
    }
    for (size_t i = 0; i < out->n; i++)
        out->group_weight[i] = 1 / (double)in_group[group[i]];
    for (size_t g = 0; g < RULER_N_GROUPS; g++)
        out->n_groups += in_group[g] > 0;
}

static struct eval_row *mean_row(struct evaluation *e, const char *name, int length) {
    struct eval_row *row = eval_next_row(e, e->ruler[e->n_ruler - 1].file);
    ASSERT(row);
    if (length)
        snprintf(row->name, sizeof row->name, "%s %d", name, length);
    else
        snprintf(row->name, sizeof row->name, "%s", name);
    return row;
}

/* The averages of one length; *mean and *mean_full are those over tasks. */
static int put_length(struct evaluation *e, int length, double mean[N_SIDES], struct err *err) {
    struct counted c;
    count_results(e, length, &c);
    struct eval_row *row = mean_row(e, "RULER", length);
    int rc = put_mean(e, row, TASK_MEANS[c.n], c.scores, c.task_weight, c.n, 100, err);
    if (rc == OK)
        rc = put_mean(e, row, GROUP_MEANS[c.n_groups], c.scores, c.group_weight, c.n, 100, err);
    if (rc != OK)
        return rc;
    row->n_items = c.n_items;
    if (c.n_floor)
        snprintf(row->note, sizeof row->note, "%zu at the floor left out", c.n_floor);
    mean[SIDE_POLICY] = row->metrics[0].value;
    mean[SIDE_FULL] = row->metrics[0].full;
    return OK;
}

/* The next length above `length` that a task has, 0 = none. */
static int next_length(const struct evaluation *e, int length) {
    int next = 0;
    for (size_t i = 0; i < e->n_ruler; i++)
        if (e->ruler[i].length > length && (next == 0 || e->ruler[i].length < next))
            next = e->ruler[i].length;
    return next;
}

/* Over lengths in rising order: plain, and with weights 1, 2, ... that favour long (wAvg inc) or short ones (wAvg dec). */
static void put_lengths(struct evaluation *e, double (*mean)[N_SIDES], size_t n) {
    static const char *const names[] = {"mean of lengths", "wAvg (inc)", "wAvg (dec)"};
    struct eval_row *row = mean_row(e, "RULER, lengths", 0);
    for (int kind = 0; kind < 3; kind++) {
        double total[N_SIDES] = {0}, weights = 0;
        for (size_t i = 0; i < n; i++) {
            double weight = kind == 0 ? 1 : kind == 1 ? (double)(i + 1) : (double)(n - i);
            for (int side = 0; side < N_SIDES; side++)
                total[side] += weight * mean[i][side];
            weights += weight;
        }
        eval_put_metric(row, names[kind], total[SIDE_POLICY] / weights, (double)NAN, total[SIDE_FULL] / weights);
    }
}

int eval_ruler_finish(struct evaluation *e, struct err *err) {
    double (*mean)[N_SIDES] = mem_alloc(e->n_ruler + 1, sizeof *mean, "averages", err);
    size_t n = 0;
    int rc = mean ? OK : ERR_MEMORY;
    bool any_unknown = false;
    for (size_t i = 0; i < e->n_ruler; i++)
        any_unknown |= e->ruler[i].length == 0;
    if (rc == OK && any_unknown)
        rc = put_length(e, 0, mean[0], err);
    for (int length = next_length(e, 0); rc == OK && length; length = next_length(e, length))
        rc = put_length(e, length, mean[n++], err);
    if (rc == OK && n > 1)
        put_lengths(e, mean, n);
    free(mean);
    return rc;
}

int eval_open_chat(struct evaluation *e, struct err *err) {
    return e->chat.name[0] ? OK : chat_open(e->options->run.model, e->options->chat, &e->chat, err);
}
