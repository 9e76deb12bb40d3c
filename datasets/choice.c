#include "datasets/choice.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

int text_list_add(struct text_list *list, const char *text, size_t n_bytes, struct err *err) {
    int rc = mem_grow(&list->begin, &list->cap, list->n + 1, sizeof *list->begin, "texts", err);
    if (rc != OK)
        return rc;
    list->begin[list->n] = list->bytes.len;
    str_append(&list->bytes, text, n_bytes);
    str_putc(&list->bytes, 0);
    if (list->bytes.failed)
        return err_memory(err, "texts", list->bytes.len);
    list->n++;
    return OK;
}

const char *text_list_get(const struct text_list *list, size_t i) {
    ASSERT(i < list->n);
    return list->bytes.data + list->begin[i];
}

void text_list_clear(struct text_list *list) {
    str_clear(&list->bytes);
    list->n = 0;
}

void text_list_free(struct text_list *list) {
    str_free(&list->bytes);
    free(list->begin);
    *list = (struct text_list){0};
}

void choice_question_clear(struct choice_question *q) {
    str_clear(&q->heading);
    text_list_clear(&q->contexts);
    text_list_clear(&q->continuations);
    q->n_choices = q->gold = 0;
    q->joined = false;
}

void choice_question_free(struct choice_question *q) {
    str_free(&q->heading);
    text_list_free(&q->contexts);
    text_list_free(&q->continuations);
    *q = (struct choice_question){0};
}

const char *choice_context(const struct choice_question *q, size_t choice) {
    return text_list_get(&q->contexts, q->contexts.n > 1 ? choice : 0);
}

const char *choice_continuation(const struct choice_question *q, size_t choice) {
    return text_list_get(&q->continuations, q->continuations.n > 1 ? choice : 0);
}

void choice_put_continuation(const struct choice_question *q, size_t choice, struct str *out) {
    str_puts(out, q->joined ? "" : " ");
    str_puts(out, choice_continuation(q, choice));
}

const char *choice_text(const struct choice_question *q, size_t choice) {
    return q->continuations.n > 1 || q->n_choices == 1 ? choice_continuation(q, choice) : choice_context(q, choice);
}

static size_t n_characters(const char *text) {
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

size_t choice_best(const struct choice_question *q, const double *log_likelihood, enum choice_unit unit) {
    size_t best = 0;
    double best_value = -INFINITY;
    for (size_t i = 0; i < q->n_choices; i++) {
        const char *text = choice_text(q, i);
        size_t n = unit == CHOICE_WHOLE ? 1 : unit == CHOICE_CHARACTERS ? n_characters(text) : strlen(text);
        double value = log_likelihood[i] / (double)n;
        if (value > best_value) {
            best_value = value;
            best = i;
        }
    }
    return best;
}
