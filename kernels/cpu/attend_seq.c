/* Causal attention over packed sequences: blocks of queries against steps of keys, softmax online (arXiv 2205.14135). */
#include "kernels/cpu/attend_seq.h"

#include <string.h>

struct block {
    const struct seq_run *run;
    const struct seq_lane *lane;
    struct range queries;
    size_t n_rows;     /* row = (query - queries.begin) * group + head of the group */
    float *q, *out;    /* (n_rows, dim) */
    float *logit;      /* (n_rows, STEP_KEYS) */
    float *max, *sum;  /* (n_rows) */
};

static size_t block_floats(const struct seq_run *run) {
    return run->block_queries * run->group * (2 * run->dim + STEP_KEYS + 2);
}

static void block_place(struct block *b, float *memory) {
    size_t rows = b->run->block_queries * b->run->group;
    b->q = memory;
    b->out = b->q + rows * b->run->dim;
    b->logit = b->out + rows * b->run->dim;
    b->max = b->logit + rows * STEP_KEYS;
    b->sum = b->max + rows;
}

/* Products -> logits of a query that sees `span` of n keys, a multiple of 16; the largest. */
static INLINE float row_logits(float *x, struct key_span span, const float *gate, size_t n, float softcap, enum isa isa) {
    if (softcap != 0) {
#pragma omp simd
        for (size_t j = 0; j < n; j++)
            x[j] = softcap_f32(x[j], softcap, isa);
    }
#pragma omp simd
    for (size_t j = 0; j < span.far_end; j++)
        x[j] += gate[j];
    step_mask(x, span, n, -INFINITY);
    return max_f32(x, n, -INFINITY);
}

/* x = exp(x - max); their sum. */
static INLINE float row_exp(float *x, size_t n, float max, enum isa isa) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t j = 0; j < n; j++) {
        x[j] = exp_f32(x[j] - max, isa);
        sum += x[j];
    }
    return sum;
}

static INLINE void row_step(const struct block *b, size_t r, struct key_span span, const float *gate, size_t n,
                            enum isa isa) {
    float *logit = b->logit + r * STEP_KEYS, *out = b->out + r * b->run->dim;
    float max = row_logits(logit, span, gate, n, b->run->a->softcap, isa);
    if (max > b->max[r]) {
        float shrink = exp_f32(b->max[r] - max, isa);
        b->sum[r] *= shrink;
#pragma omp simd
        for (size_t d = 0; d < b->run->dim; d++)
            out[d] *= shrink;
        b->max[r] = max;
    }
    /* A row that has seen nothing yet: exp(-inf - 0) = 0. */
    b->sum[r] += row_exp(logit, n, b->max[r] == -INFINITY ? 0 : b->max[r], isa);
}

/* Keys at .. at + n - 1 of a set. */
static INLINE void block_step(const struct block *b, const struct key_set *set, size_t at, size_t n, enum isa isa) {
    size_t group = b->run->group;
    seq_block_dots(b->run, b->q, b->n_rows, set->k_lanes, at, n, b->logit);
    for (size_t t = b->queries.begin; t < b->queries.end; t++) {
        struct key_span span = step_span(key_span(b->lane, set, t), at, n);
        for (size_t h = 0; h < group; h++)
            row_step(b, (t - b->queries.begin) * group + h, span, set->gate + at, n, isa);
    }
    seq_block_sums(b->run, b->logit, b->n_rows, set->v, at, n, b->out);
}

static INLINE void block_body(const struct block *b, enum isa isa) {
    for (int k = 0; k < b->lane->n_sets; k++) {
        const struct key_set *set = &b->lane->set[k];
        struct range keys = key_range(b->lane, set, b->queries);
        for (size_t at = keys.begin; at < keys.end; at += STEP_KEYS)
            block_step(b, set, at, keys.end - at < STEP_KEYS ? keys.end - at : STEP_KEYS, isa);
    }
}

static void block_scalar(const struct block *b) {
    block_body(b, ISA_SCALAR);
}

#if ISA_X86
static TARGET_AVX2 void block_avx2(const struct block *b) {
    block_body(b, ISA_AVX2);
}

static TARGET_AVX512 void block_avx512(const struct block *b) {
    block_body(b, ISA_AVX512);
}
#endif

static void block_run(const struct seq_run *run, const struct seq_lane *lane, struct range queries, float *memory) {
    static void (*const table[])(const struct block *) = ISA_TABLE(block);
    const struct attend_seq_args *a = run->a;
    struct block b = {.run = run, .lane = lane, .queries = queries, .n_rows = (queries.end - queries.begin) * run->group};
    block_place(&b, memory);
    seq_block_load(run, lane, queries, a->q, a->ld_qkv, a->scale, b.q);
    memset(b.out, 0, b.n_rows * run->dim * sizeof *b.out);
    for (size_t r = 0; r < b.n_rows; r++)
        b.max[r] = -INFINITY, b.sum[r] = 0;
    table[run->dev->isa](&b);
    float *lse = a->lse + (lane->first_row + queries.begin) * a->n_heads + lane->kv_head * run->group;
    for (size_t r = 0; r < b.n_rows; r++) {
        lse[r / run->group * a->n_heads + r % run->group] = b.max[r] + logf(b.sum[r]);
        b.sum[r] = 1.0f / b.sum[r];
    }
    seq_block_store(run, lane, queries, b.out, b.sum, a->out, a->n_heads * a->head_dim);
}

void cpu_attend_seq(struct device *dev, const struct attend_seq_args *a) {
    struct seq_run run;
    if (!device_trains(dev) || a->n_rows == 0 ||
        !seq_run_make(dev, a, (struct key_copies){.v_rows = true, .k_lanes = true}, &run))
        return;
    size_t longest = 0;
    for (size_t i = 0; i < run.n_lanes; i++)
        longest = run.lanes[i].len > longest ? run.lanes[i].len : longest;
    size_t n_blocks = (longest + run.block_queries - 1) / run.block_queries, part = block_floats(&run);
    float *memory = device_scratch(dev, SCRATCH_THREAD, (size_t)dev->n_threads * part * sizeof *memory);
    if (!memory)
        return;
    /* Late blocks see most keys: they come first. */
#pragma omp parallel for collapse(2) num_threads(threads_for_bytes(dev, a->n_rows * a->n_heads * a->head_dim * 64)) \
    schedule(dynamic)
    for (size_t late = 0; late < n_blocks; late++)
        for (size_t i = 0; i < run.n_lanes; i++) {
            size_t begin = (n_blocks - 1 - late) * run.block_queries, end = begin + run.block_queries;
            const struct seq_lane *lane = &run.lanes[i];
            end = end < lane->len ? end : lane->len;
            if (begin < end)
                block_run(&run, lane, (struct range){begin, end}, memory + (size_t)thread_number() * part);
        }
}
