#include "analyze/cost_model.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

enum { MAX_FILE_BYTES = 1 << 24, MAX_FIELD = 4096 };

enum column { COLUMN_WHAT, COLUMN_BATCH, COLUMN_SPEED, COLUMN_BYTES, N_COLUMNS };
static const char *const column_names[N_COLUMNS] = {"what", "batch", "median_tok_per_s", "kv_bytes"};

/* Where we are in the text, and sums of the fit. */
struct reader {
    const char *at, *end, *where;
    size_t line, place[N_COLUMNS]; /* place: number of the column in a line */
    char field[MAX_FIELD];
    char kept[N_COLUMNS][MAX_FIELD];
};

static int bad_line(const struct reader *r, struct err *err, const char *what) {
    char where[600];
    snprintf(where, sizeof where, "%.500s:%zu", r->where, r->line);
    return err_set(err, ERR_INPUT, where, "%s", what);
}

/* One field into r->field; a quoted one may hold commas, and quotes doubled. *last: the line ends after it. */
static int read_field(struct reader *r, bool *last, struct err *err) {
    size_t n = 0;
    bool quoted = r->at < r->end && *r->at == '"';
    for (r->at += quoted; r->at < r->end; r->at++) {
        if (quoted && *r->at == '"') {
            if (r->at + 1 < r->end && r->at[1] == '"')
                r->at++;
            else
                break;
        } else if (!quoted && (*r->at == ',' || *r->at == '\n')) {
            break;
        }
        if (n + 1 == MAX_FIELD || *r->at == '\0' || *r->at == '\n')
            return bad_line(r, err, *r->at == '\n' ? "a quoted field is not closed"
                                                   : "no CSV: a field of 4096 or a zero byte");
        r->field[n++] = *r->at;
    }
    r->field[n] = '\0';
    if (quoted && r->at++ >= r->end)
        return bad_line(r, err, "a quoted field is not closed");
    if (r->at < r->end && *r->at == '\r')
        r->at++;
    *last = r->at >= r->end || *r->at == '\n';
    if (!*last && *r->at != ',')
        return bad_line(r, err, "a comma is missing after a quoted field");
    r->at++;
    if (!quoted && n && r->field[n - 1] == '\r')
        r->field[n - 1] = '\0';
    return OK;
}

static int read_header(struct reader *r, struct err *err) {
    bool last = false;
    r->line = 1;
    for (int i = 0; i < N_COLUMNS; i++)
        r->place[i] = SIZE_MAX;
    for (size_t column = 0; !last; column++) {
        int rc = read_field(r, &last, err);
        if (rc != OK)
            return rc;
        for (int i = 0; i < N_COLUMNS; i++)
            if (r->place[i] == SIZE_MAX && strcmp(r->field, column_names[i]) == 0)
                r->place[i] = column;
    }
    for (int i = 0; i < N_COLUMNS; i++)
        if (r->place[i] == SIZE_MAX)
            return err_set(err, ERR_INPUT, r->where, "has no column \"%s\" in its first line: did spkv bench print it?",
                           column_names[i]);
    return OK;
}

static int read_row(struct reader *r, struct err *err) {
    bool last = false;
    unsigned found = 0;
    r->line++;
    for (size_t column = 0; !last; column++) {
        int rc = read_field(r, &last, err);
        if (rc != OK)
            return rc;
        for (unsigned i = 0; i < N_COLUMNS; i++)
            if (r->place[i] == column) {
                strcpy(r->kept[i], r->field);
                found |= 1u << i;
            }
    }
    return found == (1u << N_COLUMNS) - 1 ? OK : bad_line(r, err, "has fewer columns than the first line");
}

static int read_number(const struct reader *r, enum column column, double *out, struct err *err) {
    char *end, message[MAX_FIELD + 64];
    *out = strtod(r->kept[column], &end);
    if (*end == '\0' && end != r->kept[column] && isfinite(*out) && *out > 0)
        return OK;
    snprintf(message, sizeof message, "%s is \"%.64s\", expected a positive number", column_names[column], r->kept[column]);
    return bad_line(r, err, message);
}

struct rows {
    double *bytes, *seconds; /* of a step of the batch */
    size_t n, bytes_cap, seconds_cap;
};

static int keep_row(const struct reader *r, uint32_t batch, struct rows *rows, struct err *err) {
    double of_batch, speed, bytes;
    int rc = OK;
    if (strcmp(r->kept[COLUMN_WHAT], "decode") != 0)
        return OK;
    if ((rc = read_number(r, COLUMN_BATCH, &of_batch, err)) != OK ||
        (rc = read_number(r, COLUMN_SPEED, &speed, err)) != OK || (rc = read_number(r, COLUMN_BYTES, &bytes, err)) != OK)
        return rc;
    if (of_batch != (double)batch)
        return OK;
    if ((rc = mem_grow(&rows->bytes, &rows->bytes_cap, rows->n + 1, sizeof(double), "bench rows", err)) != OK ||
        (rc = mem_grow(&rows->seconds, &rows->seconds_cap, rows->n + 1, sizeof(double), "bench rows", err)) != OK)
        return rc;
    rows->bytes[rows->n] = bytes;
    rows->seconds[rows->n++] = of_batch / speed;
    return OK;
}

/* Least squares of (base + per_byte * bytes) / seconds - 1: every row counts alike, short steps too. */
static int fit(const struct rows *rows, const char *where, struct cost_model *out, struct err *err) {
    double w = 0, wx = 0, wxx = 0, wy = 0, wxy = 0, scale = 0;
    for (size_t i = 0; i < rows->n; i++)
        scale = fmax(scale, rows->bytes[i]);
    for (size_t i = 0; i < rows->n; i++) {
        double x = rows->bytes[i] / scale, y = rows->seconds[i], weight = 1 / (y * y);
        w += weight;
        wx += weight * x;
        wxx += weight * x * x;
        wy += weight * y;
        wxy += weight * x * y;
    }
    double spread = w * wxx - wx * wx;
    if (rows->n < 2 || !(spread > 1e-9 * w * wxx))
        return err_set(err, ERR_INPUT, where, "has %zu decode rows for a batch of %u: rows of at least two different "
                       "kv_bytes are needed (spkv bench --contexts 512,4096 --batches %u)", rows->n, out->batch, out->batch);
    out->per_byte_s = (w * wxy - wx * wy) / spread / scale;
    out->base_s = (wy - out->per_byte_s * scale * wx) / w;
    if (!(out->per_byte_s > 0))
        return err_set(err, ERR_INPUT, where, "says that decoding does not get slower with more bytes of cache: measure "
                       "longer contexts or a larger batch");
    out->n_rows = rows->n;
    out->largest_bytes = scale;
    for (size_t i = 0; i < rows->n; i++)
        out->worst_frac = fmax(out->worst_frac,
                               fabs((out->base_s + out->per_byte_s * rows->bytes[i]) / rows->seconds[i] - 1));
    return OK;
}

int cost_model_parse(const char *text, size_t n, const char *where, uint32_t batch, struct cost_model *out,
                     struct err *err) {
    struct reader *r = mem_alloc(1, sizeof *r, "a CSV reader", err);
    struct rows rows = {0};
    *out = (struct cost_model){.batch = batch};
    if (!r)
        return ERR_MEMORY;
    r->at = text;
    r->end = text + n;
    r->where = where;
    int rc = read_header(r, err);
    while (rc == OK && r->at < r->end) {
        if (*r->at == '\n') {
            r->at++;
            r->line++;
            continue;
        }
        rc = read_row(r, err);
        if (rc == OK)
            rc = keep_row(r, batch, &rows, err);
    }
    if (rc == OK)
        rc = fit(&rows, where, out, err);
    free(rows.bytes);
    free(rows.seconds);
    free(r);
    return rc;
}

int cost_model_read(const char *path, uint32_t batch, struct cost_model *out, struct err *err) {
    char *text;
    size_t n;
    int rc = file_read_all(path, MAX_FILE_BYTES, &text, &n, err);
    if (rc != OK)
        return rc;
    rc = cost_model_parse(text, n, path, batch, out, err);
    free(text);
    return rc;
}

double cost_model_step(const struct cost_model *model, double bytes_per_sequence) {
    return model->base_s + model->per_byte_s * model->batch * bytes_per_sequence;
}
