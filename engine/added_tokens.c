#include "engine/added_tokens.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "engine/unicode_class.h"

static int new_node(struct trie *trie, unsigned char byte, uint32_t *out, struct err *err) {
    int rc = trie->n < UINT32_MAX ? mem_grow(&trie->nodes, &trie->cap, trie->n + 1, sizeof *trie->nodes, "added tokens", err)
                                  : err_set(err, ERR_INPUT, "", "the added tokens are too long");
    if (rc != OK)
        return rc;
    trie->nodes[trie->n] = (struct trie_node){.byte = byte};
    *out = (uint32_t)trie->n++;
    return OK;
}

static uint32_t child_of(const struct trie *trie, uint32_t node, unsigned char byte) {
    if (node == 0)
        return trie->first[byte];
    uint32_t child = trie->nodes[node].child;
    while (child && trie->nodes[child].byte != byte)
        child = trie->nodes[child].sibling;
    return child;
}

static int add_child(struct trie *trie, uint32_t node, unsigned char byte, uint32_t *child, struct err *err) {
    int rc = new_node(trie, byte, child, err);
    if (rc != OK)
        return rc;
    if (node == 0)
        trie->first[byte] = *child;
    else {
        trie->nodes[*child].sibling = trie->nodes[node].child;
        trie->nodes[node].child = *child;
    }
    return OK;
}

static int trie_add(struct trie *trie, const char *text, size_t n, uint32_t token, const char *where, struct err *err) {
    uint32_t node = 0, child;
    int rc = trie->n == 0 ? new_node(trie, 0, &node, err) : OK;
    for (size_t i = 0; rc == OK && i < n; i++) {
        child = child_of(trie, node, (unsigned char)text[i]);
        if (!child)
            rc = add_child(trie, node, (unsigned char)text[i], &child, err);
        node = child;
    }
    if (rc != OK)
        return rc;
    if (n == 0)
        return err_set(err, ERR_INPUT, where, "a token becomes empty by normalisation");
    if (trie->nodes[node].token)
        return err_set(err, ERR_INPUT, where, "two tokens look for \"%.100s\"", text);
    trie->nodes[node].token = token + 1;
    return OK;
}

/* The longest token that begins at text, or NULL; *len is its length. */
static const struct added_token *match_at(const struct added_scan *scan, const char *text, size_t n, size_t *len) {
    const struct trie *trie = scan->trie;
    uint32_t node = 0, token = 0;
    for (size_t i = 0; i < n; i++) {
        node = child_of(trie, node, (unsigned char)text[i]);
        if (!node)
            break;
        if (trie->nodes[node].token) {
            token = trie->nodes[node].token;
            *len = i + 1;
        }
    }
    return token ? &scan->added->tokens[token - 1] : NULL;
}

void added_scan_begin(struct added_scan *scan, const struct added_tokens *added, bool normalized, const char *text,
                      size_t n) {
    const struct trie *trie = normalized ? &added->normalized : &added->raw;
    *scan = (struct added_scan){.added = added, .trie = trie, .text = text, .n = n, .from = trie->n ? 0 : n};
}

static bool stands_alone(const struct added_scan *scan, size_t start, size_t end) {
    unsigned c;
    size_t len;
    if (start > 0 && unicode_is_word(utf8_decode_last(scan->text, start, &len)))
        return false;
    if (end == scan->n)
        return true;
    utf8_decode(scan->text + end, scan->n - end, &c);
    return !unicode_is_word(c);
}

static size_t skip_space_back(const char *text, size_t at) {
    size_t len;
    while (at > 0 && unicode_is_space(utf8_decode_last(text, at, &len)))
        at -= len;
    return at;
}

static size_t skip_space(const char *text, size_t n, size_t at) {
    unsigned c;
    size_t len;
    while (at < n && (len = utf8_decode(text + at, n - at, &c), unicode_is_space(c)))
        at += len;
    return at;
}

bool added_scan_next(struct added_scan *scan, struct added_match *match) {
    while (scan->from < scan->n) {
        size_t start = scan->from, len = 0;
        const struct added_token *token = NULL;
        if (scan->trie->first[(unsigned char)scan->text[start]])
            token = match_at(scan, scan->text + start, scan->n - start, &len);
        scan->from += token ? len : 1;
        if (!token || (token->single_word && !stands_alone(scan, start, start + len)))
            continue;
        match->token = token;
        match->start = start;
        match->end = start + len;
        if (token->lstrip) {
            size_t stripped = skip_space_back(scan->text, start);
            match->start = stripped > scan->done ? stripped : scan->done;
        }
        if (token->rstrip)
            match->end = skip_space(scan->text, scan->n, match->end);
        scan->done = match->end;
        return true;
    }
    return false;
}

static int read_flags(const json_t *json, const char *where, struct added_token *token, struct err *err) {
    int rc = json_get_bool(json, "single_word", &token->single_word, where, err);
    if (rc == OK)
        rc = json_get_bool(json, "lstrip", &token->lstrip, where, err);
    if (rc == OK)
        rc = json_get_bool(json, "rstrip", &token->rstrip, where, err);
    if (rc == OK)
        rc = json_get_bool(json, "normalized", &token->normalized, where, err);
    return rc == OK ? json_get_bool(json, "special", &token->special, where, err) : rc;
}

/* One token; *next_id is what a token outside the vocabulary gets. A content that comes again replaces the flags, keeps the
 * id, and stays special once it was. */
static int parse_token(const json_t *json, const char *where, const struct vocabulary *model, struct added_tokens *added,
                       int32_t *next_id, struct err *err) {
    struct added_token token = {.normalized = true};
    int rc = json_require(json, "content", where, err);
    if (rc == OK)
        rc = json_get_string(json, "content", &token.content, where, err);
    if (rc == OK)
        rc = read_flags(json, where, &token, err);
    if (rc != OK || !*token.content)
        return rc;
    token.content_n = strlen(token.content);
    int32_t index = vocabulary_find(&added->contents, token.content, token.content_n);
    if (index >= 0) {
        struct added_token *old = &added->tokens[index];
        token.content = old->content;
        token.special |= old->special;
        token.id = old->id;
        *old = token;
        return OK;
    }
    token.id = vocabulary_find(model, token.content, token.content_n);
    if (token.id < 0)
        token.id = (*next_id)++;
    if (token.id > MAX_TOKEN_ID)
        return err_set(err, ERR_INPUT, where, "more than %d tokens", MAX_TOKEN_ID);
    rc = vocabulary_add(&added->contents, token.content, token.content_n, (int32_t)added->n, err);
    if (rc == OK) {
        token.content = added->contents.entries[added->n].text;
        added->tokens[added->n++] = token;
    }
    return rc;
}

/* The content as the normalizer leaves it. */
static int normalise(const struct normalizer *normalizer, struct normalizer_scratch *scratch,
                     struct pattern_scratch *matching, struct added_token *token, struct err *err) {
    const char *text;
    size_t n, origin = 0;
    int rc = normalizer_run(normalizer, scratch, matching, token->content, token->content_n, &text, &n, &origin, err);
    if (rc != OK || (n == token->content_n && memcmp(text, token->content, n) == 0))
        return rc;
    token->normal = mem_strndup(text, n, err);
    token->normal_n = n;
    return token->normal ? OK : ERR_MEMORY;
}

static int build_tries(struct added_tokens *added, const struct normalizer *normalizer, const char *where, struct err *err) {
    struct normalizer_scratch scratch = {0};
    struct pattern_scratch *matching = NULL;
    int rc = pattern_scratch_create(&matching, err);
    for (size_t i = 0; rc == OK && i < added->n; i++) {
        struct added_token *token = &added->tokens[i];
        if (token->normalized)
            rc = normalise(normalizer, &scratch, matching, token, err);
        const char *text = token->normal ? token->normal : token->content;
        size_t n = token->normal ? token->normal_n : token->content_n;
        if (rc == OK)
            rc = trie_add(token->normalized ? &added->normalized : &added->raw, text, n, (uint32_t)i, where, err);
        if (rc == OK && (size_t)token->id >= added->n_ids)
            added->n_ids = (size_t)token->id + 1;
    }
    normalizer_scratch_free(&scratch);
    pattern_scratch_free(matching);
    return rc;
}

int added_tokens_parse(const json_t *json, const char *where, const struct vocabulary *model,
                       const struct normalizer *normalizer, struct added_tokens *out, struct err *err) {
    char place[512];
    size_t i, n = json_array_size(json);
    int32_t next_id = (int32_t)model->n;
    json_t *member;
    snprintf(place, sizeof place, "%s: added_tokens", where);
    *out = (struct added_tokens){0};
    if (json && !json_is_null(json) && !json_is_array(json))
        return err_set(err, ERR_INPUT, place, "an array was expected");
    if (n > MAX_TOKEN_ID)
        return err_set(err, ERR_INPUT, place, "more than %d tokens", MAX_TOKEN_ID);
    int rc = vocabulary_init(&out->contents, n, err);
    out->tokens = mem_alloc(n, sizeof *out->tokens, "added tokens", err);
    if (!out->tokens)
        rc = ERR_MEMORY;
    for (i = 0; rc == OK && i < n; i++) {
        member = json_array_get(json, i);
        rc = json_is_object(member) ? parse_token(member, place, model, out, &next_id, err)
                                    : err_set(err, ERR_INPUT, place, "token %zu is not an object", i);
    }
    if (rc == OK)
        rc = build_tries(out, normalizer, place, err);
    if (rc != OK)
        added_tokens_free(out);
    return rc;
}

void added_tokens_free(struct added_tokens *added) {
    for (size_t i = 0; i < added->n; i++)
        free(added->tokens[i].normal);
    free(added->tokens);
    free(added->raw.nodes);
    free(added->normalized.nodes);
    vocabulary_free(&added->contents);
    *added = (struct added_tokens){0};
}

int32_t added_tokens_find(const struct added_tokens *added, const char *content, size_t n) {
    return vocabulary_find(&added->contents, content, n);
}
