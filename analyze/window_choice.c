#include "analyze/window_choice.h"

#include <stdlib.h>

#include "base/mem.h"

/* Mass of some heads of one layer. */
struct mass {
    const double *distance; /* (n_heads, n_bins), the first head's */
    size_t n_heads, n_bins;
    double total, far_sinks; /* all of it; on sinks beyond the run's window */
};

static double mass_within(const struct mass *m, size_t n_bins) {
    double sum = 0;
    for (size_t head = 0; head < m->n_heads; head++)
        for (size_t bin = 0; bin < n_bins; bin++)
            sum += m->distance[head * m->n_bins + bin];
    return sum;
}

/* Bins that lie within a window as a whole. */
static size_t bins_within(const struct profile_meta *meta, uint32_t window) {
    size_t bin = 0;
    while (bin + 1 < meta->n_distance_edges && meta->distance_edges[bin + 1] <= window)
        bin++;
    return bin;
}

static struct mass mass_of(const struct profile_meta *meta, const struct statistics *s, const double *distance, size_t first,
                           size_t n, bool with_sinks) {
    size_t n_bins = meta->n_distance_edges - 1;
    struct mass m = {.distance = distance + first * n_bins, .n_heads = n, .n_bins = n_bins};
    double far = 0;
    m.total = mass_within(&m, n_bins);
    for (size_t head = first; head < first + n; head++)
        far += s->heads[head].far_sum;
    double beyond = m.total - mass_within(&m, bins_within(meta, meta->window)) - far;
    m.far_sinks = with_sinks && meta->sinks > 0 && beyond > 0 ? beyond : 0;
    return m;
}

/* Rounding of the sums (multiples of 2^-20 a head and sequence) is not allowed to cost another bin. */
static uint32_t shortest(const struct profile_meta *meta, const struct mass *m, double share) {
    size_t bin = 1;
    double wanted = share * m->total * (1 - 1e-9);
    while (bin < m->n_bins && mass_within(m, bin) + m->far_sinks < wanted)
        bin++;
    return meta->distance_edges[bin];
}

int window_choose(struct profile *profile, const struct statistics *s, double share, enum window_scope scope,
                  bool with_sinks, uint32_t **out, struct err *err) {
    const struct profile_meta *meta = profile_meta(profile);
    size_t n_bins, kv = s->n_kv_heads, step = scope == WINDOW_PER_HEAD ? 1 : kv;
    double *distance = NULL;
    *out = NULL;
    if (!profile_has(profile, PROFILE_ATTENTION_DISTANCE))
        return err_set(err, ERR_INPUT, profile_path(profile), "has no attention_distance, which windows are chosen from: "
                       "profile the dense model with --policy full --record attention");
    int rc = profile_read_bins(profile, PROFILE_ATTENTION_DISTANCE, -1, &distance, &n_bins, err);
    if (rc == OK && !(*out = mem_alloc(s->n_layers * kv, sizeof **out, "windows", err)))
        rc = ERR_MEMORY;
    for (size_t first = 0; rc == OK && first < s->n_layers * kv; first += step) {
        uint32_t own = meta->sliding_window[first / kv], window = own;
        struct mass m = mass_of(meta, s, distance, first, step, with_sinks);
        if (own == 0)
            window = m.total > 0 ? shortest(meta, &m, share) : meta->window;
        window = window < s->longest || own ? window : s->longest;
        for (size_t i = 0; i < step; i++)
            (*out)[first + i] = window ? window : 1;
    }
    free(distance);
    return rc;
}
