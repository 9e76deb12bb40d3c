#include "engine/vocabulary.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/mem.h"

int vocabulary_init(struct vocabulary *v, size_t cap, struct err *err) {
    size_t n_slots = 8;
    *v = (struct vocabulary){0};
    if (cap > UINT32_MAX / 4)
        return err_set(err, ERR_INPUT, "", "%zu tokens are more than a vocabulary can hold", cap);
    while (n_slots < 2 * cap)
        n_slots *= 2;
    v->entries = mem_alloc(cap, sizeof *v->entries, "a vocabulary", err);
    v->slots = mem_alloc(n_slots, sizeof *v->slots, "a vocabulary", err);
    if (!v->entries || !v->slots) {
        vocabulary_free(v);
        return ERR_MEMORY;
    }
    v->cap = cap;
    v->mask = n_slots - 1;
    return OK;
}

void vocabulary_free(struct vocabulary *v) {
    for (size_t i = 0; i < v->n; i++)
        free((void *)(uintptr_t)v->entries[i].text);
    free(v->entries);
    free(v->slots);
    free(v->by_id);
    *v = (struct vocabulary){0};
}

static uint32_t hash_of(const char *text, size_t n) {
    return (uint32_t)XXH3_64bits(text, n);
}

/* The slot that holds the string, or the empty one where it belongs. */
static struct vocabulary_slot *slot_of(const struct vocabulary *v, const char *text, size_t n, uint32_t hash) {
    size_t i = hash & v->mask;
    while (v->slots[i].entry) {
        const struct vocabulary_entry *entry = &v->entries[v->slots[i].entry - 1];
        if (v->slots[i].hash == hash && entry->len == n && memcmp(entry->text, text, n) == 0)
            break;
        i = (i + 1) & v->mask;
    }
    return &v->slots[i];
}

int vocabulary_add(struct vocabulary *v, const char *text, size_t n, int32_t id, struct err *err) {
    ASSERT(v->n < v->cap && id >= 0 && id <= MAX_TOKEN_ID);
    if (n > UINT32_MAX)
        return err_set(err, ERR_INPUT, "", "a token of %zu bytes", n);
    uint32_t hash = hash_of(text, n);
    struct vocabulary_slot *slot = slot_of(v, text, n, hash);
    ASSERT(slot->entry == 0);
    char *copy = mem_strndup(text, n, err);
    if (!copy)
        return ERR_MEMORY;
    v->entries[v->n] = (struct vocabulary_entry){copy, (uint32_t)n, id};
    *slot = (struct vocabulary_slot){hash, (uint32_t)++v->n};
    return OK;
}

int vocabulary_index(struct vocabulary *v, const struct vocabulary_entry **twice, struct err *err) {
    *twice = NULL;
    for (size_t i = 0; i < v->n; i++)
        if ((size_t)v->entries[i].id >= v->n_ids)
            v->n_ids = (size_t)v->entries[i].id + 1;
    v->by_id = mem_alloc(v->n_ids, sizeof *v->by_id, "a vocabulary", err);
    if (!v->by_id)
        return ERR_MEMORY;
    for (size_t i = 0; i < v->n; i++) {
        uint32_t *slot = &v->by_id[v->entries[i].id];
        if (*slot && !*twice)
            *twice = &v->entries[i];
        if (!*slot)
            *slot = (uint32_t)i + 1;
    }
    return OK;
}

int32_t vocabulary_find(const struct vocabulary *v, const char *text, size_t n) {
    if (v->n == 0)
        return -1;
    const struct vocabulary_slot *slot = slot_of(v, text, n, hash_of(text, n));
    return slot->entry ? v->entries[slot->entry - 1].id : -1;
}

const struct vocabulary_entry *vocabulary_at(const struct vocabulary *v, int32_t id) {
    if (id < 0 || (size_t)id >= v->n_ids || v->by_id[id] == 0)
        return NULL;
    return &v->entries[v->by_id[id] - 1];
}
