/* questions.h - rows of the common question sets as a prompt and its gold answer, in the prompt shapes of the
 * lm-evaluation-harness (v0.4) without examples. One pair of functions a set, for the table of rows.c. */
#ifndef SPKV_DATASETS_QUESTIONS_H
#define SPKV_DATASETS_QUESTIONS_H

#include "datasets/rows_internal.h"

bool question_is_arc(const json_t *row);
int question_render_arc(const struct row_context *context, struct row_texts *texts, struct err *err);
bool question_is_boolq(const json_t *row);
int question_render_boolq(const struct row_context *context, struct row_texts *texts, struct err *err);
bool question_is_commonsenseqa(const json_t *row);
int question_render_commonsenseqa(const struct row_context *context, struct row_texts *texts, struct err *err);
bool question_is_gsm8k(const json_t *row);
int question_render_gsm8k(const struct row_context *context, struct row_texts *texts, struct err *err);
bool question_is_hellaswag(const json_t *row);
int question_render_hellaswag(const struct row_context *context, struct row_texts *texts, struct err *err);
bool question_is_mmlu(const json_t *row);
int question_render_mmlu(const struct row_context *context, struct row_texts *texts, struct err *err);
bool question_is_piqa(const json_t *row);
int question_render_piqa(const struct row_context *context, struct row_texts *texts, struct err *err);
bool question_is_winogrande(const json_t *row);
int question_render_winogrande(const struct row_context *context, struct row_texts *texts, struct err *err);

#endif
