/* Candidates: numbers of layouts, tables and runs as they were written; what strangers may write is refused by file and
 * place. And their figures: groups, the front that nothing beats, the data. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "reports/candidate_figures.h"
#include "base/csv.h"
#include "tests/fake_run.h"
#include "tests/scratch.h"

static struct scratch scratch;

static int make_directory(void **state) {
    (void)state;
    scratch_open(&scratch);
    return 0;
}

static int remove_directory(void **state) {
    (void)state;
    scratch_close(&scratch);
    return 0;
}

static void must(int rc, const struct err *err) {
    if (rc != OK)
        fail_msg("%s: %s", err->where, err->message);
}

/* -- tables of texts -- */

static void fields_are_cut_as_rfc_4180_says(void **state) {
    (void)state;
    struct csv t;
    struct err err = {0};
    double x;
    char *path = scratch_write_text(&scratch, "a.csv", "name,x,note\r\n\"a, \"\"b\"\"\",1.5,\"two\nlines\"\r\n,,last");
    must(csv_read(path, &t, &err), &err);
    assert_int_equal(t.n_rows, 2);
    assert_int_equal(t.n_columns, 3);
    assert_string_equal(csv_text(&t, 0, csv_column(&t, "name")), "a, \"b\"");
    assert_string_equal(csv_text(&t, 0, csv_column(&t, "note")), "two\nlines");
    assert_string_equal(csv_text(&t, 1, 2), "last");
    assert_int_equal(csv_real(&t, 0, 1, &x, &err), OK);
    assert_true(x == 1.5);
    assert_int_equal(csv_real(&t, 1, 1, &x, &err), OK);
    assert_true(isnan(x));
    assert_int_equal(csv_column(&t, "y"), CSV_NO_COLUMN);
    assert_string_equal(csv_text(&t, 0, CSV_NO_COLUMN), "");
    csv_free(&t);
}

static void tables_that_are_none_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *where, *what;
    } cases[] = {
        {"", ":1", "no header"},
        {"a,b\n1\n", ":2", "fewer fields"},
        {"a,b\n1,2,3\n", ":2", "more fields"},
        {"a,b\n\"1,2\n", ":2", "quote"},
        {"a,b\n\"1\"x,2\n", ":2", "quote"},
        {"read_fraction,nll_change\n0.5,abc\n", ":2", "expected a number"},
        {"read_fraction,nll_change\n0.5,inf\n", ":2", "expected a number"},
        {"read_fraction,nll_change\nnan,1\n", ":2", "expected a number"},
        {"read_fraction,loss\n0.5,1\n", "", "no column \"nll_change\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct candidates c = {0};
        struct err err = {0};
        assert_int_equal(candidates_add_table(&c, scratch_write_text(&scratch, "b.csv", cases[i].text), &err), ERR_INPUT);
        if (!strstr(err.where, cases[i].where) || !strstr(err.message, cases[i].what))
            fail_msg("%s: %s %s", cases[i].text, err.where, err.message);
        candidates_free(&c);
    }
    struct candidates c = {0};
    struct err err = {0};
    assert_int_equal(candidates_add_table(&c, scratch_write(&scratch, "c.csv", "a,b\n1,\0002\n", 9), &err), ERR_INPUT);
    assert_int_equal(c.n, 0);
}

#define TABLE                                                                                                               \
    "extra,policy,spec,weights,read_fraction,nll_change,nll_change_low,nll_change_high,gap_recovered,kv_bytes_used,"      \
    "kv_bytes_full,n_documents,command\n"                                                                                  \
    "1,full,full,twin,1,0,,,1,100,100,12,\"spkv compare 'm' t\"\n"                                                          \
    "2,window,window:window=9,twin,0.25,8,6,10,0,20,100,12,\"spkv compare 'm' t\"\n"                                       \
    "3,spkv,spkv:threshold=0.7,spkv,0.3,0.02,0.01,0.03,0.9,25,100,12,\"spkv compare 'm' t\"\n"                              \
    "4,spkv,spkv:threshold=0.5,spkv,0.5,0.01,0.005,0.015,0.95,45,100,12,\"spkv compare 'm' t\"\n"                           \
    "5,h2o,h2o:budget=9,twin,0.5,0.05,0.04,0.06,0.8,45,100,12,\"spkv compare 'm' t\"\n"

static void rows_of_a_table_are_candidates(void **state) {
    (void)state;
    struct candidates c = {0};
    struct err err = {0};
    char *path = scratch_write_text(&scratch, "compare.csv", TABLE);
    assert_true(candidates_is_table(path));
    assert_false(candidates_is_table(scratch_write_text(&scratch, "log.csv", "step,n_tok\n1,2\n")));
    must(candidates_add_table(&c, path, &err), &err);
    assert_int_equal(c.n, 5);
    assert_string_equal(c.items[2].group, "spkv (spkv weights)");
    assert_string_equal(c.items[2].name, "spkv:threshold=0.7");
    assert_string_equal(c.items[2].column, "");
    assert_true(c.items[2].nll_change.value == 0.02 && c.items[2].nll_change.low == 0.01 && c.items[2].kv_fraction == 0.25);
    assert_true(isnan(c.items[0].nll_change.low) && c.items[4].gap_recovered.value == 0.8 && isnan(c.items[4].coverage));
    assert_non_null(strstr(c.items[0].origin, "12 documents"));
    assert_non_null(strstr(c.items[0].origin, "spkv compare 'm' t"));
    candidates_free(&c);
}

static void the_front_is_what_nothing_beats(void **state) {
    (void)state;
    struct candidates c = {0};
    struct candidate_figure f;
    struct str csv = {0};
    struct err err = {0};
    must(candidates_add_table(&c, scratch_write_text(&scratch, "compare.csv", TABLE), &err), &err);
    assert_true(candidates_have_figure(&c, CANDIDATE_LOSS) && candidates_have_figure(&c, CANDIDATE_GAP));
    assert_false(candidates_have_figure(&c, CANDIDATE_COVERAGE) || candidates_have_figure(&c, CANDIDATE_LOSS_HEALED));
    must(candidate_figure_create(&c, CANDIDATE_LOSS, &f, &err), &err);
    figure_put_csv(&f.figure, &csv);
    assert_string_equal(str_text(&csv),
                        "group_number,read_fraction,nll_change,nll_change_low,nll_change_high,group,name\n"
                        "0,0.25,8,,,\"not beaten by another\",\"window:window=9\"\n"
                        "0,0.3,0.02,,,\"not beaten by another\",\"spkv:threshold=0.7\"\n"
                        "0,0.5,0.01,,,\"not beaten by another\",\"spkv:threshold=0.5\"\n"
                        "0,1,0,,,\"not beaten by another\",\"full\"\n"
                        "1,1,0,,,\"full (twin weights)\",\"full\"\n"
                        "2,0.25,8,6,10,\"window (twin weights)\",\"window:window=9\"\n"
                        "3,0.3,0.02,0.01,0.03,\"spkv (spkv weights)\",\"spkv:threshold=0.7\"\n"
                        "3,0.5,0.01,0.005,0.015,\"spkv (spkv weights)\",\"spkv:threshold=0.5\"\n"
                        "4,0.5,0.05,0.04,0.06,\"h2o (twin weights)\",\"h2o:budget=9\"\n");
    assert_true(f.figure.y_bend > 0); /* 800 % beside 1 % */
    str_free(&csv);
    candidate_figure_free(&f);
    candidates_free(&c);
}

static void names_stay_names_in_the_script(void **state) {
    (void)state;
    struct candidates c = {0};
    struct candidate_figure f;
    struct str csv = {0}, script = {0};
    struct err err = {0};
    must(candidates_add_table(&c, scratch_write_text(&scratch, "evil.csv",
                                                     "policy,spec,read_fraction,nll_change\n"
                                                     "\"x'; system('id') #`id`\",\"a\"\"b\nc,d\",0.5,0.1\n"),
                              &err), &err);
    must(candidate_figure_create(&c, CANDIDATE_LOSS, &f, &err), &err);
    figure_put_csv(&f.figure, &csv);
    figure_put_script(&f.figure, &script);
    assert_non_null(strstr(csv.data, "\"a'b c,d\"\n"));
    assert_null(strstr(script.data, "system('"));
    assert_null(strchr(script.data, '`'));
    str_free(&csv);
    str_free(&script);
    candidate_figure_free(&f);
    candidates_free(&c);
}

/* -- layouts -- */

#define HEADS "[[\"global\", \"local\"], [\"local\", \"local\"]]"

static char *write_layout(const char *tail) {
    char text[2000];
    snprintf(text, sizeof text,
             "{\"format\": \"spkv-layout\", \"version\": 1, \"model\": {\"n_layers\": 2, \"n_kv_heads\": 2}, "
             "\"window\": 1024, \"sinks\": 0, \"heads\": " HEADS "%s}", tail);
    return scratch_write_text(&scratch, "densest-1.json", text);
}

static void a_layout_is_its_prediction_and_its_measurements(void **state) {
    (void)state;
    struct candidates c = {0};
    struct err err = {0};
    char *path = write_layout(", \"made_by\": {\"strategy\": \"densest-heads\"}, \"predicted\": {\"coverage\": 0.75}, "
                              "\"measured\": {\"zero_shot\": {\"nll_change\": 0.25, \"nll_change_interval\": [0.125, null], "
                              "\"kv_bytes_used\": 30, \"kv_bytes_full\": 40, \"n_documents\": 3, "
                              "\"corpora\": [\"d/e.txt\"]}, "
                              "\"healed\": {}}");
    assert_true(candidates_is_layout(path));
    must(candidates_add_layout(&c, path, &err), &err);
    assert_int_equal(c.n, 2);
    assert_string_equal(c.items[0].group, "densest-heads");
    assert_string_equal(c.items[0].name, "densest-1");
    assert_true(c.items[0].coverage == 0.75 && c.items[0].n_global == 1 && c.items[0].is_layout);
    /* One head of four holds all 32768 tokens, three hold 1024. */
    assert_true(fabs(c.items[0].predicted_kv_fraction - (1 + 3 * 1024.0 / 32768) / 4) < 1e-12);
    assert_string_equal(c.items[1].column, "zero_shot");
    assert_true(c.items[1].nll_change.value == 0.25 && c.items[1].nll_change.low == 0.125);
    assert_true(isnan(c.items[1].nll_change.high) && c.items[1].kv_fraction == 0.75);
    assert_non_null(strstr(c.items[1].origin, "measured on e.txt, 3 documents"));
    assert_true(candidates_have_figure(&c, CANDIDATE_COVERAGE) && candidates_have_figure(&c, CANDIDATE_LAYOUT_ZERO_SHOT));
    candidates_free(&c);
}

static void layouts_of_strangers_are_refused(void **state) {
    (void)state;
    static const char *const tails[] = {
        ", \"measured\": {\"zero_shot\": 5}",
        ", \"measured\": [1]",
        ", \"measured\": {\"zero_shot\": {\"nll_change\": \"much\"}}",
        ", \"measured\": {\"zero_shot\": {\"nll_change\": 1e300}}",
        ", \"measured\": {\"zero_shot\": {\"nll_change_interval\": [1]}}",
        ", \"measured\": {\"zero_shot\": {\"nll_change_interval\": [1, \"x\"]}}",
        ", \"measured\": {\"zero_shot\": {\"nll_change_interval\": 3}}",
        ", \"measured\": {\"healed\": {\"kv_bytes_used\": -1}}",
        ", \"windows\": [[1]]",
        ", \"heads\": []",
        ", \"window\":",
    };
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        struct candidates c = {0};
        struct err err = {0};
        if (candidates_add_layout(&c, write_layout(tails[i]), &err) != ERR_INPUT || !strstr(err.where, "densest-1.json"))
            fail_msg("%s: %s: %s", tails[i], err.where, err.message);
        candidates_free(&c);
    }
}

/* -- runs -- */

static void record(const char *name, uint64_t seed) {
    struct fake_run run = {.n_sequences = 12, .score = PROFILE_SCORE_SIGMOID, .gates = true, .seed = seed,
                           .record = PROFILE_RECORD_TOKENS};
    struct err err = {0};
    must(fake_record(scratch_path(&scratch, name), &run, &err), &err);
}

/* The invented losses do not depend on the policy: every change is 0, and there is no gap to recover. */
static void runs_of_a_directory_are_compared(void **state) {
    (void)state;
    struct candidates c = {0};
    struct err err = {0};
    char *dir = scratch_path(&scratch, "measured");
    scratch_write_text(&scratch, "measured/zero_shot/log", "");
    assert_false(candidates_is_directory(dir));
    record("measured/zero_shot/full.h5", 1);
    record("measured/zero_shot/window.h5", 1);
    record("measured/zero_shot/densest-heads-6.h5", 1);
    assert_true(candidates_is_directory(dir));
    must(candidates_add_directory(&c, dir, &err), &err);
    assert_int_equal(c.n, 3);
    assert_string_equal(c.items[0].name, "densest-heads-6");
    assert_string_equal(c.items[0].group, "densest-heads");
    assert_string_equal(c.items[1].name, "full");
    for (size_t i = 0; i < 3; i++) {
        assert_string_equal(c.items[i].column, "zero_shot");
        assert_true(c.items[i].nll_change.value == 0 && c.items[i].nll_change.low == 0);
        assert_true(isnan(c.items[i].gap_recovered.value));
        assert_true(c.items[i].read_fraction > 0 && c.items[i].read_fraction < 1);
        assert_non_null(strstr(c.items[i].origin, "12 sequences"));
    }
    candidates_free(&c);
    scratch_write_text(&scratch, "measured/zero_shot/broken.h5", "not HDF5");
    assert_int_equal(candidates_add_directory(&c, dir, &err), ERR_INPUT);
    assert_non_null(strstr(err.where, "broken.h5"));
    candidates_free(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_are_cut_as_rfc_4180_says),
        cmocka_unit_test(tables_that_are_none_are_refused),
        cmocka_unit_test(rows_of_a_table_are_candidates),
        cmocka_unit_test(the_front_is_what_nothing_beats),
        cmocka_unit_test(names_stay_names_in_the_script),
        cmocka_unit_test(a_layout_is_its_prediction_and_its_measurements),
        cmocka_unit_test(layouts_of_strangers_are_refused),
        cmocka_unit_test(runs_of_a_directory_are_compared),
    };
    return cmocka_run_group_tests_name("candidates", tests, make_directory, remove_directory);
}
