/* Opening a tokenizer, encoding and decoding with the k-th allocation failing, for many k: ERR_MEMORY or a failed string,
 * nothing leaked. The C library's allocator is replaced by one that counts; a sanitizer has its own, so those builds skip.
 * jansson is left out: its lexer (2.14) asserts when it cannot allocate. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "engine/token_class.h"
#include "engine/tokenizer.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)

static void test_memory(void **state) {
    (void)state;
    printf("SKIP: this build has its own allocator\n");
    skip();
}

#else

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void __libc_free(void *p);

static long countdown = -1; /* allocations until the one that fails; -1 = none does */
static long live;           /* blocks taken while counting and not given back */
static int counting;

static int fails(void) {
    int now = countdown > 0 && --countdown == 0;
    if (now)
        errno = ENOMEM;
    return now;
}

void *malloc(size_t n) {
    void *p = fails() ? NULL : __libc_malloc(n);
    live += counting && p;
    return p;
}

void *calloc(size_t count, size_t size) {
    void *p = fails() ? NULL : __libc_calloc(count, size);
    live += counting && p;
    return p;
}

void *realloc(void *old, size_t n) {
    void *p = fails() ? NULL : __libc_realloc(old, n);
    live += counting && p && !old;
    return p;
}

void free(void *p) {
    live -= counting && p;
    __libc_free(p);
}

static void *steady_malloc(size_t n) {
    void *p = __libc_malloc(n);
    live += counting && p;
    return p;
}

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

static int use_tokenizer(const char *file, struct err *err) {
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

/* Allocation k fails, for k = 1, 1 + step, ... until one is never reached. The number of failures tried. */
static long fail_each(const char *file, long step) {
    struct err err = {0};
    long k, left = 0, n = 0;
    int rc = use_tokenizer(file, &err); /* what the libraries keep for good is taken now */
    if (rc != OK)
        fail_msg("%s: %s", err.where, err.message);
    for (k = 1; left == 0; k += step) {
        err = (struct err){0};
        live = 0;
        counting = 1;
        countdown = k;
        rc = use_tokenizer(file, &err);
        left = countdown;
        countdown = -1;
        counting = 0;
        if (live != 0)
            fail_msg("%ld blocks leaked when allocation %ld failed", live, k);
        if (rc != OK && rc != ERR_MEMORY)
            fail_msg("allocation %ld failed, reported as %d: %s: %s", k, rc, err.where, err.message);
        n++;
    }
    return n - 1;
}

static void test_memory(void **state) {
    char file[4096];
    long n;
    (void)state;
    json_set_alloc_funcs(steady_malloc, free);
    snprintf(file, sizeof file, json, "");
    n = fail_each(file, 1);
    assert_true(n > 50);
    snprintf(file, sizeof file, json, "{\"type\": \"NFC\"},");
    n += fail_each(file, 41);
    printf("%ld allocations failed one by one\n", n);
}

#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
