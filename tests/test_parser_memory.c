/* Memory that runs out at the k-th allocation, for every k, while small files of users and of other commands are read: layouts,
 * patterns and matrices of other tools, bench rows, results of verify. An error or the right result each time, no leak. */
#include <stdio.h>
#include <string.h>

#include "analyze/cost_model.h"
#include "analyze/head_pattern.h"
#include "analyze/layout.h"
#include "analyze/number_grid.h"
#include "base/str.h"
#include "reports/candidates.h"
#include "tests/failing_heap.h"
#include "tests/scratch.h"

static const char layout_text[] =
    "{\"format\": \"spkv-layout\", \"version\": 1, \"model\": {\"n_layers\": 2, \"n_kv_heads\": 2, \"base_model_hash\": \"\"},"
    "\"window\": 16, \"sinks\": 4, \"windows\": [[16, 8], [4, 32]], \"heads\": [[\"global\", \"local\"], [\"local\", \"local\"]],"
    "\"made_by\": {\"strategy\": \"densest-heads\"}, \"predicted\": {\"coverage\": 0.5, \"kv_fraction\": {\"32768\": 0.3}},"
    "\"measured\": {\"zero_shot\": {\"nll_nat_per_token\": 2.5, \"nll_change\": 0.01, \"nll_change_interval\": [0.0, 0.02],"
    "\"gap_recovered\": 0.9, \"gap_recovered_interval\": [0.8, 1.0], \"read_fraction\": 0.4, \"kv_bytes_used\": 3,"
    "\"kv_bytes_full\": 9, \"n_documents\": 20}, \"healed\": {}}}";

/* Parsed, written and read again. */
static int layout_round(void *self, struct err *err) {
    const char *path = scratch_path(self, "again.json");
    struct layout *layout = NULL, *again = NULL;
    int rc = layout_parse(layout_text, strlen(layout_text), "layout.json", &layout, err);
    if (rc == OK)
        rc = layout_write(layout, path, err);
    if (rc == OK)
        rc = layout_read(path, &again, err);
    if (rc == OK && (layout_n_global(again) != 1 || again->windows[3] != 32))
        rc = err_set(err, ERR_INPUT, path, "came back as another layout");
    layout_free(layout);
    layout_free(again);
    return rc;
}

/* Every form of a matrix, in memory. */
static int patterns(void *self, struct err *err) {
    static const struct {
        enum head_pattern_format format;
        const char *text;
        uint32_t n_kv_heads;
    } cases[] = {{HEAD_PATTERN_DUO_ATTENTION, "1\t0.25\n1.5\t0\n", 0}, {HEAD_PATTERN_WG_KV, "0.1\t0.2\n0.3\t0.4\n", 0},
                 {HEAD_PATTERN_WG_KV_LOG, "0.1,0.2\n0.3,0.4\n", 0},   {HEAD_PATTERN_KVPRESS, "[0.5, 0.25, 0.125]", 2},
                 {HEAD_PATTERN_N_FORMATS, "0.5\t0.75\n1\t0\n", 0}};
    int rc = OK;
    (void)self;
    for (size_t i = 0; rc == OK && i < sizeof cases / sizeof *cases; i++) {
        struct head_pattern p;
        rc = head_pattern_parse(cases[i].text, strlen(cases[i].text), "pattern", cases[i].format, cases[i].n_kv_heads, &p, err);
        head_pattern_free(&p);
    }
    return rc;
}

/* Large enough that its memory grows several times. */
static int grid(void *self, struct err *err) {
    struct number_grid g;
    struct str text = {0};
    (void)self;
    for (int i = 0; i < 40 * 30; i++)
        str_printf(&text, "%d%c", i, i % 30 == 29 ? '\n' : ',');
    int rc = text.failed ? err_memory(err, "a text", text.len)
                         : number_grid_parse(str_text(&text), text.len, ',', 100, 100, "grid", &g, err);
    if (rc == OK) {
        if (g.n_rows != 40 || g.values[40 * 30 - 1] != 40 * 30 - 1)
            rc = err_set(err, ERR_INPUT, "grid", "is another matrix");
        free(g.values);
    }
    str_free(&text);
    return rc;
}

static int bench_rows(void *self, struct err *err) {
    struct cost_model model;
    int rc = cost_model_read(scratch_path(self, "bench.csv"), 1, &model, err);
    return rc == OK && model.n_rows != 20 ? err_set(err, ERR_INPUT, "bench.csv", "%zu rows", model.n_rows) : rc;
}

/* The table that verify wrote, and the figures that it left in a layout. */
static int verify_results(void *self, struct err *err) {
    struct candidates all = {0};
    int rc = candidates_add_table(&all, scratch_path(self, "verify.csv"), err);
    if (rc == OK)
        rc = candidates_add_layout(&all, scratch_path(self, "layout.json"), err);
    if (rc == OK && all.n < 4)
        rc = err_set(err, ERR_INPUT, "verify.csv", "%zu candidates", all.n);
    candidates_free(&all);
    return rc;
}

static void test_layout(void **state) {
    heap_begin();
    assert_true(heap_fail_each(layout_round, *state, 1) >= 10);
}

static void test_patterns(void **state) {
    heap_begin();
    assert_true(heap_fail_each(patterns, *state, 1) >= 5);
}

static void test_grid(void **state) {
    heap_begin();
    assert_true(heap_fail_each(grid, *state, 1) >= 5);
}

static void test_bench_rows(void **state) {
    heap_begin();
    assert_true(heap_fail_each(bench_rows, *state, 1) >= 5);
}

static void test_verify_results(void **state) {
    heap_begin();
    assert_true(heap_fail_each(verify_results, *state, 1) >= 20);
}

static int open_scratch(void **state) {
    static struct scratch scratch;
    struct str bench = {0};
    scratch_open(&scratch);
    str_puts(&bench, "what,batch,median_tok_per_s,kv_bytes\n");
    for (int i = 1; i <= 20; i++)
        str_printf(&bench, "decode,1,%g,%d\n", 100.0 / i, 1000 * i);
    scratch_write_text(&scratch, "bench.csv", str_text(&bench));
    str_free(&bench);
    scratch_write_text(&scratch, "layout.json", layout_text);
    scratch_write_text(&scratch, "verify.csv",
                       "column,name,strategy,nll_change,nll_change_low,nll_change_high,gap_recovered,gap_recovered_low,"
                       "gap_recovered_high,read_fraction,kv_bytes_used,kv_bytes_full,n_documents,command\n"
                       "zero_shot,full,,0,,,1,,,1,9,9,20,\"spkv verify \"\"a, b\"\"\"\n"
                       "zero_shot,densest,densest-heads,0.01,0,0.02,0.9,0.8,1,0.4,3,9,20,spkv verify\n");
    *state = &scratch;
    return 0;
}

static int close_scratch(void **state) {
    scratch_close(*state);
    return 0;
}

int main(void) {
    heap_spare_jansson();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),     cmocka_unit_test(test_patterns),       cmocka_unit_test(test_grid),
        cmocka_unit_test(test_bench_rows), cmocka_unit_test(test_verify_results),
    };
    return cmocka_run_group_tests_name("parser_memory", tests, open_scratch, close_scratch);
}
