/* backends.h - the op tables that are compared with the reference, in one place. */
#ifndef SPKV_TESTS_BACKENDS_H
#define SPKV_TESTS_BACKENDS_H

#include "kernels/ops.h"

enum { MAX_BACKENDS = 8 };

/* Fills list with the tables that this machine can run and returns how many; prints SKIP for the others. */
int backends_under_test(const struct ops *list[MAX_BACKENDS]);

/* True when the table opens a device of this dtype here; otherwise prints SKIP and why. */
bool backend_opens(const struct ops *ops, enum dtype dtype);

#endif
