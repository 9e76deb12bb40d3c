/* Logs of training runs: what is written, and what is left after a resume. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "tests/must.h"
#include "tests/scratch.h"
#include "train/log.h"

static char *read_text(const struct scratch *dir, const char *name) {
    struct err err = {0};
    char *text;
    size_t n;
    must(file_read_all(scratch_path(dir, name), 1 << 20, &text, &n, &err), &err);
    return text;
}

static struct train_log *open_log(const struct scratch *dir, int64_t step) {
    struct train_log *log;
    struct err err = {0};
    must(train_log_open(dir->dir, step, &log, &err), &err);
    return log;
}

static void write_steps(struct train_log *log, int64_t first, int64_t last) {
    struct err err = {0};
    for (int64_t step = first; step <= last; step++) {
        const double density[] = {0.25, NAN, 1, 0};
        const struct train_log_row row = {.step = step, .n_tok = (uint64_t)step * 10, .loss = 4.0 / (double)step,
                                          .grad_norm = 0.5, .eval_nll_hard = step % 5 ? NAN : 1.5};
        must(train_log_step(log, &row, &err), &err);
        must(train_log_heads(log, step, 2, 2, density, &err), &err);
    }
}

static void close_log(struct train_log *log) {
    struct err err = {0};
    must(train_log_close(log, &err), &err);
}

static void test_lines(void **state) {
    struct scratch dir;
    struct train_log *log;
    (void)state;
    scratch_open(&dir);
    log = open_log(&dir, 0);
    write_steps(log, 3, 3);
    char *steps = read_text(&dir, "log.csv"), *heads = read_text(&dir, "heads.csv"); /* flushed */
    assert_string_equal(strchr(steps, '\n') + 1, "3,30,1.33333333,0,0,0,0,0,0,0.5,0,,0,0,0,0\n");
    assert_string_equal(heads, "step,layer,kv_head,long_range_density\n3,0,0,0.25\n3,0,1,\n3,1,0,1\n3,1,1,0\n");
    size_t n_columns = 0, n_cells = 0;
    for (char *p = steps, *line_end = strchr(steps, '\n'); *p; p++)
        if (*p == ',')
            *(p < line_end ? &n_columns : &n_cells) += 1;
    assert_int_equal(n_columns, n_cells);
    free(steps);
    free(heads);
    close_log(log);
    scratch_close(&dir);
}

/* 9 steps at once, and 7 steps, cut back to the saved step 4, then 5 to 9 again: equal files. */
static void test_resume(void **state) {
    static const char *const names[] = {"log.csv", "heads.csv"};
    struct scratch whole, resumed;
    (void)state;
    scratch_open(&whole);
    scratch_open(&resumed);
    struct train_log *log = open_log(&whole, 0);
    write_steps(log, 1, 9);
    close_log(log);
    log = open_log(&resumed, 0);
    write_steps(log, 1, 7);
    close_log(log);
    FILE *cut = fopen(scratch_path(&resumed, "log.csv"), "a"); /* killed within a line */
    assert_non_null(cut);
    fputs("8,80,0.", cut);
    fclose(cut);
    log = open_log(&resumed, 4);
    write_steps(log, 5, 9);
    close_log(log);
    for (int i = 0; i < 2; i++) {
        char *a = read_text(&whole, names[i]), *b = read_text(&resumed, names[i]);
        assert_string_equal(a, b);
        free(a);
        free(b);
    }
    scratch_close(&whole);
    scratch_close(&resumed);
}

static void test_edges(void **state) {
    struct scratch dir;
    struct err err = {0};
    struct train_log *log;
    (void)state;
    scratch_open(&dir);
    log = open_log(&dir, 7); /* the old log is gone: begins anew */
    write_steps(log, 8, 8);
    close_log(log);
    log = open_log(&dir, 0);
    close_log(log);
    char *text = read_text(&dir, "log.csv");
    assert_string_equal(strchr(text, '\n'), "\n");
    free(text);
    scratch_write_text(&dir, "log.csv", "something,else\n1,2\n");
    assert_int_equal(train_log_open(dir.dir, 3, &log, &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "first line"));
    text = read_text(&dir, "log.csv");
    assert_string_equal(text, "something,else\n1,2\n");
    free(text);
    must(train_log_close(NULL, &err), &(struct err){0});
    scratch_close(&dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
