#include "base/space.h"

#include "base/str.h"

bool is_python_space(unsigned c) {
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

void python_strip_end(const char *text, size_t *n) {
    while (*n > 0) {
        unsigned c;
        size_t len = 1;
        while (len < *n && len < 4 && ((unsigned char)text[*n - len] & 0xC0) == 0x80)
            len++;
        utf8_decode(text + *n - len, len, &c);
        if (!is_python_space(c))
            return;
        *n -= len;
    }
}

void python_strip(const char **text, size_t *n) {
    unsigned c;
    size_t len;
    while (*n > 0 && (len = utf8_decode(*text, *n, &c), is_python_space(c))) {
        *text += len;
        *n -= len;
    }
    python_strip_end(*text, n);
}
