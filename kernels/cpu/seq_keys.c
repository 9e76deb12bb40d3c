/* Keys of packed sequences: which ones a lane lists outside the window, and their copies for products. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/attend_seq.h"

/* ---- lists --------------------------------------------------------------------------------------------------------- */

static void lane_list(const struct attend_seq_args *a, struct seq_lane *lane) {
    int32_t n = 0;
    for (size_t s = 0; s < lane->len; s++) {
        const float *gate = a->log_gate ? a->log_gate + (lane->first_row + s) * a->n_kv_heads + lane->kv_head : NULL;
        lane->before[s] = n;
        if ((int64_t)s < a->sinks || (gate && *gate != -INFINITY))
            lane->position[n++] = (int32_t)s;
    }
    lane->before[lane->len] = n;
}

static void lane_sets(struct seq_lane *lane) {
    size_t window = (size_t)lane->window, n_far = lane->len > window ? (size_t)lane->before[lane->len - window] : 0;
    bool all = n_far && (size_t)lane->before[lane->len] == lane->len;
    lane->n_sets = 0;
    if (n_far && !all)
        lane->set[lane->n_sets++] = (struct key_set){.side = KEYS_FAR, .n = n_far, .position = lane->position};
    lane->set[lane->n_sets++] = (struct key_set){.side = all ? KEYS_ALL : KEYS_NEAR, .n = lane->len};
}

static bool lanes_make(struct device *dev, struct seq_run *run) {
    const struct attend_seq_args *a = run->a;
    size_t n_kv = a->n_kv_heads, n_listed = (2 * a->n_rows + (size_t)a->n_seq) * n_kv;
    char *memory = device_scratch(dev, SCRATCH_LANES, run->n_lanes * sizeof *run->lanes + n_listed * sizeof(int32_t));
    if (!memory)
        return false;
    run->lanes = (struct seq_lane *)(void *)memory;
    int32_t *next = (int32_t *)(void *)(memory + run->n_lanes * sizeof *run->lanes);
    for (size_t i = 0; i < run->n_lanes; i++) {
        const int *splits = a->row_splits + i / n_kv;
        ASSERT(splits[0] >= 0 && splits[0] <= splits[1] && (size_t)splits[1] <= a->n_rows && a->window[i % n_kv] >= 1);
        struct seq_lane lane = {.first_row = (size_t)splits[0], .len = (size_t)(splits[1] - splits[0]), .kv_head = i % n_kv,
                                .window = a->window[i % n_kv], .position = next};
        lane.before = next + lane.len;
        next = lane.before + lane.len + 1;
        run->lanes[i] = lane;
    }
#pragma omp parallel for num_threads(threads_for_bytes(dev, n_listed * 4))
    for (size_t i = 0; i < run->n_lanes; i++) {
        lane_list(a, &run->lanes[i]);
        lane_sets(&run->lanes[i]);
    }
    return true;
}

/* ---- copies -------------------------------------------------------------------------------------------------------- */

static size_t set_floats(const struct key_set *set, size_t dim, struct key_copies c) {
    size_t n_copies = (size_t)c.k_rows + c.v_rows + c.k_lanes + c.v_lanes;
    return panels_of(set->n) * PANEL * (n_copies * dim + 1);
}

static void set_place(struct key_set *set, size_t dim, struct key_copies c, float *memory) {
    size_t n = panels_of(set->n) * PANEL * dim;
    set->k = c.k_rows ? memory : NULL, memory += c.k_rows ? n : 0;
    set->v = c.v_rows ? memory : NULL, memory += c.v_rows ? n : 0;
    set->k_lanes = c.k_lanes ? memory : NULL, memory += c.k_lanes ? n : 0;
    set->v_lanes = c.v_lanes ? memory : NULL, memory += c.v_lanes ? n : 0;
    set->gate = memory;
}

/* One key, NULL beyond the last: a row, and a lane of its panel. */
static void key_pack(const float *from, size_t head_dim, size_t dim, float *row, float *lane) {
    if (row) {
        memset(row, 0, dim * sizeof *row);
        if (from)
            memcpy(row, from, head_dim * sizeof *row);
    }
    for (size_t d = 0; lane && d < dim; d++)
        lane[d * PANEL] = from && d < head_dim ? from[d] : 0;
}

static void panel_pack(const struct seq_run *run, const struct seq_lane *lane, const struct key_set *set, size_t panel) {
    const struct attend_seq_args *a = run->a;
    size_t dim = run->dim;
    for (size_t j = 0; j < PANEL; j++) {
        size_t key = panel * PANEL + j, at = panel * PANEL * dim + j, s = set->position && key < set->n
                                                                               ? (size_t)set->position[key] : key;
        size_t row = lane->first_row + s, from = row * a->ld_qkv + lane->kv_head * a->head_dim;
        bool real = key < set->n;
        key_pack(real ? a->k + from : NULL, a->head_dim, dim, set->k ? set->k + key * dim : NULL,
                 set->k_lanes ? set->k_lanes + at : NULL);
        key_pack(real ? a->v + from : NULL, a->head_dim, dim, set->v ? set->v + key * dim : NULL,
                 set->v_lanes ? set->v_lanes + at : NULL);
        bool gated = real && (int64_t)s >= a->sinks && a->log_gate;
        set->gate[key] = gated ? a->log_gate[row * a->n_kv_heads + lane->kv_head] : 0;
    }
}

static bool lanes_pack(struct device *dev, struct seq_run *run, struct key_copies copies) {
    size_t n_floats = 0;
    for (size_t i = 0; i < run->n_lanes; i++)
        for (int k = 0; k < run->lanes[i].n_sets; k++)
            n_floats += set_floats(&run->lanes[i].set[k], run->dim, copies);
    float *next = device_scratch(dev, SCRATCH_KEYS, n_floats * sizeof *next);
    if (!next)
        return false;
    for (size_t i = 0; i < run->n_lanes; i++)
        for (int k = 0; k < run->lanes[i].n_sets; k++) {
            set_place(&run->lanes[i].set[k], run->dim, copies, next);
            next += set_floats(&run->lanes[i].set[k], run->dim, copies);
        }
#pragma omp parallel num_threads(threads_for_bytes(dev, n_floats * 8))
    for (size_t i = 0; i < run->n_lanes; i++)
        for (int k = 0; k < run->lanes[i].n_sets; k++) {
            struct range panels = thread_range(panels_of(run->lanes[i].set[k].n));
            for (size_t panel = panels.begin; panel < panels.end; panel++)
                panel_pack(run, &run->lanes[i], &run->lanes[i].set[k], panel);
        }
    return true;
}

bool seq_run_make(struct device *dev, const struct attend_seq_args *a, struct key_copies copies, struct seq_run *run) {
    ASSERT(a->n_heads % a->n_kv_heads == 0 && a->ld_qkv >= a->n_heads * a->head_dim && a->sinks >= 0);
    size_t group = a->n_heads / a->n_kv_heads, queries = group < BLOCK_ROWS ? BLOCK_ROWS / group : 1;
    *run = (struct seq_run){.dev = dev, .a = a, .group = group, .dim = panels_of(a->head_dim) * PANEL,
                            .block_queries = queries, .n_lanes = (size_t)a->n_seq * a->n_kv_heads};
    return lanes_make(dev, run) && lanes_pack(dev, run, copies);
}

/* ---- blocks -------------------------------------------------------------------------------------------------------- */

void seq_block_load(const struct seq_run *run, const struct seq_lane *lane, struct range queries, const float *from,
                    size_t ld, float scale, float *rows) {
    size_t head_dim = run->a->head_dim;
    for (size_t t = queries.begin; t < queries.end; t++)
        for (size_t h = 0; h < run->group; h++, rows += run->dim) {
            const float *x = from + (lane->first_row + t) * ld + (lane->kv_head * run->group + h) * head_dim;
#pragma omp simd
            for (size_t d = 0; d < head_dim; d++)
                rows[d] = scale * x[d];
            for (size_t d = head_dim; d < run->dim; d++)
                rows[d] = 0;
        }
}

void seq_block_store(const struct seq_run *run, const struct seq_lane *lane, struct range queries, const float *rows,
                     const float *factor, float *to, size_t ld) {
    size_t head_dim = run->a->head_dim;
    for (size_t t = queries.begin; t < queries.end; t++)
        for (size_t h = 0; h < run->group; h++, rows += run->dim, factor++) {
            float *x = to + (lane->first_row + t) * ld + (lane->kv_head * run->group + h) * head_dim;
#pragma omp simd
            for (size_t d = 0; d < head_dim; d++)
                x[d] = *factor * rows[d];
        }
}

void seq_block_dots(const struct seq_run *run, const float *rows, size_t n_rows, const float *lanes, size_t at, size_t n,
                    float *out) {
    tile_product_run(&(struct tile_product){.n_rows = n_rows, .n_panels = n / PANEL, .n_inner = run->dim,
                                            .a = rows, .a_row = run->dim, .a_col = 1,
                                            .b = lanes + at * run->dim, .b_row = PANEL, .b_panel = PANEL * run->dim,
                                            .c = out, .c_row = STEP_KEYS}, run->dev->isa);
}

void seq_block_sums(const struct seq_run *run, const float *weights, size_t n_rows, const float *keys, size_t at, size_t n,
                    float *out) {
    tile_product_run(&(struct tile_product){.n_rows = n_rows, .n_panels = run->dim / PANEL, .n_inner = n,
                                            .a = weights, .a_row = STEP_KEYS, .a_col = 1,
                                            .b = keys + at * run->dim, .b_row = run->dim, .b_panel = PANEL,
                                            .c = out, .c_row = run->dim, .accumulate = true}, run->dev->isa);
}
