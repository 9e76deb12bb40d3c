/* kv_cache.h - the geometry and bookkeeping of the paged, per-head ragged KV cache (method.md section 4).
 *
 * One cache serves `n_slots` sequences of one model. Every (slot, layer, KV head) - a "lane" - owns
 *   - a ring with the last `window` pairs: the pair of position p lies in ring slot p % window, together with its gate;
 *   - a long-term store: the pairs that left the ring with an open gate (and every pair of a position below `sinks`), in
 *     order of position. Write-time policies never remove them again; eviction policies do (ops->kv_evict).
 * Both live in pages of `page_slots` pairs taken from one pool. Ring pages are taken when first written, so a sequence
 * shorter than its window holds fewer of them. Pages of one lane are listed in `page_list`: ring pages first
 * (ceil(window / page_slots) places, -1 while not yet taken), then long-term pages.
 *
 * All arrays below are device memory, written by ops only. The host reads them through kv_cache_read_counts() and
 * kv_cache_check(), and grows the pool ahead of need with kv_cache_reserve().
 *
 * Layout of one page in the pool, element type `dtype`: page_slots x head_dim of K, then as many of V. The order of
 * elements inside each half belongs to the backend; ops->kv_read gives logical rows. */
#ifndef SPKV_KERNELS_KV_CACHE_H
#define SPKV_KERNELS_KV_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/dtype.h"

struct ops;
struct device;

enum { KV_PAGE_SLOTS = 64 }; /* default page size */

struct kv_cache_options {
    int n_slots, n_layers, n_kv_heads;
    int head_dim;         /* even for BF16: products of bf16 take pairs */
    int max_len;          /* longest sequence, tokens */
    int page_slots;       /* 0 = KV_PAGE_SLOTS; a multiple of 32 */
    const int *window;    /* (n_layers, n_kv_heads), each >= 1; copied, values above max_len as max_len (the same rule) */
    const bool *ring_only; /* (n_layers): the model's own sliding layers, nothing is kept and sinks do not act; copied */
    int sinks;            /* positions below it stay visible for ever */
    bool positions;       /* note the position of every long-term pair: eviction needs it */
    enum dtype dtype;     /* of the cached pairs: F32 or BF16 (F64 in the reference) */
};

struct kv_cache {
    const struct ops *ops; /* borrowed; outlive the cache */
    struct device *dev;
    int n_slots, n_layers, n_kv_heads, head_dim, max_len, page_slots, sinks;
    enum dtype dtype;
    size_t page_bytes;        /* 2 * page_slots * head_dim * element size */
    size_t n_pages_max;       /* address space reserved for the pool, pages */
    size_t n_pages;           /* usable pages; grows */
    size_t n_pages_peak;      /* the most pages that were held at once, as far as the host has looked */
    int list_len;             /* places per lane in page_list */
    int ring_len;             /* ring slots per lane in ring_open: the largest window */
    int *window_host;         /* (n_layers, n_kv_heads) */
    bool *ring_only_host;     /* (n_layers) */
    int32_t *counters_host;   /* where the block of n_free, n_fed, n_long and n_kept is downloaded to */

    /* Device memory. A lane's index is (slot * n_layers + layer) * n_kv_heads + kv_head. */
    void *pool;               /* pages; page p begins at p * page_bytes */
    int32_t *window;          /* (n_layers, n_kv_heads) */
    uint8_t *ring_only;       /* (n_layers) */
    int32_t *page_list;       /* (lane, list_len) page numbers, -1 = none */
    uint8_t *ring_open;       /* (lane, ring_len) gate of each ring slot */
    int32_t *n_fed;           /* (lane) tokens fed so far: the position of the next one */
    int32_t *n_long;          /* (lane) pairs in the long-term store, sinks included */
    int32_t *n_kept;          /* (lane) those of them with position >= sinks */
    uint64_t *visible_pairs;  /* (lane) query-key pairs attended since the slot was reset */
    int32_t *long_pos;        /* (lane, max_len) position of each long-term pair; NULL = not noted */
    int32_t *free_pages;      /* (n_pages_max) stack of free page numbers */
    int32_t *n_free;          /* (2) free pages; the fewest there were since the pool grew last */
};

/* What the host may want to know about one slot; arrays of (n_layers, n_kv_heads). Any may be NULL. */
struct kv_counts {
    uint32_t *n_kept;         /* pairs resident outside window and sinks */
    uint64_t *visible_pairs;
    size_t used_bytes;        /* occupied slots (ring + sinks + long-term) x 2 x head_dim x element size */
    size_t allocated_bytes;   /* pages held x page_bytes */
    size_t full_bytes;        /* all fed tokens of every head under the model's own pattern (rings for sliding layers) */
};

int kv_cache_create(const struct ops *ops, struct device *dev, const struct kv_cache_options *options,
                    struct kv_cache **out, struct err *err);
void kv_cache_free(struct kv_cache *cache);

/* Gives all pages of a slot back and zeroes its counters. */
void kv_cache_reset(struct kv_cache *cache, int slot);

/* An empty slot `to` becomes an equal of `from`: pairs, gates and counters. ERR_MEMORY when the device has no more pages. */
int kv_cache_copy(struct kv_cache *cache, int from, int to, struct err *err);

/* The kv_copy op of backends whose device memory the host may touch. False when the free list runs out. */
bool kv_slot_copy(struct kv_cache *cache, int from, int to);

/* Makes sure that feeding n_rows[i] more tokens to slot slots[i] cannot run out of pages: grows the pool by whole slabs
 * when the upper bound of pages needed passes what is free. ERR_MEMORY when the device has no more. */
int kv_cache_reserve(struct kv_cache *cache, int n_seq, const int *slots, const int *n_rows, struct err *err);

/* Waits for the device and reads the counters of a slot. */
int kv_cache_read_counts(struct kv_cache *cache, int slot, struct kv_counts *out, struct err *err);

/* Waits for the device and reads the positions of a lane's long-term pairs (max_len at most) and how many there are; only
 * with `positions`. */
int kv_cache_read_positions(struct kv_cache *cache, int slot, int layer, int kv_head, int32_t *pos, int *n, struct err *err);

/* The most bytes of pages that all slots together held, before every eviction too, until reserve or read_counts looked
 * last. */
size_t kv_cache_peak_bytes(const struct kv_cache *cache);

/* Checks every invariant: each page held once or free, lists as long as the counts say, n_kept + min(n_fed, sinks kept)
 * = n_long, counters in range. ERR_INPUT with the first violation; for tests and debug builds. */
int kv_cache_check(const struct kv_cache *cache, struct err *err);

static inline size_t kv_lane(const struct kv_cache *c, int slot, int layer, int kv_head) {
    return ((size_t)slot * (size_t)c->n_layers + (size_t)layer) * (size_t)c->n_kv_heads + (size_t)kv_head;
}

/* Places in page_list that belong to the ring of a lane with this window. */
static inline int kv_ring_pages(int window, int page_slots) {
    return (window + page_slots - 1) / page_slots;
}

#endif
