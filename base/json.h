/* json.h - jansson with errors that name the file and the key. Files come from strangers: duplicate keys, bad UTF-8,
 * deep nesting and NaN are refused by the library, wrong types and ranges here. */
#ifndef SPKV_BASE_JSON_H
#define SPKV_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Parses a whole document. `where` is put into errors, with the line. Release with json_decref(). */
int json_parse(const char *text, size_t n, const char *where, json_t **out, struct err *err);

/* The same for a document that must be an object. */
int json_parse_object(const char *text, size_t n, const char *where, json_t **out, struct err *err);
int json_read_object(const char *path, size_t max_bytes, json_t **out, struct err *err);

/* Typed reads of an optional member: an absent key or null leaves *out as it was (the default), a wrong type or a value
 * out of [min, max] is ERR_INPUT naming `where` and the key. Borrowed strings and arrays live as long as the object. */
int json_get_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out, const char *where,
                 struct err *err);
int json_get_real(const json_t *object, const char *key, double min, double max, double *out, const char *where,
                  struct err *err);
int json_get_bool(const json_t *object, const char *key, bool *out, const char *where, struct err *err);
int json_get_string(const json_t *object, const char *key, const char **out, const char *where, struct err *err);
int json_get_array(const json_t *object, const char *key, json_t **out, const char *where, struct err *err);
int json_get_object(const json_t *object, const char *key, json_t **out, const char *where, struct err *err);

/* True when the key is present and not null. */
bool json_has(const json_t *object, const char *key);

/* ERR_INPUT "missing KEY" unless json_has(). */
int json_require(const json_t *object, const char *key, const char *where, struct err *err);

json_t *json_finite(double x); /* a real, null where x is NaN or infinite: a new reference */

/* Writes pretty JSON atomically. */
int json_write_file(const json_t *value, const char *path, struct err *err);

#endif
