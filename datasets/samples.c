#include "datasets/samples.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"

bool samples_match(const json_t *row) {
    return json_has(row, "arguments") && (json_has(row, "doc") || json_has(row, "doc_id"));
}

/* Pair i; continuation NULL where the second argument is no text. */
static int read_pair(const struct row_context *c, size_t i, const char **context, const char **continuation,
                     struct err *err) {
    const json_t *arguments = json_object_get(c->row, "arguments");
    char key[32];
    snprintf(key, sizeof key, "gen_args_%zu", i);
    const json_t *pair = json_is_object(arguments) ? json_object_get(arguments, key) : json_array_get(arguments, i);
    bool listed = json_is_array(pair);
    *context = json_string_value(listed ? json_array_get(pair, 0) : json_object_get(pair, "arg_0"));
    *continuation = json_string_value(listed ? json_array_get(pair, 1) : json_object_get(pair, "arg_1"));
    return *context ? OK : err_set(err, ERR_INPUT, c->where, "\"arguments\": pair %zu (\"%s\") has no context in \"arg_0\"",
                                   i, key);
}

static int count_pairs(const struct row_context *c, size_t *n, struct err *err) {
    const json_t *arguments = json_object_get(c->row, "arguments");
    *n = json_is_object(arguments) ? json_object_size(arguments) : json_array_size(arguments);
    return *n ? OK : err_set(err, ERR_INPUT, c->where, "\"arguments\" holds no pair of context and continuation");
}

int samples_render(const struct row_context *c, struct row_texts *texts, struct err *err) {
    const char *context, *continuation;
    size_t n;
    int rc = count_pairs(c, &n, err);
    for (size_t i = 0; rc == OK && i < n; i++)
        if ((rc = read_pair(c, i, &context, &continuation, err)) == OK)
            rc = row_text_pair(context, continuation, texts, err);
    return rc;
}

static int add_pair(struct choice_question *q, const char *context, const char *continuation, struct err *err) {
    int rc = text_list_add(&q->contexts, context, strlen(context), err);
    q->joined |= continuation[0] != ' ';
    return rc == OK ? text_list_add(&q->continuations, continuation, strlen(continuation), err) : rc;
}

static bool all_equal(const struct text_list *list) {
    for (size_t i = 1; i < list->n; i++)
        if (strcmp(text_list_get(list, i), text_list_get(list, 0)) != 0)
            return false;
    return true;
}

/* One text in place of many that are the same. */
static void merge(struct text_list *list) {
    if (list->n > 1 && all_equal(list))
        list->n = 1;
}

/* The space before all continuations belongs to none of them. */
static void drop_space(struct choice_question *q) {
    for (size_t i = 0; !q->joined && i < q->continuations.n; i++)
        q->continuations.begin[i]++;
}

/* "target" as the number of a choice, or as its text. */
static bool find_gold(const struct choice_question *q, const json_t *target, size_t *gold) {
    const char *text = json_string_value(target);
    char *end = NULL;
    double number = text ? strtod(text, &end) : json_is_number(target) ? json_number_value(target) : -1;
    if (!text || (end != text && *end == 0)) {
        *gold = number >= 0 && number < (double)q->n_choices ? (size_t)number : q->n_choices;
        return *gold < q->n_choices && (double)*gold == number;
    }
    for (*gold = 0; q->continuations.n == q->n_choices && *gold < q->n_choices; ++*gold)
        if (strcmp(choice_continuation(q, *gold), text) == 0)
            return true;
    return false;
}

static int gold_of_doc(const struct row_context *c, size_t n_choices, size_t *gold, struct err *err) {
    const struct row_fields no_fields = {0};
    const json_t *doc = json_object_get(c->row, "doc");
    const struct row_kind *kind;
    struct choice_question q = {0};
    struct err inner = {0};
    bool found = json_is_object(doc) && row_kind_find(doc, &no_fields, c->where, &kind, &inner) == OK &&
                 row_kind_has_choices(kind) && row_question(kind, doc, c->where, &q, &inner) == OK &&
                 q.n_choices == n_choices;
    *gold = q.gold;
    choice_question_free(&q);
    return found ? OK : err_set(err, ERR_INPUT, c->where, "\"target\" names none of the %zu choices, by number or text",
                                n_choices);
}

int samples_question(const struct row_context *c, struct choice_question *q, struct err *err) {
    const char *context, *continuation;
    int rc = count_pairs(c, &q->n_choices, err);
    for (size_t i = 0; rc == OK && i < q->n_choices; i++) {
        rc = read_pair(c, i, &context, &continuation, err);
        if (rc == OK && !continuation)
            rc = err_set(err, ERR_INPUT, c->where, "\"arguments\": pair %zu has no continuation to score in \"arg_1\"", i);
        if (rc == OK)
            rc = add_pair(q, context, continuation, err);
    }
    if (rc != OK)
        return rc;
    merge(&q->contexts);
    merge(&q->continuations);
    drop_space(q);
    if (q->n_choices == 1 || find_gold(q, json_object_get(c->row, "target"), &q->gold))
        return OK;
    return gold_of_doc(c, q->n_choices, &q->gold, err);
}
