/* run_tokens.h - what a report shows of single tokens: a sequence as coloured text and as keep map, and the tokens that
 * heads keep most and least. */
#ifndef SPKV_REPORTS_RUN_TOKENS_H
#define SPKV_REPORTS_RUN_TOKENS_H

#include "reports/run.h"
#include "reports/token_text.h"

struct run_tokens_options {
    const struct token_text *text;  /* put NULL = ids stand for tokens, and a note says so */
    const uint64_t *sequences;      /* (n_sequences) numbers in the run's global list; none = the first of the run */
    size_t n_sequences;
};

/* Writes tokens_N.csv, keep_map_N.png and keep_map_N.csv.gz for every sequence N and most_kept_tokens.csv below `dir`, and
 * appends what the page shows of it. A run with gates that recorded no tokens gets a note that says how to. ERR_INPUT where
 * a sequence that was asked for is not in the run. */
int run_tokens_write(struct profile *profile, const struct run *run, const struct run_tokens_options *options,
                     const char *dir, struct str *page, struct err *err);

#endif
