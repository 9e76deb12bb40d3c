/* stream.h - the bytes of one corpus file, decompressed, in order, through a fixed buffer, so that a file of any size is
 * read in constant memory. Counts and hashes the bytes as they are stored. One thread. */
#ifndef SPKV_DATASETS_STREAM_H
#define SPKV_DATASETS_STREAM_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum stream_format { STREAM_PLAIN, STREAM_GZIP, STREAM_ZSTD };

struct stream;

/* Opens a file; "-" is standard input, which is never closed. `name` (borrowed until the close) stands in errors. */
int stream_open(const char *path, enum stream_format format, const char *name, struct stream **out, struct err *err);
void stream_close(struct stream *stream); /* NULL is fine */

/* Fills up to n bytes; *n_read is 0 only at the end. gzip members and zstd frames that follow each other are one text.
 * ERR_INPUT for damaged data and for data that ends inside a member or frame, ERR_IO for a failed read. */
int stream_read(struct stream *stream, void *buffer, size_t n, size_t *n_read, struct err *err);

/* Stored (compressed) bytes taken from the file so far. */
uint64_t stream_stored_bytes(const struct stream *stream);

/* XXH3-128 of the stored bytes taken so far, canonical lower-case hex; of the whole file once the end was reached. */
void stream_hash(const struct stream *stream, char hex[33]);

/* The hash of a whole file, read in constant memory. */
int stream_hash_file(const char *path, char hex[33], struct err *err);

#endif
