#!/usr/bin/env python3
"""Holds a run.h5 of an SP-KV checkpoint against the reference: scores, gates, kept pairs, visible pairs, losses.

    check_run.py MODEL run.h5 [--predictor DIR] [--policy spkv] [--window N] [--threshold X] [--sinks N] [--limit N]

The run needs `--record heads,positions,tokens,utility,open` and f32. Parameters default to the checkpoint's. What must
agree: scores within 1e-5 and open gates exactly, up to the first position of a sequence where the reference has
|u - threshold| <= 1e-4 (from there on a gate may fall either way and everything after it differs); counters, kept pairs
and the loss per token of a sequence (1e-5 nat) on sequences without such a gate. The largest difference of a single
token's loss is printed beside it. Exit status 1 when something differs.
"""

import argparse
import sys

import h5py
import numpy as np
import torch
from transformers import logging

from spkv_torch import Policy, SpkvModel

NEAR, SCORE_TOLERANCE, NLL_TOLERANCE = 1e-4, 1e-5, 1e-5
COUNTERS = ("n_scored", "n_open", "n_left_window", "n_kept", "visible_pairs")


class Worst:
    """Largest differences and the number of things that differ."""

    def __init__(self):
        self.score = self.nll = self.token_nll = 0.0
        self.flips = self.gates = self.near_sequences = self.free_flips = 0
        self.counters = {name: 0 for name in COUNTERS}


def first_near(result, threshold):
    """First position with a score close to the threshold, or T."""
    near = ((result.utility - threshold).abs() <= NEAR).flatten(1).any(1)
    return int(near.nonzero()[0]) if bool(near.any()) else len(near)


def check_sequence(worst, ref, threshold, row, utility, is_open, nll):
    """One sequence of the run (arrays of its tokens; None where not recorded) against the reference's Result."""
    n = first_near(ref, threshold)
    if utility is not None:
        a, b = utility[:n], ref.utility.numpy()[:n]
        if not np.array_equal(np.isnan(a), np.isnan(b)):
            raise SystemExit("scores are missing in other places than in the reference")
        worst.score = max(worst.score, float(np.nanmax(np.abs(a - b), initial=0.0)))
    if is_open is not None:
        # sliding layers hold the fill value in the run and NaN scores in the reference: no gate acts there
        scored = ~np.isnan(ref.utility.numpy())
        differ = (is_open != ref.open.numpy()) & scored
        worst.flips += int(differ[:n].sum())
        worst.free_flips += int(differ[n:].sum())
        worst.gates += int(scored.sum())
    if n < len(ref.nll):
        worst.near_sequences += 1
        return
    for name in COUNTERS:
        worst.counters[name] += int((row[name].astype(np.int64) != getattr(ref, name).numpy()).sum())
    if nll is not None:
        difference = nll.astype(np.float64)[1:] - ref.nll.double().numpy()[1:]
        worst.nll = max(worst.nll, float(abs(difference.mean())))
        worst.token_nll = max(worst.token_nll, float(np.abs(difference).max()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("run")
    parser.add_argument("--predictor")
    parser.add_argument("--policy", default="spkv", choices=("spkv", "full", "window", "random"))
    parser.add_argument("--window", type=int)
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--sinks", type=int, default=0)
    parser.add_argument("--density", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    model = SpkvModel.load(args.model, args.predictor)
    spkv = model.spkv
    policy = Policy(args.policy, window=args.window or (spkv.window if spkv else 128), sinks=args.sinks,
                    threshold=args.threshold if args.threshold is not None else spkv.threshold if spkv else 0.5,
                    comparison=spkv.comparison if spkv else ">=", density=args.density, seed=args.seed)
    threshold = 1 - args.density if args.policy == "random" else policy.threshold
    worst = Worst()
    with h5py.File(args.run, "r") as h:
        for name in ("tokens/id", "tokens/row_splits"):
            if name not in h:
                raise SystemExit(f"{args.run}: {name} is missing: record with --record heads,positions,tokens,utility,open")
        splits = h["tokens/row_splits"][:].astype(np.int64)
        count = min(len(splits) - 1, args.limit or len(splits) - 1)
        part = lambda name, a, b: h["tokens/" + name][a:b] if "tokens/" + name in h else None
        for i in range(count):
            a, b = int(splits[i]), int(splits[i + 1])
            ref = model.run(h["tokens/id"][a:b].tolist(), policy, int(h["sequence_index"][i]))
            row = {name: h[name][i] for name in COUNTERS}
            check_sequence(worst, ref, threshold, row, part("utility", a, b), part("open", a, b), part("nll", a, b))
    print(f"sequences {count}, of them {worst.near_sequences} with |u - threshold| <= {NEAR:g} somewhere")
    print(f"scores: largest difference {worst.score:.2e} (bar {SCORE_TOLERANCE:g})")
    print(f"gates: {worst.flips} flips before such a position (bar 0), {worst.free_flips} after, of {worst.gates}")
    print("counters that differ:", ", ".join(f"{k} {v}" for k, v in worst.counters.items()), "(bar 0)")
    print(f"nll per token of a sequence: largest difference {worst.nll:.2e} (bar {NLL_TOLERANCE:g}); "
          f"of one token {worst.token_nll:.2e}")
    bad = worst.score > SCORE_TOLERANCE or worst.flips or any(worst.counters.values()) or worst.nll > NLL_TOLERANCE
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
