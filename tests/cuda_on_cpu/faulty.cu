/* Kernels with one fault each, and their repaired twins: what the emulation must show, and what it must leave alone. */
#include <cuda_runtime.h>

#include "tests/cuda_on_cpu/cuda_on_cpu.h"

enum { THREADS = 96 };

struct params {
    const float *x;
    float *out;
    int n;
    bool fine;
    int kind;
};

/* Numbers up, kernel, numbers down; 0 or the first error. */
static int run(void (*kernel)(struct params), int n_blocks, int n_threads, size_t shared_bytes, struct params p,
               const float *x_host, float *out_host, int n_out) {
    cudaLaunchConfig_t config = {};
    void *x = NULL, *out = NULL;
    config.gridDim = dim3((unsigned)n_blocks);
    config.blockDim = dim3((unsigned)n_threads);
    config.dynamicSmemBytes = shared_bytes;
    cudaMalloc(&x, (size_t)p.n * sizeof(float));
    cudaMalloc(&out, (size_t)n_out * sizeof(float));
    cudaMemcpyAsync(x, x_host, (size_t)p.n * sizeof(float), cudaMemcpyHostToDevice, NULL);
    cudaMemcpyAsync(out, out_host, (size_t)n_out * sizeof(float), cudaMemcpyHostToDevice, NULL);
    p.x = (const float *)x;
    p.out = (float *)out;
    cudaError_t status = cudaLaunchKernelEx(&config, kernel, p);
    cudaMemcpyAsync(out_host, out, (size_t)n_out * sizeof(float), cudaMemcpyDeviceToHost, NULL);
    cudaFree(x);
    cudaFree(out);
    return (int)status;
}

static __global__ void k_reverse(struct params p) {
    __shared__ float tile[THREADS];
    int first = (int)(blockIdx.x * blockDim.x), i = (int)threadIdx.x, last = (int)blockDim.x - 1;
    tile[i] = p.x[first + i];
    if (p.fine)
        __syncthreads();
    p.out[first + i] = tile[last - i];
}

int cuda_on_cpu_try_reverse(bool barrier, int n, const float *x, float *out) {
    struct params p = {NULL, NULL, n, barrier, 0};
    return run(k_reverse, n / THREADS, THREADS, 0, p, x, out, n);
}

/* Hillis and Steele, with the barrier between reading and writing left out. */
static __global__ void k_scan(struct params p) {
    float *sum = (float *)cuda_shared();
    int i = (int)threadIdx.x;
    sum[i] = p.x[i];
    __syncthreads();
    for (int delta = 1; delta < p.n; delta *= 2) {
        float left = i >= delta ? sum[i - delta] : 0;
        if (p.fine)
            __syncthreads();
        sum[i] += left;
        __syncthreads();
    }
    p.out[i] = sum[i];
}

int cuda_on_cpu_try_scan(bool barrier, int n, const float *x, float *out) {
    struct params p = {NULL, NULL, n, barrier, 0};
    return run(k_scan, 1, n, (size_t)n * sizeof(float), p, x, out, n);
}

/* Every lane sums what all lanes of its warp wrote. */
static __global__ void k_warp_sum(struct params p) {
    float *tile = (float *)cuda_shared(), sum = 0;
    int i = (int)threadIdx.x;
    tile[i] = p.x[i];
    if (p.fine)
        __syncwarp();
    for (int j = 0; j < 32; j++)
        sum += tile[i / 32 * 32 + j];
    p.out[i] = sum;
}

int cuda_on_cpu_try_warp_sum(bool barrier, int n, const float *x, float *out) {
    struct params p = {NULL, NULL, n, barrier, 0};
    return run(k_warp_sum, 1, n, (size_t)n * sizeof(float), p, x, out, n);
}

/* The first thread of a block adds its number to the sum; without atomics others come between reading and writing, which
 * shows because the block's barrier stands there. */
static __global__ void k_sum(struct params p) {
    int *total = (int *)(void *)p.out, own = (int)p.x[blockIdx.x], seen = 0;
    if (p.fine) {
        if (threadIdx.x == 0)
            atomicAdd(total, own);
        return;
    }
    if (threadIdx.x == 0)
        seen = *total;
    __syncthreads();
    if (threadIdx.x == 0)
        *total = seen + own;
}

int cuda_on_cpu_try_sum(bool atomic, int n, const float *x, float *out) {
    struct params p = {NULL, NULL, n, atomic, 0};
    int total = 0, rc;
    memcpy(out, &total, sizeof total);
    rc = run(k_sum, n, 32, 0, p, x, out, 1);
    memcpy(&total, out, sizeof total);
    *out = (float)total;
    return rc;
}

static __global__ void k_divergent(struct params p) {
    int i = (int)threadIdx.x;
    if (p.kind == 0 && i < 32) /* half of them go */
        return;
    if (p.kind == 1) {         /* two barriers for one */
        if (i < 32)
            __syncthreads();
        else
            __syncthreads();
    } else if (p.kind == 2 && i % 32 < 16) { /* half of a warp */
        __syncwarp();
    } else if (p.kind == 3 && i < 32) { /* one warp more often */
        __syncthreads();
    }
    __syncthreads();
    p.out[i] = p.x[i];
}

int cuda_on_cpu_try_divergent(int kind, int n, const float *x, float *out) {
    struct params p = {NULL, NULL, n, false, kind};
    return run(k_divergent, 1, n, 0, p, x, out, n);
}

static __global__ void k_uninitialised(struct params p) {
    float *tile = (float *)cuda_shared();
    int i = (int)threadIdx.x;
    if (p.fine)
        tile[i] = 0;
    p.out[i] = p.x[i] + tile[i];
}

int cuda_on_cpu_try_uninitialised(bool written, int n, const float *x, float *out) {
    struct params p = {NULL, NULL, n, written, 0};
    return run(k_uninitialised, 1, n, (size_t)n * sizeof(float), p, x, out, n);
}

static __global__ void k_beyond(struct params p) {
    for (int i = (int)threadIdx.x; i < p.n + p.kind; i += (int)blockDim.x)
        p.out[i] = i < p.n ? p.x[i] : 1;
}

int cuda_on_cpu_try_beyond(size_t n_beyond, int n, const float *x, float *out) {
    struct params p = {NULL, NULL, n, false, (int)n_beyond};
    return run(k_beyond, 1, 32, 0, p, x, out, n);
}
