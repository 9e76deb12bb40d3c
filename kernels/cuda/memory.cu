/* Memory of the GPU, and copies. Reserved address space is mapped ahead of need through the virtual memory calls of the
 * driver, which are looked up by name: the program links against no driver. */
#include <stdlib.h>

#include <cuda.h>

#include "kernels/cuda/device.cuh"
extern "C" {
#include "base/mem.h"
}

void *cuda_mem_alloc(struct device *dev, size_t n_bytes) {
    void *memory = NULL;
    if (device_failed(dev))
        return NULL;
    cudaError_t status = cudaMalloc(&memory, n_bytes ? n_bytes : 1);
    if (status == cudaErrorMemoryAllocation)
        err_memory(&dev->err, "memory of the GPU", n_bytes);
    return cuda_check(dev, status, "allocating") ? memory : NULL;
}

void cuda_mem_free(struct device *dev, void *ptr_dev) {
    (void)dev;
    cudaFree(ptr_dev); /* waits for what still uses it */
}

/* ---- address space ------------------------------------------------------------------------------------------------ */

struct driver {
    CUresult (*address_reserve)(CUdeviceptr *, size_t, size_t, CUdeviceptr, unsigned long long);
    CUresult (*address_free)(CUdeviceptr, size_t);
    CUresult (*granularity)(size_t *, const CUmemAllocationProp *, CUmemAllocationGranularity_flags);
    CUresult (*create)(CUmemGenericAllocationHandle *, size_t, const CUmemAllocationProp *, unsigned long long);
    CUresult (*release)(CUmemGenericAllocationHandle);
    CUresult (*map)(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long);
    CUresult (*unmap)(CUdeviceptr, size_t);
    CUresult (*set_access)(CUdeviceptr, size_t, const CUmemAccessDesc *, size_t);
};

static bool driver_call(struct device *dev, const char *name, void *out) {
    enum cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    void *function = NULL;
    if (!cuda_check(dev, cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found), name))
        return false;
    if (found != cudaDriverEntryPointSuccess)
        err_set(&dev->err, ERR_USAGE, "CUDA", "the driver has no %s (install a newer one)", name);
    memcpy(out, &function, sizeof function);
    return !device_failed(dev);
}

static bool driver_find(struct device *dev, struct driver *d) {
    return driver_call(dev, "cuMemAddressReserve", &d->address_reserve) &&
           driver_call(dev, "cuMemAddressFree", &d->address_free) &&
           driver_call(dev, "cuMemGetAllocationGranularity", &d->granularity) &&
           driver_call(dev, "cuMemCreate", &d->create) && driver_call(dev, "cuMemRelease", &d->release) &&
           driver_call(dev, "cuMemMap", &d->map) && driver_call(dev, "cuMemUnmap", &d->unmap) &&
           driver_call(dev, "cuMemSetAccess", &d->set_access);
}

static CUmemAllocationProp physical_memory(const struct device *dev) {
    CUmemAllocationProp prop = {};
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    prop.location.id = dev->index;
    return prop;
}

/* n_bytes rounded up to what can be mapped; 0 when the driver does not say. */
static size_t mappable_bytes(const struct device *dev, const struct driver *d, size_t n_bytes) {
    CUmemAllocationProp prop = physical_memory(dev);
    size_t granularity = 0;
    if (d->granularity(&granularity, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM) != CUDA_SUCCESS || granularity == 0)
        return 0;
    return (n_bytes ? n_bytes + granularity - 1 : granularity) / granularity * granularity;
}

void *cuda_mem_reserve(struct device *dev, size_t max_bytes) {
    struct driver d = {};
    CUdeviceptr base = 0;
    if (device_failed(dev) || !driver_find(dev, &d))
        return NULL;
    struct region *region = (struct region *)mem_alloc(1, sizeof *region, "reserved address space", &dev->err);
    size_t n_bytes = mappable_bytes(dev, &d, max_bytes);
    if (!region || n_bytes == 0 || d.address_reserve(&base, n_bytes, 0, 0, 0) != CUDA_SUCCESS) {
        free(region);
        err_memory(&dev->err, "reserved address space", max_bytes);
        return NULL;
    }
    *region = {(char *)base, n_bytes, 0, dev->regions};
    dev->regions = region;
    return region->base;
}

static struct region **region_find(struct device *dev, const void *ptr_dev) {
    struct region **at = &dev->regions;
    while (*at && (*at)->base != ptr_dev)
        at = &(*at)->next;
    ASSERT(*at);
    return at;
}

/* The mapping keeps physical memory alive after its handle is released. */
static bool region_map(struct device *dev, const struct driver *d, struct region *region, size_t n_bytes) {
    CUmemAllocationProp prop = physical_memory(dev);
    CUmemAccessDesc access = {};
    CUmemGenericAllocationHandle handle;
    CUdeviceptr at = (CUdeviceptr)(region->base + region->mapped_bytes);
    access.location = prop.location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    if (d->create(&handle, n_bytes, &prop, 0) != CUDA_SUCCESS)
        return false;
    bool mapped = d->map(at, n_bytes, 0, handle, 0) == CUDA_SUCCESS;
    d->release(handle);
    if (mapped && d->set_access(at, n_bytes, &access, 1) != CUDA_SUCCESS) {
        d->unmap(at, n_bytes);
        return false;
    }
    return mapped;
}

bool cuda_mem_commit(struct device *dev, void *ptr_dev, size_t n_bytes) {
    struct driver d = {};
    if (device_failed(dev) || !driver_find(dev, &d))
        return false;
    struct region *region = *region_find(dev, ptr_dev);
    size_t wanted = mappable_bytes(dev, &d, n_bytes);
    ASSERT(wanted && wanted <= region->reserved_bytes);
    if (wanted <= region->mapped_bytes)
        return true;
    if (!region_map(dev, &d, region, wanted - region->mapped_bytes)) {
        err_memory(&dev->err, "memory of the GPU", wanted - region->mapped_bytes);
        return false;
    }
    cuda_fill(dev, region->base + region->mapped_bytes, 0, wanted - region->mapped_bytes);
    region->mapped_bytes = wanted;
    return !device_failed(dev);
}

void cuda_mem_release(struct device *dev, void *ptr_dev, size_t max_bytes) {
    struct driver d = {};
    struct err kept = dev->err; /* memory goes back after a failure too */
    (void)max_bytes;
    if (!ptr_dev)
        return;
    struct region **at = region_find(dev, ptr_dev), *region = *at;
    dev->err.code = OK;
    if (driver_find(dev, &d)) {
        cudaStreamSynchronize(dev->stream); /* nothing may still use it */
        if (region->mapped_bytes)
            d.unmap((CUdeviceptr)region->base, region->mapped_bytes);
        d.address_free((CUdeviceptr)region->base, region->reserved_bytes);
    }
    dev->err = kept;
    *at = region->next;
    free(region);
}

/* ---- copies ------------------------------------------------------------------------------------------------------- */

void cuda_download(struct device *dev, void *dst_host, const void *src_dev, size_t n_bytes) {
    if (!device_failed(dev) && n_bytes)
        cuda_check(dev, cudaMemcpyAsync(dst_host, src_dev, n_bytes, cudaMemcpyDeviceToHost, dev->stream), "a download");
}

void cuda_copy(struct device *dev, void *dst_dev, const void *src_dev, size_t n_bytes) {
    if (!device_failed(dev) && n_bytes)
        cuda_check(dev, cudaMemcpyAsync(dst_dev, src_dev, n_bytes, cudaMemcpyDeviceToDevice, dev->stream), "a copy");
}

void cuda_fill(struct device *dev, void *dst_dev, int byte, size_t n_bytes) {
    if (!device_failed(dev) && n_bytes)
        cuda_check(dev, cudaMemsetAsync(dst_dev, byte, n_bytes, dev->stream), "filling memory");
}

struct read_params {
    const uint4 *data;
    size_t n;
    int *sink;
};

static __global__ void k_read(struct read_params p) {
    unsigned sum = 0;
    for (size_t i = thread_in_grid(); i < p.n; i += (size_t)gridDim.x * blockDim.x)
        sum += p.data[i].x ^ p.data[i].y ^ p.data[i].z ^ p.data[i].w;
    if (sum == 0x5EED5EED && p.n == 0) /* never: keeps the loop */
        *p.sink = 1;
}

void cuda_read(struct device *dev, const void *src_dev, size_t n_bytes) {
    struct read_params p = {(const uint4 *)src_dev, n_bytes / sizeof(uint4), dev->fault};
    size_t n_blocks = blocks_for(p.n, 256), most = (size_t)dev->n_sms * 8;
    cuda_launch(dev, k_read, n_blocks < most ? n_blocks : most, 256, 0, p);
}
