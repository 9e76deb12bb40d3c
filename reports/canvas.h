/* canvas.h - the few marks that our own drawings consist of, in two makings: pixels with cairo, written by libpng, and SVG
 * text. Coordinates are whole units (CSS pixels) from the top left corner; a PNG has CANVAS_SCALE pixels per unit, so that
 * rectangles are pixel-exact and text stays sharp. One thread per canvas. */
#ifndef SPKV_REPORTS_CANVAS_H
#define SPKV_REPORTS_CANVAS_H

#include <stddef.h>

#include "base/err.h"
#include "base/str.h"
#include "reports/colormap.h"
#include "reports/picture.h"

enum { CANVAS_SCALE = 2, CANVAS_HATCH = 4 /* distance of hatch lines, units */ };

/* Text, muted, rule and bar are colours of the theme: fixed in a PNG, CSS classes in SVG. */
enum paint_kind { PAINT_COLOR, PAINT_TEXT, PAINT_MUTED, PAINT_RULE, PAINT_BAR, PAINT_HATCH };

struct paint {
    enum paint_kind kind;
    struct rgb color; /* PAINT_COLOR only */
};

enum anchor { ANCHOR_START, ANCHOR_MIDDLE, ANCHOR_END };

struct label {
    const char *text; /* UTF-8 */
    int size;         /* units */
    bool bold, upward; /* upward: reads from bottom to top */
    enum anchor anchor;
    struct paint paint;
};

struct canvas;

/* A white page of width x height units (each 1 to 16384). */
int canvas_create_png(int width, int height, struct canvas **out, struct err *err);

/* Appends one <svg> element to `text` (borrowed until canvas_free), without fonts or styles of its own: it takes the classes
 * t, m, r and b (fill of text, muted, rule, bar) and the font from the page. `alt` becomes its accessible name. */
int canvas_create_svg(int width, int height, const char *alt, struct str *text, struct canvas **out, struct err *err);

/* Gives an SVG element that stands alone what else its page would: white ground, font, the colours of the theme. */
void canvas_put_style(struct canvas *c);

/* Fills a rectangle. hover: shown by a browser, NULL = nothing; a PNG ignores it. */
void canvas_rect(struct canvas *c, int x, int y, int w, int h, struct paint paint, const char *hover);

/* Text with its anchor at (x, y) on the baseline. */
void canvas_text(struct canvas *c, int x, int y, struct label label);

/* The lines of `text` in place of label.text, the first baseline at y, each `leading` below the one before. */
void canvas_text_lines(struct canvas *c, int x, int y, int leading, const char *text, struct label label);

/* Width of a text in units as the PNG canvas draws it. */
double canvas_text_width(const char *text, int size, bool bold);

/* Writes the PNG atomically. */
int canvas_write_png(struct canvas *c, const struct picture_fact *facts, size_t n_facts, const char *path, struct err *err);

/* For pictures that are more than one canvas: whether all was drawn, and the RGB pixels of pixel row y, 3 * width *
 * CANVAS_SCALE bytes. PNG only. */
int canvas_check(const struct canvas *c, struct err *err);
void canvas_get_row(struct canvas *c, int y, unsigned char *rgb);

/* Ends the SVG element; a failed growth of its text stays in str_failed terms of that text. Legal on NULL. */
void canvas_free(struct canvas *c);

#endif
