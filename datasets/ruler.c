#include "datasets/ruler.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "datasets/fit.h"
#include "datasets/ruler_internal.h"

const char ruler_noise[] = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

static const struct ruler_family
    NIAH = {RULER_RETRIEVAL, 128, false, ruler_build_needles, ruler_least_needles, ruler_most_any},
    VT = {RULER_TRACING, 30, false, ruler_build_chain, ruler_least_chain, ruler_most_any},
    CWE = {RULER_AGGREGATION, 120, false, ruler_build_common, ruler_least_common, ruler_most_common},
    FWE = {RULER_AGGREGATION, 50, false, ruler_build_frequent, ruler_least_frequent, ruler_most_any},
    QA = {RULER_QUESTIONS, 32, true, ruler_build_question, ruler_least_documents, ruler_most_documents};

/* Needles: haystack, keys, values of each, keys asked for, what a key is, what a value is. */
static const struct ruler_task TASKS[RULER_N_TASKS] = {
    {"niah_single_1", &NIAH, {HAY_NOISE, 1, 1, 1, PART_WORD, PART_NUMBER}},
    {"niah_single_2", &NIAH, {HAY_TEXT, 1, 1, 1, PART_WORD, PART_NUMBER}},
    {"niah_single_3", &NIAH, {HAY_TEXT, 1, 1, 1, PART_WORD, PART_UUID}},
    {"niah_multikey_1", &NIAH, {HAY_TEXT, 4, 1, 1, PART_WORD, PART_NUMBER}},
    {"niah_multikey_2", &NIAH, {HAY_NEEDLES, 1, 1, 1, PART_WORD, PART_NUMBER}},
    {"niah_multikey_3", &NIAH, {HAY_NEEDLES, 1, 1, 1, PART_UUID, PART_UUID}},
    {"niah_multivalue", &NIAH, {HAY_TEXT, 1, 4, 1, PART_WORD, PART_NUMBER}},
    {"niah_multiquery", &NIAH, {HAY_TEXT, 4, 1, 4, PART_WORD, PART_NUMBER}},
    {"vt", &VT, {0}},
    {"cwe", &CWE, {0}},
    {"fwe", &FWE, {0}},
    {"qa_1", &QA, {0}},
    {"qa_2", &QA, {0}},
};

const struct ruler_task *ruler_task(size_t i) {
    ASSERT(i < RULER_N_TASKS);
    return &TASKS[i];
}

const struct ruler_task *ruler_task_find(const char *name, size_t n) {
    for (size_t i = 0; i < RULER_N_TASKS; i++)
        if (strlen(TASKS[i].name) == n && memcmp(TASKS[i].name, name, n) == 0)
            return &TASKS[i];
    return NULL;
}

const char *ruler_task_name(const struct ruler_task *task) {
    return task->name;
}

enum ruler_group ruler_task_group(const struct ruler_task *task) {
    return task->family->group;
}

int ruler_task_n_new(const struct ruler_task *task) {
    return task->family->n_new;
}

bool ruler_task_any_counts(const struct ruler_task *task) {
    return task->family->any_counts;
}

size_t ruler_most_any(const struct ruler_plan *plan) {
    size_t least = plan->task->family->least(plan), length = (size_t)plan->options->length;
    return length > least ? length : least; /* no unit is shorter than a token */
}

/* --- what the builders share --- */

void ruler_put_output(struct ruler_sample *sample, const char *text) {
    sample->failed |= json_array_append_new(sample->outputs, json_string(text)) != 0;
}

/* By rejection: k is small beside n, or both are. */
void ruler_draw_rising(struct draws *d, size_t n, size_t k, size_t *out) {
    ASSERT(k <= n);
    for (size_t len = 0; len < k;) {
        size_t value = draw(d, n), at = 0;
        while (at < len && out[at] < value)
            at++;
        if (at < len && out[at] == value)
            continue;
        memmove(out + at + 1, out + at, (len - at) * sizeof *out);
        out[at] = value;
        len++;
    }
}

void ruler_shuffle(struct draws *d, size_t *items, size_t n) {
    for (size_t i = n; i > 1; i--) {
        size_t j = draw(d, i), taken = items[j];
        items[j] = items[i - 1];
        items[i - 1] = taken;
    }
}

/* --- one row --- */

/* The row in work, as it was built last. */
struct row {
    struct ruler_plan plan;
    struct ruler_sample sample;
    struct str text;
    struct token_list ids;
};

static void row_free(struct row *row) {
    str_free(&row->sample.input);
    str_free(&row->sample.prefix);
    json_decref(row->sample.outputs);
    str_free(&row->text);
    free(row->ids.data);
}

static int count_tokens(struct row *row, const char *text, size_t n, size_t *out, struct err *err) {
    row->ids.len = 0;
    int rc = tokenizer_encode(row->plan.options->tokenizer, text, n, &row->ids, err);
    *out = row->ids.len;
    return rc;
}

/* Tokens of the prompt and the answer, alone or with what stands around a prompt. */
static int row_length(struct row *row, bool with_template, size_t *out, struct err *err) {
    const struct ruler_options *o = row->plan.options;
    bool chat = with_template && o->before;
    size_t n_prefix = 0, n_suffix = 0;
    str_clear(&row->text);
    str_puts(&row->text, chat ? o->before : "");
    str_append(&row->text, str_text(&row->sample.input), row->sample.input.len);
    str_puts(&row->text, chat ? o->after : "");
    str_append(&row->text, str_text(&row->sample.prefix), row->sample.prefix.len);
    if (row->text.failed || row->sample.failed || row->sample.input.failed || row->sample.prefix.failed)
        return err_memory(err, "a row", row->text.len);
    if (with_template && !chat) {
        tokenizer_prefix(o->tokenizer, &n_prefix);
        tokenizer_suffix(o->tokenizer, &n_suffix);
    }
    int rc = count_tokens(row, str_text(&row->text), row->text.len, out, err);
    *out += n_prefix + n_suffix + (size_t)row->plan.task->family->n_new;
    return rc;
}

/* Builds the row with n_units and says how many tokens it takes. */
static int row_build(void *self, size_t n_units, size_t *length, struct err *err) {
    struct row *row = self;
    struct ruler_sample *s = &row->sample;
    str_clear(&s->input);
    str_clear(&s->prefix);
    json_decref(s->outputs);
    s->failed = !(s->outputs = json_array());
    row->plan.task->family->build(&row->plan, n_units, s);
    return row_length(row, true, length, err);
}

/* Builds the row with the largest haystack that fits; *fits = false, and *length that of the smallest, where none does. */
static int row_fit(struct row *row, bool *fits, size_t *length, struct err *err) {
    const struct ruler_family *family = row->plan.task->family;
    struct fit fit = {.least = family->least(&row->plan),
                      .most = family->most(&row->plan),
                      .target = (size_t)row->plan.options->length,
                      .length = row_build,
                      .self = row};
    size_t n_units;
    return fit_largest(&fit, &n_units, fits, length, err);
}

/* Tokens in front of the first answer; 0 when the text does not hold it. */
static int answer_position(struct row *row, size_t *out, struct err *err) {
    const char *answer = json_string_value(json_array_get(row->sample.outputs, 0)), *input = str_text(&row->sample.input);
    const char *hit = answer ? strstr(input, answer) : NULL;
    *out = 0;
    return hit ? count_tokens(row, input, (size_t)(hit - input), out, err) : OK;
}

static int row_write(FILE *stream, struct row *row, struct err *err) {
    const struct ruler_options *o = row->plan.options;
    const struct ruler_sample *s = &row->sample;
    const struct ruler_task *task = row->plan.task;
    size_t length, with_template, position;
    int rc;
    if ((rc = row_length(row, false, &length, err)) != OK || (rc = row_length(row, true, &with_template, err)) != OK ||
        (rc = answer_position(row, &position, err)) != OK)
        return rc;
    json_t *json = json_pack("{s:I, s:s, s:O, s:I, s:I, s:s, s:s, s:i}", "index", (json_int_t)row->plan.draws.row, "input",
                             str_text(&s->input), "outputs", s->outputs, "length", (json_int_t)length,
                             "length_w_model_temp", (json_int_t)with_template, "answer_prefix", str_text(&s->prefix), "task",
                             task->name, "max_length", o->length);
    if (json && task->family->group == RULER_RETRIEVAL &&
        json_object_set_new(json, "token_position_answer", json_integer((json_int_t)position)) != 0) {
        json_decref(json);
        json = NULL;
    }
    return task_row_dump(stream, json, err);
}

/* --- all rows --- */

static const struct documents *documents_of(const struct ruler_task *task, const struct ruler_options *o) {
    return strcmp(task->name, "qa_1") == 0 ? o->squad : strcmp(task->name, "qa_2") == 0 ? o->hotpot : NULL;
}

bool ruler_task_has_data(const struct ruler_task *task, const struct ruler_options *options) {
    return task->family->group != RULER_QUESTIONS || documents_of(task, options);
}

static int too_small(const struct ruler_task *task, int length, size_t least, struct err *err) {
    return err_set(err, ERR_USAGE, "--length", "%d tokens are too few for %s: its smallest row has %zu", length, task->name,
                   least);
}

/* A QA row takes the next question, from *next on in random order, whose own documents fit. */
static int fit_question(struct row *row, size_t *next, struct err *err) {
    const struct ruler_plan *plan = &row->plan;
    size_t n = documents_n_questions(plan->documents), smallest = SIZE_MAX, least;
    bool fits = false;
    int rc = OK;
    while (rc == OK && !fits && *next < n) {
        row->plan.question = (size_t)rng_permute(plan->draws.seed, plan->draws.task, n, (*next)++);
        rc = row_fit(row, &fits, &least, err);
        smallest = least < smallest ? least : smallest;
    }
    if (rc != OK || fits)
        return rc;
    if (plan->draws.row == 0)
        return too_small(plan->task, plan->options->length, smallest, err);
    return err_set(err, ERR_USAGE, "--count", "only %llu questions of %s fit into %d tokens",
                   (unsigned long long)plan->draws.row, plan->task->name, plan->options->length);
}

static int fit_row(struct row *row, size_t *next_question, struct err *err) {
    size_t least;
    bool fits;
    if (row->plan.documents)
        return fit_question(row, next_question, err);
    int rc = row_fit(row, &fits, &least, err);
    return rc == OK && !fits ? too_small(row->plan.task, row->plan.options->length, least, err) : rc;
}

int ruler_write(FILE *stream, const struct ruler_task *task, const struct ruler_options *o, struct err *err) {
    enum { RULER = 0x72756c00 };
    struct row row = {.plan = {.task = task, .options = o, .documents = documents_of(task, o)}};
    size_t next_question = 0;
    int rc = OK;
    if (!ruler_task_has_data(task, o))
        rc = err_set(err, ERR_USAGE, task->name, "needs its questions: give --%s FILE (%s)",
                     task->name[3] == '1' ? "squad" : "hotpot",
                     task->name[3] == '1' ? "dev-v2.0.json of SQuAD" : "hotpot_dev_distractor_v1.json");
    for (uint64_t i = 0; rc == OK && i < o->n_rows; i++) {
        row.plan.draws = (struct draws){o->seed, i, RULER + (uint32_t)(task - TASKS), 0};
        rc = fit_row(&row, &next_question, err);
        if (rc == OK)
            rc = row_write(stream, &row, err);
    }
    row_free(&row);
    return rc;
}
