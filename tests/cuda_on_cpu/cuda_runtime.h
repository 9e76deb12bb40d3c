/* cuda_runtime.h - stands in for the header of the toolkit, so that the host C++ compiler builds kernels/cuda/ as it is.
 *
 * Threads of a block are coroutines of one processor thread. Each runs until it waits at a barrier, exchanges something with
 * its warp or ends; then another ready thread of any resident block is drawn from seeded random numbers. A result that
 * depends on an order which no barrier fixes therefore changes with the seed. Shared memory and fresh device memory are
 * full of NaNs (bytes 0xFF), and device memory cannot be read outside kernels and copies (cuda_on_cpu.h).
 *
 * Not proven this way: races of plain reads and writes whose result does not depend on the order of whole threads (a lost
 * update, a torn value), the weak memory order between blocks and within a warp (a shuffle or vote orders memory here, on a
 * GPU only __syncwarp does), everything about speed. Streams and events run at once. */
#ifndef SPKV_CUDA_ON_CPU_RUNTIME_H
#define SPKV_CUDA_ON_CPU_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CUDA_ON_CPU 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
/* Static shared memory, in functions that are no templates: one section, exchanged when another block goes on. */
#define __shared__ static __attribute__((section("cuda_shared")))

/* ---- where a thread is -------------------------------------------------------------------------------------------- */

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

extern struct uint3 threadIdx, blockIdx; /* of the running thread */
extern dim3 blockDim, gridDim;
enum { warpSize = 32 };

void *cuda_shared(void); /* dynamic shared memory of the running block */

/* ---- barriers, warps ---------------------------------------------------------------------------------------------- */

void cuda_on_cpu_barrier(const char *file, int line);
/* Waits until all lanes of the warp have come and returns what each brought; valid until the second exchange from here. */
const uint64_t *cuda_on_cpu_exchange(unsigned mask, uint64_t mine, const char *file, int line);
int cuda_on_cpu_lane(void);

#define CUDA_ON_CPU_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

static inline void __syncthreads(CUDA_ON_CPU_PLACE) {
    cuda_on_cpu_barrier(file, line);
}

static inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, CUDA_ON_CPU_PLACE) {
    cuda_on_cpu_exchange(mask, 0, file, line);
}

template <typename T>
static inline T cuda_on_cpu_take(uint64_t bits) {
    T value;
    static_assert(sizeof value <= sizeof bits, "at most 8 bytes are exchanged");
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename T>
static inline uint64_t cuda_on_cpu_give(T value) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}

template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int source, CUDA_ON_CPU_PLACE) {
    return cuda_on_cpu_take<T>(cuda_on_cpu_exchange(mask, cuda_on_cpu_give(value), file, line)[source & 31]);
}

template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, CUDA_ON_CPU_PLACE) {
    return cuda_on_cpu_take<T>(cuda_on_cpu_exchange(mask, cuda_on_cpu_give(value), file,
                                                    line)[(cuda_on_cpu_lane() ^ lanes) & 31]);
}

template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, CUDA_ON_CPU_PLACE) {
    const uint64_t *all = cuda_on_cpu_exchange(mask, cuda_on_cpu_give(value), file, line);
    int source = cuda_on_cpu_lane() - (int)delta;
    return source < 0 ? value : cuda_on_cpu_take<T>(all[source]);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_CPU_PLACE) {
    const uint64_t *all = cuda_on_cpu_exchange(mask, predicate != 0, file, line);
    unsigned votes = 0;
    for (int i = 0; i < warpSize; i++)
        votes |= (unsigned)all[i] << i;
    return votes;
}

static inline int __any_sync(unsigned mask, int predicate, CUDA_ON_CPU_PLACE) {
    return __ballot_sync(mask, predicate, file, line) != 0;
}

static inline int __all_sync(unsigned mask, int predicate, CUDA_ON_CPU_PLACE) {
    return __ballot_sync(mask, predicate, file, line) == 0xFFFFFFFFu;
}

static inline int __reduce_max_sync(unsigned mask, int value, CUDA_ON_CPU_PLACE) {
    const uint64_t *all = cuda_on_cpu_exchange(mask, cuda_on_cpu_give(value), file, line);
    int best = cuda_on_cpu_take<int>(all[0]);
    for (int i = 1; i < warpSize; i++)
        best = cuda_on_cpu_take<int>(all[i]) > best ? cuda_on_cpu_take<int>(all[i]) : best;
    return best;
}

static inline int __reduce_add_sync(unsigned mask, int value, CUDA_ON_CPU_PLACE) {
    const uint64_t *all = cuda_on_cpu_exchange(mask, cuda_on_cpu_give(value), file, line);
    unsigned sum = 0;
    for (int i = 0; i < warpSize; i++)
        sum += cuda_on_cpu_take<unsigned>(all[i]);
    return (int)sum;
}

/* ---- atomics, arithmetic ------------------------------------------------------------------------------------------ */

/* Another thread may go first. */
void cuda_on_cpu_yield(void);

template <typename T>
static inline T cuda_on_cpu_atomic_add(T *address, T value) {
    cuda_on_cpu_yield();
    T old = *address;
    *address = old + value;
    return old;
}

static inline int atomicAdd(int *address, int value) {
    return cuda_on_cpu_atomic_add(address, value);
}

static inline unsigned long long atomicAdd(unsigned long long *address, unsigned long long value) {
    return cuda_on_cpu_atomic_add(address, value);
}

static inline int atomicSub(int *address, int value) {
    return cuda_on_cpu_atomic_add(address, -value);
}

static inline int atomicMax(int *address, int value) {
    cuda_on_cpu_yield();
    int old = *address;
    *address = old > value ? old : value;
    return old;
}

static inline int atomicMin(int *address, int value) {
    cuda_on_cpu_yield();
    int old = *address;
    *address = old < value ? old : value;
    return old;
}

static inline int atomicCAS(int *address, int compare, int value) {
    cuda_on_cpu_yield();
    int old = *address;
    *address = old == compare ? value : old;
    return old;
}

static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}

static inline float __uint_as_float(unsigned bits) {
    return cuda_on_cpu_take<float>(bits);
}

static inline unsigned __float_as_uint(float x) {
    return (unsigned)cuda_on_cpu_give(x);
}

static inline int __float_as_int(float x) {
    return (int)__float_as_uint(x);
}

static inline float __int_as_float(int bits) {
    return __uint_as_float((unsigned)bits);
}

static inline int min(int a, int b) {
    return a < b ? a : b;
}

static inline int max(int a, int b) {
    return a > b ? a : b;
}

/* ---- runtime ------------------------------------------------------------------------------------------------------ */

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorLaunchFailure = 719,
};

enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };

typedef struct cuda_on_cpu_stream *cudaStream_t;
typedef struct cuda_on_cpu_event *cudaEvent_t;

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount;
};

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    void *attrs;
    unsigned numAttrs;
};

const char *cudaGetErrorString(cudaError_t error); /* a failed launch: what was wrong */
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int index);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int index);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaMalloc(void **out, size_t n_bytes);
cudaError_t cudaFree(void *ptr);
cudaError_t cudaMallocHost(void **out, size_t n_bytes);
cudaError_t cudaFreeHost(void *ptr);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *to, int byte, size_t n_bytes, cudaStream_t stream);

/* Runs all threads of a grid: entry(argument) is one thread. */
cudaError_t cuda_on_cpu_launch(const struct cudaLaunchConfig_t *config, void (*entry)(const void *), const void *argument);

template <typename A>
struct cuda_on_cpu_call {
    void (*kernel)(A);
    const A *args;
    static void run(const void *self) {
        const struct cuda_on_cpu_call<A> *call = (const struct cuda_on_cpu_call<A> *)self;
        call->kernel(*call->args);
    }
};

template <typename A>
static inline cudaError_t cudaLaunchKernelEx(const struct cudaLaunchConfig_t *config, void (*kernel)(A), const A &args) {
    const struct cuda_on_cpu_call<A> call = {kernel, &args};
    return cuda_on_cpu_launch(config, call.run, &call);
}

/* The driver API is asked for by name, as there. */
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess = 0, cudaDriverEntryPointSymbolNotFound = 1 };
enum { cudaEnableDefault = 0 };
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags,
                                             cudaDriverEntryPointQueryResult *result);

#endif
