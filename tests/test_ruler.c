/* RULER-style tasks: lengths, places and counts as promised, answers that the text really gives, equal bytes for equal
 * options, refusals that say what to do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/json.h"
#include "datasets/ruler.h"
#include "tests/scratch.h"

#define TOKENIZER "datasets/demo/model/tokenizer.json"
#define NOISE "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."

static struct tokenizer *tokenizer;

static int open_tokenizer(void **state) {
    (void)state;
    return tokenizer_open(TOKENIZER, &tokenizer, NULL);
}

static int close_tokenizer(void **state) {
    (void)state;
    tokenizer_free(tokenizer);
    return 0;
}

static const struct ruler_task *task_named(const char *name) {
    const struct ruler_task *task = ruler_task_find(name, strlen(name));
    assert_non_null(task);
    return task;
}

static struct ruler_options options_of(uint64_t n_rows, int length) {
    return (struct ruler_options){.n_rows = n_rows, .seed = 5, .length = length, .tokenizer = tokenizer};
}

static char *generate(const char *name, const struct ruler_options *options, size_t *n) {
    char *text;
    FILE *stream = open_memstream(&text, n);
    struct err err = {0};
    assert_non_null(stream);
    if (ruler_write(stream, task_named(name), options, &err) != OK)
        fail_msg("%s: %s %s", name, err.where, err.message);
    assert_int_equal(fclose(stream), 0);
    return text;
}

/* A row as a test reads it. */
struct row {
    const char *input, *prefix;
    const json_t *outputs;
    size_t length;
    json_t *json;
};

static struct row read_row(const char *line) {
    struct row row = {0};
    assert_int_equal(json_parse(line, strlen(line), "row", &row.json, NULL), OK);
    row.input = json_string_value(json_object_get(row.json, "input"));
    row.prefix = json_string_value(json_object_get(row.json, "answer_prefix"));
    row.outputs = json_object_get(row.json, "outputs");
    row.length = (size_t)json_integer_value(json_object_get(row.json, "length"));
    assert_true(row.input && row.prefix && json_array_size(row.outputs) > 0);
    return row;
}

static const char *output(const struct row *row, size_t i) {
    return json_string_value(json_array_get(row->outputs, i));
}

static size_t count(const char *text, const char *what) {
    size_t n = 0;
    for (const char *hit = text; (hit = strstr(hit, what)); hit += strlen(what))
        n++;
    return n;
}

static size_t n_tokens(const char *text, size_t n) {
    struct token_list ids = {0};
    assert_int_equal(tokenizer_encode(tokenizer, text, n, &ids, NULL), OK);
    free(ids.data);
    return ids.len;
}

static void each_row(const char *name, const struct ruler_options *options, void (*check)(const struct row *)) {
    size_t n, n_rows = 0;
    char *text = generate(name, options, &n), *line;
    for (char *save = NULL, *rest = text; (line = strtok_r(rest, "\n", &save)); rest = NULL, n_rows++) {
        struct row row = read_row(line);
        assert_int_equal(json_integer_value(json_object_get(row.json, "index")), n_rows);
        assert_string_equal(json_string_value(json_object_get(row.json, "task")), name);
        check(&row);
        json_decref(row.json);
    }
    assert_int_equal(n_rows, options->n_rows);
    free(text);
}

/* --- lengths --- */

enum { LENGTH = 1400, SLACK = 130 /* tokens of the longest unit: a needle of two uuids is 111 of this tokenizer's */ };

static void check_length(const struct row *row) {
    char whole[1 << 16];
    const char *name = json_string_value(json_object_get(row->json, "task"));
    size_t n_prefix, with = (size_t)json_integer_value(json_object_get(row->json, "length_w_model_temp"));
    tokenizer_prefix(tokenizer, &n_prefix);
    int n = snprintf(whole, sizeof whole, "%s%s", row->input, row->prefix);
    assert_in_range(n, 1, sizeof whole - 1);
    assert_int_equal(row->length, n_tokens(whole, (size_t)n) + (size_t)ruler_task_n_new(task_named(name)));
    assert_int_equal(with, row->length + n_prefix);
    assert_in_range(with, LENGTH - SLACK, LENGTH);
}

static void test_lengths(void **state) {
    (void)state;
    struct ruler_options options = options_of(4, LENGTH);
    for (size_t i = 0; i < RULER_N_TASKS; i++)
        if (ruler_task_has_data(ruler_task(i), &options))
            each_row(ruler_task_name(ruler_task(i)), &options, check_length);
}

/* --- needles --- */

/* The value of a key, which must stand in the text. */
static void must_say(const struct row *row, const char *kind, const char *key, const char *value) {
    char needle[256];
    snprintf(needle, sizeof needle, "One of the special magic %s for %s is: %s.", kind, key, value);
    assert_int_equal(count(row->input, needle), 1);
}

/* "for KEY[, KEY..., and KEY] mentioned in the provided text": the keys, in place. Returns their number. */
static size_t asked_keys(const struct row *row, char *copy, size_t cap, char *keys[8]) {
    const char *asked = strrchr(row->input, '\n');
    char *save = NULL, *end;
    size_t n = 0;
    assert_non_null(asked);
    assert_non_null(asked = strstr(asked, " for "));
    snprintf(copy, cap, "%s", asked + 5);
    assert_non_null(end = strstr(copy, " mentioned"));
    *end = 0;
    for (char *key = strtok_r(copy, ",", &save); key && n < 8; key = strtok_r(NULL, ",", &save)) {
        key += strspn(key, " ");
        keys[n++] = strncmp(key, "and ", 4) == 0 ? key + 4 : key;
    }
    return n;
}

/* Each of n_keys asked keys has n_values of the outputs; the text has n_needles needles with `asked` of the same kind. */
static void check_needles(const struct row *row, const char *kind, size_t n_keys, size_t n_values, size_t n_needles) {
    char copy[512], *keys[8];
    assert_int_equal(asked_keys(row, copy, sizeof copy, keys), n_keys);
    assert_int_equal(json_array_size(row->outputs), n_keys * n_values);
    for (size_t i = 0; i < n_keys * n_values; i++)
        must_say(row, kind, keys[i / n_values], output(row, i));
    if (n_needles)
        assert_int_equal(count(row->input, "One of the special magic "), n_needles);
    const char *hit = strstr(row->input, output(row, 0));
    assert_int_equal(json_integer_value(json_object_get(row->json, "token_position_answer")),
                     n_tokens(row->input, (size_t)(hit - row->input)));
    bool one = n_keys * n_values == 1;
    assert_int_equal(strncmp(row->input, one ? "A special magic " : "Some special magic ", 12), 0);
    assert_non_null(strstr(row->prefix, one ? "provided text is" : "provided text are"));
}

static void check_single(const struct row *row) {
    check_needles(row, "numbers", 1, 1, 1);
    assert_true(count(row->input, NOISE "\n") > 10);
}

static void check_single_text(const struct row *row) {
    check_needles(row, "numbers", 1, 1, 1);
    assert_int_equal(count(row->input, NOISE), 0);
}

static void check_uuid(const struct row *row) {
    unsigned a, b, c, d;
    unsigned long long e;
    int end = 0;
    check_needles(row, "uuids", 1, 1, 1);
    assert_int_equal(sscanf(output(row, 0), "%8x-%4x-4%3x-%4x-%12llx%n", &a, &b, &c, &d, &e, &end), 5);
    assert_int_equal(end, 36);
    assert_int_equal(d >> 14, 2);
}

static void check_multikey(const struct row *row) {
    check_needles(row, "numbers", 1, 1, 4);
}

static void check_multivalue(const struct row *row) {
    check_needles(row, "numbers", 1, 4, 4);
}

static void check_multiquery(const struct row *row) {
    check_needles(row, "numbers", 4, 1, 4);
}

/* Nothing but needles, and no other one has the key. */
static void check_needle_hay(const struct row *row) {
    char copy[512], *keys[8], needle[300];
    const char *kind = strstr(row->input, "uuids") ? "uuids" : "numbers";
    check_needles(row, kind, 1, 1, 0);
    asked_keys(row, copy, sizeof copy, keys);
    snprintf(needle, sizeof needle, " for %s is: ", keys[0]);
    assert_int_equal(count(row->input, needle), 1);
    assert_int_equal(count(row->input, "\nOne of the special magic "), count(row->input, "\n") - 1);
}

/* Sentences in front of every needle of a text, and without needles in all: each sentence ends with its only dot. */
static size_t needle_places(const struct row *row, size_t *place, size_t n) {
    const char *text = strchr(row->input, '\n') + 1, *end = strrchr(row->input, '\n');
    size_t n_before = 0, found = 0;
    for (const char *p = text; p < end; p++) {
        if (strncmp(p, "One of the special magic ", 25) == 0) {
            assert_true(found < n);
            place[found++] = n_before;
            p = strchr(p, '.');
        } else if (*p == '.') {
            n_before++;
        }
    }
    assert_int_equal(found, n);
    return n_before;
}

static bool depth_seen[40];

static void check_depths(const struct row *row) {
    size_t place[4], n = needle_places(row, place, 4);
    int last = -1;
    for (size_t i = 0; i < 4; i++) {
        int depth = last + 1;
        while (depth < 40 && n * (size_t)(depth * 100 / 39.0 + 0.5) / 100 != place[i])
            depth++;
        assert_in_range(depth, 0, 39); /* each needle has a depth of its own */
        depth_seen[depth] = true;
        last = depth;
    }
}

static void test_needles(void **state) {
    (void)state;
    struct ruler_options options = options_of(8, LENGTH);
    each_row("niah_single_1", &options, check_single);
    each_row("niah_single_2", &options, check_single_text);
    each_row("niah_single_3", &options, check_uuid);
    each_row("niah_multikey_1", &options, check_multikey);
    each_row("niah_multikey_2", &options, check_needle_hay);
    each_row("niah_multikey_3", &options, check_needle_hay);
    each_row("niah_multivalue", &options, check_multivalue);
    each_row("niah_multiquery", &options, check_multiquery);
}

static void test_depths(void **state) {
    (void)state;
    struct ruler_options options = options_of(40, 3000); /* more sentences than depths, so that depths can be told apart */
    size_t n_seen = 0;
    each_row("niah_multikey_1", &options, check_depths);
    for (size_t i = 0; i < 40; i++)
        n_seen += depth_seen[i];
    assert_true(depth_seen[0] && depth_seen[39]);
    assert_true(n_seen >= 38); /* 160 draws: the chance to miss three or more of 40 is below 1 % */
}

/* --- variables --- */

static void check_chain(const struct row *row) {
    char line[64], name[8], next[8];
    unsigned value;
    const char *main_text = strstr(strstr(row->input, "Memorize") + 1, "Memorize"), *question, *at;
    assert_non_null(main_text);
    assert_int_equal(count(row->input, "Memorize and track"), 2); /* the solved example and the task */
    assert_non_null(question = strstr(main_text, "assigned the value "));
    assert_int_equal(sscanf(question, "assigned the value %u in", &value), 1);
    assert_int_equal(json_array_size(row->outputs), 5);
    snprintf(line, sizeof line, "VAR %s = %u\n", output(row, 0), value);
    assert_non_null(at = strstr(main_text, line));
    for (size_t i = 1; i < 5; i++) { /* in order */
        snprintf(line, sizeof line, "VAR %s = VAR %s\n", output(row, i), output(row, i - 1));
        assert_non_null(at = strstr(at, line));
    }
    /* The example solves itself. */
    assert_int_equal(sscanf(strstr(row->input, "they are: "), "they are: %3s %3s", name, next), 2);
    snprintf(line, sizeof line, "VAR %s = VAR %s\n", next, name);
    assert_non_null(strstr(row->input, line));
}

static void test_chain(void **state) {
    (void)state;
    struct ruler_options options = options_of(20, LENGTH);
    each_row("vt", &options, check_chain);
}

/* --- words to count --- */

/* Counts of the words of a list, in order of first appearance; returns how many differ. `list` is cut up. */
static size_t count_words(char *list, const char *delimiters, const char *words[4096], size_t counts[4096]) {
    size_t n = 0;
    char *save = NULL;
    for (char *word = strtok_r(list, delimiters, &save); word; word = strtok_r(NULL, delimiters, &save)) {
        size_t i = 0;
        while (i < n && strcmp(words[i], word) != 0)
            i++;
        assert_true(i < 4096);
        if (i == n) {
            words[n] = word;
            counts[n++] = 0;
        }
        counts[i]++;
    }
    return n;
}

static int cwe_common, cwe_other;

static void check_common(const struct row *row) {
    static const char *words[4096];
    static size_t counts[4096];
    char *list = strdup(strstr(strstr(row->input, "Below") + 1, "often.\n") + 7), *main_list = strstr(list, "often.\n");
    assert_non_null(main_list);
    *strstr(main_list + 7, "\nQuestion") = 0;
    size_t n = count_words(main_list + 7, " .0123456789", words, counts), n_common = 0;
    for (size_t i = 0; i < n; i++) {
        bool is_answer = false;
        for (size_t j = 0; j < json_array_size(row->outputs); j++)
            is_answer |= strcmp(output(row, j), words[i]) == 0;
        n_common += is_answer;
        assert_int_equal(counts[i], is_answer ? cwe_common : cwe_other);
    }
    assert_int_equal(n_common, 10);
    assert_true(n >= 20);
    free(list);
}

static void check_frequent(const struct row *row) {
    static const char *words[4096];
    static size_t counts[4096];
    char *list = strdup(strstr(row->input, "coded words.") + 12);
    *strstr(list, "\nQuestion") = 0;
    size_t n = count_words(list, " ", words, counts), of[3] = {0}, dots = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < 3; j++)
            if (strcmp(words[i], output(row, j)) == 0)
                of[j] = counts[i];
    assert_int_equal(json_array_size(row->outputs), 3);
    assert_true(of[0] > of[1] && of[1] > of[2] && of[2] > 0);
    for (size_t i = 0; i < n; i++) {
        bool is_answer = false;
        for (size_t j = 0; j < 3; j++)
            is_answer |= strcmp(words[i], output(row, j)) == 0;
        if (strcmp(words[i], "...") == 0)
            dots = counts[i];
        else if (!is_answer)
            assert_true(counts[i] < of[2]);
    }
    assert_true(dots > of[0]);
    assert_in_range(of[0] * 4, dots - 4, dots); /* counts fall with the square of the rank */
    free(list);
}

static void test_words(void **state) {
    (void)state;
    struct ruler_options options = options_of(5, LENGTH);
    cwe_common = 6;
    cwe_other = 1;
    each_row("cwe", &options, check_common);
    each_row("fwe", &options, check_frequent);
    options = options_of(1, 4096);
    cwe_common = 30;
    cwe_other = 3;
    each_row("cwe", &options, check_common);
}

/* --- questions --- */

static const char SQUAD[] =
    "{\"version\": \"v2.0\", \"data\": ["
    "{\"title\": \"A\", \"paragraphs\": ["
    "{\"context\": \"Oslo lies in Norway.\", \"qas\": ["
    "{\"id\": \"1\", \"question\": \"Where is Oslo?\", \"answers\": [{\"text\": \"Norway\", \"answer_start\": 13},"
    " {\"text\": \"in Norway\", \"answer_start\": 10}]},"
    "{\"id\": \"2\", \"question\": \"Where is Atlantis?\", \"answers\": [], \"is_impossible\": true}]},"
    "{\"context\": \"Bergen rains.\", \"qas\": []}]},"
    "{\"title\": \"B\", \"paragraphs\": [{\"context\": \"Rome is old.\", \"qas\": ["
    "{\"id\": \"3\", \"question\": \"What is old?\", \"answers\": [{\"text\": \"Rome\", \"answer_start\": 0}]}]},"
    "{\"context\": \"Rome is old.\", \"qas\": []}]}]}";
static const char HOTPOT[] =
    "[{\"_id\": \"x\", \"question\": \"Who?\", \"answer\": \"Ann\","
    " \"context\": [[\"T\", [\"Ann sings.\", \" Bob hums.\"]], [\"U\", [\"Cy runs.\"]]]},"
    " {\"_id\": \"y\", \"question\": \"What?\", \"answer\": \"yes\","
    " \"context\": [[\"V\", [\"Dee swims.\"]], [\"U\", [\"Cy runs.\"]]]}]";

static void check_squad(const struct row *row) {
    bool oslo = strstr(row->input, "Where is Oslo?") != NULL;
    assert_null(strstr(row->input, "Atlantis"));
    assert_int_equal(count(row->input, "Answer the question based on the given documents."), 2);
    assert_int_equal(json_array_size(row->outputs), oslo ? 2 : 1);
    assert_string_equal(output(row, 0), oslo ? "Norway" : "Rome");
    assert_int_equal(count(row->input, oslo ? "Oslo lies in Norway." : "Rome is old."), 1); /* equal documents are one */
    assert_int_equal(count(row->input, "Document "), 3); /* all there are */
    assert_non_null(strstr(row->input, "Document 3:\n"));
    assert_string_equal(row->prefix, " Answer:");
}

static void check_hotpot(const struct row *row) {
    bool who = strstr(row->input, "Who?") != NULL;
    assert_string_equal(output(row, 0), who ? "Ann" : "yes");
    assert_non_null(strstr(row->input, who ? ":\nT\nAnn sings. Bob hums.\n" : ":\nV\nDee swims.\n"));
    assert_int_equal(count(row->input, ":\nU\nCy runs.\n"), 1);
}

static void test_questions(void **state) {
    (void)state;
    struct scratch s;
    struct documents *squad, *hotpot;
    struct err err = {0};
    scratch_open(&s);
    assert_int_equal(documents_open_squad(scratch_write_text(&s, "squad.json", SQUAD), &squad, NULL), OK);
    assert_int_equal(documents_open_hotpot(scratch_write_text(&s, "hotpot.json", HOTPOT), &hotpot, NULL), OK);
    assert_int_equal(documents_n(squad), 3);
    assert_int_equal(documents_n_questions(squad), 2);
    struct ruler_options options = options_of(2, 500);
    options.squad = squad;
    options.hotpot = hotpot;
    each_row("qa_1", &options, check_squad);
    each_row("qa_2", &options, check_hotpot);

    options.n_rows = 3;
    assert_int_equal(ruler_write(stdout, task_named("qa_1"), &(struct ruler_options){.n_rows = 0}, &err), ERR_USAGE);
    assert_non_null(strstr(err.message, "--squad"));
    err = (struct err){0};
    FILE *sink = fopen("/dev/null", "w");
    assert_int_equal(ruler_write(sink, task_named("qa_1"), &options, &err), ERR_USAGE);
    assert_non_null(strstr(err.message, "only 2 questions"));
    fclose(sink);
    documents_free(squad);
    documents_free(hotpot);
    scratch_close(&s);
}

/* --- haystacks --- */

static void check_own_text(const struct row *row) {
    check_needles(row, "numbers", 1, 1, 1);
    assert_true(count(row->input, "He said \"No.\" Then 3 men left!") + count(row->input, "Mr. x stayed?") > 20);
    assert_int_equal(count(row->input, "  "), 0);
}

static void test_haystack(void **state) {
    (void)state;
    struct scratch s;
    struct haystack *haystack;
    struct err err = {0};
    scratch_open(&s);
    char *path = scratch_write_text(&s, "a.txt", "He said \"No.\"\n Then 3 men\n\tleft! Mr. x stayed?  ");
    assert_int_equal(haystack_open(&path, 1, &haystack, NULL), OK);
    assert_int_equal(haystack_n_sentences(haystack), 3); /* "Mr. x" goes on with a lower-case letter */
    struct ruler_options options = options_of(4, 700);
    options.haystack = haystack;
    each_row("niah_single_2", &options, check_own_text);
    haystack_free(haystack);

    path = scratch_write_text(&s, "b.txt", " \n ");
    assert_int_equal(haystack_open(&path, 1, &haystack, &err), ERR_INPUT);
    assert_string_equal(err.where, path);
    assert_non_null(strstr(err.message, "no sentence"));
    scratch_close(&s);
}

/* --- bytes --- */

static void test_bytes(void **state) {
    (void)state;
    XXH3_state_t *hash = XXH3_createState();
    char hex[33];
    assert_int_equal(XXH3_128bits_reset(hash), XXH_OK);
    for (size_t i = 0; i < RULER_N_TASKS - 2; i++) {
        const char *name = ruler_task_name(ruler_task(i));
        struct ruler_options options = options_of(2, 1024), more = options_of(3, 1024), other = options;
        size_t n, n_more, n_other;
        other.seed = 6;
        char *text = generate(name, &options, &n), *longer = generate(name, &more, &n_more);
        char *another = generate(name, &other, &n_other);
        assert_true(n_more > n);
        assert_memory_equal(text, longer, n); /* a row depends on its number, not on how many there are */
        assert_true(n != n_other || memcmp(text, another, n) != 0);
        XXH3_128bits_update(hash, text, n);
        free(text);
        free(longer);
        free(another);
    }
    hash_hex(XXH3_128bits_digest(hash), hex);
    XXH3_freeState(hash);
    assert_string_equal(hex, "2dbec4a0db4e526e0c605e300d3025db"); /* the same on every machine */
}

/* --- refusals --- */

static void test_too_small(void **state) {
    (void)state;
    FILE *sink = fopen("/dev/null", "w");
    for (size_t i = 0; i < RULER_N_TASKS - 2; i++) {
        struct ruler_options options = options_of(1, 100);
        struct err err = {0};
        int needed = 0;
        assert_int_equal(ruler_write(sink, ruler_task(i), &options, &err), ERR_USAGE);
        assert_string_equal(err.where, "--length");
        assert_non_null(strstr(err.message, ruler_task_name(ruler_task(i))));
        assert_int_equal(sscanf(strstr(err.message, "row has "), "row has %d", &needed), 1);
        options.length = needed - 1;
        assert_int_equal(ruler_write(sink, ruler_task(i), &options, NULL), ERR_USAGE);
        options.length = needed;
        assert_int_equal(ruler_write(sink, ruler_task(i), &options, NULL), OK);
    }
    fclose(sink);
}

static void must_refuse_documents(const struct scratch *s, bool squad, const char *text, const char *where,
                                  const char *message) {
    struct documents *documents;
    struct err err = {0};
    char *path = scratch_write_text(s, "bad.json", text);
    assert_int_equal((squad ? documents_open_squad : documents_open_hotpot)(path, &documents, &err), ERR_INPUT);
    assert_null(documents);
    assert_int_equal(strncmp(err.where, path, strlen(path)), 0);
    if (!strstr(err.where, where) || !strstr(err.message, message))
        fail_msg("\"%s: %s\" does not name %s, %s", err.where, err.message, where, message);
}

static void test_bad_documents(void **state) {
    (void)state;
    struct scratch s;
    scratch_open(&s);
    must_refuse_documents(&s, true, "[]", "", "SQuAD");
    must_refuse_documents(&s, true, "{}", "", "data");
    must_refuse_documents(&s, true, "{\"data\": []}", "", "no question");
    must_refuse_documents(&s, true, "{\"data\": [{\"paragraphs\": [{\"qas\": []}]}]}", "data[0]", "context");
    must_refuse_documents(&s, true, "{\"data\": [{\"paragraphs\": [{\"context\": \"x\", \"qas\": [{\"answers\": []}]}]}]}",
                          "data[0]", "question");
    must_refuse_documents(&s, true, "{\"data\": [{}, ", "", "JSON");
    must_refuse_documents(&s, false, "{}", "", "HotpotQA");
    must_refuse_documents(&s, false, "[{\"question\": \"q\", \"answer\": \"a\", \"context\": []}]", "[0]", "no document");
    must_refuse_documents(&s, false, "[{\"question\": \"q\", \"answer\": \"a\", \"context\": [[\"t\"]]}]", "[0]", "title");
    must_refuse_documents(&s, false, "[{\"question\": \"q\", \"answer\": \"a\", \"context\": [[\"t\", [1]]]}]", "[0]",
                          "not text");
    must_refuse_documents(&s, false, "[{\"question\": \"q\", \"context\": []}]", "[0]", "answer");
    scratch_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lengths),   cmocka_unit_test(test_needles),  cmocka_unit_test(test_depths),
        cmocka_unit_test(test_chain),     cmocka_unit_test(test_words),    cmocka_unit_test(test_questions),
        cmocka_unit_test(test_haystack),  cmocka_unit_test(test_bytes),    cmocka_unit_test(test_too_small),
        cmocka_unit_test(test_bad_documents),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
