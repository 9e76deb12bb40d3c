#include <cublasLt.h>

#include "tests/cuda_on_cpu/memory.h"

struct cuda_on_cpu_blas {
    int unused;
};

struct cuda_on_cpu_product {
    int transpose_a, transpose_b, epilogue;
    const float *bias;
};

struct cuda_on_cpu_layout {
    cudaDataType type;
    size_t rows, cols, ld;
};

struct cuda_on_cpu_preference {
    int unused;
};

template <typename T>
static cublasStatus_t make(T **out) {
    *out = (T *)calloc(1, sizeof **out);
    return *out ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

static cublasStatus_t drop(void *memory) {
    free(memory);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out) {
    return make(out);
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    return drop(handle);
}

const char *cublasLtGetStatusString(cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS ? "success" : status == CUBLAS_STATUS_INVALID_VALUE ? "invalid value"
                                                                                               : "not supported";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute, cudaDataType scale) {
    return compute == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F ? make(out) : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
    return drop(desc);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t n_bytes) {
    void *to = what == CUBLASLT_MATMUL_DESC_TRANSA ? (void *)&desc->transpose_a
             : what == CUBLASLT_MATMUL_DESC_TRANSB ? (void *)&desc->transpose_b
             : what == CUBLASLT_MATMUL_DESC_EPILOGUE ? (void *)&desc->epilogue : (void *)&desc->bias;
    if (n_bytes != (what == CUBLASLT_MATMUL_DESC_BIAS_POINTER ? sizeof desc->bias : sizeof desc->epilogue))
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, n_bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type, uint64_t rows, uint64_t cols,
                                          int64_t ld) {
    if (ld < (int64_t)rows || make(out) != CUBLAS_STATUS_SUCCESS)
        return CUBLAS_STATUS_INVALID_VALUE;
    **out = {type, rows, cols, (size_t)ld};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    return drop(layout);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out) {
    return make(out);
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    return drop(preference);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t what, const void *value,
                                                    size_t n_bytes) {
    (void)preference, (void)what, (void)value, (void)n_bytes;
    return CUBLAS_STATUS_SUCCESS;
}

/* Whether the shapes are those of a product that is implemented here. */
static bool fits(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t d) {
    return desc->transpose_a == CUBLAS_OP_T && desc->transpose_b == CUBLAS_OP_N && a->rows == b->rows &&
           a->cols == d->rows && b->cols == d->cols && a->type == b->type && d->type == CUDA_R_32F && a->rows &&
           a->cols && b->cols;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int n_wanted,
                                              cublasLtMatmulHeuristicResult_t *out, int *n_found) {
    (void)handle, (void)c, (void)preference, (void)n_wanted;
    if (!fits(desc, a, b, d))
        return CUBLAS_STATUS_INVALID_VALUE;
    *out = {};
    *n_found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

static float element(const void *data, cudaDataType type, size_t i) {
    return type == CUDA_R_32F ? ((const float *)data)[i] : __uint_as_float((unsigned)((const uint16_t *)data)[i] << 16);
}

/* Column j of B times all columns of A. */
static void product_column(const struct cuda_on_cpu_product *desc, const void *a, const struct cuda_on_cpu_layout *a_layout,
                           const float *column, float *d) {
    const float *wide = (const float *)a;
    for (size_t i = 0; i < a_layout->cols; i++) {
        float sum = 0;
        if (a_layout->type == CUDA_R_32F) {
#pragma omp simd reduction(+ : sum)
            for (size_t k = 0; k < a_layout->rows; k++)
                sum += wide[i * a_layout->ld + k] * column[k];
        } else {
            for (size_t k = 0; k < a_layout->rows; k++)
                sum += element(a, a_layout->type, i * a_layout->ld + k) * column[k];
        }
        d[i] = sum + (desc->epilogue == CUBLASLT_EPILOGUE_BIAS ? desc->bias[i] : 0);
    }
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
                              const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
    (void)handle, (void)c, (void)c_layout, (void)workspace, (void)workspace_bytes, (void)stream;
    if (!algo || !fits(desc, a_layout, b_layout, d_layout) || *(const float *)alpha != 1 || *(const float *)beta != 0)
        return CUBLAS_STATUS_INVALID_VALUE;
    float *column = (float *)malloc(b_layout->rows * sizeof *column);
    if (!column)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    memory_open();
    for (size_t j = 0; j < b_layout->cols; j++) {
        for (size_t k = 0; k < b_layout->rows; k++)
            column[k] = element(b, b_layout->type, j * b_layout->ld + k);
        product_column(desc, a, a_layout, column, (float *)d + j * d_layout->ld);
    }
    memory_close();
    free(column);
    return CUBLAS_STATUS_SUCCESS;
}
