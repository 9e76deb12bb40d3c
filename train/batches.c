#include "train/batches.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/mem.h"
#include "base/rng.h"

struct piece {
    size_t begin, n_tok; /* in tokens[] */
    bool marked;         /* scored[] says where the loss counts */
};

struct corpus_data {
    double share;
    int32_t *tokens;
    uint8_t *scored; /* parallel to tokens */
    struct piece *pieces;
    uint32_t *order; /* (n_pieces) of the epoch in hand */
    size_t n_tok, tokens_cap, scored_cap, n_pieces, pieces_cap;
    uint64_t epoch, next; /* place: the next piece is order[next] */
    uint64_t served_tok;
};

struct batches {
    struct batches_options options;
    struct corpus_data *corpora;
    size_t n_corpora, corpora_cap;
    XXH3_state_t *hash;
    uint64_t index; /* of the next micro-batch */
    int32_t *ids, *target;
    int *row_splits;
    uint64_t *sequence_id;
};

int batches_create(const struct batches_options *options, struct batches **out, struct err *err) {
    size_t n = (size_t)options->context_len * (size_t)options->n_lines;
    struct batches *b = mem_alloc(1, sizeof *b, "training data", err);
    *out = NULL;
    if (!b)
        return ERR_MEMORY;
    b->options = *options;
    if (!(b->ids = mem_alloc(n, sizeof *b->ids, "a batch", err)) ||
        !(b->target = mem_alloc(n, sizeof *b->target, "a batch", err)) ||
        !(b->row_splits = mem_alloc(n / 2 + 1, sizeof *b->row_splits, "a batch", err)) ||
        !(b->sequence_id = mem_alloc(n / 2, sizeof *b->sequence_id, "a batch", err))) {
        batches_free(b);
        return ERR_MEMORY;
    }
    if (!(b->hash = XXH3_createState())) {
        batches_free(b);
        return err_memory(err, "training data", sizeof *b);
    }
    XXH3_128bits_reset(b->hash);
    const int64_t shape[] = {options->context_len, options->n_lines, options->answer_only, (int64_t)options->seed};
    XXH3_128bits_update(b->hash, shape, sizeof shape);
    *out = b;
    return OK;
}

void batches_free(struct batches *b) {
    if (!b)
        return;
    for (size_t i = 0; i < b->n_corpora; i++) {
        free(b->corpora[i].tokens);
        free(b->corpora[i].scored);
        free(b->corpora[i].pieces);
        free(b->corpora[i].order);
    }
    free(b->corpora);
    XXH3_freeState(b->hash);
    free(b->ids);
    free(b->target);
    free(b->row_splits);
    free(b->sequence_id);
    free(b);
}

/* ---- reading --------------------------------------------------------------------------------------------------------- */

/* Whether the loss of predicting token i of a piece counts. */
static bool counts(const struct corpus_data *c, const struct piece *p, size_t i) {
    return i > 0 && (!p->marked || c->scored[p->begin + i]);
}

static int check_sequence(const struct batches *b, const struct sequence *s, const char *name, struct err *err) {
    if (s->n_tok > (size_t)b->options.context_len)
        return err_set(err, ERR_INPUT, name, "sequence %llu has %zu tokens, the context %d",
                       (unsigned long long)s->index, s->n_tok, b->options.context_len);
    if (b->options.answer_only && !s->scored)
        return err_set(err, ERR_INPUT, name, "document %llu has no prompt and completion: a loss on answers only needs rows of "
                       "both", (unsigned long long)s->document);
    for (size_t i = 0; i < s->n_tok; i++)
        if (s->tokens[i] < 0 || s->tokens[i] >= b->options.vocab_size)
            return err_set(err, ERR_INPUT, name, "token id %d, but the model's vocabulary has %d entries: is the tokenizer of "
                           "another model beside these weights?", (int)s->tokens[i], b->options.vocab_size);
    return OK;
}

static int take_sequence(struct batches *b, struct corpus_data *c, const struct sequence *s, struct err *err) {
    size_t after = c->n_tok + s->n_tok;
    bool marked = b->options.answer_only;
    int rc;
    if ((rc = mem_grow(&c->tokens, &c->tokens_cap, after, sizeof *c->tokens, "training data", err)) != OK ||
        (rc = mem_grow(&c->scored, &c->scored_cap, after, 1, "training data", err)) != OK ||
        (rc = mem_grow(&c->pieces, &c->pieces_cap, c->n_pieces + 1, sizeof *c->pieces, "training data", err)) != OK)
        return rc;
    memcpy(c->tokens + c->n_tok, s->tokens, s->n_tok * sizeof *s->tokens);
    if (marked)
        memcpy(c->scored + c->n_tok, s->scored, s->n_tok);
    else
        memset(c->scored + c->n_tok, 1, s->n_tok);
    c->pieces[c->n_pieces++] = (struct piece){c->n_tok, s->n_tok, marked};
    c->n_tok = after;
    return OK;
}

static int read_all(struct batches *b, struct corpus_data *c, const struct source *source, const char *name,
                    struct err *err) {
    struct sequence s;
    int end = 0, rc;
    bool any_loss = false;
    while ((rc = source->next(source->self, &s, &end, err)) == OK && !end) {
        if ((rc = check_sequence(b, &s, name, err)) != OK || (rc = take_sequence(b, c, &s, err)) != OK)
            return rc;
        const struct piece *p = &c->pieces[c->n_pieces - 1];
        for (size_t i = 0; i < p->n_tok && !any_loss; i++)
            any_loss = counts(c, p, i);
    }
    if (rc == OK && !any_loss)
        rc = err_set(err, ERR_INPUT, name, "holds no sequence with a token to predict: a corpus needs at least two tokens");
    if (rc == OK && c->n_pieces > UINT32_MAX)
        rc = err_set(err, ERR_INPUT, name, "holds more than %lu sequences", (unsigned long)UINT32_MAX);
    return rc;
}

int batches_add(struct batches *b, const struct source *source, const char *name, double share, struct err *err) {
    int rc = mem_grow(&b->corpora, &b->corpora_cap, b->n_corpora + 1, sizeof *b->corpora, "corpora", err);
    if (rc != OK)
        return rc;
    struct corpus_data *c = &b->corpora[b->n_corpora++];
    *c = (struct corpus_data){.share = share};
    if ((rc = read_all(b, c, source, name, err)) != OK)
        return rc;
    if (!(c->order = mem_alloc(c->n_pieces, sizeof *c->order, "an order of training data", err)))
        return ERR_MEMORY;
    XXH3_128bits_update(b->hash, &share, sizeof share);
    XXH3_128bits_update(b->hash, c->tokens, c->n_tok * sizeof *c->tokens);
    XXH3_128bits_update(b->hash, c->scored, c->n_tok);
    for (size_t i = 0; i < c->n_pieces; i++)
        XXH3_128bits_update(b->hash, &c->pieces[i].n_tok, sizeof c->pieces[i].n_tok);
    batches_seek(b, 0);
    return OK;
}

uint64_t batches_n_tok(const struct batches *b) {
    uint64_t n = 0;
    for (size_t i = 0; i < b->n_corpora; i++)
        n += b->corpora[i].n_tok;
    return n;
}

uint64_t batches_n_pieces(const struct batches *b) {
    uint64_t n = 0;
    for (size_t i = 0; i < b->n_corpora; i++)
        n += b->corpora[i].n_pieces;
    return n;
}

void batches_hash(const struct batches *b, char hex[33]) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(b->hash));
    for (size_t i = 0; i < sizeof canonical.digest; i++) {
        hex[2 * i] = "0123456789abcdef"[canonical.digest[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[canonical.digest[i] & 15];
    }
    hex[32] = 0;
}

/* ---- order ----------------------------------------------------------------------------------------------------------- */

/* Fisher and Yates's shuffle; draw i is a pure function of (seed, corpus, epoch, i). */
static void shuffle(const struct batches *b, struct corpus_data *c) {
    uint32_t corpus = (uint32_t)(c - b->corpora);
    for (size_t i = 0; i < c->n_pieces; i++)
        c->order[i] = (uint32_t)i;
    for (size_t i = c->n_pieces; i > 1; i--) {
        struct rng_block r = rng_philox(b->options.seed, (struct rng_block){{(uint32_t)c->epoch, (uint32_t)(c->epoch >> 32),
                                                                             corpus, (uint32_t)i}});
        uint64_t wide = (uint64_t)r.v[0] << 32 | r.v[1];
        size_t j = (size_t)(wide % i); /* a bias of at most i / 2^64 */
        uint32_t swap = c->order[i - 1];
        c->order[i - 1] = c->order[j];
        c->order[j] = swap;
    }
}

/* The corpus that is furthest behind its share; ties go to the first. */
static struct corpus_data *next_corpus(struct batches *b) {
    struct corpus_data *best = &b->corpora[0];
    for (size_t i = 1; i < b->n_corpora; i++)
        if ((double)b->corpora[i].served_tok / b->corpora[i].share < (double)best->served_tok / best->share)
            best = &b->corpora[i];
    return best;
}

static const struct piece *peek(const struct corpus_data *c) {
    return &c->pieces[c->order[c->next]];
}

static void advance(struct batches *b, struct corpus_data *c) {
    c->served_tok += peek(c)->n_tok;
    if (++c->next == c->n_pieces) {
        c->next = 0;
        c->epoch++;
        shuffle(b, c);
    }
}

static size_t write_piece(struct batches *b, const struct corpus_data *c, size_t row) {
    const struct piece *p = peek(c);
    memcpy(b->ids + row, c->tokens + p->begin, p->n_tok * sizeof *b->ids);
    for (size_t i = 0; i < p->n_tok; i++)
        b->target[row + i] = i + 1 < p->n_tok && counts(c, p, i + 1) ? c->tokens[p->begin + i + 1] : -1;
    return p->n_tok;
}

/* Walks through one micro-batch, writing it where `out` is given. */
static void walk(struct batches *b, struct micro_batch *out) {
    size_t row = 0;
    int n_seq = 0;
    for (int line = 0; line < b->options.n_lines; line++) {
        size_t left = (size_t)b->options.context_len;
        for (struct corpus_data *c = next_corpus(b); peek(c)->n_tok <= left; c = next_corpus(b)) {
            left -= peek(c)->n_tok;
            if (out) {
                b->row_splits[n_seq] = (int)row;
                b->sequence_id[n_seq] = b->index << 20 | (uint64_t)n_seq;
                row += write_piece(b, c, row);
                n_seq++;
            }
            advance(b, c);
        }
    }
    b->row_splits[n_seq] = (int)row;
    if (out)
        *out = (struct micro_batch){.n_seq = n_seq, .row_splits = b->row_splits, .ids = b->ids, .target = b->target,
                                    .sequence_id = b->sequence_id};
    b->index++;
}

void batches_seek(struct batches *b, uint64_t index) {
    if (index < b->index || index == 0) {
        b->index = 0;
        for (size_t i = 0; i < b->n_corpora; i++) {
            b->corpora[i].epoch = b->corpora[i].next = b->corpora[i].served_tok = 0;
            shuffle(b, &b->corpora[i]);
        }
    }
    while (b->index < index)
        walk(b, NULL);
}

struct micro_batch batches_next(struct batches *b) {
    struct micro_batch out;
    walk(b, &out);
    return out;
}
