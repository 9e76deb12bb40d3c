#include "datasets/documents.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"

struct range {
    size_t begin, n; /* of documents.indices */
};

struct question {
    const char *text; /* borrowed from the json */
    json_t *answers;  /* owned */
    struct range own, near;
};

struct documents {
    json_t *json;      /* the whole file: the texts live in it */
    json_t *numbers;   /* text -> its number */
    json_t *texts;     /* array, in the order of the numbers */
    struct question *questions;
    size_t n_questions, questions_cap;
    size_t *indices;
    size_t n_indices, indices_cap;
};

void documents_free(struct documents *d) {
    if (!d)
        return;
    for (size_t i = 0; i < d->n_questions; i++)
        json_decref(d->questions[i].answers);
    json_decref(d->json);
    json_decref(d->numbers);
    json_decref(d->texts);
    free(d->questions);
    free(d->indices);
    free(d);
}

/* The number of a document, a new one when it is not known yet. */
static int document_number(struct documents *d, const char *text, size_t *out, struct err *err) {
    const json_t *known = json_object_get(d->numbers, text);
    *out = known ? (size_t)json_integer_value(known) : json_array_size(d->texts);
    if (known)
        return OK;
    if (json_object_set_new(d->numbers, text, json_integer((json_int_t)*out)) != 0 ||
        json_array_append_new(d->texts, json_string(text)) != 0)
        return err_memory(err, "a document", strlen(text));
    return OK;
}

/* Lengthens a range, which is the last one, by a document that it does not hold yet. */
static int add_index(struct documents *d, struct range *range, size_t number, struct err *err) {
    for (size_t i = 0; i < range->n; i++)
        if (d->indices[range->begin + i] == number)
            return OK;
    int rc = mem_grow(&d->indices, &d->indices_cap, d->n_indices + 1, sizeof *d->indices, "documents", err);
    if (rc == OK) {
        d->indices[d->n_indices++] = number;
        range->n++;
    }
    return rc;
}

/* Takes over the answers, also on failure. */
static int add_question(struct documents *d, struct question question, struct err *err) {
    int rc = question.answers ? mem_grow(&d->questions, &d->questions_cap, d->n_questions + 1, sizeof *d->questions,
                                         "questions", err)
                              : err_set(err, ERR_MEMORY, "", "out of memory for answers");
    if (rc == OK)
        d->questions[d->n_questions++] = question;
    else
        json_decref(question.answers);
    return rc;
}

static int get_text(const json_t *object, const char *key, const char **out, const char *where, struct err *err) {
    int rc = json_require(object, key, where, err);
    return rc == OK ? json_get_string(object, key, out, where, err) : rc;
}

static int get_array(const json_t *object, const char *key, json_t **out, const char *where, struct err *err) {
    int rc = json_require(object, key, where, err);
    return rc == OK ? json_get_array(object, key, out, where, err) : rc;
}

/* --- SQuAD --- */

static int squad_answers(const json_t *qa, const char *where, json_t **out, struct err *err) {
    json_t *given = NULL, *answer;
    const char *text;
    size_t i;
    int rc = get_array(qa, "answers", &given, where, err);
    *out = NULL;
    if (rc == OK && json_array_size(given) > 0 && !(*out = json_array()))
        return err_set(err, ERR_MEMORY, "", "out of memory for answers");
    json_array_foreach(given, i, answer) {
        if (rc == OK && (rc = get_text(answer, "text", &text, where, err)) == OK &&
            json_array_append_new(*out, json_string(text)) != 0)
            rc = err_memory(err, "an answer", strlen(text));
    }
    if (rc != OK) {
        json_decref(*out);
        *out = NULL;
    }
    return rc;
}

/* The questions of one paragraph, whose document is one of the article's. */
static int squad_questions(struct documents *d, const json_t *paragraph, struct range article, const char *where,
                           struct err *err) {
    struct range self = {d->n_indices, 0}, near = {d->n_indices + 1, 0};
    json_t *qas = NULL, *qa;
    const char *text;
    size_t i, own;
    int rc;
    if ((rc = get_array(paragraph, "qas", &qas, where, err)) != OK ||
        (rc = get_text(paragraph, "context", &text, where, err)) != OK ||
        (rc = document_number(d, text, &own, err)) != OK || (rc = add_index(d, &self, own, err)) != OK)
        return rc;
    for (i = 0; rc == OK && i < article.n; i++)
        if (d->indices[article.begin + i] != own)
            rc = add_index(d, &near, d->indices[article.begin + i], err);
    if (rc == OK)
        json_array_foreach(qas, i, qa) {
            struct question question = {.own = self, .near = near};
            if ((rc = get_text(qa, "question", &question.text, where, err)) != OK ||
                (rc = squad_answers(qa, where, &question.answers, err)) != OK)
                break;
            if (question.answers && (rc = add_question(d, question, err)) != OK)
                break;
        }
    return rc;
}

static int squad_article(struct documents *d, const json_t *article, const char *where, struct err *err) {
    json_t *paragraphs = NULL, *paragraph;
    struct range all = {d->n_indices, 0};
    const char *text;
    size_t i, number;
    int rc = get_array(article, "paragraphs", &paragraphs, where, err);
    if (rc == OK)
        json_array_foreach(paragraphs, i, paragraph) {
            if ((rc = get_text(paragraph, "context", &text, where, err)) != OK ||
                (rc = document_number(d, text, &number, err)) != OK || (rc = add_index(d, &all, number, err)) != OK)
                break;
        }
    if (rc == OK)
        json_array_foreach(paragraphs, i, paragraph) {
            if ((rc = squad_questions(d, paragraph, all, where, err)) != OK)
                break;
        }
    return rc;
}

static int read_squad(struct documents *d, const char *path, struct err *err) {
    json_t *data = NULL, *article;
    size_t i;
    char where[512];
    int rc = json_is_object(d->json)
                 ? get_array(d->json, "data", &data, path, err)
                 : err_set(err, ERR_INPUT, path, "not a file of SQuAD: an object with \"data\" was expected");
    if (rc == OK)
        json_array_foreach(data, i, article) {
            snprintf(where, sizeof where, "%s: data[%zu]", path, i);
            if ((rc = squad_article(d, article, where, err)) != OK)
                break;
        }
    return rc;
}

/* --- HotpotQA --- */

/* "Title\n" and its sentences. */
static int hotpot_document(const json_t *entry, const char *where, struct str *out, struct err *err) {
    const char *title = json_string_value(json_array_get(entry, 0));
    const json_t *sentences = json_array_get(entry, 1), *sentence;
    size_t i;
    str_clear(out);
    if (!title || !json_is_array(sentences))
        return err_set(err, ERR_INPUT, where, "\"context\": a title and a list of sentences were expected");
    str_printf(out, "%s\n", title);
    json_array_foreach((json_t *)(uintptr_t)sentences, i, sentence) {
        if (!json_is_string(sentence))
            return err_set(err, ERR_INPUT, where, "\"context\": sentence %zu of \"%.100s\" is not text", i, title);
        str_append(out, json_string_value(sentence), json_string_length(sentence));
    }
    return out->failed ? err_memory(err, "a document", out->len) : OK;
}

static int hotpot_question(struct documents *d, const json_t *entry, const char *where, struct str *text, struct err *err) {
    struct question question = {.own = {d->n_indices, 0}};
    json_t *context = NULL, *document;
    const char *answer;
    size_t i, number;
    int rc;
    if ((rc = get_text(entry, "question", &question.text, where, err)) != OK ||
        (rc = get_text(entry, "answer", &answer, where, err)) != OK ||
        (rc = get_array(entry, "context", &context, where, err)) != OK)
        return rc;
    json_array_foreach(context, i, document) {
        if ((rc = hotpot_document(document, where, text, err)) != OK ||
            (rc = document_number(d, str_text(text), &number, err)) != OK ||
            (rc = add_index(d, &question.own, number, err)) != OK)
            return rc;
    }
    if (question.own.n == 0)
        return err_set(err, ERR_INPUT, where, "\"context\" holds no document");
    question.answers = json_pack("[s]", answer);
    return add_question(d, question, err);
}

static int read_hotpot(struct documents *d, const char *path, struct err *err) {
    struct str text = {0};
    json_t *entry;
    size_t i;
    char where[512];
    int rc = json_is_array(d->json) ? OK
                                    : err_set(err, ERR_INPUT, path, "not a file of HotpotQA: a list of questions was "
                                              "expected (hotpot_dev_distractor_v1.json)");
    if (rc == OK)
        json_array_foreach(d->json, i, entry) {
            snprintf(where, sizeof where, "%s: [%zu]", path, i);
            if ((rc = hotpot_question(d, entry, where, &text, err)) != OK)
                break;
        }
    str_free(&text);
    return rc;
}

/* --- both --- */

static int open_with(const char *path, int (*read)(struct documents *, const char *, struct err *), struct documents **out,
                     struct err *err) {
    struct documents *d = mem_alloc(1, sizeof *d, "documents", err);
    char *text = NULL;
    size_t n;
    *out = NULL;
    int rc = d ? file_read_all(path, (size_t)1 << 30, &text, &n, err) : ERR_MEMORY;
    if (rc == OK)
        rc = json_parse(text, n, path, &d->json, err);
    free(text);
    if (rc == OK && (!(d->numbers = json_object()) || !(d->texts = json_array())))
        rc = err_set(err, ERR_MEMORY, "", "out of memory for documents");
    if (rc == OK)
        rc = read(d, path, err);
    if (rc == OK && d->n_questions == 0)
        rc = err_set(err, ERR_INPUT, path, "no question that has an answer");
    if (rc == OK)
        *out = d;
    else
        documents_free(d);
    return rc;
}

int documents_open_squad(const char *path, struct documents **out, struct err *err) {
    return open_with(path, read_squad, out, err);
}

int documents_open_hotpot(const char *path, struct documents **out, struct err *err) {
    return open_with(path, read_hotpot, out, err);
}

size_t documents_n(const struct documents *d) {
    return json_array_size(d->texts);
}

const char *documents_text(const struct documents *d, size_t i) {
    return json_string_value(json_array_get(d->texts, i));
}

size_t documents_n_questions(const struct documents *d) {
    return d->n_questions;
}

struct document_question documents_question(const struct documents *d, size_t i) {
    const struct question *q = &d->questions[i];
    return (struct document_question){.text = q->text,
                                      .answers = q->answers,
                                      .own = d->indices + q->own.begin,
                                      .near = d->indices + q->near.begin,
                                      .n_own = q->own.n,
                                      .n_near = q->near.n};
}
