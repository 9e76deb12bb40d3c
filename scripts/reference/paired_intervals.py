"""Bootstrap intervals of ratios, the expected numbers of tests/test_paired.c: numpy alone, with draws of Philox4x32-10 written
out again. Prints value, low and high of each case."""

import numpy as np


def philox(key, counter):
    k, c, mask = [key & 0xFFFFFFFF, key >> 32], list(counter), 0xFFFFFFFF
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q & mask, (p >> 32) ^ c[3] ^ k[1], p & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c


def interval(part, whole, seed, resamples, level):
    n, values = len(part), []
    for number in range(resamples):
        draws = [x for i in range(0, n, 4) for x in philox(seed, (i, 0, number, 0))]
        chosen = [(x * n) >> 32 for x in draws[:n]]
        values.append(part[chosen].sum() / whole[chosen].sum())
    return part.sum() / whole.sum(), np.quantile(values, (1 - level) / 2), np.quantile(values, (1 + level) / 2)


part = np.array([(7 * i * i) % 23 - 5 for i in range(30)], float)
whole = np.array([40 + (11 * i) % 17 for i in range(30)], float)
for seed, resamples, level in [(3, 500, 0.95), (12345678901, 200, 0.9)]:
    print(*(f"{x:.17g}" for x in interval(part, whole, seed, resamples, level)))
