/* refine.h - a layout made better by measurement: heads change places under the same budget as long as the loss falls. Every
 * measurement is a line of a log, which is also what a stopped search goes on from. Documents with even numbers are searched
 * on, those with odd numbers confirm. One thread. */
#ifndef SPKV_CLI_REFINE_H
#define SPKV_CLI_REFINE_H

#include <argp.h>
#include <stddef.h>
#include <stdint.h>

#include "analyze/layout.h"
#include "analyze/paired.h"
#include "base/err.h"
#include "cli/run_corpus.h"

enum { REFINE_MAX_CORPORA = 256 };

/* Strings are borrowed from argv; the caller sets run and quiet as it likes. */
struct refine_options {
    const char *model;    /* --refine MODEL; NULL = no refinement */
    char *corpora[REFINE_MAX_CORPORA];
    size_t n_corpora;
    const char *log;      /* CSV; NULL = none is kept */
    double seconds;       /* of search at most; 0 = no limit */
    int max_length;       /* tokens of a sequence, 0 = 1024 or the model's limit */
    uint64_t limit;       /* sequences, 0 = all */
    int threads;          /* 0 = all */
    bool quiet;
};

/* An argp child that fills a struct refine_options given as its input. */
extern const struct argp refine_argp;

struct refine_result {
    size_t n_measured, n_swaps;       /* layouts measured by this search (the log's included); swaps made */
    bool finished;                    /* no swap is left that promises anything; false: the time was over */
    double nll_start, nll_end;        /* nat per token on the searched documents */
    size_t n_search, n_held_out;      /* documents */
    struct estimate held_out;         /* change of the loss on the others, refined against start */
};

/* *out: the refined layout, with the search in made_by, or a copy of the start when nothing was better. ERR_INPUT when the
 * log is of another search. ERR_INCOMPLETE after SIGINT or SIGTERM: the log has all that was measured. */
int refine_layout(const struct refine_options *options, const struct layout *start, struct layout **out,
                  struct refine_result *result, struct err *err);

/* The result in a few lines on standard output. */
void refine_print(const struct refine_result *result);

#endif
