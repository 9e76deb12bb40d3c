#include "tests/scratch.h"

#include <stdarg.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <cmocka.h>

#include "base/file.h"

void scratch_open(struct scratch *s) {
    bool in_memory = access("/dev/shm", W_OK) == 0; /* where tests do not wait for thousands of fsyncs */
    snprintf(s->dir, sizeof s->dir, "%s/spkv-test-XXXXXX", in_memory ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(s->dir));
}

void scratch_close(struct scratch *s) {
    assert_int_equal(file_remove_tree(s->dir, NULL), OK);
}

char *scratch_path(const struct scratch *s, const char *name) {
    static char buffers[64][512];
    static int next;
    char *path = buffers[next++ % 64];
    assert_true((size_t)snprintf(path, sizeof buffers[0], "%s/%s", s->dir, name) < sizeof buffers[0]);
    return path;
}

char *scratch_write(const struct scratch *s, const char *name, const void *data, size_t n) {
    char *path = scratch_path(s, name), parent[512];
    snprintf(parent, sizeof parent, "%s", path);
    *strrchr(parent, '/') = 0;
    assert_int_equal(file_make_dirs(parent, NULL), OK);
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(data, 1, n, stream), n);
    assert_int_equal(fclose(stream), 0);
    return path;
}

char *scratch_write_text(const struct scratch *s, const char *name, const char *text) {
    return scratch_write(s, name, text, strlen(text));
}

void *scratch_gzip(const void *data, size_t n, size_t *n_out) {
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    uLong bound = deflateBound(&z, (uLong)n);
    void *out = malloc(bound);
    assert_non_null(out);
    z.next_in = (Bytef *)(uintptr_t)data;
    z.avail_in = (uInt)n;
    z.next_out = out;
    z.avail_out = (uInt)bound;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    *n_out = bound - z.avail_out;
    deflateEnd(&z);
    return out;
}

void *scratch_zstd(const void *data, size_t n, size_t *n_out) {
    size_t bound = ZSTD_compressBound(n);
    void *out = malloc(bound);
    assert_non_null(out);
    *n_out = ZSTD_compress(out, bound, data, n, 3);
    assert_false(ZSTD_isError(*n_out));
    return out;
}

char *scratch_write_gzip(const struct scratch *s, const char *name, const void *data, size_t n) {
    size_t n_out;
    void *packed = scratch_gzip(data, n, &n_out);
    char *path = scratch_write(s, name, packed, n_out);
    free(packed);
    return path;
}

char *scratch_write_zstd(const struct scratch *s, const char *name, const void *data, size_t n) {
    size_t n_out;
    void *packed = scratch_zstd(data, n, &n_out);
    char *path = scratch_write(s, name, packed, n_out);
    free(packed);
    return path;
}
