/* answer.h - what a generated text is worth beside its references, by the rules of the evaluations themselves. Pure
 * functions; texts are bytes of UTF-8 and may hold zeros. */
#ifndef SPKV_DATASETS_ANSWER_H
#define SPKV_DATASETS_ANSWER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/str.h"

/* RULER (scripts/eval/evaluate.py): white space at both ends goes, every control character (below U+0020) becomes a line
 * break, then both ends once more. White space is what Python's str.strip() takes for it. */
void answer_clean(const char *text, size_t n, struct str *out);

/* RULER (scripts/eval/synthetic/constants.py): a cleaned text against references, an array of at least one text (anything
 * else in it counts as not found). Upper and lower case are equal: simple case mapping, and Python's rule for U+0130 but not
 * the one for a sigma that ends a word.
 *   all   the share of the references that the text holds (string_match_all)
 *   part  1 when it holds any of them, else 0 (string_match_part) */
int answer_match_all(const struct str *clean, const json_t *references, double *out, struct err *err);
int answer_match_part(const struct str *clean, const json_t *references, double *out, struct err *err);

/* RULER's score of a task: the mean of n scores with this sum, in percent, rounded to two decimals as Python's round(). */
double answer_percent(double sum, size_t n);

/* GSM8K as in the lm-evaluation-harness (v0.4, version 3): the number behind "#### " in the text (strict), or the last
 * number in it (flexible), without commas, dollar signs and a dot at the end. False and *out empty when there is none. */
bool answer_strict_number(const char *text, size_t n, struct str *out);
bool answer_last_number(const char *text, size_t n, struct str *out);

#endif
