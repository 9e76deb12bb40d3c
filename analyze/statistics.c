#include "analyze/statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { BLOCK_ITEMS = 1 << 19 }; /* items of one field held at once */

static double ratio(double part, double whole) {
    return whole == 0 ? NAN : part / whole;
}

double head_ratio_part(const struct head_sums *s, enum head_ratio which) {
    switch (which) {
    case RATIO_GATE_DENSITY: return (double)s->n_open;
    case RATIO_LONG_DENSITY: return (double)s->n_kept;
    case RATIO_KV_FRACTION: return (double)s->n_resident;
    case RATIO_READ_FRACTION: return (double)s->visible_pairs;
    default: return s->far_sum;
    }
}

double head_ratio_whole(const struct head_sums *s, enum head_ratio which) {
    switch (which) {
    case RATIO_GATE_DENSITY: return (double)s->n_scored;
    case RATIO_LONG_DENSITY: return (double)s->n_left_window;
    case RATIO_KV_FRACTION: return (double)s->n_tok;
    case RATIO_READ_FRACTION: return (double)s->causal_pairs;
    default: return (double)s->attention_queries;
    }
}

static double head_ratio_value(const struct head_sums *s, enum head_ratio which) {
    return ratio(head_ratio_part(s, which), head_ratio_whole(s, which));
}

double head_gate_density(const struct head_sums *s) {
    return head_ratio_value(s, RATIO_GATE_DENSITY);
}

double head_long_density(const struct head_sums *s) {
    return head_ratio_value(s, RATIO_LONG_DENSITY);
}

double head_kv_fraction(const struct head_sums *s) {
    return head_ratio_value(s, RATIO_KV_FRACTION);
}

double head_read_fraction(const struct head_sums *s) {
    return head_ratio_value(s, RATIO_READ_FRACTION);
}

double head_far_attention(const struct head_sums *s) {
    return head_ratio_value(s, RATIO_FAR_ATTENTION);
}

double head_mean_utility(const struct head_sums *s) {
    return ratio(s->utility_sum, (double)s->n_scored);
}

double head_sink_attention(const struct head_sums *s) {
    return ratio(s->sink_sum, (double)s->attention_queries);
}

double statistics_nll(const struct statistics *s) {
    return ratio(s->nll_sum, (double)s->n_predicted);
}

double statistics_argmax(const struct statistics *s) {
    return s->has_argmax ? ratio((double)s->n_argmax, (double)s->n_predicted) : (double)NAN;
}

double statistics_exact(const struct statistics *s) {
    return s->has_argmax ? ratio((double)s->n_exact, (double)s->n_answers) : (double)NAN;
}

/* Fields that are streamed, in the order of a block's columns. */
static const enum profile_field streamed[] = {
    PROFILE_SEQUENCE_DOCUMENT, PROFILE_SEQUENCE_LENGTH,    PROFILE_SEQUENCE_SOURCE,   PROFILE_N_PREDICTED, PROFILE_NLL_SUM,
    PROFILE_CACHE_BYTES_USED,  PROFILE_CACHE_BYTES_ALLOCATED, PROFILE_CACHE_BYTES_FULL, PROFILE_N_SCORED,
    PROFILE_N_OPEN,            PROFILE_N_LEFT_WINDOW,      PROFILE_N_KEPT,            PROFILE_VISIBLE_PAIRS,
    PROFILE_UTILITY_SUM,       PROFILE_FAR_ATTENTION_SUM,  PROFILE_SINK_ATTENTION_SUM, PROFILE_ATTENTION_QUERIES,
    PROFILE_N_ARGMAX,
};
enum { N_STREAMED = sizeof streamed / sizeof *streamed };

struct block {
    void *column[PROFILE_N_FIELDS];
};
#define COLUMN(type, field) ((const type *)block->column[field])

static int allocate_block(struct profile *profile, struct block *block, size_t rows, struct err *err) {
    for (size_t i = 0; i < N_STREAMED; i++)
        if (profile_has(profile, streamed[i])) {
            size_t bytes = profile_row_items(profile, streamed[i]) * profile_item_bytes(profile, streamed[i]);
            if (!(block->column[streamed[i]] = mem_alloc(rows, bytes, profile_field_name(streamed[i]), err)))
                return ERR_MEMORY;
        }
    return OK;
}

static int read_block(struct profile *profile, struct block *block, size_t first, size_t n, struct err *err) {
    int rc = OK;
    for (size_t i = 0; rc == OK && i < N_STREAMED; i++)
        if (block->column[streamed[i]])
            rc = profile_read_rows(profile, streamed[i], first, n, block->column[streamed[i]], err);
    return rc;
}

static void add_sequence(struct statistics *s, const struct block *block, size_t row) {
    uint32_t length = COLUMN(uint32_t, PROFILE_SEQUENCE_LENGTH)[row], predicted = COLUMN(uint32_t, PROFILE_N_PREDICTED)[row];
    uint32_t right = s->has_argmax ? COLUMN(uint32_t, PROFILE_N_ARGMAX)[row] : 0;
    bool answer = predicted > 0 && predicted + 1 < length;
    s->n_sequences++;
    s->n_tokens += length;
    s->n_predicted += predicted;
    s->n_argmax += right;
    s->n_answers += answer;
    s->n_exact += answer && right == predicted;
    s->nll_sum += COLUMN(double, PROFILE_NLL_SUM)[row];
    s->cache_bytes_used += COLUMN(uint64_t, PROFILE_CACHE_BYTES_USED)[row];
    s->cache_bytes_allocated += COLUMN(uint64_t, PROFILE_CACHE_BYTES_ALLOCATED)[row];
    s->cache_bytes_full += COLUMN(uint64_t, PROFILE_CACHE_BYTES_FULL)[row];
    s->longest = length > s->longest ? length : s->longest;
    s->shortest = s->n_sequences == 1 || length < s->shortest ? length : s->shortest;
}

/* One head of one sequence; `i` is its place in the columns. near: window + sinks. */
static void add_head(struct head_sums *h, const struct block *block, size_t i, uint64_t length, uint64_t near) {
    uint64_t kept = COLUMN(uint32_t, PROFILE_N_KEPT)[i];
    h->n_scored += COLUMN(uint32_t, PROFILE_N_SCORED)[i];
    h->n_open += COLUMN(uint32_t, PROFILE_N_OPEN)[i];
    h->n_left_window += COLUMN(uint32_t, PROFILE_N_LEFT_WINDOW)[i];
    h->n_kept += kept;
    h->visible_pairs += COLUMN(uint64_t, PROFILE_VISIBLE_PAIRS)[i];
    h->causal_pairs += length * (length + 1) / 2;
    h->n_resident += (length < near ? length : near) + kept;
    h->n_tok += length;
    if (block->column[PROFILE_UTILITY_SUM])
        h->utility_sum += COLUMN(double, PROFILE_UTILITY_SUM)[i];
    if (block->column[PROFILE_ATTENTION_QUERIES]) {
        h->far_sum += COLUMN(double, PROFILE_FAR_ATTENTION_SUM)[i];
        h->sink_sum += COLUMN(double, PROFILE_SINK_ATTENTION_SUM)[i];
        h->attention_queries += COLUMN(uint64_t, PROFILE_ATTENTION_QUERIES)[i];
    }
}

void head_sums_add(struct head_sums *to, const struct head_sums *from) {
    to->n_scored += from->n_scored;
    to->n_open += from->n_open;
    to->n_left_window += from->n_left_window;
    to->n_kept += from->n_kept;
    to->visible_pairs += from->visible_pairs;
    to->causal_pairs += from->causal_pairs;
    to->n_resident += from->n_resident;
    to->n_tok += from->n_tok;
    to->utility_sum += from->utility_sum;
    to->far_sum += from->far_sum;
    to->sink_sum += from->sink_sum;
    to->attention_queries += from->attention_queries;
}

/* The pass over a file: the document that is being read, and everything before it. */
struct pass {
    const char *path;
    const struct profile_meta *meta;
    int corpus;
    struct statistics s;
    uint64_t document;          /* its number in the file, while n_documents > 0 */
    struct head_sums *heads;    /* (n_layers, n_kv_heads) of this document */
    struct block block;
};

static size_t count_heads(const struct statistics *s) {
    return s->n_layers * s->n_kv_heads;
}

static double square(double part, double whole) {
    return whole > 0 ? part * part / whole : 0;
}

/* The document is over: into its cell. */
static void end_document(struct pass *p) {
    struct statistics *s = &p->s;
    size_t n = count_heads(s), cell = (size_t)((s->n_documents - 1) % s->max_cells);
    for (size_t i = 0; i < n; i++) {
        const struct head_sums *h = &p->heads[i];
        head_sums_add(&s->cells[cell * n + i], h);
        s->squares[i].density += square((double)h->n_kept, (double)h->n_left_window);
        s->squares[i].far += square(h->far_sum, (double)h->attention_queries);
    }
    memset(p->heads, 0, n * sizeof *p->heads);
    s->n_cells = cell + 1 > s->n_cells ? cell + 1 : s->n_cells;
}

static int enter_document(struct pass *p, uint64_t document, struct err *err) {
    if (p->s.n_documents > 0 && document == p->document)
        return OK;
    if (p->s.n_documents > 0 && document < p->document)
        return err_set(err, ERR_INPUT, p->path, "sequence_document: document %llu follows document %llu, but the pieces "
                       "of a document must follow one another, in ascending order", (unsigned long long)document,
                       (unsigned long long)p->document);
    if (p->s.n_documents > 0)
        end_document(p);
    p->s.n_documents++;
    p->document = document;
    return OK;
}

static int add_rows(struct pass *p, size_t n, struct err *err) {
    const struct block *block = &p->block;
    const struct profile_meta *meta = p->meta;
    struct statistics *s = &p->s;
    size_t n_heads = count_heads(s);
    int rc = OK;
    for (size_t row = 0; row < n; row++) {
        uint32_t source = COLUMN(uint32_t, PROFILE_SEQUENCE_SOURCE)[row];
        if (p->corpus >= 0 && (source >= meta->n_sources || meta->sources[source].corpus != (uint32_t)p->corpus))
            continue;
        if ((rc = enter_document(p, COLUMN(uint64_t, PROFILE_SEQUENCE_DOCUMENT)[row], err)) != OK)
            return rc;
        add_sequence(s, block, row);
        for (size_t head = 0; head < n_heads; head++)
            if (!s->sliding[head / s->n_kv_heads])
                add_head(&p->heads[head], block, row * n_heads + head, COLUMN(uint32_t, PROFILE_SEQUENCE_LENGTH)[row],
                         (uint64_t)meta->head_window[head] + meta->sinks);
    }
    return OK;
}

/* Heads times cells never take more than about 100 MB. */
static size_t cells_for(size_t n_heads, size_t n_sequences) {
    size_t most = ((size_t)1 << 20) / n_heads;
    most = most < STATISTICS_MAX_CELLS ? most : STATISTICS_MAX_CELLS;
    most = most < n_sequences ? most : n_sequences;
    return most ? most : 1;
}

static int allocate(struct statistics *s, const struct profile_meta *meta, size_t max_cells, struct err *err) {
    s->n_layers = meta->n_layers;
    s->n_kv_heads = meta->n_kv_heads;
    s->has_scores = meta->score != PROFILE_SCORE_NONE;
    s->has_gates = meta->has_gates;
    s->has_attention = meta->record & PROFILE_RECORD_ATTENTION;
    s->has_argmax = meta->schema_minor >= 1;
    s->max_cells = max_cells;
    s->heads = mem_alloc(count_heads(s), sizeof *s->heads, "statistics", err);
    s->layers = mem_alloc(s->n_layers, sizeof *s->layers, "statistics", err);
    s->squares = mem_alloc(count_heads(s), sizeof *s->squares, "statistics", err);
    s->cells = mem_alloc(max_cells * count_heads(s), sizeof *s->cells, "statistics", err);
    s->sliding = mem_alloc(s->n_layers, sizeof *s->sliding, "statistics", err);
    if (!s->heads || !s->layers || !s->squares || !s->cells || !s->sliding)
        return ERR_MEMORY;
    for (size_t layer = 0; layer < s->n_layers; layer++)
        s->sliding[layer] = meta->sliding_window[layer] != 0;
    return OK;
}

/* heads, layers and total out of the cells. */
static void add_up(struct statistics *s) {
    size_t n = count_heads(s);
    memset(s->heads, 0, n * sizeof *s->heads);
    memset(s->layers, 0, s->n_layers * sizeof *s->layers);
    s->total = (struct head_sums){0};
    for (size_t i = 0; i < s->n_cells * n; i++)
        head_sums_add(&s->heads[i % n], &s->cells[i]);
    for (size_t i = 0; i < n; i++) {
        head_sums_add(&s->layers[i / s->n_kv_heads], &s->heads[i]);
        head_sums_add(&s->total, &s->heads[i]);
    }
}

static int read_file(struct pass *p, struct profile *profile, struct err *err) {
    size_t total = profile_n_sequences(profile), rows = BLOCK_ITEMS / count_heads(&p->s) + 1;
    rows = rows < total ? rows : total;
    int rc = allocate_block(profile, &p->block, rows, err);
    for (size_t first = 0; rc == OK && first < total; first += rows) {
        size_t n = total - first < rows ? total - first : rows;
        rc = read_block(profile, &p->block, first, n, err);
        if (rc == OK)
            rc = add_rows(p, n, err);
    }
    if (rc == OK && p->s.n_documents > 0)
        end_document(p);
    return rc;
}

int statistics_compute(struct profile *profile, int corpus, struct statistics *out, struct err *err) {
    struct pass p = {.path = profile_path(profile), .meta = profile_meta(profile), .corpus = corpus};
    size_t n_heads = (size_t)p.meta->n_layers * p.meta->n_kv_heads;
    *out = (struct statistics){0};
    int rc = allocate(&p.s, p.meta, cells_for(n_heads, profile_n_sequences(profile)), err);
    if (rc == OK && !(p.heads = mem_alloc(n_heads, sizeof *p.heads, "statistics", err)))
        rc = ERR_MEMORY;
    if (rc == OK)
        rc = read_file(&p, profile, err);
    for (int i = 0; i < PROFILE_N_FIELDS; i++)
        free(p.block.column[i]);
    free(p.heads);
    if (rc == OK) {
        add_up(&p.s);
        *out = p.s;
    } else {
        statistics_free(&p.s);
    }
    return rc;
}

static int check_join(const struct statistics *a, const struct statistics *b, const char *where, struct err *err) {
    if (a->n_layers != b->n_layers || a->n_kv_heads != b->n_kv_heads)
        return err_set(err, ERR_INPUT, where, "has %zu layers x %zu KV heads, the run before it %zu x %zu", b->n_layers,
                       b->n_kv_heads, a->n_layers, a->n_kv_heads);
    if (memcmp(a->sliding, b->sliding, a->n_layers * sizeof *a->sliding) != 0)
        return err_set(err, ERR_INPUT, where, "has other sliding layers than the run before it");
    if (a->has_gates != b->has_gates || a->has_attention != b->has_attention || a->has_scores != b->has_scores)
        return err_set(err, ERR_INPUT, where, "did not record what the run before it recorded (gates, scores, attention)");
    return OK;
}

/* Cells of a run that could use fewer than another one's are spread anew. */
int statistics_join(struct statistics *to, const struct statistics *from, const char *where, struct err *err) {
    size_t n = count_heads(from), cells = cells_for(n, to->max_cells + from->max_cells);
    int rc = check_join(to, from, where, err);
    struct head_sums *joined = rc == OK ? mem_alloc(cells * n, sizeof *joined, "statistics", err) : NULL;
    if (!joined)
        return rc == OK ? ERR_MEMORY : rc;
    for (size_t i = 0; i < to->n_cells * n; i++)
        head_sums_add(&joined[i], &to->cells[i]);
    for (size_t cell = 0; cell < from->n_cells; cell++)
        for (size_t i = 0; i < n; i++)
            head_sums_add(&joined[(to->n_documents + cell) % cells * n + i], &from->cells[cell * n + i]);
    free(to->cells);
    to->cells = joined;
    to->max_cells = cells;
    to->n_documents += from->n_documents;
    to->n_cells = to->n_documents < cells ? (size_t)to->n_documents : cells;
    for (size_t i = 0; i < n; i++) {
        to->squares[i].density += from->squares[i].density;
        to->squares[i].far += from->squares[i].far;
    }
    to->shortest = to->n_sequences == 0 || (from->n_sequences && from->shortest < to->shortest) ? from->shortest
                                                                                                : to->shortest;
    to->longest = from->longest > to->longest ? from->longest : to->longest;
    to->n_sequences += from->n_sequences;
    to->n_tokens += from->n_tokens;
    to->n_predicted += from->n_predicted;
    to->nll_sum += from->nll_sum;
    to->cache_bytes_used += from->cache_bytes_used;
    to->cache_bytes_allocated += from->cache_bytes_allocated;
    to->cache_bytes_full += from->cache_bytes_full;
    add_up(to);
    return OK;
}

void statistics_free(struct statistics *s) {
    free(s->heads);
    free(s->layers);
    free(s->squares);
    free(s->cells);
    free(s->sliding);
    *s = (struct statistics){0};
}

static const struct {
    const char *name, *caption;
} measures[] = {
    [HEAD_MEASURE_NONE] = {"nothing", "The run recorded neither gates nor attention."},
    [HEAD_MEASURE_DENSITY] = {"long-range density", "Share of the key-value pairs that left the window and were kept."},
    [HEAD_MEASURE_FAR_ATTENTION] = {"far attention",
                                    "Mean attention mass of a query on keys outside the window and the sinks, in the dense "
                                    "model. Not a density of kept pairs."},
};

int head_measure_compute(const struct statistics *s, const struct profile_meta *meta, struct head_measure *out,
                         struct err *err) {
    size_t n = s->n_layers * s->n_kv_heads;
    *out = (struct head_measure){.n_layers = s->n_layers, .n_kv_heads = s->n_kv_heads};
    out->kind = meta->has_gates ? HEAD_MEASURE_DENSITY : s->has_attention ? HEAD_MEASURE_FAR_ATTENTION : HEAD_MEASURE_NONE;
    out->name = measures[out->kind].name;
    out->caption = measures[out->kind].caption;
    out->value = mem_alloc(n, sizeof *out->value, "a head measure", err);
    out->sliding = mem_alloc(s->n_layers, sizeof *out->sliding, "a head measure", err);
    if (!out->value || !out->sliding) {
        head_measure_free(out);
        return ERR_MEMORY;
    }
    memcpy(out->sliding, s->sliding, s->n_layers * sizeof *out->sliding);
    for (size_t i = 0; i < n; i++)
        out->value[i] = out->kind == HEAD_MEASURE_DENSITY         ? head_long_density(&s->heads[i])
                        : out->kind == HEAD_MEASURE_FAR_ATTENTION ? head_far_attention(&s->heads[i])
                                                                  : (double)NAN;
    return OK;
}

void head_measure_free(struct head_measure *measure) {
    free(measure->value);
    free(measure->sliding);
    *measure = (struct head_measure){0};
}

static int read_density(struct profile *profile, int corpus, enum profile_field scored, enum profile_field open,
                        struct bin_density *out, struct err *err) {
    *out = (struct bin_density){0};
    int rc = profile_read_bins(profile, scored, corpus, &out->scored, &out->n_bins, err);
    if (rc == OK)
        rc = profile_read_bins(profile, open, corpus, &out->open, &out->n_bins, err);
    if (rc != OK)
        bin_density_free(out);
    return rc;
}

int statistics_positions(struct profile *profile, int corpus, struct bin_density *out, struct err *err) {
    return read_density(profile, corpus, PROFILE_POSITION_SCORED, PROFILE_POSITION_OPEN, out, err);
}

int statistics_classes(struct profile *profile, int corpus, struct bin_density *out, struct err *err) {
    return read_density(profile, corpus, PROFILE_CLASS_SCORED, PROFILE_CLASS_OPEN, out, err);
}

void bin_density_free(struct bin_density *density) {
    free(density->scored);
    free(density->open);
    *density = (struct bin_density){0};
}

double bin_density_share(const struct bin_density *d, size_t n_layers, size_t n_kv_heads, int layer, int kv_head,
                         size_t bin) {
    double scored = 0, open = 0;
    for (size_t l = 0; l < n_layers; l++)
        for (size_t k = 0; k < n_kv_heads; k++) {
            if ((layer >= 0 && l != (size_t)layer) || (kv_head >= 0 && k != (size_t)kv_head))
                continue;
            scored += d->scored[(l * n_kv_heads + k) * d->n_bins + bin];
            open += d->open[(l * n_kv_heads + k) * d->n_bins + bin];
        }
    return ratio(open, scored);
}
