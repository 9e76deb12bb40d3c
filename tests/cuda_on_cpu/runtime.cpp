/* The calls of the CUDA runtime and driver that kernels/cuda/ uses. Everything happens at once. */
#include <stdio.h>
#include <sys/mman.h>

#include "tests/cuda_on_cpu/cuda.h"
#include "tests/cuda_on_cpu/cuda_on_cpu.h"
#include "tests/cuda_on_cpu/cuda_runtime.h"
#include "tests/cuda_on_cpu/memory.h"

struct cuda_on_cpu_stream {
    int unused;
};

struct cuda_on_cpu_event {
    int unused;
};

/* ---- device memory ------------------------------------------------------------------------------------------------ */

#if defined(__SANITIZE_ADDRESS__)
enum { HEAP = 1 };
#else
enum { HEAP = 0 };
#endif

enum { MACHINE_PAGE = 4096 };
static const size_t ARENA_BYTES = (size_t)1 << 38; /* address space only */

enum { MAX_ALLOCATIONS = 1 << 16 };

static struct arena {
    char *base;
    size_t used_bytes; /* a multiple of MACHINE_PAGE */
    size_t begin[MAX_ALLOCATIONS]; /* offsets, ascending */
    bool live[MAX_ALLOCATIONS];
    int n; /* allocations up to the last live one */
    bool guard = true;
} arena;

static void arena_protect(int protection) {
    if (!HEAP && arena.guard && arena.used_bytes && mprotect(arena.base, arena.used_bytes, protection) != 0)
        abort();
}

void memory_open(void) {
    arena_protect(PROT_READ | PROT_WRITE);
}

void memory_close(void) {
    arena_protect(PROT_NONE);
}

void cuda_on_cpu_guard(bool guard) {
    if (arena.n)
        abort();
    arena.guard = guard;
}

/* Address space of n_bytes, not accessible, an inaccessible page behind it; NULL when exhausted. */
static char *arena_take(size_t n_bytes) {
    if (!arena.base) {
        void *memory = mmap(NULL, ARENA_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED)
            return NULL;
        arena.base = (char *)memory;
    }
    size_t padded = (n_bytes + 2 * MACHINE_PAGE - 1) / MACHINE_PAGE * MACHINE_PAGE;
    if (arena.n == MAX_ALLOCATIONS || n_bytes > ARENA_BYTES / 2 || padded > ARENA_BYTES - arena.used_bytes)
        return NULL;
    char *out = arena.base + arena.used_bytes;
    arena.begin[arena.n] = arena.used_bytes;
    arena.live[arena.n++] = true;
    arena.used_bytes += padded;
    return out;
}

/* Space comes back when nothing behind it is live: until then a freed buffer stays unreadable for the host only. */
static void arena_give(const char *memory) {
    int i = arena.n - 1;
    while (arena.base + arena.begin[i] != memory)
        i--;
    arena.live[i] = false;
    size_t end = arena.used_bytes;
    while (arena.n && !arena.live[arena.n - 1])
        arena.used_bytes = arena.begin[--arena.n];
    if (arena.used_bytes == end)
        return;
    madvise(arena.base + arena.used_bytes, end - arena.used_bytes, MADV_DONTNEED);
    mprotect(arena.base + arena.used_bytes, end - arena.used_bytes, PROT_NONE);
}

cudaError_t cudaMalloc(void **out, size_t n_bytes) {
    if (HEAP) {
        *out = aligned_alloc(256, (n_bytes + 255) / 256 * 256 + 256 * !n_bytes);
        if (*out)
            memset(*out, 0xFF, n_bytes);
        return *out ? cudaSuccess : cudaErrorMemoryAllocation;
    }
    char *memory = arena_take(n_bytes);
    if (!memory)
        return cudaErrorMemoryAllocation;
    if (mprotect(memory, n_bytes ? n_bytes : 1, PROT_READ | PROT_WRITE) != 0)
        return cudaErrorMemoryAllocation;
    memset(memory, 0xFF, n_bytes);
    memory_close();
    *out = memory;
    return cudaSuccess;
}

cudaError_t cudaFree(void *ptr) {
    if (HEAP)
        free(ptr);
    else if (ptr)
        arena_give((const char *)ptr);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **out, size_t n_bytes) {
    *out = malloc(n_bytes);
    return *out ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *ptr) {
    free(ptr);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    (void)kind, (void)stream;
    memory_open();
    memcpy(to, from, n_bytes);
    memory_close();
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int byte, size_t n_bytes, cudaStream_t stream) {
    (void)stream;
    memory_open();
    memset(to, byte, n_bytes);
    memory_close();
    return cudaSuccess;
}

/* ---- memory that is mapped ahead of need -------------------------------------------------------------------------- */

/* Not guarded against the host, but unreadable by all until mapped. */
static CUresult address_reserve(CUdeviceptr *out, size_t n_bytes, size_t alignment, CUdeviceptr hint,
                                unsigned long long flags) {
    (void)alignment, (void)hint, (void)flags;
    void *memory = mmap(NULL, n_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    *out = (CUdeviceptr)memory;
    return memory != MAP_FAILED ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult address_free(CUdeviceptr at, size_t n_bytes) {
    return munmap((void *)at, n_bytes) == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult granularity_of(size_t *out, const CUmemAllocationProp *prop, CUmemAllocationGranularity_flags flags) {
    (void)prop, (void)flags;
    *out = 1 << 16;
    return CUDA_SUCCESS;
}

static CUresult physical_create(CUmemGenericAllocationHandle *out, size_t n_bytes, const CUmemAllocationProp *prop,
                                unsigned long long flags) {
    (void)prop, (void)flags;
    *out = n_bytes;
    return CUDA_SUCCESS;
}

static CUresult physical_release(CUmemGenericAllocationHandle handle) {
    (void)handle;
    return CUDA_SUCCESS;
}

static CUresult address_map(CUdeviceptr at, size_t n_bytes, size_t offset, CUmemGenericAllocationHandle handle,
                            unsigned long long flags) {
    (void)flags;
    return at % (1 << 12) == 0 && offset == 0 && handle == n_bytes ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult address_unmap(CUdeviceptr at, size_t n_bytes) {
    madvise((void *)at, n_bytes, MADV_DONTNEED);
    return mprotect((void *)at, n_bytes, PROT_NONE) == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult access_set(CUdeviceptr at, size_t n_bytes, const CUmemAccessDesc *what, size_t n) {
    (void)what, (void)n;
    if (mprotect((void *)at, n_bytes, PROT_READ | PROT_WRITE) != 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memset((void *)at, 0xFF, n_bytes);
    return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags,
                                             cudaDriverEntryPointQueryResult *result) {
    static const struct {
        const char *name;
        void *function;
    } table[] = {
        {"cuMemAddressReserve", (void *)address_reserve},
        {"cuMemAddressFree", (void *)address_free},
        {"cuMemGetAllocationGranularity", (void *)granularity_of},
        {"cuMemCreate", (void *)physical_create},
        {"cuMemRelease", (void *)physical_release},
        {"cuMemMap", (void *)address_map},
        {"cuMemUnmap", (void *)address_unmap},
        {"cuMemSetAccess", (void *)access_set},
    };
    (void)version, (void)flags;
    *result = cudaDriverEntryPointSymbolNotFound;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(name, table[i].name) == 0) {
            *function = table[i].function;
            *result = cudaDriverEntryPointSuccess;
        }
    return cudaSuccess;
}

/* ---- the rest ----------------------------------------------------------------------------------------------------- */

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorLaunchFailure: return cuda_on_cpu_report();
    default: return "unknown error";
    }
}

cudaError_t cudaGetDeviceCount(int *n) {
    *n = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int index) {
    return index == 0 ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int index) {
    (void)index;
    *out = {};
    snprintf(out->name, sizeof out->name, "CUDA emulated on the CPU");
    out->major = 9;
    out->multiProcessorCount = 3; /* few, so that small tests share one head among several blocks */
    out->totalGlobalMem = (size_t)1 << 32;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
    (void)flags;
    *out = (cudaStream_t)malloc(sizeof **out);
    return *out ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    free(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    (void)stream;
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    (void)flags;
    *out = (cudaEvent_t)malloc(sizeof **out);
    return *out ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    (void)event, (void)stream;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    (void)event;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}
