/* calibration.h - finds the value of a knob at which a policy reads a wanted share of the pairs, from as few measurements as
 * it can: false position between the two nearest steps, halving on every third one. What was measured for one share serves
 * the next. Exact functions of the steps: a search that begins again with the same steps ends the same. One thread. */
#ifndef SPKV_ANALYZE_CALIBRATION_H
#define SPKV_ANALYZE_CALIBRATION_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct calibration_step {
    double value, reached; /* of the knob; the read fraction, 0 to 1 */
};

/* The knob is searched as x, log(x / (1 - x)) or log(x). */
enum calibration_scale { CALIBRATION_LINEAR, CALIBRATION_LOGIT, CALIBRATION_LOG };

struct calibration {
    /* Set by the caller. */
    double min, max;  /* of the knob; either may be infinite; 0 and 1 with LOGIT, 0 and infinite with LOG */
    bool rising;      /* a larger value reads more */
    bool whole;       /* only whole numbers */
    enum calibration_scale scale;
    double least;     /* what is read at the closed end, about: where the search begins. The open end reads everything */
    /* Filled by calibration_add(). */
    struct calibration_step *steps;
    size_t n, cap;
    size_t n_earlier; /* steps of earlier searches: calibration_begin() */
};

/* Another read fraction is wanted now. */
void calibration_begin(struct calibration *c);


/* The next value to measure on the way to `wanted`; false when a step is within tolerance (relative), or none is left
 * between the two nearest. */
bool calibration_next(const struct calibration *c, double wanted, double tolerance, double *value);
int calibration_add(struct calibration *c, double value, double reached, struct err *err);

/* The step that reads the nearest to `wanted`; NULL before the first. */
const struct calibration_step *calibration_best(const struct calibration *c, double wanted);
void calibration_free(struct calibration *c); /* the steps; legal on a zeroed struct */

#endif
