#include "kernels/cpu/device.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "base/mem.h"
#include "kernels/cpu/cpu.h"

#if ISA_X86
/* Bits of cpuid(7,0).edx and of XCR0 as in Intel's manual, volume 1, chapters 13 and 18; AMX state must be asked for
 * once per process (Linux, Documentation/arch/x86/xstate.rst). */
bool ops_cpu_has_amx(void) {
    enum { EDX_AMX_BF16 = 1 << 22, EDX_AMX_TILE = 1 << 24, XCR0_TILES = 3 << 17 };
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    unsigned eax, ebx, ecx, edx, xcr0_low, xcr0_high;
    if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vl") ||
        !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vbmi") || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) ||
        (edx & (EDX_AMX_BF16 | EDX_AMX_TILE)) != (EDX_AMX_BF16 | EDX_AMX_TILE))
        return false;
    __asm__ volatile("xgetbv" : "=a"(xcr0_low), "=d"(xcr0_high) : "c"(0));
#ifdef SYS_arch_prctl
    return (xcr0_low & XCR0_TILES) == XCR0_TILES && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
#else
    return false;
#endif
}

enum isa isa_detect(void) {
    if (ops_cpu_has_amx())
        return ISA_AMX;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return ISA_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
        return ISA_AVX2;
    return ISA_SCALAR;
}
#else
bool ops_cpu_has_amx(void) {
    return false;
}

enum isa isa_detect(void) {
    return ISA_SCALAR;
}
#endif

int cpu_open_isa(const struct device_options *options, enum isa isa, struct device **out, struct err *err) {
    static const char *const names[] = {"plain C", "AVX2", "AVX-512", "AVX-512"};
    struct device *dev;
    if (options->dtype != DTYPE_F32 && options->dtype != DTYPE_BF16)
        return err_set(err, ERR_USAGE, "cpu", "computes in f32 or bf16, not in %s", dtype_name(options->dtype));
    if (options->dtype == DTYPE_BF16 && isa != ISA_AMX)
        return err_set(err, ERR_USAGE, "cpu", "bf16 needs a processor with AMX; use --dtype f32 here");
    if (!(dev = mem_alloc(1, sizeof *dev, "the CPU device", err)))
        return ERR_MEMORY;
    dev->isa = isa;
    dev->dtype = options->dtype;
    dev->n_threads = options->n_threads > 0 ? options->n_threads : omp_get_num_procs();
    snprintf(dev->description, sizeof dev->description, "%s%s, %s, %d thread%s", names[isa],
             dev->dtype == DTYPE_BF16 ? " AMX-BF16" : "", dtype_name(dev->dtype), dev->n_threads,
             dev->n_threads == 1 ? "" : "s");
    *out = dev;
    return OK;
}

void cpu_close(struct device *dev) {
    if (!dev)
        return;
    for (int i = 0; i < N_SCRATCH; i++)
        free(dev->scratch[i].data);
    free(dev);
}

enum dtype cpu_device_dtype(const struct device *dev) {
    return dev->dtype;
}

int cpu_device_threads(const struct device *dev) {
    return dev->n_threads;
}

const char *cpu_device_describe(const struct device *dev) {
    return dev->description;
}

void *cpu_mem_alloc(struct device *dev, size_t n_bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, 64, n_bytes ? n_bytes : 1)) {
        err_memory(&dev->err, "a device buffer", n_bytes);
        return NULL;
    }
    return memory;
}

void cpu_mem_free(struct device *dev, void *ptr_dev) {
    (void)dev;
    free(ptr_dev);
}

void *device_scratch(struct device *dev, enum scratch_id id, size_t n_bytes) {
    if (n_bytes > dev->scratch[id].cap_bytes || !dev->scratch[id].data) {
        free(dev->scratch[id].data);
        dev->scratch[id].data = cpu_mem_alloc(dev, n_bytes);
        dev->scratch[id].cap_bytes = dev->scratch[id].data ? n_bytes : 0;
    }
    return dev->scratch[id].data;
}

void *cpu_mem_reserve(struct device *dev, size_t max_bytes) {
    void *memory = mmap(NULL, max_bytes ? max_bytes : 1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        err_memory(&dev->err, "reserved address space", max_bytes);
        return NULL;
    }
    madvise(memory, max_bytes, MADV_HUGEPAGE); /* advice: fewer address translations where the system follows it */
    return memory;
}

bool cpu_mem_commit(struct device *dev, void *ptr_dev, size_t n_bytes) {
    if (n_bytes && mprotect(ptr_dev, n_bytes, PROT_READ | PROT_WRITE) != 0) {
        err_memory(&dev->err, "committed device memory", n_bytes);
        return false;
    }
    return true;
}

void cpu_mem_release(struct device *dev, void *ptr_dev, size_t max_bytes) {
    (void)dev;
    if (ptr_dev)
        munmap(ptr_dev, max_bytes ? max_bytes : 1);
}

void cpu_upload(struct device *dev, void *dst_dev, const void *src_host, size_t n_bytes) {
    if (!device_failed(dev) && n_bytes)
        memcpy(dst_dev, src_host, n_bytes);
}

void cpu_download(struct device *dev, void *dst_host, const void *src_dev, size_t n_bytes) {
    if (!device_failed(dev) && n_bytes)
        memcpy(dst_host, src_dev, n_bytes);
}

void cpu_copy(struct device *dev, void *dst_dev, const void *src_dev, size_t n_bytes) {
    if (!device_failed(dev) && n_bytes)
        memcpy(dst_dev, src_dev, n_bytes);
}

void cpu_read(struct device *dev, const void *src_dev, size_t n_bytes) {
    const char *bytes = src_dev;
    uint64_t sum = 0;
    if (device_failed(dev))
        return;
    /* A word of every cache line brings the line in. */
#pragma omp parallel for num_threads(dev->n_threads) reduction(+ : sum) schedule(static)
    for (size_t i = 0; i < n_bytes / 256; i++)
        for (size_t line = 0; line < 256; line += 64)
            sum += *(const uint64_t *)(const void *)(bytes + 256 * i + line);
    *(volatile uint64_t *)&sum = sum; /* keeps the loop */
}

void cpu_fill(struct device *dev, void *dst_dev, int byte, size_t n_bytes) {
    if (!device_failed(dev) && n_bytes)
        memset(dst_dev, byte, n_bytes);
}

int cpu_sync(struct device *dev, struct err *err) {
    if (!device_failed(dev))
        return OK;
    return err_set(err, dev->err.code, dev->err.where, "%s", dev->err.message);
}

bool device_trains(struct device *dev) {
    if (dev->dtype != DTYPE_F32)
        err_set(&dev->err, ERR_USAGE, "cpu", "training on the CPU computes in f32: open the device with that dtype");
    return !device_failed(dev);
}

struct range thread_range(size_t n) {
    size_t n_threads = (size_t)omp_get_num_threads(), thread = (size_t)omp_get_thread_num();
    size_t each = n / n_threads, rest = n % n_threads;
    size_t begin = thread * each + (thread < rest ? thread : rest);
    return (struct range){begin, begin + each + (thread < rest)};
}

int thread_number(void) {
    return omp_get_thread_num();
}
