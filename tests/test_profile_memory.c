/* Recording, reading, checking and merging run files with the k-th allocation failing, for many k: ERR_MEMORY, no block and no
 * HDF5 object left behind, no half result. Only allocations that come from this program fail: what HDF5 and jansson do when
 * theirs fail is theirs. */
#include <hdf5.h>
#include <string.h>

#include "analyze/statistics.h"
#include "tests/failing_heap.h"
#include "tests/fake_run.h"
#include "tests/scratch.h"

static struct scratch scratch;

static struct fake_run run = {.n_sequences = 4, .score = PROFILE_SCORE_SIGMOID, .gates = true, .force = true,
                              .segment_sequences = 1,
                              .record = PROFILE_RECORD_CLASSES | PROFILE_RECORD_TOKENS | PROFILE_RECORD_OPEN |
                                        PROFILE_RECORD_UTILITY | PROFILE_RECORD_ATTENTION};

static int do_record(struct err *err) {
    return fake_record(scratch_path(&scratch, "recorded.h5"), &run, err);
}

static int do_resume(struct err *err) {
    struct fake_run again = run;
    again.force = false;
    again.resume = true;
    return fake_record(scratch_path(&scratch, "recorded.h5"), &again, err);
}

static int do_read(struct err *err) {
    struct profile *p;
    struct statistics s = {0};
    struct head_measure m = {0};
    struct bin_density d = {0};
    int rc = profile_open(scratch_path(&scratch, "made.h5"), &p, err);
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
    const char *path = scratch_path(&scratch, "made.h5");
    return profile_merge(&path, 1, scratch_path(&scratch, "merged.h5"), true, err);
}

static void ignore(void *self, const char *text) {
    (void)self, (void)text;
}

static int do_check(struct err *err) {
    size_t n;
    return profile_check(scratch_path(&scratch, "made.h5"), ignore, NULL, &n, err);
}

/* Nothing of HDF5 stays open. */
static int close_all(void *self, struct err *err) {
    int rc = (*(int (**)(struct err *))self)(err);
    if (H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) != 0)
        fail_msg("%ld HDF5 objects left", (long)H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL));
    return rc;
}

static void fail_each(int (*work)(struct err *err)) {
    heap_begin();
    heap.ours_only = true;
    assert_true(heap_fail_each(close_all, &work, 0) >= 50);
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
    scratch_open(&scratch);
    return fake_record(scratch_path(&scratch, "made.h5"), &run, &err) == OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    scratch_close(&scratch);
    return 0;
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
