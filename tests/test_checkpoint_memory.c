/* Opening a checkpoint with the k-th allocation failing, for every k: ERR_MEMORY, nothing leaked, nothing half open. The C
 * library's allocator is replaced by one that counts; a sanitizer has its own, so those builds skip. jansson is left out:
 * its lexer (2.14) asserts when it cannot allocate. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/checkpoint.h"
#include "engine/predictor.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)

static void test_open(void **state) {
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

/* Counted, but never failing. */
static void *steady_malloc(size_t n) {
    void *p = __libc_malloc(n);
    live += counting && p;
    return p;
}

/* The whole life of a checkpoint with a predictor. */
static int use_checkpoint(struct err *err) {
    struct checkpoint *c;
    struct predictor_layer layer;
    int rc = checkpoint_open("tests/data/hash", NULL, &c, err);
    if (rc != OK)
        return rc;
    checkpoint_base_hash(c);
    rc = predictor_layer_read(c, 0, &layer, err);
    predictor_layer_free(&layer);
    checkpoint_close(c);
    return rc;
}

static void test_open(void **state) {
    struct err err = {0};
    long k = 0, left;
    int rc;
    json_set_alloc_funcs(steady_malloc, free);
    rc = use_checkpoint(&err); /* what the libraries keep for good is taken now */
    (void)state;
    if (rc != OK)
        fail_msg("%s: %s", err.where, err.message);
    do {
        err = (struct err){0};
        live = 0;
        counting = 1;
        countdown = ++k;
        rc = use_checkpoint(&err);
        left = countdown;
        countdown = -1;
        counting = 0;
        if (live != 0)
            fail_msg("%ld blocks leaked when allocation %ld failed", live, k);
        if (rc != OK && rc != ERR_MEMORY)
            fail_msg("allocation %ld failed, reported as %d: %s: %s", k, rc, err.where, err.message);
    } while (left == 0); /* some failures do no harm, such as that of a stream's buffer */
    assert_int_equal(rc, OK);
    printf("%ld allocations failed one by one\n", k - 1);
    assert_true(k > 20);
}

#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
