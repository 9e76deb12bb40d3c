/* Memory that runs out at the k-th allocation, for every k, while patterns of other tools come in and go out: an error or the
 * right result each time, and nothing leaks. */
#include <stdio.h>
#include <string.h>

#include "analyze/head_pattern.h"
#include "analyze/interchange.h"
#include "analyze/layer_types.h"
#include "tests/failing_heap.h"
#include "tests/scratch.h"

/* A matrix comes in, becomes a layout with a tie, and goes out in every form. */
static int pass_through(void *self, struct err *err) {
    const struct scratch *s = self;
    struct head_pattern p = {0};
    struct layout *layout = NULL;
    double *gates = NULL, *kept = NULL;
    int rc = head_pattern_read(scratch_path(s, "in/gates.tsv"), HEAD_PATTERN_N_FORMATS, 0, &p, err);
    if (rc == OK)
        rc = head_pattern_layout(&p, 2, p.window, p.sinks, NULL, &layout, err);
    if (rc == OK)
        rc = interchange_gates(layout, &gates, err);
    if (rc == OK)
        rc = interchange_retained(layout, 64, &kept, err);
    if (rc == OK)
        rc = interchange_write_duo_attention(gates, 2, 2, 4, 16, scratch_path(s, "out"), true, err);
    if (rc == OK)
        rc = interchange_write_wg_kv(kept, 2, 2, true, scratch_path(s, "out.csv"), err);
    if (rc == OK)
        rc = interchange_write_kvpress(kept, 2, 2, scratch_path(s, "out.json"), err);
    free(kept);
    free(gates);
    layout_free(layout);
    head_pattern_free(&p);
    return rc;
}

static void forget(void *self, const char *text) {
    (void)self;
    (void)text;
}

/* A configuration comes in, is rounded to layers, and goes out as another model type. */
static int patch(void *self, struct err *err) {
    static const char text[] = "{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"num_attention_heads\": 2, "
                               "\"attention_bias\": true, \"layer_types\": [\"full_attention\", \"sliding_attention\"]}";
    struct head_pattern p = {0};
    struct layout *layout = NULL, *layers = NULL;
    struct layer_rounding rounding;
    json_t *config = NULL;
    (void)self;
    int rc = head_pattern_parse(text, sizeof text - 1, "config.json", HEAD_PATTERN_LAYER_TYPES, 0, &p, err);
    if (rc == OK)
        rc = head_pattern_layout(&p, 2, 16, 0, NULL, &layout, err);
    if (rc == OK)
        rc = layer_types_round(layout, p.value, &layers, &rounding, err);
    if (rc == OK && !(config = json_loads(text, 0, NULL)))
        rc = err_memory(err, "JSON", sizeof text);
    if (rc == OK)
        rc = layer_types_patch(layers, config, "config.json", forget, NULL, err);
    json_decref(config);
    layout_free(layers);
    layout_free(layout);
    head_pattern_free(&p);
    return rc;
}

static void test_pass_through(void **state) {
    heap_begin();
    scratch_write_text(*state, "in/gates.tsv", "1\t0.25\n1\t1.5\n");
    scratch_write_text(*state, "in/config.json", "{\"sink_size\": 4, \"recent_size\": 16}");
    assert_true(heap_fail_each(pass_through, *state, 1) >= 30);
}

static void test_patch(void **state) {
    heap_begin();
    assert_true(heap_fail_each(patch, *state, 1) >= 5);
}

static int open_scratch(void **state) {
    static struct scratch scratch;
    scratch_open(&scratch);
    *state = &scratch;
    return 0;
}

static int close_scratch(void **state) {
    scratch_close(*state);
    return 0;
}

int main(void) {
    heap_spare_jansson();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pass_through), cmocka_unit_test(test_patch)};
    return cmocka_run_group_tests(tests, open_scratch, close_scratch);
}
