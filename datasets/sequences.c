#include "datasets/sequences.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct sequences {
    struct corpus *corpus;
    const struct tokenizer *tokenizer;
    struct sequence_options options;
    const int32_t *prefix, *suffix;
    size_t n_prefix, n_suffix, max_text; /* text tokens of a full piece */

    struct document document;     /* the current one; its text is not used after the encoding */
    struct token_list text;       /* its tokens, [0, len) */
    struct token_list prompt;     /* scratch: the prompt encoded alone */
    size_t n_prompt;              /* leading tokens that are not scored */
    size_t begin;                 /* of the next piece, in tokens */
    size_t n_seen;                /* leading tokens that a piece has held already */
    uint64_t bytes_before;        /* stored bytes read before the current document */

    int32_t *tokens;              /* (max_length at most) the piece handed out */
    uint8_t *scored;              /* the same length */
    size_t tokens_cap, scored_cap;
    struct sequence_counts counts;
};

int sequences_create(struct corpus *corpus, const struct tokenizer *tokenizer, const struct sequence_options *options,
                     struct sequences **out, struct err *err) {
    size_t n_prefix, n_suffix;
    const int32_t *prefix = tokenizer_prefix(tokenizer, &n_prefix), *suffix = tokenizer_suffix(tokenizer, &n_suffix);
    size_t n_specials = n_prefix + n_suffix, least = n_specials + 1 < 2 ? 2 : n_specials + 1;
    *out = NULL;
    if (options->max_length < least)
        return err_set(err, ERR_USAGE, "--max-length", "%zu leaves no room for text: this tokenizer adds %zu special "
                       "tokens, so it must be at least %zu", options->max_length, n_specials, least);
    if (options->stride > options->max_length - n_specials)
        return err_set(err, ERR_USAGE, "--stride", "%zu would leave tokens out: a sequence holds %zu text tokens "
                       "(--max-length less %zu special ones)", options->stride, options->max_length - n_specials,
                       n_specials);
    struct sequences *s = mem_alloc(1, sizeof *s, "sequences", err);
    if (!s)
        return ERR_MEMORY;
    *s = (struct sequences){.corpus = corpus, .tokenizer = tokenizer, .options = *options, .prefix = prefix,
                            .suffix = suffix, .n_prefix = n_prefix, .n_suffix = n_suffix,
                            .max_text = options->max_length - n_specials};
    *out = s;
    return OK;
}

void sequences_free(struct sequences *s) {
    if (!s)
        return;
    free(s->text.data);
    free(s->prompt.data);
    free(s->tokens);
    free(s->scored);
    free(s);
}

static int find_prompt(struct sequences *s, struct err *err) {
    const struct document *d = &s->document;
    s->n_prompt = 0;
    if (d->n_prompt == 0)
        return OK;
    s->prompt.len = 0;
    int rc = tokenizer_encode(s->tokenizer, d->text, d->n_prompt, &s->prompt, err);
    while (s->n_prompt < s->prompt.len && s->n_prompt < s->text.len &&
           s->prompt.data[s->n_prompt] == s->text.data[s->n_prompt])
        s->n_prompt++;
    return rc;
}

static bool is_taken(const struct sequence_options *o, const struct document *d) {
    return o->document_every == 0 || (d->index % o->document_every == 0) != o->document_rest;
}

/* Reads and encodes the next document that is taken. */
static int next_document(struct sequences *s, bool *end, struct err *err) {
    int rc;
    s->bytes_before = corpus_bytes_done(s->corpus);
    s->text.len = s->begin = s->n_seen = 0;
    do {
        if ((rc = corpus_next(s->corpus, &s->document, end, err)) != OK || *end)
            return rc;
    } while (!is_taken(&s->options, &s->document));
    if ((rc = tokenizer_encode(s->tokenizer, s->document.text, s->document.n, &s->text, err)) != OK ||
        (rc = find_prompt(s, err)) != OK)
        return rc;
    s->counts.documents++;
    s->counts.text_bytes += s->document.n;
    s->counts.text_tokens += s->text.len;
    if (s->text.len == 0)
        s->counts.dropped_tails++;
    return OK;
}

/* 1 where the prediction counts: all of it, or the completion, less what the last piece scored. */
static void mark_scored(struct sequences *s, size_t n_text) {
    bool specials = s->document.n_prompt == 0;
    memset(s->scored, specials, s->n_prefix + n_text + s->n_suffix);
    for (size_t i = 0; i < n_text; i++)
        s->scored[s->n_prefix + i] = s->begin + i >= s->n_seen && s->begin + i >= s->n_prompt;
}

/* Prefix, the next n_text tokens, suffix. */
static int fill_piece(struct sequences *s, size_t n_text, struct sequence *out, struct err *err) {
    size_t n = s->n_prefix + n_text + s->n_suffix;
    bool all = s->document.n_prompt == 0 && s->begin >= s->n_seen;
    int rc;
    if ((rc = mem_grow(&s->tokens, &s->tokens_cap, n, sizeof *s->tokens, "a sequence", err)) != OK ||
        (rc = mem_grow(&s->scored, &s->scored_cap, n, sizeof *s->scored, "a sequence", err)) != OK)
        return rc;
    memcpy(s->tokens + s->n_prefix, s->text.data + s->begin, n_text * sizeof *s->tokens);
    if (s->n_prefix)
        memcpy(s->tokens, s->prefix, s->n_prefix * sizeof *s->tokens);
    if (s->n_suffix)
        memcpy(s->tokens + s->n_prefix + n_text, s->suffix, s->n_suffix * sizeof *s->tokens);
    if (!all)
        mark_scored(s, n_text);
    *out = (struct sequence){.index = s->counts.sequences, .document = s->document.index, .offset = s->begin,
                             .source = s->document.file, .corpus = corpus_file(s->corpus, s->document.file)->corpus,
                             .tokens = s->tokens, .scored = all ? NULL : s->scored, .n_tok = n};
    return OK;
}

static int next_sequence(void *self, struct sequence *out, int *end, struct err *err) {
    struct sequences *s = self;
    bool corpus_ended = false;
    *end = s->options.limit > 0 && s->counts.sequences >= s->options.limit;
    while (!*end) {
        int rc;
        if (s->n_seen == s->text.len) {
            if ((rc = next_document(s, &corpus_ended, err)) != OK)
                return rc;
            *end = corpus_ended;
            continue;
        }
        size_t left = s->text.len - s->begin, n_text = left < s->max_text ? left : s->max_text;
        bool dropped = s->n_prefix + n_text + s->n_suffix < 2;
        if (!dropped && (rc = fill_piece(s, n_text, out, err)) != OK)
            return rc;
        s->n_seen = s->begin + n_text;
        s->begin += s->options.stride ? s->options.stride : s->max_text;
        if (dropped) {
            s->counts.dropped_tails++;
            continue;
        }
        s->counts.sequences++;
        s->counts.fed_tokens += out->n_tok;
        return OK;
    }
    return OK;
}

struct source sequences_source(struct sequences *s) {
    return (struct source){.self = s, .next = next_sequence};
}

struct sequence_counts sequences_counts(const struct sequences *s) {
    return s->counts;
}

uint64_t sequences_bytes_done(const struct sequences *s) {
    uint64_t now = corpus_bytes_done(s->corpus);
    double frac = s->text.len ? (double)s->n_seen / (double)s->text.len : 1;
    return s->bytes_before + (uint64_t)((double)(now - s->bytes_before) * frac);
}

uint64_t sequences_bytes_total(const struct sequences *s) {
    return corpus_bytes_total(s->corpus);
}
