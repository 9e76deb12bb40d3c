/* Products of f32 rows with weights stored in any dtype, for AVX2. Lanes are rows of x: x is packed once, dimension by
 * dimension; a few rows of the weight at a time are widened into the cache and multiplied with every panel of x, so that the
 * weight streams from memory once per block of rows. */
#include "kernels/cpu/gemm.h"

#if ISA_X86
#include <immintrin.h>

enum {
    LANES = 8,
    PANEL_ROWS = 2 * LANES,
    GROUP_OUTPUTS = 12,        /* rows of w widened together */
    TILE_OUTPUTS = 6,          /* of them in registers against a whole panel: 12 sums, 2 of x, 1 of w */
    STORE_OUTPUTS = 16,        /* of a tile in memory: whole vectors */
    PREFETCH_STEPS = 4,        /* dimensions between two prefetches of two lines each */
    BLOCK_BYTES = 256 * 1024,  /* panels that stay in the second cache while weights pass */
    ITEMS_PER_THREAD = 8,      /* so that a late thread leaves work to the others */
};

/* A product cut into items: blocks of panels times stretches of outputs. */
struct gemm {
    const struct product *p;
    size_t n_in, n_panels, block_panels, n_blocks, n_outputs, item_outputs, n_items;
    float *packed; /* panels of (n_in, PANEL_ROWS); the last is (n_in, LANES) where that holds its rows */
    size_t last_rows;
};

/* The weight that is needed next, brought near while the current rows are multiplied. */
struct ahead {
    const char *at, *end;
};

static INLINE TARGET_AVX2 void transpose_8x8(__m256 v[8]) {
    __m256 t[8], u[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        v[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}

/* ---- x --------------------------------------------------------------------------------------------------------------- */

/* Columns of n <= 8 rows of x into 8 lanes of a panel `width` rows wide; missing rows become zero. */
static TARGET_AVX2 void pack_lanes(const float *x, size_t n, size_t n_in, struct range columns, float *panel, size_t width) {
    size_t i = columns.begin;
    for (; i + 8 <= columns.end; i += 8) {
        __m256 v[8];
#pragma GCC unroll 8
        for (size_t r = 0; r < 8; r++)
            v[r] = r < n ? _mm256_loadu_ps(x + r * n_in + i) : _mm256_setzero_ps();
        transpose_8x8(v);
#pragma GCC unroll 8
        for (size_t j = 0; j < 8; j++)
            _mm256_store_ps(panel + (i + j) * width, v[j]);
    }
    for (; i < columns.end; i++)
        for (size_t r = 0; r < LANES; r++)
            panel[i * width + r] = r < n ? x[r * n_in + i] : 0.0f;
}

static size_t panel_width(const struct gemm *g, size_t panel) {
    return panel + 1 == g->n_panels && g->last_rows <= LANES ? LANES : PANEL_ROWS;
}

static size_t panel_rows(const struct gemm *g, size_t panel) {
    return panel + 1 == g->n_panels ? g->last_rows : PANEL_ROWS;
}

static void pack_columns(const struct gemm *g, struct range columns) {
    for (size_t panel = 0; panel < g->n_panels; panel++) {
        size_t width = panel_width(g, panel), n_rows = panel_rows(g, panel);
        const float *x = (const float *)g->p->x + panel * PANEL_ROWS * g->n_in;
        float *to = g->packed + panel * PANEL_ROWS * g->n_in;
        for (size_t lane = 0; lane < width; lane += LANES) {
            size_t n = n_rows < lane ? 0 : n_rows - lane < LANES ? n_rows - lane : LANES;
            pack_lanes(x + lane * g->n_in, n, g->n_in, columns, to + lane, width);
        }
    }
}

/* ---- tiles ----------------------------------------------------------------------------------------------------------- */

/* tile[o][r] = w[o] . x[r] for n_out rows of w (n_out, n_in) and n_vec vectors of rows; both are constants. */
static INLINE TARGET_AVX2 void tile_product(const float *w, const float *x, size_t n_in, size_t n_out, size_t n_vec,
                                            struct ahead *ahead, float (*tile)[PANEL_ROWS]) {
    __m256 s[GROUP_OUTPUTS][2];
#pragma GCC unroll 12
    for (size_t o = 0; o < n_out; o++)
        s[o][0] = s[o][1] = _mm256_setzero_ps();
    for (size_t begin = 0; begin < n_in; begin += PREFETCH_STEPS) {
        size_t end = begin + PREFETCH_STEPS < n_in ? begin + PREFETCH_STEPS : n_in;
        if (ahead->at < ahead->end) {
            _mm_prefetch(ahead->at, _MM_HINT_T0);
            _mm_prefetch(ahead->at + 64, _MM_HINT_T0);
            ahead->at += 128;
        }
        for (size_t i = begin; i < end; i++) {
            __m256 x0 = _mm256_load_ps(x + i * n_vec * LANES), x1 = x0;
            if (n_vec == 2)
                x1 = _mm256_load_ps(x + i * n_vec * LANES + LANES);
#pragma GCC unroll 12
            for (size_t o = 0; o < n_out; o++) {
                __m256 b = _mm256_broadcast_ss(w + o * n_in + i);
                s[o][0] = _mm256_fmadd_ps(b, x0, s[o][0]);
                if (n_vec == 2)
                    s[o][1] = _mm256_fmadd_ps(b, x1, s[o][1]);
            }
        }
    }
#pragma GCC unroll 12
    for (size_t o = 0; o < n_out; o++) {
        _mm256_store_ps(tile[o], s[o][0]);
        if (n_vec == 2)
            _mm256_store_ps(tile[o] + LANES, s[o][1]);
    }
}

/* n <= 8 numbers */
static INLINE TARGET_AVX2 void store_some(float *to, __m256 v, size_t n) {
    __m128 low = _mm256_castps256_ps128(v);
    if (n == 8) {
        _mm256_storeu_ps(to, v);
        return;
    }
    if (n & 4) {
        _mm_storeu_ps(to, low);
        low = _mm256_extractf128_ps(v, 1);
        to += 4;
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)(void *)to, low);
        low = _mm_movehl_ps(low, low);
        to += 2;
    }
    if (n & 1)
        _mm_store_ss(to, low);
}

/* Outputs o .. o + n - 1 of the rows of a panel. */
static TARGET_AVX2 void tile_store(const struct gemm *g, size_t panel, size_t o, size_t n, float (*tile)[PANEL_ROWS]) {
    const struct product *p = g->p;
    size_t n_rows = panel_rows(g, panel);
    for (size_t lane = 0; lane < n_rows; lane += LANES)
        for (size_t i = 0; i < n; i += 8) {
            float *y = p->y + (panel * PANEL_ROWS + lane) * p->ld_y + o + i - p->outputs.begin;
            size_t n_some = n - i < 8 ? n - i : 8;
            __m256 v[8];
#pragma GCC unroll 8
            for (size_t j = 0; j < 8; j++)
                v[j] = _mm256_load_ps(tile[i + j] + lane);
            transpose_8x8(v);
#pragma GCC unroll 8
            for (size_t r = 0; r < LANES; r++)
                if (lane + r < n_rows)
                    store_some(y + r * p->ld_y, v[r], n_some);
        }
    for (size_t r = 0; p->bias && r < n_rows; r++)
        for (size_t i = o; i < o + n; i++)
            p->y[(panel * PANEL_ROWS + r) * p->ld_y + i - p->outputs.begin] += p->bias[i];
}

/* Up to 12 outputs from o on, widened in w, for a block of panels. */
static TARGET_AVX2 void group_product(const struct gemm *g, struct range panels, size_t o, size_t n, const float *w,
                                      struct ahead ahead) {
    float tile[STORE_OUTPUTS][PANEL_ROWS] __attribute__((aligned(32))) = {{0}};
    for (size_t half = 0; half < n; half += TILE_OUTPUTS)
        for (size_t i = panels.begin; i < panels.end; i++)
            if (panel_width(g, i) == PANEL_ROWS) {
                tile_product(w + half * g->n_in, g->packed + i * PANEL_ROWS * g->n_in, g->n_in, TILE_OUTPUTS, 2, &ahead,
                             tile);
                tile_store(g, i, o + half, n - half < TILE_OUTPUTS ? n - half : TILE_OUTPUTS, tile);
            }
    if (panel_width(g, panels.end - 1) == LANES) {
        tile_product(w, g->packed + (panels.end - 1) * PANEL_ROWS * g->n_in, g->n_in, GROUP_OUTPUTS, 1, &ahead, tile);
        tile_store(g, panels.end - 1, o, n, tile);
    }
}

/* ---- items ----------------------------------------------------------------------------------------------------------- */

static void item_run(const struct device *dev, const struct gemm *g, size_t index, float *wide) {
    const struct product *p = g->p;
    size_t n_stretches = g->n_items / g->n_blocks, first = index / n_stretches * g->block_panels;
    size_t begin = p->outputs.begin + index % n_stretches * g->item_outputs;
    size_t end = begin + g->item_outputs < p->outputs.end ? begin + g->item_outputs : p->outputs.end;
    struct range panels = {first, first + g->block_panels < g->n_panels ? first + g->block_panels : g->n_panels};
    for (size_t o = begin; o < end; o += GROUP_OUTPUTS) {
        size_t n = end - o < GROUP_OUTPUTS ? end - o : GROUP_OUTPUTS, next = o + n;
        size_t next_end = next + GROUP_OUTPUTS < end ? next + GROUP_OUTPUTS : end;
        struct ahead ahead = {weight_row(p->w, next), weight_row(p->w, next_end)};
        device_widen(dev, weight_row(p->w, o), p->w->dtype, n * g->n_in, wide);
        group_product(g, panels, o, n, wide, ahead);
    }
}

static size_t ceil_div(size_t a, size_t b) {
    return (a + b - 1) / b;
}

void gemm_avx2_run(struct device *dev, const struct product *p) {
    struct gemm g = {.p = p, .n_in = p->w->n_cols, .n_outputs = p->outputs.end - p->outputs.begin};
    int n_threads = threads_for_bytes(dev, g.n_outputs * g.n_in * p->n_rows / 4);
    size_t n_groups = ceil_div(g.n_outputs, GROUP_OUTPUTS), wide_len = (GROUP_OUTPUTS * g.n_in + 15) / 16 * 16;
    size_t panel_bytes = PANEL_ROWS * g.n_in * sizeof(float);
    g.n_panels = ceil_div(p->n_rows, PANEL_ROWS);
    g.last_rows = p->n_rows - (g.n_panels - 1) * PANEL_ROWS;
    g.block_panels = panel_bytes && panel_bytes < BLOCK_BYTES ? BLOCK_BYTES / panel_bytes : 1;
    g.n_blocks = ceil_div(g.n_panels, g.block_panels);
    g.item_outputs = ceil_div(n_groups, (size_t)n_threads * ITEMS_PER_THREAD) * GROUP_OUTPUTS;
    g.n_items = g.n_blocks * ceil_div(g.n_outputs, g.item_outputs);
    g.packed = device_scratch(dev, SCRATCH_PACKED, g.n_panels * panel_bytes);
    float *wide = device_scratch(dev, SCRATCH_WEIGHT, (size_t)n_threads * wide_len * sizeof *wide);
    if (!g.packed || !wide)
        return;
#pragma omp parallel num_threads(n_threads)
    {
        struct range part = thread_range(ceil_div(g.n_in, LANES));
        size_t end = part.end * LANES;
        pack_columns(&g, (struct range){part.begin * LANES, end < g.n_in ? end : g.n_in});
#pragma omp barrier
#pragma omp for schedule(dynamic) nowait
        for (size_t i = 0; i < g.n_items; i++)
            item_run(dev, &g, i, wide + (size_t)thread_number() * wide_len);
    }
}
#endif
