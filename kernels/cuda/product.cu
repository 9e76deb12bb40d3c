/* Products with a weight through cuBLASLt. Its matrices are column-major: y^T (n_out, n_rows) = w^T' x^T, where the stored
 * rows of w and x are columns. */
#include "kernels/cuda/device.cuh"

enum { WORKSPACE_BYTES = 32 << 20 }; /* what NVIDIA recommends for sm_90 */

/* Everything that describes one product to the library; released together. */
struct product {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, y;
};

static void product_free(struct product *p) {
    if (p->desc)
        cublasLtMatmulDescDestroy(p->desc);
    if (p->w)
        cublasLtMatrixLayoutDestroy(p->w);
    if (p->x)
        cublasLtMatrixLayoutDestroy(p->x);
    if (p->y)
        cublasLtMatrixLayoutDestroy(p->y);
}

static bool product_describe(struct device *dev, const struct product_args *a, struct product *p) {
    static const char what[] = "describing a product";
    const cublasOperation_t transposed = CUBLAS_OP_T, plain = CUBLAS_OP_N;
    const cublasLtEpilogue_t add_bias = CUBLASLT_EPILOGUE_BIAS;
    cudaDataType type = a->dtype == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    if (!cuda_check_blas(dev, cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), what) ||
        !cuda_check_blas(dev, cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                                             sizeof transposed), what) ||
        !cuda_check_blas(dev, cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &plain, sizeof plain),
                         what))
        return false;
    if (a->bias &&
        (!cuda_check_blas(dev, cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &add_bias,
                                                              sizeof add_bias), what) ||
         !cuda_check_blas(dev, cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &a->bias,
                                                              sizeof a->bias), what)))
        return false;
    return cuda_check_blas(dev, cublasLtMatrixLayoutCreate(&p->w, type, a->n_in, a->n_out, (int64_t)a->n_in), what) &&
           cuda_check_blas(dev, cublasLtMatrixLayoutCreate(&p->x, type, a->n_in, a->n_rows, (int64_t)a->n_in), what) &&
           cuda_check_blas(dev, cublasLtMatrixLayoutCreate(&p->y, CUDA_R_32F, a->n_out, a->n_rows, (int64_t)a->ld_y), what);
}

/* The largest power of two up to 256 that divides an address. */
static int alignment_of(const void *ptr) {
    uintptr_t low = (uintptr_t)ptr & (0 - (uintptr_t)ptr);
    return low == 0 || low > 256 ? 256 : (int)low;
}

/* What the library's choice depends on. */
static struct product_choice choice_key(const struct product_args *a) {
    struct product_choice key = {};
    int w = alignment_of(a->w), x = alignment_of(a->x), y = alignment_of(a->y);
    key.n_rows = a->n_rows;
    key.n_in = a->n_in;
    key.n_out = a->n_out;
    key.ld_y = a->ld_y;
    key.dtype = (int)a->dtype;
    key.alignment = w < x ? w : x;
    key.alignment = y < key.alignment ? y : key.alignment;
    key.bias = a->bias != NULL;
    return key;
}

static bool choice_fits(const struct product_choice *c, const struct product_choice *key) {
    return c->n_rows == key->n_rows && c->n_in == key->n_in && c->n_out == key->n_out && c->ld_y == key->ld_y &&
           c->dtype == key->dtype && c->alignment == key->alignment && c->bias == key->bias;
}

/* Asks the library for its best algorithm; NULL and a sticky failure. */
static const struct product_choice *choice_make(struct device *dev, const struct product *p,
                                                const struct product_choice *key) {
    static const char what[] = "choosing how to multiply";
    const size_t most = WORKSPACE_BYTES;
    const uint32_t alignment = (uint32_t)key->alignment;
    static const cublasLtMatmulPreferenceAttributes_t aligned[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t found = {};
    int n_found = 0;
    if (!cuda_check_blas(dev, cublasLtMatmulPreferenceCreate(&preference), what))
        return NULL;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most);
    for (int i = 0; i < 4; i++)
        cublasLtMatmulPreferenceSetAttribute(preference, aligned[i], &alignment, sizeof alignment);
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(dev->blas, p->desc, p->w, p->x, p->y, p->y, preference, 1, &found,
                                                           &n_found);
    cublasLtMatmulPreferenceDestroy(preference);
    if (!cuda_check_blas(dev, status == CUBLAS_STATUS_SUCCESS && n_found == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : status, what))
        return NULL;
    struct product_choice *out = &dev->choices[dev->n_choices++ % N_PRODUCT_CHOICES];
    *out = *key;
    out->algo = found.algo;
    out->workspace_bytes = found.workspaceSize;
    return out;
}

static const struct product_choice *choice_find(struct device *dev, const struct product *p, const struct product_args *a) {
    struct product_choice key = choice_key(a);
    size_t n = dev->n_choices < N_PRODUCT_CHOICES ? dev->n_choices : N_PRODUCT_CHOICES;
    for (size_t i = 0; i < n; i++)
        if (choice_fits(&dev->choices[i], &key))
            return &dev->choices[i];
    return choice_make(dev, p, &key);
}

void cuda_product(struct device *dev, const struct product_args *a) {
    const float one = 1, zero = 0;
    const struct product_choice *choice;
    struct product p = {};
    void *workspace;
    ASSERT(a->ld_y >= a->n_out);
    if (device_failed(dev) || a->n_rows == 0 || a->n_out == 0)
        return;
    if (product_describe(dev, a, &p) && (choice = choice_find(dev, &p, a)) &&
        (workspace = cuda_scratch(dev, SCRATCH_BLAS, choice->workspace_bytes)))
        cuda_check_blas(dev, cublasLtMatmul(dev->blas, p.desc, &one, a->w, p.w, a->x, p.x, &zero, a->y, p.y, a->y, p.y,
                                            &choice->algo, workspace, choice->workspace_bytes, dev->stream), "a product");
    product_free(&p);
}

void cuda_linear(struct device *dev, const struct linear_args *a) {
    const struct product_args product = {a->w->data, a->x, a->w->dtype, a->bias, a->y, a->n_rows, a->w->n_cols, a->w->n_rows,
                                         a->ld_y};
    cuda_product(dev, &product);
}

struct softcap_params {
    float *x;
    size_t n;
    float cap;
};

static __global__ void k_softcap(struct softcap_params p) {
    size_t i = thread_in_grid();
    if (i < p.n)
        p.x[i] = softcapped(p.x[i], p.cap);
}

void cuda_softcap(struct device *dev, float *x, size_t n, float cap) {
    struct softcap_params p = {x, n, cap};
    if (cap != 0)
        cuda_launch(dev, k_softcap, blocks_for(n, 256), 256, 0, p);
}

void cuda_logits(struct device *dev, const struct weight *w, const void *x, float softcap, size_t n_rows, float *out) {
    const struct product_args product = {w->data, x, w->dtype, NULL, out, n_rows, w->n_cols, w->n_rows, w->n_rows};
    cuda_product(dev, &product);
    cuda_softcap(dev, out, n_rows * w->n_rows, softcap);
}
