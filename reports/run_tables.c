#include "reports/run_tables.h"

#include <math.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/mem.h"

#define SUM_COLUMNS                                                                                                         \
    {"n_scored", NULL, COLUMN_COUNT, 0}, {"n_open", NULL, COLUMN_COUNT, 0},                                                 \
        {"n_left_window", "pairs that left the window", COLUMN_COUNT, 0}, {"n_kept", "of them kept", COLUMN_COUNT, 0},      \
        {"visible_pairs", NULL, COLUMN_COUNT, 0}, {"causal_pairs", NULL, COLUMN_COUNT, 0},                                  \
        {"long_range_density", "long-range density", COLUMN_REAL, 4}, {"gate_density", "gate density", COLUMN_REAL, 4},     \
        {"kv_fraction", "KV fraction", COLUMN_REAL, 4}, {"read_fraction", "read fraction", COLUMN_REAL, 4},                 \
        {"mean_utility", "mean utility", COLUMN_REAL, 4}, {"far_attention", "far attention", COLUMN_REAL, 4},               \
        {"sink_attention", "sink attention", COLUMN_REAL, 4}

static const struct column head_columns[] = {{"layer", "layer", COLUMN_COUNT, 0},
                                             {"kv_head", "KV head", COLUMN_COUNT, 0},
                                             {"kind", "kind", COLUMN_TEXT, 0},
                                             SUM_COLUMNS};
static const struct column layer_columns[] = {{"layer", "layer", COLUMN_COUNT, 0},
                                              {"kind", "kind", COLUMN_TEXT, 0},
                                              SUM_COLUMNS};

#define N_COLUMNS(columns) (sizeof(columns) / sizeof *(columns))

/* What the policy does not have is missing, not 0. */
static void put_sums(const struct run *run, struct table *t, const struct head_sums *s) {
    table_put_count(t, s->n_scored);
    table_put_count(t, s->n_open);
    table_put_count(t, s->n_left_window);
    table_put_count(t, s->n_kept);
    table_put_count(t, s->visible_pairs);
    table_put_count(t, s->causal_pairs);
    table_put_real(t, head_long_density(s));
    table_put_real(t, head_gate_density(s));
    table_put_real(t, head_kv_fraction(s));
    table_put_real(t, head_read_fraction(s));
    table_put_real(t, run->statistics.has_scores ? head_mean_utility(s) : NAN);
    table_put_real(t, head_far_attention(s));
    table_put_real(t, head_sink_attention(s));
}

void run_table_heads(const struct run *run, struct table *out) {
    table_init(out, head_columns, N_COLUMNS(head_columns));
    for (size_t l = 0; l < run->statistics.n_layers; l++)
        for (size_t k = 0; k < run->statistics.n_kv_heads; k++) {
            table_put_count(out, l);
            table_put_count(out, k);
            table_put_text(out, run->statistics.sliding[l] ? "sliding" : "full");
            put_sums(run, out, run_head(run, l, k));
        }
}

void run_table_layers(const struct run *run, struct table *out) {
    table_init(out, layer_columns, N_COLUMNS(layer_columns));
    for (size_t l = 0; l < run->statistics.n_layers; l++) {
        struct head_sums sums = run->statistics.layers[l];
        table_put_count(out, l);
        table_put_text(out, run->statistics.sliding[l] ? "sliding" : "full");
        put_sums(run, out, &sums);
    }
}

static const struct column position_columns[] = {{"position_from", "from position", COLUMN_COUNT, 0},
                                                 {"position_below", "below", COLUMN_COUNT, 0},
                                                 {"layer", "layer", COLUMN_COUNT, 0},
                                                 {"kv_head", "KV head", COLUMN_COUNT, 0},
                                                 {"n_scored", "pairs scored", COLUMN_COUNT, 0},
                                                 {"n_open", "gates open", COLUMN_COUNT, 0},
                                                 {"gate_density", "gate density", COLUMN_REAL, 4}};

void run_table_positions(const struct run *run, struct table *out) {
    const struct bin_density *p = &run->positions;
    size_t n_heads = run->statistics.n_layers * run->statistics.n_kv_heads;
    table_init(out, position_columns, N_COLUMNS(position_columns));
    for (size_t b = 0; b < p->n_bins; b++)
        for (size_t h = 0; h < n_heads; h++) {
            double scored = p->scored[h * p->n_bins + b], open = p->open[h * p->n_bins + b];
            table_put_count(out, run->position_edges[b]);
            table_put_count(out, run->position_edges[b + 1]);
            table_put_count(out, h / run->statistics.n_kv_heads);
            table_put_count(out, h % run->statistics.n_kv_heads);
            table_put_count(out, (uint64_t)scored);
            table_put_count(out, (uint64_t)open);
            table_put_real(out, scored > 0 ? open / scored : NAN);
        }
}

static const struct column class_columns[] = {{"token_class", "class", COLUMN_TEXT, 0},
                                              {"layer", "layer", COLUMN_COUNT, 0},
                                              {"kv_head", "KV head", COLUMN_COUNT, 0},
                                              {"n_scored", "pairs scored", COLUMN_COUNT, 0},
                                              {"n_open", "gates open", COLUMN_COUNT, 0},
                                              {"gate_density", "gate density", COLUMN_REAL, 4}};

void run_table_classes(const struct run *run, struct table *out) {
    const struct bin_density *c = &run->classes;
    size_t heads = run->statistics.n_kv_heads, n_heads = run->statistics.n_layers * heads;
    table_init(out, class_columns, N_COLUMNS(class_columns));
    for (size_t b = 0; b < c->n_bins; b++)
        for (size_t h = 0; h < n_heads; h++) {
            double scored = c->scored[h * c->n_bins + b], open = c->open[h * c->n_bins + b];
            table_put_text(out, run->meta->class_names[b]);
            table_put_count(out, h / heads);
            table_put_count(out, h % heads);
            table_put_count(out, (uint64_t)scored);
            table_put_count(out, (uint64_t)open);
            table_put_real(out, scored > 0 ? open / scored : NAN);
        }
}

static const struct column difference_columns[] = {{"layer", "layer", COLUMN_COUNT, 0},
                                                   {"kv_head", "KV head", COLUMN_COUNT, 0},
                                                   {"quantity", "quantity", COLUMN_TEXT, 0},
                                                   {"a", "first run", COLUMN_REAL, 4},
                                                   {"b", "second run", COLUMN_REAL, 4},
                                                   {"difference", "difference", COLUMN_REAL, 4}};

void run_table_difference(const struct run *a, const struct run *b, const struct run_quantity *q, struct table *out) {
    table_init(out, difference_columns, N_COLUMNS(difference_columns));
    for (size_t l = 0; l < a->statistics.n_layers; l++)
        for (size_t k = 0; k < a->statistics.n_kv_heads; k++) {
            double x = q->ratio(run_head(a, l, k)), y = q->ratio(run_head(b, l, k));
            table_put_count(out, l);
            table_put_count(out, k);
            table_put_text(out, q->name);
            table_put_real(out, x);
            table_put_real(out, y);
            table_put_real(out, y - x);
        }
}

static const struct column utility_columns[] = {{"utility_from", "from utility", COLUMN_REAL, 4},
                                                {"utility_below", "below", COLUMN_REAL, 4},
                                                {"layer", "layer", COLUMN_COUNT, 0},
                                                {"kv_head", "KV head", COLUMN_COUNT, 0},
                                                {"n_pairs", "pairs", COLUMN_COUNT, 0}};

void run_table_utility(const struct run *run, struct table *out) {
    size_t n_heads = run->statistics.n_layers * run->statistics.n_kv_heads, n_bins = run->n_utility_bins;
    table_init(out, utility_columns, N_COLUMNS(utility_columns));
    for (size_t b = 0; b < n_bins; b++)
        for (size_t h = 0; h < n_heads; h++) {
            table_put_real(out, (double)run->utility_edges[b]);
            table_put_real(out, (double)run->utility_edges[b + 1]);
            table_put_count(out, h / run->statistics.n_kv_heads);
            table_put_count(out, h % run->statistics.n_kv_heads);
            table_put_count(out, (uint64_t)run->utility[h * n_bins + b]);
        }
}

enum { BLOCK = 64 }; /* sequences read at a time */

static const struct column sequence_columns[] = {{"sequence", NULL, COLUMN_COUNT, 0},
                                                 {"source", NULL, COLUMN_TEXT, 0},
                                                 {"document", NULL, COLUMN_COUNT, 0},
                                                 {"offset_tok", NULL, COLUMN_COUNT, 0},
                                                 {"n_tok", NULL, COLUMN_COUNT, 0},
                                                 {"n_predicted", NULL, COLUMN_COUNT, 0},
                                                 {"nll_nat_per_token", NULL, COLUMN_REAL, 6},
                                                 {"n_left_window", NULL, COLUMN_COUNT, 0},
                                                 {"n_kept", NULL, COLUMN_COUNT, 0},
                                                 {"long_range_density", NULL, COLUMN_REAL, 6},
                                                 {"visible_pairs", NULL, COLUMN_COUNT, 0},
                                                 {"cache_used_bytes", NULL, COLUMN_COUNT, 0},
                                                 {"cache_allocated_bytes", NULL, COLUMN_COUNT, 0},
                                                 {"cache_full_bytes", NULL, COLUMN_COUNT, 0}};

/* A block of rows of every field that sequences.csv takes. */
struct sequence_block {
    uint64_t index[BLOCK], document[BLOCK], offset[BLOCK], used[BLOCK], allocated[BLOCK], full[BLOCK];
    uint32_t length[BLOCK], n_predicted[BLOCK], source[BLOCK];
    double nll_sum[BLOCK];
    uint32_t *n_left, *n_kept;  /* (BLOCK, n_layers, n_kv_heads) */
    uint64_t *visible;          /* (BLOCK, n_layers, n_kv_heads) */
};

static int read_block(struct profile *profile, uint64_t first, size_t n, struct sequence_block *b, struct err *err) {
    const struct {
        enum profile_field field;
        void *out;
    } reads[] = {{PROFILE_SEQUENCE_INDEX, b->index},
                 {PROFILE_SEQUENCE_DOCUMENT, b->document},
                 {PROFILE_SEQUENCE_OFFSET, b->offset},
                 {PROFILE_SEQUENCE_SOURCE, b->source},
                 {PROFILE_SEQUENCE_LENGTH, b->length},
                 {PROFILE_N_PREDICTED, b->n_predicted},
                 {PROFILE_NLL_SUM, b->nll_sum},
                 {PROFILE_CACHE_BYTES_USED, b->used},
                 {PROFILE_CACHE_BYTES_ALLOCATED, b->allocated},
                 {PROFILE_CACHE_BYTES_FULL, b->full},
                 {PROFILE_N_LEFT_WINDOW, b->n_left},
                 {PROFILE_N_KEPT, b->n_kept},
                 {PROFILE_VISIBLE_PAIRS, b->visible}};
    int rc = OK;
    for (size_t i = 0; rc == OK && i < sizeof reads / sizeof *reads; i++)
        rc = profile_read_rows(profile, reads[i].field, first, n, reads[i].out, err);
    return rc;
}

static void put_sequence(struct table *t, const struct profile_meta *meta, const struct sequence_block *b, size_t i) {
    const size_t n_heads = (size_t)meta->n_layers * meta->n_kv_heads;
    uint64_t left = 0, kept = 0, visible = 0;
    for (size_t h = i * n_heads; h < (i + 1) * n_heads; h++) {
        left += b->n_left[h];
        kept += b->n_kept[h];
        visible += b->visible[h];
    }
    table_put_count(t, b->index[i]);
    table_put_text(t, b->source[i] < meta->n_sources ? meta->sources[b->source[i]].name : "?");
    table_put_count(t, b->document[i]);
    table_put_count(t, b->offset[i]);
    table_put_count(t, b->length[i]);
    table_put_count(t, b->n_predicted[i]);
    table_put_real(t, b->n_predicted[i] ? b->nll_sum[i] / b->n_predicted[i] : NAN);
    table_put_count(t, left);
    table_put_count(t, kept);
    table_put_real(t, left ? (double)kept / (double)left : NAN);
    table_put_count(t, visible);
    table_put_count(t, b->used[i]);
    table_put_count(t, b->allocated[i]);
    table_put_count(t, b->full[i]);
}

/* One block as lines of CSV, the header before the first. */
static int write_block(struct profile *profile, const struct sequence_block *b, size_t n, bool header, FILE *stream,
                       struct err *err) {
    struct table t;
    struct str text = {0};
    table_init(&t, sequence_columns, N_COLUMNS(sequence_columns));
    for (size_t i = 0; i < n; i++)
        put_sequence(&t, profile_meta(profile), b, i);
    table_put_csv(&t, header, &text);
    int rc = text.failed ? err_memory(err, "a table", text.len) : OK;
    if (rc == OK)
        fwrite(str_text(&text), 1, text.len, stream); /* commit sees ferror */
    str_free(&text);
    table_free(&t);
    return rc;
}

int run_write_sequences(struct profile *profile, const char *path, struct err *err) {
    const size_t n = profile_n_sequences(profile), n_heads = profile_row_items(profile, PROFILE_N_KEPT);
    struct sequence_block *b = mem_alloc(1, sizeof *b, "a block of sequences", err);
    struct file_out out = {0};
    size_t items;
    int rc = ERR_MEMORY;
    if (!b)
        return rc;
    if (!size_mul(n_heads, BLOCK, &items) || !(b->n_left = mem_alloc(items, 4, "counters", err)) ||
        !(b->n_kept = mem_alloc(items, 4, "counters", err)) || !(b->visible = mem_alloc(items, 8, "counters", err))) {
        rc = err_memory(err, "counters of a block of sequences", 0);
        goto out;
    }
    if ((rc = file_out_open(&out, path, err)) != OK)
        goto out;
    for (size_t first = 0; rc == OK && (first < n || first == 0); first += BLOCK) {
        size_t rows = n - first < BLOCK ? n - first : BLOCK;
        if (rows == 0 || (rc = read_block(profile, first, rows, b, err)) == OK)
            rc = write_block(profile, b, rows, first == 0, out.stream, err);
    }
    if (rc == OK)
        rc = file_out_commit(&out, err);
out:
    file_out_discard(&out);
    free(b->n_left);
    free(b->n_kept);
    free(b->visible);
    free(b);
    return rc;
}
