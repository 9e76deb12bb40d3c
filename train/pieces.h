/* pieces.h - the sequences of a source in memory, packed: 2 bytes a token where the vocabulary allows, else 4. Read once,
 * then immutable, for any number of threads. */
#ifndef SPKV_TRAIN_PIECES_H
#define SPKV_TRAIN_PIECES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/source.h"

struct pieces;

/* Reads the source to its end, or up to max_pieces sequences (0: all). ERR_INPUT at `name` for ids that the vocabulary does
 * not have. A source without sequences gives an empty list. */
int pieces_read(const struct source *source, const char *name, int vocab_size, size_t max_pieces, struct pieces **out,
                struct err *err);
void pieces_free(struct pieces *pieces); /* NULL is fine */

size_t pieces_count(const struct pieces *pieces);
size_t pieces_len(const struct pieces *pieces, size_t i);   /* tokens of piece i */
size_t pieces_n_tok(const struct pieces *pieces);           /* of all */
bool pieces_scored_apart(const struct pieces *pieces);      /* some prediction does not count */

/* Piece i: ids (len), and target (len): the next token, -1 where there is none or, with scored_only, its prediction does not
 * count. Returns len. */
size_t pieces_get(const struct pieces *pieces, size_t i, bool scored_only, int32_t *ids, int32_t *target);

/* XXH3 of tokens, borders and marks. */
uint64_t pieces_hash(const struct pieces *pieces);

/* The same sequences as a source again, from the first one on. */
struct pieces_reader {
    const struct pieces *pieces; /* borrowed */
    size_t next;
    int32_t *tokens;             /* of the sequence handed out */
    uint8_t *scored;
};
int pieces_reader_open(const struct pieces *pieces, struct pieces_reader *out, struct err *err);
void pieces_reader_close(struct pieces_reader *reader);                /* legal on a zeroed struct */
struct source pieces_reader_source(struct pieces_reader *reader);      /* begins anew with every call */

#endif
