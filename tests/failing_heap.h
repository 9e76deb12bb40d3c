/* failing_heap.h - the C library's allocator replaced by one that counts and fails at the k-th allocation. Only in a header,
 * so that no program but those that include it, in one file each, has another malloc. A sanitizer has an allocator of its
 * own: such builds skip. One thread. */
#ifndef SPKV_TESTS_FAILING_HEAP_H
#define SPKV_TESTS_FAILING_HEAP_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/err.h"

/* While armed, allocations are counted, number fail_at fails, and live blocks are counted. ours_only: those of this program,
 * not of the libraries it calls, whose own manners are theirs; then the blocks are remembered, since a library may free them
 * for us, and a failure must be reported. */
static struct {
    bool armed, ours_only;
    long n, fail_at, live;
    const void *blocks[1 << 16]; /* ours_only: the first `live` ones */
} heap;

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && defined(__GLIBC__)

enum { OWNS_HEAP = 1, HEAP_MOST = sizeof heap.blocks / sizeof *heap.blocks };
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *block, size_t size);
extern void __libc_free(void *block);
extern const char __executable_start[], etext[];

static bool heap_counts(const void *caller) {
    return heap.armed &&
           (!heap.ours_only || ((const char *)caller >= __executable_start && (const char *)caller < etext));
}

static bool heap_fails(const void *caller) {
    if (!heap_counts(caller) || ++heap.n != heap.fail_at)
        return false;
    errno = ENOMEM;
    return true;
}

static void *heap_born(const void *caller, void *block) {
    if (heap_counts(caller)) {
        if (heap.ours_only && heap.live < HEAP_MOST)
            heap.blocks[heap.live] = block;
        heap.live++;
    }
    return block;
}

static void *heap_died(void *block) {
    if (heap.armed && !heap.ours_only)
        heap.live -= block != NULL;
    for (long i = heap.armed && heap.ours_only && heap.live <= HEAP_MOST ? heap.live : 0; i-- > 0;)
        if (heap.blocks[i] == block) {
            heap.blocks[i] = heap.blocks[--heap.live];
            break;
        }
    return block;
}

void *malloc(size_t size) {
    const void *caller = __builtin_return_address(0);
    return heap_fails(caller) ? NULL : heap_born(caller, __libc_malloc(size));
}

void *calloc(size_t count, size_t size) {
    const void *caller = __builtin_return_address(0);
    return heap_fails(caller) ? NULL : heap_born(caller, __libc_calloc(count, size));
}

void *realloc(void *block, size_t size) {
    const void *caller = __builtin_return_address(0);
    return heap_fails(caller) ? NULL : heap_born(caller, __libc_realloc(heap_died(block), size));
}

void free(void *block) {
    __libc_free(heap_died(block));
}

/* Its block is among the live ones, but it never fails. */
static inline void *heap_steady_malloc(size_t size) {
    heap.live += heap.armed;
    return __libc_malloc(size);
}

#else

enum { OWNS_HEAP = 0 };

static inline void *heap_steady_malloc(size_t size) {
    return malloc(size);
}

#endif

/* First in a test. */
static void heap_begin(void) {
    if (!OWNS_HEAP) {
        print_message("SKIP: this build has its own allocator\n");
        skip();
    }
}

/* jansson's lexer (2.14) asserts when it cannot allocate: what reads long texts with it lets it have its memory. */
static inline void heap_spare_jansson(void) {
    json_set_alloc_funcs(heap_steady_malloc, free);
}

/* Runs `work` with allocation k failing (0: none); a result other than success is ERR_MEMORY with a message, nothing leaks. */
static int heap_fail_at(long k, int (*work)(void *self, struct err *err), void *self) {
    struct err err = {0};
    heap.n = heap.live = 0;
    heap.fail_at = k;
    heap.armed = true;
    int rc = work(self, &err);
    heap.armed = false;
    if (heap.live != 0)
        fail_msg("%ld blocks leaked when allocation %ld failed", heap.live, k);
    if (rc != OK && (rc != ERR_MEMORY || err.code != rc || !err.message[0]))
        fail_msg("allocation %ld failed, reported as %d: %s: %s", k, rc, err.where, err.message);
    if (heap.ours_only && rc == OK && k > 0 && heap.n >= k)
        fail_msg("allocation %ld failed, and nobody says so", k);
    return rc;
}

/* Allocation 1, 1 + step, ... fails until one is never reached (step 0: such that about 150 fail); some failures do no harm,
 * such as that of a stream's buffer. How many failed. */
static inline long heap_fail_each(int (*work)(void *self, struct err *err), void *self, long step) {
    struct err err = {0};
    int rc = work(self, &err); /* what the libraries keep for good is taken now */
    if (rc != OK)
        fail_msg("%s: %s", err.where, err.message);
    if (step == 0) {
        heap_fail_at(0, work, self);
        step = 1 + heap.n / 150;
    }
    long k = 1 - step, n = -1;
    do {
        k += step;
        n++;
        rc = heap_fail_at(k, work, self);
    } while (heap.n >= k);
    assert_int_equal(rc, OK);
    print_message("%ld allocations failed one by one\n", n);
    return n;
}

#endif
