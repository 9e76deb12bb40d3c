/* bpe.h - byte pair encoding: a piece of text to token ids, as the BPE model of the Hugging Face library does it. The model
 * is immutable; each thread has its own scratch.
 *
 * Merges go by (rank, position) through a heap, O(n log n) for any piece. Before that a piece is cut wherever no merge could
 * ever join the two neighbours (no rule has these two characters at its seam), which changes no id and turns a whole text
 * without pre-tokenizer into words; short words are remembered in the scratch. */
#ifndef SPKV_ENGINE_BPE_H
#define SPKV_ENGINE_BPE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"
#include "engine/tokenizer.h"
#include "engine/vocabulary.h"

enum { N_PAIR_CLASSES = 1024 };

struct bpe_merge { /* one slot of the hash table of merges */
    uint64_t pair; /* left << 32 | right; UINT64_MAX = empty */
    uint32_t rank;
    int32_t id;
};

struct bpe {
    struct vocabulary vocabulary;
    struct bpe_merge *merges;
    size_t merge_mask;
    char *unk_token; /* NULL = none: unknown characters vanish */
    int32_t unk_id;  /* -1: unk_token is not in the vocabulary, an error once it is needed */
    bool fuse_unk, byte_fallback, ignore_merges;
    bool byte_level;          /* text comes as bytes that stand for characters of byte_level.h */
    int32_t small[0x144];     /* id of the one-character token, by code point, or -1 */
    int32_t fallback[256];    /* id of "<0xHH>", or -1 */
    uint64_t seams[N_PAIR_CLASSES * N_PAIR_CLASSES / 64]; /* bit: some merge has such characters at its seam */
};

/* Reads the "model" object. `where` names the file. */
int bpe_parse(const json_t *json, const char *where, bool byte_level, struct bpe **out, struct err *err);
void bpe_free(struct bpe *bpe);

struct bpe_symbol;
struct bpe_candidate;
struct bpe_word;

struct bpe_scratch { /* a zeroed struct is ready; free it */
    struct bpe_symbol *symbols;
    size_t symbol_cap;
    struct bpe_candidate *heap;
    size_t n_heap, heap_cap;
    struct bpe_word *words;
    size_t word_mask;
    struct str piece;
};

/* Room to remember words, for a text of n bytes. */
int bpe_scratch_prepare(struct bpe_scratch *scratch, size_t n, struct err *err);
void bpe_scratch_free(struct bpe_scratch *scratch);

/* Appends the ids of one piece, n > 0 bytes below 2^31. */
int bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text, size_t n, struct token_list *out,
               struct err *err);

/* The merge of two tokens, or NULL. */
const struct bpe_merge *bpe_find_merge(const struct bpe *bpe, int32_t left, int32_t right);

/* Class of a code point in `seams`: exact below 512. */
static inline unsigned bpe_pair_class(unsigned code_point) {
    return code_point < 512 ? code_point : 512 + (code_point * 2654435769u >> 23);
}

#endif
