/* candidate_figures.h - candidates side by side: coverage of layouts against the bytes they keep, loss and gap recovered
 * against what is read or kept, a line a strategy or policy, and the front of those that no other beats on both axes. */
#ifndef SPKV_REPORTS_CANDIDATE_FIGURES_H
#define SPKV_REPORTS_CANDIDATE_FIGURES_H

#include "reports/candidates.h"
#include "reports/figure.h"
#include "reports/table.h"

enum candidate_figure_kind {
    CANDIDATE_COVERAGE,         /* layouts: coverage over the share of KV pairs kept at 32,768 tokens, predicted */
    CANDIDATE_LAYOUT_ZERO_SHOT, /* layouts: change of the loss over KV bytes, as measured */
    CANDIDATE_LAYOUT_HEALED,
    CANDIDATE_LOSS,             /* tables and runs: change of the loss over the read fraction */
    CANDIDATE_LOSS_ZERO_SHOT,
    CANDIDATE_LOSS_HEALED,
    CANDIDATE_GAP,              /* the same: gap recovered */
    CANDIDATE_GAP_ZERO_SHOT,
    CANDIDATE_GAP_HEALED,
    CANDIDATE_N_FIGURES
};

struct candidate_figure {
    struct figure figure;
    struct figure_point *points;
    const char **groups;
    struct str origin;
    const char *caption[2];
};

/* Whether there is anything to draw: a point with both coordinates. */
bool candidates_have_figure(const struct candidates *candidates, enum candidate_figure_kind kind);

/* Release with candidate_figure_free(). The candidates must stay as long. */
int candidate_figure_create(const struct candidates *candidates, enum candidate_figure_kind kind,
                            struct candidate_figure *out, struct err *err);
void candidate_figure_free(struct candidate_figure *figure); /* legal on a zeroed struct */

/* All candidates with all numbers; a new table. */
void candidate_table(const struct candidates *candidates, struct table *out);

#endif
