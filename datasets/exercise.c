#include "datasets/exercise.h"

#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "datasets/answer.h"

struct exercise_rule {
    size_t n_scores;
    const char *names[EXERCISE_MAX_SCORES];
    int (*judge)(const struct exercise *e, const char *text, size_t n, double *scores, struct err *err);
    bool final; /* a full score stays one, whatever follows */
};

void exercise_free(struct exercise *e) {
    str_free(&e->input);
    str_free(&e->prefix);
    json_decref(e->references);
    *e = (struct exercise){0};
}

/* --- rules --- */

static int judge_ruler(const struct exercise *e, const char *text, size_t n, double *scores, struct err *err) {
    struct str clean = {0};
    answer_clean(text, n, &clean);
    int rc = (ruler_task_any_counts(e->ruler) ? answer_match_part : answer_match_all)(&clean, e->references, scores, err);
    str_free(&clean);
    return rc;
}

/* The reference is a whole solution: its number stands behind "#### ". */
static int judge_number(const struct exercise *e, const char *text, size_t n, double *scores, struct err *err) {
    const json_t *solution = json_array_get(e->references, 0);
    struct str right = {0}, given = {0};
    if (!answer_strict_number(json_string_value(solution), json_string_length(solution), &right))
        answer_last_number(json_string_value(solution), json_string_length(solution), &right);
    scores[0] = answer_strict_number(text, n, &given) && strcmp(str_text(&given), str_text(&right)) == 0;
    scores[1] = answer_last_number(text, n, &given) && strcmp(str_text(&given), str_text(&right)) == 0;
    bool failed = right.failed || given.failed;
    str_free(&right);
    str_free(&given);
    return failed ? err_memory(err, "an answer", n) : OK;
}

static int judge_exact(const struct exercise *e, const char *text, size_t n, double *scores, struct err *err) {
    struct str given = {0}, right = {0};
    const json_t *reference;
    size_t i;
    answer_clean(text, n, &given);
    scores[0] = 0;
    json_array_foreach(e->references, i, reference) {
        answer_clean(json_string_value(reference), json_string_length(reference), &right);
        if (given.len == right.len && memcmp(str_text(&given), str_text(&right), given.len) == 0)
            scores[0] = 1;
    }
    bool failed = right.failed || given.failed;
    str_free(&right);
    str_free(&given);
    return failed ? err_memory(err, "an answer", n) : OK;
}

static const struct exercise_rule MATCH = {1, {"string_match"}, judge_ruler, true},
                                  NUMBER = {2, {"strict_match", "flexible_extract"}, judge_number, false},
                                  EXACT = {1, {"exact_match"}, judge_exact, false};

size_t exercise_n_scores(const struct exercise *e) {
    return e->rule->n_scores;
}

const char *exercise_score_name(const struct exercise *e, size_t i) {
    return e->rule->names[i];
}

int exercise_score(const struct exercise *e, const char *text, size_t n, double *scores, struct err *err) {
    return e->rule->judge(e, text, n, scores, err);
}

bool exercise_is_done(const struct exercise *e, const char *text, size_t n) {
    double scores[EXERCISE_MAX_SCORES] = {0};
    return e->rule->final && exercise_score(e, text, n, scores, NULL) == OK && scores[0] >= 1;
}

/* --- RULER --- */

/* "niah_single_1" of .../niah_single_1/validation.jsonl and of .../niah_single_1.jsonl. */
static const struct ruler_task *task_of_path(const char *path) {
    const char *base = file_basename(path), *end = base;
    const struct ruler_task *task = ruler_task_find(base, strcspn(base, "."));
    while (!task && end > path && end[-1] == '/')
        end--;
    const char *folder = end;
    while (folder > path && folder[-1] != '/')
        folder--;
    return task ? task : ruler_task_find(folder, (size_t)(end - folder));
}

static int find_task(const json_t *row, const char *path, const char *where, const struct ruler_task **out,
                     struct err *err) {
    const char *name = NULL;
    int rc = json_get_string(row, "task", &name, where, err);
    *out = name ? ruler_task_find(name, strlen(name)) : task_of_path(path);
    if (rc != OK || *out)
        return rc;
    if (name)
        return err_set(err, ERR_INPUT, where, "\"task\": \"%.100s\" is not a task of RULER", name);
    return err_set(err, ERR_INPUT, where, "which task of RULER is this? Call the file or its folder after it "
                   "(niah_single_1/validation.jsonl), or give the row a \"task\"");
}

static int check_references(const json_t *references, const char *where, struct err *err) {
    const json_t *reference;
    size_t i;
    if (json_array_size(references) == 0)
        return err_set(err, ERR_INPUT, where, "\"outputs\" is empty: the answer is missing");
    json_array_foreach((json_t *)(uintptr_t)references, i, reference)
        if (!json_is_string(reference))
            return err_set(err, ERR_INPUT, where, "\"outputs\": entry %zu is not text", i);
    return OK;
}

static int read_ruler(const json_t *row, const char *path, const char *where, struct exercise *out, struct err *err) {
    const char *input, *prefix = "";
    json_t *outputs = NULL;
    double length = 0;
    int rc;
    if ((rc = find_task(row, path, where, &out->ruler, err)) != OK || (rc = json_require(row, "input", where, err)) != OK ||
        (rc = json_get_string(row, "input", &input, where, err)) != OK ||
        (rc = json_get_string(row, "answer_prefix", &prefix, where, err)) != OK ||
        (rc = json_get_real(row, "max_length", 0, 1 << 24, &length, where, err)) != OK ||
        (rc = json_require(row, "outputs", where, err)) != OK ||
        (rc = json_get_array(row, "outputs", &outputs, where, err)) != OK ||
        (rc = check_references(outputs, where, err)) != OK)
        return rc;
    str_puts(&out->input, input);
    str_puts(&out->prefix, prefix);
    out->references = json_incref(outputs);
    out->max_length = (int)length;
    out->max_new = (size_t)ruler_task_n_new(out->ruler);
    out->rule = &MATCH;
    return OK;
}

/* --- prompts with a completion --- */

static const char *const GSM8K_STOPS[] = {"Question:", "</s>", "<|im_end|>"};

static int read_rendered(const struct row_kind *kind, const json_t *row, const char *where, struct exercise *out,
                         struct err *err) {
    const struct row_fields fields = {0};
    struct row_texts texts = {0};
    bool gsm8k = strcmp(row_kind_name(kind), "gsm8k") == 0;
    int rc = row_render(kind, row, &fields, where, &texts, err);
    if (rc == OK && (texts.len != 1 || texts.items[0].n_prompt == texts.items[0].n))
        rc = err_set(err, ERR_INPUT, where, "missing \"completion\": what is the right answer?");
    if (rc == OK) {
        const char *text = str_text(&texts.bytes);
        size_t n_prompt = texts.items[0].n_prompt;
        str_append(&out->input, text, n_prompt);
        out->references = json_pack("[s]", text + n_prompt);
        out->max_new = gsm8k ? 256 : 0;
        out->stops = GSM8K_STOPS;
        out->n_stops = gsm8k ? sizeof GSM8K_STOPS / sizeof *GSM8K_STOPS : 0;
        out->rule = gsm8k ? &NUMBER : &EXACT;
    }
    row_texts_free(&texts);
    return rc;
}

/* --- all --- */

static bool is_kind(const struct row_kind *kind, const char *name) {
    return strcmp(row_kind_name(kind), name) == 0;
}

bool exercise_takes(const struct row_kind *kind, const json_t *first_row) {
    return kind && (is_kind(kind, "ruler") || is_kind(kind, "gsm8k") ||
                    (is_kind(kind, "prompt") && json_has(first_row, "completion")));
}

int exercise_read(const struct row_kind *kind, const json_t *row, const char *path, const char *where, struct exercise *out,
                  struct err *err) {
    int rc = is_kind(kind, "ruler") ? read_ruler(row, path, where, out, err) : read_rendered(kind, row, where, out, err);
    if (rc == OK && (!out->references || out->input.failed || out->prefix.failed))
        rc = err_memory(err, "an exercise", out->input.len);
    return rc;
}
