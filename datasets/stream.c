#include "datasets/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "base/hash.h"
#include "base/mem.h"

enum { STORED_BYTES = 1 << 18 };

struct stream {
    int fd;
    enum stream_format format;
    const char *name;
    unsigned char *stored; /* (STORED_BYTES) bytes as the file has them; [begin, end) are not used yet */
    size_t begin, end;
    bool at_end;           /* the file has no more */
    uint64_t n_stored;
    XXH3_state_t *hash;
    z_stream zlib;
    bool zlib_ready;
    ZSTD_DStream *zstd;
    bool inside;           /* a gzip member or zstd frame has begun and not ended */
};

/* A library could not allocate and does not say how much. */
static int no_memory(const struct stream *s, const char *what, struct err *err) {
    return err_set(err, ERR_MEMORY, s->name, "out of memory for %s", what);
}

static int open_decoder(struct stream *s, struct err *err) {
    if (s->format == STREAM_GZIP) {
        if (inflateInit2(&s->zlib, MAX_WBITS + 16) != Z_OK) /* + 16: gzip wrapper only */
            return no_memory(s, "gzip decompression", err);
        s->zlib_ready = true;
    } else if (s->format == STREAM_ZSTD) {
        s->zstd = ZSTD_createDStream();
        if (!s->zstd)
            return no_memory(s, "zstd decompression", err);
    }
    return OK;
}

int stream_open(const char *path, enum stream_format format, const char *name, struct stream **out, struct err *err) {
    struct stream *s = mem_alloc(1, sizeof *s, "a stream", err);
    int rc = ERR_MEMORY;
    *out = NULL;
    if (!s)
        return rc;
    s->format = format;
    s->name = name;
    s->fd = STDIN_FILENO;
    if (strcmp(path, "-") != 0 && (s->fd = open(path, O_RDONLY | O_CLOEXEC)) < 0) {
        rc = err_errno(err, errno, name, "cannot open");
        goto out;
    }
    s->stored = mem_alloc(STORED_BYTES, 1, "a read buffer", err);
    if (!s->stored)
        goto out;
    s->hash = XXH3_createState();
    if (!s->hash) {
        rc = no_memory(s, "a hash", err);
        goto out;
    }
    XXH3_128bits_reset(s->hash);
    if ((rc = open_decoder(s, err)) != OK)
        goto out;
    *out = s;
    s = NULL;
out:
    stream_close(s);
    return rc;
}

void stream_close(struct stream *s) {
    if (!s)
        return;
    if (s->zlib_ready)
        inflateEnd(&s->zlib);
    ZSTD_freeDStream(s->zstd);
    XXH3_freeState(s->hash);
    free(s->stored);
    if (s->fd > STDIN_FILENO)
        close(s->fd);
    free(s);
}

/* Makes [begin, end) non-empty unless the file is at its end. */
static int refill(struct stream *s, struct err *err) {
    ssize_t n;
    if (s->begin < s->end || s->at_end)
        return OK;
    do
        n = read(s->fd, s->stored, STORED_BYTES);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return err_errno(err, errno, s->name, "cannot read");
    s->begin = 0;
    s->end = (size_t)n;
    s->at_end = n == 0;
    s->n_stored += (uint64_t)n;
    XXH3_128bits_update(s->hash, s->stored, (size_t)n);
    return OK;
}

static uint64_t stored_offset(const struct stream *s) {
    return s->n_stored - (s->end - s->begin);
}

static int refuse_truncated(const struct stream *s, const char *what, struct err *err) {
    return err_set(err, ERR_INPUT, s->name, "the %s data ends in the middle, after %llu stored bytes: the file is truncated "
                   "(copy or download it again)", what, (unsigned long long)s->n_stored);
}

/* One step of gzip: consumes stored bytes, writes to buffer. */
static int step_gzip(struct stream *s, void *buffer, size_t n, size_t *n_read, struct err *err) {
    if (s->begin == s->end)
        return s->inside ? refuse_truncated(s, "gzip", err) : OK;
    if (!s->inside && inflateReset(&s->zlib) != Z_OK)
        return no_memory(s, "gzip decompression", err);
    s->inside = true;
    s->zlib.next_in = s->stored + s->begin;
    s->zlib.avail_in = (uInt)(s->end - s->begin);
    s->zlib.next_out = buffer;
    s->zlib.avail_out = (uInt)(n < UINT_MAX ? n : UINT_MAX);
    uInt room = s->zlib.avail_out;
    int rc = inflate(&s->zlib, Z_NO_FLUSH);
    s->begin = s->end - s->zlib.avail_in;
    *n_read = room - s->zlib.avail_out;
    if (rc == Z_MEM_ERROR)
        return no_memory(s, "gzip decompression", err);
    if (rc != Z_OK && rc != Z_BUF_ERROR && rc != Z_STREAM_END)
        return err_set(err, ERR_INPUT, s->name, "damaged gzip data before stored byte %llu: %s (a truncated or changed "
                       "file, or something else named .gz)", (unsigned long long)stored_offset(s),
                       s->zlib.msg ? s->zlib.msg : "not gzip");
    s->inside = rc != Z_STREAM_END;
    return OK;
}

/* One step of zstd. Called with no stored bytes left it flushes what the decoder still holds. */
static int step_zstd(struct stream *s, void *buffer, size_t n, size_t *n_read, struct err *err) {
    bool starved = s->begin == s->end;
    if (starved && !s->inside)
        return OK;
    ZSTD_inBuffer in = {s->stored + s->begin, s->end - s->begin, 0};
    ZSTD_outBuffer out = {buffer, n, 0};
    size_t left = ZSTD_decompressStream(s->zstd, &out, &in);
    s->begin += in.pos;
    *n_read = out.pos;
    if (ZSTD_getErrorCode(left) == ZSTD_error_memory_allocation)
        return no_memory(s, "zstd decompression", err);
    if (ZSTD_isError(left))
        return err_set(err, ERR_INPUT, s->name, "damaged zstd data before stored byte %llu: %s (a truncated or changed "
                       "file, something else named .zst, or a file compressed with --long)",
                       (unsigned long long)stored_offset(s), ZSTD_getErrorName(left));
    s->inside = left != 0;
    if (starved && out.pos == 0 && s->inside)
        return refuse_truncated(s, "zstd", err);
    return OK;
}

static int step_plain(struct stream *s, void *buffer, size_t n, size_t *n_read) {
    size_t have = s->end - s->begin;
    *n_read = have < n ? have : n;
    memcpy(buffer, s->stored + s->begin, *n_read);
    s->begin += *n_read;
    return OK;
}

int stream_read(struct stream *s, void *buffer, size_t n, size_t *n_read, struct err *err) {
    int rc = OK;
    *n_read = 0;
    while (n > 0 && *n_read == 0) {
        if ((rc = refill(s, err)) != OK)
            break;
        if (s->begin == s->end && !s->inside)
            break;
        rc = s->format == STREAM_GZIP   ? step_gzip(s, buffer, n, n_read, err)
             : s->format == STREAM_ZSTD ? step_zstd(s, buffer, n, n_read, err)
                                        : step_plain(s, buffer, n, n_read);
        if (rc != OK)
            break;
    }
    return rc;
}

uint64_t stream_stored_bytes(const struct stream *s) {
    return s->n_stored;
}

void stream_hash(const struct stream *s, char hex[33]) {
    hash_hex(XXH3_128bits_digest(s->hash), hex);
}

int stream_hash_file(const char *path, char hex[33], struct err *err) {
    struct stream *s;
    int rc = stream_open(path, STREAM_PLAIN, path, &s, err);
    while (rc == OK && !s->at_end) {
        s->begin = s->end;
        rc = refill(s, err);
    }
    if (rc == OK)
        stream_hash(s, hex);
    stream_close(s);
    return rc;
}
