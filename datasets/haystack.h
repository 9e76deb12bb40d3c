/* haystack.h - the sentences among which a task hides something: of the user's own texts, or generated prose that says
 * nothing. Immutable after opening; any thread may read. */
#ifndef SPKV_DATASETS_HAYSTACK_H
#define SPKV_DATASETS_HAYSTACK_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"
#include "datasets/task_rows.h"

enum { HAYSTACK_MAX_BYTES = 64 << 20 };

struct haystack;

/* Reads n corpora (corpus.h), at most HAYSTACK_MAX_BYTES of them, and splits them into sentences: white space becomes one
 * space, and a sentence ends with . ! or ?, closing quotes and brackets included, where white space and then no lower-case
 * letter follows. ERR_INPUT when there is none. */
int haystack_open(char *const *corpora, size_t n, struct haystack **out, struct err *err);
void haystack_free(struct haystack *haystack); /* NULL is fine */
size_t haystack_n_sentences(const struct haystack *haystack);

/* Sentences one after the other, a pure function of what is read and of the draws it begins with. */
struct haystack_reader {
    const struct haystack *from; /* NULL: generated prose */
    struct draws draws;
    size_t next;
};

/* Of a text, from a random sentence on; after the last the first follows. */
struct haystack_reader haystack_begin(const struct haystack *haystack, struct draws draws);
void haystack_put_next(struct haystack_reader *reader, struct str *out); /* without a space behind */

#endif
