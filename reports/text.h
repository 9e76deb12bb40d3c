/* text.h - numbers and foreign strings as text for people and files. Numbers are written in the numeric locale of the
 * process, which the program leaves at "C". Appending to a struct str, whose errors are sticky. */
#ifndef SPKV_REPORTS_TEXT_H
#define SPKV_REPORTS_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

/* A string that came from a file or a command line, made harmless to show: bytes that are no UTF-8 become U+FFFD, control
 * characters (C0, DEL, C1), line and paragraph separators and the marks that reorder text become a space. Nothing is
 * escaped. */
void text_put_clean(struct str *s, const char *text);

/* The same, then escaped for HTML. */
void text_put_clean_html(struct str *s, const char *text);

/* The shortest decimal that reads back as the same double, with an exponent where it is very small or large; nothing at all
 * for NaN; "inf" and "-inf". */
void text_put_double(struct str *s, double x);

/* With so many decimals, an en dash for NaN. */
void text_put_fixed(struct str *s, double x, int decimals);

/* 1234567 as "1,234,567". */
void text_put_count(struct str *s, uint64_t n);

/* Bytes for people, powers of 1000: "914 B", "23.0 kB", "3.02 GB". */
void text_put_bytes(struct str *s, double n_bytes);

/* The n bytes in base64 (RFC 4648), padded. */
void text_put_base64(struct str *s, const void *bytes, size_t n);

int text_n_lines(const struct str *s); /* that '\n' separates; 0 of nothing */

/* Breaks a paragraph at spaces so that measure(line) <= limit wherever a line has more than one word; lines are separated by
 * '\n' in out. */
void text_wrap(const char *paragraph, double limit, double (*measure)(const char *line, const void *self), const void *self,
               struct str *out);

#endif
