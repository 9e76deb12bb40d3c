#include "engine/nfc.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"

enum { N_TABLE = 0x30000 }; /* nothing beyond plane 2 decomposes, composes or has a combining class */

struct nfc {
    uint8_t bound[N_TABLE / 8]; /* bit set: may change, or change with what stands before it */
};

/* Combining classes (and the pair of U+11938) given after Unicode 9, the version of the library's own tables. Found by
 * comparing both normalisers on every code point: scripts/reference/check_tokenizer.py repeats it. */
static const struct {
    uint32_t first, last;
} young[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},     {0xD3B, 0xD3C},
    {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x10D24, 0x10D27},
    {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B},
    {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0},
    {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
    {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
    {0x1E4EC, 0x1E4EF},
};

static bool is_young(unsigned c) {
    size_t low = 0, high = sizeof young / sizeof *young;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (c > young[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < sizeof young / sizeof *young && c >= young[low].first;
}

static void set_bound(struct nfc *nfc, int32_t c) {
    if (c >= 0 && c < N_TABLE)
        nfc->bound[c / 8] |= (uint8_t)(1u << (c % 8));
}

static bool is_bound(const struct nfc *nfc, unsigned c) {
    return c < N_TABLE && (nfc->bound[c / 8] >> (c % 8) & 1);
}

/* Appends what utf8proc makes of n bytes. */
static int normalise(const char *text, size_t n, struct str *out, struct err *err) {
    utf8proc_uint8_t *normal = NULL;
    utf8proc_ssize_t length =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &normal, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (length < 0)
        return length == UTF8PROC_ERROR_NOMEM ? err_memory(err, "normalised text", n)
                                              : err_set(err, ERR_INPUT, "", "normalisation: %s", utf8proc_errmsg(length));
    str_append(out, normal, (size_t)length);
    free(normal);
    return OK;
}

/* Marks c where its quick check is not "yes": a combining class, a decomposition that does not come back; and every later
 * part of a decomposition, since it may compose with what stands before it. */
static int mark(struct nfc *nfc, utf8proc_int32_t c, struct err *err) {
    const utf8proc_property_t *property = utf8proc_get_property(c);
    utf8proc_int32_t parts[8];
    int boundary = 0, rc = OK;
    if (property->combining_class != 0)
        set_bound(nfc, c);
    utf8proc_ssize_t n = utf8proc_decompose_char(c, parts, 8, UTF8PROC_DECOMPOSE, &boundary);
    if (n < 1 || n > 8 || (n == 1 && parts[0] == c))
        return OK;
    for (utf8proc_ssize_t i = 1; i < n; i++)
        set_bound(nfc, parts[i]);
    char utf8[4];
    size_t len = utf8_encode((unsigned)c, utf8);
    struct str normal = {0};
    rc = normalise(utf8, len, &normal, err);
    if (normal.len != len || memcmp(normal.data, utf8, len) != 0)
        set_bound(nfc, c);
    str_free(&normal);
    return rc;
}

/* Vowels and final consonants of Hangul compose with what stands before; the syllables are normal. */
static void mark_hangul(struct nfc *nfc) {
    for (int32_t c = 0x1161; c <= 0x1175; c++)
        set_bound(nfc, c);
    for (int32_t c = 0x11A8; c <= 0x11C2; c++)
        set_bound(nfc, c);
}

int nfc_create(struct nfc **out, struct err *err) {
    struct nfc *nfc = mem_alloc(1, sizeof *nfc, "normalisation tables", err);
    int rc = nfc ? OK : ERR_MEMORY;
    for (utf8proc_int32_t c = 0xC0; rc == OK && c < N_TABLE; c++)
        if (c < 0xAC00 || c >= 0xE000) /* without Hangul syllables and surrogates */
            rc = mark(nfc, c, err);
    if (rc == OK)
        mark_hangul(nfc);
    for (size_t i = 0; rc == OK && i < sizeof young / sizeof *young; i++)
        for (uint32_t c = young[i].first; c <= young[i].last; c++)
            nfc->bound[c / 8] &= (uint8_t)~(1u << (c % 8));
    if (rc != OK) {
        nfc_free(nfc);
        nfc = NULL;
    }
    *out = nfc;
    return rc;
}

void nfc_free(struct nfc *nfc) {
    free(nfc);
}

/* Offset of the first bound character at or after `at` (n when there is none); *before is where the character in front of it
 * begins. */
static size_t first_bound(const struct nfc *nfc, const char *text, size_t n, size_t at, size_t *before) {
    unsigned c;
    *before = at;
    while (at < n) {
        if (!(text[at] & 0x80)) {
            *before = at++;
            continue;
        }
        size_t len = utf8_decode(text + at, n - at, &c);
        if (is_bound(nfc, c))
            return at;
        *before = at;
        at += len;
    }
    return n;
}

/* Appends one run: a character that stands alone, if any, and the bound ones after it. */
static int normalise_run(const char *text, size_t n, struct str *out, struct err *err) {
    unsigned c;
    size_t len = utf8_decode(text, n, &c);
    if (!is_young(c))
        return normalise(text, n, out, err);
    str_append(out, text, len);
    return len < n ? normalise(text + len, n - len, out, err) : OK;
}

int nfc_run(const struct nfc *nfc, const char *text, size_t n, struct str *out, size_t *origin, bool *changed,
            struct err *err) {
    size_t copied = 0, begin, at, begun = out->len;
    int rc = OK;
    *changed = false;
    while (rc == OK && (at = first_bound(nfc, text, n, copied, &begin)) < n) {
        unsigned c;
        size_t end = at, old_origin = *origin, at_out;
        for (size_t len; end < n && (len = utf8_decode(text + end, n - end, &c), is_bound(nfc, c));)
            end += len;
        str_append(out, text + copied, begin - copied);
        at_out = out->len;
        rc = normalise_run(text + begin, end - begin, out, err);
        if (rc == OK && begin < old_origin && out->len > at_out)
            *origin = at_out - begun + utf8_decode(out->data + at_out, out->len - at_out, &c);
        *changed = true;
        copied = end;
    }
    if (*changed)
        str_append(out, text + copied, n - copied);
    return rc == OK && out->failed ? err_memory(err, "normalised text", n) : rc;
}
