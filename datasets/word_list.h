/* word_list.h - common English words for generated tasks. No word stands in it twice. Pure functions, any thread. */
#ifndef SPKV_DATASETS_WORD_LIST_H
#define SPKV_DATASETS_WORD_LIST_H

#include <stddef.h>
#include <stdint.h>

#include "base/str.h"
#include "datasets/task_rows.h"

enum { WORD_LIST_MAX = 182876 };

const char *word_adjective(struct draws *draws);
const char *word_noun(struct draws *draws);

/* Appends word i < WORD_LIST_MAX of a random order of all words, another order for every (key, stream): first the single
 * words, then pairs like "silver-lake". */
void word_put_distinct(struct str *s, uint64_t key, uint64_t stream, size_t i);

#endif
