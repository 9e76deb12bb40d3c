/* exercise.h - rows that ask for a text: what the model is told, when it has answered, and what the answer is worth.
 *
 *   rows                                     prompt                 tokens          ends before       scores
 *   ruler   input, outputs, answer_prefix    input answer_prefix    the task's                        string_match
 *   gsm8k   question, answer                 Question: q, Answer:   256             "Question:", ...  strict, flexible
 *   prompt  prompt, completion               prompt                 the reference's                   exact_match
 *
 * The task of a RULER row is its "task", or what its file, or the folder of that, is called after. GSM8K's prompts, ends and
 * scores are the lm-evaluation-harness's (v0.4, gsm8k version 3). Exact match: equal but for white space at both ends. */
#ifndef SPKV_DATASETS_EXERCISE_H
#define SPKV_DATASETS_EXERCISE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/str.h"
#include "datasets/rows.h"
#include "datasets/ruler.h"

enum { EXERCISE_MAX_SCORES = 2 };

struct exercise_rule; /* how answers are judged */

struct exercise { /* a zeroed struct is empty */
    struct str input;                  /* what the user says: a chat template goes around it */
    struct str prefix;                 /* how the answer begins */
    json_t *references;                /* at least one text; owned */
    const struct ruler_task *ruler;    /* NULL: another kind */
    int max_length;                    /* of the whole file's rows, as "max_length" says; 0 = it does not */
    size_t max_new;                    /* tokens; 0: as many as the reference has */
    const char *const *stops;          /* (n_stops) static */
    size_t n_stops;
    const struct exercise_rule *rule;  /* static */
};
void exercise_free(struct exercise *exercise);

/* Whether rows of this kind are exercises. Of `prompt` rows only those with a completion: first_row decides. */
bool exercise_takes(const struct row_kind *kind, const json_t *first_row);

/* Fills an empty exercise. `path` is the file's, `where` "file:line". ERR_INPUT naming the field that is missing. */
int exercise_read(const struct row_kind *kind, const json_t *row, const char *path, const char *where, struct exercise *out,
                  struct err *err);

/* How many scores the rule gives, what they are called (static), and the scores of an answer, each 0 to 1. */
size_t exercise_n_scores(const struct exercise *exercise);
const char *exercise_score_name(const struct exercise *exercise, size_t i);
int exercise_score(const struct exercise *exercise, const char *text, size_t n, double *scores, struct err *err);

/* Whether nothing that may follow can change the scores: every reference of a RULER row is found. */
bool exercise_is_done(const struct exercise *exercise, const char *text, size_t n);

#endif
