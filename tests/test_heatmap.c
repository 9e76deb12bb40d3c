/* Heatmaps: the PNG is read back with libpng and compared with the colour map at the centres of its cells; the SVG says the
 * same and escapes what it is given. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <math.h>
#include <png.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "reports/heatmap.h"
#include "tests/scratch.h"

struct picture {
    int width, height;
    unsigned char *pixels; /* (height, width, 3) */
    char texts[4096];      /* "key=text\n" of every text chunk */
};

static void picture_read(const char *path, struct picture *out) {
    FILE *stream = fopen(path, "rb");
    assert_non_null(stream);
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    png_textp texts;
    int n_texts = 0;
    png_init_io(png, stream);
    png_read_png(png, info, PNG_TRANSFORM_IDENTITY, NULL);
    *out = (struct picture){.width = (int)png_get_image_width(png, info), .height = (int)png_get_image_height(png, info)};
    assert_int_equal(png_get_color_type(png, info), PNG_COLOR_TYPE_RGB);
    out->pixels = malloc((size_t)out->width * (size_t)out->height * 3);
    for (int y = 0; y < out->height; y++)
        memcpy(out->pixels + (size_t)y * (size_t)out->width * 3, png_get_rows(png, info)[y], (size_t)out->width * 3);
    png_get_text(png, info, &texts, &n_texts);
    for (int i = 0; i < n_texts; i++)
        snprintf(out->texts + strlen(out->texts), sizeof out->texts - strlen(out->texts), "%s=%s\n", texts[i].key,
                 texts[i].text);
    png_destroy_read_struct(&png, &info, NULL);
    fclose(stream);
}

static struct rgb pixel(const struct picture *p, int x, int y) {
    assert_true(x >= 0 && x < p->width && y >= 0 && y < p->height);
    const unsigned char *c = p->pixels + ((size_t)y * (size_t)p->width + (size_t)x) * 3;
    return (struct rgb){c[0], c[1], c[2]};
}

static bool same(struct rgb a, struct rgb b) {
    return a.r == b.r && a.g == b.g && a.b == b.b;
}

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

/* Values that cover the range, one layer and one lone cell missing. */
static double value_at(size_t layer, size_t head, size_t n_layers, size_t n_heads) {
    if (layer == 1 || (layer == n_layers - 1 && head == 0))
        return NAN;
    return (double)(layer * n_heads + head) / (double)(n_layers * n_heads - 1);
}

/* Every cell, in a corner away from its number: exactly the colour, to the last pixel row and column of the cell but for the
 * grid line; missing cells show both tones of the hatch and nothing else. */
static void check_cell(const struct picture *p, const struct heatmap *map, const struct heatmap_geometry *g, int top,
                       size_t i) {
    size_t layer = i / map->n_kv_heads, head = i % map->n_kv_heads;
    int gap = g->cell_w >= 14 && g->cell_h >= 14;
    int x0 = (g->plot_x + (int)head * g->cell_w) * CANVAS_SCALE,
        y0 = (top + g->plot_y + (int)layer * g->cell_h) * CANVAS_SCALE;
    int x1 = x0 + (g->cell_w - gap) * CANVAS_SCALE - 1, y1 = y0 + (g->cell_h - gap) * CANVAS_SCALE - 1;
    double v = map->values[i];
    if (isnan(v)) {
        int ground = 0, line = 0;
        for (int x = x0; x <= x1; x++) {
            ground += same(pixel(p, x, y0), colormap_hatch_ground);
            line += same(pixel(p, x, y0), colormap_hatch_line);
        }
        assert_int_equal(ground + line, x1 - x0 + 1);
        assert_true(line > 0 && ground > line);
        return;
    }
    struct rgb expected = colormap_at(map->map, (v - map->low) / (map->high - map->low));
    assert_true(same(pixel(p, x0, y0), expected) && same(pixel(p, x1, y0), expected));
    assert_true(same(pixel(p, x0, y1), expected) && same(pixel(p, x1, y1), expected));
    if (!g->cell_text)
        assert_true(same(pixel(p, (x0 + x1) / 2, (y0 + y1) / 2), expected));
}

static void check_shape(size_t n_layers, size_t n_heads, enum colormap colors, bool bars) {
    double *values = malloc(n_layers * n_heads * sizeof *values), ones[128];
    struct picture p;
    struct heatmap_geometry g;
    struct err err = {0};
    int top;
    for (size_t i = 0; i < 128; i++)
        ones[i] = i % 3 ? 0.25 : NAN;
    for (size_t i = 0; i < n_layers * n_heads; i++)
        values[i] = value_at(i / n_heads, i % n_heads, n_layers, n_heads) - (colors == COLORMAP_DIVERGING ? 0.5 : 0);
    struct heatmap map = {.n_layers = n_layers,
                          .n_kv_heads = n_heads,
                          .values = values,
                          .map = colors,
                          .low = colors == COLORMAP_DIVERGING ? -0.5 : 0,
                          .high = colors == COLORMAP_DIVERGING ? 0.5 : 1,
                          .layer_values = bars ? ones : NULL,
                          .head_values = bars ? ones : NULL,
                          .title = "Title",
                          .value_title = "value",
                          .missing = "sliding"};
    const char *file = scratch_path(&scratch, "map.png");
    assert_int_equal(heatmap_write_png(&map, NULL, 0, file, &top, &err), OK);
    heatmap_layout(&map, &g);
    picture_read(file, &p);
    assert_true(p.width == g.width * CANVAS_SCALE && p.height > g.height * CANVAS_SCALE);
    assert_true(p.width < 3000 && p.height < 4000);
    for (size_t i = 0; i < n_layers * n_heads; i++)
        check_cell(&p, &map, &g, top, i);
    free(p.pixels);
    free(values);
}

static void cells_have_the_colour_of_their_value(void **state) {
    (void)state;
    check_shape(2, 2, COLORMAP_VIRIDIS, true);
    check_shape(30, 3, COLORMAP_VIRIDIS, true);
    check_shape(32, 8, COLORMAP_DIVERGING, true);
    check_shape(5, 4, COLORMAP_VIRIDIS, false);
    check_shape(61, 1, COLORMAP_VIRIDIS, true);
    check_shape(128, 64, COLORMAP_VIRIDIS, true);
}

static void geometry_keeps_things_apart(void **state) {
    (void)state;
    static const size_t sizes[][2] = {{1, 1}, {2, 2}, {30, 3}, {32, 8}, {80, 8}, {128, 64}, {512, 256}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        static double values[512 * 256];
        struct heatmap map = {.n_layers = sizes[i][0],
                              .n_kv_heads = sizes[i][1],
                              .values = values,
                              .layer_values = values,
                              .head_values = values,
                              .high = 1};
        struct heatmap_geometry g;
        assert_true(heatmap_fits(&map));
        heatmap_layout(&map, &g);
        assert_true(g.plot_y >= g.column_y + g.column_h && g.bar_x >= g.plot_x + g.plot_w && g.scale_x >= g.bar_x + g.bar_w);
        assert_true(g.scale_x + g.scale_w < g.width && g.plot_y + g.plot_h < g.height && g.scale_y + g.scale_h <= g.height);
        assert_true(g.layer_step * g.cell_h >= 14 && g.head_step * g.cell_w >= 22 && g.scale_h >= 100);
    }
    assert_false(heatmap_fits(&(struct heatmap){.n_layers = 513, .n_kv_heads = 1}));
    assert_false(heatmap_fits(&(struct heatmap){.n_layers = 1, .n_kv_heads = 0}));
}

static void facts_are_text_chunks(void **state) {
    (void)state;
    const double values[] = {0.5};
    struct heatmap map =
        {.n_layers = 1, .n_kv_heads = 1, .values = values, .high = 1, .title = "T", .value_title = "v", .missing = "m"};
    struct picture_fact facts[] = {{"Title", "Density"}, {"Model", "caf\xc3\xa9/\xff<model>"}, {"Window", "128"}};
    struct picture p;
    struct err err = {0};
    const char *file = scratch_path(&scratch, "facts.png");
    assert_int_equal(heatmap_write_png(&map, facts, 3, file, NULL, &err), OK);
    picture_read(file, &p);
    assert_non_null(strstr(p.texts, "Title=Density\n"));
    assert_non_null(strstr(p.texts, "Window=128\n"));
    assert_non_null(strstr(p.texts, "Model=caf\xc3\xa9/\xef\xbf\xbd<model>\n")); /* iTXt, valid UTF-8 */
    free(p.pixels);
}

static void text_that_is_no_utf8_does_not_stop_a_picture(void **state) {
    (void)state;
    const double values[] = {0.5};
    const char *caption[] = {"bad \xff\xfe bytes, a tab\tand a\nnewline", ""};
    struct heatmap map = {.n_layers = 1,
                          .n_kv_heads = 1,
                          .values = values,
                          .high = 1,
                          .title = "\xc3",
                          .value_title = "\xe2\x80",
                          .missing = "m",
                          .caption = caption,
                          .n_caption = 2};
    struct err err = {0};
    const char *file = scratch_path(&scratch, "bad.png");
    assert_int_equal(heatmap_write_png(&map, NULL, 0, file, NULL, &err), OK);
    assert_true(file_exists(file));
}

static void a_failed_write_leaves_no_file(void **state) {
    (void)state;
    const double values[] = {0.5};
    struct heatmap map =
        {.n_layers = 1, .n_kv_heads = 1, .values = values, .high = 1, .title = "T", .value_title = "v", .missing = "m"};
    struct err err = {0};
    const char *file = scratch_path(&scratch, "absent/map.png");
    assert_int_equal(heatmap_write_png(&map, NULL, 0, file, NULL, &err), ERR_IO);
    assert_non_null(strstr(err.where, "map.png"));
}

static void svg_says_values_on_hover_and_escapes(void **state) {
    (void)state;
    const double values[] = {0.25, NAN};
    struct heatmap map = {.n_layers = 1,
                          .n_kv_heads = 2,
                          .values = values,
                          .high = 1,
                          .title = "a<b>\"&'\xff",
                          .value_title = "</text><script>",
                          .missing = "sliding <layer>"};
    struct str s = {0};
    struct err err = {0};
    assert_int_equal(heatmap_put_svg(&map, &s, &err), OK);
    assert_int_equal(heatmap_put_svg(&map, &s, &err), OK); /* a second drawing in the same document */
    assert_non_null(strstr(s.data, "<title>layer 0, KV head 0: 0.2500</title>"));
    assert_non_null(strstr(s.data, "<title>layer 0, KV head 1: sliding &lt;layer&gt;</title>"));
    assert_non_null(strstr(s.data, "aria-label=\"a&lt;b&gt;&quot;&amp;&#39;\xef\xbf\xbd\""));
    assert_null(strstr(s.data, "<script"));
    assert_int_equal(utf8_first_invalid(s.data, s.len), s.len);
    char *first = strstr(s.data, "id=\"hatch"), *second = strstr(first + 1, "id=\"hatch");
    assert_non_null(second);
    assert_int_not_equal(strtol(first + 9, NULL, 10), strtol(second + 9, NULL, 10));
    str_free(&s);
}

static void ticks_are_round_numbers(void **state) {
    (void)state;
    static const struct {
        double low, high;
        int most, decimals;
        double step;
    } cases[] = {{0, 1, 11, 1, 0.1}, {0, 1, 6, 1, 0.2},          {-1, 1, 11, 1, 0.2}, {0, 1, 5, 2, 0.25},
                 {0, 60, 7, 0, 10},  {-0.05, 0.05, 5, 3, 0.025}, {0, 1, 2, 0, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int decimals;
        assert_float_equal(tick_step(cases[i].low, cases[i].high, cases[i].most, &decimals), cases[i].step, 1e-12);
        assert_int_equal(decimals, cases[i].decimals);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cells_have_the_colour_of_their_value),
        cmocka_unit_test(geometry_keeps_things_apart),
        cmocka_unit_test(facts_are_text_chunks),
        cmocka_unit_test(text_that_is_no_utf8_does_not_stop_a_picture),
        cmocka_unit_test(a_failed_write_leaves_no_file),
        cmocka_unit_test(svg_says_values_on_hover_and_escapes),
        cmocka_unit_test(ticks_are_round_numbers),
    };
    return cmocka_run_group_tests_name("heatmap", tests, make_directory, remove_directory);
}
