/* run_figures.h - the figures of a run: utility histogram per layer, open gates against position, density per layer,
 * attention mass against distance. Each only where the run has its data. */
#ifndef SPKV_REPORTS_RUN_FIGURES_H
#define SPKV_REPORTS_RUN_FIGURES_H

#include <stdbool.h>
#include <stddef.h>

#include "reports/figure.h"
#include "reports/run.h"

/* A figure with its memory. */
struct run_figure {
    struct figure figure;
    double *numbers;            /* x, from, to, all, series */
    struct figure_tick *ticks;
    struct str context, explanation;
    char mark_title[64];
    const char *caption[2];
};

enum run_figure_kind { RUN_FIGURE_LAYERS, RUN_FIGURE_UTILITY, RUN_FIGURE_POSITIONS, RUN_FIGURE_DISTANCE, RUN_N_FIGURES };

/* Whether the run has what the figure shows. */
bool run_has_figure(const struct run *run, enum run_figure_kind kind);
int run_figure_create(const struct run *run, enum run_figure_kind kind, struct run_figure *out, struct err *err);
void run_figure_free(struct run_figure *figure); /* legal on a zeroed struct */

#endif
