/* generation.h - text behind a prompt, until a stop text: what generation tasks ask for. One thread. */
#ifndef SPKV_ENGINE_GENERATION_H
#define SPKV_ENGINE_GENERATION_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/session.h"
#include "engine/tokenizer.h"

struct generation_options {
    size_t max_new;             /* tokens */
    const char *const *stops;   /* (n_stops) texts that end the answer; empty ones are passed over */
    size_t n_stops;
    struct sampling sampling;
    size_t chunk;               /* most tokens of the prompt in one step */
    bool (*is_done)(void *self, const char *text, size_t n); /* ends the answer after a token; NULL: never */
    void *self;
};

/* Resets the slot, feeds the prompt (n >= 1 tokens) and appends the new text, decoded without special tokens and cut
 * before the first stop text, as the lm-evaluation-harness cuts it. Ends at an end-of-sequence token of the model's
 * configuration, a stop text, max_new tokens or the session's max_len. *n_new: tokens drawn. */
int generate_text(struct session *session, int slot, uint64_t sequence_id, const struct model *model,
                  const struct tokenizer *tokenizer, const int32_t *prompt, size_t n,
                  const struct generation_options *options, struct str *text, size_t *n_new, struct err *err);

/* Whether the token ends a text of this model. */
bool is_end_of_text(const struct model_config *config, int32_t id);

#endif
