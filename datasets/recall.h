/* recall.h - generated texts whose end can only be known from far back: facts asked for again, names that return, lists
 * that are copied. Simple English words, so that small models know them. A row is a pure function of seed and row number.
 *
 *   facts   "The code of Tom is 52. ... (other sentences) ... Remember the code of Tom. It is| 52."
 *   names   "Tom Hill is at the park. ... Then Tom| Hill came back home."
 *   copy    "Here is a list: cake, boat, ... . ... Here is the same list again:| cake, boat, ... ."
 *   pairs   "Pairs: balan 52, cemer 17, ... . ... Again: cemer 17, balan| 52."
 *   series  "Words: balan cemer ... . ... Again: balan| cemer ... ."
 *   notes   "The metal is iron. The month is May. ... The month was| May."
 *
 * The part behind | is the completion. In pairs and series what repeats stands right behind what it repeats after, so that
 * copying is all it takes, and the invented words (128) and the numbers (90) can each be one token; of the first n_words of
 * both a very small model learns soon what looking up is, and can go on to more. In notes every subject has words of its own.
 * facts, names, pairs and notes can ask for several items; the completion then begins with the first answer. */
#ifndef SPKV_DATASETS_RECALL_H
#define SPKV_DATASETS_RECALL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "engine/tokenizer.h"

/* mixed: facts, names and copy in turn */
enum recall_kind { RECALL_MIXED, RECALL_FACTS, RECALL_NAMES, RECALL_COPY, RECALL_PAIRS, RECALL_SERIES,
                   RECALL_NOTES };

enum { RECALL_MIN_ITEMS = 2, RECALL_MAX_ITEMS = 32, RECALL_MAX_NOTES = 12 /* items of notes */, RECALL_MAX_WORDS = 128,
       RECALL_MAX_FILLERS = 100000 };

struct recall_options {
    enum recall_kind kind;
    uint64_t n_rows, seed;
    int n_items;     /* facts, names, pairs, notes or list entries in a row, RECALL_MIN_ITEMS to RECALL_MAX_ITEMS */
    int n_queries;   /* facts, names, pairs or notes asked for, all different; from 1, at most all */
    int n_words;     /* pairs, series: different words and numbers to draw from, n_items to RECALL_MAX_WORDS; 0: all */
    int n_fillers;   /* sentences around the items, 0 to RECALL_MAX_FILLERS */
    int depth;       /* percent of them that stand before the items; the others stand between them and the question */
    int length;      /* not 0: as many sentences as fit into so many tokens of the row, in place of n_fillers */
    const struct tokenizer *tokenizer; /* that counts them, with what its template puts around; borrowed */
    bool plain_text; /* {"text": ...} instead of {"prompt": ..., "completion": ...} */
};

/* Writes n_rows lines of JSON. ERR_IO when the stream fails; the caller closes it. ERR_USAGE when a row without fillers is
 * longer than `length`. */
int recall_write(FILE *stream, const struct recall_options *options, struct err *err);

#endif
