#include "analyze/profile_segment.h"

#include <stdlib.h>
#include <string.h>

#include "analyze/profile_file.h"
#include "base/mem.h"

static size_t sum_bytes(const struct profile_segment *s, enum profile_field field) {
    return profile_field_items(field, &s->plan->dims) * h5_type_size(profile_field_type(field, s->plan->meta));
}

int profile_segment_init(struct profile_segment *s, const struct profile_row_plan *plan, struct err *err) {
    *s = (struct profile_segment){.plan = plan};
    int rc = mem_grow(&s->row_splits, &s->splits_cap, 1, sizeof *s->row_splits, "row splits", err);
    if (rc == OK)
        s->row_splits[0] = 0;
    for (int i = 0; rc == OK && i < PROFILE_N_FIELDS; i++) {
        enum profile_field field = (enum profile_field)i;
        if (profile_field_kind(field) != FIELD_SUM || !profile_field_present(field, plan->meta))
            continue;
        s->cap[i] = sum_bytes(s, field);
        if (!(s->column[i] = mem_alloc(1, s->cap[i], profile_field_name(field), err)))
            rc = ERR_MEMORY;
    }
    if (rc != OK)
        profile_segment_free(s);
    return rc;
}

void profile_segment_free(struct profile_segment *s) {
    for (int i = 0; i < PROFILE_N_FIELDS; i++)
        free(s->column[i]);
    free(s->row_splits);
    *s = (struct profile_segment){0};
}

void profile_segment_clear(struct profile_segment *s) {
    s->n_sequences = s->n_tokens = s->n_bytes = 0;
    for (int i = 0; i < PROFILE_N_FIELDS; i++)
        if (profile_field_kind((enum profile_field)i) == FIELD_SUM && s->column[i])
            memset(s->column[i], 0, s->cap[i]);
}

/* Appends n items to a column whose rows before it are complete. */
static int put(struct profile_segment *s, enum profile_field field, const void *items, size_t n, struct err *err) {
    if (!profile_field_present(field, s->plan->meta))
        return OK;
    bool tokens = profile_field_kind(field) == FIELD_TOKENS;
    size_t item = h5_type_size(profile_field_type(field, s->plan->meta));
    size_t used = (tokens ? s->n_tokens : s->n_sequences) * profile_field_items(field, &s->plan->dims) * item;
    int rc = mem_grow(&s->column[field], &s->cap[field], used + n * item, 1, profile_field_name(field), err);
    if (rc != OK)
        return rc;
    memcpy((char *)s->column[field] + used, items, n * item);
    s->n_bytes += n * item;
    return OK;
}

/* A per-layer value for each head of the layer. */
static int put_expanded(struct profile_segment *s, enum profile_field field, const uint32_t *per_layer, struct err *err) {
    size_t layers = s->plan->dims.n[AXIS_LAYER], heads = s->plan->dims.n[AXIS_KV_HEAD];
    uint32_t *wide = mem_alloc(layers * heads, sizeof *wide, "counters", err);
    if (!wide)
        return ERR_MEMORY;
    for (size_t i = 0; i < layers * heads; i++)
        wide[i] = per_layer[i / heads];
    int rc = put(s, field, wide, layers * heads, err);
    free(wide);
    return rc;
}

/* Queries of layers whose attention was summed. */
static int put_queries(struct profile_segment *s, const struct profile_row *row, struct err *err) {
    size_t heads = s->plan->dims.n[AXIS_KV_HEAD], n = s->plan->dims.n[AXIS_LAYER] * heads;
    if (!row->far_sum)
        return OK;
    uint64_t *queries = mem_alloc(n, sizeof *queries, "counters", err);
    if (!queries)
        return ERR_MEMORY;
    for (size_t i = 0; i < n; i++)
        queries[i] = s->plan->meta->sliding_window[i / heads] ? 0 : row->n_tok;
    int rc = put(s, PROFILE_ATTENTION_QUERIES, queries, n, err);
    free(queries);
    return rc;
}

static int put_scalars(struct profile_segment *s, const struct profile_row *row, uint64_t batch, struct err *err) {
    uint32_t length = (uint32_t)row->n_tok;
    struct {
        enum profile_field field;
        const void *value;
    } const scalars[] = {
        {PROFILE_SEQUENCE_INDEX, &row->index},       {PROFILE_SEQUENCE_LENGTH, &length},
        {PROFILE_N_PREDICTED, &row->n_predicted},    {PROFILE_N_ARGMAX, &row->n_argmax},
        {PROFILE_NLL_SUM, &row->nll_sum},
        {PROFILE_SEQUENCE_DOCUMENT, &row->document}, {PROFILE_SEQUENCE_OFFSET, &row->offset},
        {PROFILE_SEQUENCE_SOURCE, &row->source},     {PROFILE_SEQUENCE_BATCH, &batch},
        {PROFILE_CACHE_BYTES_USED, &row->bytes_used}, {PROFILE_CACHE_BYTES_ALLOCATED, &row->bytes_allocated},
        {PROFILE_CACHE_BYTES_FULL, &row->bytes_full},
    };
    int rc = OK;
    for (size_t i = 0; rc == OK && i < sizeof scalars / sizeof *scalars; i++)
        rc = put(s, scalars[i].field, scalars[i].value, 1, err);
    return rc;
}

static int put_heads(struct profile_segment *s, const struct profile_row *row, struct err *err) {
    size_t n = s->plan->dims.n[AXIS_LAYER] * s->plan->dims.n[AXIS_KV_HEAD];
    struct {
        enum profile_field field;
        const void *values;
    } const columns[] = {
        {PROFILE_N_OPEN, row->n_open},
        {PROFILE_N_LEFT_WINDOW, row->n_left_window},
        {PROFILE_N_KEPT, row->n_kept},
        {PROFILE_VISIBLE_PAIRS, row->visible_pairs},
        {PROFILE_UTILITY_SUM, row->utility_sum},
        {PROFILE_FAR_ATTENTION_SUM, row->far_sum},
        {PROFILE_SINK_ATTENTION_SUM, row->sink_sum},
    };
    int rc = put_expanded(s, PROFILE_N_SCORED, row->n_scored, err);
    for (size_t i = 0; rc == OK && i < sizeof columns / sizeof *columns; i++)
        rc = put(s, columns[i].field, columns[i].values, n, err);
    return rc == OK ? put_queries(s, row, err) : rc;
}

/* Adds (layer, head, bin) counts to a summed column; per_layer counts hold for every head. */
static void add_counts(struct profile_segment *s, enum profile_field field, size_t slice, size_t bins,
                       const uint32_t *counts, bool per_layer) {
    size_t layers = s->plan->dims.n[AXIS_LAYER], heads = s->plan->dims.n[AXIS_KV_HEAD];
    uint64_t *to = s->column[field];
    if (!to)
        return;
    to += slice * layers * heads * bins;
    for (size_t i = 0; i < layers * heads; i++) {
        const uint32_t *from = counts + (per_layer ? i / heads : i) * bins;
        for (size_t bin = 0; bin < bins; bin++)
            to[i * bins + bin] += from[bin];
    }
}

static void add_sums(struct profile_segment *s, const struct profile_row *row) {
    const size_t *n = s->plan->dims.n;
    size_t slice = row->corpus * (size_t)PROFILE_N_GROUPS + row->document % PROFILE_N_GROUPS;
    size_t masses = n[AXIS_LAYER] * n[AXIS_KV_HEAD] * n[AXIS_DISTANCE_BIN];
    add_counts(s, PROFILE_UTILITY_HISTOGRAM, slice, n[AXIS_UTILITY_BIN], row->histogram, false);
    add_counts(s, PROFILE_POSITION_SCORED, slice, n[AXIS_POSITION_BIN], row->position_scored, true);
    add_counts(s, PROFILE_POSITION_OPEN, slice, n[AXIS_POSITION_BIN], row->position_open, false);
    add_counts(s, PROFILE_CLASS_SCORED, slice, n[AXIS_TOKEN_CLASS], row->class_scored, true);
    add_counts(s, PROFILE_CLASS_OPEN, slice, n[AXIS_TOKEN_CLASS], row->class_open, false);
    if (row->distance) {
        double *to = (double *)s->column[PROFILE_ATTENTION_DISTANCE] + slice * masses;
        for (size_t i = 0; i < masses; i++)
            to[i] += row->distance[i];
    }
}

int profile_segment_append(struct profile_segment *s, const struct profile_row *row, uint64_t batch, struct err *err) {
    ASSERT(row->finished);
    int rc = mem_grow(&s->row_splits, &s->splits_cap, s->n_sequences + 2, sizeof *s->row_splits, "row splits", err);
    if (rc == OK)
        rc = put_scalars(s, row, batch, err);
    if (rc == OK)
        rc = put_heads(s, row, err);
    for (int i = 0; rc == OK && i < PROFILE_N_FIELDS; i++)
        if (row->token[i])
            rc = put(s, (enum profile_field)i, row->token[i],
                     row->n_tok * profile_field_items((enum profile_field)i, &s->plan->dims), err);
    if (rc != OK)
        return rc;
    add_sums(s, row);
    s->n_sequences++;
    s->n_tokens += s->plan->meta->record & PROFILE_RECORD_TOKENS ? row->n_tok : 0;
    s->row_splits[s->n_sequences] = s->n_tokens;
    return OK;
}

static int read_rows(void *self, enum profile_field field, uint64_t first, size_t n, void *out, struct err *err) {
    const struct profile_segment *s = self;
    (void)err;
    size_t bytes = profile_field_items(field, &s->plan->dims) * h5_type_size(profile_field_type(field, s->plan->meta));
    memcpy(out, (const char *)s->column[field] + first * bytes, n * bytes);
    return OK;
}

static int read_sum(void *self, enum profile_field field, void **out, struct err *err) {
    const struct profile_segment *s = self;
    size_t bytes = sum_bytes(s, field);
    if (!(*out = mem_alloc(1, bytes, profile_field_name(field), err)))
        return ERR_MEMORY;
    memcpy(*out, s->column[field], bytes);
    return OK;
}

int profile_segment_write(struct profile_segment *s, const struct profile_meta *meta, const char *path,
                          const char *temporary, struct err *err) {
    struct profile_columns columns = {.meta = meta, .n_sequences = s->n_sequences, .n_tokens = s->n_tokens,
                                      .row_splits = s->row_splits, .self = s, .read_rows = read_rows,
                                      .read_sum = read_sum};
    return profile_file_write(path, temporary, &columns, err);
}
