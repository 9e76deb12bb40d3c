/* training_curves.h - the figures of a training run: losses, densities, and the density of every layer over its steps. */
#ifndef SPKV_REPORTS_TRAINING_CURVES_H
#define SPKV_REPORTS_TRAINING_CURVES_H

#include <stdbool.h>

#include "reports/run_figures.h"
#include "reports/training_log.h"

enum training_curve { TRAINING_CURVE_LOSS, TRAINING_CURVE_DENSITY, TRAINING_CURVE_LAYERS, TRAINING_N_CURVES };

/* Whether the log has what the figure shows: a dense run has no density. */
bool training_has_curve(const struct training_log *log, enum training_curve curve);

/* Release with run_figure_free(). The log must stay as long. */
int training_curve_create(const struct training_log *log, enum training_curve curve, struct run_figure *out,
                          struct err *err);

/* Appends what the log ends with: steps, tokens, losses, density. */
void training_put_summary(const struct training_log *log, struct str *out);

#endif
