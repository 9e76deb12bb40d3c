#include "analyze/paired.h"

#include <math.h>
#include <stdlib.h>

#include "analyze/bootstrap.h"
#include "base/mem.h"
#include "base/rng.h"

/* --- losses by document ----------------------------------------------------------------------------------------------- */

void document_losses_free(struct document_losses *l) {
    free(l->document);
    free(l->nll);
    free(l->n_predicted);
    free(l->far_nll);
    free(l->n_far);
    *l = (struct document_losses){0};
}

int document_losses_create(size_t n, struct document_losses *l, struct err *err) {
    *l = (struct document_losses){0};
    l->document = mem_alloc(n, sizeof *l->document, "losses by document", err);
    l->nll = mem_alloc(n, sizeof *l->nll, "losses by document", err);
    l->n_predicted = mem_alloc(n, sizeof *l->n_predicted, "losses by document", err);
    l->far_nll = mem_alloc(n, sizeof *l->far_nll, "losses by document", err);
    l->n_far = mem_alloc(n, sizeof *l->n_far, "losses by document", err);
    if (l->document && l->nll && l->n_predicted && l->far_nll && l->n_far)
        return OK;
    document_losses_free(l);
    return ERR_MEMORY;
}

/* The columns of a run that are added up by document. */
struct rows {
    uint64_t *document;   /* (S) */
    uint32_t *n_predicted;
    double *nll;
    float *token;         /* of the sequence in hand */
    size_t token_cap;
};

static int read_rows(struct profile *profile, size_t n, struct rows *r, struct err *err) {
    r->document = mem_alloc(n, sizeof *r->document, "documents", err);
    r->n_predicted = mem_alloc(n, sizeof *r->n_predicted, "predictions", err);
    r->nll = mem_alloc(n, sizeof *r->nll, "losses", err);
    if (!r->document || !r->n_predicted || !r->nll)
        return ERR_MEMORY;
    int rc = profile_read_rows(profile, PROFILE_SEQUENCE_DOCUMENT, 0, n, r->document, err);
    if (rc == OK)
        rc = profile_read_rows(profile, PROFILE_N_PREDICTED, 0, n, r->n_predicted, err);
    return rc == OK ? profile_read_rows(profile, PROFILE_NLL_SUM, 0, n, r->nll, err) : rc;
}

/* Adds the predictions of sequence `row` at positions far_from and later. */
static int add_far(struct profile *profile, size_t row, uint32_t far_from, struct rows *r, double *sum, double *count,
                   struct err *err) {
    uint64_t first;
    size_t n;
    int rc = profile_token_range(profile, row, &first, &n, err);
    if (rc != OK || n <= far_from)
        return rc;
    n -= far_from;
    if ((rc = mem_grow(&r->token, &r->token_cap, n, sizeof *r->token, "losses", err)) != OK ||
        (rc = profile_read_rows(profile, PROFILE_TOKEN_NLL, first + far_from, n, r->token, err)) != OK)
        return rc;
    for (size_t i = 0; i < n; i++)
        if (!isnan(r->token[i])) {
            *sum += (double)r->token[i];
            *count += 1;
        }
    return OK;
}

static int check_profile(const struct profile *profile, struct err *err) {
    if (profile_is_partial(profile))
        return err_set(err, ERR_INPUT, profile_path(profile), "the run is incomplete: finish it with --resume");
    if (!profile_has(profile, PROFILE_TOKEN_NLL))
        return err_set(err, ERR_INPUT, profile_path(profile), "the run recorded no tokens: profile again with --record "
                       "tokens");
    return OK;
}

int document_losses_read(struct profile *profile, uint32_t far_from, struct document_losses *out, struct err *err) {
    size_t n = profile_n_sequences(profile);
    struct document_losses l = {0};
    struct rows r = {0};
    *out = l;
    int rc = check_profile(profile, err);
    if (rc == OK && (rc = document_losses_create(n, &l, err)) == OK)
        rc = read_rows(profile, n, &r, err);
    for (size_t row = 0; rc == OK && row < n; row++) { /* documents ascend with the rows */
        if (l.n == 0 || l.document[l.n - 1] != r.document[row])
            l.document[l.n++] = r.document[row];
        l.nll[l.n - 1] += r.nll[row];
        l.n_predicted[l.n - 1] += r.n_predicted[row];
        rc = add_far(profile, row, far_from, &r, &l.far_nll[l.n - 1], &l.n_far[l.n - 1], err);
    }
    free(r.document);
    free(r.n_predicted);
    free(r.nll);
    free(r.token);
    if (rc == OK)
        *out = l;
    else
        document_losses_free(&l);
    return rc;
}

int document_losses_check(const struct document_losses *a, const char *a_name, const struct document_losses *b,
                          const char *b_name, struct err *err) {
    if (a->n != b->n)
        return err_set(err, ERR_INPUT, b_name, "holds %zu documents, %s has %zu: they are runs of different text", b->n,
                       a_name, a->n);
    for (size_t i = 0; i < a->n; i++)
        if (a->document[i] != b->document[i] || a->n_predicted[i] != b->n_predicted[i] || a->n_far[i] != b->n_far[i])
            return err_set(err, ERR_INPUT, b_name, "document %llu has other predictions than in %s: they are runs of "
                           "different text, or cut otherwise", (unsigned long long)b->document[i], a_name);
    return OK;
}

/* --- intervals -------------------------------------------------------------------------------------------------------- */

/* Part over whole in a resample, NaN where the whole is 0. Four documents a draw. */
static double resample(const double *part, const double *whole, size_t n, uint64_t seed, uint32_t number) {
    double p = 0, w = 0;
    for (size_t i = 0; i < n; i += 4) {
        struct rng_block counter = {{(uint32_t)i, (uint32_t)((uint64_t)i >> 32), number, 0}},
                         draw = rng_philox(seed, counter);
        for (size_t k = 0; k < 4 && i + k < n; k++) {
            size_t document = (size_t)(((uint64_t)draw.v[k] * n) >> 32);
            p += part[document];
            w += whole[document];
        }
    }
    return w != 0 ? p / w : NAN;
}

int interval_of_ratio(const double *part, const double *whole, size_t n, const struct resampling *r, struct estimate *out,
                      struct err *err) {
    double p = 0, w = 0, *values = mem_alloc(r->n, sizeof *values, "resamples", err);
    *out = (struct estimate){NAN, NAN, NAN};
    if (!values)
        return ERR_MEMORY;
    for (size_t i = 0; i < n; i++) {
        p += part[i];
        w += whole[i];
    }
    for (uint32_t i = 0; i < r->n; i++)
        values[i] = w != 0 ? resample(part, whole, n, r->seed, i) : (double)NAN;
    struct interval interval = interval_of(values, r->n, r->level);
    *out = (struct estimate){w != 0 ? p / w : (double)NAN, interval.low, interval.high};
    free(values);
    return OK;
}

/* Sum of (a - b) over sum of (c - d); d may be NULL. */
static int interval_of_differences(const double *a, const double *b, const double *c, const double *d, size_t n,
                                   const struct resampling *r, struct estimate *out, struct err *err) {
    double *part = mem_alloc(n, sizeof *part, "differences", err), *whole = mem_alloc(n, sizeof *whole, "differences", err);
    int rc = part && whole ? OK : ERR_MEMORY;
    for (size_t i = 0; rc == OK && i < n; i++) {
        part[i] = a[i] - b[i];
        whole[i] = c[i] - (d ? d[i] : 0);
    }
    if (rc == OK)
        rc = interval_of_ratio(part, whole, n, r, out, err);
    free(part);
    free(whole);
    return rc;
}

int paired_nll_change(const struct document_losses *x, const struct document_losses *base, const struct resampling *r,
                      struct estimate *out, struct err *err) {
    return interval_of_differences(x->nll, base->nll, base->nll, NULL, x->n, r, out, err);
}

int paired_gap_recovered(const struct document_losses *x, const struct document_losses *window,
                         const struct document_losses *full, const struct resampling *r, struct estimate *out,
                         struct err *err) {
    return interval_of_differences(window->far_nll, x->far_nll, window->far_nll, full->far_nll, x->n, r, out, err);
}

double paired_gap(const struct document_losses *window, const struct document_losses *full) {
    double w = 0, f = 0;
    for (size_t i = 0; i < full->n; i++) {
        w += window->far_nll[i];
        f += full->far_nll[i];
    }
    return f > 0 ? w / f - 1 : NAN;
}
