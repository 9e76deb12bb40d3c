/* h5.h - the little of HDF5 that run files need, with errors of ours: HDF5 prints nothing, and its innermost message goes
 * into struct err together with file and object. Used by the profile files of this folder only. One thread.
 *
 * What is checked before HDF5 reads a foreign file: links, types, shapes, filters, chunk sizes, stored bytes. What cannot be
 * checked from outside is the heap of variable-length strings, where a forged or damaged length makes HDF5 1.10 read beyond
 * its buffer: run files of strangers deserve the caution that any HDF5 file does. */
#ifndef SPKV_ANALYZE_H5_H
#define SPKV_ANALYZE_H5_H

#include <hdf5.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum h5_type { H5_U8, H5_I32, H5_U32, H5_U64, H5_F32, H5_F64 };

size_t h5_type_size(enum h5_type type);
hid_t h5_file_type(enum h5_type type);   /* little-endian, as stored; never closed */
hid_t h5_memory_type(enum h5_type type); /* native; never closed */

enum { H5_MAX_DIMS = 6 };

/* An object in a file, for messages: "run.h5: tokens/nll". */
struct h5_place {
    const char *path;   /* of the file */
    const char *object; /* dataset or attribute; NULL = the file itself */
};

/* Stops HDF5 from printing; called by whoever opens or creates a file. */
void h5_quiet(void);

/* `code` with what failed and HDF5's own innermost reason. */
int h5_fail(struct err *err, int code, struct h5_place place, const char *what);

/* Attributes. Strings are variable-length UTF-8 scalars. */
int h5_put_string(hid_t object, const char *name, const char *text, struct h5_place place, struct err *err);
int h5_put_number(hid_t object, const char *name, enum h5_type type, const void *value, struct h5_place place,
                  struct err *err);

bool h5_has_attribute(hid_t object, const char *name);

/* Reads an attribute, which must be a scalar (or one element). *text is freed by the caller. Integers of any width and sign
 * are accepted where they fit. */
int h5_get_string(hid_t object, const char *name, char **text, struct h5_place place, struct err *err);
int h5_get_u64(hid_t object, const char *name, uint64_t *value, struct h5_place place, struct err *err);
int h5_get_f64(hid_t object, const char *name, double *value, struct h5_place place, struct err *err);

/* A dataset to create: chunked with shuffle, deflate and fletcher32 where it has items, contiguous otherwise. */
struct h5_dataset {
    const char *name, *units, *long_name;
    enum h5_type type;
    const void *fill; /* one item, also the attribute _FillValue */
    int n_dims;
    hsize_t dims[H5_MAX_DIMS];
    int level;        /* of deflate, 0 to 9 */
};
int h5_create(hid_t group, const struct h5_dataset *spec, hid_t *out, struct h5_place place, struct err *err);

/* Chunk shape that aims at 256 KiB and never splits the last axes before the first ones. */
void h5_chunk(const struct h5_dataset *spec, hsize_t chunk[H5_MAX_DIMS]);

/* Opens an untrusted dataset: a hard link, of this type and shape (dims[0] unknown when SIZE_MAX and then filled in), stored
 * in this file, compressed with nothing but shuffle, deflate and fletcher32, not larger than its stored bytes can hold. */
int h5_open(hid_t group, const char *name, enum h5_type type, int n_dims, size_t dims[H5_MAX_DIMS], hid_t *out,
            struct h5_place place, struct err *err);
bool h5_has(hid_t group, const char *name);

/* Rows first .. first + n - 1 of the first axis (all other axes whole). */
int h5_read_rows(hid_t dataset, enum h5_type type, uint64_t first, size_t n, void *out, struct h5_place place,
                 struct err *err);
int h5_write_rows(hid_t dataset, enum h5_type type, uint64_t first, size_t n, const void *data, struct h5_place place,
                  struct err *err);

/* One-dimensional datasets of variable-length UTF-8 strings. Strings of *out are allocated each, freed by
 * h5_free_strings(). */
int h5_write_strings(hid_t group, const char *name, const char *long_name, const char *const *text, size_t n,
                     struct h5_place place, struct err *err);
int h5_read_strings(hid_t group, const char *name, char ***out, size_t *n, struct h5_place place, struct err *err);
void h5_free_strings(char **text, size_t n);

/* Opens every object and attribute of a file, whether anything reads it or not: ERR_INPUT naming the first damaged one. */
int h5_visit(const char *path, struct err *err);

/* Bytes of the file behind an id. */
uint64_t h5_file_bytes(hid_t file);

#endif
