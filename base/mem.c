#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

bool size_mul(size_t a, size_t b, size_t *out) {
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

bool size_add(size_t a, size_t b, size_t *out) {
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}

void *mem_alloc(size_t count, size_t size, const char *what, struct err *err) {
    size_t n_bytes;
    void *memory = NULL;
    if (!size_mul(count, size, &n_bytes))
        n_bytes = SIZE_MAX;
    else
        memory = calloc(n_bytes ? n_bytes : 1, 1);
    if (!memory)
        err_memory(err, what, n_bytes);
    return memory;
}

int mem_grow(void *items, size_t *cap, size_t need, size_t size, const char *what, struct err *err) {
    void **slot = items;
    size_t new_cap = *cap ? *cap : 16, n_bytes;
    if (need <= *cap)
        return OK;
    while (new_cap < need)
        if (!size_mul(new_cap, 2, &new_cap))
            return err_memory(err, what, SIZE_MAX);
    if (!size_mul(new_cap, size, &n_bytes))
        return err_memory(err, what, SIZE_MAX);
    void *grown = realloc(*slot, n_bytes);
    if (!grown)
        return err_memory(err, what, n_bytes);
    *slot = grown;
    *cap = new_cap;
    return OK;
}

char *mem_strndup(const char *text, size_t n, struct err *err) {
    char *copy = n == SIZE_MAX ? NULL : mem_alloc(n + 1, 1, "a string", err);
    if (copy)
        memcpy(copy, text, n);
    return copy;
}

char *mem_strdup(const char *text, struct err *err) {
    return mem_strndup(text, strlen(text), err);
}
