/* The guard backend: device memory is out of reach between ops, and ops do what the reference does. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/kv_world.h"
#include "tests/op_util.h"

/* The signal that ends a process which reads (writes) one byte at `address`; 0 when it lives. */
static int touch_signal(volatile char *address, bool write) {
    pid_t child = fork();
    int status;
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit none = {0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGSEGV, SIG_DFL); /* cmocka and sanitizers have handlers of their own */
        signal(SIGBUS, SIG_DFL);
        if (write)
            *address = 1;
        else
            (void)*address;
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void assert_out_of_reach(const void *ptr_dev) {
    volatile char *address = (volatile char *)(uintptr_t)ptr_dev;
    assert_int_equal(touch_signal(address, false), SIGSEGV);
    assert_int_equal(touch_signal(address, true), SIGSEGV);
}

static void test_touching_dies(void **state) {
    (void)state;
    struct backend b = backend_open(ops_guard(), DTYPE_F32);
    double ones[100], got[100];
    char local = 0;
    for (int i = 0; i < 100; i++)
        ones[i] = 1;
    struct buf x = buf_make(&b, b.real, 100, ones), y = buf_make(&b, b.real, 100, ones);
    assert_int_equal(touch_signal(&local, true), 0); /* the test itself can tell */
    assert_out_of_reach(x.ptr);
    b.ops->add(b.dev, x.ptr, y.ptr, 100);
    assert_out_of_reach(x.ptr);
    assert_out_of_reach((char *)y.ptr + 399);
    buf_read(&x, got);
    for (int i = 0; i < 100; i++)
        assert_true(got[i] == 2);
    assert_out_of_reach(x.ptr);
    char *pool = b.ops->mem_reserve(b.dev, 1 << 20);
    assert_true(b.ops->mem_commit(b.dev, pool, 5000));
    assert_out_of_reach(pool);
    char zero[16] = {0}, fresh[16];
    b.ops->download(b.dev, fresh, pool + 4900, sizeof fresh);
    backend_sync(&b);
    assert_memory_equal(fresh, zero, sizeof fresh);
    b.ops->mem_release(b.dev, pool, 1 << 20);
    buf_free(&x), buf_free(&y);
    backend_close(&b);
}

/* A weight keeps its numbers when the caller's memory goes. */
static void test_weight_is_a_copy(void **state) {
    (void)state;
    struct backend b = backend_open(ops_guard(), DTYPE_F32);
    float table[4] = {1, 2, 3, 4};
    int32_t id = 1;
    double row[2];
    struct weight *w;
    bool borrowed = true;
    struct err err = {0};
    struct host_matrix matrix = {table, DTYPE_F32, 2, 2};
    assert_int_equal(b.ops->weight_prepare(b.dev, &matrix, WEIGHT_COMPUTE, &w, &borrowed, &err), OK);
    assert_false(borrowed);
    memset(table, 0, sizeof table);
    struct buf ids = buf_bytes(&b, sizeof id, &id), out = buf_make(&b, b.real, 2, NULL);
    b.ops->embed(b.dev, w, ids.ptr, 1, 1, out.ptr);
    buf_read(&out, row);
    assert_true(row[0] == 3 && row[1] == 4);
    buf_free(&ids), buf_free(&out);
    b.ops->weight_free(b.dev, w);
    backend_close(&b);
}

/* The cache works through ops alone: its host side touches nothing either. */
static void test_cache(void **state) {
    (void)state;
    struct rnd r = {.seed = 77};
    struct kv_geometry g = kv_geometry_random(&r, 120);
    struct kv_world w;
    int slot = 0, n = 30;
    kv_world_open(&w, ops_guard(), DTYPE_F32, DTYPE_F32, &g);
    for (int i = 0; i < 4; i++) {
        kv_world_step(&w, 1, &slot, &n);
        kv_world_check(&w);
        kv_expect_counts(&w, slot);
    }
    assert_out_of_reach(w.cache->pool);
    assert_out_of_reach(w.cache->n_fed);
    kv_world_reset(&w, slot);
    kv_world_check(&w);
    kv_expect_counts(&w, slot);
    kv_world_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_touching_dies),
        cmocka_unit_test(test_weight_is_a_copy),
        cmocka_unit_test(test_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
