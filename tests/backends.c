#include "tests/backends.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/cpu/cpu.h"
#include "tests/cuda_on_cpu/cuda_on_cpu.h"

static const char *const cpu_variants[] = {"scalar", "avx2", "avx512", "amx"};

int backends_under_test(const struct ops *list[MAX_BACKENDS]) {
    int n = 0;
    list[n++] = ops_guard();
    for (size_t i = 0; i < sizeof cpu_variants / sizeof *cpu_variants; i++)
        if ((list[n] = ops_cpu_variant(cpu_variants[i])))
            n++;
    list[n++] = ops_cuda_emulated();
    if (ops_cuda())
        list[n++] = ops_cuda();
    return n;
}

bool backend_opens(const struct ops *ops, enum dtype dtype, struct err *err) {
    struct device_options options = {.n_threads = 1, .dtype = dtype};
    struct device *dev = NULL;
    if (ops->open(&options, &dev, err))
        return false;
    ops->close(dev);
    return true;
}

bool backend_in_full(const struct ops *ops) {
    return ops != ops_cuda_emulated() || getenv("SPKV_TEST_FULL");
}

void backends_print_skipped(void) {
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    const struct ops *list[MAX_BACKENDS];
    int n = backends_under_test(list);
    for (size_t i = 0; i < sizeof cpu_variants / sizeof *cpu_variants; i++)
        if (!ops_cpu_variant(cpu_variants[i]))
            printf("SKIP cpu-%s: this machine lacks it\n", cpu_variants[i]);
    for (int i = 0; i < n; i++)
        for (int d = 0; d < 2; d++) {
            struct err err = {0};
            if (!backend_opens(list[i], dtypes[d], &err))
                printf("SKIP %s in %s: %s\n", list[i]->name, dtype_name(dtypes[d]), err.message);
        }
}
