/* batches.h - training data: pieces of documents joined to sequences of at most context_len tokens, in an endless order that
 * is a pure function of the seed, so that a resumed run needs nothing but its step.
 *
 * A sequence is a run of consecutive pieces that fit context_len together, each with row_splits of its own: documents never
 * see each other, every piece is what an evaluation would feed, and every token is in exactly one sequence. In each pass
 * over a corpus its sequences come in another random order (rng_permute). Corpora are mixed evenly by their weights, the
 * shares of tokens. One thread. */
#ifndef SPKV_TRAIN_BATCHES_H
#define SPKV_TRAIN_BATCHES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/source.h"
#include "train/gradient.h"

struct batches;

struct batches_options {
    int vocab_size, context_len;
    int max_sequences; /* of one micro-batch */
    bool answer_only;  /* of a prompt and its answer, the answer alone counts; text counts whole */
    uint64_t seed;
};

int batches_create(const struct batches_options *options, struct batches **out, struct err *err);
void batches_free(struct batches *batches); /* NULL is fine */

/* Reads a corpus to its end; its pieces are at most context_len long. weight > 0. ERR_INPUT at `name` when it holds fewer
 * tokens than one sequence. */
int batches_add(struct batches *batches, const char *name, double weight, const struct source *source, struct err *err);

/* Sequences first .. first + n - 1 of the endless order, n <= max_sequences. Borrowed until the next call. */
void batches_get(struct batches *batches, uint64_t first, int n, struct micro_batch *out);

/* Of the same sequences: tokens, and predictions that count. */
struct batches_size {
    uint64_t n_rows, n_predicted;
};
struct batches_size batches_measure(struct batches *batches, uint64_t first, int n);

/* Where sequence i of the order lies: corpus, pass over it, and the sequence's number in the corpus. */
struct batches_place {
    size_t corpus;
    uint64_t epoch, sequence;
};
struct batches_place batches_place(const struct batches *batches, uint64_t i);

bool batches_have_answers(const struct batches *batches); /* some corpus has prompts and answers */
uint64_t batches_n_tok(const struct batches *batches);  /* over all corpora */
size_t batches_n_sequences(const struct batches *batches, size_t corpus);

/* Of the data and its order, canonical lower-case hex. */
void batches_hash(const struct batches *batches, char hex[33]);

#endif
