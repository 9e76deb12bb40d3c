/* figure.h - a figure is data with axis titles, units and a caption; gnuplot draws it. In a directory appear NAME.csv (the
 * data), NAME.gp (a script that draws it again: `gnuplot NAME.gp` there), NAME.png, NAME.svg and NAME_plain.svg, which
 * leaves title and caption to the page around it. Where gnuplot is missing or fails, the pictures are left out, the notice
 * says why, and data and script stay.
 *
 * gnuplot runs as a program without a shell. Titles and captions may hold names of files and models: they reach the script
 * only inside single-quoted strings, in which gnuplot substitutes nothing, with straight quotes and backquotes turned into
 * typographic ones and "enhanced" markup off. */
#ifndef SPKV_REPORTS_FIGURE_H
#define SPKV_REPORTS_FIGURE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/str.h"

enum figure_kind {
    FIGURE_LINES, /* one line per series, coloured by its number (layers: the colour bar says which), `all` thick on top */
    FIGURE_RIDGES, /* one filled profile per series above its own base line, the first at the top, same scale for all */
    FIGURE_CURVES, /* one line per series in a colour of its own, named in the key; up to 6. Gaps are bridged */
    FIGURE_PROFILE, /* `all` as points over x; series 0 and 1 are the ends of a wide bar at each x; of four series,
                       2 and 3 are those of its interval */
    FIGURE_MATRIX,  /* series k at x[i] is the colour of row k, column i; colours from y_low to y_high = -y_low; ticks
                       stand at both axes, z_title along the colours */
    FIGURE_POINTS,  /* `points` with their intervals, those of a group joined by a line and named in the key */
};

/* A point of FIGURE_POINTS. Points of a group stand one after the other, in the order in which a line joins them. */
struct figure_point {
    size_t group;
    double x, y, low, high; /* NaN = no interval */
    const char *name;       /* CSV column "name" */
};

struct figure_tick {
    double at;
    char label[16];
};

struct figure {
    const char *name; /* stem of the files: a-z, 0-9, '-', '_' */
    enum figure_kind kind;
    const char *title, *x_title, *y_title, *z_title; /* units included */
    const char *const *caption; /* paragraphs */
    size_t n_caption;
    const char *alt; /* what a reader who cannot see the picture should know */

    size_t n_x;
    const char *x_name; /* its CSV column */
    const double *x; /* (n_x) */
    const double *from, *to; /* (n_x) ends of bins for the CSV, or NULL */
    const double *all; /* (n_x), NaN = missing, or NULL; CSV column "all" */
    const char *all_name; /* its name in the key */
    size_t n_series;
    const double *series; /* (n_series, n_x), NaN = missing */
    const char *const *series_names; /* CSV columns; NULL = layer_0, layer_1, ... */

    bool separate; /* FIGURE_LINES: x are names, no numbers, so that points are not joined */
    bool x_log; /* base 2 */
    double x_low, x_high, y_low, y_high; /* NaN = as the data are; of y in drawn units (y_unit) */
    const struct figure_tick *ticks; /* of x; n_ticks 0 = gnuplot's own */
    size_t n_ticks;
    const struct figure_point *points; /* (n_points) of FIGURE_POINTS, which has no other data */
    size_t n_points;
    const char *const *groups; /* (n_groups) */
    size_t n_groups;
    bool front; /* group 0 is no group but the line of those that no other beats */
    const char *y_name; /* CSV column of y; NAME_low and NAME_high are its interval */
    double y_unit; /* y is drawn in these: 0.01 = in percent; 0 = as it is */
    double y_bend; /* y is drawn as asinh(y / y_bend), in drawn units: room for small and large values; 0 = as it is */

    double mark; /* a dashed vertical line at this x; NaN = none */
    const char *mark_title;
};

struct figure_result {
    bool drawn;
    char notice[400]; /* why not, "" when drawn */
};

/* Writes all files below `dir`. `gnuplot` is the program (NULL = "gnuplot", found along PATH). Errors are those of writing
 * the data and the script; what gnuplot cannot do is a notice. */
int figure_write(const struct figure *figure, const char *dir, const char *gnuplot, struct figure_result *result,
                 struct err *err);

/* The parts, for tests: the data as CSV, the script, a string as gnuplot reads it. */
void figure_put_csv(const struct figure *figure, struct str *out);
void figure_put_script(const struct figure *figure, struct str *out);
void figure_put_quoted(struct str *out, const char *text);

#endif
