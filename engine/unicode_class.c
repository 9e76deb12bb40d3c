#include "engine/unicode_class.h"

#include <utf8proc.h>

#include "base/str.h"

bool unicode_is_space(unsigned c) {
    if (c < 0x80)
        return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

bool unicode_is_number(unsigned c) {
    if (c < 0x80)
        return c >= '0' && c <= '9';
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

/* Other_Alphabetic outside the category M: letters in circles and squares. */
static bool is_enclosed_letter(unsigned c) {
    return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
           (c >= 0x1F170 && c <= 0x1F189);
}

bool unicode_is_word(unsigned c) {
    if (c < 0x80)
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) || category == UTF8PROC_CATEGORY_PC ||
           is_enclosed_letter(c) || c == 0x200C || c == 0x200D;
}

unsigned utf8_decode_last(const char *text, size_t n, size_t *len) {
    size_t start = n - 1;
    unsigned code_point;
    while (start > 0 && ((unsigned char)text[start] & 0xC0) == 0x80)
        start--;
    *len = utf8_decode(text + start, n - start, &code_point);
    return code_point;
}
