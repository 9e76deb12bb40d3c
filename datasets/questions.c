#include "datasets/questions.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/json.h"

/* --- question, choices and gold answer in the forms they come in --- */

struct question {
    const char *text;
    const json_t *choices; /* {"text": [...], "label": [...]}, [{"text", "label"}, ...] or ["...", ...] */
};

/* "question" is the text, or {"stem": text, "choices": [...]} as the authors of ARC and CommonsenseQA write it. */
static int read_question(const struct row_context *c, struct question *out, struct err *err) {
    const json_t *inner = json_object_get(c->row, "question");
    *out = (struct question){.choices = json_object_get(c->row, "choices")};
    if (!json_is_object(inner))
        return row_string(c->row, "question", &out->text, c->where, err);
    out->choices = json_object_get(inner, "choices");
    return row_string(inner, "stem", &out->text, c->where, err);
}

static size_t n_choices(const json_t *choices) {
    return json_array_size(json_is_object(choices) ? json_object_get(choices, "text") : choices);
}

static const char *choice_part(const json_t *choices, size_t i, const char *part) {
    if (json_is_object(choices))
        return json_string_value(json_array_get(json_object_get(choices, part), i));
    const json_t *item = json_array_get(choices, i);
    return json_string_value(json_is_object(item) ? json_object_get(item, part) : item);
}

static int choice_text_of(const struct row_context *c, const json_t *choices, size_t i, const char **out, struct err *err) {
    *out = choice_part(choices, i, "text");
    return *out ? OK : err_set(err, ERR_INPUT, c->where, "\"choices\": choice %zu has no text", i);
}

/* The choice whose label is the row's "answerKey". */
static int gold_by_label(const struct row_context *c, const json_t *choices, size_t *out, struct err *err) {
    const char *key;
    int rc = row_string(c->row, "answerKey", &key, c->where, err);
    if (rc != OK)
        return rc;
    for (*out = 0; *out < n_choices(choices); ++*out) {
        const char *label = choice_part(choices, *out, "label");
        if (label && strcmp(label, key) == 0)
            return OK;
    }
    return err_set(err, ERR_INPUT, c->where, "\"answerKey\" is \"%s\", which labels no choice (splits without answers "
                   "cannot be used)", key);
}

/* The gold answer as a number, digits or, with `letters`, A, B, ...; counted from `base`. */
static int gold_by_number(const struct row_context *c, const char *key, long base, bool letters, size_t n, size_t *out,
                          struct err *err) {
    const json_t *value = json_object_get(c->row, key);
    const char *text = json_string_value(value);
    double number = json_is_number(value) ? json_number_value(value) : -1;
    if (text && letters && text[0] >= 'A' && text[0] <= 'Z' && !text[1])
        number = (double)(text[0] - 'A') + (double)base;
    else if (text && text[0] >= '0' && text[0] <= '9' && !text[1])
        number = (double)(text[0] - '0');
    number -= (double)base;
    if (!(number >= 0 && number < (double)n && number == (double)(size_t)number))
        return err_set(err, ERR_INPUT, c->where, "\"%s\" names none of the %zu answers (splits without answers cannot be "
                       "used)", key, n);
    *out = (size_t)number;
    return OK;
}

/* The context of a question; its choices follow. */
static int put_context(struct choice_question *q, const struct str *context, struct err *err) {
    return context->failed ? err_memory(err, "a prompt", context->len)
                           : text_list_add(&q->contexts, str_text(context), context->len, err);
}

static int put_choice(struct choice_question *q, const char *choice, struct err *err) {
    q->n_choices++;
    return text_list_add(&q->continuations, choice, strlen(choice), err);
}

/* "Question: q\nAnswer:". */
static int put_plain_context(struct choice_question *q, const char *question, struct err *err) {
    struct str context = {0};
    str_printf(&context, "Question: %s\nAnswer:", question);
    int rc = put_context(q, &context, err);
    str_free(&context);
    return rc;
}

/* The texts of all choices. */
static int put_choices(const struct row_context *c, const json_t *choices, struct choice_question *q, struct err *err) {
    int rc = OK;
    for (size_t i = 0; rc == OK && i < n_choices(choices); i++) {
        const char *text;
        if ((rc = choice_text_of(c, choices, i, &text, err)) == OK)
            rc = put_choice(q, text, err);
    }
    return rc;
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void put_stripped(struct str *s, const char *text) {
    size_t n = strlen(text);
    while (n > 0 && is_space(*text))
        text++, n--;
    while (n > 0 && is_space(text[n - 1]))
        n--;
    str_append(s, text, n);
}

/* "A. choice" lines, then "Answer:"; the choices are the letters. */
static int put_lettered(const struct row_context *c, const json_t *choices, struct str *prompt, struct choice_question *q,
                        struct err *err) {
    if (n_choices(choices) < 2 || n_choices(choices) > 26)
        return err_set(err, ERR_INPUT, c->where, "\"choices\" holds %zu answers, expected 2 to 26", n_choices(choices));
    for (size_t i = 0; i < n_choices(choices); i++) {
        const char *text;
        int rc = choice_text_of(c, choices, i, &text, err);
        if (rc == OK)
            rc = put_choice(q, (char[]){(char)('A' + i), 0}, err);
        if (rc != OK)
            return rc;
        str_printf(prompt, "\n%c. %s", (int)('A' + i), text);
    }
    str_puts(prompt, "\nAnswer:");
    return put_context(q, prompt, err);
}

/* --- ARC, CommonsenseQA, MMLU --- */

static bool has_labelled_choices(const json_t *row) {
    const json_t *question = json_object_get(row, "question");
    return json_has(row, "answerKey") && (json_has(row, "choices") || json_has(question, "choices"));
}

bool question_is_arc(const json_t *row) {
    return has_labelled_choices(row);
}

int question_read_arc(const struct row_context *c, struct choice_question *q, struct err *err) {
    struct question from;
    int rc;
    if ((rc = read_question(c, &from, err)) != OK || (rc = gold_by_label(c, from.choices, &q->gold, err)) != OK ||
        (rc = put_plain_context(q, from.text, err)) != OK)
        return rc;
    return put_choices(c, from.choices, q, err);
}

bool question_is_commonsenseqa(const json_t *row) {
    return has_labelled_choices(row) &&
           (json_has(row, "question_concept") || json_has(json_object_get(row, "question"), "question_concept"));
}

int question_read_commonsenseqa(const struct row_context *c, struct choice_question *q, struct err *err) {
    struct question from;
    struct str prompt = {0};
    int rc;
    if ((rc = read_question(c, &from, err)) != OK || (rc = gold_by_label(c, from.choices, &q->gold, err)) != OK)
        return rc;
    str_puts(&prompt, "Question: ");
    put_stripped(&prompt, from.text);
    rc = put_lettered(c, from.choices, &prompt, q, err);
    str_free(&prompt);
    return rc;
}

bool question_is_mmlu(const json_t *row) {
    return json_has(row, "question") && json_is_array(json_object_get(row, "choices")) && json_has(row, "answer");
}

/* A "subject" gives the set's heading. */
int question_read_mmlu(const struct row_context *c, struct choice_question *q, struct err *err) {
    struct question from;
    struct str prompt = {0};
    const char *subject = NULL;
    int rc;
    if ((rc = read_question(c, &from, err)) != OK ||
        (rc = json_get_string(c->row, "subject", &subject, c->where, err)) != OK ||
        (rc = gold_by_number(c, "answer", 0, true, n_choices(from.choices), &q->gold, err)) != OK)
        return rc;
    if (subject) {
        str_puts(&q->heading, "The following are multiple choice questions (with answers) about ");
        for (const char *p = subject; *p; p++)
            str_putc(&q->heading, *p == '_' ? ' ' : *p);
        str_puts(&q->heading, ".\n\n");
    }
    put_stripped(&prompt, from.text);
    rc = put_lettered(c, from.choices, &prompt, q, err);
    str_free(&prompt);
    return rc;
}

/* --- BoolQ, PIQA, GSM8K --- */

bool question_is_boolq(const json_t *row) {
    return json_has(row, "passage") && json_has(row, "question");
}

int question_read_boolq(const struct row_context *c, struct choice_question *q, struct err *err) {
    const char *passage, *question;
    const json_t *answer = json_object_get(c->row, "answer");
    struct str prompt = {0};
    int rc;
    q->gold = json_is_true(answer);
    if ((rc = row_string(c->row, "passage", &passage, c->where, err)) != OK ||
        (rc = row_string(c->row, "question", &question, c->where, err)) != OK)
        return rc;
    if (!json_is_boolean(answer) && (rc = gold_by_number(c, "label", 0, false, 2, &q->gold, err)) != OK)
        return rc;
    str_printf(&prompt, "%s\nQuestion: %s?\nAnswer:", passage, question);
    if ((rc = put_context(q, &prompt, err)) == OK && (rc = put_choice(q, "no", err)) == OK)
        rc = put_choice(q, "yes", err);
    str_free(&prompt);
    return rc;
}

bool question_is_piqa(const json_t *row) {
    return json_has(row, "goal") && json_has(row, "sol1") && json_has(row, "sol2");
}

int question_read_piqa(const struct row_context *c, struct choice_question *q, struct err *err) {
    const char *goal, *solution[2];
    int rc;
    if ((rc = row_string(c->row, "goal", &goal, c->where, err)) != OK ||
        (rc = gold_by_number(c, "label", 0, false, 2, &q->gold, err)) != OK ||
        (rc = row_string(c->row, "sol1", &solution[0], c->where, err)) != OK ||
        (rc = row_string(c->row, "sol2", &solution[1], c->where, err)) != OK ||
        (rc = put_plain_context(q, goal, err)) != OK || (rc = put_choice(q, solution[0], err)) != OK)
        return rc;
    return put_choice(q, solution[1], err);
}

bool question_is_gsm8k(const json_t *row) {
    return json_is_string(json_object_get(row, "question")) && json_is_string(json_object_get(row, "answer"));
}

int question_render_gsm8k(const struct row_context *c, struct row_texts *texts, struct err *err) {
    const char *question, *answer;
    int rc;
    if ((rc = row_string(c->row, "question", &question, c->where, err)) != OK ||
        (rc = row_string(c->row, "answer", &answer, c->where, err)) != OK)
        return rc;
    if ((rc = row_text_begin(texts, err)) != OK)
        return rc;
    str_printf(&texts->bytes, "Question: %s\nAnswer:", question);
    row_text_prompt_ends(texts);
    str_printf(&texts->bytes, " %s", answer);
    return row_text_end(texts, err);
}

/* --- WinoGrande: two contexts, one continuation --- */

bool question_is_winogrande(const json_t *row) {
    return json_has(row, "sentence") && json_has(row, "option1") && json_has(row, "option2");
}

int question_read_winogrande(const struct row_context *c, struct choice_question *q, struct err *err) {
    const char *sentence, *option[2];
    struct str text = {0};
    int rc;
    if ((rc = row_string(c->row, "sentence", &sentence, c->where, err)) != OK ||
        (rc = gold_by_number(c, "answer", 1, false, 2, &q->gold, err)) != OK ||
        (rc = row_string(c->row, "option1", &option[0], c->where, err)) != OK ||
        (rc = row_string(c->row, "option2", &option[1], c->where, err)) != OK)
        return rc;
    const char *blank = strchr(sentence, '_');
    if (!blank)
        return err_set(err, ERR_INPUT, c->where, "\"sentence\" has no _ to fill");
    for (int i = 0; rc == OK && i < 2; i++) {
        str_clear(&text);
        str_append(&text, sentence, (size_t)(blank - sentence));
        str_puts(&text, option[i]);
        rc = put_context(q, &text, err);
    }
    str_clear(&text);
    put_stripped(&text, blank + 1);
    if (rc == OK)
        rc = put_choice(q, str_text(&text), err);
    q->n_choices = 2;
    str_free(&text);
    return rc;
}

/* --- HellaSwag: brackets of the crawled how-to texts are taken out --- */

bool question_is_hellaswag(const json_t *row) {
    return json_has(row, "ctx_a") && json_has(row, "endings") && json_has(row, "activity_label");
}

/* Appends text with its first letter raised and the others lowered. */
static void put_capitalized(struct str *s, const char *text) {
    size_t n = strlen(text);
    for (size_t i = 0; i < n;) {
        char bytes[4];
        unsigned code_point;
        size_t len = utf8_decode(text + i, n - i, &code_point);
        utf8proc_int32_t c = (utf8proc_int32_t)code_point;
        c = i == 0 ? utf8proc_totitle(c) : utf8proc_tolower(c);
        str_append(s, bytes, utf8_encode((unsigned)c, bytes));
        i += len;
    }
}

/* Replaces every `from` that is found from left to right, in place of a new string. */
static void replace(struct str *s, const char *from, const char *to) {
    struct str out = {0};
    const char *rest = str_text(s), *hit;
    while ((hit = strstr(rest, from))) {
        str_append(&out, rest, (size_t)(hit - rest));
        str_puts(&out, to);
        rest = hit + strlen(from);
    }
    str_puts(&out, rest);
    out.failed |= s->failed;
    str_free(s);
    *s = out;
}

/* Takes out "[...]" within one line, shortest match first. */
static void drop_brackets(struct str *s) {
    struct str out = {0};
    const char *rest = str_text(s), *open;
    while ((open = strchr(rest, '['))) {
        size_t n = strcspn(open, "]\n");
        bool closed = open[n] == ']';
        str_append(&out, rest, (size_t)(open - rest) + !closed);
        rest = open + (closed ? n + 1 : 1);
    }
    str_puts(&out, rest);
    out.failed |= s->failed;
    str_free(s);
    *s = out;
}

static void put_cleaned(struct str *s, const char *text) {
    struct str clean = {0};
    put_stripped(&clean, text);
    replace(&clean, " [title]", ". ");
    drop_brackets(&clean);
    replace(&clean, "  ", " ");
    str_append(s, str_text(&clean), clean.len);
    s->failed |= clean.failed;
    str_free(&clean);
}

static int put_cleaned_choice(struct choice_question *q, const char *ending, struct err *err) {
    struct str clean = {0};
    put_cleaned(&clean, ending);
    int rc = clean.failed ? err_memory(err, "an ending", clean.len) : put_choice(q, str_text(&clean), err);
    str_free(&clean);
    return rc;
}

int question_read_hellaswag(const struct row_context *c, struct choice_question *q, struct err *err) {
    const char *activity, *first, *second = "";
    const json_t *endings = json_object_get(c->row, "endings");
    struct str raw = {0}, context = {0};
    int rc;
    if ((rc = row_string(c->row, "activity_label", &activity, c->where, err)) != OK ||
        (rc = row_string(c->row, "ctx_a", &first, c->where, err)) != OK ||
        (rc = json_get_string(c->row, "ctx_b", &second, c->where, err)) != OK ||
        (rc = gold_by_number(c, "label", 0, false, json_array_size(endings), &q->gold, err)) != OK)
        return rc;
    str_printf(&raw, "%s: %s ", activity, first);
    put_capitalized(&raw, second);
    put_cleaned(&context, str_text(&raw));
    context.failed |= raw.failed;
    rc = put_context(q, &context, err);
    for (size_t i = 0; rc == OK && i < json_array_size(endings); i++) {
        const char *ending = json_string_value(json_array_get(endings, i));
        rc = ending ? put_cleaned_choice(q, ending, err)
                    : err_set(err, ERR_INPUT, c->where, "\"endings\": ending %zu is not text", i);
    }
    str_free(&raw);
    str_free(&context);
    return rc;
}

/* --- OpenBookQA, and choices without a set --- */

bool question_is_openbookqa(const json_t *row) {
    return json_has(row, "question_stem") && json_has(row, "choices") && json_has(row, "answerKey");
}

/* The hub's "question_stem", or the authors' "question": {"stem", ...}, which only the user can tell from ARC. */
int question_read_openbookqa(const struct row_context *c, struct choice_question *q, struct err *err) {
    struct question from = {.choices = json_object_get(c->row, "choices")};
    int rc = json_has(c->row, "question_stem") ? row_string(c->row, "question_stem", &from.text, c->where, err)
                                               : read_question(c, &from, err);
    if (rc != OK || (rc = gold_by_label(c, from.choices, &q->gold, err)) != OK ||
        (rc = text_list_add(&q->contexts, from.text, strlen(from.text), err)) != OK)
        return rc;
    return put_choices(c, from.choices, q, err);
}

bool question_is_choice(const json_t *row) {
    return json_has(row, "prompt") && json_has(row, "choices");
}

/* "gold" is the number of a choice, or its very text. */
int question_read_choice(const struct row_context *c, struct choice_question *q, struct err *err) {
    const json_t *choices = json_object_get(c->row, "choices");
    const char *prompt, *gold = json_string_value(json_object_get(c->row, "gold"));
    size_t n = n_choices(choices), i = 0;
    int rc = row_string(c->row, "prompt", &prompt, c->where, err);
    if (rc == OK)
        rc = json_require(c->row, "gold", c->where, err);
    if (rc == OK && (!json_is_array(choices) || n < 2))
        rc = err_set(err, ERR_INPUT, c->where, "\"choices\" must list at least 2 answers");
    if (rc != OK || (rc = text_list_add(&q->contexts, prompt, strlen(prompt), err)) != OK ||
        (rc = put_choices(c, choices, q, err)) != OK)
        return rc;
    while (gold && i < n && strcmp(gold, text_list_get(&q->continuations, i)) != 0)
        i++;
    q->gold = i;
    return gold && i < n ? OK : gold_by_number(c, "gold", 0, false, n, &q->gold, err);
}
