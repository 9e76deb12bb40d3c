/* Maps in a terminal, byte by byte: half blocks in 256 and 24-bit colours, ASCII without any escape, hatching, wrapping. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "reports/terminal_map.h"

#define HALF "\xe2\x96\x80"
#define FULL "\xe2\x96\x88"

/* Of viridis: 0 is #440154, 0.5 is #21918c, 1 is #fde725; the nearest of the 6 x 6 x 6 colours (levels 0, 95, 135, 175, 215,
 * 255) are 16 + 36 + 1, 16 + 12 + 2 and 16 + 180 + 24; #808080 is a grey of its own. */
#define LOW "5;53m"
#define MIDDLE "5;30m"
#define HIGH "5;220m"
#define GREY "5;244m"
#define FG "\033[38;"
#define BG "\033[48;"
#define END "\033[0m"

static char *draw(const double *values, size_t n_layers, size_t n_kv_heads, const struct terminal_options *options) {
    struct str s = {0};
    struct terminal_map map = {"share", n_layers, n_kv_heads, values, 0, 1};
    terminal_put_map(&map, options, &s);
    assert_false(s.failed);
    return s.data;
}

/* The map without its legend, which is the last line. */
static void assert_drawn(const char *text, const char *expected, const char *legend) {
    size_t n = strlen(expected);
    if (strncmp(text, expected, n) != 0)
        fail_msg("drawn:\n%s\nexpected:\n%s", text, expected);
    assert_string_equal(text + n, legend);
}

static const double matrix[] = {0, 1, NAN, 0.5, NAN, NAN, 1, NAN, 0}; /* 3 layers x 3 heads */

static const char plain_legend[] = "      0 \" .:-=+*#%@\" 1, a tenth each;  / no value\n";

static void plain_is_ascii(void **state) {
    (void)state;
    char *text = draw(matrix, 3, 3, &(struct terminal_options){.width = 80});
    assert_drawn(text,
                 "\nshare by layer (down) and KV head (across)\n"
                 "      0\n"
                 "    0 |  @@//|\n"
                 "    1 |++////|\n"
                 "    2 |@@//  |\n",
                 plain_legend);
    free(text);
}

static void half_blocks_hold_two_layers(void **state) {
    (void)state;
    char *text = draw(matrix, 3, 3, &(struct terminal_options){.width = 80, .color = true});
    const char *expected = "\nshare by layer (down) and KV head (across)\n"
                           "      0\n"
                           "    0 " FG LOW BG MIDDLE HALF HALF END FG HIGH BG GREY HALF HALF END FG GREY "//" END "\n"
                           "    2 " FG HIGH HALF HALF END FG GREY "//" END FG LOW HALF HALF END "\n"
                           "      0 " FG LOW FULL;
    const char *legend_end = FG HIGH FULL END " 1  " FG GREY HALF "/" END " no value; two layers a line\n";
    if (strncmp(text, expected, strlen(expected)) != 0)
        fail_msg("drawn:\n%s\nexpected:\n%s", text, expected);
    assert_string_equal(text + strlen(text) - strlen(legend_end), legend_end);
    size_t n_blocks = 0;
    for (const char *p = text; (p = strstr(p, FULL)); p++)
        n_blocks++;
    assert_int_equal(n_blocks, 24);
    free(text);
}

static void true_colours_are_exact(void **state) {
    (void)state;
    const double values[] = {0, 1};
    char *text = draw(values, 2, 1, &(struct terminal_options){.width = 80, .color = true, .truecolor = true});
    assert_non_null(strstr(text, "    0 " FG "2;68;1;84m" BG "2;253;231;37m" HALF HALF END "\n"));
    free(text);
}

/* What lies outside the range has the colour of its end; the legend says the range. */
static void the_range_is_the_callers(void **state) {
    (void)state;
    const double values[] = {-3, -2, 0, 2, 9};
    struct str s = {0};
    struct terminal_map map = {"score", 1, 5, values, -2, 2};
    terminal_put_map(&map, &(struct terminal_options){.width = 80}, &s);
    assert_string_equal(str_text(&s), "\nscore by layer (down) and KV head (across)\n      0\n    0 |    ++@@@@|\n"
                                      "      -2 \" .:-=+*#%@\" 2, a tenth each;  / no value\n");
    str_free(&s);
}

static size_t columns(const char *line, size_t n) {
    size_t columns = 0;
    for (size_t i = 0; i < n; i++)
        columns += ((unsigned char)line[i] & 0xc0) != 0x80;
    return columns;
}

/* 130 heads at 80 columns are two blocks of 65; a cell that fits once only is one column wide. */
static void wide_maps_wrap(void **state) {
    (void)state;
    static double values[2 * 130];
    for (size_t i = 0; i < 260; i++)
        values[i] = i % 130 == 65 ? 1 : 0;
    char *text = draw(values, 2, 130, &(struct terminal_options){.width = 80});
    assert_drawn(text,
                 "\nshare by layer (down) and KV head (across)\n"
                 "      0         10        20        30        40        50        60\n"
                 "    0 |                                                                 |\n"
                 "    1 |                                                                 |\n"
                 "\n"
                 "      65        75        85        95        105       115       125\n"
                 "    0 |@                                                                |\n"
                 "    1 |@                                                                |\n",
                 plain_legend);
    free(text);
}

static void every_line_fits(void **state) {
    (void)state;
    static double values[200 * 256];
    for (int width = 0; width <= 200; width += 8)
        for (size_t n_heads = 1; n_heads <= 256; n_heads = n_heads * 3 / 2 + 1) {
            char *text = draw(values, 5, n_heads, &(struct terminal_options){.width = width});
            size_t n_drawn = 0;
            for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
                assert_true(columns(line, (size_t)(end - line)) <= (size_t)(width < 50 ? 50 : width)); /* the legend has 49 */
                if (strncmp(line, "    0 |", 7) == 0)
                    n_drawn += (size_t)(end - line) - 8;
            }
            assert_true(n_drawn == n_heads || n_drawn == 2 * n_heads); /* every head once */
            free(text);
        }
}

static void many_layers_are_one_below_the_other(void **state) {
    (void)state;
    static double values[200];
    char *text = draw(values, 200, 1, &(struct terminal_options){.width = 80, .color = true});
    size_t n_lines = 0;
    for (const char *p = text; (p = strchr(p, '\n')); p++)
        n_lines++;
    assert_int_equal(n_lines, 3 + 100 + 1);
    assert_non_null(strstr(text, "\n  198 " FG LOW BG LOW HALF HALF END "\n"));
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_is_ascii),           cmocka_unit_test(half_blocks_hold_two_layers),
        cmocka_unit_test(true_colours_are_exact),   cmocka_unit_test(the_range_is_the_callers),
        cmocka_unit_test(wide_maps_wrap),           cmocka_unit_test(every_line_fits),
        cmocka_unit_test(many_layers_are_one_below_the_other),
    };
    return cmocka_run_group_tests_name("terminal_map", tests, NULL, NULL);
}
