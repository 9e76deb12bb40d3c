#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/h5.h"
#include "analyze/profile_set.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

enum { BLOCK_BYTES = 1 << 22, MAX_LINES = 50 };

struct check {
    struct profile *profile;
    const char *path;
    void (*report)(void *self, const char *text);
    void *self;
    size_t n_problems;
    size_t n_heads;          /* n_layers * n_kv_heads */
    uint64_t *scored, *open; /* (corpus, group, layer, kv_head) sums over rows */
    uint64_t *queries;       /* likewise, NULL without attention */
};

static void problem(struct check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void problem(struct check *c, const char *format, ...) {
    char text[1024];
    struct str line = {0};
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (++c->n_problems > MAX_LINES)
        return;
    str_printf(&line, "%s: %s", c->path, c->n_problems == MAX_LINES ? "more problems follow and are only counted" : text);
    c->report(c->self, str_text(&line));
    str_free(&line);
}

/* A failed read is a problem of the file, anything else ends the check. */
static int take(struct check *c, struct err *err) {
    if (err->code != ERR_INPUT)
        return err->code;
    problem(c, "%s", err->message);
    *err = (struct err){0};
    return OK;
}

/* A block of rows of every per-sequence field, as bytes. */
struct block {
    void *column[PROFILE_N_FIELDS];
    size_t n;
};

#define COLUMN(type, block, field) ((const type *)(block)->column[field])

static void block_free(struct block *b) {
    for (int i = 0; i < PROFILE_N_FIELDS; i++)
        free(b->column[i]);
}

static int block_read(struct check *c, struct block *b, size_t first, size_t n, bool *good, struct err *err) {
    struct profile *p = c->profile;
    b->n = n;
    *good = true;
    for (int i = 0; i < PROFILE_N_FIELDS; i++) {
        enum profile_field field = (enum profile_field)i;
        if (profile_field_kind(field) != FIELD_ROWS || !profile_has(p, field))
            continue;
        if (!b->column[i] &&
            !(b->column[i] = mem_alloc(n * profile_row_items(p, field), profile_item_bytes(p, field), "a block", err)))
            return ERR_MEMORY;
        if (profile_read_rows(p, field, first, n, b->column[i], err) != OK) {
            int rc = take(c, err);
            if (rc != OK)
                return rc;
            *good = false;
        }
    }
    return OK;
}

static void check_head(struct check *c, const struct block *b, size_t row, size_t head) {
    const struct profile_meta *meta = profile_meta(c->profile);
    size_t i = row * c->n_heads + head, layer = head / meta->n_kv_heads, kv_head = head % meta->n_kv_heads;
    uint64_t length = COLUMN(uint32_t, b, PROFILE_SEQUENCE_LENGTH)[row];
    uint64_t index = COLUMN(uint64_t, b, PROFILE_SEQUENCE_INDEX)[row];
    uint64_t scored = COLUMN(uint32_t, b, PROFILE_N_SCORED)[i], open = COLUMN(uint32_t, b, PROFILE_N_OPEN)[i];
    uint64_t left = COLUMN(uint32_t, b, PROFILE_N_LEFT_WINDOW)[i], kept = COLUMN(uint32_t, b, PROFILE_N_KEPT)[i];
    uint64_t visible = COLUMN(uint64_t, b, PROFILE_VISIBLE_PAIRS)[i];
    bool sliding = meta->sliding_window[layer] != 0;
    char at[96];
    snprintf(at, sizeof at, "sequence %llu, layer %zu, head %zu", (unsigned long long)index, layer, kv_head);
    if (sliding && (scored || open || left || kept || visible))
        problem(c, "%s: a sliding layer of the model has counts", at);
    if (open > scored || (scored != 0 && scored != length))
        problem(c, "%s: n_scored %llu, n_open %llu in a sequence of %llu tokens", at, (unsigned long long)scored,
                (unsigned long long)open, (unsigned long long)length);
    if (kept > left || left > length)
        problem(c, "%s: n_kept %llu, n_left_window %llu in a sequence of %llu tokens", at, (unsigned long long)kept,
                (unsigned long long)left, (unsigned long long)length);
    if (visible > length * (length + 1) / 2)
        problem(c, "%s: %llu visible pairs, at most %llu are possible", at, (unsigned long long)visible,
                (unsigned long long)(length * (length + 1) / 2));
    if (meta->score != PROFILE_SCORE_NONE) {
        double sum = COLUMN(double, b, PROFILE_UTILITY_SUM)[i];
        if (!isfinite(sum) || (meta->score == PROFILE_SCORE_SIGMOID && (sum < 0 || sum > (double)scored)))
            problem(c, "%s: utility_sum is %g over %llu scores", at, sum, (unsigned long long)scored);
    }
    if (c->queries) {
        double far = COLUMN(double, b, PROFILE_FAR_ATTENTION_SUM)[i];
        double sink = COLUMN(double, b, PROFILE_SINK_ATTENTION_SUM)[i];
        uint64_t queries = COLUMN(uint64_t, b, PROFILE_ATTENTION_QUERIES)[i];
        if (!(far >= 0 && sink >= 0 && far + sink <= (double)queries * (1 + 1e-4) + 1e-4) || queries > length)
            problem(c, "%s: attention of %g far and %g on sinks over %llu queries", at, far, sink,
                    (unsigned long long)queries);
    }
}

/* Where the sums of a row belong, or SIZE_MAX when the row says nonsense. */
static size_t slice_of(struct check *c, const struct block *b, size_t row) {
    const struct profile_meta *meta = profile_meta(c->profile);
    uint32_t source = COLUMN(uint32_t, b, PROFILE_SEQUENCE_SOURCE)[row];
    if (source < meta->n_sources)
        return meta->sources[source].corpus * (size_t)PROFILE_N_GROUPS +
               COLUMN(uint64_t, b, PROFILE_SEQUENCE_DOCUMENT)[row] % PROFILE_N_GROUPS;
    problem(c, "sequence %llu: sequence_source is %u, there are %zu",
            (unsigned long long)COLUMN(uint64_t, b, PROFILE_SEQUENCE_INDEX)[row], source, meta->n_sources);
    return SIZE_MAX;
}

static void check_row(struct check *c, const struct block *b, size_t row) {
    const struct profile_meta *meta = profile_meta(c->profile);
    unsigned long long index = COLUMN(uint64_t, b, PROFILE_SEQUENCE_INDEX)[row];
    uint32_t length = COLUMN(uint32_t, b, PROFILE_SEQUENCE_LENGTH)[row];
    uint32_t predicted = COLUMN(uint32_t, b, PROFILE_N_PREDICTED)[row];
    double nll = COLUMN(double, b, PROFILE_NLL_SUM)[row];
    uint64_t used = COLUMN(uint64_t, b, PROFILE_CACHE_BYTES_USED)[row];
    uint64_t allocated = COLUMN(uint64_t, b, PROFILE_CACHE_BYTES_ALLOCATED)[row];
    if (length == 0 || length > meta->max_length || predicted >= length)
        problem(c, "sequence %llu: %u tokens, %u of them predicted, max_length %u", index, length, predicted,
                meta->max_length);
    if (!isfinite(nll) || nll < 0)
        problem(c, "sequence %llu: nll_sum is %g", index, nll);
    if (profile_has(c->profile, PROFILE_N_ARGMAX) && COLUMN(uint32_t, b, PROFILE_N_ARGMAX)[row] > predicted)
        problem(c, "sequence %llu: n_argmax is %u, n_predicted %u", index, COLUMN(uint32_t, b, PROFILE_N_ARGMAX)[row],
                predicted);
    if (used > allocated)
        problem(c, "sequence %llu: more cache bytes used (%llu) than allocated (%llu)", index, (unsigned long long)used,
                (unsigned long long)allocated);
    size_t slice = slice_of(c, b, row);
    for (size_t head = 0; head < c->n_heads; head++) {
        size_t i = row * c->n_heads + head;
        check_head(c, b, row, head);
        if (slice == SIZE_MAX)
            continue;
        c->scored[slice * c->n_heads + head] += COLUMN(uint32_t, b, PROFILE_N_SCORED)[i];
        c->open[slice * c->n_heads + head] += COLUMN(uint32_t, b, PROFILE_N_OPEN)[i];
        if (c->queries)
            c->queries[slice * c->n_heads + head] += COLUMN(uint64_t, b, PROFILE_ATTENTION_QUERIES)[i];
    }
}

/* Token-level losses of one row against its counters. */
static void check_losses(struct check *c, const struct block *b, size_t row, const float *nll, size_t n) {
    unsigned long long index = COLUMN(uint64_t, b, PROFILE_SEQUENCE_INDEX)[row];
    double sum = 0, expected = COLUMN(double, b, PROFILE_NLL_SUM)[row];
    uint32_t predicted = 0;
    for (size_t t = 0; t < n; t++)
        if (!isnan(nll[t])) {
            sum += nll[t];
            predicted++;
        }
    if (predicted != COLUMN(uint32_t, b, PROFILE_N_PREDICTED)[row] || !(fabs(sum - expected) <= 1e-5 * (1 + fabs(expected))))
        problem(c, "sequence %llu: tokens/nll has %u values of sum %g, expected %u of sum %g", index, predicted, sum,
                COLUMN(uint32_t, b, PROFILE_N_PREDICTED)[row], expected);
}

static void check_argmax(struct check *c, const struct block *b, size_t row, const uint8_t *is_argmax, size_t n) {
    uint32_t ones = 0, known = 0;
    for (size_t t = 0; t < n; t++) {
        ones += is_argmax[t] == 1;
        known += is_argmax[t] != UINT8_MAX;
    }
    if (ones != COLUMN(uint32_t, b, PROFILE_N_ARGMAX)[row] || known != COLUMN(uint32_t, b, PROFILE_N_PREDICTED)[row])
        problem(c, "sequence %llu: tokens/is_argmax has %u values, %u of them 1, expected %u and %u",
                (unsigned long long)COLUMN(uint64_t, b, PROFILE_SEQUENCE_INDEX)[row], known, ones,
                COLUMN(uint32_t, b, PROFILE_N_PREDICTED)[row], COLUMN(uint32_t, b, PROFILE_N_ARGMAX)[row]);
}

static void check_opens(struct check *c, const struct block *b, size_t row, const uint8_t *open, size_t n) {
    unsigned long long index = COLUMN(uint64_t, b, PROFILE_SEQUENCE_INDEX)[row];
    for (size_t head = 0; head < c->n_heads; head++) {
        uint64_t sum = 0;
        for (size_t t = 0; t < n; t++)
            sum += open[t * c->n_heads + head] == 1;
        if (sum != COLUMN(uint32_t, b, PROFILE_N_OPEN)[row * c->n_heads + head])
            problem(c, "sequence %llu, head %zu of all: tokens/open has %llu open, n_open says %u", index, head,
                    (unsigned long long)sum, COLUMN(uint32_t, b, PROFILE_N_OPEN)[row * c->n_heads + head]);
    }
}

static int check_tokens(struct check *c, const struct block *b, size_t row, size_t profile_row, struct err *err) {
    struct profile *p = c->profile;
    uint64_t first;
    size_t n, largest = c->n_heads * 4;
    void *data = NULL;
    if (!profile_has(p, PROFILE_TOKEN_ID))
        return OK;
    int rc = profile_token_range(p, profile_row, &first, &n, err);
    if (rc == OK && n != COLUMN(uint32_t, b, PROFILE_SEQUENCE_LENGTH)[row]) {
        problem(c, "row %zu: tokens/row_splits gives it %zu tokens, sequence_length says %u", profile_row, n,
                COLUMN(uint32_t, b, PROFILE_SEQUENCE_LENGTH)[row]);
        return OK;
    }
    if (rc == OK && !(data = mem_alloc(n, largest, "token values", err)))
        return ERR_MEMORY;
    for (int i = 0; rc == OK && i < PROFILE_N_FIELDS; i++) {
        enum profile_field field = (enum profile_field)i;
        if (profile_field_kind(field) != FIELD_TOKENS || !profile_has(p, field))
            continue;
        if (profile_read_rows(p, field, first, n, data, err) != OK)
            rc = take(c, err);
        else if (field == PROFILE_TOKEN_NLL)
            check_losses(c, b, row, data, n);
        else if (field == PROFILE_TOKEN_IS_ARGMAX)
            check_argmax(c, b, row, data, n);
        else if (field == PROFILE_TOKEN_OPEN)
            check_opens(c, b, row, data, n);
    }
    free(data);
    return rc;
}

static int check_rows(struct check *c, struct err *err) {
    size_t n_rows = profile_n_sequences(c->profile), block = BLOCK_BYTES / (c->n_heads * 8) + 1;
    struct block b = {0};
    int rc = OK;
    block = block < n_rows ? block : n_rows;
    for (size_t first = 0; rc == OK && first < n_rows; first += block) {
        bool good;
        rc = block_read(c, &b, first, n_rows - first < block ? n_rows - first : block, &good, err);
        for (size_t row = 0; rc == OK && good && row < b.n; row++) {
            check_row(c, &b, row);
            rc = check_tokens(c, &b, row, first + row, err);
        }
    }
    block_free(&b);
    return rc;
}

/* The bins of every (corpus, group, layer, head) against what the rows add up to. */
static int check_sum(struct check *c, enum profile_field field, const uint64_t *expected, struct err *err) {
    struct profile *p = c->profile;
    void *raw;
    if (!profile_has(p, field) || !expected)
        return OK;
    if (profile_read_sum(p, field, &raw, err) != OK)
        return take(c, err);
    size_t n_slices = p->parts[0].dims.n[AXIS_CORPUS] * PROFILE_N_GROUPS * c->n_heads;
    size_t n_bins = profile_row_items(p, field) / n_slices;
    bool real = field == PROFILE_ATTENTION_DISTANCE;
    for (size_t i = 0; i < n_slices; i++) {
        double mass = 0;
        uint64_t count = 0;
        for (size_t bin = 0; bin < n_bins; bin++)
            if (real)
                mass += ((const double *)raw)[i * n_bins + bin];
            else
                count += ((const uint64_t *)raw)[i * n_bins + bin];
        if (real ? !(fabs(mass - (double)expected[i]) <= 1e-4 * (double)expected[i] + 1e-4) : count != expected[i])
            problem(c, "%s: the bins of corpus %zu, group %zu, head %zu of all add up to %.10g, the sequences to %llu",
                    profile_field_name(field), i / c->n_heads / PROFILE_N_GROUPS, i / c->n_heads % PROFILE_N_GROUPS,
                    i % c->n_heads, real ? mass : (double)count, (unsigned long long)expected[i]);
    }
    free(raw);
    return OK;
}

static int check_sums(struct check *c, struct err *err) {
    int rc = check_sum(c, PROFILE_UTILITY_HISTOGRAM, c->scored, err);
    if (rc == OK)
        rc = check_sum(c, PROFILE_POSITION_SCORED, c->scored, err);
    if (rc == OK)
        rc = check_sum(c, PROFILE_POSITION_OPEN, c->open, err);
    if (rc == OK)
        rc = check_sum(c, PROFILE_CLASS_SCORED, c->scored, err);
    if (rc == OK)
        rc = check_sum(c, PROFILE_CLASS_OPEN, c->open, err);
    return rc == OK ? check_sum(c, PROFILE_ATTENTION_DISTANCE, c->queries, err) : rc;
}

/* What no counter needs, but other readers do. */
static int check_objects(struct check *c, struct err *err) {
    int rc = OK;
    for (size_t i = 0; rc == OK && i < c->profile->n_parts; i++)
        if (h5_visit(c->profile->parts[i].path, err) != OK)
            rc = take(c, err);
    return rc;
}

static void check_whole(struct check *c) {
    const struct profile_meta *meta = profile_meta(c->profile);
    struct err err = {0};
    if (meta->complete && meta->n_shards == 1 && profile_set_complete(c->profile, meta->n_sequences_total, &err) != OK)
        problem(c, "says complete, but %s", err.message);
}

static int check_profile(struct check *c, struct err *err) {
    const struct profile_meta *meta = profile_meta(c->profile);
    size_t n = meta->n_corpora * PROFILE_N_GROUPS;
    c->n_heads = (size_t)meta->n_layers * meta->n_kv_heads;
    int rc = size_mul(n, c->n_heads, &n) ? OK : err_memory(err, "sums", n);
    if (rc == OK && (!(c->scored = mem_alloc(n, sizeof *c->scored, "sums", err)) ||
                     !(c->open = mem_alloc(n, sizeof *c->open, "sums", err)) ||
                     (profile_has(c->profile, PROFILE_ATTENTION_QUERIES) &&
                      !(c->queries = mem_alloc(n, sizeof *c->queries, "sums", err)))))
        rc = ERR_MEMORY;
    check_whole(c);
    if (rc == OK)
        rc = check_objects(c, err);
    if (rc == OK)
        rc = check_rows(c, err);
    if (rc == OK)
        rc = check_sums(c, err);
    free(c->queries);
    free(c->open);
    free(c->scored);
    return rc;
}

/* A directory is checked segment by segment first, so that one broken segment does not hide the others. */
static int check_segments(struct check *c, char **files, size_t *n, struct err *err) {
    size_t kept = 0;
    for (size_t i = 0; i < *n; i++) {
        struct profile_part part;
        int rc = profile_part_open(files[i], &part, err);
        if (rc == OK) {
            profile_part_free(&part);
            char *file = files[kept];
            files[kept++] = files[i];
            files[i] = file;
        } else if ((rc = err->code == ERR_INPUT ? OK : rc) == OK) {
            problem(c, "%s: %s", file_basename(files[i]), err->message);
            *err = (struct err){0};
        } else
            return rc;
    }
    *n = kept;
    return OK;
}

static int open_for_check(struct check *c, struct err *err) {
    char **files;
    size_t n, n_good;
    if (!file_is_dir(c->path)) /* or absent */
        return profile_open(c->path, &c->profile, err);
    int rc = profile_list_segments(c->path, &files, &n, err);
    if (rc != OK)
        return rc;
    n_good = n;
    rc = check_segments(c, files, &n_good, err);
    if (rc == OK && n_good == 0)
        problem(c, "holds no readable segment");
    else if (rc == OK)
        rc = profile_open_set((const char *const *)files, n_good, c->path, &c->profile, err);
    profile_free_segments(files, n);
    return rc;
}

int profile_check(const char *path, void (*report)(void *self, const char *text), void *self, size_t *n_problems,
                  struct err *err) {
    struct check c = {.path = path, .report = report, .self = self};
    struct err local = {0};
    int rc = open_for_check(&c, &local);
    if (rc == ERR_INPUT)
        rc = take(&c, &local);
    else if (rc == OK && c.profile)
        rc = check_profile(&c, &local);
    if (rc != OK)
        err_set(err, rc, local.where, "%s", local.message);
    profile_close(c.profile);
    *n_problems = c.n_problems;
    return rc;
}
