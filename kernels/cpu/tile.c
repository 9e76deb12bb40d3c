#include "kernels/cpu/tile.h"

#if ISA_X86
#include <immintrin.h>
#endif

static void product_scalar(const struct tile_product *p) {
    for (size_t r = 0; r < p->n_rows; r++)
        for (size_t panel = 0; panel < p->n_panels; panel++) {
            float *c = p->c + r * p->c_row + panel * PANEL, sum[PANEL] = {0};
            const float *a = p->a + r * p->a_row, *b = p->b + panel * p->b_panel;
            for (size_t i = 0; i < p->n_inner; i++) {
#pragma omp simd
                for (size_t j = 0; j < PANEL; j++)
                    sum[j] += a[i * p->a_col] * b[i * p->b_row + j];
            }
#pragma omp simd
            for (size_t j = 0; j < PANEL; j++)
                c[j] = sum[j] + (p->accumulate ? c[j] : 0);
        }
}

#if ISA_X86
/* n <= 6 rows from `row`, a constant: 12 of 16 registers are sums */
static INLINE TARGET_AVX2 void rows_avx2(const struct tile_product *p, size_t row, size_t n, size_t panel) {
    const float *a = p->a + row * p->a_row, *b = p->b + panel * p->b_panel;
    float *c = p->c + row * p->c_row + panel * PANEL;
    size_t a_row = p->a_row, a_col = p->a_col, b_row = p->b_row, n_inner = p->n_inner;
    __m256 sum[6][2];
#pragma GCC unroll 6
    for (size_t r = 0; r < n; r++)
        sum[r][0] = sum[r][1] = _mm256_setzero_ps();
    for (size_t i = 0; i < n_inner; i++, a += a_col, b += b_row) {
        __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 6
        for (size_t r = 0; r < n; r++) {
            __m256 x = _mm256_broadcast_ss(a + r * a_row);
            sum[r][0] = _mm256_fmadd_ps(x, b0, sum[r][0]);
            sum[r][1] = _mm256_fmadd_ps(x, b1, sum[r][1]);
        }
    }
#pragma GCC unroll 6
    for (size_t r = 0; r < n; r++, c += p->c_row) {
        if (p->accumulate) {
            sum[r][0] = _mm256_add_ps(sum[r][0], _mm256_loadu_ps(c));
            sum[r][1] = _mm256_add_ps(sum[r][1], _mm256_loadu_ps(c + 8));
        }
        _mm256_storeu_ps(c, sum[r][0]);
        _mm256_storeu_ps(c + 8, sum[r][1]);
    }
}

static TARGET_AVX2 void product_avx2(const struct tile_product *p) {
    for (size_t panel = 0; panel < p->n_panels; panel++) {
        size_t r = 0;
        for (; r + 6 <= p->n_rows; r += 6)
            rows_avx2(p, r, 6, panel);
        for (; r + 4 <= p->n_rows; r += 4)
            rows_avx2(p, r, 4, panel);
        for (; r < p->n_rows; r++)
            rows_avx2(p, r, 1, panel);
    }
}

/* n <= 12 rows and n_panels <= 2, constants: at most 24 of 32 registers are sums */
static INLINE TARGET_AVX512 void rows_avx512(const struct tile_product *p, size_t row, size_t n, size_t panel,
                                             size_t n_panels) {
    const float *a = p->a + row * p->a_row, *b = p->b + panel * p->b_panel;
    float *c = p->c + row * p->c_row + panel * PANEL;
    size_t a_row = p->a_row, a_col = p->a_col, b_row = p->b_row, b_panel = p->b_panel, n_inner = p->n_inner;
    __m512 sum[12][2];
#pragma GCC unroll 12
    for (size_t r = 0; r < n; r++)
        sum[r][0] = sum[r][1] = _mm512_setzero_ps();
    for (size_t i = 0; i < n_inner; i++, a += a_col, b += b_row) {
        __m512 b0 = _mm512_loadu_ps(b), b1 = n_panels == 2 ? _mm512_loadu_ps(b + b_panel) : b0;
#pragma GCC unroll 12
        for (size_t r = 0; r < n; r++) {
            __m512 x = _mm512_set1_ps(a[r * a_row]);
            sum[r][0] = _mm512_fmadd_ps(x, b0, sum[r][0]);
            if (n_panels == 2)
                sum[r][1] = _mm512_fmadd_ps(x, b1, sum[r][1]);
        }
    }
#pragma GCC unroll 12
    for (size_t r = 0; r < n; r++, c += p->c_row)
        for (size_t k = 0; k < n_panels; k++)
            _mm512_storeu_ps(c + k * PANEL, p->accumulate ? _mm512_add_ps(sum[r][k], _mm512_loadu_ps(c + k * PANEL))
                                                          : sum[r][k]);
}

static INLINE TARGET_AVX512 void panels_avx512(const struct tile_product *p, size_t panel, size_t n_panels) {
    size_t r = 0;
    for (; r + 12 <= p->n_rows; r += 12)
        rows_avx512(p, r, 12, panel, n_panels);
    for (; r + 4 <= p->n_rows; r += 4)
        rows_avx512(p, r, 4, panel, n_panels);
    for (; r < p->n_rows; r++)
        rows_avx512(p, r, 1, panel, n_panels);
}

static TARGET_AVX512 void product_avx512(const struct tile_product *p) {
    size_t panel = 0;
    for (; panel + 2 <= p->n_panels; panel += 2)
        panels_avx512(p, panel, 2);
    if (panel < p->n_panels)
        panels_avx512(p, panel, 1);
}
#endif

void tile_product_run(const struct tile_product *p, enum isa isa) {
    static void (*const table[])(const struct tile_product *) = ISA_TABLE(product);
    table[isa](p);
}
