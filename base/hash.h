/* hash.h - XXH3-128 as text: 32 digits of the canonical form, lower case. */
#ifndef SPKV_BASE_HASH_H
#define SPKV_BASE_HASH_H

#include <stdio.h>
#include <xxhash.h>

static inline void hash_hex(XXH128_hash_t hash, char hex[33]) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    for (size_t i = 0; i < sizeof canonical.digest; i++)
        snprintf(hex + 2 * i, 3, "%02x", canonical.digest[i]);
}

#endif
