#include "kernels/kv_cache.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/ops.h"

enum {
    SLAB_BYTES = 4 << 20, /* the pool grows by at least this much */
    COUNTER_PAD = 16,     /* n_free has a cache line of its own, the arrays behind it start on the next */
};

static const char WHERE[] = "KV cache";

static size_t ceil_div(size_t a, size_t b) {
    return a / b + (a % b != 0);
}

static size_t min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

static size_t n_heads_all(const struct kv_cache *c) {
    return (size_t)c->n_layers * (size_t)c->n_kv_heads;
}

static size_t n_lanes(const struct kv_cache *c) {
    return (size_t)c->n_slots * n_heads_all(c);
}

static size_t n_counters(const struct kv_cache *c) {
    return COUNTER_PAD + 3 * n_lanes(c);
}

/* The host copy of a counter array of the block that begins at n_free. */
static const int32_t *host_copy(const struct kv_cache *c, const int32_t *array_dev) {
    return c->counters_host + (array_dev - c->n_free);
}

/* ---- geometry -------------------------------------------------------------------------------------------------- */

static int options_check(const struct kv_cache_options *o, struct err *err) {
    if (o->n_slots < 1 || o->n_layers < 1 || o->n_kv_heads < 1 || o->head_dim < 1 || o->max_len < 1)
        return err_set(err, ERR_INPUT, WHERE, "%d slots, %d layers, %d KV heads, head_dim %d, max_len %d: each must be "
                       "at least 1", o->n_slots, o->n_layers, o->n_kv_heads, o->head_dim, o->max_len);
    if (o->page_slots < 0 || o->page_slots % 32)
        return err_set(err, ERR_INPUT, WHERE, "page size is %d slots, expected a multiple of 32", o->page_slots);
    if (o->dtype == DTYPE_BF16 && o->head_dim % 2)
        return err_set(err, ERR_INPUT, WHERE, "head_dim is %d, which bf16 cannot cache (use --dtype f32)", o->head_dim);
    if (o->sinks < 0)
        return err_set(err, ERR_INPUT, WHERE, "%d sinks, expected 0 or more", o->sinks);
    for (size_t i = 0; i < (size_t)o->n_layers * (size_t)o->n_kv_heads; i++)
        if (o->window[i] < 1)
            return err_set(err, ERR_INPUT, WHERE, "window of layer %zu, KV head %zu is %d, expected at least 1",
                           i / (size_t)o->n_kv_heads, i % (size_t)o->n_kv_heads, o->window[i]);
    return OK;
}

/* Most pages that a lane can hold: a full ring and every pair that left it. */
static size_t lane_pages_max(const struct kv_cache *c, size_t head) {
    size_t ring = (size_t)kv_ring_pages(c->window_host[head], c->page_slots);
    if (c->ring_only_host[head / (size_t)c->n_kv_heads])
        return ring;
    return ring + ceil_div((size_t)(c->max_len - c->window_host[head]), (size_t)c->page_slots);
}

/* Sizes that follow from the options; ERR_INPUT when they pass what page numbers or addresses can hold. */
static int geometry_derive(struct kv_cache *c, struct err *err) {
    size_t per_slot = 0, pool_bytes;
    for (size_t i = 0; i < n_heads_all(c); i++) {
        size_t pages = lane_pages_max(c, i);
        per_slot += pages;
        c->list_len = (int)pages > c->list_len ? (int)pages : c->list_len;
        c->ring_len = c->window_host[i] > c->ring_len ? c->window_host[i] : c->ring_len;
    }
    if (!size_mul((size_t)c->page_slots * 2 * dtype_size(c->dtype), (size_t)c->head_dim, &c->page_bytes) ||
        !size_mul(per_slot, (size_t)c->n_slots, &c->n_pages_max) || c->n_pages_max > INT32_MAX ||
        !size_mul(c->n_pages_max, c->page_bytes, &pool_bytes) || pool_bytes > SIZE_MAX / 2)
        return err_set(err, ERR_INPUT, WHERE, "%d sequences of %d tokens need more pages than can be numbered "
                       "(use a smaller batch or a smaller maximum length)", c->n_slots, c->max_len);
    return OK;
}

static int options_copy(struct kv_cache *c, const struct kv_cache_options *o, struct err *err) {
    c->n_slots = o->n_slots;
    c->n_layers = o->n_layers;
    c->n_kv_heads = o->n_kv_heads;
    c->head_dim = o->head_dim;
    c->max_len = o->max_len;
    c->page_slots = o->page_slots ? o->page_slots : KV_PAGE_SLOTS;
    c->sinks = o->sinks;
    c->dtype = o->dtype;
    c->window_host = mem_alloc(n_heads_all(c), sizeof *c->window_host, "the windows of a KV cache", err);
    c->ring_only_host = mem_alloc((size_t)c->n_layers, sizeof *c->ring_only_host, "the layers of a KV cache", err);
    if (!c->window_host || !c->ring_only_host)
        return ERR_MEMORY;
    for (size_t i = 0; i < n_heads_all(c); i++)
        c->window_host[i] = o->window[i] < o->max_len ? o->window[i] : o->max_len;
    for (int l = 0; l < c->n_layers; l++)
        c->ring_only_host[l] = o->ring_only[l];
    return OK;
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

/* Device memory of count * size bytes, every byte set to `byte`. */
static int device_array(struct kv_cache *c, size_t count, size_t size, int byte, void *out, struct err *err) {
    size_t n_bytes;
    void *memory;
    if (!size_mul(count, size, &n_bytes))
        return err_memory(err, "a KV cache", SIZE_MAX);
    memory = c->ops->mem_alloc(c->dev, n_bytes);
    if (!memory)
        return err_memory(err, "a KV cache", n_bytes);
    c->ops->fill(c->dev, memory, byte, n_bytes);
    memcpy(out, &memory, sizeof memory);
    return OK;
}

static int arrays_alloc(struct kv_cache *c, bool positions, struct err *err) {
    size_t lanes = n_lanes(c), list, ring, pairs;
    int rc;
    c->counters_host = mem_alloc(n_counters(c), sizeof *c->counters_host, "the counters of a KV cache", err);
    if (!c->counters_host)
        return ERR_MEMORY;
    if (!size_mul(lanes, (size_t)c->list_len, &list) || !size_mul(lanes, (size_t)c->ring_len, &ring) ||
        !size_mul(lanes, (size_t)c->max_len, &pairs))
        return err_memory(err, "a KV cache", SIZE_MAX);
    if ((rc = device_array(c, n_counters(c), 4, 0, &c->n_free, err)) ||
        (rc = device_array(c, lanes, 8, 0, &c->visible_pairs, err)) ||
        (rc = device_array(c, n_heads_all(c), 4, 0, &c->window, err)) ||
        (rc = device_array(c, (size_t)c->n_layers, 1, 0, &c->ring_only, err)) ||
        (rc = device_array(c, list, 4, 0xFF, &c->page_list, err)) ||
        (rc = device_array(c, ring, 1, 0, &c->ring_open, err)) ||
        (positions && (rc = device_array(c, pairs, 4, 0xFF, &c->long_pos, err))) ||
        (rc = device_array(c, c->n_pages_max, 4, 0xFF, &c->free_pages, err)))
        return rc;
    c->n_fed = c->n_free + COUNTER_PAD;
    c->n_long = c->n_fed + lanes;
    c->n_kept = c->n_long + lanes;
    c->ops->upload(c->dev, c->window, c->window_host, n_heads_all(c) * sizeof *c->window);
    c->ops->upload(c->dev, c->ring_only, c->ring_only_host, (size_t)c->n_layers);
    c->pool = c->ops->mem_reserve(c->dev, c->n_pages_max * c->page_bytes);
    return c->pool ? OK : err_memory(err, "the address space of a KV cache", c->n_pages_max * c->page_bytes);
}

int kv_cache_create(const struct ops *ops, struct device *dev, const struct kv_cache_options *options,
                    struct kv_cache **out, struct err *err) {
    int rc = options_check(options, err);
    if (rc)
        return rc;
    struct kv_cache *cache = mem_alloc(1, sizeof *cache, "a KV cache", err);
    if (!cache)
        return ERR_MEMORY;
    cache->ops = ops;
    cache->dev = dev;
    if ((rc = options_copy(cache, options, err)) || (rc = geometry_derive(cache, err)) ||
        (rc = arrays_alloc(cache, options->positions, err)) || (rc = ops->sync(dev, err)))
        goto out;
    *out = cache;
    cache = NULL;
out:
    kv_cache_free(cache);
    return rc;
}

void kv_cache_free(struct kv_cache *c) {
    if (!c)
        return;
    void *arrays[] = {c->n_free,    c->visible_pairs, c->window,     c->ring_only, c->page_list,
                      c->ring_open,  c->long_pos,      c->free_pages};
    if (c->pool)
        c->ops->mem_release(c->dev, c->pool, c->n_pages_max * c->page_bytes);
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        c->ops->mem_free(c->dev, arrays[i]);
    free(c->counters_host);
    free(c->ring_only_host);
    free(c->window_host);
    free(c);
}

void kv_cache_reset(struct kv_cache *cache, int slot) {
    ASSERT(slot >= 0 && slot < cache->n_slots);
    cache->ops->kv_reset(cache->dev, cache, slot);
}

/* Gives a lane without pages the pages of another, copied. */
static bool lane_copy_pages(struct kv_cache *c, size_t from, size_t to) {
    for (size_t i = 0; i < (size_t)c->list_len; i++) {
        int32_t source = c->page_list[from * (size_t)c->list_len + i];
        int32_t *page = &c->page_list[to * (size_t)c->list_len + i];
        ASSERT(*page < 0);
        if (source < 0)
            continue;
        if (*c->n_free == 0)
            return false;
        *page = c->free_pages[--*c->n_free];
        c->n_free[1] = *c->n_free < c->n_free[1] ? *c->n_free : c->n_free[1];
        memcpy((char *)c->pool + (size_t)*page * c->page_bytes, (const char *)c->pool + (size_t)source * c->page_bytes,
               c->page_bytes);
    }
    return true;
}

bool kv_slot_copy(struct kv_cache *c, int from, int to) {
    for (size_t head = 0; head < n_heads_all(c); head++) {
        size_t a = kv_lane(c, from, 0, 0) + head, b = kv_lane(c, to, 0, 0) + head, ring = (size_t)c->ring_len;
        ASSERT(a != b && c->n_fed[b] == 0);
        if (!lane_copy_pages(c, a, b))
            return false;
        memcpy(c->ring_open + b * ring, c->ring_open + a * ring, ring);
        if (c->long_pos)
            memcpy(c->long_pos + b * (size_t)c->max_len, c->long_pos + a * (size_t)c->max_len,
                   (size_t)c->n_long[a] * sizeof *c->long_pos);
        c->n_fed[b] = c->n_fed[a];
        c->n_long[b] = c->n_long[a];
        c->n_kept[b] = c->n_kept[a];
        c->visible_pairs[b] = c->visible_pairs[a];
    }
    return true;
}

/* ---- growth ---------------------------------------------------------------------------------------------------- */

/* Downloads the counters and updates the peak. */
static int counters_read(struct kv_cache *c, struct err *err) {
    c->ops->download(c->dev, c->counters_host, c->n_free, n_counters(c) * sizeof *c->counters_host);
    int rc = c->ops->sync(c->dev, err);
    if (rc)
        return rc;
    size_t held = c->n_pages - (size_t)c->counters_host[1];
    c->n_pages_peak = held > c->n_pages_peak ? held : c->n_pages_peak;
    return OK;
}

/* Pages that a lane must take at most when n more tokens are fed: the ring's share is exact, every pair that leaves
 * the ring counts as kept. */
static size_t lane_pages_wanted(const struct kv_cache *c, size_t lane, size_t n) {
    size_t head = lane % n_heads_all(c), window = (size_t)c->window_host[head], slots = (size_t)c->page_slots;
    size_t fed = (size_t)host_copy(c, c->n_fed)[lane], kept = (size_t)host_copy(c, c->n_long)[lane];
    size_t wanted = ceil_div(min_size(fed + n, window), slots) - ceil_div(min_size(fed, window), slots);
    size_t left_before = fed - min_size(fed, window), left_after = fed + n - min_size(fed + n, window);
    if (c->ring_only_host[head / (size_t)c->n_kv_heads])
        return wanted;
    return wanted + ceil_div(kept + left_after - left_before, slots) - ceil_div(kept, slots);
}

static int pool_grow(struct kv_cache *c, size_t n_free, size_t n_more, struct err *err) {
    size_t slab = SLAB_BYTES / c->page_bytes, n_new = n_more > slab ? n_more : slab;
    n_new = min_size(n_new, c->n_pages_max - c->n_pages);
    ASSERT(n_new >= n_more); /* n_pages_max is the worst case of all lanes */
    int32_t *numbers = mem_alloc(n_new, sizeof *numbers, "page numbers", err);
    if (!numbers)
        return ERR_MEMORY;
    for (size_t i = 0; i < n_new; i++) /* the lowest on top of the stack */
        numbers[i] = (int32_t)(c->n_pages + n_new - 1 - i);
    int32_t n_free_new[2] = {(int32_t)(n_free + n_new), (int32_t)(n_free + n_new)};
    int rc = OK;
    if (c->ops->mem_commit(c->dev, c->pool, (c->n_pages + n_new) * c->page_bytes)) {
        c->ops->upload(c->dev, c->free_pages + n_free, numbers, n_new * sizeof *numbers);
        c->ops->upload(c->dev, c->n_free, n_free_new, sizeof n_free_new);
        c->n_pages += n_new;
    } else {
        rc = err_set(err, ERR_MEMORY, WHERE, "the device has no room for %zu bytes of keys and values, %zu are in use "
                     "(use a smaller batch, a shorter maximum length or a sparser policy)",
                     n_new * c->page_bytes, c->n_pages * c->page_bytes);
    }
    free(numbers);
    return rc;
}

int kv_cache_reserve(struct kv_cache *cache, int n_seq, const int *slots, const int *n_rows, struct err *err) {
    size_t wanted = 0;
    int rc = counters_read(cache, err);
    if (rc)
        return rc;
    for (int i = 0; i < n_seq; i++) {
        ASSERT(slots[i] >= 0 && slots[i] < cache->n_slots && n_rows[i] >= 0);
        for (size_t head = 0; head < n_heads_all(cache); head++) {
            size_t lane = kv_lane(cache, slots[i], 0, 0) + head;
            int fed = host_copy(cache, cache->n_fed)[lane];
            if (n_rows[i] > cache->max_len - fed)
                return err_set(err, ERR_INPUT, WHERE, "%d tokens after %d pass the maximum length of %d tokens",
                               n_rows[i], fed, cache->max_len);
            wanted += lane_pages_wanted(cache, lane, (size_t)n_rows[i]);
        }
    }
    size_t n_free = (size_t)cache->counters_host[0];
    return wanted > n_free ? pool_grow(cache, n_free, wanted - n_free, err) : OK;
}

int kv_cache_copy(struct kv_cache *c, int from, int to, struct err *err) {
    size_t wanted = 0, slots = (size_t)c->page_slots;
    ASSERT(from != to && from >= 0 && from < c->n_slots && to >= 0 && to < c->n_slots);
    int rc = counters_read(c, err);
    if (rc)
        return rc;
    for (size_t head = 0; head < n_heads_all(c); head++) {
        size_t lane = kv_lane(c, from, 0, 0) + head, fed = (size_t)host_copy(c, c->n_fed)[lane];
        wanted += ceil_div(min_size(fed, (size_t)c->window_host[head]), slots) +
                  ceil_div((size_t)host_copy(c, c->n_long)[lane], slots);
    }
    size_t n_free = (size_t)c->counters_host[0];
    if (wanted > n_free && (rc = pool_grow(c, n_free, wanted - n_free, err)))
        return rc;
    c->ops->kv_copy(c->dev, c, from, to);
    return OK;
}

/* ---- figures --------------------------------------------------------------------------------------------------- */

int kv_cache_read_counts(struct kv_cache *c, int slot, struct kv_counts *out, struct err *err) {
    size_t first = kv_lane(c, slot, 0, 0), heads = n_heads_all(c), slots = (size_t)c->page_slots;
    size_t pair_bytes = 2 * (size_t)c->head_dim * dtype_size(c->dtype);
    ASSERT(slot >= 0 && slot < c->n_slots);
    if (out->visible_pairs)
        c->ops->download(c->dev, out->visible_pairs, c->visible_pairs + first, heads * sizeof *out->visible_pairs);
    int rc = counters_read(c, err);
    if (rc)
        return rc;
    out->used_bytes = out->allocated_bytes = out->full_bytes = 0;
    for (size_t head = 0; head < heads; head++) {
        size_t fed = (size_t)host_copy(c, c->n_fed)[first + head], kept = (size_t)host_copy(c, c->n_long)[first + head];
        size_t ring = min_size(fed, (size_t)c->window_host[head]);
        bool ring_only = c->ring_only_host[head / (size_t)c->n_kv_heads];
        if (out->n_kept)
            out->n_kept[head] = (uint32_t)host_copy(c, c->n_kept)[first + head];
        out->used_bytes += (ring + kept) * pair_bytes;
        out->allocated_bytes += (ceil_div(ring, slots) + ceil_div(kept, slots)) * c->page_bytes;
        out->full_bytes += (ring_only ? ring : fed) * pair_bytes;
    }
    return OK;
}

int kv_cache_read_positions(struct kv_cache *c, int slot, int layer, int kv_head, int32_t *pos, int *n, struct err *err) {
    size_t lane = kv_lane(c, slot, layer, kv_head);
    ASSERT(c->long_pos);
    int rc = counters_read(c, err);
    if (rc)
        return rc;
    *n = host_copy(c, c->n_long)[lane];
    c->ops->download(c->dev, pos, c->long_pos + lane * (size_t)c->max_len, (size_t)*n * sizeof *pos);
    return c->ops->sync(c->dev, err);
}

size_t kv_cache_peak_bytes(const struct kv_cache *cache) {
    return cache->n_pages_peak * cache->page_bytes;
}

/* ---- invariants ------------------------------------------------------------------------------------------------ */

/* Host copies of everything that the check looks at. */
struct snapshot {
    int32_t *counters, *page_list, *free_pages, *long_pos;
    uint8_t *ring_open, *page_seen;
    uint64_t *visible_pairs;
    const int32_t *n_fed, *n_long, *n_kept;
};

static void snapshot_free(struct snapshot *s) {
    free(s->counters);
    free(s->page_list);
    free(s->free_pages);
    free(s->long_pos);
    free(s->ring_open);
    free(s->page_seen);
    free(s->visible_pairs);
}

static int snapshot_take(const struct kv_cache *c, struct snapshot *s, struct err *err) {
    size_t lanes = n_lanes(c), list = lanes * (size_t)c->list_len, ring = lanes * (size_t)c->ring_len;
    s->counters = mem_alloc(n_counters(c), 4, "a copy of the counters", err);
    s->page_list = mem_alloc(list, 4, "a copy of the page lists", err);
    s->free_pages = mem_alloc(c->n_pages_max, 4, "a copy of the free pages", err);
    s->ring_open = mem_alloc(ring, 1, "a copy of the ring gates", err);
    s->visible_pairs = mem_alloc(lanes, 8, "a copy of the pair counts", err);
    s->page_seen = mem_alloc(c->n_pages, 1, "marks of pages", err);
    if (c->long_pos && !(s->long_pos = mem_alloc(lanes * (size_t)c->max_len, 4, "a copy of the positions", err)))
        return ERR_MEMORY;
    if (!s->counters || !s->page_list || !s->free_pages || !s->ring_open || !s->visible_pairs || !s->page_seen)
        return ERR_MEMORY;
    c->ops->download(c->dev, s->counters, c->n_free, n_counters(c) * 4);
    c->ops->download(c->dev, s->page_list, c->page_list, list * 4);
    c->ops->download(c->dev, s->free_pages, c->free_pages, c->n_pages_max * 4);
    c->ops->download(c->dev, s->ring_open, c->ring_open, ring);
    c->ops->download(c->dev, s->visible_pairs, c->visible_pairs, lanes * 8);
    if (c->long_pos)
        c->ops->download(c->dev, s->long_pos, c->long_pos, lanes * (size_t)c->max_len * 4);
    s->n_fed = s->counters + (c->n_fed - c->n_free);
    s->n_long = s->counters + (c->n_long - c->n_free);
    s->n_kept = s->counters + (c->n_kept - c->n_free);
    return c->ops->sync(c->dev, err);
}

/* Marks a page; false when its number is out of range or it was seen before. */
static bool page_mark(const struct kv_cache *c, struct snapshot *s, int32_t page) {
    if (page < 0 || (size_t)page >= c->n_pages || s->page_seen[page])
        return false;
    s->page_seen[page] = 1;
    return true;
}

/* The counters of one lane against each other (method.md section 5). */
static const char *check_counters(const struct kv_cache *c, const struct snapshot *s, size_t lane) {
    size_t head = lane % n_heads_all(c);
    bool ring_only = c->ring_only_host[head / (size_t)c->n_kv_heads];
    int64_t fed = s->n_fed[lane], kept = s->n_kept[lane], window = c->window_host[head];
    int64_t left = fed > window ? fed - window : 0, in_band = fed < window ? fed : window;
    int64_t sinks = ring_only ? 0 : left < c->sinks ? left : c->sinks;
    uint64_t band = (uint64_t)(in_band * (in_band + 1) / 2 + left * window), causal = (uint64_t)(fed * (fed + 1) / 2);
    if (fed < 0 || fed > c->max_len)
        return "n_fed is out of range";
    if (fed != s->n_fed[lane - lane % (size_t)c->n_kv_heads])
        return "the heads of a layer were fed differently";
    if (kept < 0 || kept > left - sinks || (ring_only && kept))
        return "n_kept is out of range";
    if (s->n_long[lane] != kept + sinks)
        return "n_long is not n_kept plus the sinks that left the ring";
    if (ring_only ? s->visible_pairs[lane] != 0 : s->visible_pairs[lane] < band || s->visible_pairs[lane] > causal)
        return "visible_pairs is out of range";
    for (int64_t i = 0; i < in_band; i++)
        if (s->ring_open[lane * (size_t)c->ring_len + (size_t)i] > 1)
            return "a gate in the ring is neither 0 nor 1";
    return NULL;
}

/* Positions of long-term pairs, where noted: ascending, none in the ring, sinks first and all of them. */
static const char *check_positions(const struct kv_cache *c, const struct snapshot *s, size_t lane) {
    const int32_t *pos = s->long_pos + lane * (size_t)c->max_len;
    int32_t sinks = s->n_long[lane] - s->n_kept[lane], left = s->n_fed[lane] - c->window_host[lane % n_heads_all(c)];
    for (int32_t i = 0; s->long_pos && i < s->n_long[lane]; i++)
        if (pos[i] >= left || (i < sinks ? pos[i] != i : pos[i] < c->sinks) || (i > 0 && pos[i] <= pos[i - 1]))
            return "the position of a long-term pair is out of order";
    return NULL;
}

/* The page list of one lane against its counters. */
static const char *check_pages(const struct kv_cache *c, struct snapshot *s, size_t lane) {
    size_t window = (size_t)c->window_host[lane % n_heads_all(c)], slots = (size_t)c->page_slots;
    size_t ring_places = (size_t)kv_ring_pages((int)window, c->page_slots);
    size_t ring = ceil_div(min_size((size_t)s->n_fed[lane], window), slots);
    size_t kept = ceil_div((size_t)s->n_long[lane], slots);
    for (size_t place = 0; place < (size_t)c->list_len; place++) {
        int32_t page = s->page_list[lane * (size_t)c->list_len + place];
        bool held = place < ring_places ? place < ring : place - ring_places < kept;
        if (held && page == -1)
            return "a page is missing from the list";
        if (!held && page != -1)
            return "the list holds a page that no counter asks for";
        if (held && !page_mark(c, s, page))
            return "a page number is out of range or held twice";
    }
    return NULL;
}

static const char *check_free_list(const struct kv_cache *c, struct snapshot *s) {
    int32_t n_free = s->counters[0], fewest = s->counters[1];
    if (c->n_pages > c->n_pages_max || n_free < 0 || (size_t)n_free > c->n_pages)
        return "the number of free pages is out of range";
    for (int32_t i = 0; i < n_free; i++)
        if (!page_mark(c, s, s->free_pages[i]))
            return "a free page is out of range, listed twice or held by a lane";
    for (size_t page = 0; page < c->n_pages; page++)
        if (!s->page_seen[page])
            return "a page is neither held nor free";
    return fewest < 0 || fewest > n_free ? "the fewest free pages are more than there are" : NULL;
}

int kv_cache_check(const struct kv_cache *cache, struct err *err) {
    struct snapshot s = {0};
    const char *problem = NULL;
    size_t lane = 0, heads = n_heads_all(cache);
    int rc = snapshot_take(cache, &s, err);
    if (rc)
        goto out;
    for (; lane < n_lanes(cache); lane++)
        if ((problem = check_counters(cache, &s, lane)) || (problem = check_pages(cache, &s, lane)) ||
            (problem = check_positions(cache, &s, lane))) {
            rc = err_set(err, ERR_INPUT, WHERE, "slot %zu, layer %zu, KV head %zu (n_fed %d, n_long %d, n_kept %d): %s",
                         lane / heads, lane % heads / (size_t)cache->n_kv_heads, lane % (size_t)cache->n_kv_heads,
                         s.n_fed[lane], s.n_long[lane], s.n_kept[lane], problem);
            goto out;
        }
    if ((problem = check_free_list(cache, &s)))
        rc = err_set(err, ERR_INPUT, WHERE, "%s", problem);
out:
    snapshot_free(&s);
    return rc;
}
