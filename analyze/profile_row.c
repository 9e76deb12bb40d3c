#include "analyze/profile_row.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* One allocation of (a, b, c) items. */
static void *grid(size_t a, size_t b, size_t c, size_t item, bool *failed, struct err *err) {
    size_t n = SIZE_MAX;
    if (size_mul(a, b, &n) && !size_mul(n, c, &n))
        n = SIZE_MAX;
    void *data = mem_alloc(n, item, "counters of a sequence", err);
    *failed |= !data;
    return data;
}

static void allocate_tokens(struct profile_row *row, const struct profile_row_plan *plan, bool *failed, struct err *err) {
    for (int i = 0; i < PROFILE_N_FIELDS; i++) {
        enum profile_field field = (enum profile_field)i;
        if (profile_field_kind(field) != FIELD_TOKENS || !profile_field_present(field, plan->meta))
            continue;
        size_t items = profile_field_items(field, &plan->dims), bytes = h5_type_size(profile_field_type(field, plan->meta));
        row->token[i] = grid(row->n_tok, items, 1, bytes, failed, err);
        if (!row->token[i])
            return;
        const void *fill = profile_field_fill(field, plan->meta);
        for (size_t k = 0; k < row->n_tok * items; k++)
            memcpy((char *)row->token[i] + k * bytes, fill, bytes);
    }
}

int profile_row_create(const struct profile_row_plan *plan, const struct profile_sequence *sequence,
                       struct profile_row **out, struct err *err) {
    const size_t *n = plan->dims.n;
    size_t layers = n[AXIS_LAYER], heads = n[AXIS_KV_HEAD];
    bool failed = false, scored = plan->meta->score != PROFILE_SCORE_NONE;
    bool attention = plan->meta->record & PROFILE_RECORD_ATTENTION;
    struct profile_row *row = grid(1, 1, 1, sizeof *row, &failed, err);
    if (!row)
        return ERR_MEMORY;
    row->index = sequence->index;
    row->document = sequence->document;
    row->offset = sequence->offset;
    row->source = sequence->source;
    row->corpus = sequence->corpus;
    row->n_tok = sequence->n_tok;
    row->n_scored = grid(layers, 1, 1, sizeof *row->n_scored, &failed, err);
    row->n_open = grid(layers, heads, 1, sizeof *row->n_open, &failed, err);
    row->position_scored = grid(layers, n[AXIS_POSITION_BIN], 1, sizeof *row->position_scored, &failed, err);
    row->position_open = grid(layers, heads, n[AXIS_POSITION_BIN], sizeof *row->position_open, &failed, err);
    row->class_scored = grid(layers, n[AXIS_TOKEN_CLASS], 1, sizeof *row->class_scored, &failed, err);
    row->class_open = grid(layers, heads, n[AXIS_TOKEN_CLASS], sizeof *row->class_open, &failed, err);
    row->n_left_window = grid(layers, heads, 1, sizeof *row->n_left_window, &failed, err);
    row->n_kept = grid(layers, heads, 1, sizeof *row->n_kept, &failed, err);
    row->visible_pairs = grid(layers, heads, 1, sizeof *row->visible_pairs, &failed, err);
    if (scored) {
        row->utility_sum = grid(layers, heads, 1, sizeof *row->utility_sum, &failed, err);
        row->histogram = grid(layers, heads, n[AXIS_UTILITY_BIN], sizeof *row->histogram, &failed, err);
    }
    if (attention) {
        row->far_sum = grid(layers, heads, 1, sizeof *row->far_sum, &failed, err);
        row->sink_sum = grid(layers, heads, 1, sizeof *row->sink_sum, &failed, err);
        row->distance = grid(layers, heads, n[AXIS_DISTANCE_BIN], sizeof *row->distance, &failed, err);
    }
    allocate_tokens(row, plan, &failed, err);
    if (failed) {
        profile_row_free(row);
        return ERR_MEMORY;
    }
    *out = row;
    return OK;
}

void profile_row_free(struct profile_row *row) {
    if (!row)
        return;
    void *const owned[] = {row->n_scored,     row->n_open,      row->utility_sum, row->histogram,     row->position_scored,
                           row->position_open, row->class_scored, row->class_open,  row->n_left_window, row->n_kept,
                           row->visible_pairs, row->far_sum,      row->sink_sum,    row->distance};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        free(owned[i]);
    for (int i = 0; i < PROFILE_N_FIELDS; i++)
        free(row->token[i]);
    free(row);
}

/* Scores of one layer: sums and histogram. x is (n, heads). */
static void add_scores(struct profile_row *row, const struct score_bins *bins, size_t layer, size_t heads, size_t n,
                       const float *x) {
    double *sum = row->utility_sum + layer * heads;
    uint32_t *histogram = row->histogram + layer * heads * bins->n_bins;
    for (size_t t = 0; t < n; t++)
        for (size_t k = 0; k < heads; k++) {
            float u = x[t * heads + k];
            sum[k] += u;
            histogram[k * bins->n_bins + score_bin(bins, u)]++;
        }
}

/* Open gates of one layer between two positions of the same position bin. open is (n, heads). */
static void add_open(struct profile_row *row, size_t layer, size_t heads, size_t n_bins, size_t bin, size_t n,
                     const uint8_t *open) {
    for (size_t k = 0; k < heads; k++) {
        uint32_t count = 0;
        for (size_t t = 0; t < n; t++)
            count += open[t * heads + k];
        row->n_open[layer * heads + k] += count;
        row->position_open[(layer * heads + k) * n_bins + bin] += count;
    }
}

/* Counts by position: ranges of tokens are cut where position bins end. open NULL: no gates. */
static void add_positions(struct profile_row *row, size_t layer, size_t heads, size_t n_bins, size_t first, size_t n,
                          const uint8_t *open) {
    for (size_t done = 0; done < n;) {
        size_t bin = position_bin((uint32_t)(first + done)), end = (size_t)position_edge(bin + 1) - first;
        size_t take = (end < n ? end : n) - done;
        row->position_scored[layer * n_bins + bin] += (uint32_t)take;
        if (open)
            add_open(row, layer, heads, n_bins, bin, take, open + done * heads);
        done += take;
    }
}

static void add_classes(struct profile_row *row, size_t layer, size_t heads, size_t n_classes, size_t n,
                        const uint8_t *classes, const uint8_t *open) {
    uint32_t *scored = row->class_scored + layer * n_classes, *count = row->class_open + layer * heads * n_classes;
    for (size_t t = 0; t < n; t++) {
        scored[classes[t]]++;
        for (size_t k = 0; open && k < heads; k++)
            count[k * n_classes + classes[t]] += open[t * heads + k];
    }
}

/* Copies (n, heads) values of one layer into a per-token field. */
static void put_tokens(struct profile_row *row, const struct profile_row_plan *plan, enum profile_field field, size_t layer,
                       size_t first, size_t n, const void *from, size_t item) {
    size_t heads = plan->dims.n[AXIS_KV_HEAD], layers = plan->dims.n[AXIS_LAYER];
    char *to = (char *)row->token[field] + (first * layers + layer) * heads * item;
    for (size_t t = 0; t < n; t++)
        memcpy(to + t * layers * heads * item, (const char *)from + t * heads * item, heads * item);
}

static void put_rounded(struct profile_row *row, const struct profile_row_plan *plan, size_t layer, size_t first, size_t n,
                        const float *from) {
    size_t heads = plan->dims.n[AXIS_KV_HEAD], layers = plan->dims.n[AXIS_LAYER];
    uint8_t *to = (uint8_t *)row->token[PROFILE_TOKEN_UTILITY] + (first * layers + layer) * heads;
    for (size_t t = 0; t < n; t++)
        for (size_t k = 0; k < heads; k++) {
            float u = from[t * heads + k];
            u = u > 0 ? u : 0;
            to[t * layers * heads + k] = (uint8_t)(254 * (u < 1 ? u : 1) + 0.5f);
        }
}

static void put_layer_tokens(struct profile_row *row, const struct profile_row_plan *plan, const struct profile_gates *g,
                             size_t layer) {
    size_t at = layer * g->layer_stride;
    if (row->token[PROFILE_TOKEN_UTILITY] && (plan->meta->record & PROFILE_RECORD_UTILITY_U8))
        put_rounded(row, plan, layer, g->first, g->n, g->utility + at);
    else if (row->token[PROFILE_TOKEN_UTILITY])
        put_tokens(row, plan, PROFILE_TOKEN_UTILITY, layer, g->first, g->n, g->utility + at, sizeof(float));
    if (row->token[PROFILE_TOKEN_OPEN])
        put_tokens(row, plan, PROFILE_TOKEN_OPEN, layer, g->first, g->n, g->open + at, 1);
    if (row->token[PROFILE_TOKEN_FUTURE_MAX] && g->future_max)
        put_tokens(row, plan, PROFILE_TOKEN_FUTURE_MAX, layer, g->first, g->n, g->future_max + at, sizeof(float));
    if (row->token[PROFILE_TOKEN_FUTURE_MEAN] && g->future_mean)
        put_tokens(row, plan, PROFILE_TOKEN_FUTURE_MEAN, layer, g->first, g->n, g->future_mean + at, sizeof(float));
}

static int check_range(const struct profile_row *row, const struct profile_row_plan *plan, const struct profile_gates *g,
                       struct err *err) {
    const struct profile_meta *meta = plan->meta;
    bool scores = g->utility || meta->score == PROFILE_SCORE_NONE, gates = g->open || !meta->has_gates;
    if (g->first > row->n_tok || g->n > row->n_tok - g->first)
        return err_set(err, ERR_INPUT, "profile", "%zu tokens from %zu on reported of a sequence of %zu", g->n, g->first,
                       row->n_tok);
    if (!scores || !gates)
        return err_set(err, ERR_INPUT, "profile", "policy %s says it has %s, but none were reported", meta->policy,
                       scores ? "gates" : "scores");
    if (!(meta->record & PROFILE_RECORD_CLASSES))
        return OK;
    if (!g->sequence->classes)
        return err_set(err, ERR_INPUT, "profile", "token classes are to be recorded, but sequence %llu has none",
                       (unsigned long long)row->index);
    for (size_t t = g->first; t < g->first + g->n; t++)
        if (g->sequence->classes[t] >= meta->n_classes)
            return err_set(err, ERR_INPUT, "profile", "token class %u at token %zu, there are %zu",
                           g->sequence->classes[t], t, meta->n_classes);
    return OK;
}

/* A NaN shows in the sums. */
static int check_sums(const struct profile_row *row, const struct profile_row_plan *plan, struct err *err) {
    size_t heads = plan->dims.n[AXIS_KV_HEAD], n = plan->dims.n[AXIS_LAYER] * heads;
    for (size_t i = 0; row->utility_sum && i < n; i++)
        if (isnan(row->utility_sum[i]))
            return err_set(err, ERR_INPUT, "profile", "a score of layer %zu, KV head %zu is NaN in sequence %llu: the "
                           "model's numbers overflow (try --dtype f32)", i / heads, i % heads,
                           (unsigned long long)row->index);
    return OK;
}

int profile_row_add_gates(struct profile_row *row, const struct profile_row_plan *plan, const struct profile_gates *g,
                          struct err *err) {
    const struct profile_meta *meta = plan->meta;
    size_t heads = plan->dims.n[AXIS_KV_HEAD];
    int rc = check_range(row, plan, g, err);
    if (rc != OK || g->n == 0)
        return rc;
    for (size_t layer = 0; layer < plan->dims.n[AXIS_LAYER]; layer++) {
        const uint8_t *open = meta->has_gates ? g->open + layer * g->layer_stride : NULL;
        if (meta->sliding_window[layer] || (g->gated && !g->gated[layer]))
            continue;
        if (meta->has_gates || meta->score != PROFILE_SCORE_NONE) {
            row->n_scored[layer] += (uint32_t)g->n;
            add_positions(row, layer, heads, plan->dims.n[AXIS_POSITION_BIN], g->first, g->n, open);
            if (meta->record & PROFILE_RECORD_CLASSES)
                add_classes(row, layer, heads, plan->dims.n[AXIS_TOKEN_CLASS], g->n, g->sequence->classes + g->first, open);
        }
        if (meta->score != PROFILE_SCORE_NONE)
            add_scores(row, &plan->scores, layer, heads, g->n, g->utility + layer * g->layer_stride);
        put_layer_tokens(row, plan, g, layer);
    }
    return check_sums(row, plan, err);
}

/* Sums of doubles depend on their order, and with it on how a run was cut into segments and shards. Multiples of 2^-20 add
 * up exactly below 2^33, in any order; a mass is known to no better than its f32 softmax anyway. */
static double exact(double mass) {
    return nearbyint(mass * 0x1p20) * 0x1p-20;
}

static int take_attention(struct profile_row *row, const struct profile_row_plan *plan, const struct profile_counters *c,
                          struct err *err) {
    size_t n = plan->dims.n[AXIS_LAYER] * plan->dims.n[AXIS_KV_HEAD];
    if (!row->far_sum)
        return OK;
    if (!c->far_sum || !c->sink_sum || !c->distance_sum)
        return err_set(err, ERR_INPUT, "profile", "attention is to be recorded, but sequence %llu came without it",
                       (unsigned long long)row->index);
    memcpy(row->far_sum, c->far_sum, n * sizeof *row->far_sum);
    memcpy(row->sink_sum, c->sink_sum, n * sizeof *row->sink_sum);
    for (size_t i = 0; i < n * plan->dims.n[AXIS_DISTANCE_BIN]; i++)
        row->distance[i] = exact(c->distance_sum[i]);
    return OK;
}

/* Every layer that reported anything must have reported every token. */
static int check_scored(const struct profile_row *row, const struct profile_row_plan *plan, struct err *err) {
    for (size_t layer = 0; layer < plan->dims.n[AXIS_LAYER]; layer++)
        if (row->n_scored[layer] != 0 && row->n_scored[layer] != row->n_tok)
            return err_set(err, ERR_INPUT, "profile", "sequence %llu has %zu tokens, layer %zu reported %u gates",
                           (unsigned long long)row->index, row->n_tok, layer, row->n_scored[layer]);
    return OK;
}

/* Tokens without a loss keep the value that means "missing". */
static void put_argmax(struct profile_row *row, const struct profile_counters *c) {
    uint8_t *to = row->token[PROFILE_TOKEN_IS_ARGMAX];
    for (size_t t = 0; t < row->n_tok; t++)
        if (!isnan(c->nll[t]))
            to[t] = c->is_argmax[t];
}

int profile_row_finish(struct profile_row *row, const struct profile_row_plan *plan, const struct profile_counters *c,
                       struct err *err) {
    size_t n = plan->dims.n[AXIS_LAYER] * plan->dims.n[AXIS_KV_HEAD];
    int rc = check_scored(row, plan, err);
    if (rc == OK)
        rc = take_attention(row, plan, c, err);
    if (rc != OK)
        return rc;
    row->n_predicted = (uint32_t)c->n_predicted;
    row->n_argmax = (uint32_t)c->n_argmax;
    row->nll_sum = c->nll_sum;
    row->bytes_used = c->cache_bytes_used;
    row->bytes_allocated = c->cache_bytes_allocated;
    row->bytes_full = c->cache_bytes_full;
    memcpy(row->n_left_window, c->n_left_window, n * sizeof *row->n_left_window);
    memcpy(row->n_kept, c->n_kept, n * sizeof *row->n_kept);
    memcpy(row->visible_pairs, c->visible_pairs, n * sizeof *row->visible_pairs);
    if (row->token[PROFILE_TOKEN_ID]) {
        memcpy(row->token[PROFILE_TOKEN_ID], c->sequence->tokens, row->n_tok * sizeof(int32_t));
        memcpy(row->token[PROFILE_TOKEN_NLL], c->nll, row->n_tok * sizeof(float));
        put_argmax(row, c);
    }
    row->finished = true;
    return OK;
}
