/* ruler.h - long texts with something to find, follow or count, after RULER (Hsieh et al., arXiv 2404.06654, Apache-2.0),
 * whose prompts, counts and field names these are. RULER-style: word lists and prose are our own, so scores are not
 * comparable digit by digit with those of the original files.
 *
 *   task             haystack   asked                                       new tokens  scored by
 *   niah_single_1    noise      the number of the only key                  128         all references
 *   niah_single_2    text       the number of the only key                  128         all
 *   niah_single_3    text       the uuid of the only key                    128         all
 *   niah_multikey_1  text       the number of one of 4 keys                 128         all
 *   niah_multikey_2  needles    the number of one key among many            128         all
 *   niah_multikey_3  needles    the uuid of one uuid among many             128         all
 *   niah_multivalue  text       the 4 numbers of one key                    128         all
 *   niah_multiquery  text       the numbers of 4 keys                       128         all
 *   vt               noise      5 variables along a chain of assignments    30          all
 *   cwe              -          the 10 most common words of a list          120         all
 *   fwe              -          the 3 most common coded words               50          all
 *   qa_1, qa_2       documents  questions of SQuAD, of HotpotQA             32          any reference
 *
 * Deviations from the original: the keys of a row all differ; a text of the user's is read from a random sentence on;
 * questions come in a random order, and one whose own documents do not fit is passed over; every row has the largest
 * haystack that fits, not a multiple of a step. A row is a pure function of the options and its number. */
#ifndef SPKV_DATASETS_RULER_H
#define SPKV_DATASETS_RULER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "datasets/documents.h"
#include "datasets/haystack.h"
#include "engine/tokenizer.h"

enum { RULER_N_TASKS = 13, RULER_N_GROUPS = 4 };

enum ruler_group { RULER_RETRIEVAL, RULER_TRACING, RULER_AGGREGATION, RULER_QUESTIONS };

struct ruler_task;

/* In the order above, i < RULER_N_TASKS. Static lifetime. */
const struct ruler_task *ruler_task(size_t i);
const struct ruler_task *ruler_task_find(const char *name, size_t n); /* NULL = no such task */
const char *ruler_task_name(const struct ruler_task *task);
enum ruler_group ruler_task_group(const struct ruler_task *task);
int ruler_task_n_new(const struct ruler_task *task);        /* tokens that the answer may have */
bool ruler_task_any_counts(const struct ruler_task *task);  /* one reference found is the full score (string_match_part) */

struct ruler_options {
    uint64_t n_rows, seed;
    int length;                         /* tokens of a row at most: prompt, what stands around it, and the answer */
    const struct tokenizer *tokenizer;  /* borrowed, as everything here */
    const char *before, *after;         /* of a chat template, around the input; NULL: the tokenizer's own template */
    const struct haystack *haystack;        /* NULL: generated prose */
    const struct documents *squad, *hotpot; /* of qa_1 and qa_2; NULL: not there */
};

/* Whether the task's questions are there; true for tasks that have none. */
bool ruler_task_has_data(const struct ruler_task *task, const struct ruler_options *options);

/* Writes n_rows lines of JSON with RULER's fields (index, input, outputs, length, length_w_model_temp, answer_prefix, for
 * needles token_position_answer) and "task" and "max_length". ERR_USAGE when the length is too small for the task, saying
 * how much it needs, or the documents of a QA task are missing; ERR_IO when the stream fails. */
int ruler_write(FILE *stream, const struct ruler_task *task, const struct ruler_options *options, struct err *err);

#endif
