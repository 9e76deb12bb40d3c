/* eval_journal.h - results on their way, one line of JSON each, so that an interrupted evaluation goes on where it was. An
 * evaluation asks for the same things in the same order every time: the journal is read back in that order. One thread. */
#ifndef SPKV_CLI_EVAL_JOURNAL_H
#define SPKV_CLI_EVAL_JOURNAL_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"

struct eval_journal;

/* Opens PATH for an evaluation with these settings (an object, borrowed). resume: goes on behind the last whole line of a
 * file that is there, whose settings must be equal (ERR_INPUT names the first that differs). Else the file must not be
 * there, unless force. */
int eval_journal_open(const char *path, json_t *settings, bool resume, bool force, struct eval_journal **out,
                      struct err *err);
void eval_journal_close(struct eval_journal *journal, bool remove_file); /* NULL is fine */

/* The stored value of the next result, a new reference; NULL when it is not there yet. */
json_t *eval_journal_take(struct eval_journal *journal, const char *key);

/* Appends a result; takes over `value`. */
int eval_journal_put(struct eval_journal *journal, const char *key, json_t *value, struct err *err);

#endif
