#include "cli/roofline.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/dtype.h"

enum { GEMM_ROWS = 512, GEMM_WIDTH = 2048, READ_BYTES = 1 << 28 };

int roofline_open(struct roofline *r, const struct ops *ops, struct device *dev, struct err *err) {
    size_t n = (size_t)GEMM_WIDTH * GEMM_WIDTH;
    bool borrowed;
    *r = (struct roofline){.ops = ops, .dev = dev, .host = mem_alloc(n, sizeof *r->host, "a matrix", err)};
    if (!r->host)
        return ERR_MEMORY;
    for (size_t i = 0; i < n; i++)
        r->host[i] = f32_to_bf16(rng_uniform(1, i, 0, 0, 0) - 0.5f);
    struct host_matrix matrix = {r->host, DTYPE_BF16, GEMM_WIDTH, GEMM_WIDTH};
    int rc = ops->weight_prepare(dev, &matrix, WEIGHT_COMPUTE, &r->weight, &borrowed, err);
    r->x = ops->mem_alloc(dev, (size_t)GEMM_ROWS * GEMM_WIDTH * 4);
    r->y = ops->mem_alloc(dev, (size_t)GEMM_ROWS * GEMM_WIDTH * 4);
    if (rc == OK && r->x)
        ops->fill(dev, r->x, 0x3c, (size_t)GEMM_ROWS * GEMM_WIDTH * 4); /* small numbers in either dtype */
    return rc == OK ? ops->sync(dev, err) : rc;
}

void roofline_close(struct roofline *r) {
    if (r->weight)
        r->ops->weight_free(r->dev, r->weight);
    if (r->ops) {
        r->ops->mem_free(r->dev, r->x);
        r->ops->mem_free(r->dev, r->y);
        r->ops->mem_free(r->dev, r->block);
    }
    free(r->host);
    *r = (struct roofline){0};
}

double roofline_gemm(const struct roofline *r, struct err *err) {
    double best = 0;
    for (int i = 0; i < 4; i++) {
        uint64_t start = clock_us();
        for (int j = 0; j < 4; j++)
            r->ops->linear(r->dev, &(struct linear_args){
                                       .w = r->weight, .x = r->x, .y = r->y, .n_rows = GEMM_ROWS, .ld_y = GEMM_WIDTH});
        if (r->ops->sync(r->dev, err) != OK)
            return 0;
        best = fmax(best, 4 * 2e-3 * GEMM_ROWS * GEMM_WIDTH * GEMM_WIDTH / (double)(clock_us() - start + 1));
    }
    return best;
}

double roofline_read(struct roofline *r, struct err *err) {
    double best = 0;
    if (!r->block && (r->block = r->ops->mem_alloc(r->dev, READ_BYTES)))
        r->ops->fill(r->dev, r->block, 0, READ_BYTES);
    for (int i = 0; i < 3; i++) {
        uint64_t start = clock_us();
        r->ops->read(r->dev, r->block, READ_BYTES);
        if (r->ops->sync(r->dev, err) != OK)
            return 0;
        best = fmax(best, 1e-3 * READ_BYTES / (double)(clock_us() - start + 1));
    }
    return best;
}
