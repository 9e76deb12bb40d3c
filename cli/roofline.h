/* roofline.h - what the machine does at best, measured through the ops that the work itself uses: products, and reading. */
#ifndef SPKV_CLI_ROOFLINE_H
#define SPKV_CLI_ROOFLINE_H

#include <stdint.h>

#include "base/err.h"
#include "kernels/ops.h"

/* Borrows ops and device until roofline_close(). */
struct roofline {
    const struct ops *ops;
    struct device *dev;
    struct weight *weight;
    void *x, *y, *block; /* device memory */
    uint16_t *host;
};

int roofline_open(struct roofline *r, const struct ops *ops, struct device *dev, struct err *err);
void roofline_close(struct roofline *r); /* legal on a zeroed struct, and after a failure */

/* GFLOP/s of the best of four rounds of products 512 x 2048 x 2048. 0 on failure. */
double roofline_gemm(const struct roofline *r, struct err *err);

/* GB/s of the best of three sweeps over 256 MiB. 0 on failure. */
double roofline_read(struct roofline *r, struct err *err);

#endif
