/* attend_seq.h - the keys of packed sequences as the blocks of attend_seq and of its gradient read them. Internal to
 * kernels/cpu/.
 *
 * A lane is one KV head of one sequence. Its keys stand in at most two sets: those that the window shows, and the listed
 * ones outside of it (open gates and sinks), gathered, so that closed keys cost nothing. Where every key is listed, one set
 * serves both. A block is a run of queries times the query heads of the group; it meets a set in steps of keys. */
#ifndef SPKV_KERNELS_CPU_ATTEND_SEQ_H
#define SPKV_KERNELS_CPU_ATTEND_SEQ_H

#include <math.h>

#include "kernels/cpu/device.h"
#include "kernels/cpu/tile.h"
#include "kernels/cpu/vmath.h"
#include "kernels/train_ops.h"

enum {
    BLOCK_ROWS = 48, /* queries x heads of a group */
    STEP_KEYS = 64
};

enum key_side { KEYS_NEAR, KEYS_FAR, KEYS_ALL };

/* Which copies of the keys a pass needs. */
struct key_copies {
    bool k_rows, v_rows, k_lanes, v_lanes;
};

struct key_set {
    enum key_side side;
    size_t n;                 /* keys by rising position; memory is padded with zeros to whole panels */
    const int32_t *position;  /* (n), or NULL: 0 .. n-1 */
    float *k, *v;             /* NULL or (n, dim) */
    float *k_lanes, *v_lanes; /* NULL or (panels, dim, PANEL) */
    float *gate;              /* (n) added to the logits of far queries: log_gate, 0 for sinks */
};

struct seq_lane {
    size_t first_row, len, kv_head;
    int window;
    int32_t *position; /* (len) of listed keys */
    int32_t *before;   /* (len + 1) number of listed keys with a lower position */
    int n_sets;
    struct key_set set[2];
};

struct seq_run {
    const struct device *dev;
    const struct attend_seq_args *a;
    size_t group, dim;    /* query heads per KV head; head_dim padded to whole panels */
    size_t block_queries;
    size_t n_lanes;
    struct seq_lane *lanes; /* (n_lanes), KV heads of a sequence side by side */
};

/* Lists and packs the keys into scratch (SCRATCH_LANES, SCRATCH_KEYS); false and a failed device without memory. */
bool seq_run_make(struct device *dev, const struct attend_seq_args *a, struct key_copies copies, struct seq_run *run);

/* The keys of a set that a query sees; the gate counts for those below far_end, which is at most `end`. */
struct key_span {
    size_t begin, end, far_end;
};

static inline struct key_span key_span(const struct seq_lane *lane, const struct key_set *set, size_t t) {
    size_t window = (size_t)lane->window, far = t + 1 > window ? t + 1 - window : 0, n_listed = (size_t)lane->before[far];
    if (set->side == KEYS_FAR)
        return (struct key_span){0, n_listed, n_listed};
    return set->side == KEYS_NEAR ? (struct key_span){far, t + 1, 0} : (struct key_span){0, t + 1, far};
}

/* The panels of a set that queries begin .. end-1 see, as keys. */
static inline struct range key_range(const struct seq_lane *lane, const struct key_set *set, struct range queries) {
    return (struct range){key_span(lane, set, queries.begin).begin / PANEL * PANEL,
                          panels_of(key_span(lane, set, queries.end - 1).end) * PANEL};
}

/* The same span among keys at .. at + n - 1, counted from `at`. */
static inline struct key_span step_span(struct key_span span, size_t at, size_t n) {
    size_t begin = span.begin > at ? span.begin - at : 0, end = span.end > at ? span.end - at : 0;
    size_t far_end = span.far_end > at ? span.far_end - at : 0;
    return (struct key_span){begin < n ? begin : n, end < n ? end : n, far_end < n ? far_end : n};
}

/* x (n) = value outside the span */
static INLINE void step_mask(float *x, struct key_span span, size_t n, float value) {
    for (size_t j = 0; j < span.begin; j++)
        x[j] = value;
    for (size_t j = span.end; j < n; j++)
        x[j] = value;
}

/* rows (n_rows, dim) = scale * the heads of a block from a matrix of ld columns, zero-padded. */
void seq_block_load(const struct seq_run *run, const struct seq_lane *lane, struct range queries, const float *from,
                    size_t ld, float scale, float *rows);
/* ... and back, each row times its own factor. */
void seq_block_store(const struct seq_run *run, const struct seq_lane *lane, struct range queries, const float *rows,
                     const float *factor, float *to, size_t ld);
/* Products of a block with n keys of a set from key `at`: out (n_rows, STEP_KEYS) = rows lanes^T. */
void seq_block_dots(const struct seq_run *run, const float *rows, size_t n_rows, const float *lanes, size_t at, size_t n,
                    float *out);
/* out (n_rows, dim) += weights (n_rows, STEP_KEYS) times n rows of keys from key `at` */
void seq_block_sums(const struct seq_run *run, const float *weights, size_t n_rows, const float *keys, size_t at, size_t n,
                    float *out);

#endif
