#include "train/pieces.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/mem.h"

struct pieces {
    bool wide;          /* tokens are 4 bytes, not 2 */
    void *tokens;       /* (n_tok) */
    uint8_t *scored;    /* (n_tok), NULL: all */
    size_t *start;      /* (n + 1) */
    size_t n, longest;
    size_t tokens_cap, scored_cap, start_cap;
};

static size_t token_bytes(const struct pieces *p) {
    return p->wide ? sizeof(int32_t) : sizeof(uint16_t);
}

static int32_t token_at(const struct pieces *p, size_t i) {
    return p->wide ? ((const int32_t *)p->tokens)[i] : ((const uint16_t *)p->tokens)[i];
}

static int put_tokens(struct pieces *p, const struct sequence *s, const char *name, int vocab_size, struct err *err) {
    size_t at = p->start[p->n];
    for (size_t i = 0; i < s->n_tok; i++) {
        if (s->tokens[i] < 0 || s->tokens[i] >= vocab_size)
            return err_set(err, ERR_INPUT, name, "token id %d is not below the vocabulary size %d of the model\n"
                           "(is the tokenizer.json of another model?)", s->tokens[i], vocab_size);
        if (p->wide)
            ((int32_t *)p->tokens)[at + i] = s->tokens[i];
        else
            ((uint16_t *)p->tokens)[at + i] = (uint16_t)s->tokens[i];
    }
    return OK;
}

/* Marks are kept from the first sequence on that has any; before it everything counts. */
static int put_scored(struct pieces *p, const struct sequence *s, struct err *err) {
    size_t at = p->start[p->n];
    bool first = !p->scored;
    int rc = OK;
    if (!s->scored && first)
        return OK;
    if ((rc = mem_grow(&p->scored, &p->scored_cap, at + s->n_tok, 1, "training data", err)) != OK)
        return rc;
    if (first)
        memset(p->scored, 1, at);
    if (s->scored)
        memcpy(p->scored + at, s->scored, s->n_tok);
    else
        memset(p->scored + at, 1, s->n_tok);
    return OK;
}

static int append(struct pieces *p, const struct sequence *s, const char *name, int vocab_size, struct err *err) {
    size_t end = p->start[p->n] + s->n_tok;
    int rc = mem_grow(&p->start, &p->start_cap, p->n + 2, sizeof *p->start, "training data", err);
    if (rc == OK)
        rc = mem_grow(&p->tokens, &p->tokens_cap, end, token_bytes(p), "training data", err);
    if (rc == OK)
        rc = put_tokens(p, s, name, vocab_size, err);
    if (rc == OK)
        rc = put_scored(p, s, err);
    if (rc != OK)
        return rc;
    p->start[++p->n] = end;
    p->longest = s->n_tok > p->longest ? s->n_tok : p->longest;
    return OK;
}

int pieces_read(const struct source *source, const char *name, int vocab_size, size_t max_pieces, struct pieces **out,
                struct err *err) {
    struct pieces *p = mem_alloc(1, sizeof *p, "training data", err);
    struct sequence sequence;
    int end = 0, rc = ERR_MEMORY;
    *out = NULL;
    if (!p || !(p->start = mem_alloc(2, sizeof *p->start, "training data", err)))
        goto out;
    p->start_cap = 2;
    p->wide = vocab_size > UINT16_MAX + 1;
    rc = OK;
    while (rc == OK && (max_pieces == 0 || p->n < max_pieces)) {
        if ((rc = source->next(source->self, &sequence, &end, err)) != OK || end)
            break;
        rc = append(p, &sequence, name, vocab_size, err);
    }
    if (rc == OK) {
        *out = p;
        p = NULL;
    }
out:
    pieces_free(p);
    return rc;
}

void pieces_free(struct pieces *p) {
    if (!p)
        return;
    free(p->tokens);
    free(p->scored);
    free(p->start);
    free(p);
}

size_t pieces_count(const struct pieces *p) {
    return p->n;
}

size_t pieces_len(const struct pieces *p, size_t i) {
    return p->start[i + 1] - p->start[i];
}

size_t pieces_n_tok(const struct pieces *p) {
    return p->start[p->n];
}

bool pieces_scored_apart(const struct pieces *p) {
    return p->scored != NULL;
}

size_t pieces_get(const struct pieces *p, size_t i, bool scored_only, int32_t *ids, int32_t *target) {
    size_t first = p->start[i], n = pieces_len(p, i);
    for (size_t t = 0; t < n; t++) {
        bool counts = t + 1 < n && (!scored_only || !p->scored || p->scored[first + t + 1]);
        ids[t] = token_at(p, first + t);
        target[t] = counts ? token_at(p, first + t + 1) : -1;
    }
    return n;
}

uint64_t pieces_hash(const struct pieces *p) {
    const uint64_t parts[] = {XXH3_64bits(p->tokens, pieces_n_tok(p) * token_bytes(p)),
                              XXH3_64bits(p->start, (p->n + 1) * sizeof *p->start),
                              p->scored ? XXH3_64bits(p->scored, pieces_n_tok(p)) : 0};
    return XXH3_64bits(parts, sizeof parts);
}

int pieces_reader_open(const struct pieces *p, struct pieces_reader *out, struct err *err) {
    *out = (struct pieces_reader){.pieces = p,
                                  .tokens = mem_alloc(p->longest, sizeof *out->tokens, "a sequence", err),
                                  .scored = mem_alloc(p->longest, 1, "a sequence", err)};
    return out->tokens && out->scored ? OK : ERR_MEMORY;
}

void pieces_reader_close(struct pieces_reader *r) {
    free(r->tokens);
    free(r->scored);
    *r = (struct pieces_reader){0};
}

static int next_piece(void *self, struct sequence *out, int *end, struct err *err) {
    struct pieces_reader *r = self;
    const struct pieces *p = r->pieces;
    (void)err;
    *end = r->next == p->n;
    if (*end)
        return OK;
    size_t first = p->start[r->next], n = pieces_len(p, r->next);
    for (size_t t = 0; t < n; t++)
        r->tokens[t] = token_at(p, first + t);
    if (p->scored)
        memcpy(r->scored, p->scored + first, n);
    *out = (struct sequence){.index = r->next, .document = r->next, .tokens = r->tokens,
                             .scored = p->scored ? r->scored : NULL, .n_tok = n};
    r->next++;
    return OK;
}

struct source pieces_reader_source(struct pieces_reader *r) {
    r->next = 0;
    return (struct source){.self = r, .next = next_piece};
}
