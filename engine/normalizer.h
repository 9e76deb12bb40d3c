/* normalizer.h - the "normalizer" of tokenizer.json: NFC, Prepend, Replace and sequences of them. Immutable after parsing;
 * each thread has its own scratch.
 *
 * `origin` travels with a text: the number of its leading bytes that the library traces back to the first character of the
 * whole input. Only Metaspace with prepend_scheme "first" asks for it. */
#ifndef SPKV_ENGINE_NORMALIZER_H
#define SPKV_ENGINE_NORMALIZER_H

#include <jansson.h>
#include <stddef.h>

#include "base/err.h"
#include "base/str.h"
#include "engine/pattern.h"

struct normalizer;

/* `json` NULL or null gives a normalizer that changes nothing. `where` names the file. */
int normalizer_parse(const json_t *json, const char *where, struct normalizer **out, struct err *err);
void normalizer_free(struct normalizer *normalizer);

struct normalizer_scratch { /* a zeroed struct is ready; free both */
    struct str text[2];
};
void normalizer_scratch_free(struct normalizer_scratch *scratch);

/* *out is text itself or memory of the scratch, valid until its next use. ERR_INPUT when the text grows beyond reason. */
int normalizer_run(const struct normalizer *normalizer, struct normalizer_scratch *scratch,
                   struct pattern_scratch *matching, const char *text, size_t n, const char **out, size_t *n_out,
                   size_t *origin, struct err *err);

#endif
