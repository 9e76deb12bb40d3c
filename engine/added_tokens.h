/* added_tokens.h - the "added_tokens" of tokenizer.json: strings that are found in the text before anything else happens to
 * it. Immutable after parsing.
 *
 * Tokens with "normalized" false are looked for in the raw text, the others, themselves normalised, in the normalised text
 * between. The leftmost match wins, of those the longest. Ids come from the vocabulary or, as in the library, are counted up
 * from the number of its entries: the "id" in the file is not used. */
#ifndef SPKV_ENGINE_ADDED_TOKENS_H
#define SPKV_ENGINE_ADDED_TOKENS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/normalizer.h"
#include "engine/vocabulary.h"

struct added_token {
    const char *content; /* owned by added_tokens.contents */
    size_t content_n;
    char *normal; /* the normalised content where it differs, else NULL */
    size_t normal_n;
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
};

struct trie_node {
    uint32_t child, sibling; /* 0 = none */
    uint32_t token;          /* index + 1, 0 = none */
    unsigned char byte;
};

struct trie { /* node 0 is the root */
    struct trie_node *nodes;
    size_t n, cap;
    uint32_t first[256]; /* child of the root by byte */
};

struct added_tokens {
    struct added_token *tokens;
    size_t n;
    struct vocabulary contents; /* content -> index into tokens */
    struct trie raw, normalized;
    size_t n_ids; /* largest id + 1, 0 without tokens */
};

/* `json` NULL or null: none. `where` names the file. */
int added_tokens_parse(const json_t *json, const char *where, const struct vocabulary *model,
                       const struct normalizer *normalizer, struct added_tokens *out, struct err *err);
void added_tokens_free(struct added_tokens *added);

/* Index of the token with this content, or -1. */
int32_t added_tokens_find(const struct added_tokens *added, const char *content, size_t n);

struct added_match {
    size_t start, end; /* with the white space that lstrip and rstrip take; may overlap the match before */
    const struct added_token *token;
};

/* A walk over the matches in a text. */
struct added_scan {
    const struct added_tokens *added;
    const struct trie *trie;
    const char *text;
    size_t n, from; /* from: where to search on */
    size_t done;    /* end of the match before */
};

void added_scan_begin(struct added_scan *scan, const struct added_tokens *added, bool normalized, const char *text,
                      size_t n);
bool added_scan_next(struct added_scan *scan, struct added_match *match);

#endif
