#include "analyze/bins.h"

#include <math.h>

/* Edges below 0.02 and, mirrored, above 0.98. */
static const double tail[] = {0, 1e-6, 1e-5, 1e-4, 1e-3, 2e-3, 5e-3, 1e-2};
enum { N_TAIL = sizeof tail / sizeof *tail };

static size_t sigmoid_edges(float *edge) {
    size_t n = 0;
    for (int i = 0; i < N_TAIL; i++)
        edge[n++] = (float)tail[i];
    for (int i = 1; i <= 49; i++)
        edge[n++] = (float)(i / 50.0);
    for (int i = N_TAIL - 1; i >= 0; i--)
        edge[n++] = (float)(1 - tail[i]);
    return n;
}

static size_t real_edges(float *edge, double min, double max) {
    size_t n = 0;
    edge[n++] = -INFINITY;
    for (int i = 0; i <= 64; i++)
        edge[n++] = (float)(min + (max - min) * i / 64);
    edge[n++] = INFINITY;
    return n;
}

void score_bins_init(struct score_bins *bins, bool sigmoid, double min, double max) {
    bool usual = sigmoid || (min == 0 && max == 0);
    bins->low = (float)(sigmoid ? 0 : usual ? -16 : min);
    bins->high = (float)(sigmoid ? 1 : usual ? 16 : max);
    size_t n = sigmoid ? sigmoid_edges(bins->edge) : real_edges(bins->edge, bins->low, bins->high);
    bins->n_bins = n - 1;
    bins->scale = SCORE_CELLS / (bins->high - bins->low);
    for (size_t i = 0; i < SCORE_MAX_EDGES + SCORE_STEPS; i++)
        bins->step[i] = i < bins->n_bins ? bins->edge[i] : NAN;
    size_t bin = 0;
    for (size_t cell = 0; cell <= SCORE_CELLS; cell++) {
        /* Rounding may put a score one cell too high: start a whole cell earlier. Below the range all is possible. */
        float start = cell < 2 ? -INFINITY : bins->low + (float)(cell - 1) / bins->scale;
        while (bin + 1 < bins->n_bins && bins->edge[bin + 1] <= start)
            bin++;
        bins->first[cell] = (uint8_t)bin;
    }
}
