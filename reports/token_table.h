/* token_table.h - a ranking of tokens in words: the table of most and least kept ones with their surroundings. */
#ifndef SPKV_REPORTS_TOKEN_TABLE_H
#define SPKV_REPORTS_TOKEN_TABLE_H

#include "analyze/token_ranking.h"
#include "reports/table.h"
#include "reports/token_text.h"

/* Appends text with ends of lines and tabs as signs that can be seen; the rest as text_put_clean(). */
void token_put_visible(const char *text, struct str *out);

/* Fills a new table: most kept first, then least kept, best first. Release it with table_free(). */
void token_table_fill(const struct token_ranking *ranking, const struct token_text *text, struct table *out);

/* Appends the example of a ranked token, the token itself between guillemets, "before »token« after". */
void token_put_example(const struct ranked_token *token, const struct token_text *text, struct str *out);

/* The same ranking for a terminal: UTF-8 without control characters. */
void token_put_ranking(const struct token_ranking *ranking, const struct token_text *text, struct str *out);

#endif
