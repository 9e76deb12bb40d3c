/* sequences.h - documents cut into token sequences: what datasets/ hands to the engine as a struct source.
 *
 * A document is encoded once, without the post-processor. A sequence is the template's prefix, the next
 * max_length - specials text tokens, the template's suffix; continuation pieces begin with the prefix too. With a stride S
 * the next piece begins S text tokens after the last one began, and text tokens that the last piece held are not scored
 * again. A piece with fewer than two tokens, or with no text at all, is dropped and counted.
 *
 * Of a document with a prompt only the completion's tokens are scored, no special ones: prompt tokens are the leading
 * ones on which the encodings of the prompt alone and of the whole text agree, so that a token with bytes of both is
 * scored. One thread. */
#ifndef SPKV_DATASETS_SEQUENCES_H
#define SPKV_DATASETS_SEQUENCES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "datasets/corpus.h"
#include "engine/source.h"
#include "engine/tokenizer.h"

struct sequence_options {
    size_t max_length; /* tokens of a sequence, specials included */
    size_t stride;     /* text tokens from one beginning to the next; 0: no overlap */
    uint64_t limit;    /* sequences; 0: no limit */
    uint32_t document_every; /* take documents 0, n, 2 n, ... only; 0: all documents */
    bool document_rest;      /* ... or all but those */
};

struct sequence_counts {
    uint64_t documents, text_bytes, text_tokens; /* encoded so far; specials not counted */
    uint64_t sequences, fed_tokens;              /* handed out so far; specials and overlaps counted */
    uint64_t dropped_tails;
};

struct sequences;

/* Borrows corpus and tokenizer until sequences_free(). ERR_USAGE when max_length leaves no room for text or the stride
 * would leave tokens out. */
int sequences_create(struct corpus *corpus, const struct tokenizer *tokenizer, const struct sequence_options *options,
                     struct sequences **out, struct err *err);
void sequences_free(struct sequences *sequences); /* NULL is fine */

/* The stream for the engine, in a fixed order; valid until sequences_free(). Sequences are borrowed until the next one. */
struct source sequences_source(struct sequences *sequences);

struct sequence_counts sequences_counts(const struct sequences *sequences);

/* Progress in stored bytes of the corpus (corpus.h), spread over the sequences of a document; a total of 0 is unknown. */
uint64_t sequences_bytes_done(const struct sequences *sequences);
uint64_t sequences_bytes_total(const struct sequences *sequences);

#endif
