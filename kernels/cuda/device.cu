#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/device.cuh"
extern "C" {
#include "base/mem.h"
}

enum { STAGING_HALF_BYTES = 4 << 20 };

bool cuda_check(struct device *dev, cudaError_t status, const char *what) {
    if (status == cudaSuccess)
        return true;
    err_set(&dev->err, status == cudaErrorMemoryAllocation ? ERR_MEMORY : ERR_IO, "CUDA", "%s failed: %s%s", what,
            cudaGetErrorString(status),
            status == cudaErrorMemoryAllocation ? " (use a smaller batch or chunk, or a shorter maximum length)" : "");
    return false;
}

bool cuda_check_blas(struct device *dev, cublasStatus_t status, const char *what) {
    if (status != CUBLAS_STATUS_SUCCESS)
        err_set(&dev->err, ERR_IO, "cuBLASLt", "%s failed: %s", what, cublasLtGetStatusString(status));
    return status == CUBLAS_STATUS_SUCCESS;
}

/* Why there is nothing to compute on. */
static int device_find(const struct device_options *options, struct cudaDeviceProp *prop, struct err *err) {
    int n = 0;
    cudaError_t status = cudaGetDeviceCount(&n);
    if (status != cudaSuccess || n == 0)
        return err_set(err, ERR_USAGE, "cuda", "no NVIDIA GPU can be used here: %s (use --backend cpu)",
                       status == cudaSuccess ? "none is visible" : cudaGetErrorString(status));
    if (options->index < 0 || options->index >= n)
        return err_set(err, ERR_USAGE, "cuda", "GPU %d was asked for, %d are here, counted from 0", options->index, n);
    status = cudaGetDeviceProperties(prop, options->index);
    if (status != cudaSuccess)
        return err_set(err, ERR_IO, "cuda", "GPU %d does not answer: %s", options->index, cudaGetErrorString(status));
    if (prop->major < 8)
        return err_set(err, ERR_USAGE, "cuda", "%s has compute capability %d.%d, at least 8.0 is needed (use --backend cpu)",
                       prop->name, prop->major, prop->minor);
    return OK;
}

static bool device_start(struct device *dev) {
    void *memory = NULL;
    if (!cuda_check(dev, cudaSetDevice(dev->index), "choosing the GPU") ||
        !cuda_check(dev, cudaStreamCreateWithFlags(&dev->stream, cudaStreamNonBlocking), "a stream") ||
        !cuda_check_blas(dev, cublasLtCreate(&dev->blas), "opening cuBLASLt") ||
        !cuda_check(dev, cudaMallocHost(&memory, sizeof *dev->fault_host), "pinned memory"))
        return false;
    dev->fault_host = (int *)memory;
    if (!cuda_check(dev, cudaMallocHost(&memory, 2 * STAGING_HALF_BYTES), "pinned memory"))
        return false;
    dev->staging.memory = (char *)memory;
    for (int i = 0; i < 2; i++)
        if (!cuda_check(dev, cudaEventCreateWithFlags(&dev->staging.copied[i], cudaEventDisableTiming), "an event"))
            return false;
    dev->fault = (int *)cuda_mem_alloc(dev, sizeof *dev->fault);
    cuda_fill(dev, dev->fault, 0, sizeof *dev->fault);
    return !device_failed(dev);
}

int cuda_open(const struct device_options *options, struct device **out, struct err *err) {
    struct cudaDeviceProp prop = {};
    if (options->dtype != DTYPE_F32 && options->dtype != DTYPE_BF16)
        return err_set(err, ERR_USAGE, "cuda", "computes in f32 or bf16, not in %s", dtype_name(options->dtype));
    int rc = device_find(options, &prop, err);
    if (rc)
        return rc;
    struct device *dev = (struct device *)mem_alloc(1, sizeof *dev, "the CUDA device", err);
    if (!dev)
        return ERR_MEMORY;
    dev->index = options->index;
    dev->dtype = options->dtype;
    dev->n_sms = prop.multiProcessorCount;
    snprintf(dev->description, sizeof dev->description, "%s, compute capability %d.%d, %d multiprocessors, %s", prop.name,
             prop.major, prop.minor, prop.multiProcessorCount, dtype_name(dev->dtype));
    if (!device_start(dev)) {
        rc = err_set(err, dev->err.code, dev->err.where, "%s", dev->err.message);
        cuda_close(dev);
        return rc;
    }
    *out = dev;
    return OK;
}

void cuda_close(struct device *dev) {
    if (!dev)
        return;
    if (dev->stream)
        cudaStreamSynchronize(dev->stream);
    for (int i = 0; i < N_SCRATCH; i++)
        cudaFree(dev->scratch[i].data);
    cudaFree(dev->fault);
    cudaFreeHost(dev->fault_host);
    cudaFreeHost(dev->staging.memory);
    for (int i = 0; i < 2; i++)
        if (dev->staging.copied[i])
            cudaEventDestroy(dev->staging.copied[i]);
    if (dev->blas)
        cublasLtDestroy(dev->blas);
    if (dev->stream)
        cudaStreamDestroy(dev->stream);
    free(dev->batch.bytes);
    free(dev);
}

enum dtype cuda_device_dtype(const struct device *dev) {
    return dev->dtype;
}

int cuda_device_threads(const struct device *dev) {
    (void)dev;
    return 1;
}

const char *cuda_device_describe(const struct device *dev) {
    return dev->description;
}

/* What kernels left in the word of faults, as an error. */
static void fault_report(struct device *dev) {
    switch ((enum fault)*dev->fault_host) {
    case FAULT_NONE:
        break;
    case FAULT_NO_PAGE:
        err_set(&dev->err, ERR_MEMORY, "KV cache", "no free page is left (kv_cache_reserve() must precede a step)");
        break;
    case FAULT_PRUNED:
        err_set(&dev->err, ERR_INPUT, "attention statistics", "pairs were pruned from the cache, so distances are not known "
                "(record attention under the policy \"full\")");
        break;
    case FAULT_ORDER:
        err_set(&dev->err, ERR_INPUT, "KV cache", "a step does not begin where the last one of its sequence ended");
        break;
    }
}

int cuda_sync(struct device *dev, struct err *err) {
    if (!device_failed(dev)) {
        cuda_download(dev, dev->fault_host, dev->fault, sizeof *dev->fault);
        if (cuda_check(dev, cudaStreamSynchronize(dev->stream), "work on the GPU"))
            fault_report(dev);
    }
    return device_failed(dev) ? err_set(err, dev->err.code, dev->err.where, "%s", dev->err.message) : OK;
}

/* ---- staging, scratch, batches ------------------------------------------------------------------------------------ */

void *cuda_scratch(struct device *dev, enum scratch_id id, size_t n_bytes) {
    if (device_failed(dev))
        return NULL;
    if (n_bytes > dev->scratch[id].cap_bytes || !dev->scratch[id].data) {
        cuda_mem_free(dev, dev->scratch[id].data);
        dev->scratch[id].data = cuda_mem_alloc(dev, n_bytes);
        dev->scratch[id].cap_bytes = dev->scratch[id].data ? n_bytes : 0;
    }
    return dev->scratch[id].data;
}

/* The other half of the pinned memory, once what it held last has gone up. */
static void staging_turn(struct device *dev) {
    struct staging *s = &dev->staging;
    s->pending[s->half] = cuda_check(dev, cudaEventRecord(s->copied[s->half], dev->stream), "an event");
    s->half = !s->half;
    s->used_bytes = 0;
    if (s->pending[s->half])
        cuda_check(dev, cudaEventSynchronize(s->copied[s->half]), "an upload");
}

void cuda_upload(struct device *dev, void *dst_dev, const void *src_host, size_t n_bytes) {
    struct staging *s = &dev->staging;
    for (size_t done = 0; done < n_bytes && !device_failed(dev);) {
        if (s->used_bytes == STAGING_HALF_BYTES)
            staging_turn(dev);
        size_t n = n_bytes - done, room = STAGING_HALF_BYTES - s->used_bytes;
        n = n < room ? n : room;
        char *stage = s->memory + (size_t)s->half * STAGING_HALF_BYTES + s->used_bytes;
        memcpy(stage, (const char *)src_host + done, n);
        cuda_check(dev, cudaMemcpyAsync((char *)dst_dev + done, stage, n, cudaMemcpyHostToDevice, dev->stream), "an upload");
        s->used_bytes = s->used_bytes + (n + 63) / 64 * 64 < STAGING_HALF_BYTES ? s->used_bytes + (n + 63) / 64 * 64
                                                                                : STAGING_HALF_BYTES;
        done += n;
    }
}

/* Arrays of a batch one after the other: sequence ids, slots, row splits, first positions, first items. */
static size_t batch_bytes(int n_seq) {
    return (size_t)n_seq * 8 + (4 * (size_t)n_seq + 2) * 4;
}

static void batch_pack(const struct kv_batch *batch, size_t n_kv_heads, size_t group, void *out) {
    size_t n = (size_t)batch->n_seq;
    uint64_t *id = (uint64_t *)out;
    int *slots = (int *)(id + n), *splits = slots + n, *pos0 = splits + n + 1, *item0 = pos0 + n;
    splits[0] = item0[0] = 0;
    for (size_t i = 0; i < n; i++) {
        size_t vectors = (size_t)(batch->row_splits[i + 1] - batch->row_splits[i]) * group;
        id[i] = batch->sequence_id[i];
        slots[i] = batch->slots[i];
        splits[i + 1] = batch->row_splits[i + 1];
        pos0[i] = batch->pos0[i];
        item0[i + 1] = item0[i] + (int)(blocks_for(vectors, TILE_VECTORS) * n_kv_heads);
    }
}

bool cuda_batch(struct device *dev, const struct kv_batch *batch, size_t n_kv_heads, size_t group, struct batch_dev *out) {
    size_t n = (size_t)batch->n_seq, n_bytes = batch_bytes(batch->n_seq);
    struct batch_copy *copy = &dev->batch;
    if (group) {
        copy->n_kv_heads = n_kv_heads;
        copy->group = group;
    }
    void *packed = mem_alloc(1, n_bytes, "a batch", &dev->err);
    char *at = (char *)cuda_scratch(dev, SCRATCH_BATCH, n_bytes);
    if (!packed || !at) {
        free(packed);
        return false;
    }
    batch_pack(batch, copy->n_kv_heads, copy->group, packed);
    if (copy->n_bytes != n_bytes || memcmp(copy->bytes, packed, n_bytes) != 0) {
        cuda_upload(dev, at, packed, n_bytes);
        free(copy->bytes);
        copy->bytes = packed;
        copy->n_bytes = n_bytes;
    } else {
        free(packed);
    }
    const int *host_splits = (const int *)((const uint64_t *)copy->bytes + n) + n, *slots = (const int *)(at + 8 * n);
    *out = {};
    out->n_seq = batch->n_seq;
    out->n_items = host_splits[n + 1 + n + n];
    out->sequence_id = (const uint64_t *)at;
    out->slots = slots;
    out->row_splits = slots + n;
    out->pos0 = slots + 2 * n + 1;
    out->item0 = slots + 3 * n + 1;
    return !device_failed(dev);
}
