/* rng.h - counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 * SC 2011). A draw is a pure function of its key and counter, so that it does not depend on order, threads or backend.
 * Plain arithmetic in a header: device code includes it too. */
#ifndef SPKV_BASE_RNG_H
#define SPKV_BASE_RNG_H

#include <stdint.h>

#ifdef __CUDACC__
#define RNG_INLINE static inline __host__ __device__
#else
#define RNG_INLINE static inline
#endif

struct rng_block {
    uint32_t v[4];
};

RNG_INLINE struct rng_block rng_philox(uint64_t key, struct rng_block counter) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * counter.v[0], p1 = (uint64_t)0xCD9E8D57u * counter.v[2];
        struct rng_block next = {{(uint32_t)(p1 >> 32) ^ counter.v[1] ^ k0, (uint32_t)p1,
                                  (uint32_t)(p0 >> 32) ^ counter.v[3] ^ k1, (uint32_t)p0}};
        counter = next;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return counter;
}

/* Uniform in [0, 1), a multiple of 2^-24, for (seed, sequence, layer, kv_head, position). */
RNG_INLINE float rng_uniform(uint64_t seed, uint64_t sequence, uint32_t layer, uint32_t kv_head, uint32_t position) {
    struct rng_block counter = {{(uint32_t)sequence, (uint32_t)(sequence >> 32), layer << 16 | kv_head, position}};
    return (float)(rng_philox(seed, counter).v[0] >> 8) * 0x1p-24f;
}

/* Where a random order of 0 .. n - 1 has its item i < n: a permutation of them, another for every key. A Feistel network of
 * six rounds over the next power of 4, walked until it falls below n (Black and Rogaway, CT-RSA 2002). */
RNG_INLINE uint64_t rng_permute(uint64_t key, uint64_t stream, uint64_t n, uint64_t i) {
    int half = 0;
    while (half < 31 && (uint64_t)1 << 2 * half < n)
        half++;
    uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        uint64_t left = i >> half, right = i & mask;
        for (uint32_t round = 0; round < 6; round++) {
            struct rng_block counter = {{(uint32_t)stream, (uint32_t)(stream >> 32), (uint32_t)right, round}};
            uint64_t mixed = (left ^ rng_philox(key, counter).v[0]) & mask;
            left = right;
            right = mixed;
        }
        i = left << half | right;
    } while (i >= n);
    return i;
}

#endif
