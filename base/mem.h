/* mem.h - checked size arithmetic and allocation. Every size that comes from a file goes through here before it
 * becomes an allocation or an offset. */
#ifndef SPKV_BASE_MEM_H
#define SPKV_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* *out = a * b (a + b); false and *out untouched when it does not fit a size_t. */
bool size_mul(size_t a, size_t b, size_t *out);
bool size_add(size_t a, size_t b, size_t *out);

/* Zeroed memory for `count` items of `size` bytes, freed with free(). A count of 0 gives a unique pointer.
 * NULL and ERR_MEMORY in `err` (which may be NULL) on overflow or exhaustion. */
void *mem_alloc(size_t count, size_t size, const char *what, struct err *err);

/* Grows *items (capacity *cap, element size `size`) to hold at least `need` items, doubling. New items are not zeroed.
 * On failure *items and *cap stay valid. */
int mem_grow(void *items, size_t *cap, size_t need, size_t size, const char *what, struct err *err);

/* A copy of a string or of n bytes plus a terminating zero, freed with free(); NULL and ERR_MEMORY on failure. */
char *mem_strdup(const char *text, struct err *err);
char *mem_strndup(const char *text, size_t n, struct err *err);

#endif
