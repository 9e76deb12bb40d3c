/* python_random.h - random.Random(seed).sample(range(n), k) of Python 3, so that few-shot examples are the ones that the
 * lm-evaluation-harness draws: MT19937 (Matsumoto and Nishimura, 1998), seeded with init_by_array(), and the algorithms of
 * Lib/random.py (3.8 to 3.14). */
#ifndef SPKV_DATASETS_PYTHON_RANDOM_H
#define SPKV_DATASETS_PYTHON_RANDOM_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { MT_WORDS = 624 };

struct python_random {
    uint32_t state[MT_WORDS];
    size_t next; /* word that is given out next */
};

void python_random_seed(struct python_random *random, uint64_t seed);

/* k different numbers below n (k <= n, n < 2^31) into out, in the order of sample(). */
int python_random_sample(struct python_random *random, size_t n, size_t k, size_t *out, struct err *err);

#endif
