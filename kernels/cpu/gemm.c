/* The only file that knows oneDNN. */
#include "kernels/cpu/gemm.h"

#include <dnnl.h>
#include <omp.h>

bool sgemm_run(const struct sgemm *g) {
    return dnnl_sgemm(g->transpose_a ? 'T' : 'N', g->transpose_b ? 'T' : 'N', (dnnl_dim_t)g->m, (dnnl_dim_t)g->n,
                      (dnnl_dim_t)g->k, g->scale, g->a, (dnnl_dim_t)g->lda, g->b, (dnnl_dim_t)g->ldb,
                      g->accumulate ? 1.0f : 0.0f, g->c, (dnnl_dim_t)g->ldc) == dnnl_success;
}

void sgemm_run_on(struct device *dev, const struct sgemm *g) {
    int threads_before = omp_get_max_threads();
    omp_set_num_threads(dev->n_threads);
    if (!sgemm_run(g))
        err_set(&dev->err, ERR_MEMORY, "oneDNN", "a matrix product of %zu x %zu x %zu failed", g->m, g->n, g->k);
    omp_set_num_threads(threads_before);
}
