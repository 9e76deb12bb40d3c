/* rows_internal.h - what the files that render rows share. Only rows.c and questions.c include it. */
#ifndef SPKV_DATASETS_ROWS_INTERNAL_H
#define SPKV_DATASETS_ROWS_INTERNAL_H

#include <stdbool.h>

#include "datasets/rows.h"

struct row_context {
    const json_t *row;
    const struct row_fields *fields;
    const char *where;
};

struct row_kind {
    const char *name;
    bool (*matches)(const json_t *row);
    /* The texts of a row (NULL: that of the question's gold answer), and the question that it poses (NULL: none). */
    int (*render)(const struct row_context *context, struct row_texts *texts, struct err *err);
    int (*question)(const struct row_context *context, struct choice_question *question, struct err *err);
};

/* A text is appended to texts->bytes between begin and end. */
int row_text_begin(struct row_texts *texts, struct err *err);
void row_text_prompt_ends(struct row_texts *texts);
int row_text_end(struct row_texts *texts, struct err *err);

/* Ends the prompt and appends the answer, with one space between them unless either side has white space there. */
void row_put_answer(struct row_texts *texts, const char *answer);

/* A whole text; a completion that is absent (NULL) leaves the prompt as plain text. */
int row_text_pair(const char *prompt, const char *completion, struct row_texts *texts, struct err *err);

/* A string that must be there. Borrowed from the row. */
int row_string(const json_t *row, const char *key, const char **out, const char *where, struct err *err);

#endif
