/* Sums of softmax weights by key, for policies that evict (H2O, TOVA, SnapKV). In f32 attention leaves the weights of a work
 * item in records, relative to the largest logit known then; when the item is finished they are scaled by what that means in
 * the end and added up per item, and the items of a run in order, so that results do not depend on threads. Elsewhere the
 * weights are computed a second time from the log of their sum. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/attend.h"
#include "kernels/cpu/vmath.h"

/* sum (n) += scale * x (n) */
static INLINE void column_add_body(float *sum, const float *x, float scale, size_t n, enum isa isa) {
#pragma omp simd
    for (size_t j = 0; j < n; j++)
        sum[j] = madd(scale, x[j], sum[j], isa);
}

static void column_add_scalar(float *sum, const float *x, float scale, size_t n) {
    column_add_body(sum, x, scale, n, ISA_SCALAR);
}

#if ISA_X86
static TARGET_AVX2 void column_add_avx2(float *sum, const float *x, float scale, size_t n) {
    column_add_body(sum, x, scale, n, ISA_AVX2);
}

static TARGET_AVX512 void column_add_avx512(float *sum, const float *x, float scale, size_t n) {
    column_add_body(sum, x, scale, n, ISA_AVX512);
}
#endif

static void (*const column_add_table[])(float *, const float *, float, size_t) = ISA_TABLE(column_add);

/* Adds the sums of one group to the caller's array; valid slots have distinct positions. */
static void group_store(const struct attend_run *run, const struct key_group *g, const float *sum, float *column_sum) {
    const struct kv_cache *cache = run->a->cache;
    const int32_t *long_pos = cache->long_pos + run->lane * (size_t)cache->max_len + (size_t)g->index * GROUP_KEYS;
    for (int i = 0; i < GROUP_KEYS; i++) {
        int pos = (i < g->split ? g->base : g->base_wrapped) + i;
        if (g->valid >> i & 1)
            column_sum[g->index < run->n_long_groups ? long_pos[i] : pos] += sum[i];
    }
}

/* The caller's sums of a run. */
static float *run_columns(const struct attend_run *run, size_t index) {
    const struct attend_args *a = run->a;
    size_t n_heads = (size_t)a->cache->n_kv_heads, slot = (size_t)a->batch.slots[index / n_heads];
    return a->column_sum + (slot * n_heads + index % n_heads) * (size_t)a->cache->max_len;
}

static int run_column_from(const struct attend_run *run, size_t index) {
    return run->a->column_from[index / (size_t)run->a->cache->n_kv_heads];
}

/* A run of one row keeps its own pair outside the pages. */
static float own_weight(const struct device *dev, const struct attend_run *run, const struct attend_rows *rows,
                        const float *lse) {
    float sum = 0;
    for (size_t r = 0; r < rows->n; r++)
        sum += exp_f32(attend_own_logit(run, rows, r, dev->dtype) - lse[r], ISA_SCALAR);
    return sum / (float)rows->heads;
}

/* ---- along with attention ------------------------------------------------------------------------------------------ */

bool columns_begin(struct device *dev, const struct plan *plan, struct columns *columns) {
    size_t max_groups = 0;
    *columns = (struct columns){0};
    if (!plan->a->column_sum || plan->n_parts > 0 || dev->dtype != DTYPE_F32)
        return false;
    for (size_t i = 0; i < plan->n_runs; i++)
        max_groups = plan->runs[i].n_groups > max_groups ? plan->runs[i].n_groups : max_groups;
    size_t n_tiles = (plan->max_rows + TILE_ROWS - 1) / TILE_ROWS, n_steps = (max_groups + STEP_GROUPS - 1) / STEP_GROUPS;
    columns->stride = max_groups * GROUP_KEYS + 1;
    columns->record_bytes = (n_steps * n_tiles * sizeof(struct attend_record) + 63) / 64 * 64;
    columns->sums = device_scratch(dev, SCRATCH_PARTIAL, plan->n_items * columns->stride * sizeof *columns->sums);
    return columns->sums != NULL;
}

/* Whether a query of the item counts. */
static bool item_counts(const struct plan *plan, const struct item *item) {
    const struct attend_run *run = &plan->runs[item->run];
    return run->pos0 + item->query + item->n_queries > run_column_from(run, item->run);
}

void columns_records(const struct columns *columns, const struct plan *plan, const struct item *item,
                     struct attend_rows *rows, char *memory) {
    (void)columns;
    rows->records = item_counts(plan, item) ? (struct attend_record *)(void *)memory : NULL;
    rows->column_from = run_column_from(&plan->runs[item->run], item->run);
}

/* Adds the weights of one record, rows of queries that count. lse (n_rows of the item). */
static void record_add(const struct device *dev, const struct attend_run *run, const struct attend_rows *rows, size_t tile,
                       const struct attend_record *record, const float *lse, float *sums) {
    size_t first = tile * TILE_ROWS, n = rows->n - first < TILE_ROWS ? rows->n - first : TILE_ROWS;
    float sum[STEP_KEYS] = {0}, share = 1 / (float)rows->heads;
    if (record->n_groups == 0)
        return;
    for (size_t r = 0; r < n; r++)
        if (attend_position(run, rows, first + r) >= rows->column_from)
            column_add_table[dev->isa](sum, record->weight + r * STEP_KEYS,
                                       share * exp_f32(record->max[r] - lse[first + r], ISA_SCALAR),
                                       record->n_groups * GROUP_KEYS);
    for (size_t i = 0; i < record->n_groups; i++)
        column_add_table[dev->isa](sums + record->groups[i].index * GROUP_KEYS, sum + i * GROUP_KEYS, 1, GROUP_KEYS);
}

void columns_item(const struct device *dev, const struct columns *columns, const struct plan *plan, size_t index,
                  const struct attend_rows *rows) {
    const struct item *item = &plan->items[index];
    const struct attend_run *run = &plan->runs[item->run];
    float *sums = columns->sums + index * columns->stride, *lse = rows->sum;
    if (!rows->records)
        return;
    memset(sums, 0, columns->stride * sizeof *sums);
    for (size_t r = 0; r < rows->n; r++)
        lse[r] = rows->max[r] + logf(rows->sum[r]);
    for (size_t at = 0; at < run->n_groups; at += STEP_GROUPS)
        for (size_t tile = 0; tile < rows->n_tiles; tile++)
            record_add(dev, run, rows, tile, &rows->records[at / STEP_GROUPS * rows->n_tiles + tile], lse, sums);
    if (run->n_rows == 1)
        sums[columns->stride - 1] = own_weight(dev, run, rows, lse);
}

void columns_join(const struct columns *columns, const struct plan *plan, size_t first) {
    size_t index = plan->items[first].run;
    const struct attend_run *run = &plan->runs[index];
    float *column_sum = run_columns(run, index);
    for (size_t i = first; i < plan->n_items && plan->items[i].run == index; i++) {
        const float *sums = columns->sums + i * columns->stride;
        if (!item_counts(plan, &plan->items[i]))
            continue;
        for (size_t group = 0; group < run->n_groups; group++) {
            struct key_group g = attend_group(run, group);
            group_store(run, &g, sums + group * GROUP_KEYS, column_sum);
        }
        if (run->n_rows == 1)
            column_sum[run->pos0] += sums[columns->stride - 1];
    }
}

/* ---- after it ------------------------------------------------------------------------------------------------------ */

/* Adds the weights of a tile of rows over up to STEP_GROUPS groups that some of them see. */
static void tile_add(const struct device *dev, const struct attend_run *run, struct attend_rows *rows, size_t tile,
                     const struct key_group *groups, size_t n_groups, float *sum) {
    size_t first = tile * TILE_ROWS, n = rows->n - first < TILE_ROWS ? rows->n - first : TILE_ROWS;
    float tile_sum[STEP_KEYS] = {0};
    attend_masses(dev, run, rows, tile, groups, n_groups, false, false);
    for (size_t r = 0; r < n; r++)
        column_add_table[dev->isa](tile_sum, rows->logit + r * STEP_KEYS, 1 / (float)rows->heads, n_groups * GROUP_KEYS);
    column_add_table[dev->isa](sum, tile_sum, 1, n_groups * GROUP_KEYS);
}

/* The queries that count over groups begin .. begin + STEP_GROUPS - 1 of a run. Work is cut by keys: one thread sees all
 * queries of a key. */
static void step_add(const struct device *dev, const struct plan *plan, size_t index, size_t begin, char *memory) {
    const struct attend_run *run = &plan->runs[index];
    struct key_group groups[STEP_GROUPS];
    size_t n_groups = 0;
    float sum[STEP_KEYS] = {0}, *column_sum = run_columns(run, index);
    for (; n_groups < STEP_GROUPS && begin + n_groups < run->n_groups; n_groups++)
        groups[n_groups] = attend_group(run, begin + n_groups);
    int from = run_column_from(run, index), first = from > run->pos0 ? from - run->pos0 : 0;
    for (int query = first, n, step = (int)(plan->max_rows / plan->heads); query < run->n_rows; query += n) {
        n = run->n_rows - query < step ? run->n_rows - query : step;
        struct item block = {.run = (uint32_t)index, .query = query, .n_queries = n};
        struct attend_rows rows = attend_rows_with_lse(dev, plan, &block, memory);
        for (size_t tile = 0; tile < rows.n_tiles && n_groups > 0; tile++)
            tile_add(dev, run, &rows, tile, groups, n_groups, sum);
        if (run->n_rows == 1 && begin == 0)
            column_sum[run->pos0] += own_weight(dev, run, &rows, rows.max);
    }
    for (size_t i = 0; i < n_groups; i++)
        group_store(run, &groups[i], sum + i * GROUP_KEYS, column_sum);
}

void attend_columns(struct device *dev, const struct plan *plan) {
    size_t n_steps = 1;
    char *memory = device_scratch(dev, SCRATCH_THREAD, (size_t)dev->n_threads * plan->rows_bytes);
    for (size_t i = 0; i < plan->n_runs; i++)
        while (n_steps * STEP_GROUPS < plan->runs[i].n_groups)
            n_steps++;
    if (!memory)
        return;
#pragma omp parallel for num_threads(dev->n_threads) schedule(dynamic)
    for (size_t i = 0; i < plan->n_runs * n_steps; i++)
        if (i % n_steps == 0 || i % n_steps * STEP_GROUPS < plan->runs[i / n_steps].n_groups)
            step_add(dev, plan, i / n_steps, i % n_steps * STEP_GROUPS, memory + (size_t)thread_number() * plan->rows_bytes);
}
