/* choice.h - a multiple-choice question as the lm-evaluation-harness poses it: what stands before the answer, the answers,
 * and which of them is the gold one. Plain values that own their texts. */
#ifndef SPKV_DATASETS_CHOICE_H
#define SPKV_DATASETS_CHOICE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/str.h"

/* Texts are zero-terminated and apart in `bytes`: a zeroed struct is an empty list. */
struct text_list {
    struct str bytes;
    size_t *begin; /* (n) */
    size_t n, cap;
};

int text_list_add(struct text_list *list, const char *text, size_t n_bytes, struct err *err);
const char *text_list_get(const struct text_list *list, size_t i); /* borrowed until the next change */
void text_list_clear(struct text_list *list);
void text_list_free(struct text_list *list);

/* Choice i is continuation i behind the context; with several contexts (WinoGrande) it is the one continuation behind
 * context i. A space stands between them unless the continuations bring their own. A zeroed struct is empty. */
struct choice_question {
    struct str heading;             /* stands once before everything, few-shot examples included; often empty */
    struct text_list contexts, continuations;
    size_t n_choices, gold;
    bool joined;                    /* nothing stands between context and continuation */
};

void choice_question_clear(struct choice_question *question); /* keeps the memory */
void choice_question_free(struct choice_question *question);

const char *choice_context(const struct choice_question *question, size_t choice);
const char *choice_continuation(const struct choice_question *question, size_t choice);

/* The continuation with what stands before it. */
void choice_put_continuation(const struct choice_question *question, size_t choice, struct str *out);

/* What acc_norm and acc_bytes divide by: the choice as its task lists it, which is the context where those differ. */
const char *choice_text(const struct choice_question *question, size_t choice);

/* What the log-likelihood of a choice is divided by: nothing (acc), its characters (acc_norm), its bytes (acc_bytes). */
enum choice_unit { CHOICE_WHOLE, CHOICE_CHARACTERS, CHOICE_BYTES, N_CHOICE_UNITS };

/* The choice with the largest log-likelihood (n_choices) per unit; ties go to the first. */
size_t choice_best(const struct choice_question *question, const double *log_likelihood, enum choice_unit unit);

#endif
