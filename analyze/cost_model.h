/* cost_model.h - decode time from bytes of cache: a line fitted to the decode rows that `spkv bench` printed.
 *
 * A step over a batch reads the weights once and the live cache of every sequence: seconds = base + per_byte * bytes. */
#ifndef SPKV_ANALYZE_COST_MODEL_H
#define SPKV_ANALYZE_COST_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct cost_model {
    double base_s, per_byte_s; /* of one step of the whole batch */
    uint32_t batch;            /* sequences of a step */
    size_t n_rows;
    double largest_bytes;      /* of the rows: beyond it the line is extrapolated */
    double worst_frac;         /* largest |fitted - measured| / measured */
};

/* Reads the CSV and fits the rows of this batch size by least squares of the relative errors. ERR_INPUT names file, line and
 * column; it needs decode rows of two different numbers of bytes, and a time that grows with them. */
int cost_model_read(const char *path, uint32_t batch, struct cost_model *out, struct err *err);
int cost_model_parse(const char *text, size_t n, const char *where, uint32_t batch, struct cost_model *out, struct err *err);

/* Seconds of one step, bytes_per_sequence of cache live in each sequence of the batch. */
double cost_model_step(const struct cost_model *model, double bytes_per_sequence);

#endif
