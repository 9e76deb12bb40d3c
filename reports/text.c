#include "reports/text.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Characters that move text about or end a line where a label must stay one. */
static bool is_disruptive(unsigned c) {
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x200e && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
           (c >= 0x2066 && c <= 0x2069) || c == 0xfeff;
}

void text_put_clean(struct str *s, const char *text) {
    size_t n = strlen(text);
    for (size_t i = 0; i < n;) {
        size_t valid = utf8_first_invalid(text + i, n - i > 4 ? 4 : n - i);
        unsigned c;
        if (valid == 0) {
            str_puts(s, "\xef\xbf\xbd");
            i++;
            continue;
        }
        size_t len = utf8_decode(text + i, n - i, &c);
        if (is_disruptive(c))
            str_putc(s, ' ');
        else
            str_append(s, text + i, len);
        i += len;
    }
}

void text_put_clean_html(struct str *s, const char *text) {
    struct str clean = {0};
    text_put_clean(&clean, text);
    s->failed |= clean.failed;
    str_put_html(s, str_text(&clean), clean.len);
    str_free(&clean);
}

void text_put_double(struct str *s, double x) {
    char text[40];
    if (isnan(x))
        return;
    if (fabs(x) < 1e15 && x == floor(x)) {
        str_printf(s, "%.0f", x);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x)
            break;
    }
    str_puts(s, text);
}

void text_put_fixed(struct str *s, double x, int decimals) {
    if (isnan(x))
        str_puts(s, "\xe2\x80\x93");
    else
        str_printf(s, "%.*f", decimals, x);
}

void text_put_count(struct str *s, uint64_t n) {
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n);
    for (int i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0)
            str_putc(s, ',');
        str_putc(s, digits[i]);
    }
}

void text_put_bytes(struct str *s, double n_bytes) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    size_t unit = 0;
    while (n_bytes >= 999.5 && unit + 1 < sizeof units / sizeof *units) {
        n_bytes /= 1000;
        unit++;
    }
    int decimals = unit == 0 ? 0 : n_bytes < 9.995 ? 2 : n_bytes < 99.95 ? 1 : 0;
    str_printf(s, "%.*f %s", decimals, n_bytes, units[unit]);
}

void text_put_base64(struct str *s, const void *bytes, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *b = bytes;
    for (size_t i = 0; i < n; i += 3) {
        size_t have = n - i < 3 ? n - i : 3;
        unsigned v = (unsigned)b[i] << 16 | (have > 1 ? (unsigned)b[i + 1] << 8 : 0) | (have > 2 ? b[i + 2] : 0);
        char out[4] = {digits[v >> 18], digits[v >> 12 & 63], have > 1 ? digits[v >> 6 & 63] : '=',
                       have > 2 ? digits[v & 63] : '='};
        str_append(s, out, 4);
    }
}

int text_n_lines(const struct str *s) {
    int n = s->len > 0;
    for (size_t i = 0; i < s->len; i++)
        n += s->data[i] == '\n';
    return n;
}

void text_wrap(const char *paragraph, double limit, double (*measure)(const char *line, const void *self), const void *self,
               struct str *out) {
    struct str line = {0};
    for (const char *p = paragraph; *p;) {
        size_t gap = strspn(p, " "), word = strcspn(p + gap, " "), before = line.len;
        if (word == 0)
            break;
        if (before)
            str_putc(&line, ' ');
        str_append(&line, p + gap, word);
        if (before && measure(str_text(&line), self) > limit) {
            str_append(out, line.data, line.failed ? 0 : before);
            str_putc(out, '\n');
            str_clear(&line);
            str_append(&line, p + gap, word);
        }
        p += gap + word;
    }
    out->failed |= line.failed;
    str_puts(out, str_text(&line));
    str_free(&line);
}
