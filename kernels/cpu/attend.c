/* Attention of a step over long-term pairs, ring and the step's own rows (arXiv 2605.14037), by flash attention's running
 * softmax (arXiv 2205.14135). */
#include "kernels/cpu/attend.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/cpu/vmath.h"

/* ---- runs and their keys ------------------------------------------------------------------------------------------- */

static size_t ceil_div(size_t a, size_t b) {
    return (a + b - 1) / b;
}

struct attend_run attend_run_of(const struct attend_args *a, int seq, int head) {
    const struct kv_cache *c = a->cache;
    struct attend_run run = {.a = a, .shape = page_shape_of(c), .head = head};
    run.lane = kv_lane(c, a->batch.slots[seq], a->layer, head);
    run.ring_only = c->ring_only[a->layer];
    run.window = c->window[a->layer * c->n_kv_heads + head];
    run.sinks = run.ring_only ? 0 : c->sinks;
    run.pos0 = a->batch.pos0[seq];
    run.first = a->batch.row_splits[seq];
    run.n_rows = a->batch.row_splits[seq + 1] - run.first;
    run.n_long = c->n_long[run.lane];
    run.n_ring = run.pos0 < run.window ? run.pos0 : run.window;
    run.n_long_groups = ceil_div((size_t)run.n_long, GROUP_KEYS);
    run.n_ring_groups = ceil_div((size_t)run.n_ring, GROUP_KEYS);
    run.n_groups = run.n_long_groups + run.n_ring_groups + (run.n_rows > 1 ? ceil_div((size_t)run.n_rows, GROUP_KEYS) : 0);
    ASSERT(run.n_rows > 0 && c->n_fed[run.lane] == run.pos0);
    return run;
}

/* Where slots 32 i .. 32 i + 31 of consecutive pages lie. */
static void group_place(const struct attend_run *run, const char *page, size_t i, struct key_group *g) {
    size_t slot = i * GROUP_KEYS % run->shape.slots, size = dtype_size(run->shape.dtype);
    g->k = page + page_k_index(run->shape, slot, 0) * size;
    g->v = page + page_v_index(run->shape, slot, 0) * size;
}

static uint32_t ring_open_bits(const struct attend_run *run, size_t slot, int n) {
    const struct kv_cache *c = run->a->cache;
    const uint8_t *open = c->ring_open + run->lane * (size_t)c->ring_len + slot;
    uint32_t bits = 0;
    for (int i = 0; i < n; i++)
        bits |= (uint32_t)(open[i] != 0) << i;
    return run->ring_only ? 0 : bits;
}

static struct key_group ring_group(const struct attend_run *run, size_t i) {
    const struct kv_cache *c = run->a->cache;
    struct key_group g = {.index = (uint32_t)(run->n_long_groups + i)};
    int slot = (int)(i * GROUP_KEYS), oldest = run->pos0 % run->window; /* the slot where positions wrap */
    int n = run->n_ring - slot < GROUP_KEYS ? run->n_ring - slot : GROUP_KEYS;
    group_place(run, lane_page(c, run->lane, (size_t)slot / run->shape.slots), i, &g);
    g.base = run->pos0 - oldest + slot;
    g.base_wrapped = g.base - run->window;
    g.split = oldest - slot;
    if (run->pos0 < run->window)
        g.split = GROUP_KEYS;
    g.valid = ~bits_from(n);
    g.always = ring_open_bits(run, (size_t)slot, n);
    for (int j = 0; j < n && run->sinks > 0; j++)
        g.always |= (uint32_t)((j < g.split ? g.base : g.base_wrapped) + j < run->sinks) << j;
    return g;
}

struct key_group attend_group(const struct attend_run *run, size_t index) {
    const struct kv_cache *c = run->a->cache;
    size_t slots = run->shape.slots;
    struct key_group g = {.index = (uint32_t)index, .base = INT32_MIN / 2, .base_wrapped = INT32_MIN / 2,
                          .split = GROUP_KEYS, .always = ~0u};
    if (index < run->n_long_groups) {
        size_t first = lane_long_page(c, run->a->layer, run->head);
        group_place(run, lane_page(c, run->lane, first + index * GROUP_KEYS / slots), index, &g);
        g.valid = ~bits_from(run->n_long - (int)(index * GROUP_KEYS));
        return g;
    }
    index -= run->n_long_groups;
    if (index < run->n_ring_groups)
        return ring_group(run, index);
    index -= run->n_ring_groups;
    group_place(run, run->fresh + index * GROUP_KEYS / slots * c->page_bytes, index, &g);
    g.base = run->pos0 + (int)(index * GROUP_KEYS);
    g.valid = ~bits_from(run->n_rows - (int)(index * GROUP_KEYS));
    g.always = run->fresh_open[index] | (run->ring_only ? 0 : ~bits_from(run->sinks - g.base));
    return g;
}

/* ---- the step's own rows as pages ---------------------------------------------------------------------------------- */

static size_t fresh_pages(const struct attend_run *run) {
    return run->n_rows > 1 ? ceil_div((size_t)run->n_rows, run->shape.slots) : 0;
}

/* One page of rows and its gates. */
static void fresh_page_fill(const struct device *dev, const struct attend_run *run, size_t index, char *page,
                            uint32_t *open) {
    const struct attend_args *a = run->a;
    size_t slots = run->shape.slots, begin = index * slots, n = (size_t)run->n_rows - begin;
    const float *k[KV_PAGE_SLOTS], *v[KV_PAGE_SLOTS];
    if (n < slots)
        memset(page, 0, a->cache->page_bytes); /* p = 0 times what an empty slot holds must be 0 */
    else
        n = slots;
    memset(open, 0, slots / GROUP_KEYS * sizeof *open);
    for (size_t i = 0; i < n; i++) {
        size_t row = (size_t)run->first + begin + i, at = row * a->ld_qkv + (size_t)run->head * run->shape.head_dim;
        size_t j = i % KV_PAGE_SLOTS;
        k[j] = a->k + at;
        v[j] = a->v + at;
        if (!run->ring_only && a->open[row * (size_t)a->cache->n_kv_heads + (size_t)run->head])
            open[i / GROUP_KEYS] |= 1u << i % GROUP_KEYS;
        if (j + 1 == KV_PAGE_SLOTS || i + 1 == n)
            page_write(dev, run->shape, page, i - j, j + 1, k, v);
    }
}

/* ---- work items ---------------------------------------------------------------------------------------------------- */

/* Rows of one query times as many queries as fit. */
static int block_queries(size_t heads) {
    return heads >= BLOCK_ROWS ? 1 : (int)(BLOCK_ROWS / heads);
}

/* Fills (or, items NULL, counts) the work items of a run. The longest come first. */
static void run_items(struct plan *plan, size_t index, bool split, struct item *items) {
    const struct attend_run *run = &plan->runs[index];
    int step = block_queries(plan->heads);
    size_t part = plan->n_runs < FEW_RUNS ? SPLIT_GROUPS_FEW : SPLIT_GROUPS_MANY;
    size_t n_splits = split && run->n_rows <= step ? ceil_div(run->n_groups, part) : 1;
    for (int query = (run->n_rows - 1) / step * step; query >= 0; query -= step)
        for (size_t i = 0; i < (n_splits ? n_splits : 1); i++) {
            size_t begin = i * part, end = n_splits > 1 ? begin + part : run->n_groups;
            if (items)
                items[plan->n_items] = (struct item){
                    (uint32_t)index, query, run->n_rows - query < step ? run->n_rows - query : step, (uint32_t)begin,
                    (uint32_t)(end < run->n_groups ? end : run->n_groups), n_splits > 1 ? (uint32_t)plan->n_parts : NO_PART};
            plan->n_items++;
            plan->n_parts += n_splits > 1;
        }
}

static void *carve(char **at, size_t n_bytes) {
    void *out = *at;
    *at += (n_bytes + 63) / 64 * 64;
    return out;
}

static void fill_pages(struct device *dev, const struct plan *plan) {
    size_t words = (size_t)plan->a->cache->page_slots / GROUP_KEYS, page_bytes = plan->a->cache->page_bytes;
#pragma omp parallel for num_threads(threads_for_bytes(dev, plan->a->n_rows * 4096)) schedule(dynamic)
    for (size_t i = 0; i < plan->n_runs; i++)
        for (size_t j = 0; j < fresh_pages(&plan->runs[i]); j++) {
            char *page = (char *)(uintptr_t)plan->runs[i].fresh + j * page_bytes;
            fresh_page_fill(dev, &plan->runs[i], j, page, (uint32_t *)(uintptr_t)plan->runs[i].fresh_open + j * words);
        }
}

static size_t rows_bytes(size_t max_rows, size_t head_dim) {
    size_t n = ceil_div(max_rows, TILE_ROWS) * TILE_ROWS;
    return n * head_dim * 8 + n * 8 + TILE_ROWS * STEP_KEYS * 6 + 6 * 64;
}

static void check(const struct device *dev, const struct attend_args *a) {
    const struct kv_cache *c = a->cache;
    ASSERT(a->n_heads % (size_t)c->n_kv_heads == 0 && a->ld_qkv >= a->n_heads * (size_t)c->head_dim);
    ASSERT(a->batch.n_seq == 0 || (size_t)a->batch.row_splits[a->batch.n_seq] == a->n_rows);
    ASSERT(c->dtype == dev->dtype && (c->dtype == DTYPE_F32 || c->head_dim % 2 == 0));
    ASSERT(!a->column_sum || (c->long_pos && a->lse && a->column_from));
}

bool attend_plan(struct device *dev, const struct attend_args *a, bool split, struct plan *plan) {
    const struct kv_cache *c = a->cache;
    size_t n_runs = (size_t)a->batch.n_seq * (size_t)c->n_kv_heads, words = (size_t)c->page_slots / GROUP_KEYS;
    size_t n_pages = 0, page = 0;
    check(dev, a);
    *plan = (struct plan){.a = a, .n_runs = n_runs, .heads = a->n_heads / (size_t)c->n_kv_heads};
    if (device_failed(dev) || n_runs == 0 || !(plan->runs = device_scratch(dev, SCRATCH_ROWS, n_runs * sizeof *plan->runs)))
        return false;
    for (size_t i = 0; i < n_runs; i++) {
        plan->runs[i] = attend_run_of(a, (int)(i / (size_t)c->n_kv_heads), (int)(i % (size_t)c->n_kv_heads));
        n_pages += fresh_pages(&plan->runs[i]);
        run_items(plan, i, split, NULL);
    }
    char *fresh = device_scratch(dev, SCRATCH_KEYS, n_pages * (c->page_bytes + words * sizeof(uint32_t)));
    plan->items = device_scratch(dev, SCRATCH_ITEMS, plan->n_items * sizeof *plan->items);
    plan->max_rows = (size_t)block_queries(plan->heads) * plan->heads;
    plan->rows_bytes = rows_bytes(plan->max_rows, (size_t)c->head_dim);
    if (!fresh || !plan->items)
        return false;
    uint32_t *open = (uint32_t *)(void *)(fresh + n_pages * c->page_bytes);
    plan->n_items = plan->n_parts = 0;
    for (size_t i = 0; i < n_runs; i++) {
        plan->runs[i].fresh = fresh + page * c->page_bytes;
        plan->runs[i].fresh_open = open + page * words;
        page += fresh_pages(&plan->runs[i]);
        run_items(plan, i, split, plan->items);
    }
    fill_pages(dev, plan);
    return true;
}

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

size_t attend_groups_seen(const struct attend_run *run, const struct attend_rows *rows, size_t tile,
                          const struct key_group *groups, size_t n, struct key_group *seen, bool *all) {
    size_t first = tile * TILE_ROWS, last = first + TILE_ROWS < rows->n ? first + TILE_ROWS - 1 : rows->n - 1, n_seen = 0;
    int t0 = attend_position(run, rows, first), t1 = attend_position(run, rows, last);
    *all = true;
    for (size_t i = 0; i < n; i++)
        if (group_mask(&groups[i], run->window, t0, t1)) { /* a superset of what single rows see */
            /* A key is visible during one stretch of time, so the first and the last row decide for those between. */
            *all = *all && group_mask(&groups[i], run->window, t1, t0) == ~0u;
            seen[n_seen++] = groups[i];
        }
    return n_seen;
}

static const float *query_of(const struct attend_run *run, const struct attend_rows *rows, size_t r) {
    const struct attend_args *a = run->a;
    size_t row = (size_t)(run->first + rows->first_query) + r / rows->heads;
    return a->q + row * a->ld_qkv + ((size_t)run->head * rows->heads + r % rows->heads) * rows->head_dim;
}

struct attend_rows attend_rows_start(const struct device *dev, const struct plan *plan, const struct item *item,
                                     char *memory) {
    const struct attend_run *run = &plan->runs[item->run];
    struct attend_rows rows = {.n = (size_t)item->n_queries * plan->heads, .heads = plan->heads,
                               .head_dim = run->shape.head_dim, .first_query = item->query};
    rows.n_tiles = ceil_div(rows.n, TILE_ROWS);
    size_t n = rows.n_tiles * TILE_ROWS, dim = rows.head_dim, size = dtype_size(dev->dtype);
    rows.q = carve(&memory, n * dim * size);
    rows.out = carve(&memory, n * dim * sizeof(float));
    rows.max = carve(&memory, n * sizeof(float));
    rows.sum = carve(&memory, n * sizeof(float));
    rows.logit = carve(&memory, TILE_ROWS * STEP_KEYS * sizeof(float));
    rows.p = carve(&memory, TILE_ROWS * STEP_KEYS * sizeof(uint16_t));
    memset(rows.out, 0, n * dim * sizeof *rows.out);
    memset((char *)rows.q + rows.n * dim * size, 0, (n - rows.n) * dim * size);
    for (size_t r = 0; r < n; r++) {
        rows.max[r] = -INFINITY;
        rows.sum[r] = 0;
    }
    for (size_t r = 0; r < rows.n; r++)
        device_store_act(dev, query_of(run, &rows, r), 1, dim, (char *)rows.q + r * dim * size);
    return rows;
}

static float rounded(float x, enum dtype dtype) {
    return dtype == DTYPE_BF16 ? bf16_to_f32(bf16_round(x)) : x;
}

float attend_own_logit(const struct attend_run *run, const struct attend_rows *rows, size_t r, enum dtype dtype) {
    const struct attend_args *a = run->a;
    const float *q = query_of(run, rows, r), *k = a->k + (size_t)run->first * a->ld_qkv + (size_t)run->head * rows->head_dim;
    float logit = 0;
    for (size_t d = 0; d < rows->head_dim; d++)
        logit += rounded(q[d], dtype) * rounded(k[d], dtype);
    logit *= a->scale;
    return a->softcap != 0 ? softcap_f32(logit, a->softcap, ISA_SCALAR) : logit;
}

/* A run of one row meets its own pair first: it needs no page for one key, and the running maximum is never -inf. */
static void rows_meet_own_pair(const struct attend_run *run, struct attend_rows *rows, enum dtype dtype) {
    const float *v = run->a->v + (size_t)run->first * run->a->ld_qkv + (size_t)run->head * rows->head_dim;
    for (size_t r = 0; r < rows->n; r++) {
        float logit = attend_own_logit(run, rows, r, dtype);
        for (size_t d = 0; d < rows->head_dim; d++)
            rows->out[r * rows->head_dim + d] = rounded(v[d], dtype);
        rows->max[r] = logit;
        rows->sum[r] = logit == logit ? 1.0f : logit;
    }
}

/* Rows of a finished item, or of all parts joined, to the caller's buffers. */
static void rows_finish(const struct device *dev, const struct attend_run *run, const struct attend_rows *rows) {
    const struct attend_args *a = run->a;
    for (size_t r = 0; r < rows->n; r++) {
        size_t row = (size_t)(run->first + rows->first_query) + r / rows->heads;
        size_t at = row * a->n_heads + (size_t)run->head * rows->heads + r % rows->heads, dim = rows->head_dim;
        device_store_act(dev, rows->out + r * dim, 1.0f / rows->sum[r], dim,
                         (char *)a->out + at * dim * dtype_size(dev->dtype));
        if (a->lse)
            a->lse[at] = rows->max[r] + logf(rows->sum[r]);
    }
}

/* ---- parts: max, sum and out of an item that has only some of the keys ---------------------------------------------- */

struct parts {
    float *values;
    size_t max_rows, stride; /* floats of a part */
};

static void part_store(const struct parts *parts, const struct attend_rows *rows, uint32_t part) {
    float *to = parts->values + (size_t)part * parts->stride;
    memcpy(to, rows->max, rows->n * sizeof *to);
    memcpy(to + parts->max_rows, rows->sum, rows->n * sizeof *to);
    memcpy(to + 2 * parts->max_rows, rows->out, rows->n * rows->head_dim * sizeof *to);
}

/* Adds a part to the running rows. */
static void part_join(const struct parts *parts, struct attend_rows *rows, uint32_t part) {
    const float *from = parts->values + (size_t)part * parts->stride, *sum = from + parts->max_rows;
    const float *out = sum + parts->max_rows;
    for (size_t r = 0; r < rows->n; r++) {
        if (sum[r] == 0) /* nothing visible in this part */
            continue;
        float max = from[r] > rows->max[r] ? from[r] : rows->max[r];
        float old = rows->max[r] == max ? 1.0f : expf(rows->max[r] - max), new = from[r] == max ? 1.0f : expf(from[r] - max);
        rows->max[r] = max;
        rows->sum[r] = rows->sum[r] * old + sum[r] * new;
        for (size_t d = r * rows->head_dim; d < (r + 1) * rows->head_dim; d++)
            rows->out[d] = rows->out[d] * old + out[d] * new;
    }
}

/* ---- the op -------------------------------------------------------------------------------------------------------- */

struct attention {
    const struct device *dev;
    struct plan plan;
    struct parts parts;
    struct columns columns;
    bool sums; /* sums by key are made along with attention */
};

static void item_run(const struct attention *at, size_t index, char *memory) {
    const struct item *item = &at->plan.items[index];
    const struct attend_run *run = &at->plan.runs[item->run];
    struct attend_rows rows = attend_rows_start(at->dev, &at->plan, item, memory);
    if (at->sums)
        columns_records(&at->columns, &at->plan, item, &rows, memory + at->plan.rows_bytes);
    if (run->n_rows == 1 && item->begin == 0)
        rows_meet_own_pair(run, &rows, at->dev->dtype);
#if ISA_X86
    if (at->dev->dtype == DTYPE_BF16)
        attend_rows_amx(run, &rows, item->begin, item->end);
    else
#endif
        attend_rows_f32(at->dev, run, &rows, item->begin, item->end);
    if (item->part == NO_PART)
        rows_finish(at->dev, run, &rows);
    else
        part_store(&at->parts, &rows, item->part);
    if (at->sums)
        columns_item(at->dev, &at->columns, &at->plan, index, &rows);
}

static void item_join(const struct attention *at, size_t first, char *memory) {
    const struct plan *plan = &at->plan;
    struct attend_rows rows = attend_rows_start(at->dev, plan, &plan->items[first], memory);
    for (size_t i = first; i < plan->n_items && plan->items[i].run == plan->items[first].run; i++)
        part_join(&at->parts, &rows, plan->items[i].part);
    rows_finish(at->dev, &plan->runs[plan->items[first].run], &rows);
}

static void attend_all(const struct attention *at, char *memory, size_t thread_bytes) {
    const struct plan *plan = &at->plan;
#pragma omp parallel num_threads(at->dev->n_threads)
    {
        char *mine = memory + (size_t)thread_number() * thread_bytes;
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < plan->n_items; i++)
            item_run(at, i, mine);
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < plan->n_items; i++) {
            if (plan->items[i].part != NO_PART && plan->items[i].begin == 0)
                item_join(at, i, mine);
            if (at->sums && (i == 0 || plan->items[i].run != plan->items[i - 1].run))
                columns_join(&at->columns, plan, i);
        }
    }
}

void cpu_attend_cache(struct device *dev, const struct attend_args *a) {
    struct attention at = {.dev = dev};
    if (!attend_plan(dev, a, true, &at.plan))
        return;
    at.sums = columns_begin(dev, &at.plan, &at.columns);
    at.parts.max_rows = at.plan.max_rows;
    at.parts.stride = at.plan.max_rows * ((size_t)a->cache->head_dim + 2);
    if (!at.sums)
        at.parts.values = device_scratch(dev, SCRATCH_PARTIAL, at.plan.n_parts * at.parts.stride * sizeof *at.parts.values);
    size_t thread_bytes = at.plan.rows_bytes + at.columns.record_bytes;
    char *memory = device_scratch(dev, SCRATCH_THREAD, (size_t)dev->n_threads * thread_bytes);
    if (!memory || device_failed(dev))
        return;
    attend_all(&at, memory, thread_bytes);
    if (a->column_sum && !at.sums)
        attend_columns(dev, &at.plan);
}
