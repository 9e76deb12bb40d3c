/* The k best of a set of scores by radix selection: four passes over the bytes of the scores, the highest first, find the
 * k-th best, and one more marks what is better and as many equals as there is room for, in order. */
#include "kernels/cpu/device.h"
#include "kernels/cpu/vmath.h"

/* Integers in the order of scores: 0 for NaN, which is never chosen; the two zeros are equal. */
static inline uint32_t order_of(float score) {
    uint32_t bits = f32_bits(score + 0.0f);
    if (score != score)
        return 0;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* Counts the scores of a set whose bits under `mask` are `prefix` by their byte at `shift`; returns how many are numbers. */
static size_t count_bytes(const struct select_top_args *a, size_t set, uint32_t prefix, uint32_t mask, int shift,
                          size_t *count) {
    size_t n = 0;
    for (int byte = 0; byte < 256; byte++)
        count[byte] = 0;
    for (size_t lane = set * a->n_lanes; lane < (set + 1) * a->n_lanes; lane++)
        for (size_t i = 0; i < (size_t)a->n[lane]; i++) {
            uint32_t order = order_of(a->score[lane * a->stride + i]);
            n += order != 0;
            count[order >> shift & 255] += order != 0 && (order & mask) == prefix;
        }
    return n;
}

/* Marks scores better than `last`, and the first n_last of those equal to it. */
static void mark(const struct select_top_args *a, size_t set, uint32_t last, size_t n_last) {
    for (size_t lane = set * a->n_lanes; lane < (set + 1) * a->n_lanes; lane++)
        for (size_t i = 0; i < (size_t)a->n[lane]; i++) {
            uint32_t order = order_of(a->score[lane * a->stride + i]);
            bool tie = order == last && n_last > 0;
            a->keep[lane * a->stride + i] = order > last || tie;
            n_last -= tie;
        }
}

static void select_set(const struct select_top_args *a, size_t set) {
    size_t count[256], rank = a->k;
    uint32_t prefix = 0, mask = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        size_t n = count_bytes(a, set, prefix, mask, shift, count);
        uint32_t byte = 255;
        if (a->k == 0 || a->k >= n) { /* nothing, or every number */
            mark(a, set, a->k ? 0 : UINT32_MAX, 0);
            return;
        }
        for (; rank > count[byte]; byte--)
            rank -= count[byte];
        prefix |= byte << shift;
        mask |= 255u << shift;
    }
    mark(a, set, prefix, rank);
}

void cpu_select_top(struct device *dev, const struct select_top_args *a) {
    if (device_failed(dev))
        return;
#pragma omp parallel for num_threads(threads_for_bytes(dev, a->n_sets * a->n_lanes * a->stride * 4)) schedule(dynamic)
    for (size_t set = 0; set < a->n_sets; set++)
        select_set(a, set);
}
