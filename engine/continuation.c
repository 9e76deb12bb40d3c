#include "engine/continuation.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "engine/unicode_class.h"

enum { MAX_CONFIG_BYTES = 64 << 20 };

bool is_python_space(unsigned c) {
    return unicode_is_space(c) || (c >= 0x1C && c <= 0x1F);
}

/* --- opening --- */

/* "bos_token": "<s>", or {"content": "<s>", ...}, or null. -1: there is none. */
static int read_token(const json_t *object, const char *key, const char *where, const struct tokenizer *tokenizer,
                      int32_t *id, struct err *err) {
    const json_t *value = json_object_get(object, key);
    const char *text = json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
    *id = -1;
    if (!value || json_is_null(value))
        return OK;
    if (!text)
        return err_set(err, ERR_INPUT, where, "\"%s\" is no token", key);
    *id = tokenizer_find(tokenizer, text);
    return *id >= 0 ? OK : err_set(err, ERR_INPUT, where, "\"%s\" is \"%s\", which tokenizer.json does not have", key, text);
}

static int find_prefix(const char *dir, const struct tokenizer *tokenizer, const struct model_config *config, int32_t *id,
                       struct err *err) {
    char *path = file_join(dir, "tokenizer_config.json", err);
    json_t *object = NULL;
    int rc = path ? OK : ERR_MEMORY;
    *id = config->bos_id >= 0 ? config->bos_id : config->n_eos ? config->eos_id[0] : -1;
    if (rc == OK && file_exists(path)) {
        rc = json_read_object(path, MAX_CONFIG_BYTES, &object, err);
        if (rc == OK)
            rc = read_token(object, "bos_token", path, tokenizer, id, err);
        if (rc == OK && *id < 0)
            rc = read_token(object, "eos_token", path, tokenizer, id, err);
        json_decref(object);
    }
    if (rc == OK && *id < 0)
        rc = err_set(err, ERR_INPUT, dir, "the model names neither a start nor an end token: what stands before a text? "
                     "(add \"bos_token\" to tokenizer_config.json)");
    free(path);
    return rc;
}

int text_encoder_open(const char *dir, const struct tokenizer *tokenizer, const struct model_config *config, enum bos bos,
                      size_t max_length, struct text_encoder *out, struct err *err) {
    size_t n_prefix;
    tokenizer_prefix(tokenizer, &n_prefix);
    *out = (struct text_encoder){.tokenizer = tokenizer, .max_length = max_length};
    out->add_special = bos == BOS_AUTO ? n_prefix > 0 : bos == BOS_YES;
    int rc = find_prefix(dir, tokenizer, config, &out->prefix_id, err);
    if (rc != OK)
        return rc;
    tokenizer_decode(tokenizer, &out->prefix_id, 1, false, &out->prefix);
    return out->prefix.failed ? err_memory(err, "a token", out->prefix.len) : OK;
}

void text_encoder_free(struct text_encoder *e) {
    str_free(&e->prefix);
}

/* --- texts --- */

static int append(struct token_list *tokens, const int32_t *ids, size_t n, struct err *err) {
    int rc = mem_grow(&tokens->data, &tokens->cap, tokens->len + n, sizeof *ids, "tokens", err);
    if (rc == OK && n)
        memcpy(tokens->data + tokens->len, ids, n * sizeof *ids);
    if (rc == OK)
        tokens->len += n;
    return rc;
}

/* A text that begins with the prefix token brings it along. */
static bool brings_prefix(const struct text_encoder *e, const char *text, size_t n) {
    return e->prefix.len > 0 && n >= e->prefix.len && memcmp(text, e->prefix.data, e->prefix.len) == 0;
}

int encode_text(const struct text_encoder *e, const char *text, size_t n, struct token_list *tokens, size_t *n_special,
                struct err *err) {
    const int32_t *prefix = tokenizer_prefix(e->tokenizer, n_special);
    if (*n_special == 0) {
        prefix = &e->prefix_id;
        *n_special = 1;
    }
    if (!e->add_special || brings_prefix(e, text, n))
        *n_special = 0;
    int rc = append(tokens, prefix, *n_special, err);
    return rc == OK && n ? tokenizer_encode(e->tokenizer, text, n, tokens, err) : rc;
}

/* Bytes of a context without the white space at its end. */
static size_t stripped_length(const char *text) {
    size_t n = strlen(text), len;
    while (n > 0 && is_python_space(utf8_decode_last(text, n, &len)))
        n -= len;
    return n;
}

/* The left loses what does not fit, the context's tokens first. */
static int cut(const struct text_encoder *e, struct token_list *tokens, struct token_span *span, struct err *err) {
    size_t n_continuation = span->n_tok - span->n_context;
    span->n_cut = span->n_tok > e->max_length + 1 ? span->n_tok - e->max_length - 1 : 0;
    if (n_continuation == 0)
        return err_set(err, ERR_INPUT, "", "the continuation adds no token to its context");
    if (n_continuation > e->max_length)
        return err_set(err, ERR_INPUT, "", "a continuation of %zu tokens does not fit the model's %zu (score it as a text, "
                       "or shorten it)", n_continuation, e->max_length);
    if (span->n_cut == 0)
        return OK;
    memmove(tokens->data + span->first, tokens->data + span->first + span->n_cut,
            (span->n_tok - span->n_cut) * sizeof *tokens->data);
    tokens->len -= span->n_cut;
    span->n_tok -= span->n_cut;
    span->n_context -= span->n_cut;
    return OK;
}

/* An empty context is the prefix token, unless the continuation begins with it. */
static int encode_alone(const struct text_encoder *e, const char *continuation, struct token_list *tokens,
                        struct token_span *span, struct err *err) {
    int rc = append(tokens, &e->prefix_id, 1, err);
    size_t first = tokens->len;
    if (rc == OK)
        rc = tokenizer_encode(e->tokenizer, continuation, strlen(continuation), tokens, err);
    if (rc == OK && tokens->len > first && tokens->data[first] == e->prefix_id) {
        memmove(tokens->data + first - 1, tokens->data + first, (tokens->len - first) * sizeof *tokens->data);
        tokens->len--;
    }
    span->n_tok = tokens->len - span->first;
    span->n_context = 1;
    return rc;
}

/* The whole string at the end of the list, cut where the context's own encoding ends. */
static int encode_pair(const struct text_encoder *e, const struct str *whole, size_t n_context_bytes,
                       struct token_list *tokens, struct token_span *span, struct err *err) {
    size_t n_special;
    int rc = encode_text(e, str_text(whole), n_context_bytes, tokens, &n_special, err);
    span->n_context = tokens->len - span->first;
    tokens->len = span->first;
    if (rc == OK)
        rc = encode_text(e, str_text(whole), whole->len, tokens, &n_special, err);
    span->n_tok = tokens->len - span->first;
    if (rc == OK && span->n_context > span->n_tok)
        span->n_context = span->n_tok;
    return rc;
}

int encode_continuation(const struct text_encoder *e, const char *context, const char *continuation,
                        struct token_list *tokens, struct token_span *span, struct err *err) {
    size_t n_context = stripped_length(context);
    struct str whole = {0};
    int rc;
    *span = (struct token_span){.first = tokens->len};
    str_puts(&whole, context);
    str_puts(&whole, continuation);
    if (whole.failed)
        rc = err_memory(err, "a text to score", whole.len);
    else if (n_context == 0)
        rc = encode_alone(e, str_text(&whole), tokens, span, err);
    else
        rc = encode_pair(e, &whole, n_context, tokens, span, err);
    str_free(&whole);
    return rc == OK ? cut(e, tokens, span, err) : rc;
}

struct token_span rolling_window(size_t n_tok, size_t max_length, size_t stride, size_t i) {
    size_t last = n_tok ? n_tok - 1 : 0; /* the last token, which is only predicted */
    size_t step = stride ? stride : max_length;
    size_t predicted = i == 0 ? 0 : (i - 1) * step + max_length; /* tokens 1 .. predicted are done */
    if (predicted >= last)
        return (struct token_span){0};
    size_t end = i * step + max_length < last ? i * step + max_length : last;
    size_t first = stride || i == 0 ? i * step : end - max_length;
    return (struct token_span){.first = first, .n_tok = end + 1 - first, .n_context = predicted + 1 - first};
}
