/* token_strip.h - a text in which every token has the colour of how many heads keep it (or of its mean utility): as a piece
 * of HTML for the page (page.h), whose style sheet has the colours, with everything escaped, and as CSV with every token. */
#ifndef SPKV_REPORTS_TOKEN_STRIP_H
#define SPKV_REPORTS_TOKEN_STRIP_H

#include <stddef.h>

#include "base/str.h"
#include "reports/run.h"
#include "reports/run_sequence.h"
#include "reports/token_text.h"

enum { TOKEN_STRIP_STEPS = 11 /* colours: no head, ..., all heads */, TOKEN_STRIP_PAGE_TOKENS = 4096 };

/* N of the class cN of a share from 0 to 1: c0 for less than 1/11, ..., c10 from 10/11 on. */
size_t token_strip_step(double share);

/* Appends a legend and a region that scrolls with a <span class="cN" data-v="VALUE" title="..."> for each of the
 * first max_tokens tokens; VALUE is the number of heads that keep the token (mean utility where gates were not recorded).
 * run_file must be one with token_quantity_of() other than TOKEN_NOTHING. */
int token_strip_put_html(struct profile *profile, const struct run_sequence *sequence, const struct token_text *text,
                         size_t max_tokens, struct str *out, struct err *err);

/* Columns position, token_id, token, nll_nat, n_heads (that have a gate or score), n_kept (NAME "n_kept", or
 * "utility_sum"), share. */
int token_strip_write_csv(struct profile *profile, const struct run_sequence *sequence, const struct token_text *text,
                          const char *path, struct err *err);

#endif
