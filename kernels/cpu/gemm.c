/* The only file that knows oneDNN. */
#include "kernels/cpu/gemm.h"

#include <dnnl.h>
#include <omp.h>

bool sgemm_run(const struct sgemm *g) {
    return dnnl_sgemm(g->transpose_a ? 'T' : 'N', g->transpose_b ? 'T' : 'N', (dnnl_dim_t)g->m, (dnnl_dim_t)g->n,
                      (dnnl_dim_t)g->k, g->scale, g->a, (dnnl_dim_t)g->lda, g->b, (dnnl_dim_t)g->ldb,
                      g->accumulate ? 1.0f : 0.0f, g->c, (dnnl_dim_t)g->ldc) == dnnl_success;
}
