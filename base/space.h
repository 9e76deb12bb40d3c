/* space.h - white space at the ends of texts, as Python has it: prompts and scores of evaluations are defined in its
 * terms. Pure functions. */
#ifndef SPKV_BASE_SPACE_H
#define SPKV_BASE_SPACE_H

#include <stdbool.h>
#include <stddef.h>

/* Python's \s and str.isspace(): Unicode's White_Space and U+001C to U+001F. */
bool is_python_space(unsigned code_point);

/* str.strip() and str.rstrip() of n bytes of UTF-8: bytes are left out, nothing is written. */
void python_strip(const char **text, size_t *n);
void python_strip_end(const char *text, size_t *n);

#endif
