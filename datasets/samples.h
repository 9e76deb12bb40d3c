/* samples.h - rows of samples_*.jsonl, which lm_eval --log_samples writes: the very strings that a task of the
 * lm-evaluation-harness scored. For the table of rows.c.
 *
 * "arguments" is {"gen_args_0": {"arg_0": context, "arg_1": continuation}, ...}; older versions wrote [[context,
 * continuation], ...]. The second argument of a generation task is its settings, that of a rolling one is absent. */
#ifndef SPKV_DATASETS_SAMPLES_H
#define SPKV_DATASETS_SAMPLES_H

#include "datasets/rows_internal.h"

bool samples_match(const json_t *row);
int samples_render(const struct row_context *context, struct row_texts *texts, struct err *err);

/* The pairs as choices. The gold one is "target": its number, or its text; where neither fits (WinoGrande), that of the
 * question in "doc". One pair alone is a question with one choice. */
int samples_question(const struct row_context *context, struct choice_question *question, struct err *err);

#endif
