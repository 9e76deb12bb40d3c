/* token_names.h - the texts of the tokens of a run, out of the tokenizer it was recorded with. */
#ifndef SPKV_CLI_TOKEN_NAMES_H
#define SPKV_CLI_TOKEN_NAMES_H

#include "analyze/profile.h"
#include "engine/tokenizer.h"
#include "reports/token_text.h"

struct token_names {
    struct tokenizer *tokenizer; /* NULL = none */
    struct token_text text;      /* of it; put is NULL without one */
};

/* `path`: a tokenizer.json or a directory with one, which must be the run's (ERR_INPUT); NULL = that of the model as it lies
 * where the run found it, or none when it is not there any more or has changed. Only runs that recorded tokens are looked
 * at. */
int token_names_open(const struct profile *profile, const char *path, struct token_names *out, struct err *err);
void token_names_close(struct token_names *names); /* legal on a zeroed struct */

#endif
