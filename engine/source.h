/* source.h - an abstract stream of token sequences, in a fixed global order. The engine runs over it and knows neither
 * files nor formats; datasets/ implements it. One thread. */
#ifndef SPKV_ENGINE_SOURCE_H
#define SPKV_ENGINE_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct sequence {
    uint64_t index;         /* position in the global list, from 0 */
    uint64_t document;      /* number of the document, over all files */
    uint64_t offset;        /* number of the sequence's first text token in its document */
    uint32_t source;        /* index of the file */
    uint32_t corpus;        /* index of the corpus argument the file belongs to */
    const int32_t *tokens;  /* (n_tok), specials included; borrowed until the next call of next() */
    const uint8_t *scored;  /* NULL: all; else (n_tok) 1 where the loss of predicting this token counts */
    size_t n_tok;           /* at least 2 */
};

struct source {
    void *self;
    /* Fills *out with the next sequence; *end = 1 when there is none. */
    int (*next)(void *self, struct sequence *out, int *end, struct err *err);
};

#endif
