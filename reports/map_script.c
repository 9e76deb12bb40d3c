#include "reports/map_script.h"

#include <string.h>

#include "base/file.h"
#include "reports/figure.h"
#include "reports/text.h"

enum { WIDTH = 900, PLOT_HEIGHT = 640, LEADING = 17, SIDE = 24, PALETTE_STEPS = 16 };

static double line_width(const char *line, const void *self) {
    (void)self;
    return canvas_text_width(line, 12, false);
}

static void put_palette(const struct heatmap *map, struct str *out) {
    str_puts(out, "set palette defined (");
    for (int i = 0; i <= PALETTE_STEPS; i++) {
        struct rgb c = colormap_at(map->map, (double)i / PALETTE_STEPS);
        str_printf(out, "%s%d '#%02x%02x%02x'", i ? ", " : "", i, c.r, c.g, c.b);
    }
    str_puts(out, ")\nset cbrange [");
    text_put_double(out, map->low);
    str_putc(out, ':');
    text_put_double(out, map->high);
    str_puts(out, "]\nset cblabel ");
    figure_put_quoted(out, map->value_title);
    str_putc(out, '\n');
}

/* The lines of the caption as labels under the plot; returns how many. */
static int put_caption(const struct heatmap *map, struct str *out) {
    struct str lines = {0};
    int n = 0;
    for (size_t i = 0; i < map->n_caption; i++) {
        str_puts(&lines, i ? "\n" : "");
        text_wrap(map->caption[i], WIDTH - 2 * SIDE, line_width, NULL, &lines);
    }
    for (const char *p = str_text(&lines); *p; p++)
        n += *p == '\n' || !p[1];
    int i = 0;
    for (const char *p = str_text(&lines); *p; i++) {
        size_t len = strcspn(p, "\n");
        struct str line = {0};
        str_append(&line, p, len);
        str_puts(out, "set label ");
        figure_put_quoted(out, str_text(&line));
        str_printf(out, " at screen %.5f, screen %.5f left font ',12' noenhanced\n", (double)SIDE / WIDTH,
                   (double)((n - i) * LEADING - 4) / (PLOT_HEIGHT + n * LEADING));
        str_free(&line);
        p += len + (p[len] == '\n');
    }
    out->failed |= lines.failed;
    str_free(&lines);
    return n;
}

void map_script_put(const struct heatmap *map, const char *name, const char *table, const char *column, struct str *out) {
    str_printf(out, "# Draws %s_gnuplot.svg from %s: gnuplot %s.gp\nset encoding utf8\nset datafile separator ','\n", name,
               table, name);
    put_palette(map, out);
    int n = put_caption(map, out), height = PLOT_HEIGHT + n * LEADING;
    str_printf(out, "set terminal svg noenhanced size %d,%d font 'DejaVu Sans,13' background rgb 'white'\n", WIDTH, height);
    str_printf(out,
               "set output '%s_gnuplot.svg'\nset bmargin at screen %.5f\nunset key\nset tics out nomirror\nset title ", name,
               (n * LEADING + 74.0) / height);
    figure_put_quoted(out, map->title);
    str_printf(out, "\nset xlabel 'KV head'\nset ylabel 'layer'\nset xrange [-0.5:%zu.5]\nset yrange [%zu.5:-0.5]\n",
               map->n_kv_heads - 1, map->n_layers - 1);
    str_printf(out, "set xtics %zu\nset ytics %zu\n", (map->n_kv_heads + 15) / 16, (map->n_layers + 31) / 32);
    str_printf(out,
               "plot '%s' using \"kv_head\":\"layer\":(0.5):(0.5):\"%s\" with boxxyerror fillstyle solid noborder "
               "linecolor palette\n", table, column);
}

int map_script_write(const struct heatmap *map, const char *dir, const char *name, const char *table, const char *column,
                     struct err *err) {
    struct str path = {0}, text = {0};
    str_printf(&path, "%s/%s.gp", dir, name);
    map_script_put(map, name, table, column, &text);
    int rc = path.failed || text.failed ? err_memory(err, "a script", text.len)
                                        : file_write_all(path.data, text.data, text.len, err);
    str_free(&path);
    str_free(&text);
    return rc;
}
