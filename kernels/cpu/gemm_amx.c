/* Products of bf16 with AMX. The weight is the A operand as it lies in memory (16 outputs x 32 inputs), so that every byte
 * of it is read once, however few rows there are; rows of x are packed once per product into B tiles (32 inputs x 16
 * rows). A tile of results is 16 outputs x 16 rows and is transposed on its way to y. */
#include "kernels/cpu/gemm.h"

#if ISA_X86
#include <string.h>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/loss_amx.h"

enum {
    TILE = 16,          /* outputs of an A tile, rows of a B tile */
    TILE_K = 32,        /* inputs of both */
    TILE_BYTES = 1024,
    BLOCK_OUTPUTS = 32, /* two A tiles */
    ROWS_PER_THREAD = 64, /* from there on threads share rows, below outputs */
    LOSS_PARTS = 16,    /* of the outputs of a loss: independent of the number of threads, so that results are too */
    BLOCK_K = 18,       /* tiles of inputs: 32 outputs x 18 x 64 bytes fill three quarters of a first cache of 48 KiB */
    PASS_BYTES = 768 << 10, /* packed rows that are multiplied with all of a weight: they stay in the second cache */
};

static size_t ceil_div(size_t a, size_t b) {
    return (a + b - 1) / b;
}

/* ---- transposes ---------------------------------------------------------------------------------------------------- */

/* One B tile from 16 rows of 32 inputs: pairs of inputs beside one another. */
static INLINE TARGET_AMX void pack_tile(const char *rows, size_t stride, char *out) {
#pragma GCC unroll 4
    for (size_t quarter = 0; quarter < 4; quarter++) {
        __m512 column[4];
        transpose_quarter(rows, stride, quarter, column);
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++)
            _mm512_store_ps(out + (quarter * 4 + i) * 64, column[i]);
    }
}

/* The same where the matrix ends: only n_rows rows and n_in inputs exist, the rest is zero. */
static TARGET_AMX void pack_tile_edge(const char *rows, size_t stride, size_t n_rows, size_t n_in, char *out) {
    char whole[TILE_BYTES];
    __mmask32 inputs = n_in < TILE_K ? (1u << n_in) - 1 : ~0u;
    for (size_t i = 0; i < TILE; i++)
        _mm512_storeu_si512((void *)(whole + i * 64), i < n_rows ? _mm512_maskz_loadu_epi16(inputs, rows + i * stride)
                                                                 : _mm512_setzero_si512());
    pack_tile(whole, 64, out);
}

/* ---- results --------------------------------------------------------------------------------------------------------- */

/* A block of results in tiles, on its way to y: 2 x 16 outputs by up to 2 x 16 rows, tiles in the order (outputs 0, rows
 * 0), (0, 1), (1, 0), (1, 1). Written in 16 pieces, so that the pieces of one block fill the gaps of the next one's
 * products. */
struct results {
    const float *tiles;
    const float *bias; /* of the first output, or NULL */
    float *y;          /* of the first output and row */
    size_t ld_y, n_out, n_rows;
    const struct losses *losses; /* instead of y, from `row` of them on and with the number of the first output */
    size_t row, output;
    size_t next;       /* piece to write; none are left when it is results_pieces() */
};

/* What becomes of results; a constant wherever it is passed. */
enum destination { TO_Y, TO_LOSSES };

enum { Y_PIECES = 16 };

static INLINE size_t results_pieces(enum destination to) {
    return to == TO_Y ? Y_PIECES : LOSS_PIECES;
}

/* Piece: rows 4 q .. 4 q + 3 of a half (16 rows), for one tile of outputs. */
static INLINE TARGET_AMX void y_piece(const struct results *c, size_t piece) {
    size_t half_o = piece & 1, quarter = piece >> 1 & 3, half_r = piece >> 3;
    size_t row = half_r * TILE + quarter * 4, o = half_o * TILE;
    if (row >= c->n_rows || o >= c->n_out)
        return;
    __m512 column[4];
    __mmask16 outputs = c->n_out - o < TILE ? (__mmask16)((1u << (c->n_out - o)) - 1) : (__mmask16)~0u;
    __m512 bias = c->bias ? _mm512_maskz_loadu_ps(outputs, c->bias + o) : _mm512_setzero_ps();
    float *y = c->y + row * c->ld_y + o;
    transpose_quarter((const char *)(c->tiles + (half_o * 2 + half_r) * 256), 64, quarter, column);
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++)
        if (i < c->n_rows - row)
            _mm512_mask_storeu_ps(y + i * c->ld_y, outputs, _mm512_add_ps(column[i], bias));
}

static INLINE TARGET_AMX void results_step(struct results *c, enum destination to) {
    size_t piece = c->next++;
    if (to == TO_Y)
        y_piece(c, piece);
    else
        loss_piece(c->losses, piece, c->tiles, c->row, c->output, c->n_out);
}

static INLINE TARGET_AMX void results_flush(struct results *c, enum destination to) {
    while (c->next < results_pieces(to))
        results_step(c, to);
}

/* ---- products ------------------------------------------------------------------------------------------------------ */

/* Some rows of a product, and the memory of the thread that computes them. */
struct work {
    const struct product *p;
    struct range rows;
    size_t n_k, n_row_tiles; /* tiles along inputs and rows; more than one row tile are taken in twos */
    size_t block_k;          /* tiles of inputs taken together, at most BLOCK_K */
    char *packed;            /* (n_row_tiles, n_k) tiles of x */
    float *tiles[2];         /* results of 4 tiles, being made and being written */
    float *sums;             /* (n_row_tiles / 2, 4 tiles) between blocks of inputs */
    char *copy;              /* an incomplete block of the weight, completed with zeros */
    struct losses losses;    /* (n_row_tiles * 16), when results go there */
};

/* 32 outputs of the weight: in place where they are whole, else a copy. */
struct block {
    const char *w;
    size_t stride; /* bytes */
};

static struct block block_of(const struct work *work, size_t output) {
    const struct weight *w = work->p->w;
    size_t n_in = w->n_cols, stride = work->n_k * TILE_K * 2, left = work->p->outputs.end - output;
    if (left >= BLOCK_OUTPUTS && n_in % TILE_K == 0)
        return (struct block){weight_row(w, output), n_in * 2};
    memset(work->copy, 0, BLOCK_OUTPUTS * stride);
    for (size_t i = 0; i < BLOCK_OUTPUTS && i < left; i++)
        memcpy(work->copy + i * stride, weight_row(w, output + i), n_in * 2);
    return (struct block){work->copy, stride};
}

/* What is done between products, for which the tile unit leaves time: pieces of earlier results are written, the lines
 * that the present results will go to are fetched for writing, and the part of the weight that comes next is fetched. */
struct aside {
    struct results earlier;
    const struct results *target; /* NULL: none */
    const char *next;             /* 32 rows of `line` cache lines, stride apart */
    size_t stride, row, line, n_lines, per_step;
};

static INLINE TARGET_AMX void aside_step(struct aside *a, size_t k, enum destination to) {
    if (a->earlier.next < results_pieces(to))
        results_step(&a->earlier, to);
    for (size_t r = 2 * k; to == TO_Y && a->target && r < 2 * k + 2 && r < a->target->n_rows; r++) {
        __builtin_prefetch(a->target->y + r * a->target->ld_y, 1);
        __builtin_prefetch(a->target->y + r * a->target->ld_y + TILE, 1);
    }
    for (size_t i = 0; i < a->per_step && a->row < BLOCK_OUTPUTS; i++) {
        _mm_prefetch(a->next + a->row * a->stride + a->line * 64, _MM_HINT_T1);
        if (++a->line == a->n_lines) {
            a->line = 0;
            a->row++;
        }
    }
}

/* sums (4 tiles) = or += w x for 32 outputs, 32 rows and n_k tiles of inputs. B tiles are loaded past the first cache, so
 * that the block of the weight stays in it. */
static INLINE TARGET_AMX void multiply_32_rows(struct block block, const char *x0, const char *x1, size_t n_k, bool add,
                                               float *sums, struct aside *aside, enum destination to) {
    const char *w0 = block.w, *w1 = block.w + TILE * block.stride;
    if (add) {
        _tile_loadd(0, sums, 64);
        _tile_loadd(1, sums + 256, 64);
        _tile_loadd(2, sums + 512, 64);
        _tile_loadd(3, sums + 768, 64);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (size_t k = 0; k < n_k; k++) {
        _tile_loadd(4, w0 + k * 64, block.stride);
        _tile_stream_loadd(6, x0 + k * TILE_BYTES, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_stream_loadd(7, x1 + k * TILE_BYTES, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, w1 + k * 64, block.stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        aside_step(aside, k, to);
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    _tile_stored(2, sums + 512, 64);
    _tile_stored(3, sums + 768, 64);
}

/* One tile of rows: bound by reading the weight, so the next block of it is fetched ahead. */
static INLINE TARGET_AMX void multiply_16_rows(struct block block, const char *x, size_t n_k, float *sums) {
    const char *w0 = block.w, *w1 = block.w + TILE * block.stride, *next = block.w + BLOCK_OUTPUTS * block.stride;
    _tile_zero(0);
    _tile_zero(2);
    for (size_t k = 0; k < n_k; k++) {
        for (size_t i = 0; i < BLOCK_OUTPUTS; i++)
            _mm_prefetch(next + (k * BLOCK_OUTPUTS + i) * 64, _MM_HINT_T1); /* in order of memory */
        _tile_loadd(6, x + k * TILE_BYTES, 64);
        _tile_loadd(4, w0 + k * 64, block.stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, w1 + k * 64, block.stride);
        _tile_dpbf16ps(2, 5, 6);
    }
    _tile_stored(0, sums, 64);
    _tile_stored(2, sums + 512, 64);
}

static struct results results_of(const struct work *work, size_t output, size_t tile, const float *tiles) {
    const struct product *p = work->p;
    size_t row = work->rows.begin + tile * TILE, n_rows = work->rows.end - row;
    return (struct results){.tiles = tiles, .bias = p->bias ? p->bias + output : NULL,
                            .y = p->y ? p->y + row * p->ld_y + output - p->outputs.begin : NULL, .ld_y = p->ld_y,
                            .losses = &work->losses, .row = tile * TILE, .output = output,
                            .n_out = p->outputs.end - output, .n_rows = n_rows < 2 * TILE ? n_rows : 2 * TILE};
}

/* 32 outputs for one tile of rows. */
static TARGET_AMX void block_16_rows(const struct work *work, size_t output) {
    struct results results = results_of(work, output, 0, work->tiles[0]);
    multiply_16_rows(block_of(work, output), work->packed, work->n_k, work->tiles[0]);
    results_flush(&results, TO_Y);
}

/* Fetches what follows k tiles of inputs of a block: the next inputs of the same outputs, or the next outputs. */
static void aside_next(struct aside *a, const struct work *work, size_t output, const struct block *block, size_t k,
                       size_t n_k) {
    bool same = k + n_k < work->n_k;
    size_t left = work->n_k - k - n_k, n_pairs = work->n_row_tiles / 2;
    a->next = same ? block->w + n_k * 64 : block->w - k * 64 + BLOCK_OUTPUTS * block->stride;
    a->stride = block->stride;
    a->n_lines = same ? (left < work->block_k ? left : work->block_k) : work->n_k < work->block_k ? work->n_k
        : work->block_k;
    a->per_step = ceil_div(BLOCK_OUTPUTS * a->n_lines, n_pairs * n_k);
    a->row = same || output + 2 * BLOCK_OUTPUTS <= work->p->outputs.end ? 0 : BLOCK_OUTPUTS;
    a->line = 0;
}

/* 32 outputs for many rows, by blocks of inputs. */
static INLINE TARGET_AMX void block_many_rows_body(const struct work *work, size_t output, enum destination to) {
    struct block block = block_of(work, output);
    struct aside aside = {.earlier.next = results_pieces(to)};
    for (size_t k = 0; k < work->n_k; k += work->block_k, block.w += work->block_k * 64) {
        bool last = k + work->block_k >= work->n_k;
        size_t n_k = last ? work->n_k - k : work->block_k;
        aside_next(&aside, work, output, &block, k, n_k);
        for (size_t t = 0; t < work->n_row_tiles; t += 2) {
            const char *x = work->packed + (t * work->n_k + k) * TILE_BYTES;
            float *sums = last && k == 0 ? work->tiles[t / 2 % 2] : work->sums + t / 2 * 4 * 256;
            struct results made = results_of(work, output, t, sums);
            aside.target = last ? &made : NULL;
            multiply_32_rows(block, x, x + work->n_k * TILE_BYTES, n_k, k > 0, sums, &aside, to);
            if (last) {
                results_flush(&aside.earlier, to);
                aside.earlier = made;
            }
        }
    }
    results_flush(&aside.earlier, to);
}

static TARGET_AMX void block_many_rows(const struct work *work, size_t output) {
    block_many_rows_body(work, output, TO_Y);
}

static TARGET_AMX void block_losses(const struct work *work, size_t output) {
    block_many_rows_body(work, output, TO_LOSSES);
}

static TARGET_AMX void pack_row_tile(const struct work *work, size_t tile) {
    size_t n_in = work->p->w->n_cols, stride = n_in * 2, row = work->rows.begin + tile * TILE;
    size_t n_rows = row < work->rows.end ? work->rows.end - row : 0;
    const char *rows = (const char *)work->p->x + row * stride;
    for (size_t k = 0; k < work->n_k; k++) {
        char *out = work->packed + (tile * work->n_k + k) * TILE_BYTES;
        if (n_rows >= TILE && n_in - k * TILE_K >= TILE_K)
            pack_tile(rows + k * 64, stride, out);
        else
            pack_tile_edge(rows + k * 64, stride, n_rows, n_in - k * TILE_K, out);
    }
}

static TARGET_AMX void tiles_start(void) {
    struct tile_config config = tile_config_make();
    for (int i = 0; i < 8; i++)
        tile_config_set(&config, i, TILE, 64);
    tile_config_load(&config);
}

static TARGET_AMX void tiles_end(void) {
    _tile_release();
}

/* ---- threads ------------------------------------------------------------------------------------------------------- */

static struct work work_of(const struct product *p, struct range rows) {
    struct work work = {.p = p, .rows = rows, .n_k = ceil_div(p->w->n_cols, TILE_K)};
    work.block_k = ceil_div(work.n_k, ceil_div(work.n_k, BLOCK_K) + (work.n_k == 0));
    work.n_row_tiles = ceil_div(rows.end - rows.begin, TILE);
    if (work.n_row_tiles > 1)
        work.n_row_tiles = (work.n_row_tiles + 1) / 2 * 2;
    return work;
}

static size_t packed_bytes(const struct work *work) {
    return work->n_row_tiles * work->n_k * TILE_BYTES;
}

static size_t buffer_bytes(const struct work *work) {
    return 8 * TILE_BYTES + ceil_div(work->n_row_tiles, 2) * 4 * TILE_BYTES + BLOCK_OUTPUTS * work->n_k * TILE_K * 2;
}

static void work_use(struct work *work, char *packed, char *buffers) {
    work->packed = packed;
    work->tiles[0] = (float *)(void *)buffers;
    work->tiles[1] = work->tiles[0] + 4 * 256;
    work->sums = work->tiles[1] + 4 * 256;
    work->copy = (char *)(work->sums + ceil_div(work->n_row_tiles, 2) * 4 * 256);
}

/* All outputs for some rows, by one thread. */
static TARGET_AMX void rows_multiply(struct work *work) {
    for (size_t tile = 0; tile < work->n_row_tiles; tile++)
        pack_row_tile(work, tile);
    for (size_t o = work->p->outputs.begin; o < work->p->outputs.end; o += BLOCK_OUTPUTS)
        if (work->n_row_tiles == 1)
            block_16_rows(work, o);
        else
            block_many_rows(work, o);
}

/* Rows of a pass: as many as may be packed, evenly. */
static size_t pass_rows(const struct product *p, size_t n_rows) {
    size_t most = PASS_BYTES / (ceil_div(p->w->n_cols, TILE_K) * TILE_K * 2 + 1) / (2 * TILE) * 2 * TILE;
    most = most < 2 * TILE ? 2 * TILE : most;
    return n_rows <= most ? ceil_div(n_rows, 2 * TILE) * 2 * TILE : ceil_div(ceil_div(n_rows, ceil_div(n_rows, most)),
                                                                             2 * TILE) * 2 * TILE;
}

/* Every thread takes all outputs of its own rows: what it packs, multiplies and writes stays in its cache, for the ops
 * before and behind too. */
static void run_by_rows(struct device *dev, const struct product *p) {
    size_t n_threads = (size_t)dev->n_threads, n_each = ceil_div(ceil_div(p->n_rows, n_threads), 2 * TILE) * 2 * TILE;
    size_t n_pass = pass_rows(p, n_each);
    struct work whole = work_of(p, (struct range){0, n_pass});
    char *packed = device_scratch(dev, SCRATCH_PRODUCT, n_threads * packed_bytes(&whole));
    char *buffers = device_scratch(dev, SCRATCH_THREAD, n_threads * buffer_bytes(&whole));
    if (!packed || !buffers)
        return;
#pragma omp parallel for num_threads(dev->n_threads) schedule(static, 1)
    for (size_t i = 0; i < n_threads; i++) {
        size_t end = (i + 1) * n_each < p->n_rows ? (i + 1) * n_each : p->n_rows;
        tiles_start();
        for (size_t begin = i * n_each; begin < end; begin += n_pass) {
            struct work work = work_of(p, (struct range){begin, begin + n_pass < end ? begin + n_pass : end});
            work_use(&work, packed + i * packed_bytes(&whole), buffers + i * buffer_bytes(&whole));
            rows_multiply(&work);
        }
        tiles_end();
    }
}

/* Few rows: threads share the outputs. */
static void run_by_outputs(struct device *dev, const struct product *p) {
    struct work work = work_of(p, (struct range){0, p->n_rows});
    size_t n_blocks = ceil_div(p->outputs.end - p->outputs.begin, BLOCK_OUTPUTS);
    char *packed = device_scratch(dev, SCRATCH_PRODUCT, packed_bytes(&work));
    char *buffers = device_scratch(dev, SCRATCH_THREAD, (size_t)dev->n_threads * buffer_bytes(&work));
    if (!packed || !buffers)
        return;
    work.packed = packed;
    for (size_t tile = 0; tile < work.n_row_tiles; tile++)
        pack_row_tile(&work, tile);
#pragma omp parallel num_threads(dev->n_threads)
    {
        struct work mine = work;
        work_use(&mine, packed, buffers + (size_t)thread_number() * buffer_bytes(&work));
        tiles_start();
#pragma omp for schedule(static) /* runs of blocks: each one fetches its successor */
        for (size_t i = 0; i < n_blocks; i++)
            if (mine.n_row_tiles == 1)
                block_16_rows(&mine, p->outputs.begin + i * BLOCK_OUTPUTS);
            else
                block_many_rows(&mine, p->outputs.begin + i * BLOCK_OUTPUTS);
        tiles_end();
    }
}

void gemm_amx_run(struct device *dev, const struct product *p) {
    if (p->n_rows >= (size_t)dev->n_threads * ROWS_PER_THREAD)
        run_by_rows(dev, p);
    else
        run_by_outputs(dev, p);
}

/* ---- losses -------------------------------------------------------------------------------------------------------- */

/* Memory of n_parts x n_rows (a multiple of 32) losses and the targets. */
static struct losses losses_of(char *memory, size_t n_rows, size_t n_parts, size_t part, const int32_t *target) {
    float *values = (float *)(void *)memory;
    return (struct losses){values + part * n_rows, values + (n_parts + part) * n_rows,
                           values + (2 * n_parts + part) * n_rows, values + (3 * n_parts + part) * n_rows, target};
}

/* Joins the parts of the outputs in their order: -log softmax of rows begin .. begin + n_rows - 1 at their targets. */
static void losses_join(char *memory, size_t begin, size_t n_rows, size_t n_padded, const int32_t *target,
                        const struct nll_args *a) {
    for (size_t r = 0; r < n_rows; r++) {
        float max = -INFINITY, sum = 0, logit = NAN, below = -INFINITY;
        for (size_t i = 0; i < LOSS_PARTS; i++) {
            struct losses l = losses_of(memory, n_padded, LOSS_PARTS, i, target);
            if (l.target_logit[r] == l.target_logit[r]) {
                logit = l.target_logit[r];
                below = l.below[r] > max ? l.below[r] : max;
            }
            max = l.max[r] > max ? l.max[r] : max;
        }
        for (size_t i = 0; i < LOSS_PARTS; i++) {
            struct losses l = losses_of(memory, n_padded, LOSS_PARTS, i, target);
            sum += l.max[r] == max ? l.sum[r] : l.sum[r] * expf(l.max[r] - max);
        }
        a->nll[begin + r] = target[r] < 0 ? NAN : max + logf(sum) - logit;
        if (a->is_argmax)
            a->is_argmax[begin + r] = logit == max && logit > below;
    }
}

static void losses_start(const struct losses *l, size_t n_rows) {
    for (size_t r = 0; r < n_rows; r++) {
        l->max[r] = -INFINITY;
        l->sum[r] = 0;
        l->target_logit[r] = NAN;
        l->below[r] = -INFINITY;
    }
}

/* Rows begin .. begin + p->n_rows - 1 of `a`. */
static void losses_pass(struct device *dev, const struct product *p, size_t begin, const struct nll_args *a) {
    struct work work = work_of(p, (struct range){0, p->n_rows});
    size_t n_rows = ceil_div(p->n_rows, 2 * TILE) * 2 * TILE, n_blocks = ceil_div(p->w->n_rows, BLOCK_OUTPUTS);
    work.n_row_tiles = n_rows / TILE;
    char *packed = device_scratch(dev, SCRATCH_PRODUCT, packed_bytes(&work));
    char *buffers = device_scratch(dev, SCRATCH_THREAD, (size_t)dev->n_threads * buffer_bytes(&work));
    char *memory = device_scratch(dev, SCRATCH_PARTIAL, (4 * LOSS_PARTS + 1) * n_rows * sizeof(float));
    if (!packed || !buffers || !memory)
        return;
    int32_t *targets = (int32_t *)(void *)(memory + 4 * LOSS_PARTS * n_rows * sizeof(float));
    memset(targets, 0xFF, n_rows * sizeof *targets);
    memcpy(targets, a->target + begin, p->n_rows * sizeof *targets);
    work.packed = packed;
#pragma omp parallel num_threads(dev->n_threads)
    {
        struct work mine = work;
        work_use(&mine, packed, buffers + (size_t)thread_number() * buffer_bytes(&work));
#pragma omp for schedule(static)
        for (size_t tile = 0; tile < mine.n_row_tiles; tile++)
            pack_row_tile(&mine, tile);
        tiles_start();
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < LOSS_PARTS; i++) {
            mine.losses = losses_of(memory, n_rows, LOSS_PARTS, i, targets);
            losses_start(&mine.losses, n_rows);
            for (size_t b = n_blocks * i / LOSS_PARTS; b < n_blocks * (i + 1) / LOSS_PARTS; b++)
                block_losses(&mine, b * BLOCK_OUTPUTS);
        }
        tiles_end();
    }
    losses_join(memory, begin, p->n_rows, n_rows, targets, a);
}

void gemm_amx_losses(struct device *dev, const struct product *p, const struct nll_args *a) {
    size_t n_pass = pass_rows(p, p->n_rows);
    for (size_t begin = 0; begin < p->n_rows; begin += n_pass) {
        struct product pass = *p;
        pass.x = (const uint16_t *)p->x + begin * p->w->n_cols;
        pass.n_rows = p->n_rows - begin < n_pass ? p->n_rows - begin : n_pass;
        losses_pass(dev, &pass, begin, a);
    }
}
#endif
