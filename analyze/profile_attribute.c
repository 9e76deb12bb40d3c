#include "analyze/profile_attribute.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/h5.h"
#include "base/json.h"

/* Version of the file format: a reader refuses a higher first number, and ignores what it does not know otherwise. */
enum { SCHEMA_MAJOR = 1 };

#define ROOT(field, type, compared) {#field, type, offsetof(struct profile_meta, field), false, compared}
#define PROVENANCE(field, type, compared) {#field, type, offsetof(struct profile_meta, field), true, compared}

const struct profile_attribute profile_attributes[] = {
    ROOT(n_layers, ATTRIBUTE_U32, true),
    ROOT(n_kv_heads, ATTRIBUTE_U32, true),
    ROOT(n_heads, ATTRIBUTE_U32, true),
    ROOT(head_dim, ATTRIBUTE_U32, true),
    ROOT(vocab_size, ATTRIBUTE_U32, true),
    ROOT(element_bytes, ATTRIBUTE_U32, true),
    PROVENANCE(model_path, ATTRIBUTE_STRING, false),
    PROVENANCE(model_type, ATTRIBUTE_STRING, true),
    PROVENANCE(model_hash, ATTRIBUTE_STRING, true),
    PROVENANCE(base_model_hash, ATTRIBUTE_STRING, true),
    PROVENANCE(tokenizer_hash, ATTRIBUTE_STRING, true),
    ROOT(policy, ATTRIBUTE_STRING, true),
    ROOT(policy_parameters, ATTRIBUTE_STRING, true),
    ROOT(window, ATTRIBUTE_U32, true),
    ROOT(sinks, ATTRIBUTE_U32, true),
    ROOT(threshold, ATTRIBUTE_F64, true),
    {"score_kind", ATTRIBUTE_SCORE, offsetof(struct profile_meta, score), false, true},
    ROOT(has_gates, ATTRIBUTE_BOOL, true),
    ROOT(score_min, ATTRIBUTE_F64, true),
    ROOT(score_max, ATTRIBUTE_F64, true),
    ROOT(prefill, ATTRIBUTE_STRING, true),
    ROOT(chunk, ATTRIBUTE_U32, true),
    ROOT(batch, ATTRIBUTE_U32, true),
    ROOT(max_length, ATTRIBUTE_U32, true),
    ROOT(stride, ATTRIBUTE_U32, true),
    ROOT(limit, ATTRIBUTE_U64, true),
    ROOT(record, ATTRIBUTE_RECORD, true),
    ROOT(n_shards, ATTRIBUTE_U32, true),
    ROOT(shard, ATTRIBUTE_U32, true),
    PROVENANCE(seed, ATTRIBUTE_U64, true),
    PROVENANCE(dtype, ATTRIBUTE_STRING, true),
    PROVENANCE(backend, ATTRIBUTE_STRING, true),
    PROVENANCE(program_version, ATTRIBUTE_STRING, false),
    PROVENANCE(git_commit, ATTRIBUTE_STRING, false),
    PROVENANCE(command_line, ATTRIBUTE_STRING, false),
    PROVENANCE(time_start, ATTRIBUTE_STRING, false),
    PROVENANCE(time_end, ATTRIBUTE_STRING, false),
    PROVENANCE(host, ATTRIBUTE_STRING, false),
    PROVENANCE(cpu, ATTRIBUTE_STRING, false),
    PROVENANCE(gpu, ATTRIBUTE_STRING, false),
    PROVENANCE(threads, ATTRIBUTE_U32, false),
    PROVENANCE(library_versions, ATTRIBUTE_STRING, false),
    ROOT(pool_peak_bytes, ATTRIBUTE_U64, false),
    ROOT(n_sequences_total, ATTRIBUTE_U64, false),
    ROOT(n_dropped_tails, ATTRIBUTE_U64, false),
    ROOT(complete, ATTRIBUTE_BOOL, false),
};
const size_t profile_n_attributes = sizeof profile_attributes / sizeof *profile_attributes;

static const char *const score_names[] = {"none", "sigmoid", "real"};

void profile_attribute_text(const struct profile_attribute *a, const struct profile_meta *meta, struct str *out) {
    const void *value = (const char *)meta + a->offset;
    char record[128];
    switch (a->type) {
    case ATTRIBUTE_STRING: str_puts(out, *(const char *const *)value ? *(const char *const *)value : ""); break;
    case ATTRIBUTE_U32: str_printf(out, "%u", *(const uint32_t *)value); break;
    case ATTRIBUTE_U64: str_printf(out, "%" PRIu64, *(const uint64_t *)value); break;
    case ATTRIBUTE_F64: /* the sign of a NaN says nothing */
        str_printf(out, "%.17g", isnan(*(const double *)value) ? (double)NAN : *(const double *)value);
        break;
    case ATTRIBUTE_BOOL: str_puts(out, *(const bool *)value ? "1" : "0"); break;
    case ATTRIBUTE_SCORE: str_puts(out, score_names[*(const enum profile_score *)value]); break;
    case ATTRIBUTE_RECORD:
        profile_record_text(*(const uint32_t *)value, record);
        str_puts(out, record);
    }
}

static int write_one(hid_t group, const struct profile_attribute *a, const struct profile_meta *meta, struct h5_place place,
                     struct err *err) {
    const void *value = (const char *)meta + a->offset;
    if (a->type == ATTRIBUTE_U32)
        return h5_put_number(group, a->name, H5_U32, value, place, err);
    if (a->type == ATTRIBUTE_U64)
        return h5_put_number(group, a->name, H5_U64, value, place, err);
    if (a->type == ATTRIBUTE_F64)
        return h5_put_number(group, a->name, H5_F64, value, place, err);
    if (a->type == ATTRIBUTE_BOOL) {
        uint8_t byte = *(const bool *)value;
        return h5_put_number(group, a->name, H5_U8, &byte, place, err);
    }
    struct str text = {0};
    profile_attribute_text(a, meta, &text);
    int rc = text.failed ? err_memory(err, "an attribute", text.len)
                         : h5_put_string(group, a->name, str_text(&text), place, err);
    str_free(&text);
    return rc;
}

static int write_parameter(hid_t file, const char *key, const json_t *value, struct h5_place place, struct err *err) {
    struct str name = {0};
    double real = json_number_value(value);
    int rc = OK;
    str_printf(&name, "policy_%s", key);
    if (name.failed)
        rc = err_memory(err, "an attribute", strlen(key));
    else if (h5_has_attribute(file, name.data))
        ; /* "parameters" is the object itself */
    else if (json_is_string(value))
        rc = h5_put_string(file, name.data, json_string_value(value), place, err);
    else if (json_is_number(value))
        rc = h5_put_number(file, name.data, H5_F64, &real, place, err);
    else if (json_is_boolean(value))
        rc = h5_put_string(file, name.data, json_is_true(value) ? "true" : "false", place, err);
    str_free(&name);
    return rc;
}

/* Members of policy_parameters as attributes policy_KEY. */
static int write_parameters(hid_t file, const struct profile_meta *meta, struct h5_place place, struct err *err) {
    json_t *object, *value;
    const char *key;
    int rc = json_parse_object(meta->policy_parameters, strlen(meta->policy_parameters), "policy parameters", &object, err);
    if (rc != OK)
        return rc;
    json_object_foreach(object, key, value) {
        if (rc == OK)
            rc = write_parameter(file, key, value, place, err);
    }
    json_decref(object);
    return rc;
}

static int write_conventional(hid_t file, const struct profile_meta *meta, struct h5_place place, struct err *err) {
    struct str title = {0}, history = {0}, source = {0};
    char version[32];
    snprintf(version, sizeof version, "%d.%u", SCHEMA_MAJOR, meta->schema_minor);
    str_printf(&title, "KV cache profile, policy %s, window %u", meta->policy, meta->window);
    str_printf(&history, "%s: %s", meta->time_start ? meta->time_start : "", meta->command_line ? meta->command_line : "");
    str_printf(&source, "spkv %s (%s)", meta->program_version ? meta->program_version : "",
               meta->git_commit ? meta->git_commit : "");
    int rc = title.failed || history.failed || source.failed ? err_memory(err, "attributes", 1024) : OK;
    if (rc == OK)
        rc = h5_put_string(file, "Conventions", "CF-1.10", place, err);
    if (rc == OK)
        rc = h5_put_string(file, "title", title.data, place, err);
    if (rc == OK)
        rc = h5_put_string(file, "history", history.data, place, err);
    if (rc == OK)
        rc = h5_put_string(file, "source", source.data, place, err);
    if (rc == OK)
        rc = h5_put_string(file, "spkv_schema_version", version, place, err);
    str_free(&title);
    str_free(&history);
    str_free(&source);
    return rc;
}

/* A group that remembers the order of its members, as netCDF-4 wants it. */
static hid_t create_provenance(hid_t file) {
    unsigned order = H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED;
    hid_t plist = H5Pcreate(H5P_GROUP_CREATE), group = -1;
    if (plist >= 0 && H5Pset_link_creation_order(plist, order) >= 0 && H5Pset_attr_creation_order(plist, order) >= 0 &&
        H5Pset_obj_track_times(plist, 0) >= 0)
        group = H5Gcreate2(file, "provenance", H5P_DEFAULT, plist, H5P_DEFAULT);
    if (plist >= 0)
        H5Pclose(plist);
    return group;
}

int profile_attributes_write(hid_t file, const struct profile_meta *meta, const char *path, struct err *err) {
    struct h5_place place = {path, "provenance"};
    int rc = write_conventional(file, meta, place, err);
    hid_t provenance = create_provenance(file);
    if (rc == OK && provenance < 0)
        rc = h5_fail(err, ERR_IO, place, "cannot create the group");
    for (size_t i = 0; rc == OK && i < profile_n_attributes; i++)
        rc = write_one(profile_attributes[i].provenance ? provenance : file, &profile_attributes[i], meta, place, err);
    if (rc == OK)
        rc = write_parameters(file, meta, place, err);
    if (provenance >= 0)
        H5Gclose(provenance);
    return rc;
}

static int read_string(hid_t group, const char *name, struct profile_meta *meta, const char **out, struct h5_place place,
                       struct err *err) {
    char *text;
    int rc = h5_get_string(group, name, &text, place, err);
    if (rc != OK)
        return rc;
    *out = profile_meta_string(meta, text, err);
    free(text);
    return *out ? OK : ERR_MEMORY;
}

static int read_words(hid_t group, const struct profile_attribute *a, struct profile_meta *meta, struct h5_place place,
                      struct err *err) {
    const char *text;
    int rc = read_string(group, a->name, meta, &text, place, err);
    if (rc != OK)
        return rc;
    if (a->type == ATTRIBUTE_RECORD)
        return profile_record_parse(text, &meta->record) == OK
                   ? OK
                   : err_set(err, ERR_INPUT, place.path, "attribute record names something unknown: \"%s\"", text);
    for (int i = 0; i < 3; i++)
        if (strcmp(text, score_names[i]) == 0) {
            meta->score = (enum profile_score)i;
            return OK;
        }
    return err_set(err, ERR_INPUT, place.path, "attribute score_kind is \"%s\", expected sigmoid, real or none", text);
}

static int read_one(hid_t group, const struct profile_attribute *a, struct profile_meta *meta, struct h5_place place,
                    struct err *err) {
    void *value = (char *)meta + a->offset;
    uint64_t number = 0;
    if (a->type == ATTRIBUTE_STRING)
        return read_string(group, a->name, meta, value, place, err);
    if (a->type == ATTRIBUTE_F64)
        return h5_get_f64(group, a->name, value, place, err);
    if (a->type == ATTRIBUTE_SCORE || a->type == ATTRIBUTE_RECORD)
        return read_words(group, a, meta, place, err);
    int rc = h5_get_u64(group, a->name, &number, place, err);
    if (rc != OK)
        return rc;
    if ((a->type == ATTRIBUTE_U32 && number > UINT32_MAX) || (a->type == ATTRIBUTE_BOOL && number > 1))
        return err_set(err, ERR_INPUT, place.path, "attribute %s is %" PRIu64 ", out of range", a->name, number);
    if (a->type == ATTRIBUTE_U32)
        *(uint32_t *)value = (uint32_t)number;
    else if (a->type == ATTRIBUTE_U64)
        *(uint64_t *)value = number;
    else
        *(bool *)value = number != 0;
    return OK;
}

/* What a newer second number brought is not read. */
static int read_version(hid_t file, struct profile_meta *meta, struct h5_place place, struct err *err) {
    char *text, *end;
    if (!h5_has_attribute(file, "spkv_schema_version"))
        return err_set(err, ERR_INPUT, place.path, "is not a run file of spkv (no attribute spkv_schema_version)");
    int rc = h5_get_string(file, "spkv_schema_version", &text, place, err);
    if (rc != OK)
        return rc;
    long major = strtol(text, &end, 10);
    if (end == text || *end != '.' || major < 1)
        rc = err_set(err, ERR_INPUT, place.path, "spkv_schema_version \"%s\" is no version", text);
    else if (major > SCHEMA_MAJOR)
        rc = err_set(err, ERR_INPUT, place.path, "has schema version %s, this program reads up to %d.x: use a newer spkv",
                     text, SCHEMA_MAJOR);
    else {
        unsigned long minor = strtoul(end + 1, NULL, 10);
        meta->schema_minor = minor < PROFILE_SCHEMA_MINOR ? (uint32_t)minor : PROFILE_SCHEMA_MINOR;
    }
    free(text);
    return rc;
}

int profile_attributes_read(hid_t file, const char *path, struct profile_meta *meta, struct err *err) {
    struct h5_place place = {path, NULL};
    int rc = read_version(file, meta, place, err);
    if (rc != OK)
        return rc;
    H5L_info_t link;
    hid_t provenance = -1;
    if (h5_has(file, "provenance") && H5Lget_info(file, "provenance", &link, H5P_DEFAULT) >= 0 && link.type == H5L_TYPE_HARD)
        provenance = H5Gopen2(file, "provenance", H5P_DEFAULT);
    if (provenance < 0)
        rc = h5_fail(err, ERR_INPUT, (struct h5_place){path, "provenance"}, "the group is missing or damaged");
    for (size_t i = 0; rc == OK && i < profile_n_attributes; i++)
        rc = read_one(profile_attributes[i].provenance ? provenance : file, &profile_attributes[i], meta, place, err);
    if (provenance >= 0)
        H5Gclose(provenance);
    return rc;
}
