/* attend.h - what the attention kernels share: the keys that a run of rows may see, cut into groups, and the rows of one
 * work item with their running softmax. Internal to kernels/cpu/.
 *
 * A run is the rows of one sequence in one KV head. Its keys lie in three places: long-term pages, ring pages and the
 * step's own rows, which are brought into page layout first. All three are read as groups of 32 slots, and which of the 32 a
 * query may see is a bit mask. A work item is a block of the run's (query, head) rows times a range of groups; where a
 * range is only a part of the keys, the parts are joined afterwards in the order of keys, so that results do not depend
 * on which thread did what. */
#ifndef SPKV_KERNELS_CPU_ATTEND_H
#define SPKV_KERNELS_CPU_ATTEND_H

#include "kernels/cpu/device.h"
#include "kernels/cpu/page.h"

enum {
    GROUP_KEYS = 32,  /* pages are multiples of it */
    STEP_GROUPS = 4,  /* groups per step of the running softmax */
    STEP_KEYS = STEP_GROUPS * GROUP_KEYS,
    TILE_ROWS = 16,   /* rows per AMX tile */
    BLOCK_ROWS = 128, /* rows of a work item, unless one query has more heads than that */
    /* Groups of a work item when the run has one block of rows: few runs are cut finer, to keep all threads busy. */
    FEW_RUNS = 16,
    SPLIT_GROUPS_FEW = 16,
    SPLIT_GROUPS_MANY = 64,
};

struct attend_run {
    const struct attend_args *a;
    struct page_shape shape;
    size_t lane;
    int head, window, sinks, pos0, first, n_rows, n_long, n_ring;
    bool ring_only;
    const char *fresh;          /* the rows' own pairs as pages, NULL for a run of one row */
    const uint32_t *fresh_open; /* bit per row */
    size_t n_long_groups, n_ring_groups, n_groups;
};

/* 32 neighbouring slots, the index-th of the run. Slot i holds position base + i below `split`, base_wrapped + i from there
 * on; in long-term groups positions mean nothing. */
struct key_group {
    const char *k, *v;
    uint32_t index;
    int base, base_wrapped, split;
    uint32_t valid;  /* slots that hold a pair */
    uint32_t always; /* visible outside the window too: gate open, sink, or long-term */
};

/* The rows of a work item: row r is query first_query + r / heads, head r % heads of the group. */
struct attend_rows {
    size_t n, n_tiles, heads, head_dim;
    int first_query; /* row of the run */
    void *q;         /* (n_tiles * 16, head_dim) act, rows >= n are zero */
    float *out;      /* (n_tiles * 16, head_dim) f32, sum of p v so far */
    float *max, *sum; /* (n_tiles * 16) of the logits, of p */
    float *logit;    /* (16, STEP_KEYS) */
    uint16_t *p;     /* (16, STEP_KEYS) bf16; AMX only */
    struct attend_record *records; /* (steps of groups, n_tiles), or NULL */
    int column_from; /* records are made of tiles with a query from this position on */
};

/* The weights of a tile of rows over the groups of one step, for sums by key. */
struct attend_record {
    size_t n_groups; /* 0: nothing seen, nothing else filled in */
    struct key_group groups[STEP_GROUPS];
    float max[TILE_ROWS];           /* weights are relative to it */
    float weight[TILE_ROWS * STEP_KEYS];
};

struct attend_run attend_run_of(const struct attend_args *a, int seq, int head);
struct key_group attend_group(const struct attend_run *run, size_t index);

/* Work items of an op over all runs of a step. */
struct item {
    uint32_t run;         /* index of (sequence, KV head) */
    int query, n_queries; /* rows of the run */
    uint32_t begin, end;  /* groups */
    uint32_t part;        /* which result it writes, or NO_PART when it has all keys of its rows */
};

enum { NO_PART = UINT32_MAX };

struct plan {
    const struct attend_args *a;
    struct attend_run *runs;
    struct item *items;
    size_t n_runs, n_items, n_parts, heads, max_rows, rows_bytes;
};

/* Makes runs, fresh pages and items in scratch (ROWS, KEYS, ITEMS); false and sticky error when memory ends or there is
 * nothing to do. Items of one run follow one another, its parts in order of keys. `split`: runs of one block may be cut. */
bool attend_plan(struct device *dev, const struct attend_args *a, bool split, struct plan *plan);
/* The rows of an item in `memory` (plan->rows_bytes): queries filled in, nothing seen yet. */
struct attend_rows attend_rows_start(const struct device *dev, const struct plan *plan, const struct item *item,
                                     char *memory);
/* Logit of a row with its own pair, in a run of one row. */
float attend_own_logit(const struct attend_run *run, const struct attend_rows *rows, size_t r, enum dtype dtype);
/* Position of a row of the item. */
static inline int attend_position(const struct attend_run *run, const struct attend_rows *rows, size_t r) {
    return run->pos0 + rows->first_query + (int)(r / rows->heads);
}

/* Rows from r on, below end, that belong to the query of row r. */
static inline size_t attend_query_rows(const struct attend_rows *rows, size_t r, size_t end) {
    size_t n = rows->heads - r % rows->heads;
    return n < end - r ? n : end - r;
}

/* Groups that some row of a tile sees; *all when every row sees every key of them. */
size_t attend_groups_seen(const struct attend_run *run, const struct attend_rows *rows, size_t tile,
                          const struct key_group *groups, size_t n, struct key_group *seen, bool *all);

/* ---- masks --------------------------------------------------------------------------------------------------------- */

/* Bits i of a group with i >= n. */
static inline uint32_t bits_from(int n) {
    return n <= 0 ? ~0u : n >= GROUP_KEYS ? 0u : ~0u << n;
}

/* Slots with a position up to t. */
static inline uint32_t group_past(const struct key_group *g, int t) {
    uint32_t low = ~bits_from(g->split);
    return g->valid & ((low & ~bits_from(t + 1 - g->base)) | (~low & ~bits_from(t + 1 - g->base_wrapped)));
}

/* Slots with a position above t_window - window, or always visible, and not above t_causal. */
static inline uint32_t group_mask(const struct key_group *g, int window, int t_window, int t_causal) {
    uint32_t low = ~bits_from(g->split);
    uint32_t recent = (low & bits_from(t_window - window + 1 - g->base)) |
                      (~low & bits_from(t_window - window + 1 - g->base_wrapped));
    return group_past(g, t_causal) & (g->always | recent);
}

/* ---- kernels ------------------------------------------------------------------------------------------------------- */

/* Groups begin .. end-1 of the run for all rows of the item. */
void attend_rows_f32(const struct device *dev, const struct attend_run *run, struct attend_rows *rows, size_t begin,
                     size_t end);
void attend_rows_amx(const struct attend_run *run, struct attend_rows *rows, size_t begin, size_t end);

/* Weights exp(logit - rows->max) of a tile and up to STEP_GROUPS groups, 0 where not visible, in rows->logit: of every row
 * by itself, or (by_query) summed over the rows of each query in the tile into the place of the first of them. */
void attend_masses_f32(const struct device *dev, const struct attend_run *run, struct attend_rows *rows, size_t tile,
                       const struct key_group *groups, size_t n_groups, bool by_query);
void attend_masses_amx(const struct attend_run *run, struct attend_rows *rows, size_t tile, const struct key_group *groups,
                       size_t n_groups, bool all_visible, bool by_query);

/* ---- attend_columns.c: sums by key ----------------------------------------------------------------------------------- */

/* Where the items of an op leave what they give each key, before it is added up in order. */
struct columns {
    size_t stride, record_bytes; /* floats of an item; bytes of the records of one */
    float *sums;                 /* (n_items, stride): by group and slot, then the own pair of a run of one row */
};

/* Sizes and scratch (PARTIAL) for sums made along with attention: f32, no item with a part of the keys only. False where
 * they cannot be, or are not asked for. */
bool columns_begin(struct device *dev, const struct plan *plan, struct columns *columns);
/* Records for the rows of an item in `memory` (record_bytes). */
void columns_records(const struct columns *columns, const struct plan *plan, const struct item *item,
                     struct attend_rows *rows, char *memory);
/* Sums of a finished item. */
void columns_item(const struct device *dev, const struct columns *columns, const struct plan *plan, size_t item,
                  const struct attend_rows *rows);
/* Adds the items of the run that begins at item `first` to the caller's array. */
void columns_join(const struct columns *columns, const struct plan *plan, size_t first);
/* The same by a second look at the keys, after attention, where columns_begin() said no. */
void attend_columns(struct device *dev, const struct plan *plan);

/* ---- attend_stats.c for attend_future.c ---------------------------------------------------------------------------- */

/* A group whose long-term pairs have their positions too; pairs must all have been kept. */
struct key_group attend_group_with_position(const struct attend_run *run, size_t index);
/* attend_rows_start() with rows->max set to the log of the sum of weights that attention left. */
struct attend_rows attend_rows_with_lse(const struct device *dev, const struct plan *plan, const struct item *item,
                                        char *memory);
/* attend_masses_f32() or attend_masses_amx(), as the device has them. */
void attend_masses(const struct device *dev, const struct attend_run *run, struct attend_rows *rows, size_t tile,
                   const struct key_group *groups, size_t n_groups, bool all_visible, bool by_query);
/* future_max and future_sum of the arguments. */
void attend_future(struct device *dev, const struct attend_stats_args *s, const struct plan *plan);

#endif
