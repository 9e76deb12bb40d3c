/* page.h - the order of elements in a page of this backend, and where the pairs of a lane lie.
 *
 * Keys stand dimension by dimension, so that one query times many keys is a sum over dimensions without horizontal adds;
 * values stand slot by slot, so that a weighted sum of them is the same over slots. In bf16 both are taken two at a time,
 * because bf16 instructions multiply pairs: dimensions 2i, 2i+1 of a key, slots 2j, 2j+1 of a value are neighbours.
 *
 *   f32   K[head_dim][slots]          V[slots][head_dim]
 *   bf16  K[head_dim / 2][slots][2]   V[slots / 2][head_dim][2]
 *
 * These are the B operands of AMX tiles for q K^T and p V as they lie. Slots not yet written are zero. */
#ifndef SPKV_KERNELS_CPU_PAGE_H
#define SPKV_KERNELS_CPU_PAGE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/cpu/isa.h"
#include "kernels/kv_cache.h"

struct device;

struct page_shape {
    enum dtype dtype;
    size_t slots, head_dim;
};

static inline struct page_shape page_shape_of(const struct kv_cache *c) {
    return (struct page_shape){c->dtype, (size_t)c->page_slots, (size_t)c->head_dim};
}

static INLINE size_t page_k_index(struct page_shape s, size_t slot, size_t d) {
    return s.dtype == DTYPE_F32 ? d * s.slots + slot : (d / 2 * s.slots + slot) * 2 + d % 2;
}

/* Counted from the beginning of the page. */
static INLINE size_t page_v_index(struct page_shape s, size_t slot, size_t d) {
    size_t k = s.slots * s.head_dim;
    return s.dtype == DTYPE_F32 ? k + slot * s.head_dim + d : k + (slot / 2 * s.head_dim + d) * 2 + slot % 2;
}

/* Page number `index` of the lane's list; ring pages come first, then long-term ones. */
static inline char *lane_page(const struct kv_cache *c, size_t lane, size_t index) {
    return (char *)c->pool + (size_t)c->page_list[lane * (size_t)c->list_len + index] * c->page_bytes;
}

/* First page of the long-term store in the lane's list. */
static inline size_t lane_long_page(const struct kv_cache *c, int layer, int kv_head) {
    return (size_t)kv_ring_pages(c->window[layer * c->n_kv_heads + kv_head], c->page_slots);
}

/* Rounds n pairs to the page's dtype and writes them to slots slot .. slot + n - 1; k[i] and v[i] (head_dim) f32. */
void page_write(const struct device *dev, struct page_shape s, char *page, size_t slot, size_t n, const float *const *k,
                const float *const *v);
/* The reverse for one pair, widened. */
void page_read(struct page_shape s, const char *page, size_t slot, float *k, float *v);
void page_copy_slot(struct page_shape s, const char *from, size_t from_slot, char *to, size_t to_slot);

#endif
