/* The emulation of CUDA shows what it is for: kernels with one fault each give a wrong number or a report under some order
 * of threads, their repaired twins never do (tests/cuda_on_cpu/faulty.cu). */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/cuda_on_cpu/cuda_on_cpu.h"

enum { N = 192, N_SEEDS = 8 };

typedef int try_function(bool fine, int n, const float *x, float *out);
typedef float expect_function(const float *x, int i);

static void numbers(float *x) {
    for (int i = 0; i < N; i++)
        x[i] = (float)(i * 7 % 31 + 1);
}

/* Under how many seeds the kernel gives something else than expected. */
static int n_wrong(try_function *run, bool fine, expect_function *expect, int n_out) {
    float x[N], out[N];
    int wrong = 0;
    numbers(x);
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        bool equal = true;
        cuda_on_cpu_seed(seed);
        assert_int_equal(run(fine, N, x, out), 0);
        for (int i = 0; i < n_out; i++)
            equal = equal && out[i] == expect(x, i); /* false for NaN */
        wrong += !equal;
    }
    return wrong;
}

static void check_pair(try_function *run, expect_function *expect, int n_out) {
    assert_int_equal(n_wrong(run, true, expect, n_out), 0);
    assert_in_range(n_wrong(run, false, expect, n_out), 1, N_SEEDS);
}

static float expect_reversed(const float *x, int i) {
    return x[i / 96 * 96 + 95 - i % 96];
}

static float expect_running_sum(const float *x, int i) {
    float sum = 0;
    for (int j = 0; j <= i; j++)
        sum += x[j];
    return sum;
}

static float expect_warp_sum(const float *x, int i) {
    float sum = 0;
    for (int j = 0; j < 32; j++)
        sum += x[i / 32 * 32 + j];
    return sum;
}

static float expect_sum(const float *x, int i) {
    (void)i;
    return expect_running_sum(x, N - 1);
}

static float expect_same(const float *x, int i) {
    return x[i];
}

static void test_missing_barrier(void **state) {
    (void)state;
    check_pair(cuda_on_cpu_try_reverse, expect_reversed, N);
    check_pair(cuda_on_cpu_try_scan, expect_running_sum, N);
    check_pair(cuda_on_cpu_try_warp_sum, expect_warp_sum, N);
}

static void test_race_between_blocks(void **state) {
    (void)state;
    check_pair(cuda_on_cpu_try_sum, expect_sum, 1);
}

static void test_uninitialised_memory(void **state) {
    float x[N], out[N];
    (void)state;
    assert_int_equal(n_wrong(cuda_on_cpu_try_uninitialised, true, expect_same, N), 0);
    numbers(x);
    assert_int_equal(cuda_on_cpu_try_uninitialised(false, N, x, out), 0);
    for (int i = 0; i < N; i++)
        assert_true(isnan(out[i]));
}

static void test_divergent_barriers(void **state) {
    static const char *const reports[] = {"divergent barrier", "divergent barrier", "divergent warp", "divergent barrier"};
    float x[N], out[N];
    (void)state;
    numbers(x);
    for (int kind = 0; kind < 4; kind++)
        for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
            cuda_on_cpu_seed(seed);
            assert_int_not_equal(cuda_on_cpu_try_divergent(kind, 64, x, out), 0);
            if (!strstr(cuda_on_cpu_report(), reports[kind]) || !strstr(cuda_on_cpu_report(), "faulty.cu:"))
                fail_msg("kind %d: \"%s\"", kind, cuda_on_cpu_report());
        }
    assert_int_equal(cuda_on_cpu_try_divergent(-1, 64, x, out), 0);
}

/* A kernel that writes beyond its buffer dies: at the guard page, or by AddressSanitizer, which sees a single element. */
static void test_beyond_the_end(void **state) {
    float x[N], out[N];
    (void)state;
    numbers(x);
    for (int beyond = 0; beyond < 2; beyond++) {
        pid_t child = fork();
        int status;
        assert_true(child >= 0);
        if (child == 0) {
            struct rlimit none = {0};
            setrlimit(RLIMIT_CORE, &none);
            signal(SIGSEGV, SIG_DFL); /* cmocka has a handler of its own */
            fclose(stderr);
#if defined(__SANITIZE_ADDRESS__)
            enum { FAR = 1 };
#else
            enum { FAR = 4096 };
#endif
            _exit(cuda_on_cpu_try_beyond(beyond * FAR, 64, x, out));
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(WIFEXITED(status) && WEXITSTATUS(status) == 0, !beyond);
    }
}

/* The host cannot look at device memory, as on a real GPU. AddressSanitizer's builds take it from the heap instead. */
static void test_device_memory_is_out_of_reach(void **state) {
    (void)state;
#if defined(__SANITIZE_ADDRESS__)
    skip();
#else
    const struct ops *ops = ops_cuda_emulated();
    struct device *dev;
    struct err err = {0};
    assert_int_equal(ops->open(&(struct device_options){.dtype = DTYPE_F32}, &dev, &err), OK);
    volatile char *memory = ops->mem_alloc(dev, 64);
    assert_non_null(memory);
    pid_t child = fork();
    int status;
    if (child == 0) {
        struct rlimit none = {0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGSEGV, SIG_DFL);
        _exit(memory[0] & 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    ops->mem_free(dev, (void *)(uintptr_t)memory);
    ops->close(dev);
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_missing_barrier),     cmocka_unit_test(test_race_between_blocks),
        cmocka_unit_test(test_uninitialised_memory), cmocka_unit_test(test_divergent_barriers),
        cmocka_unit_test(test_beyond_the_end),      cmocka_unit_test(test_device_memory_is_out_of_reach),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
