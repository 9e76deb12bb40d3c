#include "tests/cuda_on_cpu/cuda_on_cpu.h"

const struct ops *ops_cuda_emulated(void) {
    static struct ops ops;
    ops = *ops_cuda();
    ops.name = "cuda-emulated";
    return &ops;
}
