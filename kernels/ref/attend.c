/* Attention of a step over long-term pairs, ring and the step's own rows (arXiv 2605.14037; method.md sections 3, 4). */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "kernels/ref/ref.h"

/* All keys that some query of one run may see in one KV head, positions ascending. */
struct keys {
    size_t n;
    double *k, *v;   /* (n, head_dim) */
    double *logit;   /* (n) of the query at hand, -INFINITY where it cannot look */
    double *q, *out; /* (head_dim) of the query at hand */
    double *future_max, *future_sum; /* (n) of struct attend_stats_args, of this run alone */
    double *column;  /* (n) of struct attend_args, of this run alone */
    int *pos;        /* (n); long-term entries of a pruned lane may have no known position: INT_MIN */
    bool *always;    /* (n) visible outside the window too */
};

/* One run of the step and one KV head of it. */
struct run {
    const struct attend_args *a;
    size_t lane;
    int head, window, sinks, pos0, first, n_rows, column_from;
    bool ring_only;
};

static struct run run_of(const struct attend_args *a, int seq, int head) {
    const struct kv_cache *c = a->cache;
    struct run run = {.a = a, .head = head, .lane = kv_lane(c, a->batch.slots[seq], a->layer, head)};
    run.ring_only = c->ring_only[a->layer];
    run.window = c->window[a->layer * c->n_kv_heads + head];
    run.sinks = run.ring_only ? 0 : c->sinks;
    run.pos0 = a->batch.pos0[seq];
    run.first = a->batch.row_splits[seq];
    run.n_rows = a->batch.row_splits[seq + 1] - run.first;
    run.column_from = a->column_sum ? a->column_from[seq] : 0;
    ASSERT(run.n_rows > 0 && c->n_fed[run.lane] == run.pos0);
    return run;
}

static bool keys_alloc(struct device *dev, size_t n, size_t dim, struct keys *keys) {
    char *memory = ref_scratch(dev, (2 * n * dim + 4 * n + 2 * dim) * sizeof(double) + n * sizeof(int) + n * sizeof(bool));
    if (!memory)
        return false;
    keys->n = 0;
    keys->k = (double *)(void *)memory;
    keys->v = keys->k + n * dim;
    keys->logit = keys->v + n * dim;
    keys->q = keys->logit + n;
    keys->out = keys->q + dim;
    keys->future_max = keys->out + dim;
    keys->future_sum = keys->future_max + n;
    keys->column = keys->future_sum + n;
    keys->pos = (int *)(void *)(keys->column + n);
    keys->always = (bool *)(void *)(keys->pos + n);
    return true;
}

static void keys_add_cached(struct keys *keys, const struct kv_cache *c, size_t lane, size_t row, int pos, bool always) {
    size_t dim = (size_t)c->head_dim;
    widen(lane_k(c, lane, row), c->dtype, 0, dim, keys->k + keys->n * dim);
    widen(lane_v(c, lane, row), c->dtype, 0, dim, keys->v + keys->n * dim);
    keys->pos[keys->n] = pos;
    keys->always[keys->n++] = always;
}

/* A pair of the step itself, rounded as the cache would round it. */
static void keys_add_row(struct keys *keys, struct device *dev, const struct run *run, int row, bool always) {
    const struct attend_args *a = run->a;
    size_t dim = (size_t)a->cache->head_dim, from = (size_t)(run->first + row) * a->ld_qkv + (size_t)run->head * dim;
    for (size_t i = 0; i < dim; i++) {
        keys->k[keys->n * dim + i] = rounded(real_load(dev, a->k, from + i), a->cache->dtype);
        keys->v[keys->n * dim + i] = rounded(real_load(dev, a->v, from + i), a->cache->dtype);
    }
    keys->pos[keys->n] = run->pos0 + row;
    keys->always[keys->n++] = always;
}

/* Nothing was pruned or evicted, or nothing is left: entry j of the long-term store is position j. */
static bool all_kept(const struct run *run) {
    int in_ring = run->pos0 < run->window ? run->pos0 : run->window, n_long = run->a->cache->n_long[run->lane];
    return n_long == 0 || n_long == run->pos0 - in_ring;
}

static int long_position(const struct run *run, int entry) {
    const struct kv_cache *c = run->a->cache;
    if (c->long_pos)
        return c->long_pos[run->lane * (size_t)c->max_len + (size_t)entry];
    return all_kept(run) ? entry : INT_MIN;
}

static bool keys_collect(struct device *dev, const struct run *run, struct keys *keys) {
    const struct kv_cache *c = run->a->cache;
    int n_long = c->n_long[run->lane], in_ring = run->pos0 < run->window ? run->pos0 : run->window;
    if (!keys_alloc(dev, (size_t)(n_long + in_ring + run->n_rows), (size_t)c->head_dim, keys))
        return false;
    for (int j = 0; j < n_long; j++)
        keys_add_cached(keys, c, run->lane, lane_long_row(c, run->window) + (size_t)j, long_position(run, j), true);
    for (int pos = run->pos0 - in_ring; pos < run->pos0; pos++) {
        size_t slot = (size_t)(pos % run->window);
        bool open = c->ring_open[run->lane * (size_t)c->ring_len + slot] && !run->ring_only;
        keys_add_cached(keys, c, run->lane, slot, pos, open || pos < run->sinks);
    }
    for (int row = 0; row < run->n_rows; row++) {
        bool open = run->a->open[(run->first + row) * c->n_kv_heads + run->head] && !run->ring_only;
        keys_add_row(keys, dev, run, row, open || run->pos0 + row < run->sinks);
    }
    return true;
}

/* Fills keys->logit for one query; long-term keys of unknown position are older than every query. */
static void query_logits(struct device *dev, const struct run *run, struct keys *keys, int row, size_t query_head) {
    const struct attend_args *a = run->a;
    size_t dim = (size_t)a->cache->head_dim, from = (size_t)(run->first + row) * a->ld_qkv + query_head * dim;
    int t = run->pos0 + row;
    for (size_t i = 0; i < dim; i++)
        keys->q[i] = rounded(real_load(dev, a->q, from + i), a->cache->dtype);
    for (size_t j = 0; j < keys->n; j++) {
        bool visible = keys->pos[j] <= t && (keys->always[j] || t - keys->pos[j] < run->window);
        keys->logit[j] = visible ? ref_softcap((double)a->scale * dot(keys->q, keys->k + j * dim, dim), (double)a->softcap)
                                 : -INFINITY;
    }
}

/* Adds the softmax weights of the query whose logits these are, divided by the size of the group, to those of its keys. */
static void column_add(const struct attend_args *a, struct keys *keys, double lse) {
    double share = (double)a->cache->n_kv_heads / (double)a->n_heads;
    for (size_t j = 0; j < keys->n; j++)
        keys->column[j] += exp(keys->logit[j] - lse) * share;
}

static void column_store(struct device *dev, const struct run *run, int slot, const struct keys *keys) {
    const struct kv_cache *c = run->a->cache;
    size_t row = ((size_t)slot * (size_t)c->n_kv_heads + (size_t)run->head) * (size_t)c->max_len;
    for (size_t j = 0; j < keys->n; j++)
        real_add(dev, run->a->column_sum, row + (size_t)keys->pos[j], keys->column[j]);
}

static void attend_query(struct device *dev, const struct run *run, struct keys *keys, int row, size_t query_head) {
    const struct attend_args *a = run->a;
    size_t dim = (size_t)a->cache->head_dim, at = (size_t)(run->first + row) * a->n_heads + query_head;
    double max = -INFINITY, sum = 0;
    query_logits(dev, run, keys, row, query_head);
    for (size_t j = 0; j < keys->n; j++)
        max = keys->logit[j] > max ? keys->logit[j] : max;
    for (size_t i = 0; i < dim; i++)
        keys->out[i] = 0;
    for (size_t j = 0; j < keys->n; j++) {
        if (keys->logit[j] == -INFINITY) /* no 0 * infinity from a value that nobody may see */
            continue;
        double p = exp(keys->logit[j] - max);
        sum += p;
        for (size_t i = 0; i < dim; i++)
            keys->out[i] += p * keys->v[j * dim + i];
    }
    for (size_t i = 0; i < dim; i++)
        dtype_store(a->out, dev->dtype, at * dim + i, keys->out[i] / sum);
    if (a->lse)
        real_store(dev, a->lse, at, max + log(sum));
    if (a->column_sum && run->pos0 + row >= run->column_from)
        column_add(a, keys, max + log(sum));
}

static void attend_check(const struct attend_args *a) {
    const struct kv_cache *c = a->cache;
    ASSERT(!a->column_sum || (c->long_pos && a->lse && a->column_from));
    ASSERT(a->n_heads % (size_t)c->n_kv_heads == 0 && a->ld_qkv >= a->n_heads * (size_t)c->head_dim);
    ASSERT(a->batch.n_seq == 0 || (size_t)a->batch.row_splits[a->batch.n_seq] == a->n_rows);
}

void ref_attend_cache(struct device *dev, const struct attend_args *a) {
    size_t group = a->n_heads / (size_t)a->cache->n_kv_heads;
    attend_check(a);
    for (int seq = 0; seq < a->batch.n_seq; seq++)
        for (int head = 0; head < a->cache->n_kv_heads; head++) {
            struct keys keys;
            if (ref_failed(dev))
                return;
            struct run run = run_of(a, seq, head);
            if (!keys_collect(dev, &run, &keys))
                return;
            memset(keys.column, 0, keys.n * sizeof *keys.column);
            for (int row = 0; row < run.n_rows; row++)
                for (size_t g = 0; g < group; g++)
                    attend_query(dev, &run, &keys, row, (size_t)head * group + g);
            if (a->column_sum)
                column_store(dev, &run, a->batch.slots[seq], &keys);
        }
}

/* Adds the softmax weights of one query to those of its keys and, divided by the size of the group, to the sums of its run
 * and KV head. */
static void stats_query(struct device *dev, const struct attend_stats_args *s, const struct run *run, struct keys *keys,
                        int row, size_t query_head, size_t at) {
    const struct attend_args *a = run->a;
    double lse = real_load(dev, a->lse, (size_t)(run->first + row) * a->n_heads + query_head);
    double share = (double)a->cache->n_kv_heads / (double)a->n_heads;
    query_logits(dev, run, keys, row, query_head);
    for (size_t j = 0; j < keys->n; j++) {
        int distance = run->pos0 + row - keys->pos[j];
        if (keys->logit[j] == -INFINITY)
            continue;
        double weight = exp(keys->logit[j] - lse), mass = weight * share;
        if (distance >= s->window) {
            keys->future_max[j] = fmax(keys->future_max[j], weight);
            keys->future_sum[j] += weight;
        }
        if (!s->far_sum)
            continue;
        if (keys->pos[j] < s->sinks)
            s->sink_sum[at] += mass;
        else if (distance >= s->window)
            s->far_sum[at] += mass;
        if (s->distance_sum)
            s->distance_sum[at * (size_t)s->n_bins + (size_t)s->bin_of_distance[distance]] += mass;
    }
}

/* Adds what the queries of a run gave its keys. */
static void future_add(struct device *dev, const struct attend_stats_args *s, const struct run *run, int slot,
                       const struct keys *keys) {
    const struct kv_cache *c = run->a->cache;
    for (size_t j = 0; j < keys->n; j++) {
        size_t row = (size_t)slot * (size_t)c->max_len + (size_t)keys->pos[j];
        size_t at = row * (size_t)c->n_kv_heads + (size_t)run->head;
        real_store(dev, s->future_max, at, fmax(real_load(dev, s->future_max, at), keys->future_max[j]));
        real_add(dev, s->future_sum, at, keys->future_sum[j]);
    }
}

void ref_attend_stats(struct device *dev, const struct attend_stats_args *s) {
    const struct attend_args *a = s->attend;
    size_t group = a->n_heads / (size_t)a->cache->n_kv_heads;
    attend_check(a);
    for (int seq = 0; seq < a->batch.n_seq; seq++)
        for (int head = 0; head < a->cache->n_kv_heads; head++) {
            struct keys keys;
            if (ref_failed(dev))
                return;
            struct run run = run_of(a, seq, head);
            if (!all_kept(&run)) {
                err_set(&dev->failure, ERR_INPUT, "attention statistics", "pairs were pruned from the cache, so distances "
                        "are not known (record attention under the policy \"full\")");
                return;
            }
            if (!keys_collect(dev, &run, &keys))
                return;
            memset(keys.future_max, 0, 2 * keys.n * sizeof(double));
            for (int row = 0; row < run.n_rows; row++)
                for (size_t g = 0; g < group; g++)
                    stats_query(dev, s, &run, &keys, row, (size_t)head * group + g,
                                (size_t)seq * (size_t)a->cache->n_kv_heads + (size_t)head);
            if (s->future_max)
                future_add(dev, s, &run, a->batch.slots[seq], &keys);
        }
}
