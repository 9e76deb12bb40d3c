/* decoder.h - the "decoder" of tokenizer.json: ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace and sequences of
 * them. Immutable after parsing. */
#ifndef SPKV_ENGINE_DECODER_H
#define SPKV_ENGINE_DECODER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/str.h"
#include "engine/pattern.h"

struct decoder;

/* Token strings one behind the other. A zeroed struct is empty. */
struct decoder_list {
    struct str text;
    size_t *ends; /* (n) where each string ends in text */
    size_t n, cap;
};

int decoder_list_add(struct decoder_list *list, const char *text, size_t n, struct err *err);
void decoder_list_free(struct decoder_list *list);

/* `json` NULL or null: tokens are joined by spaces, as in the library; `byte_level` says whether their characters stand for
 * bytes even so. `where` names the file. */
int decoder_parse(const json_t *json, const char *where, bool byte_level, struct decoder **out, struct err *err);
void decoder_free(struct decoder *decoder);

/* Appends the text of a list of token strings, which is used up. */
int decoder_run(const struct decoder *decoder, struct decoder_list *tokens, struct str *out, struct err *err);

/* Appends the bytes that one token string stands for in the middle of a text: decoded alone, without what Strip and
 * Metaspace take from the beginning, and without replacing what is no UTF-8 by itself. */
int decoder_token_bytes(const struct decoder *decoder, struct pattern_scratch *matching, const char *token, size_t n,
                        struct str *out, struct err *err);

#endif
