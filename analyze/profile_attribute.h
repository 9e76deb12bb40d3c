/* profile_attribute.h - the table that ties members of struct profile_meta to attributes of the file, for writing, reading,
 * copying and comparing alike. Internal to analyze/. */
#ifndef SPKV_ANALYZE_PROFILE_ATTRIBUTE_H
#define SPKV_ANALYZE_PROFILE_ATTRIBUTE_H

#include <hdf5.h>
#include <stdbool.h>
#include <stddef.h>

#include "analyze/profile_meta.h"
#include "base/err.h"
#include "base/str.h"

enum attribute_type {
    ATTRIBUTE_STRING,
    ATTRIBUTE_U32,
    ATTRIBUTE_U64,
    ATTRIBUTE_F64,
    ATTRIBUTE_BOOL,
    ATTRIBUTE_SCORE,  /* enum profile_score as text */
    ATTRIBUTE_RECORD, /* record mask as text */
};

struct profile_attribute {
    const char *name;
    enum attribute_type type;
    size_t offset;   /* in struct profile_meta */
    bool provenance; /* lies in /provenance instead of the root */
    bool compared;   /* must be equal in parts of one run */
};

extern const struct profile_attribute profile_attributes[];
extern const size_t profile_n_attributes;

/* The value as text. */
void profile_attribute_text(const struct profile_attribute *attribute, const struct profile_meta *meta, struct str *out);

/* Memory and strings that live as long as the meta. NULL on failure. */
void *profile_meta_alloc(struct profile_meta *meta, size_t count, size_t size, struct err *err);
const char *profile_meta_string(struct profile_meta *meta, const char *text, struct err *err);

/* The inverse of profile_record_text(); ERR_INPUT for an unknown word. */
int profile_record_parse(const char *text, uint32_t *record);

/* All attributes of the table, the conventional ones (Conventions, title, history, source, spkv_schema_version), the
 * policy's parameters one by one and /provenance. `path` for messages. */
int profile_attributes_write(hid_t file, const struct profile_meta *meta, const char *path, struct err *err);

/* Reads them into a zeroed, owning meta. Refuses a higher major schema version. The arrays of the meta are not filled. */
int profile_attributes_read(hid_t file, const char *path, struct profile_meta *meta, struct err *err);

#endif
