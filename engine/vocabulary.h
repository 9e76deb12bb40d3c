/* vocabulary.h - strings and their ids: a hash table one way, an array the other. Filled once, then read only. */
#ifndef SPKV_ENGINE_VOCABULARY_H
#define SPKV_ENGINE_VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Ids above this are refused: the array by id must not grow with a number in a file. Real vocabularies stay below 2^19. */
enum { MAX_TOKEN_ID = (1 << 22) - 1 };

struct vocabulary_entry {
    const char *text; /* owned by the vocabulary, zero-terminated */
    uint32_t len;
    int32_t id;
};

struct vocabulary_slot {
    uint32_t hash;
    uint32_t entry; /* index + 1; 0 = empty */
};

struct vocabulary { /* a zeroed struct is empty */
    struct vocabulary_entry *entries;
    size_t n, cap;
    struct vocabulary_slot *slots;
    size_t mask;         /* number of slots - 1, a power of two */
    uint32_t *by_id;     /* (n_ids) index + 1 of the entry, 0 = none */
    size_t n_ids;        /* largest id + 1 */
};

/* Room for `cap` entries. */
int vocabulary_init(struct vocabulary *vocabulary, size_t cap, struct err *err);
void vocabulary_free(struct vocabulary *vocabulary);

/* Adds a copy of text, which must not be there yet; id in [0, MAX_TOKEN_ID]. */
int vocabulary_add(struct vocabulary *vocabulary, const char *text, size_t n, int32_t id, struct err *err);

/* Makes vocabulary_text() work, once everything is added. An id used twice is reported through *twice (else NULL). */
int vocabulary_index(struct vocabulary *vocabulary, const struct vocabulary_entry **twice, struct err *err);

/* The id of a string, or -1. */
int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *text, size_t n);

/* The entry of an id, or NULL. */
const struct vocabulary_entry *vocabulary_at(const struct vocabulary *vocabulary, int32_t id);

#endif
