/* part.h - the parts of a tokenizer.json: objects with a "type", alone or in a Sequence. */
#ifndef SPKV_ENGINE_PART_H
#define SPKV_ENGINE_PART_H

#include <jansson.h>

#include "base/err.h"

/* Takes one part that is not a Sequence. */
typedef int part_add(void *self, const json_t *part, const char *type, const char *where, struct err *err);

/* Hands a part to `add`, or, of a Sequence, every part in it in order, at any depth. `members` is the key of a Sequence's list
 * ("decoders"). The first failure ends it; ERR_INPUT for what is not a part. */
int part_parse(const json_t *json, const char *members, part_add *add, void *self, const char *where, struct err *err);

#endif
