#include "engine/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "engine/added_tokens.h"
#include "engine/bpe.h"
#include "engine/decoder.h"
#include "engine/normalizer.h"
#include "engine/pattern.h"
#include "engine/pretokenizer.h"
#include "engine/template.h"

enum { MAX_FILE_BYTES = 1 << 30, MAX_TEXT_BYTES = 1 << 29 };

struct token_text {
    uint32_t begin, len; /* what the token stands for, in tokenizer.bytes */
    uint32_t added;      /* index + 1 of the added token with this id, 0 = none */
    bool special;
    bool skipped; /* spelled like a special token: the library's decoding compares strings, not ids */
};

struct tokenizer {
    struct bpe *bpe;
    struct normalizer *normalizer;
    struct pretokenizer *pretokenizer;
    struct decoder *decoder;
    struct added_tokens added;
    struct template template;
    struct token_text *tokens; /* (n_vocab) */
    size_t n_vocab;
    struct str bytes;
    char hash[33];
};

void tokenizer_free(struct tokenizer *t) {
    if (!t)
        return;
    bpe_free(t->bpe);
    normalizer_free(t->normalizer);
    pretokenizer_free(t->pretokenizer);
    decoder_free(t->decoder);
    added_tokens_free(&t->added);
    template_free(&t->template);
    free(t->tokens);
    str_free(&t->bytes);
    free(t);
}

/* The string that decoding starts from: an added token as it was looked for, else the vocabulary's. NULL: no such id. */
static const char *token_string(const struct tokenizer *t, int32_t id, size_t *n) {
    *n = 0;
    if (id < 0 || (size_t)id >= t->n_vocab)
        return NULL;
    if (t->tokens[id].added) {
        const struct added_token *token = &t->added.tokens[t->tokens[id].added - 1];
        *n = token->normal ? token->normal_n : token->content_n;
        return token->normal ? token->normal : token->content;
    }
    const struct vocabulary_entry *entry = vocabulary_at(&t->bpe->vocabulary, id);
    *n = entry ? entry->len : 0;
    return entry ? entry->text : NULL;
}

static bool spelled_special(const struct tokenizer *t, const char *text, size_t n) {
    int32_t index = added_tokens_find(&t->added, text, n);
    return index >= 0 && t->added.tokens[index].special;
}

static int enter_added(struct tokenizer *t, const char *where, struct err *err) {
    for (size_t i = 0; i < t->added.n; i++) {
        struct token_text *token = &t->tokens[t->added.tokens[i].id];
        if (token->added)
            return err_set(err, ERR_INPUT, where, "added tokens \"%.100s\" and \"%.100s\" get the same id %d",
                           t->added.tokens[token->added - 1].content, t->added.tokens[i].content, t->added.tokens[i].id);
        token->added = (uint32_t)i + 1;
        token->special = t->added.tokens[i].special;
    }
    return OK;
}

static int make_texts(struct tokenizer *t, const char *where, struct err *err) {
    struct pattern_scratch *matching = NULL;
    size_t n_model = t->bpe->vocabulary.n_ids;
    t->n_vocab = n_model > t->added.n_ids ? n_model : t->added.n_ids;
    t->tokens = mem_alloc(t->n_vocab, sizeof *t->tokens, "token texts", err);
    int rc = t->tokens ? enter_added(t, where, err) : ERR_MEMORY;
    if (rc == OK)
        rc = pattern_scratch_create(&matching, err);
    for (size_t id = 0; rc == OK && id < t->n_vocab; id++) {
        size_t n, begin = t->bytes.len;
        const char *text = token_string(t, (int32_t)id, &n);
        if (!text)
            continue;
        rc = decoder_token_bytes(t->decoder, matching, text, n, &t->bytes, err);
        if (rc == OK && t->bytes.len > UINT32_MAX)
            rc = err_set(err, ERR_INPUT, where, "the tokens are more than 4 GiB of text");
        t->tokens[id].begin = (uint32_t)begin;
        t->tokens[id].len = (uint32_t)(t->bytes.len - begin);
        t->tokens[id].skipped = spelled_special(t, text, n);
    }
    pattern_scratch_free(matching);
    return rc;
}

static int read_parts(struct tokenizer *t, const json_t *json, const char *where, struct err *err) {
    const char *version = "1.0";
    int rc = json_get_string(json, "version", &version, where, err);
    if (rc == OK && strcmp(version, "1.0") != 0)
        rc = err_set(err, ERR_INPUT, where, "\"version\" is \"%.20s\", expected \"1.0\"", version);
    if (rc == OK)
        rc = normalizer_parse(json_object_get(json, "normalizer"), where, &t->normalizer, err);
    if (rc == OK)
        rc = pretokenizer_parse(json_object_get(json, "pre_tokenizer"), where, &t->pretokenizer, err);
    if (rc != OK)
        return rc;
    bool byte_level = pretokenizer_is_byte_level(t->pretokenizer);
    rc = bpe_parse(json_object_get(json, "model"), where, byte_level, &t->bpe, err);
    if (rc == OK)
        rc = added_tokens_parse(json_object_get(json, "added_tokens"), where, &t->bpe->vocabulary, t->normalizer, &t->added,
                                err);
    if (rc == OK)
        rc = template_parse(json_object_get(json, "post_processor"), where, &t->template, err);
    if (rc == OK)
        rc = decoder_parse(json_object_get(json, "decoder"), where, byte_level, &t->decoder, err);
    return rc;
}

static int check_template(const struct tokenizer *t, const struct token_list *ids, const char *where, struct err *err) {
    for (size_t i = 0; i < ids->len; i++)
        if ((size_t)ids->data[i] >= t->n_vocab)
            return err_set(err, ERR_INPUT, where, "the post_processor adds token %d, but ids end at %zu", (int)ids->data[i],
                           t->n_vocab);
    return OK;
}

/* "truncation" and "padding" are left out: whole documents are encoded here, as transformers does unless it is told
 * otherwise. */
int tokenizer_parse(const char *text, size_t n, const char *where, struct tokenizer **out, struct err *err) {
    json_t *json = NULL;
    *out = NULL;
    struct tokenizer *t = mem_alloc(1, sizeof *t, "a tokenizer", err);
    int rc = t ? json_parse_object(text, n, where, &json, err) : ERR_MEMORY;
    if (rc == OK)
        rc = read_parts(t, json, where, err);
    if (rc == OK)
        rc = make_texts(t, where, err);
    if (rc == OK)
        rc = check_template(t, &t->template.prefix, where, err);
    if (rc == OK)
        rc = check_template(t, &t->template.suffix, where, err);
    json_decref(json);
    if (rc != OK) {
        tokenizer_free(t);
        return rc;
    }
    hash_hex(XXH3_128bits(text, n), t->hash);
    *out = t;
    return OK;
}

int tokenizer_open(const char *path, struct tokenizer **out, struct err *err) {
    char *text;
    size_t n;
    *out = NULL;
    int rc = file_read_all(path, MAX_FILE_BYTES, &text, &n, err);
    if (rc != OK)
        return rc;
    rc = tokenizer_parse(text, n, path, out, err);
    free(text);
    return rc;
}

/* What one call of tokenizer_encode() needs. */
struct encoding {
    const struct tokenizer *t;
    struct token_list *out;
    struct pattern_scratch *matching;
    struct normalizer_scratch normalizing;
    struct pretokenizer_scratch cutting;
    struct bpe_scratch merging;
};

static int encode_piece(void *self, const char *text, size_t n, struct err *err) {
    struct encoding *e = self;
    return bpe_encode(e->t->bpe, &e->merging, text, n, e->out, err);
}

static int append_id(struct token_list *out, int32_t id, struct err *err) {
    int rc = mem_grow(&out->data, &out->cap, out->len + 1, sizeof *out->data, "token ids", err);
    if (rc == OK)
        out->data[out->len++] = id;
    return rc;
}

static int encode_gap(struct encoding *e, bool normalized, const char *text, size_t n, size_t origin, struct err *err);

/* Text between added tokens, and these. A gap of raw text is normalised and searched again, a gap of that is cut and
 * encoded. */
static int encode_text(struct encoding *e, bool normalized, const char *text, size_t n, size_t origin, struct err *err) {
    struct added_scan scan;
    struct added_match match;
    size_t done = 0;
    int rc = OK;
    added_scan_begin(&scan, &e->t->added, normalized, text, n);
    while (rc == OK && added_scan_next(&scan, &match)) {
        if (done < match.start)
            rc = encode_gap(e, normalized, text + done, match.start - done, origin > done ? origin - done : 0, err);
        if (rc == OK && match.start < match.end) /* nothing is left where rstrip of the match before took it all */
            rc = append_id(e->out, match.token->id, err);
        done = match.end;
    }
    if (rc == OK && done != n)
        rc = encode_gap(e, normalized, text + done, n - done, origin > done ? origin - done : 0, err);
    return rc;
}

static int encode_gap(struct encoding *e, bool normalized, const char *text, size_t n, size_t origin, struct err *err) {
    struct piece_sink sink = {e, encode_piece};
    const char *normal;
    size_t n_normal;
    if (normalized)
        return pretokenizer_run(e->t->pretokenizer, &e->cutting, e->matching, text, n, origin, &sink, err);
    int rc = normalizer_run(e->t->normalizer, &e->normalizing, e->matching, text, n, &normal, &n_normal, &origin, err);
    if (rc == OK && n_normal > MAX_TEXT_BYTES)
        rc = err_set(err, ERR_INPUT, "", "the normalised text has more than %d bytes", MAX_TEXT_BYTES);
    return rc == OK ? encode_text(e, true, normal, n_normal, origin, err) : rc;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, struct token_list *out, struct err *err) {
    struct encoding e = {.t = t, .out = out};
    size_t before = out->len, bad = utf8_first_invalid(text, n), origin = 0;
    unsigned first;
    if (bad < n)
        return err_set(err, ERR_INPUT, "", "the text is not valid UTF-8 at byte %zu (convert it to UTF-8 first)", bad);
    if (n > MAX_TEXT_BYTES)
        return err_set(err, ERR_INPUT, "", "a text of %zu bytes is too long to be encoded at once (split it at %d)", n,
                       MAX_TEXT_BYTES);
    if (n == 0)
        return OK;
    origin = utf8_decode(text, n, &first);
    int rc = pattern_scratch_create(&e.matching, err);
    if (rc == OK)
        rc = bpe_scratch_prepare(&e.merging, n, err);
    if (rc == OK)
        rc = encode_text(&e, false, text, n, origin, err);
    if (rc != OK)
        out->len = before;
    pattern_scratch_free(e.matching);
    normalizer_scratch_free(&e.normalizing);
    pretokenizer_scratch_free(&e.cutting);
    bpe_scratch_free(&e.merging);
    return rc;
}

void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special, struct str *out) {
    struct decoder_list tokens = {0};
    int rc = OK;
    for (size_t i = 0; rc == OK && i < n; i++) {
        size_t len;
        const char *text = token_string(t, ids[i], &len);
        if (text && !(skip_special && t->tokens[ids[i]].skipped))
            rc = decoder_list_add(&tokens, text, len, NULL);
    }
    if (rc == OK)
        rc = decoder_run(t->decoder, &tokens, out, NULL);
    if (rc != OK)
        out->failed = true;
    decoder_list_free(&tokens);
}

const int32_t *tokenizer_prefix(const struct tokenizer *t, size_t *n) {
    *n = t->template.prefix.len;
    return t->template.prefix.data;
}

const int32_t *tokenizer_suffix(const struct tokenizer *t, size_t *n) {
    *n = t->template.suffix.len;
    return t->template.suffix.data;
}

size_t tokenizer_n_vocab(const struct tokenizer *t) {
    return t->n_vocab;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *token) {
    size_t n = strlen(token);
    int32_t index = added_tokens_find(&t->added, token, n);
    return index >= 0 ? t->added.tokens[index].id : vocabulary_find(&t->bpe->vocabulary, token, n);
}

const char *tokenizer_token_bytes(const struct tokenizer *t, int32_t id, size_t *n) {
    *n = 0;
    if (id < 0 || (size_t)id >= t->n_vocab)
        return "";
    *n = t->tokens[id].len;
    return str_text(&t->bytes) + t->tokens[id].begin;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id) {
    return id >= 0 && (size_t)id < t->n_vocab && t->tokens[id].special;
}

const char *tokenizer_hash(const struct tokenizer *t) {
    return t->hash;
}
