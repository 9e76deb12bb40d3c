#include "tests/backends.h"

#include <stdio.h>

int backends_under_test(const struct ops *list[MAX_BACKENDS]) {
    int n = 0;
    list[n++] = ops_guard();
    return n;
}

bool backend_opens(const struct ops *ops, enum dtype dtype) {
    struct device_options options = {.n_threads = 1, .dtype = dtype};
    struct device *dev = NULL;
    struct err err = {0};
    if (ops->open(&options, &dev, &err) == OK) {
        ops->close(dev);
        return true;
    }
    printf("SKIP %s in %s: %s\n", ops->name, dtype_name(dtype), err.message);
    return false;
}
