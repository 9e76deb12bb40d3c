/* Pairs going into the cache, out of it, and back to whoever asks. */
#include <string.h>

#include "kernels/ref/ref.h"

/* The place in the page list of this row gets a page if it has none; false when the pool is empty. */
static bool page_ensure(struct device *dev, struct kv_cache *c, size_t lane, size_t row) {
    int32_t *page = &c->page_list[lane * (size_t)c->list_len + row / (size_t)c->page_slots];
    if (*page >= 0)
        return true;
    if (*c->n_free == 0) {
        err_set(&dev->failure, ERR_MEMORY, "KV cache", "no free page is left (kv_cache_reserve() must precede a step)");
        return false;
    }
    *page = c->free_pages[--*c->n_free];
    c->n_free[1] = *c->n_free < c->n_free[1] ? *c->n_free : c->n_free[1];
    return true;
}

/* The oldest pair of the ring, at position pos, goes to the long-term store or away. */
static bool ring_evict(struct device *dev, struct kv_cache *c, size_t lane, int window, int pos) {
    size_t slot = (size_t)(pos % window), row = lane_long_row(c, window) + (size_t)c->n_long[lane];
    size_t row_bytes = (size_t)c->head_dim * dtype_size(c->dtype);
    if (!c->ring_open[lane * (size_t)c->ring_len + slot] && pos >= c->sinks)
        return true;
    if (!page_ensure(dev, c, lane, row))
        return false;
    memcpy(lane_k(c, lane, row), lane_k(c, lane, slot), row_bytes);
    memcpy(lane_v(c, lane, row), lane_v(c, lane, slot), row_bytes);
    if (c->long_pos)
        c->long_pos[lane * (size_t)c->max_len + (size_t)c->n_long[lane]] = pos;
    c->n_long[lane]++;
    c->n_kept[lane] += pos >= c->sinks;
    return true;
}

/* Row `row` of the step becomes the newest pair of the lane. Query n_fed sees the window (itself included) and what has
 * been kept once the pair n_fed - window has left. */
static bool lane_append(struct device *dev, const struct kv_append_args *a, size_t lane, int head, int row) {
    struct kv_cache *c = a->cache;
    int window = c->window[a->layer * c->n_kv_heads + head], pos = c->n_fed[lane];
    size_t slot = (size_t)(pos % window), dim = (size_t)c->head_dim, from = (size_t)row * a->ld_kv + (size_t)head * dim;
    bool ring_only = c->ring_only[a->layer];
    if (pos >= window && !ring_only && !ring_evict(dev, c, lane, window, pos - window))
        return false;
    if (!page_ensure(dev, c, lane, slot))
        return false;
    for (size_t i = 0; i < dim; i++) {
        dtype_store(lane_k(c, lane, slot), c->dtype, i, real_load(dev, a->k, from + i));
        dtype_store(lane_v(c, lane, slot), c->dtype, i, real_load(dev, a->v, from + i));
    }
    c->ring_open[lane * (size_t)c->ring_len + slot] = a->open[row * c->n_kv_heads + head];
    c->n_fed[lane]++;
    if (!ring_only)
        c->visible_pairs[lane] += (uint64_t)(pos < window ? pos + 1 : window) + (uint64_t)c->n_long[lane];
    return true;
}

void ref_kv_append(struct device *dev, const struct kv_append_args *a) {
    ASSERT(a->ld_kv >= (size_t)a->cache->n_kv_heads * (size_t)a->cache->head_dim);
    if (ref_failed(dev))
        return;
    for (int i = 0; i < a->batch.n_seq; i++)
        for (int head = 0; head < a->cache->n_kv_heads; head++) {
            size_t lane = kv_lane(a->cache, a->batch.slots[i], a->layer, head);
            int first = a->batch.row_splits[i], end = a->batch.row_splits[i + 1];
            ASSERT(a->cache->n_fed[lane] == a->batch.pos0[i] && a->batch.pos0[i] + end - first <= a->cache->max_len);
            for (int row = first; row < end; row++)
                if (!lane_append(dev, a, lane, head, row))
                    return;
        }
}

/* Keeps the long-term entries i with keep[i * stride] != 0 and those of positions below sinks, which come first, in their
 * order, and gives back the pages that are not needed any more. */
static void lane_keep(struct kv_cache *c, size_t lane, int window, const uint8_t *keep, size_t stride) {
    size_t row_bytes = (size_t)c->head_dim * dtype_size(c->dtype), row0 = lane_long_row(c, window);
    int n_sinks = c->n_long[lane] - c->n_kept[lane], n = 0;
    for (int i = 0; i < c->n_long[lane]; i++) {
        if (i >= n_sinks && !keep[(size_t)i * stride])
            continue;
        memmove(lane_k(c, lane, row0 + (size_t)n), lane_k(c, lane, row0 + (size_t)i), row_bytes);
        memmove(lane_v(c, lane, row0 + (size_t)n), lane_v(c, lane, row0 + (size_t)i), row_bytes);
        if (c->long_pos)
            c->long_pos[lane * (size_t)c->max_len + (size_t)n] = c->long_pos[lane * (size_t)c->max_len + (size_t)i];
        n++;
    }
    c->n_long[lane] = n;
    c->n_kept[lane] = n - n_sinks;
    size_t slots = (size_t)c->page_slots, first = row0 / slots + ((size_t)n + slots - 1) / slots;
    for (size_t i = first; i < (size_t)c->list_len; i++) {
        int32_t *page = &c->page_list[lane * (size_t)c->list_len + i];
        if (*page >= 0)
            c->free_pages[(*c->n_free)++] = *page;
        *page = -1;
    }
}

/* Every position that has left the ring is in the long-term store: entry i is position i. */
static void lane_prune(struct kv_cache *c, size_t lane, int window, int head, const uint8_t *open) {
    int fed = c->n_fed[lane], n_long = fed > window ? fed - window : 0;
    ASSERT(c->n_long[lane] == n_long);
    lane_keep(c, lane, window, open + head, (size_t)c->n_kv_heads);
    for (int pos = n_long; pos < fed; pos++)
        c->ring_open[lane * (size_t)c->ring_len + (size_t)(pos % window)] = open[pos * c->n_kv_heads + head];
}

void ref_kv_prune(struct device *dev, struct kv_cache *c, int slot, int layer, const uint8_t *open) {
    if (ref_failed(dev) || c->ring_only[layer])
        return;
    for (int head = 0; head < c->n_kv_heads; head++)
        lane_prune(c, kv_lane(c, slot, layer, head), c->window[layer * c->n_kv_heads + head], head, open);
}

void ref_kv_evict(struct device *dev, struct kv_cache *c, int slot, int layer, const uint8_t *keep) {
    if (ref_failed(dev) || c->ring_only[layer])
        return;
    for (int head = 0; head < c->n_kv_heads; head++)
        lane_keep(c, kv_lane(c, slot, layer, head), c->window[layer * c->n_kv_heads + head],
                  keep + (size_t)head * (size_t)c->max_len, 1);
}

void ref_kv_reset(struct device *dev, struct kv_cache *c, int slot) {
    size_t first = kv_lane(c, slot, 0, 0), n = (size_t)c->n_layers * (size_t)c->n_kv_heads;
    if (ref_failed(dev))
        return;
    for (size_t i = 0; i < n * (size_t)c->list_len; i++) {
        int32_t *page = &c->page_list[first * (size_t)c->list_len + i];
        if (*page >= 0)
            c->free_pages[(*c->n_free)++] = *page;
        *page = -1;
    }
    for (size_t lane = first; lane < first + n; lane++) {
        c->n_fed[lane] = c->n_long[lane] = c->n_kept[lane] = 0;
        c->visible_pairs[lane] = 0;
    }
}

void ref_kv_copy(struct device *dev, struct kv_cache *c, int from, int to) {
    if (!ref_failed(dev) && !kv_slot_copy(c, from, to))
        err_set(&dev->failure, ERR_MEMORY, "KV cache", "no free page is left (kv_cache_copy() reserves them)");
}

void ref_kv_read(struct device *dev, const struct kv_cache *c, int slot, int layer, int kv_head, const int32_t *index,
                 size_t n, float *k, float *v) {
    size_t lane = kv_lane(c, slot, layer, kv_head), dim = (size_t)c->head_dim;
    int window = c->window[layer * c->n_kv_heads + kv_head];
    if (ref_failed(dev))
        return;
    for (size_t i = 0; i < n; i++) {
        int fed = c->n_fed[lane], in_ring = fed < window ? fed : window, n_long = c->n_long[lane];
        ASSERT(index[i] >= 0 && index[i] < n_long + in_ring);
        int pos = fed - in_ring + index[i] - n_long; /* when in the ring */
        size_t row = index[i] < n_long ? lane_long_row(c, window) + (size_t)index[i] : (size_t)(pos % window);
        for (size_t d = 0; d < dim; d++) {
            real_store(dev, k, i * dim + d, dtype_load(lane_k(c, lane, row), c->dtype, d));
            real_store(dev, v, i * dim + d, dtype_load(lane_v(c, lane, row), c->dtype, d));
        }
    }
}
