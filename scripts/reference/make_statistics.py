#!/usr/bin/env python3
"""Writes tests/data/statistics/expected.json: what analyze/ must find in the invented run of tests/fake_run.c.

The run (its lengths, documents, gates and attention) and the random numbers (Philox4x32-10, base/rng.h) are stated a second
time here, in numpy; then densities, bootstrap intervals, variances, correlations and comparisons are computed plainly.

    make_statistics.py [--check]      --check: compare with the stored file instead of writing it
"""
import json
import pathlib
import sys

import numpy as np

OUT = pathlib.Path(__file__).parents[2] / "tests/data/statistics/expected.json"
LAYERS, HEADS, SLIDING, WINDOW, SINKS, MAX_LENGTH = 3, 2, 1, 8, 2, 70
MAX_CELLS, RESAMPLES, SEED, LEVEL, TOP = 256, 300, 11, 0.9, 2


def philox(key, counter):
    """One block for every column of counter (4, n) of uint32, key a 64-bit integer: (4, n)."""
    low = np.uint64(0xFFFFFFFF)
    c = [x.astype(np.uint64) for x in counter]
    k0, k1 = np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ k0, p1 & low, (p0 >> np.uint64(32)) ^ c[3] ^ k1, p0 & low]
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return np.stack(c)


def uniform(seed, sequence, layer, head, position):
    sequence, layer, head, position = np.broadcast_arrays(*(np.asarray(x, np.uint64) for x in
                                                            (sequence, layer, head, position)))
    counter = np.stack([sequence & np.uint64(0xFFFFFFFF), sequence >> np.uint64(32), layer << np.uint64(16) | head, position])
    return (philox(seed, counter)[0] >> np.uint64(8)).astype(np.float64) * 2.0 ** -24


def invent(n):
    """Counters (n, LAYERS, HEADS) of the run with n sequences, by name, and (document, corpus) of every sequence."""
    shape = (n, LAYERS, HEADS)
    run = {name: np.zeros(shape) for name in ("open", "scored", "kept", "left", "resident", "tok", "visible", "causal",
                                              "far", "queries")}
    i = np.arange(n)
    length = 2 + (i * 37 + 11) % (MAX_LENGTH - 1)
    for layer in range(LAYERS):
        for head in range(HEADS):
            if layer == SLIDING:
                continue
            for s in range(n):
                t = int(length[s])
                is_open = uniform(1, s, layer, head, np.arange(t)) >= 0.5
                kept, near = is_open[SINKS:max(t - WINDOW, SINKS)].sum(), WINDOW + SINKS
                values = dict(open=is_open.sum(), scored=t, kept=kept, left=max(0, t - near), resident=min(t, near) + kept,
                              tok=t, visible=t + s % 3, causal=t * (t + 1) // 2,
                              far=uniform(4, s, layer, head, 0) * 0.5 * t, queries=t)
                for name, value in values.items():
                    run[name][s, layer, head] = value
    return run, i // 2 * 5, np.where(i % 7 == 6, 1, 0)


RATIOS = {"gate_density": ("open", "scored"), "long_density": ("kept", "left"), "kv_fraction": ("resident", "tok"),
          "read_fraction": ("visible", "causal"), "far_attention": ("far", "queries")}


def divide(part, whole):
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def by_document(values, document, cells):
    """Sums over documents, or over cells of them: document number i goes to cell i mod cells."""
    number = np.unique(document, return_inverse=True)[1] % cells
    out = np.zeros((number.max() + 1,) + values.shape[1:])
    np.add.at(out, number, values)
    return out


def intervals(part, whole):
    """Percentile intervals over cells (first axis) of the ratio for heads, layers, everything."""
    n = len(part)
    draw = np.floor(uniform(SEED, np.arange(RESAMPLES)[:, None], 0, 0, np.arange(n)) * n).astype(int)
    count = np.stack([np.bincount(d, minlength=n) for d in draw]).astype(float)
    out = {}
    for name, axes in {"heads": (), "layers": (2,), "total": (1, 2)}.items():
        p, w = part.sum(axis=axes), whole.sum(axis=axes)
        ratio = divide(np.tensordot(count, p, 1), np.tensordot(count, w, 1)).reshape(RESAMPLES, -1)
        bounds = [np.quantile(x[~np.isnan(x)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if not np.isnan(x).all()
                  else [np.nan, np.nan] for x in ratio.T]
        out[name] = np.array(bounds)
    return out


def variation(part, whole, document, corpus):
    within, between = np.zeros(part.shape[1:]), np.zeros(part.shape[1:])
    mean = divide(part.sum(0), whole.sum(0))
    for c in np.unique(corpus):
        p, w = (by_document(x[corpus == c], document[corpus == c], len(document)) for x in (part, whole))
        own = divide(p.sum(0), w.sum(0))
        within += np.nansum(w * (divide(p, w) - own) ** 2, axis=0)
        between += w.sum(0) * np.nan_to_num(own - mean) ** 2
    within, between = divide(within, whole.sum(0)), divide(between, whole.sum(0))
    return np.stack([within, between, (within + between) / (mean * (1 - mean))])


def ranks(x):
    """Descending from 0, equal values share their mean rank."""
    return np.array([(x > v).sum() + ((x == v).sum() - 1) / 2 for v in x])


def compare(a, b):
    known = ~np.isnan(a) & ~np.isnan(b)
    x, y = a[known], b[known]
    top = [set(np.argsort(-v, kind="stable")[:TOP]) for v in (x, y)]
    return {"spearman": np.corrcoef(ranks(x), ranks(y))[0, 1], "top_overlap": len(top[0] & top[1]) / TOP,
            "mean_absolute_difference": np.abs(x - y).mean()}


def correlations(part, whole):
    ratio = divide(part, whole).reshape(len(part), -1)
    n = ratio.shape[1]
    out = np.full((n, n), np.nan)
    for a in range(n):
        for b in range(n):
            known = ~np.isnan(ratio[:, a]) & ~np.isnan(ratio[:, b])
            if known.sum() >= 3:
                out[a, b] = np.corrcoef(ratio[known, a], ratio[known, b])[0, 1]
    return out


def case(n):
    run, document, corpus = invent(n)
    documents = len(np.unique(document))
    cells = min(MAX_CELLS, n)
    out = {"n_sequences": n, "n_documents": documents}
    for name, (part, whole) in RATIOS.items():
        p, w = (by_document(run[x], document, cells) for x in (part, whole))
        out[name] = {"heads": divide(p.sum(0), w.sum(0)), "layers": divide(p.sum((0, 2)), w.sum((0, 2))),
                     "total": divide(p.sum(), w.sum()), "intervals": intervals(p, w)}
        if name in ("long_density", "far_attention"):
            out[name]["variation"] = variation(run[part], run[whole], document, corpus)
            out[name]["correlation"] = correlations(p, w)
    out["comparison"] = compare(out["long_density"]["heads"].ravel(), out["far_attention"]["heads"].ravel())
    return out


def plain(x):
    """JSON without NaN: null is missing. Arrays become flat lists."""
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, np.ndarray) and x.ndim:
        return [plain(v) for v in x.ravel()]
    x = x if isinstance(x, int) else float(x)
    return None if x != x else x


def main():
    settings = {"resamples": RESAMPLES, "seed": SEED, "level": LEVEL, "top": TOP}
    made = plain(settings | {"few": case(44), "many": case(600)})
    if sys.argv[1:] == ["--check"]:
        sys.exit(json.loads(OUT.read_text()) != made and "expected.json differs")
    OUT.write_text(json.dumps(made, indent=0) + "\n")


if __name__ == "__main__":
    main()
