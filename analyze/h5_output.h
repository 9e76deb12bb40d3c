/* h5_output.h - creates HDF5 files whose failed writes stay outside of HDF5. The library (1.10) crashes, or leaves
 * identifiers behind that it complains about at exit, when a write fails while a dataset is closed: a full disk would end
 * the whole program. Here a driver of ours remembers the first failure and drops what comes after it; the caller looks at
 * `failure` while it writes and after closing. Internal to analyze/. */
#ifndef SPKV_ANALYZE_H5_OUTPUT_H
#define SPKV_ANALYZE_H5_OUTPUT_H

#include "analyze/h5.h"

struct h5_output {
    hid_t file;   /* -1 = not open */
    hid_t driver;
    int failure;  /* errno of the first failed write, 0 = none */
};

/* Creates `path` anew with a file creation property list. The struct must stay where it is until h5_output_close(). */
int h5_output_create(const char *path, hid_t create_plist, struct h5_output *out, struct err *err);

/* Closes the file; ERR_IO when any write failed. Legal on {.file = -1, .driver = -1}. */
int h5_output_close(struct h5_output *out, const char *path, struct err *err);

/* ERR_IO with the system's reason when a write has failed so far. */
int h5_output_check(const struct h5_output *out, const char *path, struct err *err);

#endif
