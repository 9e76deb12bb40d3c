#include "datasets/answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* --- RULER --- */

/* What str.isspace() of Python is true for. */
static bool is_space(unsigned c) {
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static void strip(const char **text, size_t *n) {
    unsigned c;
    while (*n > 0) {
        size_t len = utf8_decode(*text, *n, &c);
        if (!is_space(c))
            break;
        *text += len;
        *n -= len;
    }
    while (*n > 0) {
        size_t len = 1;
        while (len < *n && len < 4 && ((*text)[*n - len] & 0xC0) == 0x80)
            len++;
        utf8_decode(*text + *n - len, len, &c);
        if (!is_space(c))
            break;
        *n -= len;
    }
}

void answer_clean(const char *text, size_t n, struct str *out) {
    struct str lines = {0};
    strip(&text, &n);
    for (size_t i = 0; i < n; i++)
        str_putc(&lines, (unsigned char)text[i] < 0x20 ? '\n' : text[i]);
    text = str_text(&lines);
    n = lines.len;
    strip(&text, &n);
    str_clear(out);
    str_append(out, text, n);
    out->failed |= lines.failed;
    str_free(&lines);
}

static void put_lower(const char *text, size_t n, struct str *out) {
    for (size_t i = 0; i < n;) {
        char bytes[4];
        unsigned c;
        i += utf8_decode(text + i, n - i, &c);
        if (c == 0x130) /* I with a dot: two code points */
            str_puts(out, "i\xCC\x87");
        else
            str_append(out, bytes, utf8_encode((unsigned)utf8proc_tolower((utf8proc_int32_t)c), bytes));
    }
}

/* How many of the references the text holds. */
static int count_found(const struct str *clean, const json_t *references, size_t *out, struct err *err) {
    struct str text = {0}, reference = {0};
    bool failed = false;
    const json_t *entry;
    size_t i;
    *out = 0;
    put_lower(str_text(clean), clean->len, &text);
    json_array_foreach((json_t *)(uintptr_t)references, i, entry) {
        str_clear(&reference);
        if (!json_is_string(entry))
            continue;
        put_lower(json_string_value(entry), json_string_length(entry), &reference);
        *out += reference.len == 0 || memmem(str_text(&text), text.len, str_text(&reference), reference.len) != NULL;
    }
    failed = clean->failed || text.failed || reference.failed;
    str_free(&text);
    str_free(&reference);
    return failed ? err_memory(err, "an answer", clean->len) : OK;
}

int answer_match_all(const struct str *clean, const json_t *references, double *out, struct err *err) {
    size_t n;
    int rc = count_found(clean, references, &n, err);
    *out = (double)n / (double)json_array_size(references);
    return rc;
}

int answer_match_part(const struct str *clean, const json_t *references, double *out, struct err *err) {
    size_t n;
    int rc = count_found(clean, references, &n, err);
    *out = n > 0;
    return rc;
}

double answer_percent(double sum, size_t n) {
    char text[32];
    snprintf(text, sizeof text, "%.2f", sum / (double)n * 100); /* the nearest decimal of the exact binary value */
    return strtod(text, NULL);
}

/* --- GSM8K --- */

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* A digit, or one of the marks that numbers are written with: [$0-9.,]. */
static bool in_number(char c) {
    return is_digit(c) || c == '.' || c == ',' || c == '$';
}

static void put_number(const char *text, size_t n, struct str *out) {
    str_clear(out);
    for (size_t i = 0; i < n; i++)
        if (text[i] != ',' && text[i] != '$')
            str_putc(out, text[i]);
    if (out->len && out->data[out->len - 1] == '.')
        out->data[--out->len] = 0;
}

/* #### (-?[0-9.,]+) */
bool answer_strict_number(const char *text, size_t n, struct str *out) {
    static const char mark[] = "#### ";
    const char *end = text + n, *hit;
    str_clear(out);
    while ((hit = memmem(text, (size_t)(end - text), mark, sizeof mark - 1))) {
        const char *begin = hit + sizeof mark - 1, *p = begin;
        p += p < end && *p == '-';
        const char *digits = p;
        while (p < end && in_number(*p) && *p != '$')
            p++;
        if (p > digits) {
            put_number(begin, (size_t)(p - begin), out);
            return true;
        }
        text = hit + 1;
    }
    return false;
}

/* The last of (-?[$0-9.,]{2,})|(-?[0-9]+) */
bool answer_last_number(const char *text, size_t n, struct str *out) {
    size_t begin = 0, len = 0;
    for (size_t i = 0; i < n;) {
        size_t digits = i + (text[i] == '-'), end = digits;
        while (end < n && in_number(text[end]))
            end++;
        if (end >= digits + 2 || (end == digits + 1 && is_digit(text[digits]))) {
            begin = i;
            len = end - i;
            i = end;
        } else {
            i++;
        }
    }
    put_number(text + begin, len, out);
    return len > 0;
}
