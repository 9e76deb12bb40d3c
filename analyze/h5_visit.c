/* Damage where nobody else looks: headers of objects and attributes that are not read, such as the scales of axes. */
#include <string.h>

#include "analyze/h5.h"

struct visit {
    struct h5_place place;
    struct err *err;
    char object[256];
};

/* Numbers are read, the heaps behind strings and references are not (h5.h says why). */
static herr_t visit_attribute(hid_t object, const char *name, const H5A_info_t *info, void *self) {
    struct visit *v = self;
    char value[64];
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT), type = attribute < 0 ? -1 : H5Aget_type(attribute);
    H5T_class_t kind = type < 0 ? H5T_NO_CLASS : H5Tget_class(type);
    bool number = (kind == H5T_INTEGER || kind == H5T_FLOAT) && info->data_size <= sizeof value;
    bool good = type >= 0 && (!number || H5Aread(attribute, type, value) >= 0);
    int rc = good ? OK : h5_fail(v->err, ERR_INPUT, v->place, "an attribute is damaged");
    if (type >= 0)
        H5Tclose(type);
    if (attribute >= 0)
        H5Aclose(attribute);
    return rc == OK ? 0 : 1;
}

static herr_t visit_object(hid_t root, const char *name, const H5O_info_t *info, void *self) {
    struct visit *v = self;
    hsize_t from = 0;
    (void)info;
    strncpy(v->object, name, sizeof v->object - 1);
    hid_t object = H5Oopen(root, name, H5P_DEFAULT);
    herr_t stop = object < 0 ? 1 : H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_NATIVE, &from, visit_attribute, self);
    if (stop != 0)
        h5_fail(v->err, ERR_INPUT, v->place, "is damaged");
    if (object >= 0)
        H5Oclose(object);
    return stop == 0 ? 0 : 1;
}

int h5_visit(const char *path, struct err *err) {
    struct visit v = {.place = {path, v.object}, .err = err};
    int rc = OK;
    h5_quiet();
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (file < 0)
        return h5_fail(err, ERR_INPUT, (struct h5_place){path, NULL}, "cannot be opened as HDF5");
    if (H5Ovisit1(file, H5_INDEX_NAME, H5_ITER_NATIVE, visit_object, &v) != 0)
        rc = h5_fail(err, ERR_INPUT, v.place, "is damaged, or what follows it"); /* the first report stays */
    H5Fclose(file);
    return rc;
}
