/* tokenizer.h - text to token ids and back, from tokenizer.json (formats.md section 1). Immutable after opening; any
 * number of threads may encode with one tokenizer at a time. */
#ifndef SPKV_ENGINE_TOKENIZER_H
#define SPKV_ENGINE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

struct tokenizer;

struct token_list { /* a zeroed struct is empty; free data */
    int32_t *data;
    size_t len, cap;
};

/* Reads FILE (a tokenizer.json). Parts that are not supported are refused by name. */
int tokenizer_open(const char *path, struct tokenizer **out, struct err *err);

/* The same from memory; `where` is put into errors. */
int tokenizer_parse(const char *json, size_t n, const char *where, struct tokenizer **out, struct err *err);
void tokenizer_free(struct tokenizer *tokenizer);

/* Appends the ids of n bytes of valid UTF-8 (checked: ERR_INPUT with the byte offset), added tokens matched, without the
 * post-processor's prefix and suffix. */
int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t n, struct token_list *out, struct err *err);

/* What the post-processor's template puts before and after a sequence (usually BOS and nothing). Borrowed. */
const int32_t *tokenizer_prefix(const struct tokenizer *tokenizer, size_t *n);
const int32_t *tokenizer_suffix(const struct tokenizer *tokenizer, size_t *n);

/* Appends the text of n ids, as the library's decode does; skip_special leaves special tokens out. Ids out of range are
 * skipped. Bytes that are not valid UTF-8 become U+FFFD. */
void tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t n, bool skip_special, struct str *out);

/* Largest id + 1, counting added tokens. */
size_t tokenizer_n_vocab(const struct tokenizer *tokenizer);

/* The id of an exact token string (added or in the vocabulary), or -1. */
int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *token);

/* The raw bytes that a token stands for in running text (a leading space where it has one), which need not be complete
 * UTF-8. Borrowed; "" and 0 for ids without text. */
const char *tokenizer_token_bytes(const struct tokenizer *tokenizer, int32_t id, size_t *n);
bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id);

/* XXH3-128 of the file, lower-case hex. */
const char *tokenizer_hash(const struct tokenizer *tokenizer);

#endif
