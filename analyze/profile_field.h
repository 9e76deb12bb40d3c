/* profile_field.h - the one table of datasets of a run file: name, axes, type, unit, when present. Writer, reader, merge and
 * check all loop over it. Internal to analyze/. */
#ifndef SPKV_ANALYZE_PROFILE_FIELD_H
#define SPKV_ANALYZE_PROFILE_FIELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "analyze/h5.h"
#include "analyze/profile.h"

enum profile_axis {
    AXIS_NONE,
    AXIS_SEQUENCE,
    AXIS_LAYER,
    AXIS_KV_HEAD,
    AXIS_CORPUS,
    AXIS_GROUP,
    AXIS_UTILITY_BIN,
    AXIS_POSITION_BIN,
    AXIS_TOKEN_CLASS,
    AXIS_DISTANCE_BIN,
    AXIS_TOKEN,
    N_AXES,
};

enum field_kind { FIELD_ROWS, FIELD_SUM, FIELD_TOKENS };

/* Length of every axis. */
struct profile_dims {
    size_t n[N_AXES];
};

const char *profile_axis_name(enum profile_axis axis);

/* All axes but sequences and tokens. */
void profile_dims_of(const struct profile_meta *meta, struct profile_dims *dims);

enum field_kind profile_field_kind(enum profile_field field);
bool profile_field_present(enum profile_field field, const struct profile_meta *meta);
enum h5_type profile_field_type(enum profile_field field, const struct profile_meta *meta);

/* Axes of a field, ended by AXIS_NONE. */
const uint8_t *profile_field_axes(enum profile_field field);

/* The value that means "missing", one item of the field's type. */
const void *profile_field_fill(enum profile_field field, const struct profile_meta *meta);

/* Items of one row of a per-sequence or per-token field, or of a whole summed one; SIZE_MAX when that overflows. */
size_t profile_field_items(enum profile_field field, const struct profile_dims *dims);

/* What h5_create() and h5_open() need. */
void profile_field_spec(enum profile_field field, const struct profile_meta *meta, const struct profile_dims *dims,
                        int level, struct h5_dataset *spec);

#endif
