/* Pairs going into the cache, out of it, and back to whoever asks. */
#include <string.h>

#include "kernels/cpu/device.h"
#include "kernels/cpu/page.h"

/* What one run of rows does to one lane. */
struct lane_append {
    const struct kv_append_args *a;
    size_t lane;
    int head, window, pos0, first, n_rows;
    int n_leave;   /* pairs that leave the ring: positions leave0 .. leave0 + n_leave - 1 */
    int leave0;
    bool ring_only;
};

static struct lane_append lane_append_of(const struct kv_append_args *a, int seq, int head) {
    const struct kv_cache *c = a->cache;
    struct lane_append w = {.a = a, .head = head, .lane = kv_lane(c, a->batch.slots[seq], a->layer, head)};
    w.window = c->window[a->layer * c->n_kv_heads + head];
    w.ring_only = c->ring_only[a->layer];
    w.pos0 = a->batch.pos0[seq];
    w.first = a->batch.row_splits[seq];
    w.n_rows = a->batch.row_splits[seq + 1] - w.first;
    w.leave0 = w.pos0 > w.window ? w.pos0 - w.window : 0;
    int left = w.pos0 + w.n_rows - w.window; /* positions below it have left afterwards */
    w.n_leave = left > w.leave0 ? left - w.leave0 : 0;
    ASSERT(c->n_fed[w.lane] == w.pos0 && w.pos0 + w.n_rows <= c->max_len);
    return w;
}

/* Does the pair of position pos stay when it leaves the ring? It is in the ring or a row of the step. */
static bool stays(const struct lane_append *w, int pos) {
    const struct kv_cache *c = w->a->cache;
    if (w->ring_only)
        return false;
    if (pos < c->sinks)
        return true;
    if (pos >= w->pos0)
        return w->a->open[(w->first + pos - w->pos0) * c->n_kv_heads + w->head];
    return c->ring_open[w->lane * (size_t)c->ring_len + (size_t)(pos % w->window)];
}

/* Gives the place in the lane's page list a zeroed page if it has none; false when the pool is empty. */
static bool page_take(struct device *dev, struct kv_cache *c, size_t lane, size_t index) {
    int32_t *page = &c->page_list[lane * (size_t)c->list_len + index];
    if (*page >= 0)
        return true;
    if (*c->n_free == 0) {
        err_set(&dev->err, ERR_MEMORY, "KV cache", "no free page is left (kv_cache_reserve() must precede a step)");
        return false;
    }
    *page = c->free_pages[--*c->n_free];
    c->n_free[1] = *c->n_free < c->n_free[1] ? *c->n_free : c->n_free[1];
    memset((char *)c->pool + (size_t)*page * c->page_bytes, 0, c->page_bytes);
    return true;
}

/* Takes the pages that the lane will need: the free list has one user at a time, so this part is serial. */
static bool lane_take_pages(struct device *dev, const struct lane_append *w) {
    struct kv_cache *c = w->a->cache;
    int fed = w->pos0 + w->n_rows, ring_used = fed < w->window ? fed : w->window, n_kept = 0;
    for (int pos = w->leave0; pos < w->leave0 + w->n_leave; pos++)
        n_kept += stays(w, pos);
    size_t slots = (size_t)c->page_slots, ring_pages = ((size_t)ring_used + slots - 1) / slots;
    size_t long0 = lane_long_page(c, w->a->layer, w->head), n_long = (size_t)(c->n_long[w->lane] + n_kept);
    for (size_t i = 0; i < ring_pages; i++)
        if (!page_take(dev, c, w->lane, i))
            return false;
    for (size_t i = (size_t)c->n_long[w->lane] / slots; i < (n_long + slots - 1) / slots; i++)
        if (!page_take(dev, c, w->lane, long0 + i))
            return false;
    return true;
}

/* Rows of the step on their way to neighbouring slots of a page. */
struct row_queue {
    const struct device *dev;
    const struct lane_append *w;
    size_t page, slot, n; /* place in the lane's list, first slot */
    const float *k[KV_PAGE_SLOTS], *v[KV_PAGE_SLOTS];
};

static void queue_flush(struct row_queue *q) {
    const struct kv_cache *c = q->w->a->cache;
    if (q->n)
        page_write(q->dev, page_shape_of(c), lane_page(c, q->w->lane, q->page), q->slot, q->n, q->k, q->v);
    q->n = 0;
}

/* Row `row` goes to slot `place` of the pages that begin at list place `first_page`. */
static void queue_row(struct row_queue *q, int row, size_t first_page, size_t place) {
    const struct kv_append_args *a = q->w->a;
    size_t slots = (size_t)a->cache->page_slots, page = first_page + place / slots, slot = place % slots;
    size_t from = (size_t)(q->w->first + row) * a->ld_kv + (size_t)q->w->head * (size_t)a->cache->head_dim;
    if (q->n == KV_PAGE_SLOTS || page != q->page || slot != q->slot + q->n)
        queue_flush(q);
    if (q->n == 0) {
        q->page = page;
        q->slot = slot;
    }
    q->k[q->n] = a->k + from;
    q->v[q->n++] = a->v + from;
}

/* Pairs that leave: from the ring or, when the run is longer than the window, straight from the step. */
static void lane_evict(const struct lane_append *w, struct row_queue *queue) {
    struct kv_cache *c = w->a->cache;
    size_t slots = (size_t)c->page_slots, long0 = lane_long_page(c, w->a->layer, w->head);
    for (int pos = w->leave0; pos < w->leave0 + w->n_leave; pos++) {
        size_t entry = (size_t)c->n_long[w->lane], ring = (size_t)(pos % w->window);
        if (stays(w, pos)) {
            if (pos >= w->pos0)
                queue_row(queue, pos - w->pos0, long0, entry);
            else
                page_copy_slot(page_shape_of(c), lane_page(c, w->lane, ring / slots), ring % slots,
                               lane_page(c, w->lane, long0 + entry / slots), entry % slots);
            if (c->long_pos)
                c->long_pos[w->lane * (size_t)c->max_len + entry] = pos;
            c->n_long[w->lane]++;
            c->n_kept[w->lane] += pos >= c->sinks;
        }
        /* The query of position pos + window is the first that finds this pair gone or kept for good. */
        if (!w->ring_only)
            c->visible_pairs[w->lane] += (uint64_t)w->window + (uint64_t)c->n_long[w->lane];
    }
    queue_flush(queue);
}

static void lane_append(const struct device *dev, const struct lane_append *w) {
    struct kv_cache *c = w->a->cache;
    struct row_queue queue = {.dev = dev, .w = w};
    int skip = w->n_rows > w->window ? w->n_rows - w->window : 0;
    /* Queries whose window begins before position 0: nothing has left yet. */
    for (int t = w->pos0; !w->ring_only && t < w->window && t < w->pos0 + w->n_rows; t++)
        c->visible_pairs[w->lane] += (uint64_t)t + 1;
    lane_evict(w, &queue);
    for (int row = skip; row < w->n_rows; row++) {
        size_t ring = (size_t)((w->pos0 + row) % w->window);
        queue_row(&queue, row, 0, ring);
        c->ring_open[w->lane * (size_t)c->ring_len + ring] = w->a->open[(w->first + row) * c->n_kv_heads + w->head];
    }
    queue_flush(&queue);
    c->n_fed[w->lane] += w->n_rows;
}

void cpu_kv_append(struct device *dev, const struct kv_append_args *a) {
    int n_heads = a->cache->n_kv_heads, n_rows = a->batch.n_seq ? a->batch.row_splits[a->batch.n_seq] : 0;
    ASSERT(a->ld_kv >= (size_t)n_heads * (size_t)a->cache->head_dim);
    if (device_failed(dev))
        return;
    for (int i = 0; i < a->batch.n_seq * n_heads; i++) {
        struct lane_append w = lane_append_of(a, i / n_heads, i % n_heads);
        if (!lane_take_pages(dev, &w))
            return;
    }
#pragma omp parallel for num_threads(threads_for_bytes(dev, (size_t)(n_rows * n_heads) * 1024)) schedule(dynamic)
    for (int i = 0; i < a->batch.n_seq * n_heads; i++) {
        struct lane_append w = lane_append_of(a, i / n_heads, i % n_heads);
        lane_append(dev, &w);
    }
}

/* Keeps the long-term entries i with keep[i * stride] != 0 and those of positions below sinks, which come first, in their
 * order. Returns how many. */
static size_t lane_compact(struct kv_cache *c, size_t lane, size_t long0, const uint8_t *keep, size_t stride) {
    size_t slots = (size_t)c->page_slots, n_long = (size_t)c->n_long[lane], n = 0;
    size_t n_sinks = n_long - (size_t)c->n_kept[lane];
    int32_t *pos = c->long_pos ? c->long_pos + lane * (size_t)c->max_len : NULL;
    for (size_t from = 0; from < n_long; from++) {
        if (from >= n_sinks && !keep[from * stride])
            continue;
        if (n != from)
            page_copy_slot(page_shape_of(c), lane_page(c, lane, long0 + from / slots), from % slots,
                           lane_page(c, lane, long0 + n / slots), n % slots);
        if (pos)
            pos[n] = pos[from];
        n++;
    }
    return n;
}

/* Sets the counts of a lane whose long-term store shrank to n entries and gives back the pages behind them. */
static void lane_shrink(struct kv_cache *c, size_t lane, size_t long0, size_t n) {
    size_t slots = (size_t)c->page_slots, n_long = (size_t)c->n_long[lane];
    for (size_t i = long0 + (n + slots - 1) / slots; i < long0 + (n_long + slots - 1) / slots; i++) {
        int32_t *page = &c->page_list[lane * (size_t)c->list_len + i];
        c->free_pages[(*c->n_free)++] = *page;
        *page = -1;
    }
    c->n_kept[lane] -= (int32_t)(n_long - n);
    c->n_long[lane] = (int32_t)n;
}

/* Every position that has left the ring is in the long-term store: entry i is position i. */
void cpu_kv_prune(struct device *dev, struct kv_cache *c, int slot, int layer, const uint8_t *open) {
    if (device_failed(dev) || c->ring_only[layer])
        return;
    for (int head = 0; head < c->n_kv_heads; head++) {
        size_t lane = kv_lane(c, slot, layer, head), long0 = lane_long_page(c, layer, head);
        int window = c->window[layer * c->n_kv_heads + head], fed = c->n_fed[lane], n_long = fed > window ? fed - window : 0;
        ASSERT(c->n_long[lane] == n_long);
        lane_shrink(c, lane, long0, lane_compact(c, lane, long0, open + head, (size_t)c->n_kv_heads));
        for (int pos = n_long; pos < fed; pos++)
            c->ring_open[lane * (size_t)c->ring_len + (size_t)(pos % window)] = open[pos * c->n_kv_heads + head];
    }
}

void cpu_kv_evict(struct device *dev, struct kv_cache *c, int slot, int layer, const uint8_t *keep) {
    size_t first = kv_lane(c, slot, layer, 0), max_len = (size_t)c->max_len;
    size_t *n = device_scratch(dev, SCRATCH_ITEMS, (size_t)c->n_kv_heads * sizeof *n);
    if (!n || device_failed(dev) || c->ring_only[layer])
        return;
#pragma omp parallel for num_threads(dev->n_threads) schedule(dynamic)
    for (int head = 0; head < c->n_kv_heads; head++)
        n[head] = lane_compact(c, first + (size_t)head, lane_long_page(c, layer, head), keep + (size_t)head * max_len, 1);
    for (int head = 0; head < c->n_kv_heads; head++) /* the free list has one user at a time */
        lane_shrink(c, first + (size_t)head, lane_long_page(c, layer, head), n[head]);
}

void cpu_kv_reset(struct device *dev, struct kv_cache *c, int slot) {
    size_t first = kv_lane(c, slot, 0, 0), n = (size_t)c->n_layers * (size_t)c->n_kv_heads;
    if (device_failed(dev))
        return;
    for (size_t i = first * (size_t)c->list_len; i < (first + n) * (size_t)c->list_len; i++) {
        if (c->page_list[i] >= 0)
            c->free_pages[(*c->n_free)++] = c->page_list[i];
        c->page_list[i] = -1;
    }
    for (size_t lane = first; lane < first + n; lane++) {
        c->n_fed[lane] = c->n_long[lane] = c->n_kept[lane] = 0;
        c->visible_pairs[lane] = 0;
    }
}

void cpu_kv_copy(struct device *dev, struct kv_cache *c, int from, int to) {
    if (!device_failed(dev) && !kv_slot_copy(c, from, to))
        err_set(&dev->err, ERR_MEMORY, "KV cache", "no free page is left (kv_cache_copy() reserves them)");
}

void cpu_kv_read(struct device *dev, const struct kv_cache *c, int slot, int layer, int kv_head, const int32_t *index,
                 size_t n, float *k, float *v) {
    size_t lane = kv_lane(c, slot, layer, kv_head), slots = (size_t)c->page_slots, dim = (size_t)c->head_dim;
    int window = c->window[layer * c->n_kv_heads + kv_head];
    if (device_failed(dev))
        return;
    for (size_t i = 0; i < n; i++) {
        int fed = c->n_fed[lane], in_ring = fed < window ? fed : window, n_long = c->n_long[lane];
        ASSERT(index[i] >= 0 && index[i] < n_long + in_ring);
        size_t place = (size_t)index[i], page0 = lane_long_page(c, layer, kv_head);
        if (index[i] >= n_long) {
            place = (size_t)((fed - in_ring + index[i] - n_long) % window);
            page0 = 0;
        }
        page_read(page_shape_of(c), lane_page(c, lane, page0 + place / slots), place % slots, k + i * dim, v + i * dim);
    }
}
