/* op_pair.h - one op, the same inputs, two op tables: a backend under test beside the reference.
 *
 * Tolerances. U = eps(f32) = 2^-23 is the spacing of f32 at 1, twice the rounding error. A dot product of f32 sums gets
 * 4 U |a| |b|; a sum of n positive terms is off by at most n U / 2 of itself in any order; an output rounded to its dtype
 * adds eps(out) |ref|. Each case says what else it needs. */
#ifndef SPKV_TESTS_OP_PAIR_H
#define SPKV_TESTS_OP_PAIR_H

#include "tests/op_util.h"

#define U 0x1p-23

/* A backend under test and the reference, opened with the same dtype. */
struct pair {
    struct backend got, want;
    struct rnd rnd;
    char what[96]; /* "cpu-avx2 bf16 97x17" for messages */
};

/* The same buffer on both. */
struct duo {
    struct buf got, want;
};

struct duo duo_make(const struct pair *p, enum dtype dtype, size_t n, const double *values);
struct duo duo_bytes(const struct pair *p, size_t n_bytes, const void *bytes);
void duo_free(struct duo *d);
/* Compares within tol + relative * |reference|, and frees; tol NULL: 0. */
void duo_finish(const struct pair *p, const char *op, struct duo *d, const double *tol, double relative);

/* Side 0 is the backend under test, side 1 the reference: its device address of a buffer, and itself. */
void *on(const struct duo *d, int side);
const struct backend *side_of(const struct pair *p, int side);

/* n numbers that the dtype can hold, freed by the caller. */
double *random_values(struct pair *p, size_t n, double lo, double hi, enum dtype dtype);

struct op_case {
    const char *name;
    void (*run)(struct pair *p, size_t n_rows, size_t n_cols);
};

/* Runs the cases as one cmocka group: each on every backend that opens, in f32 and bf16, with 0, 1, 17 and 97 rows of
 * 1, 17, 64 and 97 columns. Returns what main() should. */
int op_cases_run(const struct op_case *cases, size_t n);
/* The same on the backends that have ops->train. */
int train_cases_run(const struct op_case *cases, size_t n);

#endif
