/* The gnuplot script of a figure. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "reports/canvas.h"
#include "reports/colormap.h"
#include "reports/figure.h"
#include "reports/text.h"

enum {
    WIDTH = 900,       /* CSS pixels; the PNG has twice as many */
    PLOT_HEIGHT = 390, /* axis titles and key included */
    CAPTION_SIZE = 12,
    CAPTION_LEADING = 17,
    SIDE = 24,
    MATRIX_SIDE = 620, /* of a square plot */
    KEY_WIDTH = 236,   /* of a key beside the plot */
    KEY_LINE = 19,     /* height of its lines */
    KEY_LETTERS = 30,  /* of a name in it */
    FIRST_LABEL = 1000, /* tags of labels: the title's, then the caption's lines; others are below */
};

/* A picture's measures: whole, or plain without title and caption. */
struct frame {
    int height;      /* CSS pixels */
    double top, foot; /* over the key, under the axis title */
    bool colored;
};

#define TITLE 46.0  /* room of the title */
#define KEY 32.0    /* of the key under it, where there is one */
#define BOTTOM 74.0 /* of axis numbers and axis title under the plot */
#define TEXT_COLOR "#1b1f24"
#define MUTED_COLOR "#5c636b"

void figure_put_quoted(struct str *out, const char *text) {
    struct str clean = {0};
    text_put_clean(&clean, text);
    str_putc(out, '\'');
    for (const char *p = str_text(&clean); *p; p++) {
        if (*p == '\'')
            str_puts(out, "\xe2\x80\x99"); /* U+2019: gnuplot 5.4 takes a doubled quote at the start for the end of the
                                              string */
        else if (*p == '`')
            str_puts(out, "\xe2\x80\x98"); /* U+2018 */
        else
            str_putc(out, *p);
    }
    str_putc(out, '\'');
    out->failed |= clean.failed;
    str_free(&clean);
}

static void put_setting(struct str *out, const char *setting, const char *text, const char *more) {
    str_printf(out, "set %s ", setting);
    figure_put_quoted(out, text);
    str_printf(out, "%s\n", more);
}

static int ridge_step(const struct figure *f) {
    return f->n_series > 64 ? 14 : f->n_series > 24 ? 20 : f->n_series > 8 ? 28 : f->n_series > 3 ? 52 : 100;
}

static int plot_height(const struct figure *f) {
    if (f->kind == FIGURE_MATRIX)
        return MATRIX_SIDE + 104;
    if (f->kind == FIGURE_POINTS && (int)f->n_groups * KEY_LINE + 60 > PLOT_HEIGHT)
        return (int)f->n_groups * KEY_LINE + 60;
    return f->kind == FIGURE_RIDGES ? 100 + (int)f->n_series * ridge_step(f) : PLOT_HEIGHT;
}

static double caption_width(const char *line, const void *self) {
    (void)self;
    return canvas_text_width(line, CAPTION_SIZE, false);
}

static void wrap_caption(const struct figure *f, struct str *lines) {
    for (size_t i = 0; i < f->n_caption; i++) {
        struct str clean = {0};
        text_put_clean(&clean, f->caption[i]);
        if (i)
            str_putc(lines, '\n');
        text_wrap(str_text(&clean), WIDTH - 2 * SIDE, caption_width, NULL, lines);
        lines->failed |= clean.failed;
        str_free(&clean);
    }
}

static int count_lines(const char *text) {
    int n = *text != 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

/* Labels at the foot of the picture, from the first line's place downward; tags FIRST_LABEL + 1, ... */
static void put_caption(const char *lines, int font, int height, struct str *out) {
    int n = count_lines(lines);
    for (int i = 0; i < n; i++) {
        size_t len = strcspn(lines, "\n");
        struct str line = {0};
        str_append(&line, lines, len);
        str_printf(out, "set label %d ", FIRST_LABEL + 1 + i);
        figure_put_quoted(out, str_text(&line));
        str_printf(out, " at screen %.5f, screen %.5f left font ',%d' textcolor rgb '" MUTED_COLOR "' noenhanced\n",
                   (double)SIDE / WIDTH, (double)((n - i) * CAPTION_LEADING - 4) / height, font);
        out->failed |= line.failed;
        str_free(&line);
        lines += len + (lines[len] == '\n');
    }
}

/* Viridis without its lightest end, which is hard to see as a line on white. */
static void put_palette(size_t n_series, struct str *out) {
    int steps = 16, tick = 1;
    while ((n_series - 1) / (size_t)tick > 10)
        tick = tick < 5 ? 5 : tick * 2;
    str_puts(out, "set palette defined (");
    for (int i = 0; i <= steps; i++) {
        struct rgb c = colormap_at(COLORMAP_VIRIDIS, 0.92 * i / steps);
        str_printf(out, "%s%d '#%02x%02x%02x'", i ? ", " : "", i, c.r, c.g, c.b);
    }
    str_printf(out, ")\nset cbrange [0:%zu]\nset cbtics %d scale 0.6\nset cblabel 'layer' textcolor rgb '" TEXT_COLOR "'\n",
               n_series > 1 ? n_series - 1 : 1, tick);
}

static void put_range(struct str *out, const char *axis, double low, double high) {
    str_printf(out, "set %srange [", axis);
    if (isnan(low))
        str_putc(out, '*');
    else
        text_put_double(out, low);
    str_putc(out, ':');
    if (isnan(high))
        str_putc(out, '*');
    else
        text_put_double(out, high);
    str_puts(out, "]\n");
}

static void put_ticks(const struct figure *f, const char *axis, struct str *out) {
    if (f->n_ticks == 0)
        return;
    str_printf(out, "set %stics (", axis);
    for (size_t i = 0; i < f->n_ticks; i++) {
        str_puts(out, i ? ", " : "");
        figure_put_quoted(out, f->ticks[i].label);
        str_putc(out, ' ');
        text_put_double(out, f->ticks[i].at);
    }
    str_puts(out, ")\n");
}

/* The name of the mark stands where the kind of figure leaves room: over ridges, under lines. */
static void put_mark(const struct figure *f, struct str *out) {
    if (isnan(f->mark))
        return;
    str_puts(out, "set arrow from first ");
    text_put_double(out, f->mark);
    str_puts(out, ", graph 0 to first ");
    text_put_double(out, f->mark);
    str_puts(out, ", graph 1 nohead front dashtype 2 linewidth 1.2 linecolor rgb '" TEXT_COLOR "'\n");
    str_puts(out, "set label 1 ");
    figure_put_quoted(out, f->mark_title);
    str_puts(out, " at first ");
    text_put_double(out, f->mark);
    str_puts(out, f->kind == FIGURE_RIDGES ? ", graph 1 offset 0.6,-0.8" : ", graph 0 offset 0.6,0.8");
    str_puts(out, " left front font ',10' textcolor rgb '" TEXT_COLOR "' noenhanced\n");
}

/* The CSV column (from 1) of `all` and of series 0. */
static int column_all(const struct figure *f) {
    return f->from ? 4 : 2;
}

static int column_series(const struct figure *f) {
    return column_all(f) + (f->all != NULL);
}

static void put_source(const struct figure *f, struct str *out) {
    str_printf(out, "'%s.csv' skip 1 using ", f->name);
}

static void put_all(const struct figure *f, const char *style, struct str *out) {
    put_source(f, out);
    str_printf(out, "1:(strlen(strcol(%d)) ? real(strcol(%d)) : NaN) with %s linecolor rgb '" TEXT_COLOR "' title ",
               column_all(f), column_all(f), style);
    figure_put_quoted(out, f->all_name);
}

static void put_lines(const struct figure *f, struct str *out) {
    for (size_t k = 0; k < f->n_series; k++) {
        put_source(f, out);
        str_printf(out, "1:%zu:(%zu) with %s linewidth 1.3 linecolor palette notitle", (size_t)column_series(f) + k, k,
                   f->separate ? "points pointtype 7 pointsize 0.9" : "lines");
        str_puts(out, k + 1 < f->n_series || f->all ? ", \\\n     " : "");
    }
    if (f->all)
        put_all(f, f->separate ? "points pointtype 9 pointsize 1.6" : "linespoints linewidth 2.6 pointtype 7 pointsize 0.6",
                out);
}

static bool is_missing(const struct figure *f, size_t series) {
    for (size_t i = 0; i < f->n_x; i++)
        if (!isnan(f->series[series * f->n_x + i]))
            return false;
    return true;
}

/* Curves that are measured now and then have points: a line may rest on few of them. */
static bool is_sparse(const double *x, size_t n) {
    size_t n_values = 0;
    for (size_t i = 0; i < n; i++)
        n_values += !isnan(x[i]);
    return 2 * n_values < n || n_values < 20;
}

/* They differ in hue and lightness (Okabe and Ito's, for all kinds of sight). */
static const char *const colors[] = {"#9aa5b1", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#1b1f24"};
enum { N_COLORS = sizeof colors / sizeof *colors };

/* The key names `series_names`. */
static void put_curves(const struct figure *f, struct str *out) {
    const char *separator = "";
    for (size_t k = 0; k < f->n_series; k++) {
        bool sparse = is_sparse(f->series + k * f->n_x, f->n_x);
        if (is_missing(f, k))
            continue;
        str_puts(out, separator);
        separator = ", \\\n     ";
        put_source(f, out);
        str_printf(out, "1:%zu with %s linewidth %s linecolor rgb '%s' title ", (size_t)column_series(f) + k,
                   sparse ? "linespoints pointtype 7 pointsize 0.6" : "lines", sparse ? "1.8" : "1.3", colors[k % N_COLORS]);
        char number[32];
        snprintf(number, sizeof number, "layer %zu", k);
        figure_put_quoted(out, f->series_names ? f->series_names[k] : number);
    }
}

static void put_profile(const struct figure *f, struct str *out) {
    int c = column_series(f);
    if (f->n_series >= 2) {
        put_source(f, out);
        str_printf(out, "1:%d:(0):($%d-$%d) with vectors nohead linewidth 5 linecolor rgb '#a9c4cf' title ", c, c + 1, c);
        figure_put_quoted(out, "lowest to highest KV head");
        str_puts(out, ", \\\n     ");
    }
    if (f->n_series == 4) {
        put_source(f, out);
        str_printf(out, "1:%d:%d:%d with yerrorbars pointtype 0 linewidth 1.4 linecolor rgb '#d55e00' title ",
                   column_all(f), c + 2, c + 3);
        figure_put_quoted(out, "95 % interval");
        str_puts(out, ", \\\n     ");
    }
    put_all(f, "linespoints linewidth 1.2 pointtype 7 pointsize 0.8", out);
}

/* The name of a group as the key has room for it. */
static void put_group_name(const char *name, struct str *out) {
    struct str clean = {0}, cut = {0};
    size_t n = 0, letters = 0;
    text_put_clean(&clean, name);
    const char *text = str_text(&clean);
    for (; text[n] && letters < KEY_LETTERS; letters += ((unsigned char)text[++n] & 0xc0) != 0x80)
        continue;
    str_append(&cut, text, n);
    str_puts(&cut, text[n] ? "\xe2\x80\xa6" : "");
    figure_put_quoted(out, str_text(&cut));
    out->failed |= clean.failed || cut.failed;
    str_free(&clean);
    str_free(&cut);
}

/* Points of different groups at the same x stand side by side where they have intervals to be told apart. */
static double dodge_of(const struct figure *f, size_t g) {
    double largest = 0;
    bool intervals = false;
    for (size_t i = 0; i < f->n_points; i++) {
        largest = fmax(largest, fabs(f->points[i].x));
        intervals |= !isnan(f->points[i].low);
    }
    return intervals && !(f->front && g == 0) ? 0.0025 * largest * ((double)g - (double)f->n_groups / 2) : 0;
}

/* The rows of a group, with the columns first .. last (of y), in drawn units. */
static void put_group_rows(const struct figure *f, size_t g, int first, int last, struct str *out) {
    put_source(f, out);
    str_printf(out, "($1 == %zu ? $2 + %.6g : NaN)", g, dodge_of(f, g));
    for (int column = first; column <= last; column++) {
        str_printf(out, ":($%d / ", column);
        text_put_double(out, f->y_unit > 0 ? f->y_unit : 1);
        str_putc(out, ')');
    }
}

static void put_group(const struct figure *f, size_t g, struct str *out) {
    static const int shapes[] = {7, 5, 9, 13, 11, 4, 6, 8, 12, 10}; /* filled, then open */
    const char *color = colors[(g - f->front + 1) % N_COLORS];
    if (f->front && g == 0) {
        put_group_rows(f, g, 3, 3, out);
        str_puts(out, " with lines linewidth 6 linecolor rgb '#dfe3e7' title ");
    } else {
        put_group_rows(f, g, 3, 5, out);
        str_printf(out, " with yerrorbars pointtype 0 linewidth 1.2 linecolor rgb '%s' notitle, \\\n     ", color);
        put_group_rows(f, g, 3, 3, out);
        str_printf(out, " with linespoints linewidth 1.4 pointtype %d pointsize 1 linecolor rgb '%s' title ",
                   shapes[(g - f->front) / N_COLORS % (sizeof shapes / sizeof *shapes)], color);
    }
    put_group_name(f->groups[g], out);
}

static void put_groups(const struct figure *f, struct str *out) {
    for (size_t g = 0; g < f->n_groups; g++) {
        str_puts(out, g ? ", \\\n     " : "");
        put_group(f, g, out);
    }
}

/* Numbers at 0 and at 1 and 3 times the powers of ten on both sides. */
static void put_bent_axis(const struct figure *f, struct str *out) {
    str_puts(out, "set nonlinear y via asinh(y / ");
    text_put_double(out, f->y_bend);
    str_puts(out, ") inverse ");
    text_put_double(out, f->y_bend);
    str_puts(out, " * sinh(y)\nset ytics (0");
    for (double power = pow(10, floor(log10(f->y_bend))); power < 1e12; power *= 10)
        for (int i = 1; i <= 3; i += 2) {
            if (i * power <= f->y_high)
                str_printf(out, ", %.6g", i * power);
            if (-i * power >= f->y_low)
                str_printf(out, ", %.6g", -i * power);
        }
    str_puts(out, ")\n");
}

/* Without the first line and the first field, which name columns and rows. */
static void put_matrix(const struct figure *f, struct str *out) {
    str_printf(out, "'%s.csv' matrix skip 1 every 1::1 using ($1 - 1):2:3 with image pixels notitle", f->name);
}

static void put_matrix_axes(const struct figure *f, struct str *out) {
    str_printf(out, "unset key\nunset grid\nset xrange [-0.5:%zu.5]\nset yrange [%zu.5:-0.5]\nset cbrange [", f->n_x - 1,
               f->n_series - 1);
    text_put_double(out, f->y_low);
    str_putc(out, ':');
    text_put_double(out, f->y_high);
    str_puts(out, "]\nset palette defined (");
    for (int i = 0; i <= 16; i++) {
        struct rgb c = colormap_at(COLORMAP_DIVERGING, i / 16.0);
        str_printf(out, "%s%d '#%02x%02x%02x'", i ? ", " : "", i, c.r, c.g, c.b);
    }
    str_puts(out, ")\n");
    put_setting(out, "cblabel", f->z_title, " textcolor rgb '" TEXT_COLOR "'");
    put_ticks(f, "y", out);
}

static double largest_share(const struct figure *f) {
    double largest = 0;
    for (size_t i = 0; i < f->n_series * f->n_x; i++)
        if (f->series[i] > largest)
            largest = f->series[i];
    return largest > 0 ? largest : 1;
}

static void put_ridge_axis(const struct figure *f, struct str *out) {
    int every = 1;
    while (every * ridge_step(f) < 18)
        every++;
    str_printf(out, "set yrange [-0.3:%zu.9]\nset ytics (", f->n_series);
    for (size_t k = 0; k < f->n_series; k += (size_t)every)
        str_printf(out, "%s'%zu' %zu", k ? ", " : "", k, f->n_series - 1 - k);
    str_puts(out, ")\nset ytics scale 0\nunset grid\nset grid xtics linetype 1 linecolor rgb '#e3e6e9' linewidth "
                  "0.8\nheight(share) = 1.7 * sqrt(share / ");
    text_put_double(out, largest_share(f));
    str_puts(out, ")\n");
    for (size_t k = 0; k < f->n_series; k++)
        if (is_missing(f, k))
            str_printf(out,
                       "set label 'no values' at graph 0.62, first %zu.3 left front font ',9' textcolor rgb '" MUTED_COLOR
                       "'\n",
                       f->n_series - 1 - k);
}

static void put_ridges(const struct figure *f, struct str *out) {
    for (size_t k = 0; k < f->n_series; k++) {
        size_t base = f->n_series - 1 - k, column = (size_t)column_series(f) + k;
        struct rgb c = colormap_at(COLORMAP_VIRIDIS, f->n_series > 1 ? 0.92 * (double)k / (double)(f->n_series - 1) : 0.4);
        put_source(f, out);
        str_printf(out,
                   "1:(%zu):(%zu + height($%zu)) with filledcurves fillstyle solid 0.8 noborder linecolor rgb "
                   "'#%02x%02x%02x' notitle, \\\n     ",
                   base, base, column, c.r, c.g, c.b);
        put_source(f, out);
        str_printf(out, "1:(%zu + height($%zu)) with lines linewidth 0.8 linecolor rgb '" TEXT_COLOR "' notitle%s", base,
                   column, k + 1 < f->n_series ? ", \\\n     " : "");
    }
}

static void put_plot(const struct figure *f, struct str *out) {
    str_puts(out, "plot ");
    if (f->kind == FIGURE_LINES)
        put_lines(f, out);
    else if (f->kind == FIGURE_RIDGES)
        put_ridges(f, out);
    else if (f->kind == FIGURE_CURVES)
        put_curves(f, out);
    else if (f->kind == FIGURE_POINTS)
        put_groups(f, out);
    else if (f->kind == FIGURE_MATRIX)
        put_matrix(f, out);
    else
        put_profile(f, out);
    str_putc(out, '\n');
}

static double right_edge(const struct figure *f, bool colored) {
    if (f->kind == FIGURE_MATRIX)
        return 84 + MATRIX_SIDE;
    return WIDTH - (colored ? 104.0 : f->kind == FIGURE_POINTS ? KEY_WIDTH + 24.0 : 30.0);
}

/* Margins, key and colour bar at fixed places, so that text of any length cannot move the plot. */
static void put_frame(const struct figure *f, const struct frame *frame, struct str *out) {
    bool beside = f->kind == FIGURE_POINTS;
    double key = f->kind == FIGURE_RIDGES || beside ? 10 : KEY, top = frame->top + key, bottom = frame->foot + BOTTOM,
           height = frame->height;
    str_printf(
        out,
        "set lmargin at screen %.5f\nset rmargin at screen %.5f\nset tmargin at screen %.5f\nset bmargin at screen %.5f\n",
        84.0 / WIDTH, right_edge(f, frame->colored) / WIDTH, 1 - top / height, bottom / height);
    if (beside)
        str_printf(out,
                   "set key at screen %.5f, screen %.5f left top vertical Left reverse samplen 2 maxrows %zu textcolor rgb '"
                   TEXT_COLOR "'\n", 1 - (double)KEY_WIDTH / WIDTH, 1 - top / height, f->n_groups);
    else
        str_printf(out, "set key at screen %.5f, screen %.5f right top horizontal textcolor rgb '" TEXT_COLOR "'\n",
                   1 - 30.0 / WIDTH, 1 - frame->top / height);
    if (f->kind == FIGURE_RIDGES)
        str_puts(out, "unset key\n");
    if (frame->colored)
        str_printf(out, "set colorbox user origin screen %.5f, screen %.5f size screen %.5f, screen %.5f noborder\n",
                   (right_edge(f, true) + 20.0) / WIDTH, bottom / height, 16.0 / WIDTH, 1 - (top + bottom) / height);
}

static void put_title(const struct figure *f, const char *font, int height, struct str *out) {
    str_printf(out, "set label %d ", FIRST_LABEL);
    figure_put_quoted(out, f->title);
    str_printf(out, " at screen %.5f, screen %.5f left font '%s' textcolor rgb '" TEXT_COLOR "' noenhanced\n",
               (double)SIDE / WIDTH, 1 - 26.0 / height, font);
}

static void put_style(const struct figure *f, struct str *out) {
    str_puts(out, "set encoding utf8\nset datafile separator ','\nset border 3 linecolor rgb '" MUTED_COLOR "'\n"
                  "set tics nomirror out scale 0.6 textcolor rgb '" MUTED_COLOR "'\n"
                  "set grid linetype 1 linecolor rgb '#e3e6e9' linewidth 0.8\n");
    put_setting(out, "xlabel", f->x_title, " textcolor rgb '" TEXT_COLOR "'");
    put_setting(out, "ylabel", f->y_title, " textcolor rgb '" TEXT_COLOR "'");
    if (f->x_log)
        str_puts(out, "set logscale x 2\n");
    if (f->kind != FIGURE_MATRIX) {
        put_range(out, "x", f->x_low, f->x_high);
        put_range(out, "y", f->y_low, f->y_high);
    }
    put_ticks(f, "x", out);
    put_mark(f, out);
    if (f->kind == FIGURE_LINES && f->n_series > 0)
        put_palette(f->n_series, out);
    if (f->kind == FIGURE_RIDGES)
        put_ridge_axis(f, out);
    if (f->kind == FIGURE_MATRIX)
        put_matrix_axes(f, out);
    if (f->kind == FIGURE_POINTS && f->y_bend > 0)
        put_bent_axis(f, out);
}

static void put_svg(const struct figure *f, const struct frame *frame, const char *suffix, const char *background,
                    struct str *out) {
    str_printf(out, "set terminal svg noenhanced size %d,%d font 'DejaVu Sans,13'%s\nset output '%s%s.svg'\n", WIDTH,
               frame->height, background, f->name, suffix);
    put_frame(f, frame, out);
    str_puts(out, "replot\n");
}

/* The PNG, the SVG without title and caption on no ground (a page has those itself), and the whole SVG. In this order: the
 * ground of a terminal stays for the next one. */
static void put_outputs(const struct figure *f, const char *caption, struct str *out) {
    int n = count_lines(caption), foot = n * CAPTION_LEADING;
    bool colored = (f->kind == FIGURE_LINES || f->kind == FIGURE_MATRIX) && f->n_series > 0;
    struct frame whole = {(int)TITLE + plot_height(f) + foot, TITLE, foot, colored};
    struct frame plain = {plot_height(f) + 8, 8, 0, colored};
    put_title(f, "DejaVu Sans:Bold,13", whole.height, out); /* sizes in points here, in pixels in SVG */
    put_caption(caption, 9, whole.height, out);
    str_printf(out,
               "set terminal pngcairo noenhanced size %d,%d fontscale 2 linewidth 2 pointscale 2 font 'DejaVu Sans,10'"
               " background rgb 'white'\nset output '%s.png'\n",
               2 * WIDTH, 2 * whole.height, f->name);
    put_frame(f, &whole, out);
    put_plot(f, out);
    for (int i = 0; i <= n; i++)
        str_printf(out, "unset label %d\n", FIRST_LABEL + i);
    put_svg(f, &plain, "_plain", "", out);
    put_title(f, "DejaVu Sans,17", whole.height, out);
    put_caption(caption, CAPTION_SIZE, whole.height, out);
    put_svg(f, &whole, "", " background rgb 'white'", out);
    str_puts(out, "unset output\n");
}

void figure_put_script(const struct figure *f, struct str *out) {
    struct str caption = {0};
    wrap_caption(f, &caption);
    str_printf(out, "# Draws %s.png, %s.svg and %s_plain.svg from %s.csv: gnuplot %s.gp\n", f->name, f->name, f->name,
               f->name, f->name);
    put_style(f, out);
    put_outputs(f, str_text(&caption), out);
    out->failed |= caption.failed;
    str_free(&caption);
}
