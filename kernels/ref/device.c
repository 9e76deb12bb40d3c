#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/mem.h"
#include "kernels/ref/ref.h"

int ref_device_init(struct device *dev, const struct device_options *options, struct err *err) {
    if (options->dtype == DTYPE_F16)
        return err_set(err, ERR_INPUT, "reference backend", "computes in f32, bf16 or f64, not in f16");
    dev->dtype = options->dtype;
    return OK;
}

int ref_open(const struct device_options *options, struct device **out, struct err *err) {
    struct device *dev = mem_alloc(1, sizeof *dev, "a device", err);
    int rc = dev ? ref_device_init(dev, options, err) : ERR_MEMORY;
    if (rc)
        free(dev);
    else
        *out = dev;
    return rc;
}

void ref_close(struct device *dev) {
    if (dev)
        free(dev->scratch);
    free(dev);
}

enum dtype ref_device_dtype(const struct device *dev) {
    return dev->dtype;
}

int ref_device_threads(const struct device *dev) {
    (void)dev;
    return 1;
}

const char *ref_device_describe(const struct device *dev) {
    (void)dev;
    return "plain C in double precision, 1 thread";
}

void *ref_scratch(struct device *dev, size_t n_bytes) {
    if (n_bytes <= dev->scratch_bytes)
        return dev->scratch;
    free(dev->scratch);
    dev->scratch = malloc(n_bytes);
    dev->scratch_bytes = dev->scratch ? n_bytes : 0;
    if (!dev->scratch)
        err_memory(&dev->failure, "scratch memory of the reference backend", n_bytes);
    return dev->scratch;
}

void *ref_mem_alloc(struct device *dev, size_t n_bytes) {
    size_t padded;
    void *memory = size_add(n_bytes, 64, &padded) ? aligned_alloc(64, padded / 64 * 64) : NULL;
    if (!memory)
        err_memory(&dev->failure, "device memory", n_bytes);
    return memory;
}

void ref_mem_free(struct device *dev, void *ptr_dev) {
    (void)dev;
    free(ptr_dev);
}

void *ref_mem_reserve(struct device *dev, size_t max_bytes) {
    void *space = mmap(NULL, max_bytes ? max_bytes : 1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space != MAP_FAILED)
        return space;
    err_memory(&dev->failure, "address space", max_bytes);
    return NULL;
}

bool ref_mem_commit(struct device *dev, void *ptr_dev, size_t n_bytes) {
    if (ref_failed(dev))
        return false;
    if (mprotect(ptr_dev, n_bytes, PROT_READ | PROT_WRITE) == 0)
        return true;
    err_memory(&dev->failure, "device memory", n_bytes);
    return false;
}

void ref_mem_release(struct device *dev, void *ptr_dev, size_t max_bytes) {
    (void)dev;
    if (ptr_dev)
        munmap(ptr_dev, max_bytes ? max_bytes : 1);
}

void ref_upload(struct device *dev, void *dst_dev, const void *src_host, size_t n_bytes) {
    if (!ref_failed(dev) && n_bytes)
        memcpy(dst_dev, src_host, n_bytes);
}

void ref_download(struct device *dev, void *dst_host, const void *src_dev, size_t n_bytes) {
    if (!ref_failed(dev) && n_bytes)
        memcpy(dst_host, src_dev, n_bytes);
}

void ref_fill(struct device *dev, void *dst_dev, int byte, size_t n_bytes) {
    if (!ref_failed(dev) && n_bytes)
        memset(dst_dev, byte, n_bytes);
}

void ref_copy(struct device *dev, void *dst_dev, const void *src_dev, size_t n_bytes) {
    if (!ref_failed(dev) && n_bytes)
        memcpy(dst_dev, src_dev, n_bytes);
}

void ref_read(struct device *dev, const void *src_dev, size_t n_bytes) {
    const volatile unsigned char *bytes = src_dev; /* volatile: the reads are the point */
    for (size_t i = 0; i < n_bytes && !ref_failed(dev); i += 64)
        (void)bytes[i];
}

int ref_sync(struct device *dev, struct err *err) {
    const struct err *failure = &dev->failure;
    return ref_failed(dev) ? err_set(err, failure->code, failure->where, "%s", failure->message) : OK;
}
