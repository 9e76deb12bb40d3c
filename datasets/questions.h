/* questions.h - rows of the common question sets as multiple-choice questions (GSM8K: as a prompt and its answer), in the
 * prompt shapes of the lm-evaluation-harness (v0.4). One pair of functions a set, for the table of rows.c. The question that
 * is read into is empty. */
#ifndef SPKV_DATASETS_QUESTIONS_H
#define SPKV_DATASETS_QUESTIONS_H

#include "datasets/rows_internal.h"

bool question_is_arc(const json_t *row);
int question_read_arc(const struct row_context *context, struct choice_question *question, struct err *err);
bool question_is_boolq(const json_t *row);
int question_read_boolq(const struct row_context *context, struct choice_question *question, struct err *err);
bool question_is_choice(const json_t *row);
int question_read_choice(const struct row_context *context, struct choice_question *question, struct err *err);
bool question_is_commonsenseqa(const json_t *row);
int question_read_commonsenseqa(const struct row_context *context, struct choice_question *question, struct err *err);
bool question_is_gsm8k(const json_t *row);
int question_render_gsm8k(const struct row_context *context, struct row_texts *texts, struct err *err);
bool question_is_hellaswag(const json_t *row);
int question_read_hellaswag(const struct row_context *context, struct choice_question *question, struct err *err);
bool question_is_mmlu(const json_t *row);
int question_read_mmlu(const struct row_context *context, struct choice_question *question, struct err *err);
bool question_is_openbookqa(const json_t *row);
int question_read_openbookqa(const struct row_context *context, struct choice_question *question, struct err *err);
bool question_is_piqa(const json_t *row);
int question_read_piqa(const struct row_context *context, struct choice_question *question, struct err *err);
bool question_is_winogrande(const json_t *row);
int question_read_winogrande(const struct row_context *context, struct choice_question *question, struct err *err);

#endif
