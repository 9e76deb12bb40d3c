/* unicode_class.h - the character classes that tokenizers ask for. Pure functions. */
#ifndef SPKV_ENGINE_UNICODE_CLASS_H
#define SPKV_ENGINE_UNICODE_CLASS_H

#include <stdbool.h>
#include <stddef.h>

/* Property White_Space. */
bool unicode_is_space(unsigned code_point);

/* General categories Nd, Nl, No. */
bool unicode_is_number(unsigned code_point);

/* \w of Rust's regex crate: Alphabetic, M, Nd, Pc, Join_Control. */
bool unicode_is_word(unsigned code_point);

/* The code point that ends at text[n), n > 0, of valid UTF-8; *len is its length in bytes. */
unsigned utf8_decode_last(const char *text, size_t n, size_t *len);

#endif
