#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"

int json_parse(const char *text, size_t n, const char *where, json_t **out, struct err *err) {
    json_error_t problem;
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES, &problem);
    return *out ? OK
                : err_set(err, ERR_INPUT, where, "line %d, byte %d: not valid JSON: %s", problem.line, problem.position,
                          problem.text);
}

int json_parse_object(const char *text, size_t n, const char *where, json_t **out, struct err *err) {
    int rc = json_parse(text, n, where, out, err);
    if (rc != OK)
        return rc;
    if (!json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return err_set(err, ERR_INPUT, where, "a JSON object was expected");
    }
    return OK;
}

int json_read_object(const char *path, size_t max_bytes, json_t **out, struct err *err) {
    char *text;
    size_t n;
    *out = NULL;
    int rc = file_read_all(path, max_bytes, &text, &n, err);
    if (rc != OK)
        return rc;
    rc = json_parse_object(text, n, path, out, err);
    free(text);
    return rc;
}

static const char *kind_of(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a real number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    default: return "null";
    }
}

static int wrong_kind(const json_t *value, const char *key, const char *wanted, const char *where, struct err *err) {
    return err_set(err, ERR_INPUT, where, "\"%s\" is %s, expected %s", key, kind_of(value), wanted);
}

/* The member, NULL when absent or null. */
static json_t *member(const json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

int json_get_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out, const char *where,
                 struct err *err) {
    const json_t *value = member(object, key);
    if (!value)
        return OK;
    double real = json_number_value(value);
    bool whole = json_is_integer(value) || (json_is_real(value) && fabs(real) < 0x1p53 && real == trunc(real));
    if (!whole)
        return wrong_kind(value, key, "an integer", where, err);
    int64_t n = json_is_integer(value) ? json_integer_value(value) : (int64_t)real;
    if (n < min || n > max)
        return err_set(err, ERR_INPUT, where, "\"%s\" is %lld, expected %lld to %lld", key, (long long)n, (long long)min,
                       (long long)max);
    *out = n;
    return OK;
}

int json_get_real(const json_t *object, const char *key, double min, double max, double *out, const char *where,
                  struct err *err) {
    const json_t *value = member(object, key);
    if (!value)
        return OK;
    if (!json_is_number(value))
        return wrong_kind(value, key, "a number", where, err);
    double x = json_number_value(value);
    if (!(x >= min && x <= max))
        return err_set(err, ERR_INPUT, where, "\"%s\" is %g, expected %g to %g", key, x, min, max);
    *out = x;
    return OK;
}

int json_get_bool(const json_t *object, const char *key, bool *out, const char *where, struct err *err) {
    const json_t *value = member(object, key);
    if (!value)
        return OK;
    if (!json_is_boolean(value))
        return wrong_kind(value, key, "true or false", where, err);
    *out = json_is_true(value);
    return OK;
}

int json_get_string(const json_t *object, const char *key, const char **out, const char *where, struct err *err) {
    const json_t *value = member(object, key);
    if (!value)
        return OK;
    if (!json_is_string(value))
        return wrong_kind(value, key, "a string", where, err);
    *out = json_string_value(value);
    return OK;
}

int json_get_array(const json_t *object, const char *key, json_t **out, const char *where, struct err *err) {
    json_t *value = member(object, key);
    if (!value)
        return OK;
    if (!json_is_array(value))
        return wrong_kind(value, key, "an array", where, err);
    *out = value;
    return OK;
}

int json_get_object(const json_t *object, const char *key, json_t **out, const char *where, struct err *err) {
    json_t *value = member(object, key);
    if (!value)
        return OK;
    if (!json_is_object(value))
        return wrong_kind(value, key, "an object", where, err);
    *out = value;
    return OK;
}

bool json_has(const json_t *object, const char *key) {
    return member(object, key) != NULL;
}

int json_require(const json_t *object, const char *key, const char *where, struct err *err) {
    return json_has(object, key) ? OK : err_set(err, ERR_INPUT, where, "\"%s\" is missing", key);
}

json_t *json_finite(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

int json_write_file(const json_t *value, const char *path, struct err *err) {
    struct file_out out;
    int rc = file_out_open(&out, path, err);
    if (rc != OK)
        return rc;
    if (json_dumpf(value, out.stream, JSON_INDENT(1)) != 0 || fputc('\n', out.stream) == EOF) {
        file_out_discard(&out);
        return err_set(err, ERR_IO, path, "cannot write JSON");
    }
    return file_out_commit(&out, err);
}
