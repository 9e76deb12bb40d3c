/* tasks_ruler.h - the options of `spkv tasks ruler`, of which recall shares --length and whose tokens it counts. */
#ifndef SPKV_CLI_TASKS_RULER_H
#define SPKV_CLI_TASKS_RULER_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "datasets/ruler.h"

enum { TASKS_RULER_MAX_HAYSTACKS = 64 };

/* Strings are borrowed from argv. A zeroed struct holds the defaults. */
struct tasks_ruler {
    bool chosen[RULER_N_TASKS]; /* by --task; none: all that there is data for */
    int length;                 /* 0 = not given */
    const char *model, *tokenizer; /* whose tokens `length` counts: one of them */
    const char *squad, *hotpot;
    const char *chat;              /* auto, off, FILE: engine/chat.h; NULL = auto with a model, else off */
    char *haystack[TASKS_RULER_MAX_HAYSTACKS];
    size_t n_haystacks;
    const char *given;          /* name of an option of ruler's own that was given, NULL = none */
};

/* An argp child that fills a struct tasks_ruler given as its input. */
extern const struct argp tasks_ruler_argp;

/* Opens the tokenizer that counts `length`, which is within the model's limit; free it. ERR_USAGE otherwise. */
int tasks_open_tokenizer(const struct tasks_ruler *options, struct tokenizer **out, struct err *err);

/* Writes n_rows rows of every task. Notes go to stderr. */
int tasks_ruler_write(FILE *stream, const struct tasks_ruler *options, uint64_t n_rows, uint64_t seed, struct err *err);

#endif
