#include "datasets/rows.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "datasets/questions.h"
#include "datasets/rows_internal.h"
#include "datasets/samples.h"

void row_texts_clear(struct row_texts *texts) {
    str_clear(&texts->bytes);
    texts->len = 0;
}

void row_texts_free(struct row_texts *texts) {
    str_free(&texts->bytes);
    free(texts->items);
    *texts = (struct row_texts){0};
}

int row_text_begin(struct row_texts *texts, struct err *err) {
    int rc = mem_grow(&texts->items, &texts->cap, texts->len + 1, sizeof *texts->items, "texts", err);
    if (rc == OK)
        texts->items[texts->len++] = (struct row_text){.begin = texts->bytes.len};
    return rc;
}

void row_text_prompt_ends(struct row_texts *texts) {
    struct row_text *last = &texts->items[texts->len - 1];
    last->n_prompt = texts->bytes.len - last->begin;
}

int row_text_end(struct row_texts *texts, struct err *err) {
    struct row_text *last = &texts->items[texts->len - 1];
    if (texts->bytes.failed)
        return err_memory(err, "the text of a row", texts->bytes.len);
    last->n = texts->bytes.len - last->begin;
    return OK;
}

int row_string(const json_t *row, const char *key, const char **out, const char *where, struct err *err) {
    int rc = json_require(row, key, where, err);
    return rc == OK ? json_get_string(row, key, out, where, err) : rc;
}

/* --- the command line's fields --- */

static int set_field(const char *role, size_t n, const char *name, size_t n_name, struct row_fields *out, struct err *err) {
    char **slot = n == 4 && memcmp(role, "text", n) == 0          ? &out->text
                  : n == 6 && memcmp(role, "prompt", n) == 0      ? &out->prompt
                  : n == 10 && memcmp(role, "completion", n) == 0 ? &out->completion
                                                                  : NULL;
    if (!slot)
        return err_set(err, ERR_USAGE, "--field", "\"%.*s\" is not text, prompt or completion", (int)n, role);
    if (*slot || n_name == 0)
        return err_set(err, ERR_USAGE, "--field", "%.*s %s", (int)n, role, *slot ? "is given twice" : "names no field");
    *slot = mem_strndup(name, n_name, err);
    return *slot ? OK : ERR_MEMORY;
}

int row_fields_parse(const char *option, struct row_fields *out, struct err *err) {
    int rc = OK;
    *out = (struct row_fields){0};
    if (!option)
        return OK;
    if (!strchr(option, '='))
        return set_field("text", 4, option, strlen(option), out, err);
    for (const char *part = option; rc == OK && part;) {
        size_t n = strcspn(part, ",");
        const char *equals = memchr(part, '=', n);
        if (!equals)
            rc = err_set(err, ERR_USAGE, "--field", "\"%.*s\" is not ROLE=NAME", (int)n, part);
        else
            rc = set_field(part, (size_t)(equals - part), equals + 1, n - (size_t)(equals + 1 - part), out, err);
        part = part[n] ? part + n + 1 : NULL;
    }
    if (rc == OK && (out->text ? out->prompt || out->completion : !out->prompt))
        rc = err_set(err, ERR_USAGE, "--field", "give text=NAME, or prompt=NAME with or without completion=NAME");
    if (rc != OK)
        row_fields_free(out);
    return rc;
}

void row_fields_free(struct row_fields *fields) {
    free(fields->text);
    free(fields->prompt);
    free(fields->completion);
    *fields = (struct row_fields){0};
}

/* --- plain text, prompts, RULER --- */

static int render_text_field(const struct row_context *c, const char *field, struct row_texts *texts, struct err *err) {
    const char *text;
    int rc;
    if ((rc = row_string(c->row, field, &text, c->where, err)) != OK || (rc = row_text_begin(texts, err)) != OK)
        return rc;
    str_puts(&texts->bytes, text);
    return row_text_end(texts, err);
}

int row_text_pair(const char *prompt, const char *completion, struct row_texts *texts, struct err *err) {
    int rc = row_text_begin(texts, err);
    if (rc != OK)
        return rc;
    str_puts(&texts->bytes, prompt);
    if (completion) {
        row_text_prompt_ends(texts);
        str_puts(&texts->bytes, completion);
    }
    return row_text_end(texts, err);
}

static int render_prompt_fields(const struct row_context *c, const char *prompt_key, const char *completion_key,
                                struct row_texts *texts, struct err *err) {
    const char *prompt, *completion = NULL;
    int rc = row_string(c->row, prompt_key, &prompt, c->where, err);
    if (rc == OK && completion_key)
        rc = json_get_string(c->row, completion_key, &completion, c->where, err);
    return rc == OK ? row_text_pair(prompt, completion, texts, err) : rc;
}

static bool is_named(const json_t *row) {
    (void)row;
    return false;
}

static int render_named(const struct row_context *c, struct row_texts *texts, struct err *err) {
    const struct row_fields *f = c->fields;
    int rc = f->completion ? json_require(c->row, f->completion, c->where, err) : OK;
    if (rc != OK)
        return rc;
    return f->text ? render_text_field(c, f->text, texts, err)
                   : render_prompt_fields(c, f->prompt, f->completion, texts, err);
}

static bool is_text(const json_t *row) {
    return json_has(row, "text");
}

static int render_text(const struct row_context *c, struct row_texts *texts, struct err *err) {
    return render_text_field(c, "text", texts, err);
}

static bool is_prompt(const json_t *row) {
    return json_has(row, "prompt");
}

static int render_prompt(const struct row_context *c, struct row_texts *texts, struct err *err) {
    return render_prompt_fields(c, "prompt", "completion", texts, err);
}

static bool is_ruler(const json_t *row) {
    return json_has(row, "input") && json_has(row, "outputs");
}

/* Files of older generators have the prefix inside "input" and no field of its own. */
static int render_ruler(const struct row_context *c, struct row_texts *texts, struct err *err) {
    const char *input, *prefix = "";
    json_t *outputs;
    int rc;
    if ((rc = row_string(c->row, "input", &input, c->where, err)) != OK ||
        (rc = json_get_string(c->row, "answer_prefix", &prefix, c->where, err)) != OK ||
        (rc = json_require(c->row, "outputs", c->where, err)) != OK ||
        (rc = json_get_array(c->row, "outputs", &outputs, c->where, err)) != OK)
        return rc;
    const char *answer = json_string_value(json_array_get(outputs, 0));
    if (!answer)
        return err_set(err, ERR_INPUT, c->where, "\"outputs\" holds no text: the answer is missing");
    if ((rc = row_text_begin(texts, err)) != OK)
        return rc;
    str_puts(&texts->bytes, input);
    str_puts(&texts->bytes, prefix);
    row_put_answer(texts, answer);
    return row_text_end(texts, err);
}

void row_put_answer(struct row_texts *texts, const char *answer) {
    const struct str *s = &texts->bytes;
    size_t begin = texts->items[texts->len - 1].begin;
    bool spaced = s->len > begin && strchr(" \t\r\n", s->data[s->len - 1]);
    row_text_prompt_ends(texts);
    if (!spaced && !strchr(" \t\r\n", answer[0])) /* strchr finds the zero of an empty answer too */
        str_putc(&texts->bytes, ' ');
    str_puts(&texts->bytes, answer);
}

/* --- the table --- */

/* First match wins. The first entry is taken when the user names fields. */
static const struct row_kind KINDS[] = {
    {"named fields", is_named, render_named, NULL},
    {"lm-eval samples", samples_match, samples_render, samples_question},
    {"text", is_text, render_text, NULL},
    {"choice", question_is_choice, NULL, question_read_choice},
    {"prompt", is_prompt, render_prompt, NULL},
    {"ruler", is_ruler, render_ruler, NULL},
    {"winogrande", question_is_winogrande, NULL, question_read_winogrande},
    {"hellaswag", question_is_hellaswag, NULL, question_read_hellaswag},
    {"boolq", question_is_boolq, NULL, question_read_boolq},
    {"piqa", question_is_piqa, NULL, question_read_piqa},
    {"commonsenseqa", question_is_commonsenseqa, NULL, question_read_commonsenseqa},
    {"openbookqa", question_is_openbookqa, NULL, question_read_openbookqa},
    {"arc", question_is_arc, NULL, question_read_arc},
    {"mmlu", question_is_mmlu, NULL, question_read_mmlu},
    {"gsm8k", question_is_gsm8k, question_render_gsm8k, NULL},
};
enum { N_KINDS = sizeof KINDS / sizeof KINDS[0] };

static int refuse_unknown(const json_t *row, const char *where, struct err *err) {
    struct str keys = {0};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)row, key, value) {
        str_printf(&keys, "%s\"%.40s\"", keys.len ? ", " : "", key);
        if (keys.len > 400) {
            str_puts(&keys, ", ...");
            break;
        }
    }
    int rc = json_has(row, "messages")
                 ? err_set(err, ERR_INPUT, where, "chat \"messages\" need the template of their model: render each row to a "
                           "\"prompt\" (and a \"completion\") first")
                 : err_set(err, ERR_INPUT, where, "no known field holds the text; the keys are %s. Name one with --field",
                           keys.len ? str_text(&keys) : "none");
    str_free(&keys);
    return rc;
}

int row_kind_find(const json_t *row, const struct row_fields *fields, const char *where, const struct row_kind **out,
                  struct err *err) {
    *out = NULL;
    if (fields->text || fields->prompt)
        *out = &KINDS[0];
    for (size_t i = 1; !*out && i < N_KINDS; i++)
        if (KINDS[i].matches(row))
            *out = &KINDS[i];
    return *out ? OK : refuse_unknown(row, where, err);
}

const char *row_kind_name(const struct row_kind *kind) {
    return kind->name;
}

const struct row_kind *row_kind_named(const char *name) {
    for (size_t i = 1; i < N_KINDS; i++)
        if (strcmp(KINDS[i].name, name) == 0)
            return &KINDS[i];
    return NULL;
}

bool row_kind_has_choices(const struct row_kind *kind) {
    return kind->question != NULL;
}

int row_question(const struct row_kind *kind, const json_t *row, const char *where, struct choice_question *question,
                 struct err *err) {
    const struct row_context context = {row, NULL, where};
    return kind->question(&context, question, err);
}

/* The text of the gold answer. */
static int render_question(const struct row_kind *kind, const struct row_context *c, struct row_texts *texts,
                           struct err *err) {
    struct choice_question q = {0};
    int rc = kind->question(c, &q, err);
    if (rc == OK && (rc = row_text_begin(texts, err)) == OK) {
        str_puts(&texts->bytes, str_text(&q.heading));
        str_puts(&texts->bytes, choice_context(&q, q.gold));
        row_text_prompt_ends(texts);
        choice_put_continuation(&q, q.gold, &texts->bytes);
        texts->bytes.failed |= q.heading.failed;
        rc = row_text_end(texts, err);
    }
    choice_question_free(&q);
    return rc;
}

int row_render(const struct row_kind *kind, const json_t *row, const struct row_fields *fields, const char *where,
               struct row_texts *texts, struct err *err) {
    const struct row_context context = {row, fields, where};
    return kind->render ? kind->render(&context, texts, err) : render_question(kind, &context, texts, err);
}

/* Integers are read as reals: their values are small labels where they matter, and a 64-bit id elsewhere must not fail. */
int row_parse(const char *line, size_t n, const char *where, json_t **out, struct err *err) {
    json_error_t problem;
    errno = 0;
    *out = json_loadb(line, n, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &problem);
    if (*out && json_is_object(*out))
        return OK;
    if (*out) {
        json_decref(*out);
        *out = NULL;
        return err_set(err, ERR_INPUT, where, "a row must be a JSON object");
    }
    if (errno == ENOMEM) /* the library calls that a syntax error */
        return err_memory(err, "a row", n);
    const char *remedy = "";
    if (strstr(problem.text, "\\u0000") || json_error_code(&problem) == json_error_null_character ||
        json_error_code(&problem) == json_error_null_byte_in_key || memchr(line, 0, n))
        remedy = "; remove NUL characters: sed 's/\\\\u0000//g' FILE | tr -d '\\000'";
    else if (strstr(problem.text, "NaN") || memmem(line, n, "Infinity", 8))
        remedy = "; NaN and Infinity are not JSON: write null in their place";
    return err_set(err, ERR_INPUT, where, "byte %d of the line: not valid JSON: %s%s", problem.position, problem.text,
                   remedy);
}
