/* Recording, reading, checking and merging run files with the k-th allocation failing, for many k: ERR_MEMORY, no block and no
 * HDF5 object left behind, no half result. Only allocations that come from this program fail: what HDF5 and jansson do when
 * theirs fail is theirs. */
#include <errno.h>
#include <hdf5.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "analyze/statistics.h"
#include "analyze/strategy.h"
#include "base/file.h"
#include "tests/fake_run.h"

/* While armed, our allocations are counted, number fail_at fails, and the blocks that are alive are remembered: a free may
 * come from anywhere, since libraries end in tail calls. */
static struct {
    bool armed;
    long n, fail_at, live;
    const void *blocks[1 << 16]; /* the first `live` ones */
} heap;

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
enum { OWNS_HEAP = 1 };
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *block, size_t size);
extern void __libc_free(void *block);
extern const char __executable_start[], etext[];

static bool is_ours(const void *caller) {
    return heap.armed && (const char *)caller >= __executable_start && (const char *)caller < etext;
}

static bool fails(const void *caller) {
    if (!is_ours(caller) || ++heap.n != heap.fail_at)
        return false;
    errno = ENOMEM;
    return true;
}

static void *born(const void *caller, void *block) {
    if (is_ours(caller) && heap.live < 1 << 16)
        heap.blocks[heap.live++] = block;
    return block;
}

static void *died(void *block) {
    for (long i = heap.armed ? heap.live : 0; i-- > 0;)
        if (heap.blocks[i] == block) {
            heap.blocks[i] = heap.blocks[--heap.live];
            break;
        }
    return block;
}

void *malloc(size_t size) {
    const void *caller = __builtin_return_address(0);
    return fails(caller) ? NULL : born(caller, __libc_malloc(size));
}

void *calloc(size_t count, size_t size) {
    const void *caller = __builtin_return_address(0);
    return fails(caller) ? NULL : born(caller, __libc_calloc(count, size));
}

void *realloc(void *block, size_t size) {
    const void *caller = __builtin_return_address(0);
    return fails(caller) ? NULL : born(caller, __libc_realloc(died(block), size));
}

void free(void *block) {
    __libc_free(died(block));
}
#else
enum { OWNS_HEAP = 0 };
#endif

static char dir[64];

static const char *in_dir(const char *name) {
    static char paths[8][128];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, 128, "%s/%s", dir, name);
    return path;
}

static struct fake_run run = {.n_sequences = 4, .score = PROFILE_SCORE_SIGMOID, .gates = true, .force = true,
                              .segment_sequences = 1,
                              .record = PROFILE_RECORD_CLASSES | PROFILE_RECORD_TOKENS | PROFILE_RECORD_OPEN |
                                        PROFILE_RECORD_UTILITY | PROFILE_RECORD_ATTENTION};

static int do_record(struct err *err) {
    return fake_record(in_dir("recorded.h5"), &run, err);
}

static int do_resume(struct err *err) {
    struct fake_run again = run;
    again.force = false;
    again.resume = true;
    return fake_record(in_dir("recorded.h5"), &again, err);
}

static int do_read(struct err *err) {
    struct profile *p;
    struct statistics s = {0};
    struct head_measure m = {0};
    struct bin_density d = {0};
    int rc = profile_open(in_dir("made.h5"), &p, err);
    if (rc != OK)
        return rc;
    rc = statistics_compute(p, -1, &s, err);
    if (rc == OK)
        rc = head_measure_compute(&s, profile_meta(p), &m, err);
    if (rc == OK)
        rc = statistics_classes(p, -1, &d, err);
    bin_density_free(&d);
    head_measure_free(&m);
    statistics_free(&s);
    profile_close(p);
    return rc;
}

static int do_merge(struct err *err) {
    const char *path = in_dir("made.h5");
    return profile_merge(&path, 1, in_dir("merged.h5"), true, err);
}

static void ignore(void *self, const char *text) {
    (void)self, (void)text;
}

static int do_check(struct err *err) {
    size_t n;
    return profile_check(in_dir("made.h5"), ignore, NULL, &n, err);
}

/* Runs `work` with allocation 1, 2, ... failing until one run gets through; at most about 150 runs, evenly spread. */
static void fail_each(int (*work)(struct err *err)) {
    struct err err = {0};
    if (!OWNS_HEAP) {
        print_message("[  SKIPPED ] a sanitizer owns the heap\n");
        skip();
    }
    heap.fail_at = heap.n = heap.live = 0;
    heap.armed = true;
    int rc = work(&err);
    heap.armed = false;
    assert_int_equal(rc, OK);
    assert_int_equal(heap.live, 0);
    long total = heap.n, step = 1 + total / 150;
    for (long k = 1; k <= total; k += step) {
        err = (struct err){0};
        heap.n = heap.live = 0;
        heap.fail_at = k;
        heap.armed = true;
        rc = work(&err);
        heap.armed = false;
        if (rc != ERR_MEMORY || err.code != ERR_MEMORY || heap.live != 0 || H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) != 0)
            fail_msg("allocation %ld of %ld: code %d (%s), %ld blocks and %ld HDF5 objects left", k, total, rc, err.message,
                     heap.live, (long)H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL));
    }
    print_message("%ld allocations, every %ld. failed\n", total, step);
}

static void test_record(void **state) {
    (void)state;
    fail_each(do_record);
    /* What the failures left behind is a run that can go on. */
    assert_int_equal(do_resume(NULL), OK);
}

static void test_read(void **state) {
    (void)state;
    fail_each(do_read);
}

static void test_merge(void **state) {
    (void)state;
    fail_each(do_merge);
}

static void test_check(void **state) {
    (void)state;
    fail_each(do_check);
}

static int setup(void **state) {
    (void)state;
    struct err err = {0};
    strcpy(dir, access("/dev/shm", W_OK) == 0 ? "/dev/shm/spkv-test-memory-XXXXXX" : "/tmp/spkv-test-memory-XXXXXX");
    return mkdtemp(dir) && fake_record(in_dir("made.h5"), &run, &err) == OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    return file_remove_tree(dir, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_record),
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_merge),
        cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
