#include "engine/safetensors.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"

enum {
    PREFIX_BYTES = 8,
    MAX_HEADER_BYTES = 100000000,
    MAX_JSON_VALUES = 4000000, /* the largest public models have 100 thousand tensors of about ten values */
};

/* A file while it is being read. */
struct parse {
    struct safetensors *file;
    const char *data; /* begins after the header */
    size_t n_bytes;
    struct err *err;
};

static int refuse(const struct parse *p, const char *name, const char *what) {
    return err_set(p->err, ERR_INPUT, p->file->path, "tensor %s: %s. The file is damaged or was not written as safetensors: "
                                                     "fetch or save it again", name, what);
}

/* The JSON library takes some hundred bytes for every value, so a bound on their number bounds the memory. */
static bool too_many_values(const char *text, size_t n) {
    size_t n_values = 0;
    for (size_t i = 0; i < n; i++)
        n_values += text[i] == ',' || text[i] == '{' || text[i] == '[';
    return n_values > MAX_JSON_VALUES;
}

static int read_dtype(const struct parse *p, const char *name, const json_t *entry, enum dtype *out) {
    static const struct {
        const char *name;
        enum dtype dtype;
    } dtypes[] = {{"F32", DTYPE_F32}, {"F16", DTYPE_F16}, {"BF16", DTYPE_BF16}};
    const char *text = json_string_value(json_object_get(entry, "dtype"));
    if (!text)
        return refuse(p, name, "\"dtype\" is missing or not a string");
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(text, dtypes[i].name) == 0) {
            *out = dtypes[i].dtype;
            return OK;
        }
    return err_set(p->err, ERR_INPUT, p->file->path, "tensor %s: dtype %s is not supported (supported: F32, F16, BF16): "
                                                     "convert the checkpoint", name, text);
}

/* An unsigned JSON integer. */
static bool read_size(const json_t *value, size_t *out) {
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 0)
        return false;
    *out = (size_t)n;
    return true;
}

static int read_shape(const struct parse *p, const json_t *entry, struct tensor *t) {
    const json_t *shape = json_object_get(entry, "shape");
    size_t n_dims = json_array_size(shape);
    if (!json_is_array(shape))
        return refuse(p, t->name, "\"shape\" is missing or not an array");
    if (n_dims > MAX_TENSOR_DIMS)
        return refuse(p, t->name, "has more than 8 dimensions");
    t->n_dims = (int)n_dims;
    t->n_items = 1;
    for (size_t i = 0; i < n_dims; i++) {
        if (!read_size(json_array_get(shape, i), &t->shape[i]))
            return refuse(p, t->name, "\"shape\" holds something else than sizes");
        if (!size_mul(t->n_items, t->shape[i], &t->n_items))
            return refuse(p, t->name, "the product of its shape is too large");
    }
    return OK;
}

static int read_extent(const struct parse *p, const json_t *entry, struct tensor *t) {
    const json_t *offsets = json_object_get(entry, "data_offsets");
    size_t begin, end, n_bytes;
    if (json_array_size(offsets) != 2 || !read_size(json_array_get(offsets, 0), &begin) ||
        !read_size(json_array_get(offsets, 1), &end))
        return refuse(p, t->name, "\"data_offsets\" is missing or not two unsigned integers");
    if (begin > end || end > p->n_bytes)
        return refuse(p, t->name, "\"data_offsets\" lie outside the file (is it cut off?)");
    if (!size_mul(t->n_items, dtype_size(t->dtype), &n_bytes) || n_bytes != end - begin)
        return refuse(p, t->name, "\"data_offsets\" and shape say different sizes");
    t->data = p->data + begin;
    return OK;
}

static int read_tensor(const struct parse *p, const json_t *entry, struct tensor *t) {
    int rc;
    if (!json_is_object(entry))
        return refuse(p, t->name, "its entry is not an object");
    if ((rc = read_dtype(p, t->name, entry, &t->dtype)) != OK || (rc = read_shape(p, entry, t)) != OK)
        return rc;
    return read_extent(p, entry, t);
}

static int check_metadata(const struct parse *p, const json_t *metadata) {
    const char *key;
    json_t *value;
    bool good = json_is_object(metadata);
    json_object_foreach((json_t *)(uintptr_t)metadata, key, value)
        good = good && json_is_string(value);
    return good ? OK : err_set(p->err, ERR_INPUT, p->file->path, "\"__metadata__\" must be an object of strings: save the "
                                                                 "file again");
}

static size_t tensor_bytes(const struct tensor *t) {
    return t->n_items * dtype_size(t->dtype); /* fits: read_extent() checked it */
}

static int by_offset(const void *a, const void *b) {
    const struct tensor *x = a, *y = b;
    uintptr_t begin_x = (uintptr_t)x->data, begin_y = (uintptr_t)y->data;
    if (begin_x != begin_y)
        return begin_x < begin_y ? -1 : 1;
    return (tensor_bytes(x) > tensor_bytes(y)) - (tensor_bytes(x) < tensor_bytes(y));
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

/* Sorts by offset and demands that the tensors fill the data from its first to its last byte. */
static int check_tiling(const struct parse *p) {
    const struct safetensors *file = p->file;
    const char *next = p->data;
    qsort(file->tensors, file->n_tensors, sizeof *file->tensors, by_offset);
    for (size_t i = 0; i < file->n_tensors; i++) {
        const struct tensor *t = &file->tensors[i];
        if ((const char *)t->data != next)
            return refuse(p, t->name, (const char *)t->data < next ? "overlaps the tensor before it"
                                                                    : "leaves a hole after the tensor before it");
        next = (const char *)t->data + tensor_bytes(t);
    }
    if (next != p->data + p->n_bytes)
        return err_set(p->err, ERR_INPUT, file->path, "%zu bytes after the last tensor belong to none: the file is damaged, "
                                                      "fetch or save it again", (size_t)(p->data + p->n_bytes - next));
    return OK;
}

/* The names, copied one after the other, and the array with the names set; *header without its metadata. */
static int copy_names(const struct parse *p, json_t *header) {
    struct safetensors *file = p->file;
    size_t n_bytes = 0, i = 0;
    const char *name;
    json_t *entry;
    json_object_foreach(header, name, entry)
        n_bytes += strlen(name) + 1;
    file->n_tensors = json_object_size(header);
    file->tensors = mem_alloc(file->n_tensors, sizeof *file->tensors, "tensor list", p->err);
    file->names = mem_alloc(n_bytes, 1, "tensor names", p->err);
    if (!file->tensors || !file->names)
        return ERR_MEMORY;
    char *next = file->names;
    json_object_foreach(header, name, entry) {
        size_t n = strlen(name) + 1;
        file->tensors[i].file = file->path;
        file->tensors[i++].name = memcpy(next, name, n);
        next += n;
    }
    return OK;
}

static int read_header(const struct parse *p, json_t *header) {
    const json_t *metadata = json_object_get(header, "__metadata__");
    int rc;
    if (metadata && (rc = check_metadata(p, metadata)) != OK)
        return rc;
    json_object_del(header, "__metadata__");
    if ((rc = copy_names(p, header)) != OK)
        return rc;
    for (size_t i = 0; i < p->file->n_tensors; i++)
        if ((rc = read_tensor(p, json_object_get(header, p->file->tensors[i].name), &p->file->tensors[i])) != OK)
            return rc;
    if ((rc = check_tiling(p)) != OK)
        return rc;
    qsort(p->file->tensors, p->file->n_tensors, sizeof *p->file->tensors, by_name);
    return OK;
}

/* The header's length; checked against the file. */
static int header_size(const void *data, size_t size, const char *path, size_t *out, struct err *err) {
    const unsigned char *bytes = data;
    uint64_t n = 0;
    if (size < PREFIX_BYTES)
        return err_set(err, ERR_INPUT, path, "%zu bytes are too few for a safetensors file: it is empty or cut off, fetch "
                                             "it again", size);
    for (int i = PREFIX_BYTES - 1; i >= 0; i--)
        n = n << 8 | bytes[i];
    if (n > MAX_HEADER_BYTES)
        return err_set(err, ERR_INPUT, path, "the header length of %llu bytes exceeds %d: this is not a safetensors file",
                       (unsigned long long)n, MAX_HEADER_BYTES);
    if (n > size - PREFIX_BYTES)
        return err_set(err, ERR_INPUT, path, "the header of %llu bytes does not fit the file of %zu bytes: it is cut off or "
                                             "not a safetensors file", (unsigned long long)n, size);
    *out = (size_t)n;
    return OK;
}

int safetensors_parse(const void *data, size_t size, const char *path, struct safetensors *out, struct err *err) {
    struct safetensors file = {0};
    size_t n_header = 0;
    json_t *header = NULL;
    int rc = header_size(data, size, path, &n_header, err);
    *out = file;
    if (rc != OK)
        return rc;
    const char *text = (const char *)data + PREFIX_BYTES;
    struct parse p = {&file, text + n_header, size - PREFIX_BYTES - n_header, err};
    if (too_many_values(text, n_header))
        return err_set(err, ERR_INPUT, path, "the header holds more than %d values: this is not a model", MAX_JSON_VALUES);
    if (!(file.path = mem_strdup(path, err)))
        return ERR_MEMORY;
    rc = json_parse_object(text, n_header, path, &header, err);
    if (rc == OK)
        rc = read_header(&p, header);
    json_decref(header);
    if (rc == OK)
        *out = file;
    else
        safetensors_close(&file);
    return rc;
}

int safetensors_open(const char *path, struct safetensors *out, struct err *err) {
    struct file_map map;
    int rc = file_map_open(path, &map, err);
    *out = (struct safetensors){0};
    if (rc != OK)
        return rc;
    rc = safetensors_parse(map.data, map.size, path, out, err);
    if (rc == OK)
        out->map = map;
    else
        file_map_close(&map);
    return rc;
}

void safetensors_close(struct safetensors *file) {
    file_map_close(&file->map);
    free(file->tensors);
    free(file->names);
    free(file->path);
    *file = (struct safetensors){0};
}

static int name_against(const void *key, const void *element) {
    return strcmp(key, ((const struct tensor *)element)->name);
}

const struct tensor *safetensors_find(const struct safetensors *file, const char *name) {
    return file->n_tensors ? bsearch(name, file->tensors, file->n_tensors, sizeof *file->tensors, name_against) : NULL;
}
