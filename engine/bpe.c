#include "engine/bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "engine/unicode_class.h"

static uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static size_t hash_pair(uint64_t pair) {
    pair *= 0x9E3779B97F4A7C15u;
    return (size_t)(pair ^ pair >> 32);
}

static struct bpe_merge *merge_slot(const struct bpe *bpe, uint64_t pair) {
    size_t i = hash_pair(pair) & bpe->merge_mask;
    while (bpe->merges[i].pair != pair && bpe->merges[i].pair != UINT64_MAX)
        i = (i + 1) & bpe->merge_mask;
    return &bpe->merges[i];
}

const struct bpe_merge *bpe_find_merge(const struct bpe *bpe, int32_t left, int32_t right) {
    const struct bpe_merge *slot = merge_slot(bpe, pair_of(left, right));
    return slot->pair == UINT64_MAX ? NULL : slot;
}

static int read_vocabulary(struct bpe *bpe, json_t *json, const char *where, struct err *err) {
    json_t *tokens = NULL, *id;
    const char *text;
    const struct vocabulary_entry *twice;
    int rc = json_require(json, "vocab", where, err);
    if (rc == OK)
        rc = json_get_object(json, "vocab", &tokens, where, err);
    if (rc == OK)
        rc = vocabulary_init(&bpe->vocabulary, json_object_size(tokens), err);
    if (rc != OK)
        return rc;
    json_object_foreach(tokens, text, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > MAX_TOKEN_ID)
            return err_set(err, ERR_INPUT, where, "the id of token \"%.100s\" is not an integer from 0 to %d", text,
                           MAX_TOKEN_ID);
        rc = vocabulary_add(&bpe->vocabulary, text, strlen(text), (int32_t)json_integer_value(id), err);
        if (rc != OK)
            return rc;
    }
    rc = vocabulary_index(&bpe->vocabulary, &twice, err);
    if (rc == OK && twice)
        rc = err_set(err, ERR_INPUT, where, "id %d belongs to token \"%.100s\" and to another one (give each its own)",
                     (int)twice->id, twice->text);
    return rc;
}

/* The two halves of a merge, written as ["a", "b"] or "a b". */
static int merge_halves(const json_t *merge, const char *text[2], size_t n[2]) {
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        for (size_t i = 0; i < 2; i++) {
            const json_t *half = json_array_get(merge, i);
            if (!json_is_string(half))
                return ERR_INPUT;
            text[i] = json_string_value(half);
            n[i] = json_string_length(half);
        }
        return OK;
    }
    const char *whole = json_string_value(merge), *space = whole ? strchr(whole, ' ') : NULL;
    if (!space || strchr(space + 1, ' '))
        return ERR_INPUT;
    text[0] = whole;
    n[0] = (size_t)(space - whole);
    text[1] = space + 1;
    n[1] = strlen(text[1]);
    return OK;
}

/* Notes which characters meet where the two halves join. */
static void mark_seam(struct bpe *bpe, const char *const text[2], const size_t n[2]) {
    size_t len;
    unsigned right;
    if (n[0] == 0 || n[1] == 0)
        return;
    unsigned left = utf8_decode_last(text[0], n[0], &len);
    utf8_decode(text[1], n[1], &right);
    size_t bit = (size_t)bpe_pair_class(left) * N_PAIR_CLASSES + bpe_pair_class(right);
    bpe->seams[bit / 64] |= UINT64_C(1) << (bit % 64);
}

static int add_merge(struct bpe *bpe, const json_t *merge, size_t rank, struct str *joined, const char *where,
                     struct err *err) {
    const char *text[2], *missing = NULL;
    size_t n[2];
    int32_t id[3];
    if (merge_halves(merge, text, n) != OK)
        return err_set(err, ERR_INPUT, where, "merge %zu is neither [\"a\", \"b\"] nor \"a b\"", rank);
    str_clear(joined);
    str_append(joined, text[0], n[0]);
    str_append(joined, text[1], n[1]);
    if (joined->failed)
        return err_memory(err, "a merge", n[0] + n[1]);
    id[0] = vocabulary_find(&bpe->vocabulary, text[0], n[0]);
    id[1] = vocabulary_find(&bpe->vocabulary, text[1], n[1]);
    id[2] = vocabulary_find(&bpe->vocabulary, str_text(joined), joined->len);
    missing = id[0] < 0 ? text[0] : id[1] < 0 ? text[1] : id[2] < 0 ? str_text(joined) : NULL;
    if (missing)
        return err_set(err, ERR_INPUT, where, "merge %zu: \"%.100s\" is not in the vocabulary", rank, missing);
    uint64_t pair = pair_of(id[0], id[1]);
    *merge_slot(bpe, pair) = (struct bpe_merge){pair, (uint32_t)rank, id[2]}; /* a repeated pair: the last rank counts */
    mark_seam(bpe, text, n);
    return OK;
}

static int read_merges(struct bpe *bpe, const json_t *json, const char *where, struct err *err) {
    json_t *merges = NULL, *merge;
    size_t n_slots = 8, i, rank = 0;
    struct str joined = {0};
    int rc = json_require(json, "merges", where, err);
    if (rc == OK)
        rc = json_get_array(json, "merges", &merges, where, err);
    if (rc != OK)
        return rc;
    while (n_slots < 2 * json_array_size(merges))
        n_slots *= 2;
    bpe->merges = mem_alloc(n_slots, sizeof *bpe->merges, "merges", err);
    if (!bpe->merges)
        return ERR_MEMORY;
    bpe->merge_mask = n_slots - 1;
    for (i = 0; i < n_slots; i++)
        bpe->merges[i].pair = UINT64_MAX;
    json_array_foreach(merges, i, merge) {
        const char *line = json_string_value(merge);
        if (line && strncmp(line, "#version", 8) == 0)
            continue;
        rc = add_merge(bpe, merge, rank++, &joined, where, err);
        if (rc != OK)
            break;
    }
    str_free(&joined);
    return rc;
}

/* Refuses what would change ids and is not done here. */
static int refuse_options(const json_t *json, const char *where, struct err *err) {
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    double dropout = 0;
    int rc = json_get_real(json, "dropout", 0, 1, &dropout, where, err);
    if (rc == OK && dropout > 0)
        return err_set(err, ERR_INPUT, where, "\"dropout\" is %g: ids would be random (set it to null)", dropout);
    for (size_t i = 0; rc == OK && i < 2; i++) {
        const char *affix = "";
        rc = json_get_string(json, affixes[i], &affix, where, err);
        if (rc == OK && *affix)
            return err_set(err, ERR_INPUT, where, "\"%s\" is \"%.40s\", which is not supported", affixes[i], affix);
    }
    return rc;
}

static int read_options(struct bpe *bpe, const json_t *json, const char *where, struct err *err) {
    const char *type = "BPE", *unk = NULL;
    int rc = json_get_string(json, "type", &type, where, err);
    if (rc == OK && strcmp(type, "BPE") != 0)
        return err_set(err, ERR_INPUT, where, "model type %s is not supported (BPE is)", type);
    if (rc == OK)
        rc = refuse_options(json, where, err);
    if (rc == OK)
        rc = json_get_string(json, "unk_token", &unk, where, err);
    if (rc == OK && unk && !(bpe->unk_token = mem_strdup(unk, err)))
        rc = ERR_MEMORY;
    if (rc == OK)
        rc = json_get_bool(json, "fuse_unk", &bpe->fuse_unk, where, err);
    if (rc == OK)
        rc = json_get_bool(json, "byte_fallback", &bpe->byte_fallback, where, err);
    if (rc == OK)
        rc = json_get_bool(json, "ignore_merges", &bpe->ignore_merges, where, err);
    return rc;
}

static void fill_tables(struct bpe *bpe) {
    char text[8];
    for (unsigned c = 0; c < sizeof bpe->small / sizeof *bpe->small; c++)
        bpe->small[c] = vocabulary_find(&bpe->vocabulary, text, utf8_encode(c, text));
    for (unsigned byte = 0; byte < 256; byte++) {
        int n = snprintf(text, sizeof text, "<0x%02X>", byte);
        bpe->fallback[byte] = vocabulary_find(&bpe->vocabulary, text, (size_t)n);
    }
    bpe->unk_id = bpe->unk_token ? vocabulary_find(&bpe->vocabulary, bpe->unk_token, strlen(bpe->unk_token)) : -1;
}

int bpe_parse(const json_t *json, const char *where, bool byte_level, struct bpe **out, struct err *err) {
    char place[512];
    snprintf(place, sizeof place, "%s: model", where);
    *out = NULL;
    if (!json_is_object(json))
        return err_set(err, ERR_INPUT, place, "an object was expected");
    struct bpe *bpe = mem_alloc(1, sizeof *bpe, "a tokenizer model", err);
    if (!bpe)
        return ERR_MEMORY;
    bpe->byte_level = byte_level;
    int rc = read_options(bpe, json, place, err);
    if (rc == OK)
        rc = read_vocabulary(bpe, (json_t *)(uintptr_t)json, place, err);
    if (rc == OK)
        rc = read_merges(bpe, json, place, err);
    if (rc == OK) {
        fill_tables(bpe);
        *out = bpe;
    } else
        bpe_free(bpe);
    return rc;
}

void bpe_free(struct bpe *bpe) {
    if (!bpe)
        return;
    vocabulary_free(&bpe->vocabulary);
    free(bpe->merges);
    free(bpe->unk_token);
    free(bpe);
}
