/* token_text.h - what stands in the text where a token id stands in a run file. Reports know no tokenizer: whoever has the
 * one of the model lends this. */
#ifndef SPKV_REPORTS_TOKEN_TEXT_H
#define SPKV_REPORTS_TOKEN_TEXT_H

#include <stdint.h>

#include "base/str.h"

struct token_text {
    const void *self;
    void (*put)(const void *self, int32_t id, struct str *out); /* appends any bytes; NULL = no tokenizer at hand */
};

/* Appends the text of a token, "[17]" for id 17 where there is no tokenizer. Nothing is cleaned or escaped. */
static inline void token_text_put(const struct token_text *text, int32_t id, struct str *out) {
    if (text && text->put)
        text->put(text->self, id, out);
    else
        str_printf(out, "[%d]", id);
}

#endif
