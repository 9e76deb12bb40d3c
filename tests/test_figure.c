/* Figures: data as CSV, strings as gnuplot reads them, what happens with, without and against gnuplot. */
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
#include "reports/figure.h"
#include "reports/table.h"
#include "reports/text.h"
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

static bool have_gnuplot(void) {
    return system("gnuplot --version >/dev/null 2>&1") == 0;
}

static char *read_text(const char *path) {
    char *text;
    size_t n;
    struct err err = {0};
    if (file_read_all(path, 1 << 24, &text, &n, &err) != OK)
        fail_msg("%s: %s", err.where, err.message);
    return text;
}

static const double x[] = {0, 1, 2, 3}, from[] = {0, 1, 2, 4}, to[] = {1, 2, 4, 8}, all[] = {0.5, 0.25, NAN, 0.1};
static const double series[] = {0.1, 0.2, 0.3, 1.0 / 3, NAN, NAN, NAN, NAN};
static const char *caption[] = {"One paragraph.", "Another."};

static struct figure a_figure(enum figure_kind kind) {
    return (struct figure){.name = "a_figure",
                           .kind = kind,
                           .title = "Title",
                           .x_title = "x",
                           .y_title = "y",
                           .caption = caption,
                           .n_caption = 2,
                           .alt = "",
                           .n_x = 4,
                           .x_name = "bin",
                           .x = x,
                           .from = from,
                           .to = to,
                           .all = all,
                           .all_name = "everything",
                           .n_series = 2,
                           .series = series,
                           .x_low = 0,
                           .x_high = 4,
                           .y_low = 0,
                           .y_high = NAN,
                           .mark = NAN};
}

static void strings_are_single_quoted(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"plain", "'plain'"},
        {"it's", "'it\xe2\x80\x99s'"},
        {"`touch x` \"$(y)\" @z \\n", "'\xe2\x80\x98touch x\xe2\x80\x98 \"$(y)\" @z \\n'"},
        {"a\nb\tc\x01", "'a b c '"},
        {"\xff", "'\xef\xbf\xbd'"},
        {"'; system('x') #", "'\xe2\x80\x99; system(\xe2\x80\x99x\xe2\x80\x99) #'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct str s = {0};
        figure_put_quoted(&s, cases[i][0]);
        assert_string_equal(str_text(&s), cases[i][1]);
        str_free(&s);
    }
}

static void data_are_csv(void **state) {
    (void)state;
    struct figure f = a_figure(FIGURE_LINES);
    struct str s = {0};
    figure_put_csv(&f, &s);
    assert_string_equal(str_text(&s), "bin,from,to,all,layer_0,layer_1\n"
                                      "0,0,1,0.5,0.1,\n1,1,2,0.25,0.2,\n2,2,4,,0.3,\n3,4,8,0.1,0.3333333333333333,\n");
    str_free(&s);
}

static void without_gnuplot_data_and_script_stay(void **state) {
    (void)state;
    struct figure f = a_figure(FIGURE_LINES);
    struct figure_result result;
    struct err err = {0};
    assert_int_equal(figure_write(&f, scratch.dir, "/nowhere/gnuplot", &result, &err), OK);
    assert_false(result.drawn);
    assert_non_null(strstr(result.notice, "/nowhere/gnuplot was not found"));
    assert_true(file_exists(scratch_path(&scratch, "a_figure.csv")) && file_exists(scratch_path(&scratch, "a_figure.gp")));
    assert_false(file_exists(scratch_path(&scratch, "a_figure.png")) || file_exists(scratch_path(&scratch, "a_figure.log")));
}

static void a_gnuplot_that_fails_is_a_notice(void **state) {
    (void)state;
    char *program = scratch_write_text(&scratch, "bad", "#!/bin/sh\necho 'line 1: no such terminal'\nexit 3\n");
    char command[256];
    struct figure f = a_figure(FIGURE_LINES);
    struct figure_result result;
    struct err err = {0};
    snprintf(command, sizeof command, "chmod +x %s", program);
    assert_int_equal(system(command), 0);
    assert_int_equal(figure_write(&f, scratch.dir, program, &result, &err), OK);
    assert_false(result.drawn);
    assert_non_null(strstr(result.notice, "no such terminal"));
    assert_false(file_exists(scratch_path(&scratch, "a_figure.log")));
}

static void every_kind_is_drawn(void **state) {
    (void)state;
    static const struct figure_tick ticks[] = {{0, "0"}, {2, "it's"}};
    if (!have_gnuplot()) {
        print_message("SKIP: gnuplot is not installed\n");
        skip();
    }
    for (int kind = FIGURE_LINES; kind <= FIGURE_PROFILE; kind++) {
        struct figure f = a_figure((enum figure_kind)kind);
        struct figure_result result;
        struct err err = {0};
        f.ticks = ticks;
        f.n_ticks = 2;
        f.mark = 1.5;
        f.mark_title = "the 'mark'";
        assert_int_equal(figure_write(&f, scratch.dir, NULL, &result, &err), OK);
        assert_string_equal(result.notice, "");
        assert_true(result.drawn);
        char *svg = read_text(scratch_path(&scratch, "a_figure.svg")),
             *plain = read_text(scratch_path(&scratch, "a_figure_plain.svg"));
        assert_non_null(strstr(svg, "Title"));
        assert_non_null(strstr(svg, "One paragraph."));
        assert_null(strstr(plain, "One paragraph."));
        assert_non_null(strstr(plain, "it\xe2\x80\x99s"));
        char *png = read_text(scratch_path(&scratch, "a_figure.png"));
        assert_memory_equal(png, "\x89PNG", 4);
        free(png);
        free(plain);
        free(svg);
        assert_int_equal(file_remove_tree(scratch_path(&scratch, "a_figure.svg"), &err), OK);
    }
}

/* Draws, and wants a picture without complaint whose text holds `word`. */
static void assert_drawn(const struct figure *f, const char *word) {
    struct figure_result result;
    struct err err = {0};
    assert_int_equal(figure_write(f, scratch.dir, NULL, &result, &err), OK);
    assert_string_equal(result.notice, "");
    char *svg = read_text(scratch_path(&scratch, "a_figure.svg"));
    assert_non_null(strstr(svg, word));
    assert_false(file_exists(scratch_path(&scratch, "pwned")));
    free(svg);
}

static void points_and_matrices_are_drawn(void **state) {
    (void)state;
    static const char *const groups[] = {"the front", "x'; system('touch pwned') #", "`touch pwned`"};
    static const struct figure_point points[] = {{0, 0.1, 5, NAN, NAN, "a"}, {0, 0.5, 0.01, NAN, NAN, "b"},
                                                 {1, 0.1, 5, 4, 6, "a, \"b\"\n"}, {2, 0.5, 0.01, 0.005, 0.02, "`id`"}};
    static const double cells[] = {1, -0.5, NAN, 0.25, -0.5, 1, NAN, NAN};
    struct figure f = a_figure(FIGURE_POINTS), matrix = a_figure(FIGURE_MATRIX);
    if (!have_gnuplot()) {
        print_message("SKIP: gnuplot is not installed\n");
        skip();
    }
    f.points = points;
    f.n_points = 4;
    f.groups = groups;
    f.n_groups = 3;
    f.front = true;
    f.y_name = "loss";
    f.y_unit = 0.01;
    f.y_low = NAN;
    assert_drawn(&f, "the front");
    f.y_bend = 1;
    f.y_low = 0;
    f.y_high = 700;
    assert_drawn(&f, "300"); /* a number at the bent axis */
    matrix.series = cells;
    matrix.all = matrix.from = matrix.to = NULL;
    matrix.z_title = "correlation";
    matrix.y_low = -1;
    matrix.y_high = 1;
    assert_drawn(&matrix, "correlation");
}

/* Names that try every way gnuplot has of running something or of ending a string. */
static void hostile_names_run_nothing(void **state) {
    (void)state;
    static const char *const names[] = {
        "`touch pwned`",  "'`touch pwned`'",   "'; system('touch pwned'); '",     "\"; system(\"touch pwned\") #",
        "@`touch pwned`", "\n!touch pwned\n",  "\\'; system('touch pwned') \\\\", "x' . system('touch pwned') . 'y",
        "$(touch pwned)", "{/Bold x}_2^3&{y}",
    };
    if (!have_gnuplot()) {
        print_message("SKIP: gnuplot is not installed\n");
        skip();
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct figure f = a_figure(FIGURE_LINES);
        struct figure_result result;
        struct err err = {0};
        const char *captions[] = {names[i]};
        f.title = f.x_title = f.y_title = f.all_name = f.mark_title = names[i];
        f.mark = 1;
        f.caption = captions;
        f.n_caption = 1;
        assert_int_equal(figure_write(&f, scratch.dir, NULL, &result, &err), OK);
        assert_string_equal(result.notice, "");
        assert_false(file_exists(scratch_path(&scratch, "pwned")));
    }
    char *svg = read_text(scratch_path(&scratch, "a_figure.svg"));
    assert_non_null(strstr(svg, "{/Bold x}_2^3")); /* no markup */
    free(svg);
}

static void tables_quote_what_csv_needs(void **state) {
    (void)state;
    static const struct column columns[] = {{"name", "name", COLUMN_TEXT, 0},
                                            {"n_tok", "tokens", COLUMN_COUNT, 0},
                                            {"density", "density", COLUMN_REAL, 3}};
    static const struct {
        const char *name;
        uint64_t n;
        double density;
    } rows[] = {{"plain", 1234567, 0.1}, {"a,b", 0, NAN}, {"say \"x\"\n", UINT64_MAX, 1e-9}};
    struct table t;
    struct str s = {0};
    table_init(&t, columns, 3);
    for (size_t i = 0; i < 3; i++) {
        table_put_text(&t, rows[i].name);
        table_put_count(&t, rows[i].n);
        table_put_real(&t, rows[i].density);
    }
    table_put_csv(&t, true, &s);
    assert_string_equal(
        str_text(&s), "name,n_tok,density\nplain,1234567,0.1\n\"a,b\",0,\n\"say \"\"x\"\"\n\",18446744073709551615,1e-09\n");
    str_clear(&s);
    table_put_html(&t, "<caption>", &s);
    assert_non_null(strstr(str_text(&s), "<td data-v=\"1234567\">1,234,567</td><td data-v=\"0.1\">0.100</td>"));
    assert_non_null(strstr(str_text(&s), "<td data-v=\"\">\xe2\x80\x93</td>"));
    assert_non_null(strstr(str_text(&s), "<caption>&lt;caption&gt;</caption>"));
    str_free(&s);
    table_free(&t);
}

static double width_of(const char *line, const void *self) {
    (void)self;
    return (double)strlen(line);
}

static void texts_are_as_people_and_files_need_them(void **state) {
    (void)state;
    struct str s = {0};
    text_put_double(&s, 0.1);
    str_putc(&s, ' ');
    text_put_double(&s, 4096);
    str_putc(&s, ' ');
    text_put_double(&s, 0.1 + 0.2);
    str_putc(&s, ' ');
    text_put_double(&s, -INFINITY);
    text_put_double(&s, NAN);
    assert_string_equal(str_text(&s), "0.1 4096 0.30000000000000004 -inf");
    str_clear(&s);
    text_put_count(&s, 7);
    str_putc(&s, ' ');
    text_put_count(&s, 1234567);
    str_putc(&s, ' ');
    text_put_bytes(&s, 914);
    str_putc(&s, ' ');
    text_put_bytes(&s, 999600);
    str_putc(&s, ' ');
    text_put_bytes(&s, 3.02e9);
    assert_string_equal(str_text(&s), "7 1,234,567 914 B 1.00 MB 3.02 GB");
    str_clear(&s);
    text_put_base64(&s, "foobar", 6); /* RFC 4648 section 10 */
    text_put_base64(&s, "fooba", 5);
    text_put_base64(&s, "foob", 4);
    assert_string_equal(str_text(&s), "Zm9vYmFyZm9vYmE=Zm9vYg==");
    str_clear(&s);
    text_wrap("aa bb  cccccccccc d", 5, width_of, NULL, &s);
    assert_string_equal(str_text(&s), "aa bb\ncccccccccc\nd");
    str_clear(&s);
    text_put_clean(&s, "a\x1b[31mb\xc2\x9b\xe2\x80\xaex\xc3(\xf0\x9f\x98\x80");
    assert_string_equal(str_text(&s), "a [31mb  x\xef\xbf\xbd(\xf0\x9f\x98\x80");
    str_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strings_are_single_quoted),
        cmocka_unit_test(data_are_csv),
        cmocka_unit_test(without_gnuplot_data_and_script_stay),
        cmocka_unit_test(a_gnuplot_that_fails_is_a_notice),
        cmocka_unit_test(every_kind_is_drawn),
        cmocka_unit_test(points_and_matrices_are_drawn),
        cmocka_unit_test(hostile_names_run_nothing),
        cmocka_unit_test(tables_quote_what_csv_needs),
        cmocka_unit_test(texts_are_as_people_and_files_need_them),
    };
    return cmocka_run_group_tests_name("figure", tests, make_directory, remove_directory);
}
