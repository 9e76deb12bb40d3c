#include "tests/op_pair.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/backends.h"

struct duo duo_make(const struct pair *p, enum dtype dtype, size_t n, const double *values) {
    return (struct duo){buf_make(&p->got, dtype, n, values), buf_make(&p->want, dtype, n, values)};
}

struct duo duo_bytes(const struct pair *p, size_t n_bytes, const void *bytes) {
    return (struct duo){buf_bytes(&p->got, n_bytes, bytes), buf_bytes(&p->want, n_bytes, bytes)};
}

void *on(const struct duo *d, int side) {
    return side ? d->want.ptr : d->got.ptr;
}

const struct backend *side_of(const struct pair *p, int side) {
    return side ? &p->want : &p->got;
}

void duo_free(struct duo *d) {
    buf_free(&d->got);
    buf_free(&d->want);
}

void duo_finish(const struct pair *p, const char *op, struct duo *d, const double *tol, double relative) {
    char what[128];
    double *got = zalloc(d->got.n, sizeof *got), *want = zalloc(d->got.n, sizeof *want);
    double *limit = zalloc(d->got.n, sizeof *limit);
    snprintf(what, sizeof what, "%s, %s", op, p->what);
    buf_read(&d->got, got);
    buf_read(&d->want, want);
    for (size_t i = 0; i < d->got.n; i++)
        limit[i] = (tol ? tol[i] : 0) + (isfinite(want[i]) ? relative * fabs(want[i]) : 0);
    compare(what, got, want, limit, d->got.n);
    free(got), free(want), free(limit);
    duo_free(d);
}

double *random_values(struct pair *p, size_t n, double lo, double hi, enum dtype dtype) {
    double *x = zalloc(n, sizeof *x);
    rnd_fill(&p->rnd, x, n, lo, hi);
    round_all(x, n, dtype);
    return x;
}

static void case_run(const struct op_case *c, bool trains) {
    static const size_t rows[] = {0, 1, 17, 97}, cols[] = {1, 17, 64, 97};
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    const struct ops *list[MAX_BACKENDS];
    int n = backends_under_test(list);
    for (int b = 0; b < n; b++)
        for (int d = 0; d < 2; d++) {
            if (!backend_opens(list[b], dtypes[d], NULL) || (trains && !list[b]->train))
                continue;
            int n_threads = 1 + (b + d) % 2; /* not 2 everywhere: idle threads spin, and tests share the machine */
            struct pair p = {.rnd = {.seed = 11}};
            for (int shape = 0; shape < 16; shape++) { /* a device each: what the guard frees, it keeps locked */
                size_t n_rows = rows[shape / 4], n_cols = cols[shape % 4];
                p.got = backend_open_on(list[b], dtypes[d], n_threads);
                p.want = backend_open(ops_ref(), dtypes[d]);
                snprintf(p.what, sizeof p.what, "%s %s %zux%zu", list[b]->name, dtype_name(dtypes[d]), n_rows, n_cols);
                c->run(&p, n_rows, n_cols);
                backend_close(&p.got);
                backend_close(&p.want);
            }
        }
}

static void case_run_any(void **state) {
    case_run(*state, false);
}

static void case_run_trained(void **state) {
    case_run(*state, true);
}

static int cases_run(const struct op_case *cases, size_t n, CMUnitTestFunction run) {
    struct CMUnitTest tests[32];
    ASSERT(n <= sizeof tests / sizeof *tests);
    for (size_t i = 0; i < n; i++)
        tests[i] = (struct CMUnitTest){.name = cases[i].name, .test_func = run,
                                       .initial_state = (void *)(uintptr_t)&cases[i]};
    backends_print_skipped();
    /* cmocka_run_group_tests() wants an array of known size */
    return _cmocka_run_group_tests("ops", tests, n, NULL, NULL);
}

int op_cases_run(const struct op_case *cases, size_t n) {
    return cases_run(cases, n, case_run_any);
}

int train_cases_run(const struct op_case *cases, size_t n) {
    const struct ops *list[MAX_BACKENDS];
    int n_backends = backends_under_test(list);
    for (int i = 0; i < n_backends; i++)
        if (!list[i]->train)
            printf("SKIP %s: it does not train\n", list[i]->name);
    return cases_run(cases, n, case_run_trained);
}
