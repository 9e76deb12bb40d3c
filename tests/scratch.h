/* scratch.h - a temporary directory with files for a test. Failures to set it up fail the test. */
#ifndef SPKV_TESTS_SCRATCH_H
#define SPKV_TESTS_SCRATCH_H

#include <stddef.h>

struct scratch {
    char dir[64];
};

void scratch_open(struct scratch *s);
void scratch_close(struct scratch *s); /* removes everything */

/* "DIR/name" in one of a few static buffers: good until the 64th call after. */
char *scratch_path(const struct scratch *s, const char *name);

/* Writes a file below the directory (making directories on the way), as it is, as one gzip member, or as one zstd frame;
 * returns its scratch_path(). */
char *scratch_write(const struct scratch *s, const char *name, const void *data, size_t n);
char *scratch_write_text(const struct scratch *s, const char *name, const char *text);
char *scratch_write_gzip(const struct scratch *s, const char *name, const void *data, size_t n);
char *scratch_write_zstd(const struct scratch *s, const char *name, const void *data, size_t n);

/* One gzip member or zstd frame of n bytes in new memory; free it. */
void *scratch_gzip(const void *data, size_t n, size_t *n_out);
void *scratch_zstd(const void *data, size_t n, size_t *n_out);

#endif
