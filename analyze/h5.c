#include "analyze/h5.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

/* Deflate cannot shrink by more than 1032:1 (RFC 1951: 258 bytes from two bits), shuffle does not change sizes. */
enum { MAX_DEFLATE_RATIO = 1040, MAX_CHUNK_BYTES = 1 << 26, TARGET_CHUNK_BYTES = 1 << 18 };

size_t h5_type_size(enum h5_type type) {
    static const size_t sizes[] = {1, 4, 4, 8, 4, 8};
    return sizes[type];
}

hid_t h5_file_type(enum h5_type type) {
    switch (type) {
    case H5_U8: return H5T_STD_U8LE;
    case H5_I32: return H5T_STD_I32LE;
    case H5_U32: return H5T_STD_U32LE;
    case H5_U64: return H5T_STD_U64LE;
    case H5_F32: return H5T_IEEE_F32LE;
    default: return H5T_IEEE_F64LE;
    }
}

hid_t h5_memory_type(enum h5_type type) {
    switch (type) {
    case H5_U8: return H5T_NATIVE_UINT8;
    case H5_I32: return H5T_NATIVE_INT32;
    case H5_U32: return H5T_NATIVE_UINT32;
    case H5_U64: return H5T_NATIVE_UINT64;
    case H5_F32: return H5T_NATIVE_FLOAT;
    default: return H5T_NATIVE_DOUBLE;
    }
}

void h5_quiet(void) {
    H5open();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

/* Called from the innermost error outwards: the first one is the cause. */
static herr_t take_first(unsigned n, const H5E_error2_t *entry, void *out) {
    if (n == 0 && entry->desc)
        snprintf(out, 512, "%s", entry->desc);
    return 0;
}

int h5_fail(struct err *err, int code, struct h5_place place, const char *what) {
    char reason[512] = "";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_first, reason);
    H5Eclear2(H5E_DEFAULT);
    return err_set(err, code, place.path, "%s%s%s%s%s%s", place.object ? place.object : "", place.object ? ": " : "", what,
                   reason[0] ? " (HDF5: " : "", reason, reason[0] ? ")" : "");
}

static hid_t string_type(void) {
    hid_t type = H5Tcopy(H5T_C_S1);
    if (type >= 0 && (H5Tset_size(type, H5T_VARIABLE) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0)) {
        H5Tclose(type);
        return -1;
    }
    return type;
}

static int put_scalar(hid_t object, const char *name, hid_t file_type, hid_t memory_type, const void *value,
                      struct h5_place place, struct err *err) {
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(object, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool failed = attribute < 0 || H5Awrite(attribute, memory_type, value) < 0;
    int rc = failed ? h5_fail(err, ERR_IO, (struct h5_place){place.path, name}, "cannot write the attribute") : OK;
    if (attribute >= 0)
        H5Aclose(attribute);
    if (space >= 0)
        H5Sclose(space);
    return rc;
}

int h5_put_string(hid_t object, const char *name, const char *text, struct h5_place place, struct err *err) {
    hid_t type = string_type();
    int rc = put_scalar(object, name, type, type, &text, place, err);
    if (type >= 0)
        H5Tclose(type);
    return rc;
}

/* _FillValue is an array of one, as netCDF writes it; the other numbers are scalars. */
static int put_fill(hid_t object, enum h5_type type, const void *value, struct h5_place place, struct err *err) {
    hsize_t one = 1;
    hid_t space = H5Screate_simple(1, &one, NULL);
    hid_t attribute = H5Acreate2(object, "_FillValue", h5_file_type(type), space, H5P_DEFAULT, H5P_DEFAULT);
    bool failed = attribute < 0 || H5Awrite(attribute, h5_memory_type(type), value) < 0;
    int rc = failed ? h5_fail(err, ERR_IO, place, "cannot write _FillValue") : OK;
    if (attribute >= 0)
        H5Aclose(attribute);
    if (space >= 0)
        H5Sclose(space);
    return rc;
}

int h5_put_number(hid_t object, const char *name, enum h5_type type, const void *value, struct h5_place place,
                  struct err *err) {
    return put_scalar(object, name, h5_file_type(type), h5_memory_type(type), value, place, err);
}

bool h5_has_attribute(hid_t object, const char *name) {
    return H5Aexists(object, name) > 0;
}

/* Opens an attribute that must hold one element of a class. */
static int open_attribute(hid_t object, const char *name, H5T_class_t class, hid_t *attribute, hid_t *type,
                          struct h5_place place, struct err *err) {
    struct h5_place where = {place.path, name};
    *type = *attribute = -1;
    if (!h5_has_attribute(object, name)) {
        H5Eclear2(H5E_DEFAULT);
        return err_set(err, ERR_INPUT, place.path, "attribute %s is missing: not a run file, or a damaged one", name);
    }
    *attribute = H5Aopen(object, name, H5P_DEFAULT);
    if (*attribute < 0 || (*type = H5Aget_type(*attribute)) < 0)
        return h5_fail(err, ERR_INPUT, where, "cannot read the attribute");
    hid_t space = H5Aget_space(*attribute);
    hssize_t n = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);
    if (space >= 0)
        H5Sclose(space);
    if (n != 1 || H5Tget_class(*type) != class)
        return err_set(err, ERR_INPUT, place.path, "attribute %s has an unexpected type or shape", name);
    return OK;
}

static void close_attribute(hid_t attribute, hid_t type) {
    if (type >= 0)
        H5Tclose(type);
    if (attribute >= 0)
        H5Aclose(attribute);
}

/* A fixed-length string, as other writers make them. */
static int read_fixed(hid_t attribute, hid_t type, char **text, struct h5_place place, struct err *err) {
    size_t size = H5Tget_size(type);
    if (size > 1 << 20)
        return err_set(err, ERR_INPUT, place.path, "attribute %s is too long", place.object);
    char *buffer = mem_alloc(size + 1, 1, "an attribute", err);
    if (!buffer)
        return ERR_MEMORY;
    if (H5Aread(attribute, type, buffer) < 0) {
        free(buffer);
        return h5_fail(err, ERR_INPUT, place, "cannot read the attribute");
    }
    *text = buffer;
    return OK;
}

static int read_variable(hid_t attribute, char **text, struct h5_place place, struct err *err) {
    char *raw = NULL;
    hid_t memory = string_type();
    int rc = OK;
    if (memory < 0 || H5Aread(attribute, memory, &raw) < 0)
        rc = h5_fail(err, ERR_INPUT, place, "cannot read the attribute");
    else if (!(*text = mem_strdup(raw ? raw : "", err)))
        rc = ERR_MEMORY;
    if (raw)
        H5free_memory(raw);
    if (memory >= 0)
        H5Tclose(memory);
    return rc;
}

int h5_get_string(hid_t object, const char *name, char **text, struct h5_place place, struct err *err) {
    hid_t attribute, type;
    struct h5_place where = {place.path, name};
    *text = NULL;
    int rc = open_attribute(object, name, H5T_STRING, &attribute, &type, place, err);
    if (rc == OK)
        rc = H5Tis_variable_str(type) > 0 ? read_variable(attribute, text, where, err)
                                          : read_fixed(attribute, type, text, where, err);
    close_attribute(attribute, type);
    if (rc == OK && utf8_first_invalid(*text, strlen(*text)) != strlen(*text)) {
        free(*text);
        *text = NULL;
        rc = err_set(err, ERR_INPUT, place.path, "attribute %s is not valid UTF-8", name);
    }
    return rc;
}

int h5_get_u64(hid_t object, const char *name, uint64_t *value, struct h5_place place, struct err *err) {
    hid_t attribute, type;
    int64_t number = 0;
    int rc = open_attribute(object, name, H5T_INTEGER, &attribute, &type, place, err);
    if (rc == OK && H5Tget_sign(type) == H5T_SGN_2) {
        if (H5Aread(attribute, H5T_NATIVE_INT64, &number) < 0 || number < 0)
            rc = h5_fail(err, ERR_INPUT, (struct h5_place){place.path, name}, "cannot be read as a count");
        *value = (uint64_t)number;
    } else if (rc == OK && H5Aread(attribute, H5T_NATIVE_UINT64, value) < 0)
        rc = h5_fail(err, ERR_INPUT, (struct h5_place){place.path, name}, "cannot be read");
    close_attribute(attribute, type);
    return rc;
}

int h5_get_f64(hid_t object, const char *name, double *value, struct h5_place place, struct err *err) {
    hid_t attribute, type;
    int rc = open_attribute(object, name, H5T_FLOAT, &attribute, &type, place, err);
    if (rc == OK && H5Aread(attribute, H5T_NATIVE_DOUBLE, value) < 0)
        rc = h5_fail(err, ERR_INPUT, (struct h5_place){place.path, name}, "cannot be read");
    close_attribute(attribute, type);
    return rc;
}

void h5_chunk(const struct h5_dataset *spec, hsize_t chunk[H5_MAX_DIMS]) {
    hsize_t room = TARGET_CHUNK_BYTES / h5_type_size(spec->type);
    for (int i = spec->n_dims - 1; i >= 0; i--) {
        chunk[i] = room < 1 ? 1 : room < spec->dims[i] ? room : spec->dims[i];
        room /= chunk[i];
    }
}

static int set_layout(hid_t plist, const struct h5_dataset *spec) {
    hsize_t n = 1, chunk[H5_MAX_DIMS];
    for (int i = 0; i < spec->n_dims; i++)
        n *= spec->dims[i];
    if (H5Pset_obj_track_times(plist, 0) < 0 ||
        (spec->fill && H5Pset_fill_value(plist, h5_memory_type(spec->type), spec->fill) < 0))
        return -1;
    if (n == 0 || spec->level < 0)
        return 0;
    h5_chunk(spec, chunk);
    return H5Pset_chunk(plist, spec->n_dims, chunk) < 0 || H5Pset_shuffle(plist) < 0 ||
                   H5Pset_deflate(plist, (unsigned)spec->level) < 0 || H5Pset_fletcher32(plist) < 0
               ? -1
               : 0;
}

int h5_create(hid_t group, const struct h5_dataset *spec, hid_t *out, struct h5_place place, struct err *err) {
    int rc = OK;
    place.object = spec->name;
    *out = -1;
    hid_t space = H5Screate_simple(spec->n_dims, spec->dims, NULL), plist = H5Pcreate(H5P_DATASET_CREATE);
    if (space < 0 || plist < 0 || set_layout(plist, spec) < 0 ||
        (*out = H5Dcreate2(group, spec->name, h5_file_type(spec->type), space, H5P_DEFAULT, plist, H5P_DEFAULT)) < 0)
        rc = h5_fail(err, ERR_IO, place, "cannot create the dataset");
    if (rc == OK && spec->units)
        rc = h5_put_string(*out, "units", spec->units, place, err);
    if (rc == OK && spec->long_name)
        rc = h5_put_string(*out, "long_name", spec->long_name, place, err);
    if (rc == OK && spec->fill)
        rc = put_fill(*out, spec->type, spec->fill, place, err);
    if (rc != OK && *out >= 0) {
        H5Dclose(*out);
        *out = -1;
    }
    if (plist >= 0)
        H5Pclose(plist);
    if (space >= 0)
        H5Sclose(space);
    return rc;
}

bool h5_has(hid_t group, const char *name) {
    bool there = H5Lexists(group, name, H5P_DEFAULT) > 0;
    H5Eclear2(H5E_DEFAULT);
    return there;
}

static bool same_type(hid_t dataset, enum h5_type type) {
    hid_t stored = H5Dget_type(dataset), wanted = h5_file_type(type);
    bool same = stored >= 0 && H5Tget_class(stored) == H5Tget_class(wanted) && H5Tget_size(stored) == H5Tget_size(wanted) &&
                (H5Tget_class(stored) != H5T_INTEGER || H5Tget_sign(stored) == H5Tget_sign(wanted));
    if (stored >= 0)
        H5Tclose(stored);
    return same;
}

/* "2 x 30 x 3" */
static void shape_text(struct str *s, int n, const size_t *dims) {
    for (int i = 0; i < n; i++)
        str_printf(s, "%s%zu", i ? " x " : "", dims[i]);
}

static int check_shape(hid_t dataset, int n_dims, size_t *dims, struct h5_place place, struct err *err) {
    hsize_t found[H5S_MAX_RANK];
    hid_t space = H5Dget_space(dataset);
    int n = space < 0 ? -1 : H5Sget_simple_extent_ndims(space);
    bool good = n == n_dims && H5Sget_simple_extent_dims(space, found, NULL) >= 0;
    if (space >= 0)
        H5Sclose(space);
    if (!good)
        return err_set(err, ERR_INPUT, place.path, "%s has %d dimensions, expected %d", place.object, n, n_dims);
    size_t as_size[H5_MAX_DIMS];
    for (int i = 0; i < n_dims; i++)
        as_size[i] = (size_t)found[i];
    if (dims[0] == SIZE_MAX)
        dims[0] = as_size[0];
    if (memcmp(dims, as_size, (size_t)n_dims * sizeof *dims) == 0)
        return OK;
    struct str text = {0};
    shape_text(&text, n_dims, as_size);
    str_puts(&text, ", expected ");
    shape_text(&text, n_dims, dims);
    int rc = err_set(err, ERR_INPUT, place.path, "%s is %s: it does not belong to the other datasets of the file",
                     place.object, str_text(&text));
    str_free(&text);
    return rc;
}

static bool plain_filters(hid_t plist) {
    for (int i = 0; i < H5Pget_nfilters(plist); i++) {
        unsigned flags, config;
        size_t n = 0;
        H5Z_filter_t filter = H5Pget_filter2(plist, (unsigned)i, &flags, &n, NULL, 0, NULL, &config);
        if (filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_SHUFFLE && filter != H5Z_FILTER_FLETCHER32)
            return false;
    }
    return true;
}

/* How the bytes are stored must be harmless: no other files, no plugins, no chunk that cannot be held. */
static int check_storage(hid_t dataset, int n_dims, size_t raw_bytes, size_t item_bytes, struct h5_place place,
                         struct err *err) {
    hsize_t chunk[H5S_MAX_RANK];
    hid_t plist = H5Dget_create_plist(dataset);
    if (plist < 0)
        return h5_fail(err, ERR_INPUT, place, "cannot read how it is stored");
    H5D_layout_t layout = H5Pget_layout(plist);
    bool plain = (layout == H5D_CONTIGUOUS && H5Pget_external_count(plist) == 0) || layout == H5D_COMPACT ||
                 (layout == H5D_CHUNKED && plain_filters(plist));
    size_t chunk_bytes = item_bytes;
    if (plain && layout == H5D_CHUNKED && H5Pget_chunk(plist, H5S_MAX_RANK, chunk) == n_dims)
        for (int i = 0; i < n_dims; i++)
            if (!size_mul(chunk_bytes, (size_t)chunk[i], &chunk_bytes))
                chunk_bytes = SIZE_MAX;
    H5Pclose(plist);
    if (!plain)
        return err_set(err, ERR_INPUT, place.path, "%s is stored in other files or with filters that run files do not use "
                       "(h5repack makes a plain copy)", place.object);
    if (chunk_bytes > MAX_CHUNK_BYTES)
        return err_set(err, ERR_INPUT, place.path, "%s has chunks of %zu bytes, refused", place.object, chunk_bytes);
    hsize_t stored = H5Dget_storage_size(dataset);
    if (raw_bytes / MAX_DEFLATE_RATIO > stored)
        return err_set(err, ERR_INPUT, place.path, "%s claims %zu bytes but %llu are stored: damaged or incomplete",
                       place.object, raw_bytes, (unsigned long long)stored);
    return OK;
}

int h5_open(hid_t group, const char *name, enum h5_type type, int n_dims, size_t dims[H5_MAX_DIMS], hid_t *out,
            struct h5_place place, struct err *err) {
    H5L_info_t link;
    H5O_info_t object;
    size_t bytes = h5_type_size(type);
    *out = -1;
    if (!h5_has(group, name))
        return err_set(err, ERR_INPUT, place.path, "dataset %s is missing", place.object);
    if (H5Lget_info(group, name, &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD ||
        H5Oget_info_by_name(group, name, &object, H5P_DEFAULT) < 0 || object.type != H5O_TYPE_DATASET)
        return h5_fail(err, ERR_INPUT, place, "is not a dataset of this file");
    if ((*out = H5Dopen2(group, name, H5P_DEFAULT)) < 0)
        return h5_fail(err, ERR_INPUT, place, "cannot be opened");
    int rc = OK;
    if (!same_type(*out, type))
        rc = err_set(err, ERR_INPUT, place.path, "%s has an unexpected element type", place.object);
    if (rc == OK)
        rc = check_shape(*out, n_dims, dims, place, err);
    for (int i = 0; rc == OK && i < n_dims; i++)
        if (!size_mul(bytes, dims[i], &bytes))
            rc = err_set(err, ERR_INPUT, place.path, "%s claims an impossible size", place.object);
    if (rc == OK)
        rc = check_storage(*out, n_dims, bytes, h5_type_size(type), place, err);
    if (rc != OK) {
        H5Dclose(*out);
        *out = -1;
    }
    return rc;
}

/* One body for both directions. */
static herr_t move_rows(hid_t dataset, enum h5_type type, uint64_t first, size_t n, void *out, const void *in) {
    hsize_t start[H5S_MAX_RANK] = {0}, count[H5S_MAX_RANK];
    herr_t status = -1;
    hid_t space = H5Dget_space(dataset);
    int n_dims = space < 0 ? -1 : H5Sget_simple_extent_dims(space, count, NULL);
    if (n_dims > 0) {
        start[0] = first;
        count[0] = n;
        hid_t memory = H5Screate_simple(n_dims, count, NULL);
        if (memory >= 0 && H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0)
            status = in ? H5Dwrite(dataset, h5_memory_type(type), memory, space, H5P_DEFAULT, in)
                        : H5Dread(dataset, h5_memory_type(type), memory, space, H5P_DEFAULT, out);
        if (memory >= 0)
            H5Sclose(memory);
    }
    if (space >= 0)
        H5Sclose(space);
    return status;
}

int h5_read_rows(hid_t dataset, enum h5_type type, uint64_t first, size_t n, void *out, struct h5_place place,
                 struct err *err) {
    if (n == 0 || move_rows(dataset, type, first, n, out, NULL) >= 0)
        return OK;
    return h5_fail(err, ERR_INPUT, place, "cannot be read: the file is damaged");
}

int h5_write_rows(hid_t dataset, enum h5_type type, uint64_t first, size_t n, const void *data, struct h5_place place,
                  struct err *err) {
    if (n == 0 || move_rows(dataset, type, first, n, NULL, data) >= 0)
        return OK;
    return h5_fail(err, ERR_IO, place, "cannot be written");
}

uint64_t h5_file_bytes(hid_t file) {
    hsize_t size = 0;
    return H5Fget_filesize(file, &size) < 0 ? 0 : size;
}
