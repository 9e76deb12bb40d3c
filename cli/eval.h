/* eval.h - tasks scored under a policy and, beside it, under full attention of the same weights: the parts of spkv eval.
 * A kind of task is a file eval_<kind>.c and a line in the table of cmd_eval.c. */
#ifndef SPKV_CLI_EVAL_H
#define SPKV_CLI_EVAL_H

#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "analyze/paired.h"
#include "base/file.h"
#include "base/progress.h"
#include "cli/eval_journal.h"
#include "cli/run_options.h"
#include "datasets/rows.h"
#include "datasets/ruler.h"
#include "engine/chat.h"
#include "engine/continuation.h"
#include "engine/likelihood.h"

enum {
    EVAL_MAX_TASKS = 1024,
    EVAL_ROWS_PER_TASK = RULER_N_TASKS + 2, /* a file may hold all tasks of RULER; and rows of means */
    EVAL_MAX_METRICS = 6,
    EVAL_BLOCK = 32,      /* items that are scored, written and forgotten together */
    EVAL_INFORMATIVE = 10 /* percent of the scored tokens that must have had a pair outside the window */
};

/* Strings are borrowed from argv. */
struct eval_options {
    struct run_options_cli run;
    const char *tasks[EVAL_MAX_TASKS]; /* FILE or KIND:FILE */
    size_t n_tasks;
    const char *output;                /* one line of JSON an item; NULL = none */
    int max_length, stride;            /* 0 = the model's limit; 0 = windows of lm-eval */
    uint64_t limit;                    /* items of a task; 0 = all */
    int n_shots;
    const char *shots_from;            /* file of the examples; NULL = the task's own */
    const char *shot_sampler;          /* random, first; NULL = the task's */
    uint64_t shot_seed;
    enum bos bos;
    const char *chat;                  /* auto, off or a FILE: engine/chat.h */
    uint32_t n_resamples;
    bool truncate;                     /* a context that is too long loses tokens from the left */
    bool alone;                        /* no full attention beside the policy */
    bool resume, force;
};

struct eval_kind;

struct eval_task {
    const char *path;                 /* borrowed */
    char name[128];                   /* of the file, without suffixes */
    const struct eval_kind *kind;
    const struct row_kind *row_kind;  /* of the first row; NULL for a text file */
};

/* A figure of a task: under the policy, and under full attention (NaN = not measured). */
struct eval_metric {
    const char *name; /* static */
    double value, stderror, full;
    double low, high; /* the 95 % interval of the value, in place of a standard error; NaN = none */
};

/* One task in the table. A kind fills what it knows; figures that are missing are NaN. */
struct eval_row {
    const struct eval_task *task;
    char name[192];                   /* the task's, or that of a part of it */
    char note[64];                    /* "floor" and the like */
    size_t n_items;
    int n_shots;
    struct eval_metric metrics[EVAL_MAX_METRICS];
    size_t n_metrics;
    struct estimate nll_change;       /* loss of gold answers and texts against full attention, paired by item */
    uint64_t n_scored, n_far;         /* scored tokens; those whose query had a pair outside window and sinks */
    uint64_t n_kept, n_left_window, visible_pairs, causal_pairs; /* over requests, layers that are not sliding, KV heads */
    uint64_t n_truncated;             /* requests that lost tokens from the left */
    double seconds;
};

enum eval_side { SIDE_POLICY, SIDE_FULL, N_SIDES };

struct evaluation {
    const struct eval_options *options;
    struct loaded loaded;
    struct policy *full;                /* NULL: not beside */
    struct text_encoder encoder;
    struct scoring *scorings[N_SIDES];  /* SIDE_FULL is NULL without `full` */
    struct progress progress;
    uint64_t n_done;                    /* items of all tasks */
    struct file_out items;              /* stream NULL: not asked for */
    struct eval_journal *journal;       /* beside it, OUTPUT.part; NULL without */
    const volatile sig_atomic_t *stop;
    struct eval_row *rows;              /* (n_rows) finished tasks, with room for all */
    size_t n_rows;
    struct chat chat;                   /* name "" until a task needs it */
    struct ruler_result *ruler;         /* (n_ruler) tasks of RULER: eval_means.h */
    size_t n_ruler, ruler_cap;
};

struct eval_kind {
    const char *name, *help;
    /* Whether files with such rows are of this kind; row_kind NULL: a text file. */
    bool (*takes)(const struct row_kind *row_kind, const json_t *first_row);
    int (*run)(struct evaluation *e, const struct eval_task *task, struct eval_row *row, struct err *err);
};

bool eval_choice_takes(const struct row_kind *row_kind, const json_t *first_row);
int eval_choice_run(struct evaluation *e, const struct eval_task *task, struct eval_row *row, struct err *err);
bool eval_generate_takes(const struct row_kind *row_kind, const json_t *first_row);
int eval_generate_run(struct evaluation *e, const struct eval_task *task, struct eval_row *row, struct err *err);
bool eval_rolling_takes(const struct row_kind *row_kind, const json_t *first_row);
int eval_rolling_run(struct evaluation *e, const struct eval_task *task, struct eval_row *row, struct err *err);

/* --- what the kinds share: eval_score.c */

/* A further row for a task; the first is there when its kind runs. Stays where it is. NULL when there is no more room. */
struct eval_row *eval_next_row(struct evaluation *e, const struct eval_task *task);

/* Opens model, encoder and both sides; options and stop are set. Close in any case. */
int evaluation_open(struct evaluation *e, struct err *err);
void evaluation_close(struct evaluation *e);

/* Requests in the making; tokens of all stand in one list. A zeroed struct is empty. */
struct eval_batch {
    struct token_list tokens;
    struct token_span *spans;      /* (n_requests) */
    size_t n_requests, spans_cap;
    size_t *splits;                /* (n_groups + 1) requests of each group */
    size_t n_groups, splits_cap;
    uint64_t first_id;             /* group g is sequence first_id + g */
    struct score *scores[N_SIDES]; /* (n_requests) after eval_score(); SIDE_FULL NULL without full attention */
    size_t scores_cap[N_SIDES];
};

/* Opens a group that the following requests belong to. */
int eval_batch_group(struct eval_batch *batch, struct err *err);
/* A request of tokens that already stand in batch->tokens; errors of eval_batch_text() name `where`. */
int eval_batch_span(struct eval_batch *batch, const struct token_span *span, struct err *err);
int eval_batch_text(struct evaluation *e, struct eval_batch *batch, const char *context, const char *continuation,
                    const char *where, struct err *err);
/* The windows of a text, one group each: there is nothing to share. */
int eval_batch_windows(struct evaluation *e, struct eval_batch *batch, const char *text, size_t n, struct err *err);
void eval_batch_clear(struct eval_batch *batch); /* empty, with the memory kept; first_id goes on behind its groups */
void eval_batch_free(struct eval_batch *batch);

/* Scores of all requests under the policy and beside it, counted into the row. ERR_INCOMPLETE after a stop. */
int eval_score(struct evaluation *e, struct eval_batch *batch, struct eval_row *row, struct err *err);

/* Says that n more items are done. */
void eval_advance(struct evaluation *e, size_t n);

/* A line of the output; takes over `item`. Nothing without one. */
int eval_put_item(struct evaluation *e, json_t *item, struct err *err);

/* The array of a side's scores of n requests: [{"log_likelihood", "is_greedy", "n_tok"}, ...]. */
json_t *eval_scores_json(const struct score *scores, size_t n);

void eval_put_metric(struct eval_row *row, const char *name, double value, double stderror, double full);
/* Mean and standard error (sample deviation / sqrt(n)) of n figures that are 0 or 1, under both sides; full may be NULL. */
void eval_put_share(struct eval_row *row, const char *name, const uint8_t *policy, const uint8_t *full, size_t n);

/* Sum of policy over sum of full - 1 with its interval over the n items; missing when full is NULL. */
int eval_put_change(const struct evaluation *e, struct eval_row *row, const double *policy, const double *full, size_t n,
                    struct err *err);

/* --- the table: eval_table.c */
bool eval_is_informative(const struct eval_row *row);
void eval_print_text(const struct evaluation *e);
void eval_print_json(const struct evaluation *e, const char *command);

#endif
