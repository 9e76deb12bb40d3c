#include "datasets/fit.h"

/* Between lo, which fits, and hi, which does not, or is the most there can be. */
struct bracket {
    size_t lo, lo_tok, hi, hi_tok;
    bool hi_fails;
    double slope; /* tokens a unit, as seen last */
};

/* Where the straight line between both ends, or from lo on, reaches the target. Every third try halves, so that it ends. */
static size_t next_try(const struct bracket *b, size_t target, int step) {
    double room = (double)(target - b->lo_tok), width = (double)(b->hi - b->lo);
    double ahead = b->hi_fails ? room * width / (double)(b->hi_tok - b->lo_tok) : room / b->slope;
    if (b->hi_fails && step % 3 == 2)
        ahead = width / 2;
    size_t last = b->hi_fails ? b->hi - 1 : b->hi;
    if (step == 0)
        ahead = 8;
    if (ahead >= (double)(last - b->lo))
        return last;
    return b->lo + (ahead < 1 ? 1 : (size_t)ahead);
}

int fit_largest(const struct fit *fit, size_t *n, bool *fits, size_t *n_tok, struct err *err) {
    struct bracket b = {.lo = fit->least, .hi = fit->most, .slope = 1};
    size_t measured = b.lo, tok;
    int rc = fit->length(fit->self, b.lo, &b.lo_tok, err);
    *fits = b.lo_tok <= fit->target;
    for (int step = 0; rc == OK && *fits && (b.hi_fails ? b.hi - b.lo > 1 : b.hi > b.lo); step++) {
        measured = next_try(&b, fit->target, step);
        if ((rc = fit->length(fit->self, measured, &tok, err)) != OK)
            break;
        b.slope = tok > b.lo_tok ? (double)(tok - b.lo_tok) / (double)(measured - b.lo) : 1;
        if (tok <= fit->target) {
            b.lo = measured;
            b.lo_tok = tok;
        } else {
            b.hi = measured;
            b.hi_tok = tok;
            b.hi_fails = true;
        }
    }
    *n = b.lo;
    *n_tok = b.lo_tok;
    return rc == OK && measured != b.lo ? fit->length(fit->self, b.lo, n_tok, err) : rc;
}
