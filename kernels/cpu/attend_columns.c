/* Sums of softmax weights by key, for policies that evict (H2O, TOVA, SnapKV): the weights of the queries that count are
 * computed a second time from the log of their sum that attention left. Work is cut by keys, so that one thread sees all
 * queries of a key and adds them in order: results do not depend on threads. */
#include "kernels/cpu/attend.h"
#include "kernels/cpu/vmath.h"

/* Up to STEP_GROUPS neighbouring groups of a run and what they got. */
struct columns {
    struct key_group groups[STEP_GROUPS];
    size_t first, n_groups;
    float sum[STEP_KEYS];
};

/* sum (n) += x (n) */
static INLINE void column_add_body(float *sum, const float *x, size_t n) {
#pragma omp simd
    for (size_t j = 0; j < n; j++)
        sum[j] += x[j];
}

static void column_add_scalar(float *sum, const float *x, size_t n) {
    column_add_body(sum, x, n);
}

#if ISA_X86
static TARGET_AVX2 void column_add_avx2(float *sum, const float *x, size_t n) {
    column_add_body(sum, x, n);
}

static TARGET_AVX512 void column_add_avx512(float *sum, const float *x, size_t n) {
    column_add_body(sum, x, n);
}
#endif

static void (*const column_add_table[])(float *, const float *, size_t) = ISA_TABLE(column_add);

static bool any_past(const struct columns *c, int t) {
    for (size_t i = 0; i < c->n_groups; i++)
        if (group_past(&c->groups[i], t))
            return true;
    return false;
}

/* Adds the weights of a tile of rows. The few rows of a tile are summed up first: sums of sums lose less. */
static void tile_add(const struct device *dev, const struct attend_run *run, struct attend_rows *rows, size_t tile,
                     struct columns *c) {
    size_t first = tile * TILE_ROWS, n = rows->n - first < TILE_ROWS ? rows->n - first : TILE_ROWS;
    size_t n_keys = c->n_groups * GROUP_KEYS;
    if (!any_past(c, attend_position(run, rows, first + n - 1)))
        return;
    attend_masses(dev, run, rows, tile, c->groups, c->n_groups, false, false);
    for (size_t r = 1; r < n; r++)
        column_add_table[dev->isa](rows->logit, rows->logit + r * STEP_KEYS, n_keys);
    column_add_table[dev->isa](c->sum, rows->logit, n_keys);
}

/* A run of one row keeps its own pair outside the pages. */
static void add_own_pair(const struct device *dev, const struct attend_run *run, const struct attend_rows *rows,
                         float *column_sum) {
    float sum = 0;
    for (size_t r = 0; r < rows->n; r++)
        sum += exp_f32(attend_own_logit(run, rows, r, dev->dtype) - rows->max[r], ISA_SCALAR);
    column_sum[run->pos0] += sum / (float)rows->heads;
}

/* Adds what the keys got to the caller's array; valid slots have distinct positions. */
static void columns_store(const struct attend_run *run, const struct columns *c, float *column_sum) {
    const struct kv_cache *cache = run->a->cache;
    const int32_t *long_pos = cache->long_pos + run->lane * (size_t)cache->max_len;
    float share = 1 / (float)(run->a->n_heads / (size_t)cache->n_kv_heads);
    for (size_t j = 0; j < c->n_groups * GROUP_KEYS; j++) {
        const struct key_group *g = &c->groups[j / GROUP_KEYS];
        size_t entry = c->first * GROUP_KEYS + j;
        int i = (int)(j % GROUP_KEYS), pos = (i < g->split ? g->base : g->base_wrapped) + i;
        if (g->valid >> i & 1)
            column_sum[entry < run->n_long_groups * GROUP_KEYS ? long_pos[entry] : pos] += c->sum[j] * share;
    }
}

/* The queries from position `from` on over groups begin .. begin + STEP_GROUPS - 1 of a run. */
static void step_add(const struct device *dev, const struct plan *plan, size_t index, size_t begin, int from, char *memory,
                     float *column_sum) {
    const struct attend_run *run = &plan->runs[index];
    struct columns c = {.first = begin};
    for (; c.n_groups < STEP_GROUPS && begin + c.n_groups < run->n_groups; c.n_groups++)
        c.groups[c.n_groups] = attend_group(run, begin + c.n_groups);
    int first = from > run->pos0 ? from - run->pos0 : 0, step = (int)(plan->max_rows / plan->heads);
    for (int query = first, n; query < run->n_rows; query += n) {
        n = run->n_rows - query < step ? run->n_rows - query : step;
        struct item block = {.run = (uint32_t)index, .query = query, .n_queries = n};
        struct attend_rows rows = attend_rows_with_lse(dev, plan, &block, memory);
        for (size_t tile = 0; tile < rows.n_tiles; tile++)
            tile_add(dev, run, &rows, tile, &c);
        if (run->n_rows == 1 && begin == 0)
            add_own_pair(dev, run, &rows, column_sum);
    }
    columns_store(run, &c, column_sum);
}

void attend_columns(struct device *dev, const struct attend_stats_args *s, const struct plan *plan) {
    const struct kv_cache *cache = s->attend->cache;
    size_t n_kv_heads = (size_t)cache->n_kv_heads, n_steps = 1;
    char *memory = device_scratch(dev, SCRATCH_THREAD, (size_t)dev->n_threads * plan->rows_bytes);
    for (size_t i = 0; i < plan->n_runs; i++)
        while (n_steps * STEP_GROUPS < plan->runs[i].n_groups)
            n_steps++;
    if (!memory)
        return;
#pragma omp parallel for num_threads(dev->n_threads) schedule(dynamic)
    for (size_t i = 0; i < plan->n_runs * n_steps; i++) {
        size_t run = i / n_steps, begin = i % n_steps * STEP_GROUPS, seq = run / n_kv_heads;
        size_t row = (size_t)s->attend->batch.slots[seq] * n_kv_heads + run % n_kv_heads;
        if (begin == 0 || begin < plan->runs[run].n_groups)
            step_add(dev, plan, run, begin, s->column_from[seq], memory + (size_t)thread_number() * plan->rows_bytes,
                     s->column_sum + row * (size_t)cache->max_len);
    }
}
