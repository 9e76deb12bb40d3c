/* Opening a checkpoint with the k-th allocation failing, for every k: ERR_MEMORY, nothing leaked, nothing half open. */
#include "engine/checkpoint.h"
#include "engine/predictor.h"
#include "tests/failing_heap.h"

/* The whole life of a checkpoint with a predictor. */
static int use_checkpoint(void *unused, struct err *err) {
    struct checkpoint *c;
    struct predictor_layer layer;
    (void)unused;
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
    (void)state;
    heap_begin();
    heap_spare_jansson();
    assert_true(heap_fail_each(use_checkpoint, NULL, 1) > 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
