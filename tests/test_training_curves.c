/* Logs of training: what is read of them, what is refused, and the figures made of it. */
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
#include "base/str.h"
#include "reports/report.h"
#include "reports/training_curves.h"
#include "tests/scratch.h"

#define STEP_COLUMNS                                                                                                       \
    "step,n_tok,loss_nat_per_token,lr_model,lr_predictor,blend,density_weight,gate_density,long_range_density,grad_norm,"   \
    "tok_per_s,eval_hard_nat_per_token,eval_full_nat_per_token,eval_gate_density,eval_long_range_density\n"
#define HEAD_COLUMNS "step,layer,kv_head,long_range_density\n"

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

static const char steps[] = STEP_COLUMNS "1,100,4.5,0.1,0.5,0,0,1,0.9,2,50,,,,\n"
                                         "2,200,3.25,0.1,0.5,0,0,0.8,0.7,2,50,3.5,3,0.8,0.75\n"
                                         "3,300,3,0.1,0.5,0.5,0,0.5,0.25,2,50,,,,\n"
                                         "4,400,2."; /* being written */
static const char heads[] = HEAD_COLUMNS "1,0,0,1\n1,0,1,0.5\n1,1,0,\n1,1,1,0.25\n1,2,0,\n1,2,1,\n"
                                         "3,0,0,0.5\n3,0,1,0\n3,1,0,1\n3,1,1,1\n3,2,0,0\n3,2,1,0\n"
                                         "5,0,0,0.5\n5,0,1,0.5\n"; /* being written */

static struct training_log *read_log(const char *name) {
    struct training_log *log;
    struct err err = {0};
    char path[128];
    snprintf(path, sizeof path, "%s", scratch_path(&scratch, name));
    if (!training_log_is(path) || training_log_read(path, &log, &err) != OK)
        fail_msg("%s: %s", err.where, err.message);
    return log;
}

static void write_log(const char *dir, const char *steps_text, const char *heads_text) {
    char name[64];
    snprintf(name, sizeof name, "%s/log.csv", dir);
    scratch_write_text(&scratch, name, steps_text);
    snprintf(name, sizeof name, "%s/heads.csv", dir);
    if (heads_text)
        scratch_write_text(&scratch, name, heads_text);
}

static void assert_numbers(const double *x, size_t n, const double *expected) {
    for (size_t i = 0; i < n; i++)
        if (isnan(expected[i]) ? !isnan(x[i]) : x[i] != expected[i])
            fail_msg("value %zu is %g, expected %g", i, x[i], expected[i]);
}

static void test_log_is_read(void **state) {
    (void)state;
    write_log("a", steps, heads);
    for (int by_file = 0; by_file < 2; by_file++) {
        struct training_log *log = read_log(by_file ? "a/log.csv" : "a");
        assert_int_equal(log->n_steps, 3);
        assert_numbers(training_log_column(log, TRAINING_LOSS), 3, (double[]){4.5, 3.25, 3});
        assert_numbers(training_log_column(log, TRAINING_EVAL_FULL), 3, (double[]){NAN, 3, NAN});
        assert_true(training_log_last(log, TRAINING_EVAL_HARD) == 3.5);
        assert_int_equal(log->n_head_steps, 2);
        assert_int_equal(log->n_layers, 3);
        assert_int_equal(log->n_kv_heads, 2);
        assert_numbers(log->head_steps, 2, (double[]){1, 3});
        assert_numbers(log->density, 12, (double[]){1, 0.5, NAN, 0.25, NAN, NAN, 0.5, 0, 1, 1, 0, 0});
        training_log_free(log);
    }
    assert_false(training_log_is(scratch.dir));
    assert_false(training_log_is("run.h5"));
}

static void test_figures(void **state) {
    (void)state;
    struct run_figure f;
    struct err err = {0};
    write_log("b", steps, heads);
    struct training_log *log = read_log("b");
    assert_int_equal(training_curve_create(log, TRAINING_CURVE_LOSS, &f, &err), OK);
    assert_int_equal(f.figure.n_series, 3);
    assert_numbers(f.figure.series, 9, (double[]){4.5, 3.25, 3, NAN, 3.5, NAN, NAN, 3, NAN});
    assert_true(f.figure.mark == 3); /* the first step with a blend */
    run_figure_free(&f);
    assert_int_equal(training_curve_create(log, TRAINING_CURVE_DENSITY, &f, &err), OK);
    assert_numbers(f.figure.series, 9, (double[]){1, 0.8, 0.5, 0.9, 0.7, 0.25, NAN, 0.75, NAN});
    run_figure_free(&f);
    assert_int_equal(training_curve_create(log, TRAINING_CURVE_LAYERS, &f, &err), OK);
    assert_numbers(f.figure.x, 2, (double[]){1, 3});
    assert_numbers(f.figure.series, 6, (double[]){0.75, 0.25, 0.25, 1, NAN, 0});
    assert_numbers(f.figure.all, 2, (double[]){1.75 / 3, 2.5 / 6});
    run_figure_free(&f);
    training_log_free(log);
}

/* A dense run measures no density, and has no step at which gates turn hard. */
static void test_dense_run(void **state) {
    (void)state;
    struct run_figure f;
    struct err err = {0};
    write_log("c", STEP_COLUMNS "10,100,4,0.1,,,,,,2,50,,3.5,,\n20,200,3,0.1,,,,,,2,50,,3,,\n", NULL);
    struct training_log *log = read_log("c");
    assert_true(training_has_curve(log, TRAINING_CURVE_LOSS));
    assert_false(training_has_curve(log, TRAINING_CURVE_DENSITY));
    assert_false(training_has_curve(log, TRAINING_CURVE_LAYERS));
    assert_int_equal(training_curve_create(log, TRAINING_CURVE_LOSS, &f, &err), OK);
    assert_true(isnan(f.figure.mark));
    run_figure_free(&f);
    training_log_free(log);
}

static void test_bad_logs(void **state) {
    (void)state;
    static const struct {
        const char *steps, *heads, *where, *message;
    } cases[] = {
        {"", NULL, "log.csv:1", "no line"},
        {"step,n_tok\n1,2\n", NULL, "log.csv", "no column \"loss_nat_per_token\""},
        {STEP_COLUMNS, NULL, "log.csv", "no step yet"},
        {STEP_COLUMNS "1,100,4.5,0.1,0.5,0,0,1,0.9,2,50,,,\n", NULL, "log.csv:2", "number of columns"},
        {STEP_COLUMNS "1,100,4.5,0.1,0.5,0,0,1,0.9,2,50,,,,,\n", NULL, "log.csv:2", "number of columns"},
        {STEP_COLUMNS "1,100,four,0.1,0.5,0,0,1,0.9,2,50,,,,\n", NULL, "log.csv:2", "not a number"},
        {STEP_COLUMNS "2,,4,,,,,,,,,,,,\n2,,4,,,,,,,,,,,,\n", NULL, "log.csv", "line 3"},
        {steps, "step,layer,kv_head\n", "heads.csv", "long_range_density"},
        {steps, HEAD_COLUMNS "1,1,0,1\n", "heads.csv", "in layer 0"},
        {steps, HEAD_COLUMNS "1,0,0,1\n1,1,0,1\n2,1,0,1\n2,0,0,1\n", "heads.csv", "line 4"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct training_log *log;
        struct err err = {0};
        char name[16];
        snprintf(name, sizeof name, "bad%zu", i);
        write_log(name, cases[i].steps, cases[i].heads);
        assert_int_equal(training_log_read(scratch_path(&scratch, name), &log, &err), ERR_INPUT);
        assert_null(log);
        if (!strstr(err.where, cases[i].where) || !strstr(err.message, cases[i].message))
            fail_msg("case %zu: %s: %s", i, err.where, err.message);
    }
}

/* Two logs: each in a directory of its own, both on the page. */
static void test_report(void **state) {
    (void)state;
    static const char *const files[] = {"out/training1/training_loss.csv", "out/training1/training_density.gp",
                                        "out/training2/training_layers.csv", "out/training2/training_loss.gp"};
    struct err err = {0};
    struct report_options options = {.dir = scratch_path(&scratch, "out"), .gnuplot = "/nowhere/gnuplot"};
    char *page;
    size_t n;
    write_log("d", steps, heads);
    struct training_log *logs[] = {read_log("d"), read_log("d/log.csv")};
    if (report_write(&(struct report_input){.logs = logs, .n_logs = 2}, &options, &err) != OK)
        fail_msg("%s: %s", err.where, err.message);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        assert_true(file_exists(scratch_path(&scratch, files[i])));
    assert_int_equal(file_read_all(scratch_path(&scratch, "out/index.html"), 1 << 24, &page, &n, &err), OK);
    assert_non_null(strstr(page, "<h1>Training report</h1>"));
    assert_non_null(strstr(page, "d/log.csv: step 3, 300 tokens, loss 3.0000, held out 3.5000 with hard gates"));
    free(page);
    training_log_free(logs[0]);
    training_log_free(logs[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log_is_read), cmocka_unit_test(test_figures), cmocka_unit_test(test_dense_run),
        cmocka_unit_test(test_bad_logs),    cmocka_unit_test(test_report),
    };
    return cmocka_run_group_tests_name("training_curves", tests, make_directory, remove_directory);
}
