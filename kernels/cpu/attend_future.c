/* What queries beyond the window give each key, for the oracle of dense models (method.md section 11): the weights of every
 * query head are computed a second time, as for the sums by distance. Work is cut by keys, so that one thread sees all
 * queries of a key and adds them in order: results do not depend on threads. */
#include "kernels/cpu/attend.h"

/* Up to STEP_GROUPS neighbouring groups of a run and what they got. */
struct future {
    struct key_group groups[STEP_GROUPS];
    size_t n_groups;
    float max[STEP_KEYS], sum[STEP_KEYS];
};

/* Adds the weights p (32 keys) of one row where `seen` has a bit. */
static INLINE void future_add_body(const float *p, uint32_t seen, float *max, float *sum) {
#pragma omp simd
    for (size_t j = 0; j < GROUP_KEYS; j++) {
        float weight = seen >> j & 1 ? p[j] : 0;
        max[j] = weight > max[j] ? weight : max[j];
        sum[j] += weight;
    }
}

static void future_add_scalar(const float *p, uint32_t seen, float *max, float *sum) {
    future_add_body(p, seen, max, sum);
}

#if ISA_X86
static TARGET_AVX2 void future_add_avx2(const float *p, uint32_t seen, float *max, float *sum) {
    future_add_body(p, seen, max, sum);
}

static TARGET_AVX512 void future_add_avx512(const float *p, uint32_t seen, float *max, float *sum) {
    future_add_body(p, seen, max, sum);
}
#endif

static void (*const future_add_table[])(const float *, uint32_t, float *, float *) = ISA_TABLE(future_add);

/* Whether a query at t finds some of the keys outside the window. */
static bool future_seen(const struct future *f, int t, int window) {
    for (size_t i = 0; i < f->n_groups; i++)
        if (group_past(&f->groups[i], t - window))
            return true;
    return false;
}

/* Adds the weights of a tile of rows. The few rows of a tile are summed up first: sums of sums lose less. */
static void tile_add(const struct device *dev, const struct attend_run *run, struct attend_rows *rows, size_t tile,
                     int window, struct future *f) {
    size_t first = tile * TILE_ROWS, n = rows->n - first < TILE_ROWS ? rows->n - first : TILE_ROWS;
    float sum[STEP_KEYS] = {0};
    if (!future_seen(f, attend_position(run, rows, first + n - 1), window))
        return;
    attend_masses(dev, run, rows, tile, f->groups, f->n_groups, false, false);
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < f->n_groups; i++) {
            uint32_t seen = group_past(&f->groups[i], attend_position(run, rows, first + r) - window);
            size_t at = i * GROUP_KEYS;
            if (seen)
                future_add_table[dev->isa](rows->logit + r * STEP_KEYS + at, seen, f->max + at, sum + at);
        }
    for (size_t j = 0; j < f->n_groups * GROUP_KEYS; j++)
        f->sum[j] += sum[j];
}

/* Adds what the keys got to the caller's arrays; valid slots have distinct positions. */
static void future_store(const struct attend_stats_args *s, const struct attend_run *run, int slot, const struct future *f) {
    const struct kv_cache *c = s->attend->cache;
    for (size_t j = 0; j < f->n_groups * GROUP_KEYS; j++) {
        const struct key_group *g = &f->groups[j / GROUP_KEYS];
        int i = (int)(j % GROUP_KEYS), pos = (i < g->split ? g->base : g->base_wrapped) + i;
        if (!(g->valid >> i & 1))
            continue;
        size_t row = (size_t)slot * (size_t)c->max_len + (size_t)pos, at = row * (size_t)c->n_kv_heads + (size_t)run->head;
        s->future_max[at] = f->max[j] > s->future_max[at] ? f->max[j] : s->future_max[at];
        s->future_sum[at] += f->sum[j];
    }
}

/* All queries of a run over its groups begin .. begin + STEP_GROUPS - 1. */
static void step_add(const struct device *dev, const struct attend_stats_args *s, const struct plan *plan, size_t index,
                     size_t begin, char *memory) {
    const struct attend_run *run = &plan->runs[index];
    struct future f = {0};
    for (; f.n_groups < STEP_GROUPS && begin + f.n_groups < run->n_groups; f.n_groups++)
        f.groups[f.n_groups] = attend_group_with_position(run, begin + f.n_groups);
    for (int query = 0, n, step = (int)(plan->max_rows / plan->heads); query < run->n_rows; query += n) {
        n = run->n_rows - query < step ? run->n_rows - query : step;
        if (!future_seen(&f, run->pos0 + query + n - 1, s->window))
            continue;
        struct item block = {.run = (uint32_t)index, .query = query, .n_queries = n};
        struct attend_rows rows = attend_rows_with_lse(dev, plan, &block, memory);
        for (size_t tile = 0; tile < rows.n_tiles; tile++)
            tile_add(dev, run, &rows, tile, s->window, &f);
    }
    future_store(s, run, plan->a->batch.slots[index / (size_t)plan->a->cache->n_kv_heads], &f);
}

void attend_future(struct device *dev, const struct attend_stats_args *s, const struct plan *plan) {
    size_t max_groups = 0;
    char *memory = device_scratch(dev, SCRATCH_THREAD, (size_t)dev->n_threads * plan->rows_bytes);
    for (size_t i = 0; i < plan->n_runs; i++)
        max_groups = plan->runs[i].n_groups > max_groups ? plan->runs[i].n_groups : max_groups;
    size_t n_steps = (max_groups + STEP_GROUPS - 1) / STEP_GROUPS;
    if (!memory)
        return;
#pragma omp parallel for num_threads(dev->n_threads) schedule(dynamic)
    for (size_t i = 0; i < plan->n_runs * n_steps; i++)
        if (i % n_steps * STEP_GROUPS < plan->runs[i / n_steps].n_groups)
            step_add(dev, s, plan, i / n_steps, i % n_steps * STEP_GROUPS,
                     memory + (size_t)thread_number() * plan->rows_bytes);
}
