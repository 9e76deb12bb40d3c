#include "reports/canvas.h"

#include <cairo.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "reports/text.h"

struct canvas {
    int width, height;
    cairo_surface_t *surface; /* PNG: RGB24, (height, width) * CANVAS_SCALE */
    cairo_t *cairo;
    struct str *svg;          /* SVG: borrowed; NULL for PNG */
    size_t id;                /* SVG: makes the name of the hatch pattern unique in its document */
};

static const struct rgb theme[] = {[PAINT_TEXT] = {0x1b, 0x1f, 0x24},
                                   [PAINT_MUTED] = {0x5c, 0x63, 0x6b},
                                   [PAINT_RULE] = {0xb8, 0xbe, 0xc4},
                                   [PAINT_BAR] = {0x7d, 0x86, 0x90}};

static int cairo_error(struct err *err, cairo_status_t status) {
    return status == CAIRO_STATUS_NO_MEMORY ? err_memory(err, "a picture", 0)
                                            : err_set(err, ERR_IO, "cairo", "%s", cairo_status_to_string(status));
}

int canvas_create_png(int width, int height, struct canvas **out, struct err *err) {
    ASSERT(width > 0 && width <= 16384 && height > 0 && height <= 16384);
    struct canvas *c = mem_alloc(1, sizeof *c, "a picture", err);
    *out = NULL;
    if (!c)
        return ERR_MEMORY;
    c->width = width;
    c->height = height;
    c->surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, width * CANVAS_SCALE, height * CANVAS_SCALE);
    c->cairo = cairo_create(c->surface);
    if (cairo_status(c->cairo) != CAIRO_STATUS_SUCCESS) {
        int rc = cairo_error(err, cairo_status(c->cairo));
        canvas_free(c);
        return rc;
    }
    cairo_scale(c->cairo, CANVAS_SCALE, CANVAS_SCALE);
    cairo_set_antialias(c->cairo, CAIRO_ANTIALIAS_NONE); /* of shapes; text has its own setting */
    canvas_rect(c, 0, 0, width, height, (struct paint){PAINT_COLOR, {255, 255, 255}}, NULL);
    *out = c;
    return OK;
}

static void svg_hatch_pattern(struct canvas *c) {
    struct rgb ground = colormap_hatch_ground, line = colormap_hatch_line;
    str_printf(c->svg, "<defs><pattern id=\"hatch%zu\" width=\"%d\" height=\"%d\" patternUnits=\"userSpaceOnUse\">", c->id,
               CANVAS_HATCH, CANVAS_HATCH);
    str_printf(c->svg, "<path d=\"M0 0h%dv%dh-%dz\" fill=\"#%02x%02x%02x\"/>", CANVAS_HATCH, CANVAS_HATCH, CANVAS_HATCH,
               ground.r, ground.g, ground.b);
    str_printf(c->svg, "<path d=\"M-1 1l2 -2M0 %dl%d -%dM%d %dl2 -2\" stroke=\"#%02x%02x%02x\"/></pattern></defs>\n",
               CANVAS_HATCH, CANVAS_HATCH, CANVAS_HATCH, CANVAS_HATCH - 1, CANVAS_HATCH + 1, line.r, line.g, line.b);
}

int canvas_create_svg(int width, int height, const char *alt, struct str *text, struct canvas **out, struct err *err) {
    struct canvas *c = mem_alloc(1, sizeof *c, "a picture", err);
    *out = c;
    if (!c)
        return ERR_MEMORY;
    *c = (struct canvas){.width = width, .height = height, .svg = text, .id = text->len};
    str_printf(text, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\"", width,
               height, width, height);
    str_puts(text, " role=\"img\" aria-label=\"");
    text_put_clean_html(text, alt);
    str_puts(text, "\">\n");
    svg_hatch_pattern(c);
    return OK;
}

void canvas_put_style(struct canvas *c) {
    static const char *const classes[] = {[PAINT_TEXT] = "t", [PAINT_MUTED] = "m", [PAINT_RULE] = "r", [PAINT_BAR] = "b"};
    str_puts(c->svg, "<style>text{font-family:\"DejaVu Sans\",Verdana,Arial,sans-serif}");
    for (int kind = PAINT_TEXT; kind <= PAINT_BAR; kind++)
        str_printf(c->svg, ".%s{fill:#%02x%02x%02x}", classes[kind], theme[kind].r, theme[kind].g, theme[kind].b);
    str_puts(c->svg, "</style>\n");
    canvas_rect(c, 0, 0, c->width, c->height, (struct paint){PAINT_COLOR, {255, 255, 255}}, NULL);
}

static void svg_fill(struct canvas *c, struct paint paint) {
    switch (paint.kind) {
    case PAINT_COLOR: str_printf(c->svg, " fill=\"#%02x%02x%02x\"", paint.color.r, paint.color.g, paint.color.b); break;
    case PAINT_TEXT: str_puts(c->svg, " class=\"t\""); break;
    case PAINT_MUTED: str_puts(c->svg, " class=\"m\""); break;
    case PAINT_RULE: str_puts(c->svg, " class=\"r\""); break;
    case PAINT_BAR: str_puts(c->svg, " class=\"b\""); break;
    case PAINT_HATCH: str_printf(c->svg, " fill=\"url(#hatch%zu)\"", c->id); break;
    }
}

static void svg_rect(struct canvas *c, int x, int y, int w, int h, struct paint paint, const char *hover) {
    str_printf(c->svg, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"", x, y, w, h);
    svg_fill(c, paint);
    if (hover) {
        str_puts(c->svg, "><title>");
        text_put_clean_html(c->svg, hover);
        str_puts(c->svg, "</title></rect>\n");
    } else
        str_puts(c->svg, "/>\n");
}

/* Writes the pixels themselves: an exact pattern, the same for every cell. */
static void png_hatch(struct canvas *c, int x, int y, int w, int h) {
    cairo_surface_flush(c->surface);
    unsigned char *data = cairo_image_surface_get_data(c->surface);
    size_t stride = (size_t)cairo_image_surface_get_stride(c->surface);
    for (int row = y * CANVAS_SCALE; row < (y + h) * CANVAS_SCALE; row++)
        for (int column = x * CANVAS_SCALE; column < (x + w) * CANVAS_SCALE; column++) {
            struct rgb color = colormap_hatch((unsigned)column, (unsigned)row, CANVAS_HATCH * CANVAS_SCALE);
            uint32_t pixel = (uint32_t)color.r << 16 | (uint32_t)color.g << 8 | color.b;
            memcpy(data + (size_t)row * stride + (size_t)column * 4, &pixel, 4);
        }
    cairo_surface_mark_dirty(c->surface);
}

static void png_source(struct canvas *c, struct paint paint) {
    struct rgb color = paint.kind == PAINT_COLOR ? paint.color : theme[paint.kind];
    cairo_set_source_rgb(c->cairo, color.r / 255.0, color.g / 255.0, color.b / 255.0);
}

void canvas_rect(struct canvas *c, int x, int y, int w, int h, struct paint paint, const char *hover) {
    if (w <= 0 || h <= 0)
        return;
    ASSERT(x >= 0 && y >= 0 && x + w <= c->width && y + h <= c->height);
    if (c->svg)
        svg_rect(c, x, y, w, h, paint, hover);
    else if (paint.kind == PAINT_HATCH)
        png_hatch(c, x, y, w, h);
    else {
        png_source(c, paint);
        cairo_rectangle(c->cairo, x, y, w, h);
        cairo_fill(c->cairo);
    }
}

static void svg_text(struct canvas *c, int x, int y, struct label label) {
    static const char *const anchors[] = {"start", "middle", "end"};
    str_printf(c->svg, "<text x=\"%d\" y=\"%d\" font-size=\"%d\"", x, y, label.size);
    if (label.anchor != ANCHOR_START)
        str_printf(c->svg, " text-anchor=\"%s\"", anchors[label.anchor]);
    if (label.bold)
        str_puts(c->svg, " font-weight=\"bold\"");
    if (label.upward)
        str_printf(c->svg, " transform=\"rotate(-90 %d %d)\"", x, y);
    svg_fill(c, label.paint);
    str_putc(c->svg, '>');
    text_put_clean_html(c->svg, label.text);
    str_puts(c->svg, "</text>\n");
}

static void set_font(cairo_t *cairo, int size, bool bold) {
    cairo_select_font_face(cairo, "DejaVu Sans", CAIRO_FONT_SLANT_NORMAL,
                           bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(cairo, size);
}

/* Cairo refuses text that is no UTF-8, for good. */
static void pixel_text(struct canvas *c, int x, int y, struct label label) {
    cairo_text_extents_t extents;
    struct str clean = {0};
    text_put_clean(&clean, label.text);
    cairo_save(c->cairo);
    set_font(c->cairo, label.size, label.bold);
    cairo_text_extents(c->cairo, str_text(&clean), &extents);
    cairo_translate(c->cairo, x, y);
    if (label.upward)
        cairo_rotate(c->cairo, -3.14159265358979323846 / 2);
    cairo_move_to(c->cairo, -extents.x_advance * label.anchor / 2, 0);
    png_source(c, label.paint);
    cairo_show_text(c->cairo, str_text(&clean));
    cairo_restore(c->cairo);
    str_free(&clean);
}

void canvas_text(struct canvas *c, int x, int y, struct label label) {
    if (c->svg)
        svg_text(c, x, y, label);
    else
        pixel_text(c, x, y, label);
}

void canvas_text_lines(struct canvas *c, int x, int y, int leading, const char *text, struct label label) {
    for (const char *line = text; *line; y += leading) {
        size_t n = strcspn(line, "\n");
        struct str one = {0};
        str_append(&one, line, n);
        label.text = str_text(&one);
        canvas_text(c, x, y, label);
        str_free(&one);
        line += n + (line[n] == '\n');
    }
}

double canvas_text_width(const char *text, int size, bool bold) {
    cairo_surface_t *surface = cairo_image_surface_create(CAIRO_FORMAT_A8, 1, 1);
    cairo_t *cairo = cairo_create(surface);
    cairo_text_extents_t extents;
    struct str clean = {0};
    text_put_clean(&clean, text);
    set_font(cairo, size, bold);
    cairo_text_extents(cairo, str_text(&clean), &extents);
    str_free(&clean);
    cairo_destroy(cairo);
    cairo_surface_destroy(surface);
    return extents.x_advance;
}

/* One row of RGB from one of cairo's native 32-bit pixels. */
static void pack_row(const unsigned char *from, unsigned char *to, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t pixel;
        memcpy(&pixel, from + 4 * i, 4);
        to[3 * i] = (unsigned char)(pixel >> 16);
        to[3 * i + 1] = (unsigned char)(pixel >> 8);
        to[3 * i + 2] = (unsigned char)pixel;
    }
}

void canvas_get_row(struct canvas *c, int y, unsigned char *rgb) {
    ASSERT(!c->svg && y >= 0 && y < c->height * CANVAS_SCALE);
    cairo_surface_flush(c->surface);
    pack_row(cairo_image_surface_get_data(c->surface) + (size_t)y * (size_t)cairo_image_surface_get_stride(c->surface), rgb,
             (size_t)c->width * CANVAS_SCALE);
}

int canvas_check(const struct canvas *c, struct err *err) {
    cairo_status_t status = cairo_status(c->cairo);
    return status == CAIRO_STATUS_SUCCESS ? OK : cairo_error(err, status);
}

int canvas_write_png(struct canvas *c, const struct picture_fact *facts, size_t n_facts, const char *path, struct err *err) {
    const size_t width = (size_t)c->width * CANVAS_SCALE, height = (size_t)c->height * CANVAS_SCALE;
    struct picture *picture = NULL;
    unsigned char *row = NULL;
    int rc = canvas_check(c, err);
    if (rc == OK && !(row = mem_alloc(width, 3, "a picture row", err)))
        rc = ERR_MEMORY;
    if (rc == OK)
        rc = picture_open(path, width, height, facts, n_facts, &picture, err);
    for (size_t y = 0; rc == OK && y < height; y++) {
        canvas_get_row(c, (int)y, row);
        rc = picture_put_row(picture, row, err);
    }
    if (rc == OK)
        rc = picture_close(picture, err);
    picture_free(picture);
    free(row);
    return rc;
}

void canvas_free(struct canvas *c) {
    if (!c)
        return;
    if (c->svg)
        str_puts(c->svg, "</svg>\n");
    cairo_destroy(c->cairo);
    cairo_surface_destroy(c->surface);
    free(c);
}
