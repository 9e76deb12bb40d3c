/* template.h - the "post_processor" of tokenizer.json, as far as it puts tokens around a single sequence:
 * TemplateProcessing, alone or in a Sequence. ByteLevel, which moves offsets only, is passed over. */
#ifndef SPKV_ENGINE_TEMPLATE_H
#define SPKV_ENGINE_TEMPLATE_H

#include <jansson.h>

#include "base/err.h"
#include "engine/tokenizer.h"

struct template {
    struct token_list prefix, suffix;
};

/* `json` NULL or null: nothing around. `where` names the file. Free *out with template_free() in any case. */
int template_parse(const json_t *json, const char *where, struct template *out, struct err *err);
void template_free(struct template *template);

#endif
