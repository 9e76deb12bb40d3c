/* byte_level.h - the byte-level alphabet of GPT-2: every byte has a printable character, so that a vocabulary of strings
 * can hold any bytes. Visible Latin-1 characters stand for their own bytes, U+0100 to U+0143 for the other 68, in order. */
#ifndef SPKV_ENGINE_BYTE_LEVEL_H
#define SPKV_ENGINE_BYTE_LEVEL_H

/* The code point that stands for a byte. */
static inline unsigned byte_level_char(unsigned char byte) {
    if (byte < 33)
        return 0x100u + byte;
    if (byte >= 127 && byte <= 160)
        return 0x121u + (byte - 127u);
    return byte == 173 ? 0x143u : byte;
}

/* The byte that a code point stands for, or -1. */
static inline int byte_level_byte(unsigned code_point) {
    if (code_point < 256)
        return byte_level_char((unsigned char)code_point) == code_point ? (int)code_point : -1;
    if (code_point <= 0x120)
        return (int)code_point - 0x100;
    if (code_point <= 0x142)
        return (int)code_point - 0x121 + 127;
    return code_point == 0x143 ? 173 : -1;
}

#endif
