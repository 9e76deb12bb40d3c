#include "kernels/cpu/page.h"

#include "kernels/cpu/amx.h"
#include "kernels/cpu/device.h"
#include "kernels/cpu/vmath.h"

static void write_one(struct page_shape s, char *page, size_t slot, const float *k, const float *v) {
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

#if ISA_X86
enum { BLOCK = 16 }; /* slots written together */

/* 32 dimensions of 16 keys: rounded, then pairs of dimensions become rows of slots. */
static INLINE TARGET_AMX void write_k_block(const float *const *k, size_t d, uint32_t *out, size_t slots) {
    char rows[BLOCK * 64] __attribute__((aligned(64)));
    for (size_t i = 0; i < BLOCK; i++)
        _mm512_store_si512((void *)(rows + i * 64), (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(k[i] + d + 16),
                                                                                 _mm512_loadu_ps(k[i] + d)));
    for (size_t quarter = 0; quarter < 4; quarter++) {
        __m512 column[4];
        transpose_quarter(rows, 64, quarter, column);
        for (size_t i = 0; i < 4; i++)
            _mm512_storeu_ps(out + (quarter * 4 + i) * slots, column[i]);
    }
}

/* 16 dimensions of two values, alternating. */
static INLINE TARGET_AMX void write_v_pair(const float *v0, const float *v1, uint16_t *out) {
    const __m512i alternate = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                               21,
                                               5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(v1), _mm512_loadu_ps(v0));
    _mm512_storeu_si512((void *)out, _mm512_permutexvar_epi16(alternate, both));
}

static TARGET_AMX void write_block(struct page_shape s, char *page, size_t slot, const float *const *k,
                                   const float *const *v) {
    uint16_t *half = (uint16_t *)(void *)page;
    s.dtype = DTYPE_BF16;
    for (size_t d = 0; d < s.head_dim; d += 32)
        write_k_block(k, d, (uint32_t *)(void *)(half + page_k_index(s, slot, d)), s.slots);
    for (size_t i = 0; i < BLOCK; i += 2)
        for (size_t d = 0; d < s.head_dim; d += 16)
            write_v_pair(v[i] + d, v[i + 1] + d, half + page_v_index(s, slot + i, d));
}
#endif

void page_write(const struct device *dev, struct page_shape s, char *page, size_t slot, size_t n, const float *const *k,
                const float *const *v) {
    (void)dev; /* where there is one way to write */
    for (size_t i = 0; i < n;) {
#if ISA_X86
        if (dev->dtype == DTYPE_BF16 && s.head_dim % 32 == 0 && n - i >= BLOCK && (slot + i) % 2 == 0) {
            write_block(s, page, slot + i, k + i, v + i);
            i += BLOCK;
            continue;
        }
#endif
        write_one(s, page, slot + i, k[i], v[i]);
        i++;
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
