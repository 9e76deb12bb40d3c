/* Scores of long-term pairs for policies that evict, and the choice of the best. */
#include <math.h>
#include <stdlib.h>

#include "kernels/ref/ref.h"

void ref_query_sums(struct device *dev, const struct query_sums_args *a) {
    size_t dim = a->head_dim, item = dim * (dim + 1);
    if (ref_failed(dev))
        return;
    for (int i = 0; i < a->batch.n_seq; i++)
        for (int row = a->batch.row_splits[i]; row < a->batch.row_splits[i + 1]; row++)
            for (size_t head = 0; head < a->n_heads; head++) {
                double *sum = a->sum + ((size_t)a->batch.slots[i] * a->n_heads + head) * item;
                size_t at = (size_t)row * a->ld_q + head * dim;
                if (a->batch.pos0[i] + row - a->batch.row_splits[i] < a->skip)
                    continue;
                for (size_t d = 0; d < dim; d++) {
                    double q = real_load(dev, a->q, at + d);
                    sum[d] += q;
                    for (size_t e = d; e < dim; e++)
                        sum[dim + d * dim + e] += q * real_load(dev, a->q, at + e);
                }
            }
}

/* What attention gave the pair of long-term entry j. */
static double column(const struct device *dev, const struct column_score_args *a, int head, int j) {
    const struct kv_cache *c = a->cache;
    size_t lane = kv_lane(c, a->slot, a->layer, head), max_len = (size_t)c->max_len;
    size_t pos = (size_t)c->long_pos[lane * max_len + (size_t)j], first = (size_t)(a->slot * c->n_kv_heads);
    double sum = 0;
    if (!a->mean_heads)
        return real_load(dev, a->column_sum, (first + (size_t)head) * max_len + pos);
    for (int h = 0; h < c->n_kv_heads; h++)
        sum += real_load(dev, a->column_sum, (first + (size_t)h) * max_len + pos);
    return sum / c->n_kv_heads;
}

void ref_column_score(struct device *dev, const struct column_score_args *a) {
    const struct kv_cache *c = a->cache;
    ASSERT(a->pool % 2 == 1 && c->long_pos);
    if (ref_failed(dev) || c->ring_only[a->layer])
        return;
    for (int head = 0; head < c->n_kv_heads; head++) {
        size_t lane = kv_lane(c, a->slot, a->layer, head);
        int n = c->n_long[lane], n_sinks = n - c->n_kept[lane];
        for (int j = 0; j < n; j++) {
            double score = j < n_sinks ? INFINITY : 0;
            for (int i = j - a->pool / 2; j >= n_sinks && i <= j + a->pool / 2; i++)
                score += i >= n_sinks && i < n ? column(dev, a, head, i) / a->pool : 0;
            real_store(dev, a->score, (size_t)head * (size_t)c->max_len + (size_t)j, score);
        }
    }
}

/* Where the mean rotation of future positions, turned back, takes a key; out (head_dim). */
static void unrotate(const struct device *dev, const struct expected_score_args *a, const double *k, double *out) {
    size_t half = (size_t)a->cache->head_dim / 2;
    for (size_t d = 0; d < half; d++) {
        double c0 = real_load(dev, a->rotation, d), s0 = real_load(dev, a->rotation, half + d);
        double c1 = real_load(dev, a->future, d), s1 = real_load(dev, a->future, half + d);
        double cosine = c0 * c1 - s0 * s1, sine = s0 * c1 + c0 * s1;
        out[d] = cosine * k[d] + sine * k[half + d];
        out[half + d] = cosine * k[half + d] - sine * k[d];
    }
}

/* scale m.x + scale^2 / 2 x.S x with mean m and covariance S of the queries of one head. */
static double expected_logit(const struct expected_score_args *a, size_t query_head, const double *x) {
    size_t dim = (size_t)a->cache->head_dim;
    const double *sum = a->query_sum + ((size_t)a->slot * a->n_heads + query_head) * dim * (dim + 1), *outer = sum + dim;
    double n = a->n_queries, scale = (double)a->scale, mean = 0, square = 0;
    if (a->n_queries == 0)
        return 0;
    for (size_t d = 0; d < dim; d++) {
        mean += sum[d] / n * x[d];
        for (size_t e = d; e < dim; e++)
            square += (e > d ? 2 : 1) * x[d] * x[e] * (outer[d * dim + e] / n - sum[d] / n * (sum[e] / n));
    }
    return scale * mean + scale * scale / 2 * square;
}

/* Adds the head's share of the softmax over candidates x (n, head_dim) to score (n); logit (n) is overwritten. */
static void add_softmax(const struct expected_score_args *a, size_t query_head, const double *x, size_t n, double *logit,
                        double *score) {
    size_t dim = (size_t)a->cache->head_dim, group = a->n_heads / (size_t)a->cache->n_kv_heads;
    double max = -INFINITY, sum = 0;
    for (size_t j = 0; j < n; j++) {
        logit[j] = expected_logit(a, query_head, x + j * dim);
        max = fmax(max, logit[j]);
    }
    for (size_t j = 0; j < n; j++)
        sum += logit[j] = exp(logit[j] - max);
    for (size_t j = 0; j < n; j++)
        score[j] += logit[j] / sum / (double)group;
}

static void expected_head(struct device *dev, const struct expected_score_args *a, int head) {
    const struct kv_cache *c = a->cache;
    size_t lane = kv_lane(c, a->slot, a->layer, head), dim = (size_t)c->head_dim;
    size_t n_long = (size_t)c->n_long[lane], n = (size_t)c->n_kept[lane], n_sinks = n_long - n;
    size_t group = a->n_heads / (size_t)c->n_kv_heads, out = (size_t)head * (size_t)c->max_len;
    size_t row0 = lane_long_row(c, c->window[a->layer * c->n_kv_heads + head]) + n_sinks;
    double *x = ref_scratch(dev, (n * dim + 2 * n + dim) * sizeof *x);
    if (!x)
        return;
    double *logit = x + n * dim, *score = logit + n, *k = score + n;
    for (size_t j = 0; j < n; j++) {
        score[j] = 0;
        widen(lane_k(c, lane, row0 + j), c->dtype, 0, dim, a->rotation ? k : x + j * dim);
        if (a->rotation)
            unrotate(dev, a, k, x + j * dim);
    }
    for (size_t g = 0; g < group; g++)
        add_softmax(a, (size_t)head * group + g, x, n, logit, score);
    for (size_t j = 0; j < n_sinks; j++)
        real_store(dev, a->score, out + j, INFINITY);
    for (size_t j = 0; j < n; j++) {
        widen(lane_v(c, lane, row0 + j), c->dtype, 0, dim, k);
        real_store(dev, a->score, out + n_sinks + j, score[j] * sqrt(dot(k, k, dim)));
    }
}

void ref_expected_score(struct device *dev, const struct expected_score_args *a) {
    for (int head = 0; head < a->cache->n_kv_heads && !ref_failed(dev) && !a->cache->ring_only[a->layer]; head++)
        expected_head(dev, a, head);
}

struct candidate {
    double score;
    size_t at; /* in the set, by lane and index */
};

static int better_first(const void *left, const void *right) {
    const struct candidate *a = left, *b = right;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->at < b->at ? -1 : a->at > b->at;
}

static void select_set(struct device *dev, const struct select_top_args *a, size_t set) {
    size_t first = set * a->n_lanes, n = 0, cap = 0;
    for (size_t lane = first; lane < first + a->n_lanes; lane++)
        cap += (size_t)a->n[lane];
    struct candidate *all = ref_scratch(dev, cap * sizeof *all);
    if (!all)
        return;
    for (size_t lane = first; lane < first + a->n_lanes; lane++)
        for (size_t i = 0; i < (size_t)a->n[lane]; i++) {
            double score = real_load(dev, a->score, lane * a->stride + i);
            a->keep[lane * a->stride + i] = 0;
            if (!isnan(score))
                all[n++] = (struct candidate){score, lane * a->stride + i};
        }
    qsort(all, n, sizeof *all, better_first);
    for (size_t i = 0; i < n && i < a->k; i++)
        a->keep[all[i].at] = 1;
}

void ref_select_top(struct device *dev, const struct select_top_args *a) {
    for (size_t set = 0; set < a->n_sets && !ref_failed(dev); set++)
        select_set(dev, a, set);
}
