/* The keep map: every cell of the picture and every number of its table against the gates that were recorded, for a run of
 * several sequences with a layer that has no gates, and for a sequence of 100,000 tokens in bounded memory. */
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
#include <sys/resource.h>
#include <zlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "reports/colormap.h"
#include "reports/keep_map.h"
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

/* A PNG read one row at a time. */
struct reader {
    FILE *file;
    png_structp png;
    png_infop info;
    size_t width, height;
    unsigned char *row;
};

static void reader_open(struct reader *r, const char *path) {
    assert_non_null(r->file = fopen(path, "rb"));
    assert_non_null(r->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL));
    assert_non_null(r->info = png_create_info_struct(r->png));
    png_init_io(r->png, r->file);
    png_read_info(r->png, r->info);
    r->width = png_get_image_width(r->png, r->info);
    r->height = png_get_image_height(r->png, r->info);
    assert_int_equal(png_get_color_type(r->png, r->info), PNG_COLOR_TYPE_RGB);
    assert_non_null(r->row = malloc(3 * r->width));
}

static void reader_close(struct reader *r) {
    png_destroy_read_struct(&r->png, &r->info, NULL);
    fclose(r->file);
    free(r->row);
}

static void reader_skip(struct reader *r, size_t n) {
    for (size_t i = 0; i < n; i++)
        png_read_row(r->png, r->row, NULL);
}

static void assert_fact(const struct reader *r, const char *key, const char *text) {
    png_textp facts;
    int n;
    png_get_text(r->png, r->info, &facts, &n);
    for (int i = 0; i < n; i++)
        if (strcmp(facts[i].key, key) == 0 && strstr(facts[i].text, text))
            return;
    fail_msg("no fact %s with \"%s\"", key, text);
}

/* All pixels of all cells of one row of pixels. color NULL = missing: both colours of the hatch. */
static void assert_row(const struct reader *r, const struct keep_map_geometry *g, size_t y, size_t token,
                       const struct rgb *(*color)(size_t layer, size_t head, size_t token)) {
    for (size_t h = 0; h < FAKE_LH; h++) {
        size_t layer = h / FAKE_HEADS, x0 = g->map_x + h * g->cell_w + layer * g->layer_gap;
        const struct rgb *expected = color(layer, h % FAKE_HEADS, token);
        for (size_t x = x0; x < x0 + g->cell_w; x++) {
            struct rgb hatch = colormap_hatch((unsigned)x, (unsigned)y, 8);
            if (memcmp(r->row + 3 * x, expected ? expected : &hatch, 3) != 0)
                fail_msg("pixel (%zu, %zu), token %zu, layer %zu, head %zu is %02x%02x%02x", x, y, token, layer,
                         h % FAKE_HEADS, r->row[3 * x], r->row[3 * x + 1], r->row[3 * x + 2]);
        }
    }
}

static void assert_picture(const char *path, const struct keep_map_geometry *g, size_t n_tok,
                           const struct rgb *(*color)(size_t layer, size_t head, size_t token)) {
    struct reader r;
    reader_open(&r, path);
    assert_int_equal(r.width, g->width);
    assert_int_equal(r.height, g->height);
    assert_fact(&r, "Policy", "spkv, window 8, sinks 2, threshold 0.5");
    assert_fact(&r, "Model", "models/fake");
    assert_fact(&r, "Sequence shown", "Sequence ");
    reader_skip(&r, g->map_y);
    for (size_t y = g->map_y; y < g->map_y + n_tok * g->cell_h; y++) {
        reader_skip(&r, 1);
        assert_row(&r, g, y, (y - g->map_y) / g->cell_h, color);
    }
    reader_skip(&r, g->height - g->map_y - n_tok * g->cell_h);
    png_read_end(r.png, NULL);
    reader_close(&r);
}

/* -- a run of short sequences -- */

enum { SHOWN = 5 };

static const struct fake_run open_run = {.n_sequences = 9, .score = PROFILE_SCORE_SIGMOID, .gates = true,
                                         .record = PROFILE_RECORD_TOKENS | PROFILE_RECORD_OPEN};
static const struct fake_run utility_run = {.n_sequences = 9, .score = PROFILE_SCORE_SIGMOID, .gates = true,
                                            .record = PROFILE_RECORD_TOKENS | PROFILE_RECORD_UTILITY};

static const struct rgb *gate_color(size_t layer, size_t head, size_t token) {
    if (layer == FAKE_SLIDING)
        return NULL;
    return fake_open(&open_run, SHOWN, layer, head, token) ? &keep_map_open : &keep_map_closed;
}

static const struct rgb *utility_color(size_t layer, size_t head, size_t token) {
    static struct rgb color;
    if (layer == FAKE_SLIDING)
        return NULL;
    color = colormap_at(COLORMAP_VIRIDIS, (double)fake_utility(&utility_run, SHOWN, layer, head, token));
    return &color;
}

static void draw(const struct fake_run *run, const char *name, struct keep_map_geometry *g) {
    struct err err = {0};
    struct profile *profile;
    struct run r;
    struct run_sequence s;
    struct fake_run forced = *run;
    forced.force = true;
    must(fake_record(scratch_path(&scratch, "run.h5"), &forced, &err), &err);
    must(profile_open(scratch_path(&scratch, "run.h5"), &profile, &err), &err);
    must(run_load(profile, &r, &err), &err);
    must(run_sequence_find(profile, &r, SHOWN, &s, &err), &err);
    assert_int_equal(s.n, fake_length(SHOWN));
    assert_int_equal(s.document, fake_document(SHOWN));
    assert_true(keep_map_possible(profile));
    must(keep_map_write(profile, &r, &s, scratch.dir, name, g, &err), &err);
    assert_int_equal(run_sequence_find(profile, &r, 9, &s, &err), ERR_INPUT);
    run_free(&r);
    profile_close(profile);
}

static void every_cell_is_its_gate(void **state) {
    (void)state;
    struct keep_map_geometry g;
    draw(&open_run, "gates", &g);
    assert_picture(scratch_path(&scratch, "gates.png"), &g, fake_length(SHOWN), gate_color);
}

static void every_cell_is_its_utility(void **state) {
    (void)state;
    struct keep_map_geometry g;
    draw(&utility_run, "utility", &g);
    assert_picture(scratch_path(&scratch, "utility.png"), &g, fake_length(SHOWN), utility_color);
}

static void the_table_holds_the_same(void **state) {
    (void)state;
    struct keep_map_geometry g;
    char line[256];
    draw(&open_run, "gates", &g);
    gzFile csv = gzopen(scratch_path(&scratch, "gates.csv.gz"), "rb");
    assert_non_null(csv);
    assert_non_null(gzgets(csv, line, sizeof line));
    assert_string_equal(line, "position,token_id,layer_0_head_0,layer_0_head_1,layer_1_head_0,layer_1_head_1,layer_2_head_0,"
                              "layer_2_head_1\n");
    for (size_t t = 0; t < fake_length(SHOWN); t++) {
        char expected[256];
        snprintf(expected, sizeof expected, "%zu,%d,%d,%d,,,%d,%d\n", t, fake_token(SHOWN, t),
                 fake_open(&open_run, SHOWN, 0, 0, t), fake_open(&open_run, SHOWN, 0, 1, t),
                 fake_open(&open_run, SHOWN, 2, 0, t), fake_open(&open_run, SHOWN, 2, 1, t));
        assert_non_null(gzgets(csv, line, sizeof line));
        assert_string_equal(line, expected);
    }
    assert_null(gzgets(csv, line, sizeof line));
    gzclose(csv);
}

/* -- 100,000 tokens -- */

enum { LONG = 100000 };

static bool long_gate(size_t layer, size_t head, size_t token) {
    return (token * 2654435761u >> (7 + 3 * layer + head)) % 3 == 0;
}

static const struct rgb *long_color(size_t layer, size_t head, size_t token) {
    if (layer == FAKE_SLIDING)
        return NULL;
    return long_gate(layer, head, token) ? &keep_map_open : &keep_map_closed;
}

static void record_long(const char *path) {
    static float nll[LONG], utility[LONG * FAKE_LH];
    static uint8_t open[LONG * FAKE_LH], argmax[LONG];
    static int32_t tokens[LONG];
    static uint32_t left[FAKE_LH], kept[FAKE_LH];
    static uint64_t visible[FAKE_LH];
    struct profile_meta meta;
    struct profile_writer *w;
    struct err err = {0};
    fake_meta(&open_run, &meta);
    meta.max_length = LONG;
    for (size_t t = 0; t < LONG; t++) {
        tokens[t] = (int32_t)(t % 500);
        nll[t] = t ? 1 : NAN;
        for (size_t h = 0; h < FAKE_LH; h++) {
            size_t layer = h / FAKE_HEADS, at = layer * LONG * FAKE_HEADS + t * FAKE_HEADS + h % FAKE_HEADS;
            bool is_open = long_gate(layer, h % FAKE_HEADS, t);
            open[at] = is_open;
            utility[at] = is_open ? 0.75f : 0.25f;
            kept[h] += layer != FAKE_SLIDING && is_open && t >= FAKE_SINKS && t + FAKE_WINDOW < LONG;
            left[h] = layer == FAKE_SLIDING ? 0 : LONG - FAKE_WINDOW - FAKE_SINKS;
        }
    }
    struct profile_sequence sequence = {.tokens = tokens, .n_tok = LONG};
    struct profile_gates gates = {.sequence = &sequence, .n = LONG, .utility = utility, .open = open,
                                  .layer_stride = LONG * FAKE_HEADS};
    struct profile_counters counters = {.sequence = &sequence, .n_predicted = LONG - 1, .nll_sum = LONG - 1, .nll = nll,
                                        .is_argmax = argmax, .n_left_window = left, .n_kept = kept,
                                        .visible_pairs = visible};
    must(profile_writer_create(path, &meta, &(struct profile_writer_options){.force = true}, &w, &err), &err);
    must(profile_writer_add_gates(w, &gates, &err), &err);
    must(profile_writer_add_sequence(w, &counters, &err), &err);
    must(profile_writer_end_batch(w, 0, &err), &err);
    must(profile_writer_finish(w, &(struct profile_end){.n_sequences_total = 1}, &err), &err);
    profile_writer_free(w);
}

static size_t peak_bytes(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (size_t)usage.ru_maxrss * 1024;
}

/* All pixels of the map, unpacked, are over 300 MB, and its cells 600 kB: neither is held. */
static void a_hundred_thousand_tokens_fit(void **state) {
    (void)state;
    struct err err = {0};
    struct profile *profile;
    struct run run;
    struct run_sequence s;
    struct keep_map_geometry g;
    record_long(scratch_path(&scratch, "long.h5"));
    must(profile_open(scratch_path(&scratch, "long.h5"), &profile, &err), &err);
    must(run_load(profile, &run, &err), &err);
    must(run_sequence_find(profile, &run, 0, &s, &err), &err);
    size_t before = peak_bytes();
    uint64_t start = clock_us();
    must(keep_map_write(profile, &run, &s, scratch.dir, "long", &g, &err), &err);
    print_message("%.1f s, %zu x %zu pixels\n", (double)(clock_us() - start) * 1e-6, g.width, g.height);
    assert_true(peak_bytes() - before < (size_t)32 << 20);
    assert_int_equal(g.cell_h, 1);
    assert_picture(scratch_path(&scratch, "long.png"), &g, LONG, long_color);
    run_free(&run);
    profile_close(profile);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cell_is_its_gate),
        cmocka_unit_test(every_cell_is_its_utility),
        cmocka_unit_test(the_table_holds_the_same),
        cmocka_unit_test(a_hundred_thousand_tokens_fit),
    };
    return cmocka_run_group_tests_name("keep map", tests, make_directory, remove_directory);
}
