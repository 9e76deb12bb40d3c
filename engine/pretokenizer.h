/* pretokenizer.h - the "pre_tokenizer" of tokenizer.json: Split, Digits, ByteLevel, Metaspace and sequences of them.
 * Immutable after parsing; each thread has its own scratch.
 *
 * A text goes through the stages depth first, piece by piece, so that nothing is stored but what a stage rewrites. */
#ifndef SPKV_ENGINE_PRETOKENIZER_H
#define SPKV_ENGINE_PRETOKENIZER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/str.h"
#include "engine/pattern.h"

struct pretokenizer;

enum { MAX_STAGES = 16 };

/* `json` NULL or null: the whole text is one piece. `where` names the file. */
int pretokenizer_parse(const json_t *json, const char *where, struct pretokenizer **out, struct err *err);
void pretokenizer_free(struct pretokenizer *pretokenizer);

/* True when the last stage is ByteLevel: pieces come as plain bytes, each of which stands for its character of byte_level.h.
 * (A ByteLevel stage further in front writes the characters out, for the stages behind it.) */
bool pretokenizer_is_byte_level(const struct pretokenizer *pretokenizer);

struct pretokenizer_scratch { /* a zeroed struct is ready; free it */
    struct str text[MAX_STAGES];
};
void pretokenizer_scratch_free(struct pretokenizer_scratch *scratch);

/* Where the pieces go. */
struct piece_sink {
    void *self;
    int (*piece)(void *self, const char *text, size_t n, struct err *err); /* n > 0; borrowed for the call */
};

/* Cuts n bytes of valid UTF-8; `origin` as in normalizer.h. */
int pretokenizer_run(const struct pretokenizer *pretokenizer, struct pretokenizer_scratch *scratch,
                     struct pattern_scratch *matching, const char *text, size_t n, size_t origin,
                     const struct piece_sink *sink, struct err *err);

#endif
