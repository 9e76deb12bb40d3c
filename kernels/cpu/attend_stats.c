/* Sums of softmax weights by distance, for head maps of dense models: the weights are computed a second time from the log
 * of their sum that attention left. For a fixed query neighbouring keys have neighbouring distances, so a row of weights is
 * added to an array over distances as it stands; bins are looked up once per distance. */
#include <string.h>

#include "kernels/cpu/attend.h"

/* What one item adds up. */
struct sums {
    double *far, *sink, *bins; /* bins (n_bins), NULL to skip */
    float *by_distance;        /* place of distance d is last - d */
    int last;                  /* the largest distance of the item */
};

static INLINE void add_run_body(float *sum, const float *x, size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        sum[i] += x[i];
}

static void add_run_scalar(float *sum, const float *x, size_t n) {
    add_run_body(sum, x, n);
}

#if ISA_X86
static TARGET_AVX2 void add_run_avx2(float *sum, const float *x, size_t n) {
    add_run_body(sum, x, n);
}

static TARGET_AVX512 void add_run_avx512(float *sum, const float *x, size_t n) {
    add_run_body(sum, x, n);
}
#endif

static void (*const add_run_table[])(float *, const float *, size_t) = ISA_TABLE(add_run);

static void add_one(const struct attend_stats_args *s, struct sums *sums, int distance, bool sink, double mass) {
    if (sink)
        *sums->sink += mass;
    else if (distance >= s->window)
        *sums->far += mass;
    if (sums->bins)
        sums->bins[s->bin_of_distance[distance]] += mass;
}

/* Weights of n keys at positions pos, pos + 1, ... for the query at t; those after t are 0. */
static void add_stretch(const struct device *dev, const struct attend_stats_args *s, struct sums *sums, int t, int pos,
                        const float *mass, int n) {
    for (; n > 0 && pos < s->sinks; pos++, mass++, n--)
        if (pos <= t)
            add_one(s, sums, t - pos, true, (double)*mass);
    n = pos + n > t + 1 ? t + 1 - pos : n;
    if (n > 0)
        add_run_table[dev->isa](sums->by_distance + sums->last - (t - pos), mass, (size_t)n);
}

/* Adds the weights of the queries of a tile. */
static void tile_add(const struct device *dev, const struct attend_stats_args *s, const struct attend_run *run,
                     const struct attend_rows *rows, size_t tile, const struct key_group *groups, size_t n_groups,
                     struct sums *sums) {
    size_t first = tile * TILE_ROWS, end = first + TILE_ROWS < rows->n ? first + TILE_ROWS : rows->n;
    for (size_t r = first; r < end; r += attend_query_rows(rows, r, end)) {
        const float *mass = rows->logit + (r - first) * STEP_KEYS;
        int t = attend_position(run, rows, r);
        for (size_t i = 0, n = 1; i < n_groups; i += n, mass += n * GROUP_KEYS, n = 1) {
            const struct key_group *g = &groups[i];
            int split = g->split < 0 ? 0 : g->split > GROUP_KEYS ? GROUP_KEYS : g->split;
            /* Groups whose positions go on where the last one's ended are added in one go. */
            while (split == GROUP_KEYS && i + n < n_groups && groups[i + n].split >= GROUP_KEYS &&
                   groups[i + n].base == g->base + (int)n * GROUP_KEYS)
                n++;
            add_stretch(dev, s, sums, t, g->base, mass, n > 1 ? (int)n * GROUP_KEYS : split);
            if (split < GROUP_KEYS)
                add_stretch(dev, s, sums, t, g->base_wrapped + split, mass + split, GROUP_KEYS - split);
        }
    }
}

/* Nothing was pruned, so entry i of the long-term store is position i. */
struct key_group attend_group_with_position(const struct attend_run *run, size_t index) {
    struct key_group g = attend_group(run, index);
    if (index < run->n_long_groups)
        g.base = (int)(index * GROUP_KEYS);
    return g;
}

void attend_masses(const struct device *dev, const struct attend_run *run, struct attend_rows *rows, size_t tile,
                   const struct key_group *groups, size_t n_groups, bool all_visible, bool by_query) {
#if ISA_X86
    if (dev->dtype == DTYPE_BF16)
        attend_masses_amx(run, rows, tile, groups, n_groups, all_visible, by_query);
    else
#endif
        attend_masses_f32(dev, run, rows, tile, groups, n_groups, by_query);
}

static void item_rows_add(const struct device *dev, const struct attend_stats_args *s, const struct attend_run *run,
                          struct attend_rows *rows, const struct item *item, struct sums *sums) {
    for (size_t at = item->begin; at < item->end; at += STEP_GROUPS) {
        struct key_group groups[STEP_GROUPS], seen[STEP_GROUPS];
        size_t n = item->end - at < STEP_GROUPS ? item->end - at : STEP_GROUPS;
        for (size_t i = 0; i < n; i++)
            groups[i] = attend_group_with_position(run, at + i);
        for (size_t tile = 0; tile < rows->n_tiles; tile++) {
            bool all;
            size_t n_seen = attend_groups_seen(run, rows, tile, groups, n, seen, &all);
            if (n_seen == 0)
                continue;
            attend_masses(dev, run, rows, tile, seen, n_seen, all, true);
            tile_add(dev, s, run, rows, tile, seen, n_seen, sums);
        }
    }
}

/* A run of one row keeps its own pair outside the pages: whatever weight the others leave is its own. */
static void add_own_pair(const struct attend_stats_args *s, const struct attend_run *run, const struct attend_rows *rows,
                         struct sums *sums) {
    double others = *sums->sink;
    for (int d = 0; d <= sums->last; d++)
        others += (double)sums->by_distance[d];
    double own = (double)rows->n - others;
    add_one(s, sums, 0, run->pos0 < s->sinks, own > 0 ? own : 0);
}

struct attend_rows attend_rows_with_lse(const struct device *dev, const struct plan *plan, const struct item *item,
                                        char *memory) {
    const struct attend_run *run = &plan->runs[item->run];
    const struct attend_args *a = plan->a;
    struct attend_rows rows = attend_rows_start(dev, plan, item, memory);
    for (size_t r = 0; r < rows.n; r++)
        rows.max[r] = a->lse[((size_t)(run->first + rows.first_query) + r / rows.heads) * a->n_heads +
                             (size_t)run->head * rows.heads + r % rows.heads];
    return rows;
}

static void item_stats(const struct device *dev, const struct attend_stats_args *s, const struct plan *plan,
                       const struct item *item, char *memory, struct sums *sums) {
    const struct attend_run *run = &plan->runs[item->run];
    struct attend_rows rows = attend_rows_with_lse(dev, plan, item, memory);
    sums->last = attend_position(run, &rows, rows.n - 1);
    memset(sums->by_distance, 0, (size_t)(sums->last + 1 + GROUP_KEYS) * sizeof *sums->by_distance);
    item_rows_add(dev, s, run, &rows, item, sums);
    if (run->n_rows == 1)
        add_own_pair(s, run, &rows, sums);
    for (int d = 0; d <= sums->last; d++)
        add_one(s, sums, d, false, (double)sums->by_distance[sums->last - d]);
}

/* Adds the results of all items to the caller's sums, in order. */
static void sums_join(const struct attend_stats_args *s, const struct plan *plan, const double *results, size_t stride) {
    double share = 1 / (double)plan->heads;
    for (size_t i = 0; i < plan->n_items; i++) {
        const double *result = results + i * stride;
        size_t run = plan->items[i].run;
        s->far_sum[run] += result[0] * share;
        s->sink_sum[run] += result[1] * share;
        for (size_t b = 0; s->distance_sum && b < (size_t)s->n_bins; b++)
            s->distance_sum[run * (size_t)s->n_bins + b] += result[2 + b] * share;
    }
}

/* Sums by distance and future attention need every pair, sums by key the positions of those that are left. */
static bool stats_possible(struct device *dev, const struct attend_stats_args *s, const struct plan *plan) {
    bool possible = !s->column_sum || s->attend->cache->long_pos;
    for (size_t i = 0; i < plan->n_runs && (s->far_sum || s->future_max); i++)
        possible &= plan->runs[i].n_long == 0 || plan->runs[i].n_long == plan->runs[i].pos0 - plan->runs[i].n_ring;
    if (!possible)
        err_set(&dev->err, ERR_INPUT, "attention statistics", "pairs were pruned from the cache, so distances are not "
                "known (record attention under the policy \"full\")");
    return possible;
}

/* far_sum, sink_sum and distance_sum of the arguments. */
static void distance_sums(struct device *dev, const struct attend_stats_args *s, const struct plan *plan) {
    size_t stride = 2 + (s->distance_sum ? (size_t)s->n_bins : 0);
    size_t distances = ((size_t)s->attend->cache->max_len + 2 * GROUP_KEYS) / 16 * 16 * sizeof(float);
    size_t thread_bytes = plan->rows_bytes + distances;
    char *memory = device_scratch(dev, SCRATCH_THREAD, (size_t)dev->n_threads * thread_bytes);
    double *results = device_scratch(dev, SCRATCH_PARTIAL, plan->n_items * stride * sizeof *results);
    if (!memory || !results)
        return;
    memset(results, 0, plan->n_items * stride * sizeof *results);
#pragma omp parallel for num_threads(dev->n_threads) schedule(dynamic)
    for (size_t i = 0; i < plan->n_items; i++) {
        char *mine = memory + (size_t)thread_number() * thread_bytes;
        double *result = results + i * stride;
        struct sums sums = {.far = &result[0], .sink = &result[1], .bins = s->distance_sum ? result + 2 : NULL,
                            .by_distance = (float *)(void *)(mine + plan->rows_bytes)};
        item_stats(dev, s, plan, &plan->items[i], mine, &sums);
    }
    sums_join(s, plan, results, stride);
}

void cpu_attend_stats(struct device *dev, const struct attend_stats_args *s) {
    struct plan plan;
    if (!attend_plan(dev, s->attend, false, &plan) || !stats_possible(dev, s, &plan))
        return;
    if (s->far_sum)
        distance_sums(dev, s, &plan);
    if (s->future_max)
        attend_future(dev, s, &plan);
    if (s->column_sum)
        attend_columns(dev, s, &plan);
}
