/* Opening a tokenizer, encoding and decoding with the k-th allocation failing, for many k: ERR_MEMORY or a failed string,
 * nothing leaked. */
#include <stdio.h>
#include <string.h>

#include "engine/token_class.h"
#include "engine/tokenizer.h"
#include "tests/failing_heap.h"

/* Every part once. NFC, which makes thousands of short allocations for its table, only where asked for. */
static const char json[] =
    "{\"added_tokens\": [{\"content\": \"<s>\", \"special\": true, \"normalized\": false}, {\"content\": \"x y\"}],"
    "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [%s{\"type\": \"Prepend\", \"prepend\": \"_\"},"
    "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"\\\\s\"}, \"content\": \"_\"}]},"
    "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"behavior\": \"Isolated\","
    "\"pattern\": {\"Regex\": \"[ab_]+|c\"}}, {\"type\": \"Digits\", \"individual_digits\": true},"
    "{\"type\": \"Metaspace\", \"replacement\": \"_\"}, {\"type\": \"ByteLevel\", \"add_prefix_space\": true}]},"
    "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"s\"}},"
    "{\"Sequence\": {\"id\": \"A\"}}], \"special_tokens\": {\"s\": {\"ids\": [0]}}},"
    "\"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": \"_\"},"
    "\"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Metaspace\", \"replacement\": \"_\"},"
    "{\"type\": \"Fuse\"},"
    "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}, {\"type\": \"ByteLevel\"}]},"
    "\"model\": {\"unk_token\": \"?\", \"vocab\": {\"?\": 0, \"_\": 1, \"a\": 2, \"b\": 3, \"ab\": 4, \"_ab\": 5, \"1\": 6},"
    "\"merges\": [\"a b\", \"_ ab\"]}}";

static const char text[] = "ab ab<s>1x y abababababababababababababababababababab \xC3\xA9 e\xCC\x81 ab 12 c";

static int use_tokenizer(void *self, struct err *err) {
    const char *file = self;
    struct tokenizer *tokenizer;
    struct token_classes *classes = NULL;
    struct token_list ids = {0};
    struct str decoded = {0};
    int rc = tokenizer_parse(file, strlen(file), "memory", &tokenizer, err);
    if (rc != OK)
        return rc;
    rc = token_classes_create(tokenizer, &classes, err);
    if (rc == OK)
        rc = tokenizer_encode(tokenizer, text, sizeof text - 1, &ids, err);
    if (rc == OK)
        tokenizer_decode(tokenizer, ids.data, ids.len, true, &decoded);
    if (rc == OK && decoded.failed)
        rc = err_memory(err, "decoded text", ids.len);
    str_free(&decoded);
    free(ids.data);
    token_classes_free(classes);
    tokenizer_free(tokenizer);
    return rc;
}

static void test_memory(void **state) {
    char file[4096];
    (void)state;
    heap_begin();
    heap_spare_jansson();
    snprintf(file, sizeof file, json, "");
    assert_true(heap_fail_each(use_tokenizer, file, 1) > 50);
    snprintf(file, sizeof file, json, "{\"type\": \"NFC\"},");
    heap_fail_each(use_tokenizer, file, 41);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
