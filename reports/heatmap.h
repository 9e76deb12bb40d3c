/* heatmap.h - a layer x KV head heatmap: rows are layers (0 at the top), columns KV heads. Cells of colour with their number
 * where it fits, a colour bar, bars per layer and per head beside it, hatching where there is no value. Drawn as a PNG file
 * that explains itself (title, caption, facts in its text chunks) or as inline SVG with hover texts for a page that carries
 * title and caption itself. Readable from 1 x 1 to 128 layers x 64 heads. One thread per heatmap. */
#ifndef SPKV_REPORTS_HEATMAP_H
#define SPKV_REPORTS_HEATMAP_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/str.h"
#include "reports/canvas.h"
#include "reports/colormap.h"

struct heatmap {
    size_t n_layers, n_kv_heads; /* at least 1; at most 512 x 256 are drawn, see heatmap_fits() */
    const double *values; /* (n_layers, n_kv_heads); NaN = missing, hatched */
    const double *layer_values; /* (n_layers) bars at the right, or NULL; ratios of sums, so the caller's to know */
    const double *head_values; /* (n_kv_heads) bars at the top, or NULL */
    enum colormap map;
    double low, high; /* range of the colour bar, low < high */
    const char *title;
    const char *value_title; /* along the colour bar: quantity and unit */
    const char *missing; /* what hatched cells are: "sliding-window layer" */
    const char *const *caption; /* paragraphs under the PNG */
    size_t n_caption;
};

bool heatmap_fits(const struct heatmap *map);

/* Where things are, in canvas units; tests and both drawings use it. */
struct heatmap_geometry {
    int width, height; /* without title and caption */
    int plot_x, plot_y, plot_w, plot_h;
    int cell_w, cell_h;
    int layer_step, head_step; /* every how many rows and columns have a number at the axis */
    int bar_x, bar_w; /* bars per layer */
    int column_y, column_h; /* bars per head end at column_y + column_h */
    int scale_x, scale_y, scale_w, scale_h; /* colour bar */
    bool cell_text, bar_text; /* numbers in cells, beside the bars */
};
void heatmap_layout(const struct heatmap *map, struct heatmap_geometry *out);

/* Writes the PNG atomically with the facts as text chunks; *top, when not NULL, is the offset in units of the geometry from
 * the top of the picture (the height of its title). */
int heatmap_write_png(const struct heatmap *map, const struct picture_fact *facts, size_t n_facts, const char *path,
                      int *top, struct err *err);

/* Writes the same picture as an SVG file that stands alone, atomically. */
int heatmap_write_svg(const struct heatmap *map, const char *path, struct err *err);

/* Appends an <svg>, without title and caption. */
int heatmap_put_svg(const struct heatmap *map, struct str *out, struct err *err);

/* Ticks for a scale: the step 1, 2, 2.5 or 5 x 10^n that gives at most max_ticks values k * step in [low, high]. Returns the
 * step and, through decimals, how many digits its multiples need. */
double tick_step(double low, double high, int max_ticks, int *decimals);

#endif
