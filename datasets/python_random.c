#include "datasets/python_random.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/mem.h"

static void init(struct python_random *r, uint32_t seed) {
    r->state[0] = seed;
    for (uint32_t i = 1; i < MT_WORDS; i++)
        r->state[i] = 1812433253u * (r->state[i - 1] ^ r->state[i - 1] >> 30) + i;
    r->next = MT_WORDS;
}

/* init_by_array() with the 32-bit digits of the seed, the lowest first. */
void python_random_seed(struct python_random *r, uint64_t seed) {
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, *s = r->state, i = 1;
    uint32_t n_key = key[1] ? 2 : 1;
    init(r, 19650218u);
    for (uint32_t k = 0, j = 0; k < MT_WORDS; k++, j = (j + 1) % n_key) {
        s[i] = (s[i] ^ (s[i - 1] ^ s[i - 1] >> 30) * 1664525u) + key[j] + j;
        if (++i == MT_WORDS) {
            s[0] = s[MT_WORDS - 1];
            i = 1;
        }
    }
    for (uint32_t k = 1; k < MT_WORDS; k++) {
        s[i] = (s[i] ^ (s[i - 1] ^ s[i - 1] >> 30) * 1566083941u) - i;
        if (++i == MT_WORDS) {
            s[0] = s[MT_WORDS - 1];
            i = 1;
        }
    }
    s[0] = 0x80000000u;
}

static void twist(struct python_random *r) {
    for (size_t i = 0; i < MT_WORDS; i++) {
        uint32_t y = (r->state[i] & 0x80000000u) | (r->state[(i + 1) % MT_WORDS] & 0x7FFFFFFFu);
        r->state[i] = r->state[(i + 397) % MT_WORDS] ^ y >> 1 ^ (y & 1 ? 0x9908B0DFu : 0);
    }
    r->next = 0;
}

static uint32_t next_word(struct python_random *r) {
    if (r->next == MT_WORDS)
        twist(r);
    uint32_t y = r->state[r->next++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9D2C5680u;
    y ^= y << 15 & 0xEFC60000u;
    return y ^ y >> 18;
}

/* Uniform below n: random bits, drawn again while they are too many. */
static size_t below(struct python_random *r, size_t n) {
    int bits = 0;
    while (n >> bits)
        bits++;
    uint32_t x;
    do
        x = next_word(r) >> (32 - bits);
    while (x >= n);
    return x;
}

/* Few of many: draw until it is a new one. */
static void sample_set(struct python_random *r, size_t n, size_t k, size_t *out) {
    for (size_t i = 0; i < k; i++) {
        bool taken = true;
        while (taken) {
            out[i] = below(r, n);
            taken = false;
            for (size_t j = 0; j < i; j++)
                taken |= out[j] == out[i];
        }
    }
}

int python_random_sample(struct python_random *r, size_t n, size_t k, size_t *out, struct err *err) {
    ASSERT(k <= n && n < (size_t)1 << 31);
    double set_size = 21; /* of a small set minus that of an empty list, where sample() changes its way */
    if (k > 5)
        set_size += pow(4, ceil(log((double)k * 3) / log(4)));
    if ((double)n > set_size) {
        sample_set(r, n, k, out);
        return OK;
    }
    size_t *pool = mem_alloc(n, sizeof *pool, "a sample", err);
    if (!pool)
        return ERR_MEMORY;
    for (size_t i = 0; i < n; i++)
        pool[i] = i;
    for (size_t i = 0; i < k; i++) {
        size_t j = below(r, n - i);
        out[i] = pool[j];
        pool[j] = pool[n - i - 1];
    }
    free(pool);
    return OK;
}
