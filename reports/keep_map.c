#include "reports/keep_map.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "analyze/token_values.h"
#include "base/file.h"
#include "base/mem.h"
#include "reports/canvas.h"
#include "reports/figure.h"
#include "reports/run_facts.h"
#include "reports/text.h"

const struct rgb keep_map_open = {0x1f, 0x4e, 0x79}, keep_map_closed = {0xe6, 0xea, 0xee};

/* Units of type and margins are those of a canvas, CANVAS_SCALE pixels each. */
enum {
    MARGIN = 18,
    AXIS = 64,          /* room for positions left of the map */
    MIN_WIDTH = 600,
    TITLE_SIZE = 17,
    TITLE_LEADING = 24,
    TICK_SIZE = 11,
    CAPTION_SIZE = 12,
    CAPTION_LEADING = 17,
    HEAD_LINES = 76,    /* of legend and layer numbers under the title */
    MAP_WIDTH = 1200,   /* pixels a map is wide where its heads allow it */
    MAP_HEIGHT = 6000,  /* pixels a map is high at most where a token may have more than one row */
    MAX_CELL = 48,
    TICK_ROOM = 64,     /* pixels between positions at the axis */
    BAND_TOKENS = 512,  /* drawn at a time; a power of two */
};

static const struct paint ink = {.kind = PAINT_TEXT}, muted = {.kind = PAINT_MUTED}, rule = {.kind = PAINT_RULE};

bool keep_map_possible(const struct profile *profile) {
    const struct profile_meta *m = profile_meta(profile);
    return token_quantity_of(profile) != TOKEN_NOTHING && (size_t)m->n_layers * m->n_kv_heads <= KEEP_MAP_MAX_HEADS;
}

/* Everything a map is made of while it is written. */
struct drawing {
    const struct run *run;
    const struct run_sequence *sequence;
    struct token_values values;
    struct keep_map_geometry g;
    struct str title, caption; /* wrapped */
    struct picture *picture;
    unsigned char *row;        /* one row of RGB */
    gzFile csv;
};

static size_t clamp(size_t x, size_t low, size_t high) {
    return x < low ? low : x > high ? high : x;
}

static void lay_out_columns(struct drawing *d) {
    const struct statistics *s = &d->run->statistics;
    size_t n = s->n_layers * s->n_kv_heads;
    struct keep_map_geometry *g = &d->g;
    g->cell_w = clamp(MAP_WIDTH / n, 1, MAX_CELL);
    g->cell_h = clamp(MAP_HEIGHT / d->sequence->n, 1, g->cell_w < 16 ? g->cell_w : 16);
    g->layer_gap = g->cell_w >= 4 ? 2 : 0;
    g->map_x = (MARGIN + AXIS) * CANVAS_SCALE;
    g->map_w = n * g->cell_w + (s->n_layers - 1) * g->layer_gap;
    g->width = g->map_x + g->map_w + MARGIN * CANVAS_SCALE;
    g->width = clamp(g->width + g->width % CANVAS_SCALE, MIN_WIDTH * CANVAS_SCALE, SIZE_MAX);
}

static int foot_height(const struct drawing *d) {
    return 10 + CAPTION_LEADING * text_n_lines(&d->caption) + MARGIN;
}

static void lay_out_rows(struct drawing *d) {
    struct keep_map_geometry *g = &d->g;
    g->map_y = (size_t)(MARGIN + TITLE_LEADING * text_n_lines(&d->title) + HEAD_LINES) * CANVAS_SCALE;
    g->height = g->map_y + d->sequence->n * g->cell_h + (size_t)foot_height(d) * CANVAS_SCALE;
}

/* -- words -- */

static double line_width(const char *line, const void *label) {
    const struct label *l = label;
    return canvas_text_width(line, l->size, l->bold);
}

static void wrap(const struct drawing *d, const char *text, struct label label, struct str *out) {
    if (out->len)
        str_putc(out, '\n');
    text_wrap(text, (double)d->g.width / CANVAS_SCALE - 2 * MARGIN, line_width, &label, out);
}

static int write_words(struct drawing *d, struct err *err) {
    const struct label title = {.size = TITLE_SIZE, .bold = true}, caption = {.size = CAPTION_SIZE};
    struct str text = {0};
    bool open = d->values.quantity == TOKEN_OPEN;
    wrap(d, open ? "Keep map: which heads keep which tokens" : "Utility of every token for every head", title, &d->title);
    run_sequence_put(d->sequence, &text);
    str_printf(&text, " A row is a token, %zu %s high; a column is a KV head, the heads of a layer side by side.%s",
               d->g.cell_h, d->g.cell_h == 1 ? "pixel" : "pixels",
               open ? " What is not kept is dropped when it leaves the window." : "");
    wrap(d, str_text(&text), caption, &d->caption);
    str_clear(&text);
    run_put_context(d->run, &text);
    wrap(d, str_text(&text), caption, &d->caption);
    bool failed = text.failed || d->title.failed || d->caption.failed;
    str_free(&text);
    return failed ? err_memory(err, "a caption", 0) : OK;
}

/* -- the bands of the picture -- */

static int legend_entry(struct canvas *c, int x, int y, struct paint paint, const char *text) {
    canvas_rect(c, x, y - 10, 12, 12, paint, NULL);
    canvas_text(c, x + 17, y, (struct label){text, TICK_SIZE, .paint = muted});
    return x + 17 + (int)canvas_text_width(text, TICK_SIZE, false) + 22;
}

static bool has_sliding(const struct run *run) {
    for (size_t l = 0; l < run->statistics.n_layers; l++)
        if (run->statistics.sliding[l])
            return true;
    return false;
}

static void draw_legend(struct canvas *c, const struct drawing *d, int y) {
    int x = MARGIN;
    if (d->values.quantity == TOKEN_OPEN) {
        x = legend_entry(c, x, y, (struct paint){PAINT_COLOR, keep_map_open}, "kept");
        x = legend_entry(c, x, y, (struct paint){PAINT_COLOR, keep_map_closed}, "not kept");
    } else {
        for (int i = 0; i < 120; i++)
            canvas_rect(c, x + 12 + i, y - 10, 1, 12,
                        (struct paint){PAINT_COLOR, colormap_at(COLORMAP_VIRIDIS, (i + 0.5) / 120)}, NULL);
        canvas_text(c, x, y, (struct label){"0", TICK_SIZE, .paint = muted});
        canvas_text(c, x + 136, y, (struct label){"1 utility", TICK_SIZE, .paint = muted});
        x += 210;
    }
    if (d->sequence->n_in_window)
        x = legend_entry(c, x, y, muted, "at the left: in the window at the end");
    if (has_sliding(d->run))
        legend_entry(c, x, y, (struct paint){.kind = PAINT_HATCH}, "no gates: sliding layer");
}

static size_t layer_step(const struct drawing *d) {
    size_t layer = d->run->statistics.n_kv_heads * d->g.cell_w + d->g.layer_gap, step = 1;
    while (step * layer < 44)
        step *= 2;
    return step;
}

static void draw_head(struct canvas *c, const struct drawing *d) {
    const struct statistics *s = &d->run->statistics;
    const struct keep_map_geometry *g = &d->g;
    int bottom = (int)(g->map_y / CANVAS_SCALE);
    canvas_text_lines(c, MARGIN, MARGIN + 16, TITLE_LEADING, str_text(&d->title),
                      (struct label){.size = TITLE_SIZE, .bold = true, .paint = ink});
    draw_legend(c, d, bottom - HEAD_LINES + 20);
    canvas_text(c, MARGIN + AXIS - 8, bottom - 8, (struct label){"layer", TICK_SIZE, .anchor = ANCHOR_END, .paint = muted});
    for (size_t l = 0; l < s->n_layers; l += layer_step(d)) {
        size_t x = g->map_x + l * (s->n_kv_heads * g->cell_w + g->layer_gap) + s->n_kv_heads * g->cell_w / 2;
        char number[24];
        snprintf(number, sizeof number, "%zu", l);
        canvas_text(c, (int)(x / CANVAS_SCALE), bottom - 8,
                    (struct label){number, TICK_SIZE, .anchor = ANCHOR_MIDDLE, .paint = muted});
    }
}

/* Positions at multiples of the power of two that leaves room for them; bands end at such ones, so that no number is cut. */
static size_t tick_step(const struct drawing *d) {
    size_t step = 1;
    while (step * d->g.cell_h < TICK_ROOM)
        step *= 2;
    return step;
}

static void draw_axis(struct canvas *c, const struct drawing *d, size_t first, size_t n) {
    size_t step = tick_step(d);
    for (size_t t = first; t < first + n && (d->sequence->n - t) * d->g.cell_h >= TICK_ROOM / 2; t += step) {
        int y = (int)((t - first) * d->g.cell_h / CANVAS_SCALE);
        char number[24];
        snprintf(number, sizeof number, "%zu", t);
        canvas_rect(c, MARGIN + AXIS - 12, y, 5, 1, rule, NULL);
        canvas_text(c, MARGIN + AXIS - 16, y + 9,
                    (struct label){number, TICK_SIZE, .anchor = ANCHOR_END, .paint = muted});
    }
}

static struct rgb cell_color(enum token_quantity quantity, float value) {
    if (quantity == TOKEN_UTILITY)
        return colormap_at(COLORMAP_VIRIDIS, (double)value);
    return value > 0 ? keep_map_open : keep_map_closed;
}

/* The cells of one token in one row of pixels, over what the canvas has drawn. */
static void paint_cells(const struct drawing *d, size_t token, const float *value, size_t y, unsigned char *row) {
    const struct statistics *s = &d->run->statistics;
    const struct keep_map_geometry *g = &d->g;
    unsigned char *pixel = row + 3 * g->map_x;
    if (token + d->sequence->n_in_window >= d->sequence->n)
        memset(row + 3 * (g->map_x - 10), 0x5c, 3 * 6); /* the bar of the window */
    for (size_t h = 0; h < d->values.n_heads; h++) {
        bool missing = isnan(value[h]);
        struct rgb color = missing ? (struct rgb){0} : cell_color(d->values.quantity, value[h]);
        for (size_t i = 0; i < g->cell_w; i++, pixel += 3) {
            if (missing)
                color = colormap_hatch((unsigned)((size_t)(pixel - row) / 3), (unsigned)y, CANVAS_HATCH * CANVAS_SCALE);
            pixel[0] = color.r;
            pixel[1] = color.g;
            pixel[2] = color.b;
        }
        pixel += (h + 1) % s->n_kv_heads == 0 ? 3 * g->layer_gap : 0;
    }
}

/* A canvas as rows of the picture, with nothing over it. */
static int put_canvas(struct drawing *d, struct canvas *c, int height, struct err *err) {
    int rc = canvas_check(c, err);
    for (int y = 0; rc == OK && y < height * CANVAS_SCALE; y++) {
        canvas_get_row(c, y, d->row);
        rc = picture_put_row(d->picture, d->row, err);
    }
    return rc;
}

static int put_head(struct drawing *d, struct err *err) {
    struct canvas *c;
    int height = (int)(d->g.map_y / CANVAS_SCALE), rc = canvas_create_png((int)d->g.width / CANVAS_SCALE, height, &c, err);
    if (rc != OK)
        return rc;
    draw_head(c, d);
    rc = put_canvas(d, c, height, err);
    canvas_free(c);
    return rc;
}

static int put_foot(struct drawing *d, struct err *err) {
    struct canvas *c;
    int height = foot_height(d), rc = canvas_create_png((int)d->g.width / CANVAS_SCALE, height, &c, err);
    if (rc != OK)
        return rc;
    canvas_text_lines(c, MARGIN, 10 + 12, CAPTION_LEADING, str_text(&d->caption),
                      (struct label){.size = CAPTION_SIZE, .paint = muted});
    rc = put_canvas(d, c, height, err);
    canvas_free(c);
    return rc;
}

/* -- the numbers -- */

static void put_csv_header(const struct drawing *d, struct str *out) {
    str_puts(out, "position,token_id");
    for (size_t h = 0; h < d->values.n_heads; h++)
        str_printf(out, ",layer_%zu_head_%zu", h / d->run->statistics.n_kv_heads, h % d->run->statistics.n_kv_heads);
    str_putc(out, '\n');
}

static void put_csv_token(const struct drawing *d, size_t token, size_t i, struct str *out) {
    const float *value = d->values.value + i * d->values.n_heads;
    str_printf(out, "%zu,%d", token, d->values.id[i]);
    for (size_t h = 0; h < d->values.n_heads; h++) {
        str_putc(out, ',');
        if (d->values.quantity == TOKEN_OPEN && !isnan(value[h]))
            str_putc(out, value[h] > 0 ? '1' : '0');
        else if (!isnan(value[h]))
            str_printf(out, "%.6g", (double)value[h]);
    }
    str_putc(out, '\n');
}

static int put_csv(struct drawing *d, const struct str *text, struct err *err) {
    if (text->failed)
        return err_memory(err, "rows of a table", text->len);
    return text->len == 0 || gzwrite(d->csv, text->data, (unsigned)text->len) == (int)text->len
               ? OK
               : err_set(err, ERR_IO, "the keep map's CSV", "cannot be written");
}

/* -- the whole -- */

/* Tokens first .. first + n - 1 of the sequence, which are the block that was read. */
static int put_block(struct drawing *d, struct canvas *c, size_t first, size_t band, struct err *err) {
    struct str text = {0};
    int rc = OK;
    for (size_t i = 0; rc == OK && i < d->values.n; i++) {
        size_t y = (first + i - band) * d->g.cell_h;
        for (size_t j = 0; rc == OK && j < d->g.cell_h; j++) {
            canvas_get_row(c, (int)(y + j), d->row);
            paint_cells(d, first + i, d->values.value + i * d->values.n_heads,
                        d->g.map_y + (first + i) * d->g.cell_h + j, d->row);
            rc = picture_put_row(d->picture, d->row, err);
        }
        put_csv_token(d, first + i, i, &text);
        if (rc == OK && (text.len > 1 << 20 || i + 1 == d->values.n)) {
            rc = put_csv(d, &text, err);
            str_clear(&text);
        }
    }
    str_free(&text);
    return rc;
}

static int put_band(struct drawing *d, size_t first, size_t n, struct err *err) {
    struct canvas *c;
    size_t height = (n * d->g.cell_h + CANVAS_SCALE - 1) / CANVAS_SCALE;
    int rc = canvas_create_png((int)d->g.width / CANVAS_SCALE, (int)height, &c, err);
    if (rc != OK)
        return rc;
    draw_axis(c, d, first, n);
    rc = canvas_check(c, err);
    for (size_t at = first; rc == OK && at < first + n; at += d->values.n) {
        size_t left = first + n - at;
        rc = token_values_read(&d->values, d->sequence->first + at, left < d->values.cap ? left : d->values.cap, err);
        if (rc == OK)
            rc = put_block(d, c, at, first, err);
    }
    canvas_free(c);
    return rc;
}

static int put_map(struct drawing *d, struct err *err) {
    struct str header = {0};
    ASSERT(BAND_TOKENS % tick_step(d) == 0);
    put_csv_header(d, &header);
    int rc = put_csv(d, &header, err);
    str_free(&header);
    if (rc == OK)
        rc = put_head(d, err);
    for (size_t first = 0; rc == OK && first < d->sequence->n; first += BAND_TOKENS)
        rc = put_band(d, first, d->sequence->n - first < BAND_TOKENS ? d->sequence->n - first : BAND_TOKENS, err);
    return rc == OK ? put_foot(d, err) : rc;
}

/* In gnuplot's own way, to be changed: of long texts it shows an overview. */
static int write_script(const struct drawing *d, const char *path, const char *name, struct err *err) {
    struct str out = {0}, sequence = {0}, context = {0};
    run_sequence_put(d->sequence, &sequence);
    run_put_context(d->run, &context);
    str_printf(&out,
               "# Draws %s_gnuplot.png from %s.csv.gz: gnuplot %s.gp\nset encoding utf8\nset datafile separator ','\n"
               "set palette defined (0 '#%02x%02x%02x', 1 '#%02x%02x%02x')\nset cbrange [0:1]\nset title ",
               name, name, name, keep_map_closed.r, keep_map_closed.g, keep_map_closed.b, keep_map_open.r, keep_map_open.g,
               keep_map_open.b);
    figure_put_quoted(&out, str_text(&sequence));
    str_puts(&out, "\nset label ");
    figure_put_quoted(&out, str_text(&context));
    str_printf(&out,
               " at screen 0.01, screen 0.007 font ',8'\nset terminal pngcairo noenhanced size 1200,1600 font "
               "'DejaVu Sans,11'\nset output '%s_gnuplot.png'\nset bmargin 5\nset xlabel 'layer x %zu + KV head'\n"
               "set ylabel 'position'\nset xrange [-0.5:%zu.5]\nset yrange [%zu.5:-0.5]\n"
               "plot '< gzip -dc %s.csv.gz' matrix skip 1 every 1::2 using ($1 - 2):2:3 with image pixels notitle\n",
               name, d->run->statistics.n_kv_heads, d->values.n_heads - 1, d->sequence->n - 1, name);
    int rc = out.failed || sequence.failed || context.failed ? err_memory(err, "a script", out.len)
                                                             : file_write_all(path, str_text(&out), out.len, err);
    str_free(&out);
    str_free(&sequence);
    str_free(&context);
    return rc;
}

static int open_picture(struct drawing *d, const char *path, struct err *err) {
    struct run_facts facts;
    struct str sequence = {0};
    int rc = run_facts_create(d->run, "Keep map", "A row of cells per token, a column per layer and KV head.", &facts, err);
    if (rc != OK)
        return rc;
    run_sequence_put(d->sequence, &sequence);
    run_facts_add(&facts, "Sequence shown", str_text(&sequence));
    rc = picture_open(path, d->g.width, d->g.height, facts.facts, facts.n, &d->picture, err);
    run_facts_free(&facts);
    str_free(&sequence);
    return rc;
}

/* Compresses into the file that is being written; the FILE itself stays empty-handed. */
static int open_csv(struct drawing *d, struct file_out *out, const char *path, struct err *err) {
    int rc = file_out_open(out, path, err), fd = rc == OK ? dup(fileno(out->stream)) : -1;
    if (rc != OK)
        return rc;
    if (fd < 0 || !(d->csv = gzdopen(fd, "wb6"))) {
        if (fd >= 0)
            close(fd);
        return err_memory(err, "a compressed table", 0);
    }
    return OK;
}

static int close_csv(struct drawing *d, struct file_out *out, const char *path, struct err *err) {
    int status = gzclose(d->csv);
    d->csv = NULL;
    return status == Z_OK ? file_out_commit(out, err) : err_set(err, ERR_IO, path, "cannot be written");
}

static int write_files(struct drawing *d, const char *png, const char *csv, struct err *err) {
    struct file_out out = {0};
    int rc = open_picture(d, png, err);
    if (rc == OK)
        rc = open_csv(d, &out, csv, err);
    if (rc == OK)
        rc = put_map(d, err);
    if (rc == OK)
        rc = picture_close(d->picture, err);
    if (rc == OK)
        rc = close_csv(d, &out, csv, err);
    if (d->csv)
        gzclose(d->csv);
    file_out_discard(&out);
    picture_free(d->picture);
    return rc;
}

int keep_map_write(struct profile *profile, const struct run *run, const struct run_sequence *sequence, const char *dir,
                   const char *name, struct keep_map_geometry *geometry, struct err *err) {
    struct drawing d = {.run = run, .sequence = sequence};
    struct str png = {0}, csv = {0}, script = {0};
    ASSERT(keep_map_possible(profile) && sequence->n > 0);
    int rc = token_values_open(profile, &d.values, err);
    if (rc != OK)
        return rc;
    lay_out_columns(&d);
    rc = write_words(&d, err);
    lay_out_rows(&d);
    str_printf(&png, "%s/%s.png", dir, name);
    str_printf(&csv, "%s/%s.csv.gz", dir, name);
    str_printf(&script, "%s/%s.gp", dir, name);
    if (rc == OK && (png.failed || csv.failed || script.failed || !(d.row = mem_alloc(d.g.width, 3, "a picture row", err))))
        rc = err_memory(err, "a picture row", d.g.width);
    if (rc == OK)
        rc = write_files(&d, png.data, csv.data, err);
    if (rc == OK)
        rc = write_script(&d, script.data, name, err);
    if (rc == OK && geometry)
        *geometry = d.g;
    token_values_close(&d.values);
    str_free(&d.title);
    str_free(&d.caption);
    str_free(&png);
    str_free(&csv);
    str_free(&script);
    free(d.row);
    return rc;
}
