/* tile.h - small dense products between blocks that lie in a cache, by the calling thread. Internal to kernels/cpu/.
 *
 * Columns come in panels of 16, the lanes; who packs a block pads it to whole panels. */
#ifndef SPKV_KERNELS_CPU_TILE_H
#define SPKV_KERNELS_CPU_TILE_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/cpu/isa.h"

enum { PANEL = 16 };

static inline size_t panels_of(size_t n) {
    return (n + PANEL - 1) / PANEL;
}

/* c (n_rows, n_panels * 16) = a (n_rows, n_inner) b, plus c where `accumulate`. Element (r, i) of a lies at
 * a[r * a_row + i * a_col], so a may be read transposed; columns 16 p .. 16 p + 15 of row i of b at
 * b[p * b_panel + i * b_row]. */
struct tile_product {
    size_t n_rows, n_panels, n_inner;
    const float *a;
    size_t a_row, a_col;
    const float *b;
    size_t b_row, b_panel;
    float *c;
    size_t c_row;
    bool accumulate;
};
void tile_product_run(const struct tile_product *p, enum isa isa);

#endif
