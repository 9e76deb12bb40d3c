/* eval_means.h - scores of generated answers: the figure of a task with its interval, and the averages of RULER, which leave
 * out the tasks that the model cannot do under full attention. */
#ifndef SPKV_CLI_EVAL_MEANS_H
#define SPKV_CLI_EVAL_MEANS_H

#include "cli/eval.h"

enum { EVAL_FLOOR = 20 /* percent: below it full attention tells nothing about the cache */ };

/* Scores of the items of a task, 0 to 1, under both sides (SIDE_FULL is not read without full attention). */
struct eval_scores { /* a zeroed struct is empty */
    double *score[N_SIDES];
    size_t cap[N_SIDES], n;
};
int eval_scores_add(struct eval_scores *scores, double policy, double full, struct err *err);
void eval_scores_free(struct eval_scores *scores);

/* A figure of the row: the mean with its interval over the items; in percent and rounded as RULER does when as_ruler. */
int eval_put_scores(const struct evaluation *e, struct eval_row *row, const char *name, const struct eval_scores *scores,
                    bool as_ruler, struct err *err);

/* Notes a task of RULER for the averages, takes over its scores, and marks its row when it is at the floor. `length`: of its
 * rows, 0 = they do not say. */
int eval_ruler_add(struct evaluation *e, const struct ruler_task *task, int length, struct eval_row *row,
                   struct eval_scores *scores, struct err *err);

/* Rows of averages behind the tasks, one a length: over tasks, and over their groups (retrieval, tracing, aggregation,
 * questions); of several lengths also plain and weighted over lengths, as RULER's leaderboard does. Nothing without
 * RULER. */
int eval_ruler_finish(struct evaluation *e, struct err *err);
void eval_ruler_free(struct evaluation *e);

/* Opens the chat template that --chat names, once. */
int eval_open_chat(struct evaluation *e, struct err *err);

#endif
