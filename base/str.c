#include "base/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* Room for n more bytes and the zero. */
static bool reserve(struct str *s, size_t n) {
    size_t need;
    if (!s->failed && (!size_add(s->len, n, &need) || !size_add(need, 1, &need) ||
                       mem_grow(&s->data, &s->cap, need, 1, "text", NULL) != OK))
        s->failed = true;
    return !s->failed;
}

void str_append(struct str *s, const void *bytes, size_t n) {
    if (!reserve(s, n))
        return;
    if (n)
        memcpy(s->data + s->len, bytes, n);
    s->len += n;
    s->data[s->len] = 0;
}

void str_puts(struct str *s, const char *text) {
    str_append(s, text, strlen(text));
}

void str_putc(struct str *s, char c) {
    str_append(s, &c, 1);
}

void str_printf(struct str *s, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    if (n < 0)
        s->failed = true;
    else if (reserve(s, (size_t)n)) {
        vsnprintf(s->data + s->len, (size_t)n + 1, format, again);
        s->len += (size_t)n;
    }
    va_end(again);
    va_end(args);
}

const char *str_text(const struct str *s) {
    return s->data ? s->data : "";
}

void str_clear(struct str *s) {
    s->len = 0;
    s->failed = false;
    if (s->data)
        s->data[0] = 0;
}

void str_free(struct str *s) {
    free(s->data);
    *s = (struct str){0};
}

void str_put_html(struct str *s, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        switch (text[i]) {
        case '&': str_puts(s, "&amp;"); break;
        case '<': str_puts(s, "&lt;"); break;
        case '>': str_puts(s, "&gt;"); break;
        case '"': str_puts(s, "&quot;"); break;
        case '\'': str_puts(s, "&#39;"); break;
        default: str_putc(s, text[i]);
        }
    }
}

/* Length of the valid sequence at text, 0 when there is none. */
static size_t sequence_length(const unsigned char *t, size_t n) {
    if (t[0] < 0x80)
        return 1;
    size_t len = t[0] >= 0xC2 && t[0] < 0xE0 ? 2 : t[0] >= 0xE0 && t[0] < 0xF0 ? 3 : t[0] >= 0xF0 && t[0] < 0xF5 ? 4 : 0;
    if (len == 0 || len > n)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((t[i] & 0xC0) != 0x80)
            return 0;
    bool overlong = (t[0] == 0xE0 && t[1] < 0xA0) || (t[0] == 0xF0 && t[1] < 0x90);
    bool surrogate = t[0] == 0xED && t[1] >= 0xA0;
    bool beyond = t[0] == 0xF4 && t[1] >= 0x90;
    return overlong || surrogate || beyond ? 0 : len;
}

size_t utf8_first_invalid(const char *text, size_t n) {
    const unsigned char *t = (const unsigned char *)text;
    size_t i = 0;
    while (i < n) {
        size_t len = sequence_length(t + i, n - i);
        if (len == 0)
            return i;
        i += len;
    }
    return n;
}

size_t utf8_decode(const char *text, size_t n, unsigned *code_point) {
    const unsigned char *t = (const unsigned char *)text;
    size_t len = t[0] < 0x80 ? 1 : t[0] < 0xE0 ? 2 : t[0] < 0xF0 ? 3 : 4;
    unsigned c = len == 1 ? t[0] : t[0] & (0xFFu >> (len + 1));
    ASSERT(len <= n);
    for (size_t i = 1; i < len; i++)
        c = c << 6 | (t[i] & 0x3F);
    *code_point = c;
    return len;
}

size_t utf8_encode(unsigned c, char out[4]) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t len = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = len; --i > 0; c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)((0xF00u >> len & 0xFF) | c);
    return len;
}
