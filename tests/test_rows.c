/* Rows: every kind as prompt|completion, and what is refused. The prompts were written by hand from the task definitions
 * of the lm-evaluation-harness; the HellaSwag ones were checked with its rules in Python's re. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "datasets/rows.h"

/* Parses a line in which ' stands for ". */
static int parse(const char *line, const char *where, json_t **out, struct err *err) {
    char json[1024];
    assert_true((size_t)snprintf(json, sizeof json, "%s", line) < sizeof json);
    for (char *p = json; *p; p++)
        *p = *p == '\'' ? '"' : *p;
    return row_parse(json, strlen(json), where, out, err);
}

/* Texts of the row (under the kind of `first`, NULL: its own) as "prompt|rest" with a byte 01 behind each. */
static int render(const char *first, const char *line, const char *field, struct str *out, const char **kind_name,
                  struct err *err) {
    struct row_fields fields;
    struct row_texts texts = {0};
    const struct row_kind *kind;
    json_t *row = NULL, *first_row = NULL;
    int rc;
    *kind_name = "";
    if ((rc = row_fields_parse(field, &fields, err)) != OK)
        return rc;
    if ((rc = parse(line, "f:2", &row, err)) != OK)
        goto out;
    if (first && (rc = parse(first, "f:1", &first_row, err)) != OK)
        goto out;
    if ((rc = row_kind_find(first ? first_row : row, &fields, "f:2", &kind, err)) != OK)
        goto out;
    *kind_name = row_kind_name(kind);
    rc = row_render(kind, row, &fields, "f:2", &texts, err);
    for (size_t i = 0; rc == OK && i < texts.len; i++) {
        const struct row_text *t = &texts.items[i];
        str_append(out, texts.bytes.data + t->begin, t->n_prompt);
        if (t->n_prompt)
            str_putc(out, '|');
        str_append(out, texts.bytes.data + t->begin + t->n_prompt, t->n - t->n_prompt);
        str_putc(out, '\1');
    }
out:
    json_decref(row);
    json_decref(first_row);
    row_texts_free(&texts);
    row_fields_free(&fields);
    return rc;
}

struct good {
    const char *kind, *line, *wanted;
};

static const struct good GOOD[] = {
    {"text", "{'text': 'a \\'b\\'', 'question': 1}", "a \"b\"\1"},
    {"prompt", "{'prompt': 'a'}", "a\1"},
    {"prompt", "{'prompt': 'a', 'completion': null}", "a\1"},
    {"prompt", "{'prompt': 'a ', 'completion': 'b'}", "a |b\1"},
    {"prompt", "{'prompt': '', 'completion': 'b'}", "b\1"},
    {"ruler", "{'index': 0, 'input': 'find it.', 'outputs': ['12', '34'], 'length': 9, 'answer_prefix': ' It is'}",
     "find it. It is| 12\1"},
    {"ruler", "{'input': 'find it:\\n', 'outputs': ['12']}", "find it:\n|12\1"},
    {"ruler", "{'input': 'find', 'outputs': [' 12']}", "find| 12\1"},
    {"lm-eval samples", "{'doc_id': 0, 'doc': {}, 'target': '1', 'arguments': {'gen_args_1': {'arg_0': 'q:', "
     "'arg_1': ' no'}, 'gen_args_0': {'arg_0': 'q:', 'arg_1': ' yes'}}, 'text': 'not this'}",
     "q:| yes\1q:| no\1"},
    {"lm-eval samples", "{'doc_id': 0, 'arguments': [['q:', ' a'], ['q:', {'until': []}], ['q']]}",
     "q:| a\1q:\1q\1"},
    {"arc", "{'id': 'x', 'question': {'stem': 'Which?', 'choices': [{'text': 'this', 'label': 'A'}, "
     "{'text': 'that', 'label': 'B'}]}, 'answerKey': 'B'}", "Question: Which?\nAnswer:| that\1"},
    {"arc", "{'question': 'Which?', 'choices': {'text': ['this', 'that'], 'label': ['1', '2']}, "
     "'answerKey': '1'}", "Question: Which?\nAnswer:| this\1"},
    {"commonsenseqa", "{'answerKey': 'B', 'question': {'question_concept': 'door', 'stem': ' A door? ', 'choices': "
     "[{'label': 'A', 'text': 'bank'}, {'label': 'B', 'text': 'mall'}]}}",
     "Question: A door?\nA. bank\nB. mall\nAnswer:| B\1"},
    {"commonsenseqa", "{'question': 'Q?', 'question_concept': 'c', 'choices': {'label': ['A', 'B', 'C', 'D', 'E'], "
     "'text': ['a', 'b', 'c', 'd', 'e']}, 'answerKey': 'E'}",
     "Question: Q?\nA. a\nB. b\nC. c\nD. d\nE. e\nAnswer:| E\1"},
    {"mmlu", "{'question': '2 + 2? ', 'subject': 'elementary_mathematics', 'choices': ['3', '4', '5', '6'], 'answer': 1}",
     "The following are multiple choice questions (with answers) about elementary mathematics.\n\n"
     "2 + 2?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:| B\1"},
    {"mmlu", "{'question': '2 + 2?', 'choices': ['3', '4'], 'answer': 'B'}", "2 + 2?\nA. 3\nB. 4\nAnswer:| B\1"},
    {"mmlu", "{'question': '\\u00a02 + 2?\\u3000', 'choices': ['3', '4'], 'answer': 'B'}", /* as str.strip() has it */
     "2 + 2?\nA. 3\nB. 4\nAnswer:| B\1"},
    {"boolq", "{'passage': 'Ice is cold.', 'question': 'is ice cold', 'idx': 3, 'label': 1}",
     "Ice is cold.\nQuestion: is ice cold?\nAnswer:| yes\1"},
    {"boolq", "{'passage': 'P', 'question': 'q', 'answer': false}", "P\nQuestion: q?\nAnswer:| no\1"},
    {"piqa", "{'goal': 'Open it', 'sol1': 'pull', 'sol2': 'push', 'label': 1}", "Question: Open it\nAnswer:| push\1"},
    {"gsm8k", "{'question': 'How many?', 'answer': '1+1=2\\n#### 2'}", "Question: How many?\nAnswer:| 1+1=2\n#### 2\1"},
    {"winogrande", "{'sentence': 'Ann thanked Bo because _ had helped _.', 'option1': 'Ann', 'option2': 'Bo', "
     "'answer': '2'}", "Ann thanked Bo because Bo| had helped _.\1"},
    {"hellaswag", "{'activity_label': 'Home and Garden', 'ctx_a': 'How to fold [header] How to  fold a [sub] shirt [title] "
     "Lay it flat. [step] Put the shirt [x on the table.', 'ctx_b': '\xC3\x89" "CLAIR the MAN \xC3\x9Cnd', "
     "'endings': ['x', ' smooths it out. [substeps] Then  folds   twice.\\n'], 'label': '1'}",
     "Home and Garden: How to fold How to fold a shirt. Lay it flat. Put the shirt [x on the table. "
     "\xC3\x89" "clair the man \xC3\xBCnd| smooths it out. Then folds  twice.\1"},
    {"hellaswag", "{'activity_label': 'A', 'ctx_a': 'b [c\\nd] [e]', 'ctx_b': '', 'endings': ['f'], 'label': 0}",
     "A: b [c\nd] | f\1"},
};

static void test_kinds(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) {
        struct str got = {0};
        struct err err = {0};
        const char *kind;
        int rc = render(NULL, GOOD[i].line, NULL, &got, &kind, &err);
        if (rc != OK || strcmp(str_text(&got), GOOD[i].wanted) != 0 || strcmp(kind, GOOD[i].kind) != 0)
            fail_msg("%s\nwanted %s: \"%s\"\ngot    %s: \"%s\" %s", GOOD[i].line, GOOD[i].kind, GOOD[i].wanted, kind,
                     str_text(&got), err.message);
        str_free(&got);
    }
}

static void test_fields(void **state) {
    (void)state;
    static const struct {
        const char *field, *line, *wanted; /* NULL: ERR_USAGE for the field */
    } cases[] = {
        {"body", "{'text': 'no', 'body': 'yes'}", "yes\1"},
        {"text=body", "{'text': 'no', 'body': 'yes'}", "yes\1"},
        {"prompt=a,completion=b", "{'a': 'x', 'b': 'y'}", "x|y\1"},
        {"prompt=a", "{'a': 'x', 'completion': 'y'}", "x\1"},
        {"completion=b", "{}", NULL},
        {"text=a,prompt=b", "{}", NULL},
        {"text=a,text=b", "{}", NULL},
        {"text=", "{}", NULL},
        {"", "{}", NULL},
        {"prompt=a,b", "{}", NULL},
        {"label=a", "{}", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct str got = {0};
        struct err err = {0};
        const char *kind;
        int rc = render(NULL, cases[i].line, cases[i].field, &got, &kind, &err);
        assert_int_equal(rc, cases[i].wanted ? OK : ERR_USAGE);
        assert_string_equal(str_text(&got), cases[i].wanted ? cases[i].wanted : "");
        str_free(&got);
    }
}

struct bad {
    const char *first, *line, *field, *message;
};

static const struct bad BAD[] = {
    {NULL, "{'text': NaN}", NULL, "write null"},
    {NULL, "{'text': 'a', 'x': -Infinity}", NULL, "write null"},
    {NULL, "{'text': 'a', 'x': Infinity}", NULL, "write null"},
    {NULL, "{'text': 'a\\u0000b'}", NULL, "remove NUL"},
    {NULL, "{'text': 'a', 'b\\u0000': 1}", NULL, "remove NUL"},
    {NULL, "{'text': 'a', 'text': 'b'}", NULL, "duplicate"},
    {NULL, "{'text': '\\ud800'}", NULL, "not valid JSON"},
    {NULL, "{'text': 'a'", NULL, "not valid JSON"},
    {NULL, "{'text': 'a'} {}", NULL, "not valid JSON"},
    {NULL, "['a']", NULL, "must be a JSON object"},
    {NULL, "{'words': 'a', 'id': 1}", NULL, "\"words\", \"id\""},
    {NULL, "{}", NULL, "the keys are none"},
    {NULL, "{'messages': []}", NULL, "template"},
    {NULL, "{'text': 7}", NULL, "expected a string"},
    {"{'text': 'a'}", "{'body': 'a'}", NULL, "\"text\" is missing"},
    {"{'text': 'a'}", "{'text': null}", NULL, "\"text\" is missing"},
    {"{'prompt': 'a'}", "{'text': 'a'}", NULL, "\"prompt\" is missing"},
    {NULL, "{'text': 'a'}", "body", "\"body\" is missing"},
    {NULL, "{'a': 'a'}", "prompt=a,completion=b", "\"b\" is missing"},
    {NULL, "{'input': 'a', 'outputs': []}", NULL, "answer is missing"},
    {NULL, "{'input': 'a', 'outputs': 'b'}", NULL, "expected an array"},
    {NULL, "{'doc': 1, 'arguments': {}}", NULL, "no pair"},
    {NULL, "{'doc': 1, 'arguments': {'gen_args_1': {'arg_0': 'a'}}}", NULL, "pair 0"},
    {NULL, "{'doc': 1, 'arguments': 'text'}", NULL, "no pair"},
    {NULL, "{'question': 'q', 'choices': {'text': ['a'], 'label': ['A']}, 'answerKey': ''}", NULL, "labels no choice"},
    {NULL, "{'question': 'q', 'choices': {'text': [5], 'label': ['A']}, 'answerKey': 'A'}", NULL, "has no text"},
    {NULL, "{'question': {}, 'choices': [], 'answerKey': 'A'}", NULL, "\"stem\" is missing"},
    {NULL, "{'question': 'q', 'choices': ['a', 'b'], 'answer': 2}", NULL, "none of the 2"},
    {NULL, "{'question': 'q', 'choices': ['a', 'b'], 'answer': -1}", NULL, "none of the 2"},
    {NULL, "{'question': 'q', 'choices': ['a', 'b'], 'answer': 0.5}", NULL, "none of the 2"},
    {NULL, "{'question': 'q', 'choices': ['a'], 'answer': 0}", NULL, "expected 2 to 26"},
    {NULL, "{'passage': 'p', 'question': 'q', 'label': -1}", NULL, "none of the 2"},
    {NULL, "{'sentence': 'no blank', 'option1': 'a', 'option2': 'b', 'answer': '1'}", NULL, "no _"},
    {NULL, "{'sentence': 'a _', 'option1': 'a', 'option2': 'b', 'answer': ''}", NULL, "none of the 2"},
    {NULL, "{'activity_label': 'a', 'ctx_a': 'b', 'ctx_b': 'c', 'endings': ['d'], 'label': ''}", NULL, "none of the 1"},
    {NULL, "{'activity_label': 'a', 'ctx_a': 'b', 'ctx_b': 'c', 'endings': [1], 'label': '0'}", NULL, "is not text"},
};

static void test_refused_rows(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        struct str got = {0};
        struct err err = {0};
        const char *kind;
        int rc = render(BAD[i].first, BAD[i].line, BAD[i].field, &got, &kind, &err);
        if (rc != ERR_INPUT || strcmp(err.where, "f:2") != 0 || !strstr(err.message, BAD[i].message))
            fail_msg("%s\nwanted \"%s\"\ngot    %d %s: \"%s\"", BAD[i].line, BAD[i].message, rc, err.where, err.message);
        str_free(&got);
    }
}

/* A raw NUL in a line. */
static void test_nul_byte(void **state) {
    (void)state;
    static const char line[] = "{\"text\": \"a\0b\"}";
    struct err err = {0};
    json_t *row;
    assert_int_equal(row_parse(line, sizeof line - 1, "f:1", &row, &err), ERR_INPUT);
    assert_null(row);
    assert_non_null(strstr(err.message, "remove NUL"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_refused_rows),
        cmocka_unit_test(test_nul_byte),
    };
    return cmocka_run_group_tests_name("rows", tests, NULL, NULL);
}
