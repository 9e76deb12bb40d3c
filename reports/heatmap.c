#include "reports/heatmap.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "reports/text.h"

enum {
    TITLE_SIZE = 17,
    AXIS_SIZE = 13,
    TICK_SIZE = 11,
    CAPTION_SIZE = 12, /* of type, units */
    MARGIN = 18,
    MIN_WIDTH = 600,  /* room for title and caption even over few heads */
    MIN_SCALE = 260,  /* a plot lower than this has its colour bar begin beside the bars per head */
    BAR = 76,         /* longest bar per layer or head */
};

static const struct paint ink = {.kind = PAINT_TEXT}, muted = {.kind = PAINT_MUTED}, rule = {.kind = PAINT_RULE},
                          hatch = {.kind = PAINT_HATCH};

bool heatmap_fits(const struct heatmap *map) {
    return map->n_layers >= 1 && map->n_layers <= 512 && map->n_kv_heads >= 1 && map->n_kv_heads <= 256;
}

static int clamp(int x, int low, int high) {
    return x < low ? low : x > high ? high : x;
}

static int max(int a, int b) {
    return a > b ? a : b;
}

double tick_step(double low, double high, int max_ticks, int *decimals) {
    static const double steps[] = {1, 2, 2.5, 5, 10};
    ASSERT(high > low && max_ticks >= 2);
    double raw = (high - low) / (max_ticks - 1), power = pow(10, floor(log10(raw)));
    size_t i = 0;
    while (i + 1 < sizeof steps / sizeof *steps && steps[i] * power < raw * (1 - 1e-9))
        i++;
    double step = steps[i] * power;
    *decimals = 0;
    for (double scaled = step; *decimals < 12 && fabs(scaled - round(scaled)) > 1e-6 * scaled; scaled *= 10)
        ++*decimals;
    return step;
}

/* Smallest of 1, 2, 5, 10, 20, 50, ... cells that leaves `room` units for each number. */
static int label_step(int cell, int room) {
    int step = 1;
    for (int i = 0; step * cell < room; i++)
        step = i % 3 == 1 ? step / 2 * 5 : step * 2;
    return step;
}

static bool has_missing(const struct heatmap *map) {
    for (size_t i = 0; i < map->n_layers * map->n_kv_heads; i++)
        if (isnan(map->values[i]))
            return true;
    return false;
}

void heatmap_layout(const struct heatmap *map, struct heatmap_geometry *out) {
    int layers = (int)map->n_layers, heads = (int)map->n_kv_heads;
    struct heatmap_geometry g = {.cell_w = clamp(660 / heads, 12, 96), .cell_h = clamp(640 / layers, 8, 60)};
    g.plot_w = g.cell_w * heads;
    g.plot_h = g.cell_h * layers;
    g.layer_step = label_step(g.cell_h, 14);
    g.head_step = label_step(g.cell_w, 22);
    g.cell_text = g.cell_w >= 34 && g.cell_h >= 15;
    g.bar_text = g.cell_h >= 14;
    g.plot_x = MARGIN + 50;
    g.column_y = MARGIN;
    g.column_h = map->head_values ? BAR : 0;
    g.plot_y = g.column_y + (map->head_values ? BAR + 24 : 0);
    g.bar_x = g.plot_x + g.plot_w + 8;
    g.bar_w = map->layer_values ? BAR : 0;
    g.scale_x = g.bar_x + (map->layer_values ? BAR + (g.bar_text ? 42 : 0) + 22 : 18);
    g.scale_w = 16;
    g.scale_y = g.plot_h < MIN_SCALE ? g.column_y + 14 : g.plot_y;
    g.scale_h = clamp(g.plot_y + g.plot_h - g.scale_y, 100, 420) - (has_missing(map) ? 34 : 0);
    g.width = max(g.scale_x + g.scale_w + 84 + MARGIN, MIN_WIDTH);
    g.height = g.plot_y + max(g.plot_h + 44, 120) + MARGIN;
    *out = g;
}

static double place(const struct heatmap *map, double value) {
    return (value - map->low) / (map->high - map->low);
}

static struct paint cell_paint(const struct heatmap *map, double value) {
    return isnan(value) ? hatch : (struct paint){PAINT_COLOR, colormap_at(map->map, place(map, value))};
}

/* Two decimals as a rule, more where the range is small; a sign where differences are shown. */
static void value_text(const struct heatmap *map, double value, char out[32]) {
    double range = map->high - map->low;
    int decimals = range > 50 ? 0 : range > 0.45 ? 2 : 3;
    double unit = pow(10, decimals), rounded = round(value * unit) / unit + 0.0; /* + 0.0: no "-0.00" */
    snprintf(out, 32, map->map == COLORMAP_DIVERGING && rounded != 0 ? "%+.*f" : "%.*f", decimals, rounded);
}

static void draw_cells(struct canvas *c, const struct heatmap *map, const struct heatmap_geometry *g, int top) {
    const int gap = g->cell_w >= 14 && g->cell_h >= 14;
    for (size_t i = 0; i < map->n_layers * map->n_kv_heads; i++) {
        size_t layer = i / map->n_kv_heads, head = i % map->n_kv_heads;
        int x = g->plot_x + (int)head * g->cell_w, y = top + g->plot_y + (int)layer * g->cell_h;
        struct paint paint = cell_paint(map, map->values[i]);
        char number[32], hover[160];
        value_text(map, map->values[i], number);
        if (isnan(map->values[i]))
            snprintf(hover, sizeof hover, "layer %zu, KV head %zu: %s", layer, head, map->missing);
        else
            snprintf(hover, sizeof hover, "layer %zu, KV head %zu: %.4f", layer, head, map->values[i]);
        canvas_rect(c, x, y, g->cell_w - gap, g->cell_h - gap, paint, hover);
        if (g->cell_text && !isnan(map->values[i])) {
            uint8_t tone = rgb_wants_white(paint.color) ? 255 : 0;
            canvas_text(
                c, x + g->cell_w / 2, y + g->cell_h / 2 + 4,
                (struct label){number, TICK_SIZE, .anchor = ANCHOR_MIDDLE, .paint = {PAINT_COLOR, {tone, tone, tone}}});
        }
    }
}

static void draw_axes(struct canvas *c, const struct heatmap *map, const struct heatmap_geometry *g, int top) {
    char number[24];
    int bottom = top + g->plot_y + g->plot_h;
    for (size_t i = 0; i < map->n_layers; i += (size_t)g->layer_step) {
        snprintf(number, sizeof number, "%zu", i);
        canvas_text(c, g->plot_x - 6, top + g->plot_y + (int)i * g->cell_h + g->cell_h / 2 + 4,
                    (struct label){number, TICK_SIZE, .anchor = ANCHOR_END, .paint = muted});
    }
    for (size_t i = 0; i < map->n_kv_heads; i += (size_t)g->head_step) {
        snprintf(number, sizeof number, "%zu", i);
        canvas_text(c, g->plot_x + (int)i * g->cell_w + g->cell_w / 2, bottom + 15,
                    (struct label){number, TICK_SIZE, .anchor = ANCHOR_MIDDLE, .paint = muted});
    }
    canvas_text(c, g->plot_x + g->plot_w / 2, bottom + 36,
                (struct label){"KV head", AXIS_SIZE, .anchor = ANCHOR_MIDDLE, .paint = ink});
    canvas_text(c, MARGIN + 10, top + g->plot_y + g->plot_h / 2,
                (struct label){"layer", AXIS_SIZE, .upward = true, .anchor = ANCHOR_MIDDLE, .paint = ink});
}

/* Length of a bar whose value is `value` when the longest, `largest`, is BAR units. */
static int bar_length(double value, double largest) {
    return isnan(value) || largest <= 0 ? 0 : (int)lround(fabs(value) / largest * BAR);
}

/* Grey; for differences the strong colour of the sign. */
static struct paint bar_paint(const struct heatmap *map, double value) {
    if (map->map == COLORMAP_DIVERGING)
        return (struct paint){PAINT_COLOR, colormap_at(map->map, value < 0 ? 0.2 : 0.8)};
    return (struct paint){.kind = PAINT_BAR};
}

static double largest_of(const double *values, size_t n) {
    double largest = 0;
    for (size_t i = 0; i < n; i++)
        if (!isnan(values[i]))
            largest = fmax(largest, fabs(values[i]));
    return largest;
}

static void draw_layer_bars(struct canvas *c, const struct heatmap *map, const struct heatmap_geometry *g, int top) {
    double largest = largest_of(map->layer_values, map->n_layers);
    int thick = g->cell_h > 10 ? g->cell_h - 6 : g->cell_h - 2, y0 = top + g->plot_y;
    char number[32], hover[96];
    canvas_rect(c, g->bar_x - 1, y0, 1, g->plot_h, rule, NULL);
    for (size_t i = 0; i < map->n_layers; i++) {
        int y = y0 + (int)i * g->cell_h, length = bar_length(map->layer_values[i], largest);
        if (isnan(map->layer_values[i]))
            continue;
        value_text(map, map->layer_values[i], number);
        snprintf(hover, sizeof hover, "layer %zu, all KV heads: %.4f", i, map->layer_values[i]);
        canvas_rect(c, g->bar_x, y + (g->cell_h - thick) / 2, max(length, 1), thick, bar_paint(map, map->layer_values[i]),
                    hover);
        if (g->bar_text)
            canvas_text(c, g->bar_x + length + 5, y + g->cell_h / 2 + 4, (struct label){number, TICK_SIZE, .paint = muted});
    }
    if (!g->bar_text) { /* then the longest bar stands for the scale */
        value_text(map, largest, number);
        canvas_rect(c, g->bar_x + BAR - 1, y0 - 4, 1, 4, rule, NULL);
        canvas_text(c, g->bar_x + BAR, y0 - 7, (struct label){number, TICK_SIZE, .anchor = ANCHOR_MIDDLE, .paint = muted});
    }
    canvas_text(c, g->bar_x, y0 - (g->bar_text ? 7 : 22), (struct label){"per layer", TICK_SIZE, .paint = muted});
}

static void draw_head_bars(struct canvas *c, const struct heatmap *map, const struct heatmap_geometry *g, int top) {
    double largest = largest_of(map->head_values, map->n_kv_heads);
    int thick = clamp(g->cell_w - 4, 4, 40), base = top + g->column_y + 14 + BAR;
    bool numbers = g->cell_w >= 34;
    char number[32], hover[96];
    canvas_rect(c, g->plot_x, base, g->plot_w, 1, rule, NULL);
    for (size_t i = 0; i < map->n_kv_heads; i++) {
        int x = g->plot_x + (int)i * g->cell_w, length = bar_length(map->head_values[i], largest);
        if (isnan(map->head_values[i]))
            continue;
        value_text(map, map->head_values[i], number);
        snprintf(hover, sizeof hover, "KV head %zu, all layers: %.4f", i, map->head_values[i]);
        canvas_rect(c, x + (g->cell_w - thick) / 2, base - max(length, 1), thick, max(length, 1),
                    bar_paint(map, map->head_values[i]), hover);
        if (numbers)
            canvas_text(c, x + g->cell_w / 2, base - length - 4,
                        (struct label){number, TICK_SIZE, .anchor = ANCHOR_MIDDLE, .paint = muted});
    }
    if (!numbers) {
        value_text(map, largest, number);
        canvas_rect(c, g->plot_x - 4, base - BAR, 4, 1, rule, NULL);
        canvas_text(c, g->plot_x - 7, base - BAR + 4,
                    (struct label){number, TICK_SIZE, .anchor = ANCHOR_END, .paint = muted});
    }
    canvas_text(c, g->plot_x - 7, base, (struct label){"per head", TICK_SIZE, .anchor = ANCHOR_END, .paint = muted});
}

static void draw_scale(struct canvas *c, const struct heatmap *map, const struct heatmap_geometry *g, int top) {
    int x = g->scale_x, y = top + g->scale_y, decimals;
    double step = tick_step(map->low, map->high, clamp(g->scale_h / 26, 2, 11), &decimals);
    for (int i = 0; i < g->scale_h; i++) {
        double t = 1 - (i + 0.5) / g->scale_h;
        canvas_rect(c, x, y + i, g->scale_w, 1, (struct paint){PAINT_COLOR, colormap_at(map->map, t)}, NULL);
    }
    for (double k = ceil(map->low / step - 1e-9); k * step <= map->high + 1e-9 * step; k++) {
        char number[32];
        int tick = y + (int)lround((1 - place(map, k * step)) * g->scale_h);
        snprintf(number, sizeof number, map->map == COLORMAP_DIVERGING && k > 0 ? "+%.*f" : "%.*f", decimals,
                 k * step + 0.0);
        canvas_rect(c, x + g->scale_w, clamp(tick, y, y + g->scale_h - 1), 4, 1, muted, NULL);
        canvas_text(c, x + g->scale_w + 7, tick + 4, (struct label){number, TICK_SIZE, .paint = muted});
    }
    int middle = g->scale_h < MIN_SCALE ? top + g->height / 2 : y + g->scale_h / 2; /* a long title needs all the height */
    canvas_text(c, x + g->scale_w + 74, middle,
                (struct label){map->value_title, AXIS_SIZE, .upward = true, .anchor = ANCHOR_MIDDLE, .paint = ink});
    if (has_missing(map)) {
        canvas_rect(c, x, y + g->scale_h + 16, g->scale_w, 16, hatch, map->missing);
        canvas_text(c, x + g->scale_w + 7, y + g->scale_h + 28, (struct label){"no value", TICK_SIZE, .paint = muted});
    }
}

static void draw(struct canvas *c, const struct heatmap *map, const struct heatmap_geometry *g, int top) {
    draw_cells(c, map, g, top);
    draw_axes(c, map, g, top);
    if (map->layer_values)
        draw_layer_bars(c, map, g, top);
    if (map->head_values)
        draw_head_bars(c, map, g, top);
    draw_scale(c, map, g, top);
}

static double line_width(const char *line, const void *label) {
    const struct label *l = label;
    return canvas_text_width(line, l->size, l->bold);
}

/* A picture with its title above and its caption below. */
struct sheet {
    struct heatmap_geometry g;
    struct str title, caption;
    int above, height;
};

static const struct label title_label = {.size = TITLE_SIZE, .bold = true, .paint = {.kind = PAINT_TEXT}};
static const struct label caption_label = {.size = CAPTION_SIZE, .paint = {.kind = PAINT_MUTED}};

static int lay_out_sheet(const struct heatmap *map, struct sheet *s, struct err *err) {
    *s = (struct sheet){0};
    ASSERT(heatmap_fits(map));
    heatmap_layout(map, &s->g);
    text_wrap(map->title, s->g.width - 2 * MARGIN, line_width, &title_label, &s->title);
    for (size_t i = 0; i < map->n_caption; i++) {
        if (i)
            str_putc(&s->caption, '\n');
        text_wrap(map->caption[i], s->g.width - 2 * MARGIN, line_width, &caption_label, &s->caption);
    }
    s->above = MARGIN + 24 * text_n_lines(&s->title);
    s->height = s->above + s->g.height + 17 * text_n_lines(&s->caption) + MARGIN;
    return s->title.failed || s->caption.failed ? err_memory(err, "a caption", 0) : OK;
}

static void sheet_free(struct sheet *s) {
    str_free(&s->title);
    str_free(&s->caption);
}

static void draw_sheet(struct canvas *c, const struct heatmap *map, const struct sheet *s) {
    canvas_text_lines(c, MARGIN, MARGIN + 16, 24, str_text(&s->title), title_label);
    draw(c, map, &s->g, s->above);
    canvas_text_lines(c, MARGIN, s->above + s->g.height + 8, 17, str_text(&s->caption), caption_label);
}

int heatmap_write_png(const struct heatmap *map, const struct picture_fact *facts, size_t n_facts, const char *path,
                      int *top, struct err *err) {
    struct sheet s;
    struct canvas *c = NULL;
    int rc = lay_out_sheet(map, &s, err);
    if (rc == OK && (rc = canvas_create_png(s.g.width, s.height, &c, err)) == OK) {
        draw_sheet(c, map, &s);
        rc = canvas_write_png(c, facts, n_facts, path, err);
    }
    if (rc == OK && top)
        *top = s.above;
    canvas_free(c);
    sheet_free(&s);
    return rc;
}

int heatmap_write_svg(const struct heatmap *map, const char *path, struct err *err) {
    struct sheet s;
    struct canvas *c = NULL;
    struct str text = {0};
    int rc = lay_out_sheet(map, &s, err);
    if (rc == OK && (rc = canvas_create_svg(s.g.width, s.height, map->title, &text, &c, err)) == OK) {
        canvas_put_style(c);
        draw_sheet(c, map, &s);
        canvas_free(c);
        rc = text.failed ? err_memory(err, "a drawing", text.len) : file_write_all(path, str_text(&text), text.len, err);
    }
    str_free(&text);
    sheet_free(&s);
    return rc;
}

int heatmap_put_svg(const struct heatmap *map, struct str *out, struct err *err) {
    struct heatmap_geometry g;
    struct canvas *c;
    ASSERT(heatmap_fits(map));
    heatmap_layout(map, &g);
    int rc = canvas_create_svg(g.width, g.height, map->title, out, &c, err);
    if (rc != OK)
        return rc;
    draw(c, map, &g, 0);
    canvas_free(c);
    return out->failed ? err_memory(err, "a drawing", out->len) : OK;
}
