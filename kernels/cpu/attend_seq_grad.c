/* Gradient of attention over packed sequences. The queries of a lane are cut into spans of about equal work, so that
 * there are enough of them for the threads; each adds up its own gradients of keys, which are joined in order. */
#include "kernels/cpu/attend_seq.h"

#include <string.h>

enum { SPANS_PER_THREAD = 4 };

/* Gradients of the keys of one set that the queries of a span see. */
struct key_grad {
    struct range keys; /* of the set, whole panels */
    float *dk, *dv;    /* (keys, dim) */
    float *dgate;      /* (keys) */
};

struct query_span {
    const struct seq_lane *lane;
    struct range queries;
    struct key_grad grad[2]; /* per set of the lane */
};

struct grad_run {
    const struct attend_seq_grad_args *a;
    struct seq_run seq;
    size_t spans_per_lane;
    struct query_span *spans; /* (n_lanes, spans_per_lane) */
};

struct grad_block {
    const struct grad_run *run;
    const struct query_span *span;
    struct range queries;
    size_t n_rows;
    float *q, *dout, *dq;  /* (n_rows, dim); q times scale, dq for such a q */
    float *p, *dlogit;     /* (n_rows, STEP_KEYS); dlogit by the product before the cap */
    float *lse, *delta;    /* (n_rows); delta = dout . out */
};

static size_t block_floats(const struct seq_run *run) {
    return run->block_queries * run->group * (3 * run->dim + 2 * STEP_KEYS + 2);
}

static void block_place(struct grad_block *b, float *memory) {
    const struct seq_run *run = &b->run->seq;
    size_t rows = run->block_queries * run->group;
    b->q = memory;
    b->dout = b->q + rows * run->dim;
    b->dq = b->dout + rows * run->dim;
    b->p = b->dq + rows * run->dim;
    b->dlogit = b->p + rows * STEP_KEYS;
    b->lse = b->dlogit + rows * STEP_KEYS;
    b->delta = b->lse + rows;
}

/* ---- one step of keys ---------------------------------------------------------------------------------------------- */

/* What a row of a step is made of. */
struct grad_row {
    float *p, *dlogit;    /* (n): products -> softmax weights; gradients of weights -> of products */
    struct key_span span; /* of the n keys */
    const float *gate;    /* (far_end) */
    float *dgate;         /* (far_end), added to */
    size_t n;
    float lse, delta, softcap;
};

static INLINE void row_grad(const struct grad_row *row, enum isa isa) {
    float *p = row->p, *dlogit = row->dlogit, slope[STEP_KEYS], softcap = row->softcap, lse = row->lse, delta = row->delta;
    size_t n = row->n, n_far = row->span.far_end;
    if (softcap != 0) {
#pragma omp simd
        for (size_t j = 0; j < n; j++) {
            float bent = tanh_f32(p[j] / softcap, isa);
            slope[j] = 1.0f - bent * bent;
            p[j] = softcap * bent;
        }
    }
#pragma omp simd
    for (size_t j = 0; j < n_far; j++)
        p[j] += row->gate[j];
#pragma omp simd
    for (size_t j = 0; j < n; j++) {
        p[j] = exp_f32(p[j] - lse, isa);
        dlogit[j] = p[j] * (dlogit[j] - delta);
    }
#pragma omp simd
    for (size_t j = 0; j < n_far; j++)
        row->dgate[j] += dlogit[j];
    if (softcap != 0) {
#pragma omp simd
        for (size_t j = 0; j < n; j++)
            dlogit[j] *= slope[j];
    }
    step_mask(p, row->span, n, 0);
    step_mask(dlogit, row->span, n, 0);
}

/* c (n keys, dim) += weights^T (keys, n_rows) rows (n_rows, dim) */
static void keys_add(const struct grad_block *b, const float *weights, const float *rows, size_t n, float *c) {
    size_t dim = b->run->seq.dim;
    tile_product_run(&(struct tile_product){.n_rows = n, .n_panels = dim / PANEL, .n_inner = b->n_rows,
                                            .a = weights, .a_row = 1, .a_col = STEP_KEYS,
                                            .b = rows, .b_row = dim, .b_panel = PANEL,
                                            .c = c, .c_row = dim, .accumulate = true}, b->run->seq.dev->isa);
}

static INLINE void block_step(const struct grad_block *b, const struct key_set *set, const struct key_grad *grad, size_t at,
                              size_t n, enum isa isa) {
    const struct seq_run *run = &b->run->seq;
    size_t to = at - grad->keys.begin;
    seq_block_dots(run, b->q, b->n_rows, set->k_lanes, at, n, b->p);
    seq_block_dots(run, b->dout, b->n_rows, set->v_lanes, at, n, b->dlogit);
    for (size_t t = b->queries.begin, r = 0; t < b->queries.end; t++) {
        struct key_span span = step_span(key_span(b->span->lane, set, t), at, n);
        for (size_t h = 0; h < run->group; h++, r++)
            row_grad(&(struct grad_row){.p = b->p + r * STEP_KEYS, .dlogit = b->dlogit + r * STEP_KEYS, .span = span,
                                        .gate = set->gate + at, .dgate = grad->dgate + to, .n = n, .lse = b->lse[r],
                                        .delta = b->delta[r], .softcap = run->a->softcap}, isa);
    }
    keys_add(b, b->p, b->dout, n, grad->dv + to * run->dim);
    keys_add(b, b->dlogit, b->q, n, grad->dk + to * run->dim);
    seq_block_sums(run, b->dlogit, b->n_rows, set->k, at, n, b->dq);
}

static INLINE void block_body(const struct grad_block *b, enum isa isa) {
    for (int k = 0; k < b->span->lane->n_sets; k++) {
        const struct key_set *set = &b->span->lane->set[k];
        struct range keys = key_range(b->span->lane, set, b->queries);
        for (size_t at = keys.begin; at < keys.end; at += STEP_KEYS)
            block_step(b, set, &b->span->grad[k], at, keys.end - at < STEP_KEYS ? keys.end - at : STEP_KEYS, isa);
    }
}

static void block_scalar(const struct grad_block *b) {
    block_body(b, ISA_SCALAR);
}

#if ISA_X86
static TARGET_AVX2 void block_avx2(const struct grad_block *b) {
    block_body(b, ISA_AVX2);
}

static TARGET_AVX512 void block_avx512(const struct grad_block *b) {
    block_body(b, ISA_AVX512);
}
#endif

/* ---- spans of queries ---------------------------------------------------------------------------------------------- */

/* lse of the rows of a block, and delta; dq lends its memory for the rows of `out`. */
static void block_sums(const struct grad_block *b) {
    const struct seq_run *run = &b->run->seq;
    const struct attend_seq_args *a = run->a;
    const struct seq_lane *lane = b->span->lane;
    const float *lse = a->lse + (lane->first_row + b->queries.begin) * a->n_heads + lane->kv_head * run->group;
    seq_block_load(run, lane, b->queries, a->out, a->n_heads * a->head_dim, 1, b->dq);
    for (size_t r = 0; r < b->n_rows; r++) {
        const float *out = b->dq + r * run->dim, *dout = b->dout + r * run->dim;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (size_t d = 0; d < run->dim; d++)
            sum += out[d] * dout[d];
        b->delta[r] = sum;
        b->lse[r] = lse[r / run->group * a->n_heads + r % run->group];
    }
}

static void block_run(const struct grad_run *run, const struct query_span *span, struct range queries, float *memory) {
    static void (*const table[])(const struct grad_block *) = ISA_TABLE(block);
    const struct attend_seq_args *a = run->seq.a;
    struct grad_block b = {.run = run, .span = span, .queries = queries,
                           .n_rows = (queries.end - queries.begin) * run->seq.group};
    block_place(&b, memory);
    seq_block_load(&run->seq, span->lane, queries, a->q, a->ld_qkv, a->scale, b.q);
    seq_block_load(&run->seq, span->lane, queries, run->a->dout, a->n_heads * a->head_dim, 1, b.dout);
    block_sums(&b);
    memset(b.dq, 0, b.n_rows * run->seq.dim * sizeof *b.dq);
    table[run->seq.dev->isa](&b);
    for (size_t r = 0; r < b.n_rows; r++)
        b.delta[r] = a->scale;
    seq_block_store(&run->seq, span->lane, queries, b.dq, b.delta, run->a->dq, a->ld_qkv);
}

static size_t span_floats(const struct query_span *span, int set, size_t dim) {
    return (span->grad[set].keys.end - span->grad[set].keys.begin) * (2 * dim + 1);
}

static void span_run(const struct grad_run *run, const struct query_span *span, float *memory) {
    for (int k = 0; k < span->lane->n_sets; k++)
        memset(span->grad[k].dk, 0, span_floats(span, k, run->seq.dim) * sizeof(float));
    for (size_t t = span->queries.begin; t < span->queries.end; t += run->seq.block_queries) {
        size_t end = t + run->seq.block_queries;
        block_run(run, span, (struct range){t, end < span->queries.end ? end : span->queries.end}, memory);
    }
}

static size_t query_work(const struct seq_lane *lane, size_t t) {
    size_t work = 0;
    for (int k = 0; k < lane->n_sets; k++) {
        struct key_span span = key_span(lane, &lane->set[k], t);
        work += span.end - span.begin;
    }
    return work;
}

/* Cuts the queries of a lane into n spans of about the same work. */
static void lane_cut(const struct seq_lane *lane, size_t n, struct query_span *spans) {
    size_t total = 0, done = 0, t = 0;
    for (size_t i = 0; i < lane->len; i++)
        total += query_work(lane, i);
    for (size_t i = 0; i < n; i++) {
        spans[i] = (struct query_span){.lane = lane, .queries = {t, t}};
        for (; t < lane->len && (i + 1 == n || done < total * (i + 1) / n); t++)
            done += query_work(lane, t);
        spans[i].queries.end = t;
        for (int k = 0; k < lane->n_sets && spans[i].queries.begin < t; k++)
            spans[i].grad[k].keys = key_range(lane, &lane->set[k], spans[i].queries);
    }
}

static bool spans_make(struct device *dev, struct grad_run *run) {
    size_t n_lanes = run->seq.n_lanes, wanted = (size_t)dev->n_threads * SPANS_PER_THREAD, n_floats = 0;
    run->spans_per_lane = dev->n_threads == 1 ? 1 : (wanted + n_lanes - 1) / n_lanes;
    size_t n_spans = n_lanes * run->spans_per_lane;
    if (!(run->spans = device_scratch(dev, SCRATCH_ITEMS, n_spans * sizeof *run->spans)))
        return false;
    for (size_t i = 0; i < n_lanes; i++)
        lane_cut(&run->seq.lanes[i], run->spans_per_lane, run->spans + i * run->spans_per_lane);
    for (size_t i = 0; i < n_spans; i++)
        for (int k = 0; k < run->spans[i].lane->n_sets; k++)
            n_floats += span_floats(&run->spans[i], k, run->seq.dim);
    float *next = device_scratch(dev, SCRATCH_PARTIAL, n_floats * sizeof *next);
    for (size_t i = 0; next && i < n_spans; i++)
        for (int k = 0; k < run->spans[i].lane->n_sets; k++) {
            struct key_grad *grad = &run->spans[i].grad[k];
            size_t n = grad->keys.end - grad->keys.begin;
            grad->dk = next, grad->dv = next + n * run->seq.dim, grad->dgate = next + 2 * n * run->seq.dim;
            next += span_floats(&run->spans[i], k, run->seq.dim);
        }
    return next != NULL;
}

/* ---- joining ------------------------------------------------------------------------------------------------------- */

/* Adds what the spans of a lane found for key `key` of a set. */
static void key_join(const struct grad_run *run, const struct query_span *spans, int set, size_t key, float *dk, float *dv,
                     float *dgate) {
    for (size_t i = 0; i < run->spans_per_lane; i++) {
        const struct key_grad *grad = &spans[i].grad[set];
        if (key < grad->keys.begin || key >= grad->keys.end)
            continue;
        size_t at = key - grad->keys.begin, dim = run->seq.dim, head_dim = run->seq.a->head_dim;
        for (size_t d = 0; d < head_dim; d++)
            dk[d] += grad->dk[at * dim + d];
        for (size_t d = 0; d < head_dim; d++)
            dv[d] += grad->dv[at * dim + d];
        *dgate += grad->dgate[at];
    }
}

static void position_join(const struct grad_run *run, const struct query_span *spans, size_t s) {
    const struct attend_seq_args *a = run->seq.a;
    const struct seq_lane *lane = spans->lane;
    size_t row = lane->first_row + s, at = row * a->ld_qkv + lane->kv_head * a->head_dim;
    float dgate = 0;
    memset(run->a->dk + at, 0, a->head_dim * sizeof(float));
    memset(run->a->dv + at, 0, a->head_dim * sizeof(float));
    for (int k = 0; k < lane->n_sets; k++) {
        size_t key = lane->set[k].side == KEYS_FAR ? (size_t)lane->before[s] : s;
        bool listed = lane->set[k].side != KEYS_FAR || (lane->before[s + 1] > lane->before[s] && key < lane->set[k].n);
        if (listed)
            key_join(run, spans, k, key, run->a->dk + at, run->a->dv + at, &dgate);
    }
    if (run->a->dlog_gate)
        run->a->dlog_gate[row * a->n_kv_heads + lane->kv_head] = (int64_t)s < a->sinks ? 0 : dgate;
}

void cpu_attend_seq_grad(struct device *dev, const struct attend_seq_grad_args *a) {
    const struct key_copies copies = {.k_rows = true, .k_lanes = true, .v_lanes = true};
    struct grad_run run = {.a = a};
    if (!device_trains(dev) || a->forward->n_rows == 0 || !seq_run_make(dev, a->forward, copies, &run.seq) ||
        !spans_make(dev, &run))
        return;
    size_t part = block_floats(&run.seq), n_spans = run.seq.n_lanes * run.spans_per_lane;
    float *memory = device_scratch(dev, SCRATCH_THREAD, (size_t)dev->n_threads * part * sizeof *memory);
    if (!memory)
        return;
#pragma omp parallel num_threads(dev->n_threads)
    {
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < n_spans; i++)
            span_run(&run, &run.spans[i], memory + (size_t)thread_number() * part);
        for (size_t i = 0; i < run.seq.n_lanes; i++) {
            struct range positions = thread_range(run.seq.lanes[i].len);
            for (size_t s = positions.begin; s < positions.end; s++)
                position_join(&run, run.spans + i * run.spans_per_lane, s);
        }
    }
}
