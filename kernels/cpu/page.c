#include "kernels/cpu/page.h"

#include "kernels/cpu/vmath.h"

void page_write(struct page_shape s, char *page, size_t slot, const float *k, const float *v) {
    uint16_t *half = (uint16_t *)(void *)page;
    float *wide = (float *)(void *)page;
    if (s.dtype == DTYPE_F32) {
        for (size_t d = 0; d < s.head_dim; d++) {
            wide[page_k_index(s, slot, d)] = k[d];
            wide[page_v_index(s, slot, d)] = v[d];
        }
    } else {
        s.dtype = DTYPE_BF16;
        for (size_t d = 0; d < s.head_dim; d++) {
            half[page_k_index(s, slot, d)] = bf16_round(k[d]);
            half[page_v_index(s, slot, d)] = bf16_round(v[d]);
        }
    }
}

void page_read(struct page_shape s, const char *page, size_t slot, float *k, float *v) {
    for (size_t d = 0; d < s.head_dim; d++) {
        k[d] = (float)dtype_load(page, s.dtype, page_k_index(s, slot, d));
        v[d] = (float)dtype_load(page, s.dtype, page_v_index(s, slot, d));
    }
}

/* One element: a pair of dimensions of a bf16 key is copied at once. */
static INLINE void copy_k_bf16(struct page_shape s, const char *from, size_t from_slot, char *to, size_t to_slot) {
    const uint32_t *source = (const uint32_t *)(const void *)from + from_slot;
    uint32_t *target = (uint32_t *)(void *)to + to_slot;
    for (size_t d = 0; d < s.head_dim / 2; d++)
        target[d * s.slots] = source[d * s.slots];
}

void page_copy_slot(struct page_shape s, const char *from, size_t from_slot, char *to, size_t to_slot) {
    if (s.dtype == DTYPE_F32) {
        const float *source = (const float *)(const void *)from;
        float *target = (float *)(void *)to;
        for (size_t d = 0; d < s.head_dim; d++) {
            target[page_k_index(s, to_slot, d)] = source[page_k_index(s, from_slot, d)];
            target[page_v_index(s, to_slot, d)] = source[page_v_index(s, from_slot, d)];
        }
    } else {
        const uint16_t *source = (const uint16_t *)(const void *)from;
        uint16_t *target = (uint16_t *)(void *)to;
        s.dtype = DTYPE_BF16;
        copy_k_bf16(s, from, from_slot, to, to_slot);
        for (size_t d = 0; d < s.head_dim; d++)
            target[page_v_index(s, to_slot, d)] = source[page_v_index(s, from_slot, d)];
    }
}
