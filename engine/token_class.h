/* token_class.h - what kind of text a token is. Immutable after creation; any number of threads.
 *
 * First match wins, on the token's bytes in running text:
 *   special      a special token
 *   byte         bytes that are not complete UTF-8
 *   space        white space only
 *   digit        has a number (categories Nd, Nl, No), no letter
 *   word_start   has a letter, and begins with white space or follows a token that does not end in a letter or number
 *   word_part    has a letter
 *   punctuation  has a character of category P, Sc, Sk or Sm
 *   other        everything else (So, such as emoji; control characters; no text at all)
 *
 * A letter is a character of category L or M: marks are part of the words of many scripts. */
#ifndef SPKV_ENGINE_TOKEN_CLASS_H
#define SPKV_ENGINE_TOKEN_CLASS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/tokenizer.h"

enum token_class {
    TOKEN_SPECIAL,
    TOKEN_BYTE,
    TOKEN_SPACE,
    TOKEN_DIGIT,
    TOKEN_WORD_START,
    TOKEN_WORD_PART,
    TOKEN_PUNCTUATION,
    TOKEN_OTHER,
    N_TOKEN_CLASSES,
};

/* "special", "byte", ... as in run.h5. */
const char *token_class_name(enum token_class class);

/* A table over the vocabulary, independent of the tokenizer once it is made. */
struct token_classes;
int token_classes_create(const struct tokenizer *tokenizer, struct token_classes **out, struct err *err);
void token_classes_free(struct token_classes *classes);

/* The class of one token behind `previous` (-1: at the beginning, which starts a word). Ids out of range are "other". */
enum token_class token_class_of(const struct token_classes *classes, int32_t previous, int32_t id);

/* out[i] = class of ids[i] behind ids[i - 1], for a whole sequence. */
void token_classes_fill(const struct token_classes *classes, const int32_t *ids, size_t n, uint8_t *out);

#endif
