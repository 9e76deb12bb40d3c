/* run_figures.h - the figures of a run: utility histogram per layer, open gates against position and by
 * class of token, density per layer, attention mass against distance, correlation of heads. Each only where
 * the run has its data. */
#ifndef SPKV_REPORTS_RUN_FIGURES_H
#define SPKV_REPORTS_RUN_FIGURES_H

#include <stdbool.h>
#include <stddef.h>

#include "reports/figure.h"
#include "reports/run.h"

/* A figure with its memory. Makers fill it between the two: room for n_x points of x, from, to, all and n_series series,
 * everything else at its defaults; then the caption is put in its place, or, after a failure, all is released and rc
 * returned. */
struct run_figure {
    struct figure figure;
    double *numbers;            /* x, from, to, all, series */
    struct figure_tick *ticks;
    char **names;               /* (figure.n_series) of series that are named by number, or NULL */
    struct str context, explanation;
    char mark_title[64];
    const char *caption[2];
};

int run_figure_allocate(struct run_figure *f, size_t n_x, size_t n_series, struct err *err);
int run_figure_finish(struct run_figure *f, int rc, struct err *err);

enum run_figure_kind {
    RUN_FIGURE_LAYERS,
    RUN_FIGURE_UTILITY,
    RUN_FIGURE_POSITIONS,
    RUN_FIGURE_CLASSES,
    RUN_FIGURE_DISTANCE,
    RUN_FIGURE_CORRELATIONS,
    RUN_N_FIGURES
};

/* Whether the run has what the figure shows. */
bool run_has_figure(const struct run *run, enum run_figure_kind kind);
int run_figure_create(const struct run *run, enum run_figure_kind kind, struct run_figure *out, struct err *err);
void run_figure_free(struct run_figure *figure); /* legal on a zeroed struct */

#endif
