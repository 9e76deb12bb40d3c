/* cpu.h - what the CPU backend offers beside ops_cpu(). */
#ifndef SPKV_KERNELS_CPU_CPU_H
#define SPKV_KERNELS_CPU_CPU_H

#include <stdbool.h>

#include "kernels/ops.h"

/* True when this process may use AMX with bf16 operands: processor, operating system and permission. BF16 devices open
 * only then; elsewhere bf16 products would be slower than f32 ones. */
bool ops_cpu_has_amx(void);

/* The CPU backend held to one instruction set: "scalar", "avx2", "avx512" or "amx". NULL when the machine lacks it or
 * the name is unknown. For tests and measurements; ops_cpu() takes the best. */
const struct ops *ops_cpu_variant(const char *isa);

#endif
