#include "analyze/cost_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/mem.h"

enum column { COLUMN_WHAT, COLUMN_BATCH, COLUMN_SPEED, COLUMN_BYTES, N_COLUMNS };
static const char *const column_names[N_COLUMNS] = {"what", "batch", "median_tok_per_s", "kv_bytes"};

static int find_columns(const struct csv *csv, int columns[N_COLUMNS], struct err *err) {
    for (int i = 0; i < N_COLUMNS; i++)
        if ((columns[i] = csv_column(csv, column_names[i])) == CSV_NO_COLUMN)
            return err_set(err, ERR_INPUT, csv->path,
                           "has no column \"%s\" in its first line: did spkv bench print it?", column_names[i]);
    return OK;
}

static int read_positive(const struct csv *csv, size_t row, int column, double *out, struct err *err) {
    int rc = csv_real(csv, row, column, out, err);
    return rc != OK || *out > 0 ? rc : csv_refuse(csv, row, err, "%.60s is \"%.60s\", expected a positive number",
                                                  csv->cells[column], csv_text(csv, row, column));
}

struct rows {
    double *bytes, *seconds; /* (csv rows), n used: of a step of the batch */
    size_t n;
};

static int keep_row(const struct csv *csv, size_t row, const int columns[N_COLUMNS], uint32_t batch, struct rows *rows,
                    struct err *err) {
    double of_batch, speed, bytes;
    int rc;
    if (strcmp(csv_text(csv, row, columns[COLUMN_WHAT]), "decode") != 0)
        return OK;
    if ((rc = read_positive(csv, row, columns[COLUMN_BATCH], &of_batch, err)) != OK ||
        (rc = read_positive(csv, row, columns[COLUMN_SPEED], &speed, err)) != OK ||
        (rc = read_positive(csv, row, columns[COLUMN_BYTES], &bytes, err)) != OK || of_batch != (double)batch)
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

/* Frees the table. */
static int fit_table(struct csv *csv, const char *where, uint32_t batch, struct cost_model *out, struct err *err) {
    int columns[N_COLUMNS], rc = find_columns(csv, columns, err);
    struct rows rows = {0};
    *out = (struct cost_model){.batch = batch};
    if (rc == OK && (!(rows.bytes = mem_alloc(csv->n_rows, sizeof(double), "bench rows", err)) ||
                     !(rows.seconds = mem_alloc(csv->n_rows, sizeof(double), "bench rows", err))))
        rc = ERR_MEMORY;
    for (size_t row = 0; rc == OK && row < csv->n_rows; row++)
        rc = keep_row(csv, row, columns, batch, &rows, err);
    if (rc == OK)
        rc = fit(&rows, where, out, err);
    free(rows.bytes);
    free(rows.seconds);
    csv_free(csv);
    return rc;
}

int cost_model_parse(const char *text, size_t n, const char *where, uint32_t batch, struct cost_model *out,
                     struct err *err) {
    struct csv csv;
    int rc = csv_parse(text, n, where, &csv, err);
    return rc == OK ? fit_table(&csv, where, batch, out, err) : rc;
}

int cost_model_read(const char *path, uint32_t batch, struct cost_model *out, struct err *err) {
    struct csv csv;
    int rc = csv_read(path, &csv, err);
    return rc == OK ? fit_table(&csv, path, batch, out, err) : rc;
}

double cost_model_step(const struct cost_model *model, double bytes_per_sequence) {
    return model->base_s + model->per_byte_s * model->batch * bytes_per_sequence;
}
