#include "analyze/calibration.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

/* As near to 0 as f32 comes, and to 1 as a sigmoid does. */
static const double LEAST_LOGIT = -88, LARGEST_LOGIT = 17;

/* The scale of the search: along it more is read. */
static double to_scale(const struct calibration *c, double value) {
    double x = value;
    if (c->scale == CALIBRATION_LOGIT)
        x = value <= 0 ? LEAST_LOGIT : value >= 1 ? LARGEST_LOGIT : log(value / (1 - value));
    else if (c->scale == CALIBRATION_LOG)
        x = value <= 0 ? LEAST_LOGIT : log(value);
    return c->rising ? x : -x;
}

static double from_scale(const struct calibration *c, double place) {
    double x = c->rising ? place : -place;
    return c->scale == CALIBRATION_LOGIT ? 1 / (1 + exp(-x)) : c->scale == CALIBRATION_LOG ? exp(x) : x;
}

struct end {
    double place, reached;
    bool measured;
};

/* The nearest places below and above; the ends of the scale where nothing was measured. */
static void find_bracket(const struct calibration *c, double wanted, struct end *low, struct end *high) {
    double a = to_scale(c, c->min), b = to_scale(c, c->max);
    *low = (struct end){a < b ? a : b, c->least, false};
    *high = (struct end){a < b ? b : a, 1, false};
    for (size_t i = 0; i < c->n; i++) {
        struct end step = {to_scale(c, c->steps[i].value), c->steps[i].reached, true};
        if (step.reached < wanted && step.place >= low->place)
            *low = step;
        else if (step.reached >= wanted && step.place <= high->place)
            *high = step;
    }
}

/* Whether two steps beside a place read the same: on the way from there to an end nothing may change any more. */
static bool is_flat(const struct calibration *c, const struct end *end) {
    size_t n = 0;
    for (size_t i = 0; i < c->n; i++)
        n += c->steps[i].reached == end->reached;
    return n >= 2;
}

static double between(const struct calibration *c, double wanted, const struct end *low, const struct end *high) {
    double frac = 0.5, width = high->place - low->place;
    if (isfinite(low->place) && !low->measured && high->measured && is_flat(c, high))
        return low->place;
    if (isfinite(high->place) && !high->measured && low->measured && is_flat(c, low))
        return high->place;
    if (isinf(low->place) && isinf(high->place))
        return 0;
    if (isinf(high->place))
        return low->place + fmax(1, fabs(low->place));
    if (isinf(low->place))
        return high->place - fmax(1, fabs(high->place));
    if ((c->n - c->n_earlier) % 3 != 2 && high->reached > low->reached)
        frac = fmin(fmax((wanted - low->reached) / (high->reached - low->reached), 0.1), 0.9);
    return low->place + frac * width;
}

void calibration_begin(struct calibration *c) {
    c->n_earlier = c->n;
}

static bool measured(const struct calibration *c, double value) {
    for (size_t i = 0; i < c->n; i++)
        if (c->steps[i].value == value)
            return true;
    return false;
}

bool calibration_next(const struct calibration *c, double wanted, double tolerance, double *value) {
    const struct calibration_step *best = calibration_best(c, wanted);
    struct end low, high;
    if (best && fabs(best->reached - wanted) <= tolerance * wanted)
        return false;
    find_bracket(c, wanted, &low, &high);
    double place = between(c, wanted, &low, &high);
    if (!c->whole) {
        *value = from_scale(c, place);
        return high.place - low.place > 1e-9 * fmax(1, fabs(place)) && !measured(c, *value);
    }
    place = round(place);
    if (high.place - low.place > 1)
        place = fmin(fmax(place, low.place + 1), high.place - 1);
    else /* neighbours: an end of the scale may not have been measured itself */
        place = measured(c, from_scale(c, low.place)) ? high.place : low.place;
    *value = from_scale(c, place);
    return !measured(c, *value);
}

int calibration_add(struct calibration *c, double value, double reached, struct err *err) {
    int rc = mem_grow(&c->steps, &c->cap, c->n + 1, sizeof *c->steps, "steps of a calibration", err);
    if (rc == OK)
        c->steps[c->n++] = (struct calibration_step){value, reached};
    return rc;
}

const struct calibration_step *calibration_best(const struct calibration *c, double wanted) {
    const struct calibration_step *best = NULL;
    for (size_t i = 0; i < c->n; i++)
        if (!best || fabs(c->steps[i].reached - wanted) < fabs(best->reached - wanted))
            best = &c->steps[i];
    return best;
}

void calibration_free(struct calibration *c) {
    free(c->steps);
    c->steps = NULL;
    c->n = c->cap = 0;
}
