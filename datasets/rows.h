/* rows.h - what the rows of a JSON Lines corpus mean: which fields hold the text, and which part of it is scored.
 *
 * A row becomes one or more texts. A text is a prompt followed by a completion; only the completion is scored. Plain text
 * has an empty prompt, so that all of it is scored. The kinds, found by the keys of a file's first row:
 *
 *   kind               keys                                        text (| begins what is scored)
 *   lm-eval samples    arguments, and doc or doc_id                |arg_0, or arg_0|arg_1 where arg_1 is text, one per pair
 *   text               text                                        |text
 *   choice             prompt, choices, gold                       prompt| choices[gold]
 *   prompt             prompt, optional completion                 |prompt, or prompt|completion
 *   ruler              input, outputs, optional answer_prefix      input answer_prefix| outputs[0]
 *   winogrande         sentence, option1, option2, answer          sentence up to _ and option| the rest
 *   hellaswag          ctx_a, ctx_b, activity_label, endings, label  activity: context| ending
 *   boolq              passage, question, label or answer          passage, Question: q?, Answer:| yes or no
 *   piqa               goal, sol1, sol2, label                     Question: goal, Answer:| solution
 *   commonsenseqa      question, question_concept, choices, answerKey  Question: q, lettered choices, Answer:| letter
 *   openbookqa         question_stem, choices, answerKey           question_stem| choice
 *   arc                question, choices, answerKey                Question: q, Answer:| choice
 *   mmlu               question, choices (a list), answer          q, lettered choices, Answer:| letter
 *   gsm8k              question, answer                            Question: q, Answer:| answer
 *
 * The prompt shapes of the question sets are those of the lm-evaluation-harness (v0.4) without examples. Both the hub's form
 * and the authors' own ("question": {"stem": ..., "choices": [...]}) of ARC and CommonsenseQA are read (OpenBookQA's
 * own form is that of ARC: its kind must be named). */
#ifndef SPKV_DATASETS_ROWS_H
#define SPKV_DATASETS_ROWS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/str.h"
#include "datasets/choice.h"

struct row_text {
    size_t begin, n;  /* bytes of row_texts.bytes */
    size_t n_prompt;  /* leading bytes that are not scored, <= n */
};

struct row_texts { /* a zeroed struct is empty */
    struct str bytes;
    struct row_text *items;
    size_t len, cap;
};
void row_texts_clear(struct row_texts *texts); /* keeps the memory */
void row_texts_free(struct row_texts *texts);

/* Fields that the user names; all NULL: found by the keys of the first row. Either text, or prompt with or without
 * completion. */
struct row_fields {
    char *text, *prompt, *completion; /* owned */
};

/* Reads "NAME", "text=NAME" or "prompt=NAME[,completion=NAME]". ERR_USAGE otherwise. NULL sets nothing. */
int row_fields_parse(const char *option, struct row_fields *out, struct err *err);
void row_fields_free(struct row_fields *fields);

struct row_kind;

/* One line of JSON, which must be an object. Release with json_decref(). `where` is "file:line". */
int row_parse(const char *line, size_t n, const char *where, json_t **out, struct err *err);

/* The kind of a file whose first row this is. ERR_INPUT listing the keys when there is none. Static lifetime. */
int row_kind_find(const json_t *row, const struct row_fields *fields, const char *where, const struct row_kind **out,
                  struct err *err);
const char *row_kind_name(const struct row_kind *kind);

/* NULL when no kind has this name. */
const struct row_kind *row_kind_named(const char *name);

/* Whether rows of the kind are questions with choices, and the question of one: an empty struct that is filled. */
bool row_kind_has_choices(const struct row_kind *kind);
int row_question(const struct row_kind *kind, const json_t *row, const char *where, struct choice_question *question,
                 struct err *err);

/* Appends the texts of a row. ERR_INPUT naming the field that is missing, empty of an answer, or of the wrong type. */
int row_render(const struct row_kind *kind, const json_t *row, const struct row_fields *fields, const char *where,
               struct row_texts *texts, struct err *err);

#endif
