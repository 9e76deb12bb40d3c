#include "analyze/h5_output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if H5_VERSION_GE(1, 13, 2)
#include <H5FDdevelop.h>
#endif

/* An open file of the driver. The public part comes first, as HDF5 wants it. */
struct output_file {
    H5FD_t public;
    int fd;
    haddr_t end_allocated, end_written;
    int *failure; /* in struct h5_output */
};

static struct output_file *file_of(H5FD_t *file) {
    return (struct output_file *)file;
}

static void remember(const struct output_file *f, int errno_value) {
    if (*f->failure == 0)
        *f->failure = errno_value ? errno_value : EIO;
}

static H5FD_t *output_open(const char *name, unsigned flags, hid_t fapl, haddr_t max_address) {
    int *const *failure = H5Pget_driver_info(fapl);
    (void)flags, (void)max_address;
    if (!failure)
        return NULL;
    struct output_file *f = calloc(1, sizeof *f);
    if (!f) {
        **failure = ENOMEM;
        return NULL;
    }
    f->failure = *failure;
    f->fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (f->fd < 0) {
        remember(f, errno);
        free(f);
        return NULL;
    }
    return &f->public;
}

static herr_t output_close(H5FD_t *file) {
    struct output_file *f = file_of(file);
    if (close(f->fd) != 0)
        remember(f, errno);
    free(f);
    return 0;
}

static herr_t output_query(const H5FD_t *file, unsigned long *flags) {
    (void)file;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_AGGREGATE_SMALLDATA;
    return 0;
}

static haddr_t output_get_eoa(const H5FD_t *file, H5FD_mem_t type) {
    (void)type;
    return ((const struct output_file *)file)->end_allocated;
}

static herr_t output_set_eoa(H5FD_t *file, H5FD_mem_t type, haddr_t address) {
    (void)type;
    file_of(file)->end_allocated = address;
    return 0;
}

static haddr_t output_get_eof(const H5FD_t *file, H5FD_mem_t type) {
    (void)type;
    return ((const struct output_file *)file)->end_written;
}

/* What was never written reads as zeros. */
static herr_t output_read(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t address, size_t size, void *buffer) {
    struct output_file *f = file_of(file);
    char *to = buffer;
    (void)type, (void)dxpl;
    while (size > 0) {
        ssize_t n = pread(f->fd, to, size, (off_t)address);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            memset(to, 0, size);
            break;
        }
        to += n;
        address += (haddr_t)n;
        size -= (size_t)n;
    }
    return 0;
}

static herr_t output_write(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t address, size_t size, const void *buffer) {
    struct output_file *f = file_of(file);
    const char *from = buffer;
    (void)type, (void)dxpl;
    if (address + size > f->end_written)
        f->end_written = address + size;
    while (size > 0 && *f->failure == 0) {
        ssize_t n = pwrite(f->fd, from, size, (off_t)address);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            remember(f, errno);
            break;
        }
        from += n;
        address += (haddr_t)n;
        size -= (size_t)n;
    }
    return 0;
}

/* Gives the file the length that HDF5 expects to find when it opens it again. */
static herr_t output_truncate(H5FD_t *file, hid_t dxpl, hbool_t closing) {
    struct output_file *f = file_of(file);
    (void)dxpl, (void)closing;
    if (f->end_allocated != f->end_written && *f->failure == 0 && ftruncate(f->fd, (off_t)f->end_allocated) != 0)
        remember(f, errno);
    f->end_written = f->end_allocated;
    return 0;
}

static const H5FD_class_t output_class = {
#if H5_VERSION_GE(1, 13, 2)
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)600, /* any number beyond those of the library and below 65536 */
#endif
    .name = "spkv_output",
    .maxaddr = (haddr_t)1 << 62,
    .fc_degree = H5F_CLOSE_WEAK,
    .fapl_size = sizeof(int *),
    .open = output_open,
    .close = output_close,
    .query = output_query,
    .get_eoa = output_get_eoa,
    .set_eoa = output_set_eoa,
    .get_eof = output_get_eof,
    .read = output_read,
    .write = output_write,
    .truncate = output_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

int h5_output_create(const char *path, hid_t create_plist, struct h5_output *out, struct err *err) {
    int *failure = &out->failure;
    h5_quiet();
    out->failure = 0;
    out->file = -1;
    out->driver = H5FDregister(&output_class);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    /* The format of HDF5 1.8 (2008) has checksums on object headers, the older default has none. */
    if (out->driver >= 0 && access >= 0 && H5Pset_driver(access, out->driver, &failure) >= 0 &&
        H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18) >= 0)
        out->file = H5Fcreate(path, H5F_ACC_TRUNC, create_plist, access);
    if (access >= 0)
        H5Pclose(access);
    if (out->file >= 0)
        return OK;
    int rc = out->failure ? h5_output_check(out, path, err)
                          : h5_fail(err, ERR_IO, (struct h5_place){path, NULL}, "cannot be created");
    h5_output_close(out, path, NULL);
    return rc;
}

int h5_output_check(const struct h5_output *out, const char *path, struct err *err) {
    H5Eclear2(H5E_DEFAULT);
    return out->failure == 0 ? OK : err_errno(err, out->failure, path, "cannot write");
}

int h5_output_close(struct h5_output *out, const char *path, struct err *err) {
    int rc = OK;
    if (out->file >= 0 && H5Fclose(out->file) < 0)
        rc = h5_fail(err, ERR_IO, (struct h5_place){path, NULL}, "cannot be closed");
    if (out->driver >= 0)
        H5FDunregister(out->driver);
    out->file = out->driver = -1;
    return rc == OK ? h5_output_check(out, path, err) : rc;
}
