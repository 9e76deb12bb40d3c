/* documents.h - questions and the documents that answer them, from the files of SQuAD and HotpotQA. Immutable once
 * open. */
#ifndef SPKV_DATASETS_DOCUMENTS_H
#define SPKV_DATASETS_DOCUMENTS_H

#include <jansson.h>
#include <stddef.h>

#include "base/err.h"

struct document_question {
    const char *text;
    json_t *answers;            /* an array of text, at least one */
    const size_t *own;          /* (n_own) documents that answer it, or were chosen to go with it */
    const size_t *near;         /* (n_near) other documents of the same article, taken first */
    size_t n_own, n_near;
};

struct documents;

/* SQuAD v1 or v2 ("data", "paragraphs", "qas"); questions without an answer are left out. HotpotQA with its distractors (a
 * list of "question", "answer", "context"). Equal documents are one. ERR_INPUT naming the file and the place. */
int documents_open_squad(const char *path, struct documents **out, struct err *err);
int documents_open_hotpot(const char *path, struct documents **out, struct err *err);
void documents_free(struct documents *documents); /* NULL is fine */

/* Borrowed until the free. */
size_t documents_n(const struct documents *documents);
const char *documents_text(const struct documents *documents, size_t i);
size_t documents_n_questions(const struct documents *documents);
struct document_question documents_question(const struct documents *documents, size_t i);

#endif
