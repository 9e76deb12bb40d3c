/* bins.h - the bins of scores and positions. Filling them costs a few instructions per score and no branch. Internal to
 * analyze/. */
#ifndef SPKV_ANALYZE_BINS_H
#define SPKV_ANALYZE_BINS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SCORE_MAX_EDGES = 72, /* bins + 1 */
    SCORE_CELLS = 1024,   /* equal cells of the table that a score is looked up in */
    SCORE_STEPS = 4,      /* edges that may lie inside a cell and the one before it */
};

/* Bin i holds edge[i] <= x < edge[i + 1]; the last one is closed. A sigmoid score has 64 bins on [0, 1], denser near both
 * ends, with all multiples of 0.02 from 0.02 to 0.98 among the edges, so that the share of gates above the usual thresholds
 * can be read off. A real score has 64 equal bins between min and max (both 0: -16 and 16), one below and one above. */
struct score_bins {
    size_t n_bins;
    float edge[SCORE_MAX_EDGES];               /* n_bins + 1 edges */
    float step[SCORE_MAX_EDGES + SCORE_STEPS]; /* the same, but NaN from n_bins on: no score passes the last bin */
    float low, high, scale;                    /* cell of x = (clamp(x) - low) * scale */
    uint8_t first[SCORE_CELLS + 1];            /* lowest bin that reaches into a cell */
};

void score_bins_init(struct score_bins *bins, bool sigmoid, double min, double max);

/* The bin of a score; NaN falls into the first one. */
static inline size_t score_bin(const struct score_bins *bins, float x) {
    float clamped = x > bins->low ? x : bins->low; /* false for NaN */
    clamped = clamped < bins->high ? clamped : bins->high;
    size_t bin = bins->first[(size_t)((clamped - bins->low) * bins->scale)];
    const float *step = bins->step + bin;
    for (int i = 1; i <= SCORE_STEPS; i++)
        bin += x >= step[i];
    return bin;
}

/* Bins 0, 1, 2-3, 4-7, ... of a position in its sequence. */
static inline size_t position_bin(uint32_t position) {
    return position == 0 ? 0 : (size_t)(32 - __builtin_clz(position));
}

/* First position of a bin: 0, 1, 2, 4, ... (bin <= 32). */
static inline uint64_t position_edge(size_t bin) {
    return bin == 0 ? 0 : (uint64_t)1 << (bin - 1);
}

#endif
