/* Micro-benchmark of the CPU kernels, built on request: `make build/tests/bench_kernels`, run with the number of threads.
 * Prints CSV. Every case alternates with an oneDNN bf16 product of 512 x 2048 x 2048 and a read of 256 MB, so that rates can
 * be judged by what the machine gave in the same minute. */
#include <dnnl.h>
#include <limits.h>
#include <math.h>
#include <omp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"
#include "kernels/cpu/cpu.h"
#include "kernels/train_ops.h"

enum { MAX_RUNS = 15, READ_BYTES = 256 << 20 };

static const struct ops *ops;
static struct device *dev;
static enum dtype dtype;

/* On a busy machine one thread is better judged by the processor time that it got. */
static clockid_t clock_used = CLOCK_MONOTONIC;

static double now(void) {
    struct timespec t;
    clock_gettime(clock_used, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(int rc, const struct err *err) {
    if (rc != OK) {
        fprintf(stderr, "bench_kernels: %s: %s\n", err->where, err->message);
        exit(1);
    }
}

static void sync(void) {
    struct err err = {0};
    check(ops->sync(dev, &err), &err);
}

/* ---- yardsticks ---------------------------------------------------------------------------------------------------- */

struct yardstick {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[3];
    float *read;
};

static void *alloc(size_t n_bytes) {
    void *p = aligned_alloc(64, (n_bytes + 63) / 64 * 64 + 64);
    if (!p)
        exit(1);
    memset(p, 0, n_bytes);
    return p;
}

static struct yardstick yardstick_make(void) {
    struct yardstick y = {.read = alloc(READ_BYTES)};
    dnnl_dims_t a = {512, 2048}, b = {2048, 2048}, c = {512, 2048};
    dnnl_memory_desc_t da, db, dc;
    dnnl_primitive_desc_t pd;
    dnnl_data_type_t type = ops_cpu_has_amx() ? dnnl_bf16 : dnnl_f32;
    dnnl_engine_create(&y.engine, dnnl_cpu, 0);
    dnnl_stream_create(&y.stream, y.engine, dnnl_stream_default_flags);
#if DNNL_VERSION_MAJOR < 3
    dnnl_matmul_desc_t desc;
    dnnl_memory_desc_init_by_tag(&da, 2, a, type, dnnl_ab);
    dnnl_memory_desc_init_by_tag(&db, 2, b, type, dnnl_ba);
    dnnl_memory_desc_init_by_tag(&dc, 2, c, dnnl_f32, dnnl_ab);
    dnnl_matmul_desc_init(&desc, &da, &db, NULL, &dc);
    dnnl_primitive_desc_create(&pd, &desc, NULL, y.engine, NULL);
    dnnl_memory_create(&y.memory[0], &da, y.engine, alloc(512 * 2048 * 4));
    dnnl_memory_create(&y.memory[1], &db, y.engine, alloc(2048 * 2048 * 4));
    dnnl_memory_create(&y.memory[2], &dc, y.engine, alloc(512 * 2048 * 4));
#else
    dnnl_memory_desc_create_with_tag(&da, 2, a, type, dnnl_ab);
    dnnl_memory_desc_create_with_tag(&db, 2, b, type, dnnl_ba);
    dnnl_memory_desc_create_with_tag(&dc, 2, c, dnnl_f32, dnnl_ab);
    dnnl_matmul_primitive_desc_create(&pd, y.engine, da, db, NULL, dc, NULL);
    dnnl_memory_create(&y.memory[0], da, y.engine, alloc(512 * 2048 * 4));
    dnnl_memory_create(&y.memory[1], db, y.engine, alloc(2048 * 2048 * 4));
    dnnl_memory_create(&y.memory[2], dc, y.engine, alloc(512 * 2048 * 4));
#endif
    dnnl_primitive_create(&y.primitive, pd);
    return y;
}

/* Seconds of one product. */
static double yardstick_gemm(const struct yardstick *y) {
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, y->memory[0]}, {DNNL_ARG_WEIGHTS, y->memory[1]}, {DNNL_ARG_DST, y->memory[2]}};
    double start = now();
    dnnl_primitive_execute(y->primitive, y->stream, 3, args);
    dnnl_stream_wait(y->stream);
    return now() - start;
}

static double yardstick_read(const struct yardstick *y) {
    float sum = 0;
    double start = now();
#pragma omp parallel for simd reduction(+ : sum) schedule(static)
    for (size_t i = 0; i < READ_BYTES / 4; i += 16)
        sum += y->read[i];
    return now() - start + (sum == 1 ? 1e9 : 0);
}

/* ---- cases --------------------------------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b) {
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, compare);
    return x[n / 2];
}

/* Runs a case until 7 rounds are done and prints a row; work in flops and bytes. Returns the median seconds. */
static double report(const struct yardstick *y, const char *name, void (*run)(void *), void *arg, double flops,
        double bytes) {
    double t[MAX_RUNS], gemm[MAX_RUNS], read[MAX_RUNS];
    int n = 7;
    run(arg);
    for (int i = 0; i < n; i++) {
        gemm[i] = yardstick_gemm(y);
        double best = yardstick_gemm(y);
        gemm[i] = best < gemm[i] ? best : gemm[i];
        read[i] = yardstick_read(y);
        run(arg);
        double start = now();
        run(arg);
        sync();
        t[i] = now() - start;
    }
    double middle = median(t, n), gemm_rate = 2.0 * 512 * 2048 * 2048 / median(gemm, n),
    read_rate = READ_BYTES / median(read, n);
    printf("%s,%.1f,%.1f,%.1f,%.3f,%.2f,%.3f,%.0f,%.1f\n", name, middle * 1e6, t[0] * 1e6, flops / middle / 1e9,
           flops / middle / gemm_rate, bytes / middle / 1e9, bytes / middle / read_rate, gemm_rate / 1e9, read_rate / 1e9);
    fflush(stdout);
    return middle;
}

static uint32_t noise_at;

static float noise(void) {
    return rng_uniform(1, 0, 0, 0, noise_at++) * 2 - 1;
}

static void *noise_matrix(size_t n, enum dtype type, float scale) {
    char *p = alloc(n * dtype_size(type));
    for (size_t i = 0; i < n; i++)
        dtype_store(p, type, i, (double)(i < 65536 ? scale * noise() : 0));
    for (size_t i = 65536; i < n; i += 65536)
        memcpy(p + i * dtype_size(type), p, (n - i < 65536 ? n - i : 65536) * dtype_size(type));
    return p;
}

static struct weight *weight(size_t n_rows, size_t n_cols) {
    struct host_matrix m = {noise_matrix(n_rows * n_cols, DTYPE_BF16, 0.05f), DTYPE_BF16, n_rows, n_cols};
    struct weight *w;
    struct err err = {0};
    bool borrowed;
    check(ops->weight_prepare(dev, &m, WEIGHT_COMPUTE, &w, &borrowed, &err), &err);
    return w;
}

/* ---- products ------------------------------------------------------------------------------------------------------ */

struct products {
    struct weight *w[64]; /* so many that they do not fit a cache */
    int n;
    struct linear_args args;
};

static void run_products(void *arg) {
    struct products *p = arg;
    for (int i = 0; i < p->n; i++) {
        p->args.w = p->w[i];
        ops->linear(dev, &p->args);
    }
}

static void bench_products(const struct yardstick *y, size_t n_rows, size_t n_out, size_t n_in) {
    struct products p = {.n = (int)(300e6 / ((double)n_out * (double)n_in * 2)) + 1};
    char name[64];
    p.n = p.n > 64 ? 64 : p.n;
    for (int i = 0; i < p.n; i++)
        p.w[i] = weight(n_out, n_in);
    p.args = (struct linear_args){
        .x = noise_matrix(n_rows * n_in, dtype, 1), .y = alloc(n_rows * n_out * 4), .n_rows = n_rows, .ld_y = n_out};
    snprintf(name, sizeof name, "linear %zu x %zu x %zu (%d of them)", n_rows, n_out, n_in, p.n);
    report(y, name, run_products, &p, 2.0 * p.n * (double)(n_rows * n_out * n_in), 2.0 * p.n * (double)(n_out * n_in));
}

struct loss {
    struct nll_args args;
};

static void run_loss(void *arg) {
    struct loss *l = arg;
    ops->nll(dev, &l->args);
}

static void bench_loss(const struct yardstick *y, size_t n_rows) {
    struct loss l = {{.w = weight(49152, 576),
                      .x = noise_matrix(n_rows * 576, dtype, 1),
                      .target = alloc(n_rows * 4),
                      .n_rows = n_rows,
                      .nll = alloc(n_rows * 4)}};
    char name[64];
    snprintf(name, sizeof name, "nll %zu x 49152 x 576", n_rows);
    report(y, name, run_loss, &l, 2.0 * 49152 * 576 * (double)n_rows, 2.0 * 49152 * 576);
}

/* ---- a transformer of SmolLM2-135M's shape ------------------------------------------------------------------------- */

enum {
    N_LAYERS = 30,
    D_MODEL = 576,
    D_FFN = 1536,
    N_HEADS = 9,
    N_KV_HEADS = 3,
    HEAD_DIM = 64,
    LD_QKV = (N_HEADS + 2 * N_KV_HEADS) * HEAD_DIM
};

struct model {
    struct weight *q[N_LAYERS], *k[N_LAYERS], *v[N_LAYERS], *o[N_LAYERS], *gate[N_LAYERS], *up[N_LAYERS],
            *down[N_LAYERS], *embed;
    float *norm, *rope, *x, *delta, *qkv, *gate_up, *nll, *u, *lse;
    uint8_t *open;
    int32_t *pos, *target;
    void *act;
    struct kv_cache *cache;
    int n_seq, rows_each, length, slots[64], splits[65], pos0[64];
    uint64_t ids[64];
    float threshold;
    bool attention_only, stats, loss;
    double *sums;
    int32_t *bins;
};

static void model_make(struct model *m, size_t max_rows, int max_len) {
    for (int l = 0; l < N_LAYERS; l++) {
        m->q[l] = weight(D_MODEL, D_MODEL), m->k[l] = weight(N_KV_HEADS * HEAD_DIM, D_MODEL),
        m->v[l] = weight(N_KV_HEADS * HEAD_DIM, D_MODEL);
        m->o[l] = weight(D_MODEL, D_MODEL), m->gate[l] = weight(D_FFN, D_MODEL), m->up[l] = weight(D_FFN, D_MODEL),
        m->down[l] = weight(D_MODEL, D_FFN);
    }
    m->embed = weight(49152, D_MODEL);
    m->norm = noise_matrix(D_MODEL, DTYPE_F32, 1);
    m->rope = noise_matrix((size_t)max_len * HEAD_DIM, DTYPE_F32, 1);
    m->x = ops->mem_alloc(dev, max_rows * D_MODEL * 4), m->delta = ops->mem_alloc(dev, max_rows * D_MODEL * 4);
    m->qkv = ops->mem_alloc(dev, max_rows * LD_QKV * 4), m->gate_up = ops->mem_alloc(dev, max_rows * 2 * D_FFN * 4);
    m->act = ops->mem_alloc(dev, max_rows * D_FFN * 4), m->nll = ops->mem_alloc(dev, max_rows * 4);
    m->u = ops->mem_alloc(dev, max_rows * N_KV_HEADS * 4), m->open = ops->mem_alloc(dev, max_rows * N_KV_HEADS);
    m->lse = ops->mem_alloc(dev, max_rows * N_HEADS * 4);
    m->pos = alloc(max_rows * 4), m->target = alloc(max_rows * 4), m->sums = alloc(64 * 3 * 64 * 8),
            m->bins = alloc((size_t)max_len * 4);
    for (int i = 0; i < max_len; i++)
        m->bins[i] = i ? (int)(log2(i) * 2) : 0;
    memcpy(m->qkv, noise_matrix(max_rows * LD_QKV, DTYPE_F32, 1), max_rows * LD_QKV * 4);
    memcpy(m->x, noise_matrix(max_rows * D_MODEL, DTYPE_F32, 1), max_rows * D_MODEL * 4);
}

static void model_cache(struct model *m, int n_seq, int max_len) {
    int window[N_LAYERS * N_KV_HEADS];
    bool ring_only[N_LAYERS] = {false};
    struct err err = {0};
    for (int i = 0; i < N_LAYERS * N_KV_HEADS; i++)
        window[i] = 128;
    kv_cache_free(m->cache);
    m->cache = NULL;
    struct kv_cache_options o = {.n_slots = n_seq, .n_layers = N_LAYERS, .n_kv_heads = N_KV_HEADS, .head_dim = HEAD_DIM,
            .max_len = max_len,
                                 .window = window, .ring_only = ring_only, .dtype = dtype};
    check(kv_cache_create(ops, dev, &o, &m->cache, &err), &err);
    m->n_seq = n_seq, m->length = 0;
    for (int i = 0; i < n_seq; i++)
        m->slots[i] = i, m->ids[i] = (uint64_t)i;
}

static void rmsnorm(struct model *m, size_t n, const float *add) {
    ops->rmsnorm(dev, &(struct rmsnorm_args){.x = m->x, .add = add, .weight = m->norm, .eps = 1e-5f, .n_rows = n,
            .n_groups = 1, .n_cols = D_MODEL,
                                             .ld_x = D_MODEL, .out_act = m->act});
}

static void linear(struct model *m, const struct weight *w, size_t n, float *y, size_t ld) {
    ops->linear(dev, &(struct linear_args){.w = w, .x = m->act, .y = y, .n_rows = n, .ld_y = ld});
}

static void attention(struct model *m, int l, size_t n) {
    float *q = m->qkv, *k = q + N_HEADS * HEAD_DIM, *v = k + N_KV_HEADS * HEAD_DIM;
    struct kv_batch batch = {m->n_seq, m->slots, m->splits, m->pos0, m->ids};
    ops->score_random(dev, &batch, 1, l, N_KV_HEADS, m->u);
    ops->gate(dev, m->u, n * N_KV_HEADS, m->threshold, false, m->open);
    struct attend_args a = {.cache = m->cache, .batch = batch, .layer = l, .q = q, .k = k, .v = v, .open = m->open,
            .n_rows = n,
                            .n_heads = N_HEADS, .ld_qkv = LD_QKV, .scale = 0.125f, .out = m->act,
                            .lse = m->stats ? m->lse : NULL};
    ops->attend_cache(dev, &a);
    if (m->stats)
        ops->attend_stats(dev, &(struct attend_stats_args){.attend = &a, .window = 128, .far_sum = m->sums,
                .sink_sum = m->sums + 200,
                                                           .distance_sum = m->sums + 400, .bin_of_distance = m->bins,
                                                           .n_bins = 32});
    ops->kv_append(dev, &(struct kv_append_args){.cache = m->cache, .batch = batch, .layer = l, .k = k, .v = v,
            .open = m->open, .ld_kv = LD_QKV});
}

static void layer(struct model *m, int l, size_t n) {
    float *q = m->qkv, *k = q + N_HEADS * HEAD_DIM, *v = k + N_KV_HEADS * HEAD_DIM;
    rmsnorm(m, n, l ? m->delta : NULL);
    linear(m, m->q[l], n, q, LD_QKV), linear(m, m->k[l], n, k, LD_QKV), linear(m, m->v[l], n, v, LD_QKV);
    ops->rope(dev, &(struct rope_args){.x = q, .pos = m->pos, .table = m->rope, .n_rows = n, .n_heads = N_HEADS,
            .head_dim = HEAD_DIM, .ld_x = LD_QKV});
    ops->rope(dev, &(struct rope_args){.x = k, .pos = m->pos, .table = m->rope, .n_rows = n, .n_heads = N_KV_HEADS,
            .head_dim = HEAD_DIM, .ld_x = LD_QKV});
    attention(m, l, n);
    linear(m, m->o[l], n, m->delta, D_MODEL);
    rmsnorm(m, n, m->delta);
    linear(m, m->gate[l], n, m->gate_up, 2 * D_FFN), linear(m, m->up[l], n, m->gate_up + D_FFN, 2 * D_FFN);
    ops->act_mul(dev, m->gate_up, ACT_SILU, n, D_FFN, m->act);
    linear(m, m->down[l], n, m->delta, D_MODEL);
}

/* Feeds rows_each tokens to every sequence. */
static void step(struct model *m, int rows_each) {
    int n_rows[64];
    struct err err = {0};
    size_t n = (size_t)(m->n_seq * rows_each);
    for (int i = 0; i < m->n_seq; i++) {
        n_rows[i] = rows_each, m->splits[i + 1] = m->splits[i] + rows_each, m->pos0[i] = m->length;
        for (int r = 0; r < rows_each; r++)
            m->pos[i * rows_each + r] = m->length + r;
    }
    check(kv_cache_reserve(m->cache, m->n_seq, m->slots, n_rows, &err), &err);
    for (int l = 0; l < N_LAYERS; l++)
        if (m->attention_only)
            attention(m, l, n);
        else
            layer(m, l, n);
    if (m->loss)
        ops->nll(dev, &(struct nll_args){.w = m->embed, .x = m->act, .target = m->target, .n_rows = n, .nll = m->nll});
    m->length += rows_each;
}

struct prefill {
    struct model *m;
    int n, chunk;
};

static void run_prefill(void *arg) {
    struct prefill *p = arg;
    for (int i = 0; i < p->m->n_seq; i++)
        kv_cache_reset(p->m->cache, i);
    for (p->m->length = 0; p->m->length < p->n;)
        step(p->m, p->chunk);
}

static void run_decode(void *arg) {
    struct prefill *p = arg;
    for (int i = 0; i < p->n; i++)
        step(p->m, 1);
}

static void bench_model(const struct yardstick *y) {
    static struct model m;
    char name[96];
    model_make(&m, 2048, 8192 + 512);
    static const float thresholds[] = {0, 0.75f};
    double layer_flops = 2.0 * N_LAYERS * (2.0 * D_MODEL * D_MODEL + 2.0 * N_KV_HEADS * HEAD_DIM * D_MODEL + 3.0 * D_MODEL * D_FFN);
    double weights = layer_flops + 2.0 * 49152 * D_MODEL; /* bytes of a decoding step = flops per row */
    for (int k = 0; k < 2; k++) {
        m.threshold = thresholds[k];
        const char *gates = k ? "25 % open" : "full";
        for (int stats = 0; stats < 2 - k; stats++) {
            model_cache(&m, 1, 2048);
            m.attention_only = true, m.stats = stats, m.loss = false;
            snprintf(name, sizeof name, "attention prefill 2048 chunk 512 %s%s", gates, stats ? " + stats" : "");
            report(y, name, run_prefill, &(struct prefill){&m, 2048, 512},
            N_LAYERS * 4.0 * 64 * N_HEADS * 2048.0 * 2049 / 2, 0);
        }
        m.attention_only = m.stats = false, m.loss = true;
        for (int chunk = 128; chunk <= 2048; chunk *= 2) {
            snprintf(name, sizeof name, "prefill 2048 chunk %d %s", chunk, gates);
            double s = report(y, name, run_prefill, &(struct prefill){&m, 2048, chunk}, 2048 * weights, 0);
            printf("# %.0f tokens/s\n", 2048 / s);
        }
        static const int batches[][2] = {{1, 128}, {16, 512}, {16, 8192}};
        for (int b = 0; b < 3; b++) {
            int n_seq = batches[b][0], length = batches[b][1];
            model_cache(&m, n_seq, length + 256);
            m.attention_only = true, m.loss = false;
            run_prefill(&(struct prefill){&m, length, 128});
            m.attention_only = false;
            double density = k ? 0.25 : 1, keys = length <= 128 ? length : 128 + density * (length - 128);
            double kv = keys * n_seq * N_LAYERS * N_KV_HEADS * HEAD_DIM * 4.0;
            snprintf(name, sizeof name, "decode batch %d context %d %s", n_seq, length, gates);
            m.loss = true;
            double s = report(y, name, run_decode, &(struct prefill){&m, 4, 1}, 4 * n_seq * weights, 4 * (weights + kv));
            printf("# %.1f tokens/s, cache %.0f MB\n", 4 * n_seq / s, kv / 1e6);
        }
    }
}

/* ---- training ------------------------------------------------------------------------------------------------------ */

struct attention_case {
    struct attend_seq_args args;
    struct attend_seq_grad_args grad;
    bool forward, backward;
};

static void run_attention(void *arg) {
    struct attention_case *c = arg;
    if (c->forward)
        ops->train->attend_seq(dev, &c->args);
    if (c->backward)
        ops->train->attend_seq_grad(dev, &c->grad);
}

/* Pairs of a query head and a key that one sequence of n_tok tokens sees. */
static double visible_pairs(const struct attend_seq_args *a, size_t n_tok) {
    double n = 0;
    for (size_t k = 0; k < a->n_kv_heads; k++)
        for (size_t t = 0, open = 0; t < n_tok; t++) {
            size_t window = (size_t)a->window[k], far = t + 1 > window ? t + 1 - window : 0;
            open += far && a->log_gate && a->log_gate[(far - 1) * a->n_kv_heads + k] != -INFINITY;
            n += (double)(t + 1 - far + open);
        }
    return n * (double)(a->n_heads / a->n_kv_heads);
}

/* Forward and backward of attention over sequences: everything in the window, soft gates, 25 % hard gates, window only. */
static void bench_attention(const struct yardstick *y, int n_seq, int n_tok, size_t n_heads, size_t n_kv_heads,
                            size_t head_dim, int window) {
    static const char *const gates[] = {"full", "soft", "hard 25 %", "window only"};
    size_t n = (size_t)(n_seq * n_tok), ld = (n_heads + 2 * n_kv_heads) * head_dim;
    float *qkv = noise_matrix(n * ld, DTYPE_F32, 1), *soft = alloc(n * n_kv_heads * 4), *hard = alloc(n * n_kv_heads * 4);
    float *d = alloc(n * ld * 4);
    int splits[65] = {0}, windows[64];
    for (int i = 0; i < n_seq; i++)
        splits[i + 1] = splits[i] + n_tok;
    for (size_t i = 0; i < n * n_kv_heads; i++)
        soft[i] = -(float)fabs((double)noise()), hard[i] = noise() < -0.5f ? 0 : -INFINITY;
    struct attention_case c = {.args = {.n_seq = n_seq, .row_splits = splits, .q = qkv, .k = qkv + n_heads * head_dim,
                                        .v = qkv + (n_heads + n_kv_heads) * head_dim, .n_rows = n, .n_heads = n_heads,
                                        .n_kv_heads = n_kv_heads, .head_dim = head_dim, .ld_qkv = ld, .window = windows,
                                        .scale = (float)(1 / sqrt((double)head_dim)),
                                        .out = alloc(n * n_heads * head_dim * 4), .lse = alloc(n * n_heads * 4)}};
    c.grad = (struct attend_seq_grad_args){.forward = &c.args, .dout = noise_matrix(n * n_heads * head_dim, DTYPE_F32, 1),
                                           .dq = d, .dk = d + n_heads * head_dim,
                                           .dv = d + (n_heads + n_kv_heads) * head_dim,
                                           .dlog_gate = alloc(n * n_kv_heads * 4)};
    double full = 0;
    for (int g = 0; g < 4; g++) {
        double seconds[3];
        for (size_t k = 0; k < n_kv_heads; k++)
            windows[k] = g ? window : INT_MAX;
        c.args.log_gate = g == 1 ? soft : g == 2 ? hard : NULL;
        double flops = (double)n_seq * visible_pairs(&c.args, (size_t)n_tok) * (double)head_dim * 2;
        for (int pass = 0; pass < 2; pass++) {
            char name[128];
            snprintf(name, sizeof name, "attend_seq%s %d x %d heads %zu/%zu dim %zu window %d %s", pass ? "_grad" : "",
                     n_seq, n_tok, n_heads, n_kv_heads, head_dim, window, gates[g]);
            c.forward = !pass, c.backward = pass;
            seconds[pass] = report(y, name, run_attention, &c, (pass ? 5 : 2) * flops, 0);
        }
        seconds[2] = seconds[0] + seconds[1];
        full = g ? full : seconds[2];
        printf("# forward + backward %.0f us, full / this = %.2f\n", seconds[2] * 1e6, full / seconds[2]);
    }
}

struct training {
    const struct weight *w;
    size_t n, d_model, d_ffn;
    float *x, *x_wide, *y, *dx, *dw, *norm, *m, *v;
    int32_t *ids;
    double sum;
};

static void run_linear_forward(void *arg) {
    struct training *t = arg;
    ops->linear(dev, &(struct linear_args){.w = t->w, .x = t->x, .y = t->y, .n_rows = t->n, .ld_y = t->d_ffn});
}

static void run_linear_grad(void *arg) {
    struct training *t = arg;
    ops->train->linear_grad(dev, &(struct linear_grad_args){.w = t->w, .x = t->x, .dy = t->y, .n_rows = t->n,
                                                            .ld_dy = t->d_ffn, .dx = t->dx, .dw = t->dw});
}

static void run_nll_grad(void *arg) {
    struct training *t = arg;
    struct nll_args forward = {.w = t->w, .x = t->x, .target = t->ids, .n_rows = t->n, .nll = t->norm + t->d_model};
    ops->train->nll_grad(dev, &(struct nll_grad_args){.forward = &forward, .scale = 1e-3f, .dx = t->dx, .dw = t->dw});
}

static void run_rmsnorm_grad(void *arg) {
    struct training *t = arg;
    ops->train->rmsnorm_grad(dev, &(struct rmsnorm_grad_args){
                                      .x = t->x, .weight = t->norm, .eps = 1e-5f, .n_rows = t->n, .n_groups = 1,
                                      .n_cols = t->d_model, .ld_x = t->d_model, .dy = t->dx, .ld_dy = t->d_model,
                                      .dx = t->dx, .ld_dx = t->d_model, .dweight = t->norm + t->d_model});
}

static void run_act_mul_grad(void *arg) {
    struct training *t = arg;
    ops->train->act_mul_grad(dev, t->x_wide, ACT_SILU, t->n, t->d_ffn, t->y, t->x_wide);
}

static void run_embed_grad(void *arg) {
    struct training *t = arg;
    ops->train->embed_grad(dev, t->ids, t->n, t->d_model, 1, t->dx, t->dw);
}

static void run_adamw(void *arg) {
    struct training *t = arg;
    ops->train->adamw(dev, &(struct adamw_args){.param = t->x_wide, .m = t->m, .v = t->v, .grad = t->y,
                                                .n = t->n * t->d_ffn, .lr = 1e-4f, .beta1 = 0.9f, .beta2 = 0.95f,
                                                .eps = 1e-8f, .weight_decay = 0.1f, .grad_scale = 1, .step = 10});
}

static void run_norm_sq(void *arg) {
    struct training *t = arg;
    ops->train->norm_sq(dev, t->x_wide, 2 * t->n * t->d_ffn, &t->sum);
}

static void bench_training(const struct yardstick *y, size_t n, size_t d_model, size_t d_ffn) {
    struct training t = {.n = n, .d_model = d_model, .d_ffn = d_ffn, .x = noise_matrix(n * d_model, DTYPE_F32, 1),
                         .x_wide = noise_matrix(n * d_ffn * 2, DTYPE_F32, 1), .y = noise_matrix(n * d_ffn, DTYPE_F32, 1),
                         .dx = noise_matrix(n * d_model, DTYPE_F32, 1), .dw = alloc(d_model * d_ffn * 4),
                         .norm = noise_matrix(d_model + n, DTYPE_F32, 1), .m = alloc(n * d_ffn * 4),
                         .v = alloc(n * d_ffn * 4), .ids = alloc(n * 4)};
    struct weight *w;
    struct err err = {0};
    check(ops->train->weight_make(dev, noise_matrix(d_model * d_ffn, DTYPE_F32, 0.05f), d_ffn, d_model, WEIGHT_COMPUTE, &w,
                                  &err), &err);
    t.w = w;
    for (size_t i = 0; i < n; i++)
        t.ids[i] = (int32_t)(i * 7919 % d_ffn);
    double product = 2.0 * (double)(n * d_model * d_ffn);
    double narrow = 4.0 * (double)(n * d_model), wide = 4.0 * (double)(n * d_ffn);
    printf("# %zu rows of %zu, %zu wide\n", n, d_model, d_ffn);
    report(y, "linear", run_linear_forward, &t, product, 0);
    report(y, "linear_grad", run_linear_grad, &t, 2 * product, 0);
    report(y, "nll_grad", run_nll_grad, &t, 3 * product, 0);
    report(y, "rmsnorm_grad", run_rmsnorm_grad, &t, 0, 3 * narrow);
    report(y, "act_mul_grad", run_act_mul_grad, &t, 0, 5 * wide);
    report(y, "embed_grad", run_embed_grad, &t, 0, 3 * narrow);
    report(y, "adamw", run_adamw, &t, 0, 7 * wide);
    report(y, "norm_sq", run_norm_sq, &t, 0, 2 * wide);
}

int main(int argc, char **argv) {
    struct device_options options = {.n_threads = argc > 1 ? atoi(argv[1]) : 0};
    const char *what = argc > 2 ? argv[2] : "all";
    struct err err = {0};
    dtype = argc > 3 && strcmp(argv[3], "f32") == 0 ? DTYPE_F32 : ops_cpu_has_amx() ? DTYPE_BF16 : DTYPE_F32;
    if (argc > 4 && strcmp(argv[4], "cpu") == 0)
        clock_used = CLOCK_PROCESS_CPUTIME_ID;
    ops = ops_cpu();
    options.dtype = dtype;
    check(ops->open(&options, &dev, &err), &err);
    omp_set_num_threads(ops->device_threads(dev));
    struct yardstick y = yardstick_make();
    printf("# %s\nname,median_us,min_us,gflops,share_of_gemm,gbytes_s,share_of_read,gemm_gflops,read_gbytes_s\n",
            ops->device_describe(dev));
    if (strcmp(what, "train") == 0) {
        bench_training(&y, 4096, 256, 768);
        bench_training(&y, 2048, 256, 8192);
        bench_attention(&y, 4, 1024, 8, 4, 32, 64);
        bench_attention(&y, 4, 1024, 4, 4, 64, 128);
        bench_attention(&y, 2, 2048, 9, 3, 64, 128);
        bench_attention(&y, 1, 2048, 3, 1, 64, 128);
        return 0;
    }
    if (strcmp(what, "model") != 0) {
        static const size_t shapes[][3] = {{1, 49152, 576}, {1, 1536, 576}, {1, 576, 1536}, {16, 49152, 576}, {16, 1536,
                576},
                                           {16, 576, 1536}, {64, 1536, 576}, {256, 192, 576}, {256, 576, 576}, {256,
                                           1536, 576}, {256, 576, 1536}, {512, 576, 576}, {512, 1536, 576}, {512, 576,
                                           1536}, {512, 2048, 2048}};
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            bench_products(&y, shapes[i][0], shapes[i][1], shapes[i][2]);
        bench_loss(&y, 512);
    }
    if (strcmp(what, "products") != 0)
        bench_model(&y);
    return 0;
}
