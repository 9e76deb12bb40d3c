#include <stdlib.h>
#include <string.h>

#include "analyze/h5.h"
#include "base/mem.h"
#include "base/str.h"

static hid_t string_type(void) {
    hid_t type = H5Tcopy(H5T_C_S1);
    if (type >= 0 && (H5Tset_size(type, H5T_VARIABLE) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0)) {
        H5Tclose(type);
        return -1;
    }
    return type;
}

int h5_write_strings(hid_t group, const char *name, const char *long_name, const char *const *text, size_t n,
                     struct h5_place place, struct err *err) {
    hsize_t dim = n;
    place.object = name;
    hid_t type = string_type(), space = H5Screate_simple(1, &dim, NULL), plist = H5Pcreate(H5P_DATASET_CREATE);
    hid_t dataset = -1;
    int rc = OK;
    if (type < 0 || space < 0 || plist < 0 || H5Pset_obj_track_times(plist, 0) < 0 ||
        (dataset = H5Dcreate2(group, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT)) < 0 ||
        (n && H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) < 0))
        rc = h5_fail(err, ERR_IO, place, "cannot be written");
    if (rc == OK)
        rc = h5_put_string(dataset, "units", "1", place, err);
    if (rc == OK)
        rc = h5_put_string(dataset, "long_name", long_name, place, err);
    if (rc == OK)
        rc = h5_put_string(dataset, "_FillValue", "", place, err);
    if (dataset >= 0)
        H5Dclose(dataset);
    if (plist >= 0)
        H5Pclose(plist);
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    return rc;
}

/* The number of strings, or -1 unless it is a plain list of variable-length strings that the file can hold: every one takes
 * at least the 16 bytes of its heap reference. */
static long long count_strings(hid_t dataset) {
    hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset), plist = H5Dget_create_plist(dataset);
    hssize_t n = space < 0 || H5Sget_simple_extent_ndims(space) != 1 ? -1 : H5Sget_simple_extent_npoints(space);
    bool good = type >= 0 && plist >= 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) > 0 &&
                H5Pget_layout(plist) == H5D_CONTIGUOUS && H5Pget_external_count(plist) == 0 && n >= 0 &&
                (hsize_t)n <= H5Dget_storage_size(dataset) / 16;
    if (plist >= 0)
        H5Pclose(plist);
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    return good ? n : -1;
}

/* Copies what HDF5 allocated into strings of ours. */
static int copy_strings(hid_t dataset, size_t n, char **out, struct h5_place place, struct err *err) {
    int rc = OK;
    hid_t type = string_type();
    char **raw = mem_alloc(n, sizeof *raw, "strings", err);
    if (!raw)
        rc = ERR_MEMORY;
    else if (type < 0 || (n && H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, raw) < 0))
        rc = h5_fail(err, ERR_INPUT, place, "cannot be read");
    for (size_t i = 0; raw && i < n; i++) {
        const char *text = raw[i] ? raw[i] : "";
        if (rc == OK && utf8_first_invalid(text, strlen(text)) != strlen(text))
            rc = err_set(err, ERR_INPUT, place.path, "%s: item %zu is not valid UTF-8", place.object, i);
        if (rc == OK && !(out[i] = mem_strdup(text, err)))
            rc = ERR_MEMORY;
        if (raw[i])
            H5free_memory(raw[i]);
    }
    free(raw);
    if (type >= 0)
        H5Tclose(type);
    return rc;
}

int h5_read_strings(hid_t group, const char *name, char ***out, size_t *n, struct h5_place place, struct err *err) {
    place.object = name;
    *out = NULL;
    *n = 0;
    if (!h5_has(group, name))
        return err_set(err, ERR_INPUT, place.path, "dataset %s is missing", name);
    H5L_info_t link;
    if (H5Lget_info(group, name, &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD)
        return h5_fail(err, ERR_INPUT, place, "is not a dataset of this file");
    hid_t dataset = H5Dopen2(group, name, H5P_DEFAULT);
    if (dataset < 0)
        return h5_fail(err, ERR_INPUT, place, "cannot be opened");
    long long count = count_strings(dataset);
    int rc = count < 0 ? h5_fail(err, ERR_INPUT, place, "is not a list of strings") : OK;
    if (rc == OK && !(*out = mem_alloc((size_t)count, sizeof **out, "strings", err)))
        rc = ERR_MEMORY;
    if (rc == OK)
        rc = copy_strings(dataset, (size_t)count, *out, place, err);
    if (rc == OK)
        *n = (size_t)count;
    else {
        h5_free_strings(*out, *out ? (size_t)count : 0);
        *out = NULL;
    }
    H5Dclose(dataset);
    return rc;
}

void h5_free_strings(char **text, size_t n) {
    for (size_t i = 0; text && i < n; i++)
        free(text[i]);
    free(text);
}
