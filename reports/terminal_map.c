#include "reports/terminal_map.h"

#include <math.h>

#include "reports/terminal_color.h"

enum { MARGIN = 6 /* columns in front of a line: the number of the layer */, RAMP = 24 /* columns of the scale */ };

static const char ramp[] = " .:-=+*#%@"; /* ASCII, thin to dense */
static const struct rgb missing_color = {0x80, 0x80, 0x80};

/* Heads first to end, each `cell` columns wide. */
struct block {
    size_t first, end;
    int cell;
};

static double place(const struct terminal_map *map, double value) {
    return fmin(fmax((value - map->low) / (map->high - map->low), 0), 1);
}

static void put_color(struct str *out, const struct terminal_map *map, double value, bool ground, bool truecolor) {
    struct rgb color = isnan(value) ? missing_color : colormap_at(COLORMAP_VIRIDIS, place(map, value));
    terminal_put_color(out, color, ground, truecolor);
}

static void put_times(struct str *out, const char *mark, int n) {
    for (int i = 0; i < n; i++)
        str_puts(out, mark);
}

/* A number every ten columns. */
static void put_head_numbers(const struct block *b, struct str *out) {
    size_t step = 10 / (size_t)b->cell;
    str_printf(out, "%*s", MARGIN, "");
    for (size_t k = b->first; k < b->end; k += step)
        str_printf(out, "%-*zu", k + step < b->end ? 10 : 0, k);
    str_putc(out, '\n');
}

/* One head of two layers, the upper and the lower half of a character; the last layer may have none below it (NULL). */
static void put_pair(const struct terminal_map *map, double upper, const double *lower, int cell, bool truecolor,
                     struct str *out) {
    bool hatched = isnan(upper) && (!lower || isnan(*lower));
    put_color(out, map, upper, false, truecolor);
    if (lower && !hatched)
        put_color(out, map, *lower, true, truecolor);
    put_times(out, hatched ? "/" : "\xe2\x96\x80", cell);
    terminal_put_plain(out);
}

static void put_color_block(const struct terminal_map *map, const struct block *b, bool truecolor, struct str *out) {
    for (size_t l = 0; l < map->n_layers; l += 2) {
        const double *row = map->values + l * map->n_kv_heads;
        str_printf(out, "  %3zu ", l);
        for (size_t k = b->first; k < b->end; k++)
            put_pair(map, row[k], l + 1 < map->n_layers ? &row[map->n_kv_heads + k] : NULL, b->cell, truecolor, out);
        str_putc(out, '\n');
    }
}

static void put_color_legend(const struct terminal_map *map, bool truecolor, struct str *out) {
    str_printf(out, "%*s%g ", MARGIN, "", map->low);
    for (int i = 0; i < RAMP; i++) {
        terminal_put_color(out, colormap_at(COLORMAP_VIRIDIS, i / (RAMP - 1.0)), false, truecolor);
        str_puts(out, "\xe2\x96\x88");
    }
    terminal_put_plain(out);
    str_printf(out, " %g  ", map->high);
    terminal_put_color(out, missing_color, false, truecolor);
    str_puts(out, "\xe2\x96\x80/");
    terminal_put_plain(out);
    str_puts(out, " no value; two layers a line\n");
}

static char ramp_mark(double share) {
    const int n = (int)sizeof ramp - 1;
    int i = (int)(share * n);
    return ramp[i < n ? i : n - 1];
}

static void put_plain_block(const struct terminal_map *map, const struct block *b, struct str *out) {
    for (size_t l = 0; l < map->n_layers; l++) {
        str_printf(out, "  %3zu |", l);
        for (size_t k = b->first; k < b->end; k++) {
            double x = map->values[l * map->n_kv_heads + k];
            const char mark[2] = {isnan(x) ? '/' : ramp_mark(place(map, x)), 0};
            put_times(out, mark, b->cell);
        }
        str_puts(out, "|\n");
    }
}

/* As many blocks as the width asks for, all of nearly the same size. */
static void put_blocks(const struct terminal_map *map, const struct terminal_options *o, struct str *out) {
    size_t columns = (size_t)((o->width < 40 ? 40 : o->width) - MARGIN - (o->color ? 0 : 2)), n = map->n_kv_heads;
    size_t n_blocks = (n + columns - 1) / columns, heads = n_blocks ? (n + n_blocks - 1) / n_blocks : 0;
    for (size_t first = 0; first < n; first += heads) {
        struct block b = {first, first + heads < n ? first + heads : n, 2 * n <= columns ? 2 : 1};
        str_puts(out, first ? "\n" : "");
        put_head_numbers(&b, out);
        if (o->color)
            put_color_block(map, &b, o->truecolor, out);
        else
            put_plain_block(map, &b, out);
    }
}

void terminal_put_map(const struct terminal_map *map, const struct terminal_options *o, struct str *out) {
    str_printf(out, "\n%s by layer (down) and KV head (across)\n", map->quantity);
    put_blocks(map, o, out);
    if (o->color)
        put_color_legend(map, o->truecolor, out);
    else
        str_printf(out, "%*s%g \"%s\" %g, a tenth each;  / no value\n", MARGIN, "", map->low, ramp, map->high);
}
