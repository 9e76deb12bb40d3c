/* Token classes of a vocabulary made for the purpose; what each token is was decided by hand from the definitions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/str.h"
#include "engine/token_class.h"

/* Tokens of a SentencePiece-like vocabulary and their class behind a token that ends in a letter, and behind one that does
 * not. */
static const struct {
    const char *token;
    enum token_class behind_letter, behind_comma;
} tokens[] = {
    {"<s>", TOKEN_SPECIAL, TOKEN_SPECIAL},
    {"<0x0A>", TOKEN_SPACE, TOKEN_SPACE},
    {"<0xE2>", TOKEN_BYTE, TOKEN_BYTE},
    {"<0x41>", TOKEN_WORD_PART, TOKEN_WORD_START},
    {"\xE2\x96\x81", TOKEN_SPACE, TOKEN_SPACE},
    {"\xE2\x96\x81\xE2\x96\x81\\t", TOKEN_SPACE, TOKEN_SPACE},
    {"\xC2\x85", TOKEN_SPACE, TOKEN_SPACE},                /* NEL, white space though a control character */
    {"\xE3\x80\x80", TOKEN_SPACE, TOKEN_SPACE},            /* ideographic space */
    {"7", TOKEN_DIGIT, TOKEN_DIGIT},
    {"\xE2\x96\x81" "2024", TOKEN_DIGIT, TOKEN_DIGIT},
    {"3.14", TOKEN_DIGIT, TOKEN_DIGIT},
    {"\xC2\xBD", TOKEN_DIGIT, TOKEN_DIGIT},                /* one half, No */
    {"\xD9\xA3", TOKEN_DIGIT, TOKEN_DIGIT},                /* Arabic-Indic three, Nd */
    {"1st", TOKEN_WORD_PART, TOKEN_WORD_START},
    {"\xE2\x96\x81the", TOKEN_WORD_START, TOKEN_WORD_START},
    {"\\nIt", TOKEN_WORD_START, TOKEN_WORD_START},
    {"ing", TOKEN_WORD_PART, TOKEN_WORD_START},
    {"'s", TOKEN_WORD_PART, TOKEN_WORD_START},
    {"\xC3\xA9t\xC3\xA9", TOKEN_WORD_PART, TOKEN_WORD_START},
    {"\xE6\xBC\xA2", TOKEN_WORD_PART, TOKEN_WORD_START},   /* Han */
    {"\xE0\xA5\x8D", TOKEN_WORD_PART, TOKEN_WORD_START},   /* virama, Mn: part of a word */
    {",", TOKEN_PUNCTUATION, TOKEN_PUNCTUATION},
    {"\xE2\x96\x81(", TOKEN_PUNCTUATION, TOKEN_PUNCTUATION},
    {"+=", TOKEN_PUNCTUATION, TOKEN_PUNCTUATION},
    {"\xE2\x82\xAC", TOKEN_PUNCTUATION, TOKEN_PUNCTUATION}, /* euro sign, Sc */
    {"\xF0\x9F\x99\x82", TOKEN_OTHER, TOKEN_OTHER},        /* emoji, So */
    {"\xE2\x80\x8D", TOKEN_OTHER, TOKEN_OTHER},            /* zero width joiner, Cf */
    {"\xF0\x9F\x99\x82!", TOKEN_PUNCTUATION, TOKEN_PUNCTUATION},
};
enum { N_TOKENS = sizeof tokens / sizeof *tokens };

static struct tokenizer *make_tokenizer(void) {
    struct str json = {0};
    struct tokenizer *tokenizer;
    struct err err = {0};
    str_puts(&json, "{\"added_tokens\": [{\"id\": 0, \"content\": \"<s>\", \"special\": true, \"normalized\": false}],"
                    "\"decoder\": {\"type\": \"Sequence\", \"decoders\": ["
                    "{\"type\": \"Replace\", \"pattern\": {\"String\": \"\xE2\x96\x81\"}, \"content\": \" \"},"
                    "{\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, {\"type\": \"Strip\", \"content\": \" \","
                    "\"start\": 1, \"stop\": 0}]}, \"model\": {\"merges\": [], \"vocab\": {");
    for (int i = 0; i < N_TOKENS; i++)
        str_printf(&json, "%s\"%s\": %d", i ? ", " : "", tokens[i].token, i);
    str_puts(&json, ", \"gap\": 40}}}");
    if (tokenizer_parse(json.data, json.len, "classes", &tokenizer, &err) != OK)
        fail_msg("%s: %s", err.where, err.message);
    str_free(&json);
    return tokenizer;
}

static int32_t id_of(const char *token) {
    for (int32_t i = 0; i < N_TOKENS; i++)
        if (strcmp(tokens[i].token, token) == 0)
            return i;
    fail_msg("no token %s", token);
    return -1;
}

static void test_table(void **state) {
    struct tokenizer *tokenizer = make_tokenizer();
    struct token_classes *classes;
    int32_t word = id_of("ing"), comma = id_of(",");
    (void)state;
    assert_int_equal(token_classes_create(tokenizer, &classes, NULL), OK);
    tokenizer_free(tokenizer); /* the table stands on its own */
    for (int32_t i = 0; i < N_TOKENS; i++) {
        enum token_class behind[] = {token_class_of(classes, word, i), token_class_of(classes, comma, i)};
        if (behind[0] != tokens[i].behind_letter || behind[1] != tokens[i].behind_comma)
            fail_msg("\"%s\" is %s and %s, expected %s and %s", tokens[i].token, token_class_name(behind[0]),
                     token_class_name(behind[1]), token_class_name(tokens[i].behind_letter),
                     token_class_name(tokens[i].behind_comma));
    }
    token_classes_free(classes);
    token_classes_free(NULL);
}

/* What stands before decides between start and part of a word: letters, marks and numbers at its end continue one. */
static void test_neighbours(void **state) {
    static const struct {
        const char *before;
        enum token_class class;
    } cases[] = {
        {"7", TOKEN_WORD_PART},
        {"\xE0\xA5\x8D", TOKEN_WORD_PART},
        {"\xE6\xBC\xA2", TOKEN_WORD_PART},
        {"<0x41>", TOKEN_WORD_PART},
        {"<s>", TOKEN_WORD_START},
        {"\xE2\x96\x81", TOKEN_WORD_START},
        {"<0xE2>", TOKEN_WORD_START},
        {"\xF0\x9F\x99\x82", TOKEN_WORD_START},
    };
    struct tokenizer *tokenizer = make_tokenizer();
    struct token_classes *classes;
    int32_t word = id_of("ing");
    (void)state;
    assert_int_equal(token_classes_create(tokenizer, &classes, NULL), OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(token_class_of(classes, id_of(cases[i].before), word), cases[i].class);
    assert_int_equal(token_class_of(classes, -1, word), TOKEN_WORD_START);
    assert_int_equal(token_class_of(classes, word, -1), TOKEN_OTHER);
    assert_int_equal(token_class_of(classes, word, INT32_MAX), TOKEN_OTHER);
    assert_int_equal(token_class_of(classes, word, 35), TOKEN_OTHER); /* an id without a token */
    token_classes_free(classes);
    tokenizer_free(tokenizer);
}

static void test_sequence(void **state) {
    const int32_t ids[] = {id_of("<s>"), id_of("ing"), id_of("ing"), id_of(","), id_of("ing"), id_of("7"), id_of("ing"), 99};
    const uint8_t want[] = {TOKEN_SPECIAL,    TOKEN_WORD_START, TOKEN_WORD_PART, TOKEN_PUNCTUATION,
                            TOKEN_WORD_START, TOKEN_DIGIT,      TOKEN_WORD_PART, TOKEN_OTHER};
    uint8_t got[sizeof want];
    struct tokenizer *tokenizer = make_tokenizer();
    struct token_classes *classes;
    (void)state;
    assert_int_equal(token_classes_create(tokenizer, &classes, NULL), OK);
    token_classes_fill(classes, ids, sizeof want, got);
    assert_memory_equal(got, want, sizeof want);
    token_classes_fill(classes, NULL, 0, NULL);
    token_classes_free(classes);
    tokenizer_free(tokenizer);
}

static void test_names(void **state) {
    static const char *const names[] = {"special",    "byte",      "space",       "digit",
                                        "word_start", "word_part", "punctuation", "other"};
    (void)state;
    assert_int_equal(N_TOKEN_CLASSES, sizeof names / sizeof *names);
    for (int i = 0; i < N_TOKEN_CLASSES; i++)
        assert_string_equal(token_class_name((enum token_class)i), names[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_neighbours),
        cmocka_unit_test(test_sequence),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
