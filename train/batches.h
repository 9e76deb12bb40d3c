/* batches.h - the training data of a run: token pieces of one or several corpora in memory, and the micro-batches that they
 * make in shuffled order.
 *
 * A piece is a sequence of a source: a document, or a part of one, of at most context_len tokens. Pieces of a corpus come in
 * an order shuffled anew in every epoch by (seed, corpus, epoch). The next piece is taken from the corpus that is furthest
 * behind its share of tokens. A line of a micro-batch holds as many pieces, one after the other, as fit into context_len
 * tokens; attention and positions begin anew with each. So the data of a step is a pure function of sources, shares, seed
 * and step number, whatever a run has seen before. One thread. */
#ifndef SPKV_TRAIN_BATCHES_H
#define SPKV_TRAIN_BATCHES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/source.h"
#include "train/gradient.h"

struct batches;

struct batches_options {
    int context_len;   /* tokens of a line */
    int n_lines;       /* of a micro-batch */
    bool answer_only;  /* loss where a sequence's `scored` says; sequences without it are refused */
    int vocab_size;    /* ids must be below (ERR_INPUT) */
    uint64_t seed;
};

int batches_create(const struct batches_options *options, struct batches **out, struct err *err);
void batches_free(struct batches *b);

/* Reads a source to its end as one corpus called `name` with a share of the tokens, relative to the others'. ERR_INPUT where
 * there is no piece of two tokens, none with a loss, or a piece longer than context_len. */
int batches_add(struct batches *b, const struct source *source, const char *name, double share, struct err *err);

/* Sets what the next call gives: micro-batch `index` from 0. Cheap enough for a resumed run: only lengths are walked. */
void batches_seek(struct batches *b, uint64_t index);

/* The next micro-batch, borrowed until the next call. */
struct micro_batch batches_next(struct batches *b);

uint64_t batches_n_tok(const struct batches *b);    /* tokens of all pieces */
uint64_t batches_n_pieces(const struct batches *b);

/* XXH3-128 over every corpus's tokens, lengths and share and over the options, in canonical hex: two runs with equal hashes
 * see equal data. */
void batches_hash(const struct batches *b, char hex[33]);

#endif
