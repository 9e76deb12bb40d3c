/* chat.h - what stands around a user's message: the chat template of an instruct model, for one message and the beginning of
 * the answer. Templates are programs (Jinja); the common ones are known by their text, all others are refused by name, and
 * the user may give a text with {prompt} in it instead. */
#ifndef SPKV_ENGINE_CHAT_H
#define SPKV_ENGINE_CHAT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/str.h"

struct chat { /* a zeroed struct is off */
    char name[64];        /* for records: "off", "none" (the model has no template), "chatml", ..., "file:HASH" */
    char *before, *after; /* owned; NULL: off. They bring their own start token */
    bool trims;           /* the message loses white space at its ends */
};

/* DIR is the model's. `option`:
 *   off   nothing around
 *   auto  DIR/chat_template.jinja, else "chat_template" of DIR/tokenizer_config.json (a text, or the one called default of a
 *         list); off where there is neither. ERR_INPUT for a template that is not known, with its hash.
 *   FILE  a template that is known, or any text that holds {prompt} once, where the message goes */
int chat_open(const char *dir, const char *option, struct chat *out, struct err *err);
void chat_free(struct chat *chat);

bool chat_is_on(const struct chat *chat);

/* Appends the message with what stands around it. */
void chat_put(const struct chat *chat, const char *message, size_t n, struct str *out);

#endif
