/* backends.h - the op tables that are compared with the reference, in one place. */
#ifndef SPKV_TESTS_BACKENDS_H
#define SPKV_TESTS_BACKENDS_H

#include "kernels/ops.h"

enum { MAX_BACKENDS = 8 };

/* Fills list with the tables that this machine can run and returns how many. */
int backends_under_test(const struct ops *list[MAX_BACKENDS]);

/* Whether the table opens a device of this dtype here; `err` says why not. */
bool backend_opens(const struct ops *ops, enum dtype dtype, struct err *err);

/* False for the emulated CUDA backend, which is slow, unless SPKV_TEST_FULL is set: a test may take a part of its seeds. */
bool backend_in_full(const struct ops *ops);

/* Prints SKIP and the reason for everything that cannot be tested here. */
void backends_print_skipped(void);

#endif
