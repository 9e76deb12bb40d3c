#include "datasets/lines.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

enum { READ_BYTES = 1 << 18 };

struct lines {
    struct stream *stream;
    const char *name;
    char *data;        /* [begin, end) is read and not yet returned */
    size_t begin, end, cap;
    bool at_end;       /* the stream has no more */
    uint64_t offset;   /* of data[begin] in the decompressed file */
    uint64_t n_lines;
};

/* Reads a block behind `end`, moving what is pending to the front first when the buffer is full. */
static int read_more(struct lines *l, struct err *err) {
    size_t n;
    int rc;
    if (l->cap - l->end < READ_BYTES && l->begin > 0) {
        memmove(l->data, l->data + l->begin, l->end - l->begin);
        l->end -= l->begin;
        l->begin = 0;
    }
    if (l->end > LINES_MAX_BYTES)
        return err_set(err, ERR_INPUT, l->name, "a document of more than %zu bytes (split the file, or use --split-blank or "
                       "JSON Lines for documents of their own)", LINES_MAX_BYTES);
    if ((rc = mem_grow(&l->data, &l->cap, l->end + READ_BYTES, 1, "text", err)) != OK)
        return rc;
    if ((rc = stream_read(l->stream, l->data + l->end, l->cap - l->end, &n, err)) != OK)
        return rc;
    l->end += n;
    l->at_end = n == 0;
    return OK;
}

static int skip_mark(struct lines *l, struct err *err) {
    int rc = OK;
    while (rc == OK && !l->at_end && l->end < 3)
        rc = read_more(l, err);
    if (rc == OK && l->end >= 3 && memcmp(l->data, "\xEF\xBB\xBF", 3) == 0)
        l->begin = l->offset = 3;
    return rc;
}

int lines_open(struct stream *stream, const char *name, struct lines **out, struct err *err) {
    struct lines *l = mem_alloc(1, sizeof *l, "a line reader", err);
    *out = NULL;
    if (!l) {
        stream_close(stream);
        return ERR_MEMORY;
    }
    l->stream = stream;
    l->name = name;
    int rc = skip_mark(l, err);
    if (rc != OK) {
        lines_close(l);
        return rc;
    }
    *out = l;
    return OK;
}

void lines_close(struct lines *l) {
    if (!l)
        return;
    stream_close(l->stream);
    free(l->data);
    free(l);
}

/* Hands out the first n pending bytes. */
static int take(struct lines *l, size_t n, const char **text, size_t *n_out, struct err *err) {
    const char *begin = l->data + l->begin;
    size_t valid = n ? utf8_first_invalid(begin, n) : 0;
    if (valid < n) {
        bool utf16 = l->offset + valid == 0 && n > 1 &&
                     (memcmp(begin, "\xFF\xFE", 2) == 0 || memcmp(begin, "\xFE\xFF", 2) == 0);
        return err_set(err, ERR_INPUT, l->name, "not valid UTF-8 at byte %llu (0x%02x): convert it, for example with "
                       "iconv -f %s -t UTF-8", (unsigned long long)(l->offset + valid), (unsigned char)begin[valid],
                       utf16 ? "UTF-16" : "LATIN1");
    }
    l->begin += n;
    l->offset += n;
    *text = begin;
    *n_out = n;
    return OK;
}

int lines_next(struct lines *l, const char **text, size_t *n, struct err *err) {
    size_t searched = 0;
    *text = NULL;
    *n = 0;
    for (;;) {
        size_t pending = l->end - l->begin;
        const char *begin = pending ? l->data + l->begin : NULL;
        const char *brk = pending > searched ? memchr(begin + searched, '\n', pending - searched) : NULL;
        if (!brk && !l->at_end) {
            int rc = read_more(l, err);
            if (rc != OK)
                return rc;
            searched = pending;
            continue;
        }
        if (pending == 0)
            return OK;
        l->n_lines++;
        return take(l, brk ? (size_t)(brk - begin) + 1 : pending, text, n, err);
    }
}

int lines_rest(struct lines *l, const char **text, size_t *n, struct err *err) {
    *text = "";
    *n = 0;
    while (!l->at_end) {
        int rc = read_more(l, err);
        if (rc != OK)
            return rc;
    }
    return l->begin == l->end ? OK : take(l, l->end - l->begin, text, n, err);
}

bool lines_is_blank(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!memchr(" \t\r\n\v\f", text[i], 6))
            return false;
    return true;
}

uint64_t lines_number(const struct lines *l) {
    return l->n_lines;
}

const struct stream *lines_stream(const struct lines *l) {
    return l->stream;
}
