/* A tokenizer.json, a zero byte, a text: refused, or a tokenizer whose ids are in range and whose decoding ends. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/token_class.h"
#include "engine/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_TEXT = 4096 }; /* regular expressions of strangers may be slow on long texts */

static void check_text(const struct tokenizer *tokenizer, const struct token_classes *classes, const char *text, size_t n) {
    struct token_list ids = {0};
    struct err err = {0};
    int rc = tokenizer_encode(tokenizer, text, n, &ids, &err);
    ASSERT(rc == err.code && (rc == OK || (rc == ERR_INPUT && ids.len == 0)));
    uint8_t *kinds = calloc(ids.len + 1, 1);
    ASSERT(kinds);
    token_classes_fill(classes, ids.data, ids.len, kinds);
    for (size_t i = 0; i < ids.len; i++) {
        size_t len;
        ASSERT(ids.data[i] >= 0 && (size_t)ids.data[i] < tokenizer_n_vocab(tokenizer) && kinds[i] < N_TOKEN_CLASSES);
        tokenizer_token_bytes(tokenizer, ids.data[i], &len);
    }
    for (int skip = 0; skip < 2; skip++) {
        struct str decoded = {0};
        tokenizer_decode(tokenizer, ids.data, ids.len, skip == 1, &decoded);
        ASSERT(utf8_first_invalid(str_text(&decoded), decoded.len) == decoded.len);
        str_free(&decoded);
    }
    free(kinds);
    free(ids.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *end = memchr(data, 0, size);
    size_t n_json = end ? (size_t)(end - data) : size, n_text = end ? size - n_json - 1 : 0;
    struct tokenizer *tokenizer;
    struct token_classes *classes;
    struct err err = {0};
    int rc = tokenizer_parse((const char *)data, n_json, "input", &tokenizer, &err);
    ASSERT(rc == err.code && (rc == OK || rc == ERR_INPUT) && (rc == OK) == (tokenizer != NULL));
    if (rc != OK)
        return 0;
    ASSERT(token_classes_create(tokenizer, &classes, &err) == OK);
    check_text(tokenizer, classes, end ? (const char *)end + 1 : "", n_text < MAX_TEXT ? n_text : MAX_TEXT);
    token_classes_free(classes);
    tokenizer_free(tokenizer);
    return 0;
}
