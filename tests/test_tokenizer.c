/* Token ids and decoded text against the Hugging Face tokenizers library, over small tokenizers of every kind: the files of
 * tests/data/tokenizer, written by scripts/reference/make_tokenizer_cases.py. Further: broken files and texts, long words,
 * threads. */
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "engine/tokenizer.h"

static const char *const kinds[] = {
    "llama3", "qwen2", "gemma", "llama2", "mistral", "metaspace", "smollm", "gpt2_prefix", "tekken", "deepseek",
    "written_out", "torture", "holes", "split_Removed", "split_Removed_inverted", "split_Isolated",
    "split_Isolated_inverted", "split_MergedWithPrevious", "split_MergedWithPrevious_inverted", "split_MergedWithNext",
    "split_MergedWithNext_inverted", "split_Contiguous", "split_Contiguous_inverted",
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static struct tokenizer *open_kind(const char *kind) {
    char path[256];
    struct tokenizer *tokenizer;
    struct err err = {0};
    snprintf(path, sizeof path, "tests/data/tokenizer/%s.json", kind);
    if (tokenizer_open(path, &tokenizer, &err) != OK)
        fail_msg("%s: %s", err.where, err.message);
    return tokenizer;
}

static json_t *read_cases(const char *kind) {
    char path[256];
    json_t *cases;
    struct err err = {0};
    snprintf(path, sizeof path, "tests/data/tokenizer/%s.cases", kind);
    if (json_read_object(path, 1 << 24, &cases, &err) != OK)
        fail_msg("%s: %s", err.where, err.message);
    return cases;
}

static void check_ids(const char *what, const char *text, const int32_t *ids, size_t n, const json_t *want) {
    for (size_t i = 0; i < n && i < json_array_size(want); i++)
        if (ids[i] != json_integer_value(json_array_get(want, i)))
            fail_msg("%s: \"%s\": token %zu is %d, expected %d", what, text, i, (int)ids[i],
                     (int)json_integer_value(json_array_get(want, i)));
    if (n != json_array_size(want))
        fail_msg("%s: \"%s\": %zu tokens, expected %zu", what, text, n, json_array_size(want));
}

/* [text, ids, decoded, decoded without special tokens] */
static void check_case(const char *kind, const struct tokenizer *tokenizer, const json_t *one) {
    const char *text = json_string_value(json_array_get(one, 0));
    struct token_list ids = {0};
    struct err err = {0};
    int rc = tokenizer_encode(tokenizer, text, strlen(text), &ids, &err);
    if (rc != OK)
        fail_msg("%s: \"%s\": %s", kind, text, err.message);
    check_ids(kind, text, ids.data, ids.len, json_array_get(one, 1));
    for (size_t skip = 0; skip < 2; skip++) {
        const json_t *decoded = json_array_get(one, 2 + skip);
        struct str got = {0};
        tokenizer_decode(tokenizer, ids.data, ids.len, skip == 1, &got);
        assert_false(got.failed);
        assert_string_equal(str_text(&got), json_is_null(decoded) ? text : json_string_value(decoded));
        str_free(&got);
    }
    free(ids.data);
}

static void check_bytes(const struct tokenizer *tokenizer, json_t *bytes) {
    const char *id;
    json_t *want;
    json_object_foreach(bytes, id, want) {
        size_t n;
        const char *got = tokenizer_token_bytes(tokenizer, (int32_t)atoi(id), &n);
        char hex[256] = "";
        assert_true(2 * n < sizeof hex);
        for (size_t i = 0; i < n; i++)
            snprintf(hex + 2 * i, 3, "%02x", (unsigned char)got[i]);
        assert_string_equal(hex, json_string_value(want));
    }
}

static void test_kinds(void **state) {
    size_t total = 0;
    (void)state;
    for (size_t k = 0; k < N_KINDS; k++) {
        struct tokenizer *tokenizer = open_kind(kinds[k]);
        json_t *file = read_cases(kinds[k]), *cases = json_object_get(file, "cases"), *one;
        size_t i, n;
        const int32_t *ids = tokenizer_prefix(tokenizer, &n);
        check_ids(kinds[k], "prefix", ids, n, json_object_get(file, "prefix"));
        ids = tokenizer_suffix(tokenizer, &n);
        check_ids(kinds[k], "suffix", ids, n, json_object_get(file, "suffix"));
        assert_int_equal(tokenizer_n_vocab(tokenizer), json_integer_value(json_object_get(file, "n_vocab")));
        check_bytes(tokenizer, json_object_get(file, "bytes"));
        json_array_foreach(cases, i, one)
            check_case(kinds[k], tokenizer, one);
        total += json_array_size(cases);
        json_decref(file);
        tokenizer_free(tokenizer);
    }
    printf("%zu texts, %d tokenizers\n", total, (int)N_KINDS);
    assert_true(total > 3000);
}

struct job {
    const struct tokenizer *tokenizer;
    const struct str *text;
    struct token_list ids;
    int rc;
};

static void *run_job(void *argument) {
    struct job *job = argument;
    job->rc = tokenizer_encode(job->tokenizer, job->text->data, job->text->len, &job->ids, NULL);
    return NULL;
}

/* One tokenizer, several threads at once, long texts: the same ids in each. */
static void test_threads(void **state) {
    (void)state;
    for (size_t k = 0; k < 8; k++) {
        struct tokenizer *tokenizer = open_kind(kinds[k]);
        json_t *file = read_cases(kinds[k]), *cases = json_object_get(file, "cases"), *one;
        struct str text = {0};
        struct job jobs[4];
        pthread_t threads[4];
        size_t i;
        json_array_foreach(cases, i, one)
            str_puts(&text, json_string_value(json_array_get(one, 0)));
        for (int t = 0; t < 4; t++) {
            jobs[t] = (struct job){.tokenizer = tokenizer, .text = &text};
            assert_int_equal(pthread_create(&threads[t], NULL, run_job, &jobs[t]), 0);
        }
        for (int t = 0; t < 4; t++)
            pthread_join(threads[t], NULL);
        assert_true(jobs[0].ids.len > 1000);
        for (int t = 0; t < 4; t++) {
            assert_int_equal(jobs[t].rc, OK);
            assert_int_equal(jobs[t].ids.len, jobs[0].ids.len);
            assert_memory_equal(jobs[t].ids.data, jobs[0].ids.data, jobs[0].ids.len * sizeof *jobs[0].ids.data);
        }
        for (int t = 0; t < 4; t++)
            free(jobs[t].ids.data);
        str_free(&text);
        json_decref(file);
        tokenizer_free(tokenizer);
    }
}

static void test_names(void **state) {
    struct tokenizer *tokenizer = open_kind("mistral");
    size_t n;
    char hash[33];
    (void)state;
    int32_t inst = tokenizer_find(tokenizer, "[INST]");
    assert_int_equal(tokenizer_find(tokenizer, "<s>"), 1);
    assert_int_equal(tokenizer_find(tokenizer, "<0x0A>"), 3 + 10);
    assert_int_equal(tokenizer_find(tokenizer, "no such token"), -1);
    assert_int_equal(inst, tokenizer_n_vocab(tokenizer) - 2);
    assert_true(tokenizer_is_special(tokenizer, 1) && tokenizer_is_special(tokenizer, inst));
    assert_false(tokenizer_is_special(tokenizer, 3 + 10) || tokenizer_is_special(tokenizer, -1));
    assert_false(tokenizer_is_special(tokenizer, INT32_MAX));
    assert_memory_equal(tokenizer_token_bytes(tokenizer, 3 + 10, &n), "\n", 1);
    assert_int_equal(n, 1);
    assert_string_equal(tokenizer_token_bytes(tokenizer, -1, &n), "");
    assert_int_equal(n, 0);
    tokenizer_token_bytes(tokenizer, (int32_t)tokenizer_n_vocab(tokenizer), &n);
    assert_int_equal(n, 0);
    assert_int_equal(file_hash("tests/data/tokenizer/mistral.json", hash, NULL), OK);
    assert_string_equal(tokenizer_hash(tokenizer), hash);
    tokenizer_free(tokenizer);
    tokenizer_free(NULL);
}

/* Decoding leaves out ids that do not exist. */
static void test_unknown_ids(void **state) {
    struct tokenizer *tokenizer = open_kind("mistral");
    struct str text = {0};
    int32_t ids[] = {-5, 3 + 'o', INT32_MAX, 3 + 'k', (int32_t)tokenizer_n_vocab(tokenizer), INT32_MIN};
    (void)state;
    tokenizer_decode(tokenizer, ids, sizeof ids / sizeof *ids, false, &text);
    assert_string_equal(str_text(&text), "ok");
    tokenizer_decode(tokenizer, NULL, 0, false, &text);
    assert_string_equal(str_text(&text), "ok");
    str_free(&text);
    tokenizer_free(tokenizer);
}

static void test_invalid_text(void **state) {
    static const struct {
        const char *text;
        size_t n, at;
    } cases[] = {
        {"abc\xFF", 4, 3}, {"\xC3", 1, 0}, {"ok \xE2\x96", 5, 3}, {"\xED\xA0\x80", 3, 0}, {"\xC0\x80", 2, 0},
        {"\xF4\x90\x80\x80", 4, 0}, {"e\xCC\x81\x80", 4, 3},
    };
    (void)state;
    for (size_t k = 0; k < N_KINDS; k++) {
        struct tokenizer *tokenizer = open_kind(kinds[k]);
        struct token_list ids = {0};
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            struct err err = {0};
            char place[32];
            snprintf(place, sizeof place, "byte %zu", cases[i].at);
            assert_int_equal(tokenizer_encode(tokenizer, cases[i].text, cases[i].n, &ids, &err), ERR_INPUT);
            assert_non_null(strstr(err.message, place));
            assert_int_equal(ids.len, 0);
        }
        free(ids.data);
        tokenizer_free(tokenizer);
    }
}

/* Ids are appended; a zero byte is a character like any other (byte token 0, byte-level Ā). */
static void test_append(void **state) {
    struct tokenizer *tokenizer = open_kind("llama2");
    struct token_list ids = {0};
    (void)state;
    assert_int_equal(tokenizer_encode(tokenizer, "", 0, &ids, NULL), OK);
    assert_int_equal(ids.len, 0);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(tokenizer_encode(tokenizer, "\0", 1, &ids, NULL), OK);
    int32_t mark = tokenizer_find(tokenizer, "\xE2\x96\x81");
    assert_int_equal(ids.len, 4);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(ids.data[i], i % 2 ? 3 : mark);
    free(ids.data);
    tokenizer_free(tokenizer);
}

/* {"model": {...}} with the given members around. */
static struct tokenizer *parse(const char *json, struct err *err) {
    struct tokenizer *tokenizer = NULL;
    *err = (struct err){0};
    int rc = tokenizer_parse(json, strlen(json), "t.json", &tokenizer, err);
    assert_true((rc == OK) == (tokenizer != NULL));
    assert_int_equal(rc, err->code);
    return tokenizer;
}

/* One word of 2^k letters becomes 2^(k-3) tokens of eight; quadratic merging would take minutes. */
static void test_long_word(void **state) {
    enum { N = 1 << 21 };
    const char *json = "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"aa\": 1, \"aaaa\": 2, \"aaaaaaaa\": 3},"
                       "\"merges\": [\"a a\", \"aa aa\", \"aaaa aaaa\"]}}";
    struct err err;
    struct token_list ids = {0};
    char *text = malloc(N);
    (void)state;
    struct tokenizer *tokenizer = parse(json, &err);
    assert_non_null(tokenizer);
    assert_non_null(text);
    memset(text, 'a', N);
    assert_int_equal(tokenizer_encode(tokenizer, text, N, &ids, NULL), OK);
    assert_int_equal(ids.len, N / 8);
    for (size_t i = 0; i < ids.len; i++)
        assert_int_equal(ids.data[i], 3);
    free(ids.data);
    free(text);
    tokenizer_free(tokenizer);
}

#define MODEL "\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [[\"a\", \"b\"]]}"
#define WITH(part) "{" MODEL ", " part "}"
#define SPLIT(regex)                                                                                                      \
    WITH("\"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"" regex "\"}}")

static void test_refusals(void **state) {
    static const struct {
        const char *json, *says;
    } cases[] = {
        {"", "not valid JSON"},
        {"[]", "object"},
        {"{}", "model: an object"},
        {"{\"model\": 3}", "model: an object"},
        {"{\"version\": \"2.0\", " MODEL "}", "2.0"},
        {"{\"model\": {\"type\": \"Unigram\", \"vocab\": []}}", "Unigram"},
        {"{\"model\": {\"vocab\": {}}}", "merges"},
        {"{\"model\": {\"merges\": []}}", "vocab"},
        {"{\"model\": {\"vocab\": [], \"merges\": []}}", "vocab"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": {}}}", "merges"},
        {"{\"model\": {\"vocab\": {\"a\": \"0\"}, \"merges\": []}}", "\"a\""},
        {"{\"model\": {\"vocab\": {\"a\": -1}, \"merges\": []}}", "\"a\""},
        {"{\"model\": {\"vocab\": {\"a\": 1.5}, \"merges\": []}}", "\"a\""},
        {"{\"model\": {\"vocab\": {\"a\": 4294967296}, \"merges\": []}}", "\"a\""},
        {"{\"model\": {\"vocab\": {\"a\": 2147483647}, \"merges\": []}}", "\"a\""},
        {"{\"model\": {\"vocab\": {\"a\": 0, \"a\": 1}, \"merges\": []}}", "not valid JSON"},
        {"{\"model\": {\"vocab\": {\"a\": 5, \"b\": 5}, \"merges\": []}}", "id 5"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}}", "\"b\" is not in"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"a a\"]}}", "\"aa\" is not in"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"aa\"]}}", "merge 0"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"a a a\"]}}", "merge 0"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [[\"a\", 3]]}}", "merge 0"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]}}", "merge 0"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [null]}}", "merge 0"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [], \"dropout\": 0.1}}", "dropout"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [], \"byte_fallback\": 1}}", "byte_fallback"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [], \"unk_token\": 1}}", "unk_token"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [], \"continuing_subword_prefix\": \"##\"}}", "\"##\""},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [], \"end_of_word_suffix\": \"</w>\"}}", "\"</w>\""},
        {WITH("\"normalizer\": {\"type\": \"NFKC\"}"), "NFKC"},
        {WITH("\"normalizer\": {}"), "without a type"},
        {WITH("\"normalizer\": {\"type\": \"Sequence\"}"), "normalizers"},
        {WITH("\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [1]}"), "type"},
        {WITH("\"normalizer\": {\"type\": \"Prepend\"}"), "prepend"},
        {WITH("\"normalizer\": {\"type\": \"Replace\", \"content\": \"x\"}"), "pattern"},
        {WITH("\"normalizer\": {\"type\": \"Replace\", \"content\": \"x\", \"pattern\": {\"Regex\": \"(\"}}"),
         "( without )"},
        {WITH("\"pre_tokenizer\": {\"type\": \"Punctuation\"}"), "Punctuation"},
        {WITH("\"pre_tokenizer\": \"Digits\""), "type"},
        {WITH("\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"x\"}}"), "behavior"},
        {WITH("\"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": \"Isolate\", \"pattern\": {\"String\": \"x\"}}"),
         "\"Isolate\""},
        {WITH("\"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {}}"), "pattern"},
        {WITH("\"pre_tokenizer\": {\"type\": \"ByteLevel\"}"), "add_prefix_space"},
        {WITH("\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"ab\"}"), "one character"},
        {WITH("\"pre_tokenizer\": {\"type\": \"Metaspace\", \"add_prefix_space\": false}"), "prepend_scheme"},
        {WITH("\"pre_tokenizer\": {\"type\": \"Metaspace\", \"prepend_scheme\": \"last\"}"), "\"last\""},
        {WITH("\"post_processor\": {\"type\": \"BertProcessing\"}"), "BertProcessing"},
        {WITH("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": []}"), "Sequence A"},
        {WITH("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"x\"}}]}"),
         "\"x\""},
        {WITH("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"x\"}},"
              "{\"Sequence\": {\"id\": \"A\"}}], \"special_tokens\": {\"x\": {\"ids\": [3]}}}"),
         "token 3"},
        {WITH("\"decoder\": {\"type\": \"WordPiece\"}"), "WordPiece"},
        {WITH("\"decoder\": {\"type\": \"Strip\", \"content\": \" \", \"start\": -1}"), "start"},
        {WITH("\"added_tokens\": {}"), "array"},
        {WITH("\"added_tokens\": [1]"), "token 0"},
        {WITH("\"added_tokens\": [{\"id\": 1}]"), "content"},
        {WITH("\"added_tokens\": [{\"content\": \"x\", \"special\": \"yes\"}]"), "special"},
        {WITH("\"added_tokens\": [{\"content\": \"x\"}, {\"content\": \"y\"}], \"normalizer\": {\"type\": \"Replace\", "
              "\"pattern\": {\"String\": \"y\"}, \"content\": \"x\"}"), "two tokens"},
        {SPLIT("["), "unfinished class"},
        {SPLIT("[a&&b]"), "&&"},
        {SPLIT("[[:alpha:]]"), "class inside a class"},
        {SPLIT("(a"), "( without )"},
        {SPLIT("a)"), ") without ("},
        {SPLIT("(a)\\\\1"), "escape"},
        {SPLIT("(?<n>a)"), "group"},
        {SPLIT("a(?i)b"), "(?i)"},
        {SPLIT("(?m)a"), "group"},
        {SPLIT("\\\\bword"), "escape"},
        {SPLIT("\\\\p{Alpha}+"), "unknown property"},
        {SPLIT("\\\\pL"), "braces"},
        {SPLIT("(?i:gr\xC3\xB6n)"), "ASCII"},
        {SPLIT("(?i:fluss)"), "fl"},
        {SPLIT("a{2}+"), "repetition"},
        {SPLIT("a{x}"), "repetition"},
        {SPLIT("a**"), "regular expression"},
        {SPLIT("(?<=a+)b"), "regular expression"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err;
        struct tokenizer *tokenizer = parse(cases[i].json, &err);
        if (tokenizer)
            fail_msg("accepted: %s", cases[i].json);
        if (err.code != ERR_INPUT || strncmp(err.where, "t.json", 6) != 0 ||
            (!strstr(err.message, cases[i].says) && !strstr(err.where, cases[i].says) &&
             !(strchr(cases[i].says, ':') && strstr(err.message, strchr(cases[i].says, ':') + 2))))
            fail_msg("%s\n  gave %d: %s: %s\n  expected \"%s\"", cases[i].json, err.code, err.where, err.message,
                     cases[i].says);
    }
}

/* Deep nesting is the JSON library's to refuse, or a Sequence of Sequences to read. */
static void test_deep_nesting(void **state) {
    enum { DEPTH = 100000 };
    struct str json = {0};
    struct err err;
    (void)state;
    str_puts(&json, "{" MODEL ", \"normalizer\": ");
    for (int i = 0; i < 500; i++)
        str_puts(&json, "{\"type\": \"Sequence\", \"normalizers\": [");
    for (int i = 0; i < 500; i++)
        str_puts(&json, "]}");
    str_puts(&json, "}");
    struct tokenizer *tokenizer = parse(json.data, &err);
    assert_non_null(tokenizer);
    tokenizer_free(tokenizer);
    str_clear(&json);
    for (int i = 0; i < DEPTH; i++)
        str_puts(&json, "[");
    assert_null(parse(json.data, &err));
    str_free(&json);
}

/* Normalizers and decoders that grow the text without end are stopped. */
static void test_growth(void **state) {
    struct str json = {0};
    struct err err;
    struct token_list ids = {0};
    char text[3000];
    (void)state;
    str_puts(&json, "{" MODEL ", \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [");
    for (int i = 0; i < 30; i++)
        str_printf(&json, "%s{\"type\": \"Replace\", \"pattern\": {\"String\": \"\"}, \"content\": \"aaaaaaaaaa\"}",
                   i ? "," : "");
    str_puts(&json, "]}}");
    struct tokenizer *tokenizer = parse(json.data, &err);
    assert_non_null(tokenizer);
    memset(text, 'b', sizeof text);
    err = (struct err){0};
    assert_int_equal(tokenizer_encode(tokenizer, text, sizeof text, &ids, &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "normalizer"));
    assert_int_equal(ids.len, 0);
    tokenizer_free(tokenizer);
    str_free(&json);
    free(ids.data);
}

/* unk_token outside the vocabulary: an error of the text that needs it, as in the library; without unk_token unknown
 * characters vanish. */
static void test_unknown_characters(void **state) {
    struct err err;
    struct token_list ids = {0};
    struct tokenizer *tokenizer = parse("{" MODEL "}", &err);
    (void)state;
    assert_int_equal(tokenizer_encode(tokenizer, "axb", 3, &ids, &err), OK);
    assert_int_equal(ids.len, 1);
    assert_int_equal(ids.data[0], 2);
    tokenizer_free(tokenizer);
    ids.len = 0;
    tokenizer = parse("{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [], \"unk_token\": \"?\"}}", &err);
    assert_int_equal(tokenizer_encode(tokenizer, "aa", 2, &ids, &err), OK);
    assert_int_equal(tokenizer_encode(tokenizer, "ab", 2, &ids, &err), ERR_INPUT);
    assert_int_equal(ids.len, 2);
    tokenizer_free(tokenizer);
    free(ids.data);
}

static void test_missing_file(void **state) {
    struct tokenizer *tokenizer;
    struct err err = {0};
    (void)state;
    assert_int_equal(tokenizer_open("tests/data/tokenizer/no-such.json", &tokenizer, &err), ERR_IO);
    assert_null(tokenizer);
}

/* The real tokenizer of the development data: a few ids of stories260k, known from llama2.c. */
static void test_stories(void **state) {
    static const int32_t want[] = {403, 407, 261, 378};
    const char *path = "../shared/models/stories260k/tokenizer.json";
    struct tokenizer *tokenizer;
    struct err err = {0};
    struct token_list ids = {0};
    struct str text = {0};
    size_t n;
    (void)state;
    if (!file_exists(path)) {
        printf("SKIP: no %s\n", path);
        skip();
    }
    if (tokenizer_open(path, &tokenizer, &err) != OK)
        fail_msg("%s: %s", err.where, err.message);
    assert_int_equal(tokenizer_prefix(tokenizer, &n)[0], 1);
    assert_int_equal(tokenizer_encode(tokenizer, "Once upon a time", 16, &ids, NULL), OK);
    assert_int_equal(ids.len, 4);
    assert_memory_equal(ids.data, want, sizeof want);
    tokenizer_decode(tokenizer, ids.data, ids.len, false, &text);
    assert_string_equal(text.data, "Once upon a time");
    str_free(&text);
    free(ids.data);
    tokenizer_free(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),         cmocka_unit_test(test_threads),      cmocka_unit_test(test_names),
        cmocka_unit_test(test_unknown_ids),   cmocka_unit_test(test_invalid_text), cmocka_unit_test(test_append),
        cmocka_unit_test(test_long_word),     cmocka_unit_test(test_refusals),     cmocka_unit_test(test_deep_nesting),
        cmocka_unit_test(test_growth),        cmocka_unit_test(test_unknown_characters),
        cmocka_unit_test(test_missing_file),  cmocka_unit_test(test_stories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
