/* palindrome.h - the palindrome task (arXiv 2605.14037; method.md section 9): two-digit integers, an instruction, then the
 * integers in reverse order, which is the completion. What stands between an integer and its answer grows from the length of
 * the instruction to that and twice the integers, so a window cannot bridge it.
 *
 *   " 41 87 12 Here the numbers end. ... Answer| 12 87 41"
 *
 * Under the tokenizer in datasets/palindrome every integer is one token, and so is every piece of the instruction. A row is
 * a pure function of seed and row number. */
#ifndef SPKV_DATASETS_PALINDROME_H
#define SPKV_DATASETS_PALINDROME_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

enum { PALINDROME_MAX_ITEMS = 4096, PALINDROME_MAX_INSTRUCTION = 4096 };

struct palindrome_options {
    uint64_t n_rows, seed;
    int n_items;       /* integers from 10 to 99, uniform, with replacement; 1 to PALINDROME_MAX_ITEMS */
    int n_instruction; /* tokens of the instruction, 0 to PALINDROME_MAX_INSTRUCTION; beyond 50 it begins anew */
    bool plain_text;   /* {"text": ...} instead of {"prompt": ..., "completion": ...} */
};

/* Writes n_rows lines of JSON. ERR_IO when the stream fails; the caller closes it. */
int palindrome_write(FILE *stream, const struct palindrome_options *options, struct err *err);

#endif
