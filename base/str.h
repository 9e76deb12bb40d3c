/* str.h - a growing byte string, always zero-terminated. Used to build messages, JSON, HTML, CSV and decoded text.
 *
 * Errors are sticky: after a failed growth every later call does nothing and str_failed() is true, so that a builder is
 * checked once, at the end. A zeroed struct is an empty string. */
#ifndef SPKV_BASE_STR_H
#define SPKV_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>

struct str {
    char *data; /* NULL while empty; otherwise len bytes and a zero */
    size_t len, cap;
    bool failed;
};

void str_append(struct str *s, const void *bytes, size_t n);
void str_puts(struct str *s, const char *text);
void str_putc(struct str *s, char c);
void str_printf(struct str *s, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The text, "" while empty. Borrowed until the next change. */
const char *str_text(const struct str *s);
void str_clear(struct str *s); /* len = 0, keeps the memory */
void str_free(struct str *s);  /* back to a zeroed struct */

/* Appends `n` bytes with & < > " ' escaped for HTML and XML text and attributes. */
void str_put_html(struct str *s, const char *text, size_t n);

/* Offset of the first byte that is not valid UTF-8 (RFC 3629: no surrogates, no overlong forms), or n when all is. */
size_t utf8_first_invalid(const char *text, size_t n);

/* Decodes the code point at text[0..n), n > 0, of valid UTF-8. Returns its length in bytes, 1 to 4. */
size_t utf8_decode(const char *text, size_t n, unsigned *code_point);

/* Writes a code point as UTF-8, returns its length. */
size_t utf8_encode(unsigned code_point, char out[4]);

#endif
