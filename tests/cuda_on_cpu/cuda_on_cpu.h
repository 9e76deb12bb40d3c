/* cuda_on_cpu.h - what tests say to the emulation of CUDA (cuda_runtime.h here): its seed, whether device memory is guarded,
 * and the op table that runs on it. One processor thread at a time. */
#ifndef SPKV_CUDA_ON_CPU_H
#define SPKV_CUDA_ON_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/ops.h"

/* kernels/cuda/ on this emulation; name "cuda-emulated". */
const struct ops *ops_cuda_emulated(void);

/* Order of the threads from the next launch on; each launch takes its own numbers. */
void cuda_on_cpu_seed(uint64_t seed);

/* Device memory is out of reach of the host between kernels and copies: the default, and slow where much memory is held.
 * To be set while nothing is allocated. Built with AddressSanitizer, memory comes from its heap instead, with its
 * checks of every access. */
void cuda_on_cpu_guard(bool guard);

/* What was wrong with the last launch that failed; "" when none did. */
const char *cuda_on_cpu_report(void);

/* Kernels with faults and their repaired twins, for tests of the emulation itself (faulty.cu): each runs with n numbers x
 * and writes n numbers or, where it sums, one. 0, or the error of the launch. */
int cuda_on_cpu_try_reverse(bool barrier, int n, const float *x, float *out);          /* static shared memory */
int cuda_on_cpu_try_scan(bool barrier, int n, const float *x, float *out);             /* running sums, one block */
int cuda_on_cpu_try_warp_sum(bool barrier, int n, const float *x, float *out);         /* shared memory within a warp */
int cuda_on_cpu_try_sum(bool atomic, int n, const float *x, float *out);               /* blocks add whole numbers */
int cuda_on_cpu_try_divergent(int kind, int n, const float *x, float *out);            /* barriers that not all reach */
int cuda_on_cpu_try_uninitialised(bool written, int n, const float *x, float *out);    /* shared memory, then memory */
int cuda_on_cpu_try_beyond(size_t n_beyond, int n, const float *x, float *out);        /* writes n + n_beyond numbers */

#ifdef __cplusplus
}
#endif

#endif
