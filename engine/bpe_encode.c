#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/mem.h"
#include "engine/bpe.h"
#include "engine/byte_level.h"

struct bpe_symbol {
    int32_t id;         /* -1: merged into the symbol before it */
    int32_t prev, next; /* -1 = none */
};

/* A pair that may merge: rank above, position of its left symbol below; `id` is what it would become. */
struct bpe_candidate {
    uint64_t order;
    int32_t id;
};

enum { WORD_BYTES = 24, WORD_IDS = 9, MAX_WORDS = 1 << 14 };

struct bpe_word { /* one cache line; n_bytes 0 = empty */
    char text[WORD_BYTES];
    int32_t ids[WORD_IDS];
    uint8_t n_bytes, n_ids, whole;
};

int bpe_scratch_prepare(struct bpe_scratch *scratch, size_t n, struct err *err) {
    size_t n_words = 16;
    while (n_words < MAX_WORDS && n_words < n / 16)
        n_words *= 2;
    scratch->words = mem_alloc(n_words, sizeof *scratch->words, "a word cache", err);
    scratch->word_mask = n_words - 1;
    return scratch->words ? OK : ERR_MEMORY;
}

void bpe_scratch_free(struct bpe_scratch *scratch) {
    free(scratch->symbols);
    free(scratch->heap);
    free(scratch->words);
    str_free(&scratch->piece);
    *scratch = (struct bpe_scratch){0};
}

static void heap_push(struct bpe_scratch *scratch, struct bpe_candidate candidate) {
    struct bpe_candidate *heap = scratch->heap;
    size_t i = scratch->n_heap++;
    while (i > 0 && candidate.order < heap[(i - 1) / 2].order) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = candidate;
}

static struct bpe_candidate heap_pop(struct bpe_scratch *scratch) {
    struct bpe_candidate *heap = scratch->heap, top = heap[0], last = heap[--scratch->n_heap];
    size_t i = 0, n = scratch->n_heap, child;
    while ((child = 2 * i + 1) < n) {
        if (child + 1 < n && heap[child + 1].order < heap[child].order)
            child++;
        if (last.order <= heap[child].order)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

static void consider(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t left, int32_t right) {
    if (left < 0 || right < 0)
        return;
    const struct bpe_merge *merge = bpe_find_merge(bpe, scratch->symbols[left].id, scratch->symbols[right].id);
    if (merge)
        heap_push(scratch, (struct bpe_candidate){(uint64_t)merge->rank << 32 | (uint32_t)left, merge->id});
}

/* Merges by rank, then from left to right. A candidate whose pair has changed is dropped unless the new pair becomes the
 * same token: so the library has it. */
static void merge_all(const struct bpe *bpe, struct bpe_scratch *scratch, size_t n_symbols) {
    struct bpe_symbol *symbols = scratch->symbols;
    scratch->n_heap = 0;
    for (size_t i = 0; i + 1 < n_symbols; i++)
        consider(bpe, scratch, (int32_t)i, (int32_t)i + 1);
    while (scratch->n_heap > 0) {
        struct bpe_candidate top = heap_pop(scratch);
        int32_t at = (int32_t)(top.order & UINT32_MAX), right = symbols[at].next;
        if (symbols[at].id < 0 || right < 0)
            continue;
        const struct bpe_merge *merge = bpe_find_merge(bpe, symbols[at].id, symbols[right].id);
        if (!merge || merge->id != top.id)
            continue;
        symbols[at].id = top.id;
        symbols[at].next = symbols[right].next;
        symbols[right].id = -1;
        if (symbols[at].next >= 0)
            symbols[symbols[at].next].prev = at;
        consider(bpe, scratch, symbols[at].prev, at);
        consider(bpe, scratch, at, symbols[at].next);
    }
}

static int32_t symbol_of(const struct bpe *bpe, unsigned code_point, const char *utf8, size_t len) {
    if (code_point < sizeof bpe->small / sizeof *bpe->small)
        return bpe->small[code_point];
    return vocabulary_find(&bpe->vocabulary, utf8, len);
}

static void add_symbol(struct bpe_scratch *scratch, size_t *n, int32_t id) {
    int32_t at = (int32_t)(*n)++;
    scratch->symbols[at] = (struct bpe_symbol){id, at - 1, at + 1};
}

/* True when every byte of an unknown character has its token; adds them. */
static bool fall_back(const struct bpe *bpe, struct bpe_scratch *scratch, size_t *n, const char *utf8, size_t len) {
    for (size_t i = 0; i < len; i++)
        if (bpe->fallback[(unsigned char)utf8[i]] < 0)
            return false;
    for (size_t i = 0; i < len; i++)
        add_symbol(scratch, n, bpe->fallback[(unsigned char)utf8[i]]);
    return true;
}

/* The first symbols of a piece: one a character; unknown characters become byte tokens, unk tokens (which wait, as in the
 * library, until the next known or unknown character, so that byte tokens overtake them) or nothing. */
static int fill_symbols(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text, size_t n, size_t *n_symbols,
                        struct err *err) {
    bool unk_waits = false;
    *n_symbols = 0;
    for (size_t at = 0; at < n;) {
        char buffer[4];
        const char *utf8 = bpe->byte_level ? buffer : text + at;
        unsigned c = bpe->byte_level ? byte_level_char((unsigned char)text[at]) : 0;
        size_t len = bpe->byte_level ? utf8_encode(c, buffer) : utf8_decode(text + at, n - at, &c);
        int32_t id = symbol_of(bpe, c, utf8, len);
        at += bpe->byte_level ? 1 : len;
        if (id < 0 && bpe->byte_fallback && fall_back(bpe, scratch, n_symbols, utf8, len))
            continue;
        if (id < 0 && !bpe->unk_token)
            continue;
        if (unk_waits && (id >= 0 || !bpe->fuse_unk))
            add_symbol(scratch, n_symbols, bpe->unk_id);
        unk_waits = id < 0;
        if (unk_waits && bpe->unk_id < 0)
            return err_set(err, ERR_INPUT, "", "the text holds an unknown character and \"%s\" is not in the vocabulary",
                           bpe->unk_token);
        if (id >= 0)
            add_symbol(scratch, n_symbols, id);
    }
    if (unk_waits)
        add_symbol(scratch, n_symbols, bpe->unk_id);
    if (*n_symbols)
        scratch->symbols[*n_symbols - 1].next = -1;
    return OK;
}

static int reserve(struct bpe_scratch *scratch, struct token_list *out, size_t n, struct err *err) {
    size_t need, twice, total;
    /* A character of byte_level.h may fall back to two bytes. Every merge takes one candidate and adds two at most. */
    if (!size_mul(n, 2, &need) || !size_mul(need, 2, &twice) || !size_add(out->len, need, &total))
        return err_memory(err, "token ids", n);
    int rc = mem_grow(&scratch->symbols, &scratch->symbol_cap, need, sizeof *scratch->symbols, "symbols", err);
    if (rc == OK)
        rc = mem_grow(&scratch->heap, &scratch->heap_cap, twice, sizeof *scratch->heap, "merge candidates", err);
    return rc == OK ? mem_grow(&out->data, &out->cap, total, sizeof *out->data, "token ids", err) : rc;
}

static int encode_by_merging(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text, size_t n,
                             struct token_list *out, struct err *err) {
    size_t n_symbols = 0;
    int rc = reserve(scratch, out, n, err);
    if (rc == OK)
        rc = fill_symbols(bpe, scratch, text, n, &n_symbols, err);
    if (rc != OK)
        return rc;
    merge_all(bpe, scratch, n_symbols);
    for (size_t i = 0; i < n_symbols; i++)
        if (scratch->symbols[i].id >= 0)
            out->data[out->len++] = scratch->symbols[i].id;
    return OK;
}

/* The id of a whole piece, for ignore_merges, or -1. */
static int32_t find_whole(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text, size_t n) {
    char utf8[4];
    if (!bpe->byte_level)
        return vocabulary_find(&bpe->vocabulary, text, n);
    str_clear(&scratch->piece);
    for (size_t i = 0; i < n; i++)
        str_append(&scratch->piece, utf8, utf8_encode(byte_level_char((unsigned char)text[i]), utf8));
    return vocabulary_find(&bpe->vocabulary, str_text(&scratch->piece), scratch->piece.len);
}

static int append_id(struct token_list *out, int32_t id, struct err *err) {
    int rc = mem_grow(&out->data, &out->cap, out->len + 1, sizeof *out->data, "token ids", err);
    if (rc == OK)
        out->data[out->len++] = id;
    return rc;
}

/* `whole`: the piece as the pre-tokenizer gave it, which ignore_merges looks up first; else a part of one. */
static int encode_word(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text, size_t n, bool whole,
                       struct token_list *out, struct err *err) {
    int32_t id = whole ? find_whole(bpe, scratch, text, n) : -1;
    if (id >= 0)
        return append_id(out, id, err);
    return encode_by_merging(bpe, scratch, text, n, out, err);
}

static int encode_remembered(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text, size_t n, bool whole,
                             struct token_list *out, struct err *err) {
    struct bpe_word *word = &scratch->words[XXH3_64bits(text, n) & scratch->word_mask];
    size_t before = out->len;
    if (word->n_bytes == n && word->whole == whole && memcmp(word->text, text, n) == 0) {
        if (out->cap - out->len < WORD_IDS &&
            mem_grow(&out->data, &out->cap, out->len + WORD_IDS, sizeof *out->data, "token ids", err) != OK)
            return ERR_MEMORY;
        memcpy(out->data + out->len, word->ids, sizeof word->ids);
        out->len += word->n_ids;
        return OK;
    }
    int rc = encode_word(bpe, scratch, text, n, whole, out, err);
    size_t n_ids = out->len - before;
    if (rc == OK && n_ids <= WORD_IDS) {
        *word = (struct bpe_word){.n_bytes = (uint8_t)n, .n_ids = (uint8_t)n_ids, .whole = whole};
        memcpy(word->text, text, n);
        if (n_ids)
            memcpy(word->ids, out->data + before, n_ids * sizeof *word->ids);
    }
    return rc;
}

static int encode_part(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text, size_t n, bool whole,
                       struct token_list *out, struct err *err) {
    if (n <= WORD_BYTES)
        return encode_remembered(bpe, scratch, text, n, whole, out, err);
    return encode_word(bpe, scratch, text, n, whole, out, err);
}

/* A character of a piece while looking for cuts. */
struct place {
    unsigned code_point, class;
    const char *utf8;
    size_t len;
};

static struct place place_at(const struct bpe *bpe, const char *text, size_t n) {
    struct place place = {.utf8 = text, .len = 1};
    if (bpe->byte_level)
        place.code_point = byte_level_char((unsigned char)*text);
    else if (!(*text & 0x80))
        place.code_point = (unsigned char)*text;
    else
        place.len = utf8_decode(text, n, &place.code_point);
    place.class = bpe_pair_class(place.code_point);
    return place;
}

/* No merge can join the two, and both are tokens of their own, so that no unk or byte token reaches across. */
static bool may_cut(const struct bpe *bpe, const struct place *left, const struct place *right) {
    size_t bit = (size_t)left->class * N_PAIR_CLASSES + right->class;
    if (bpe->seams[bit / 64] >> (bit % 64) & 1)
        return false;
    return symbol_of(bpe, left->code_point, left->utf8, left->len) >= 0 &&
           symbol_of(bpe, right->code_point, right->utf8, right->len) >= 0;
}

/* Length of the part at the beginning of text that can be encoded on its own. */
static size_t part_length(const struct bpe *bpe, const char *text, size_t n) {
    struct place left = place_at(bpe, text, n), right;
    size_t at = left.len;
    for (; at < n; at += right.len, left = right) {
        right = place_at(bpe, text + at, n - at);
        if (may_cut(bpe, &left, &right))
            break;
    }
    return at;
}

int bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text, size_t n, struct token_list *out,
               struct err *err) {
    ASSERT(n <= INT32_MAX / 2);
    if (n <= WORD_BYTES)
        return encode_part(bpe, scratch, text, n, bpe->ignore_merges, out, err);
    int32_t id = bpe->ignore_merges ? find_whole(bpe, scratch, text, n) : -1;
    if (id >= 0)
        return append_id(out, id, err);
    for (size_t done = 0, len; done < n; done += len) {
        len = part_length(bpe, text + done, n - done);
        int rc = encode_part(bpe, scratch, text + done, len, false, out, err);
        if (rc != OK)
            return rc;
    }
    return OK;
}
