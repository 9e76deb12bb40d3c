#!/usr/bin/env python3
"""Table of the demo model beside its dense twin, from the run files of scripts/demo-recipe (h5py, numpy).

    scripts/reference/demo_table.py DIR >docs/results/demo.csv

DIR is the folder of the recipe. One line a run and text: loss over all predictions; its change against the twin under full
attention, with a 95 % interval of paired resamples of documents (books, or rows of a task); gap recovered between the twin's
window with 4 sinks and its full attention, over predictions at t >= 2 windows (method.md section 10; empty for tasks); share of
rows recalled: every remembered token is the most likely one (pairs and names: the first of the answer; series and copy: all
but the last, which is punctuation); long-range density; read fraction.
"""
import csv
import sys

import h5py
import numpy as np

TEXTS = ("novels", "pairs", "series", "names", "copy")
RUNS = ("full", "window", "random", "spkv", "spkv-full", "spkv-random")
WINDOW, RESAMPLES = 64, 2000
COLUMNS = ["text", "run", "n_documents", "n_predicted", "nat_per_token", "change", "change_low", "change_high", "gap_recovered",
           "recalled", "long_range_density", "read_fraction"]


class Run:
    def __init__(self, path, first_only):
        with h5py.File(path) as f:
            document = f["sequence_document"][:]
            splits, nll, best = f["tokens/row_splits"][:].astype(int), f["tokens/nll"][:], f["tokens/is_argmax"][:]
            self.density, self.read = long_range(f), read_fraction(f)
        position = np.arange(len(nll)) - np.repeat(splits[:-1], np.diff(splits))
        piece = np.repeat(np.arange(len(splits) - 1), np.diff(splits))
        scored = np.isfinite(nll)
        self.loss, self.n = sums(nll, scored, document[piece])
        self.far_loss, self.far_n = sums(nll, scored & (position >= 2 * WINDOW), document[piece])
        self.recalled = np.mean([recalled(best[a:b], scored[a:b], first_only) for a, b in zip(splits[:-1], splits[1:])])


def sums(nll, where, document):
    """Loss and number of predictions by document."""
    return np.bincount(document, np.where(where, nll, 0)), np.bincount(document, where)


def recalled(best, scored, first_only):
    answer = best[scored]
    return bool(np.all(answer[:1] == 1) if first_only else np.all(answer[:-1] == 1))


def long_range(f):
    left = f["n_left_window"][:].sum()
    return f["n_kept"][:].sum() / left if left else float("nan")


def read_fraction(f):
    lengths, heads = f["sequence_length"][:].astype(float), f["visible_pairs"].shape[1] * f["visible_pairs"].shape[2]
    return f["visible_pairs"][:].sum() / (heads * (lengths * (lengths + 1) / 2).sum())


def interval(run, base):
    """Relative change of the mean loss under resampled documents."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(run.n), size=(RESAMPLES, len(run.n)))
    change = (run.loss[drawn].sum(1) / run.n[drawn].sum(1)) / (base.loss[drawn].sum(1) / base.n[drawn].sum(1)) - 1
    return np.quantile(change, (0.025, 0.975))


def mean(loss, n):
    return loss.sum() / n.sum()


def main():
    folder = sys.argv[1]
    out = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    out.writeheader()
    for text in TEXTS:
        runs = {name: Run(f"{folder}/runs/{name}-{text}.h5", text in ("pairs", "names")) for name in RUNS}
        base, window = runs["full"], runs["window"]
        gap = mean(window.far_loss, window.far_n) - mean(base.far_loss, base.far_n) if text == "novels" else None
        for name, run in runs.items():
            low, high = interval(run, base)
            line = {"nat_per_token": mean(run.loss, run.n), "change": mean(run.loss, run.n) / mean(base.loss, base.n) - 1,
                    "change_low": low, "change_high": high, "long_range_density": run.density, "read_fraction": run.read}
            if gap is not None:
                line["gap_recovered"] = (mean(window.far_loss, window.far_n) - mean(run.far_loss, run.far_n)) / gap
            else:
                line["recalled"] = run.recalled
            out.writerow({"text": text, "run": name, "n_documents": len(run.n), "n_predicted": int(run.n.sum()),
                          **{k: f"{v:.5g}" for k, v in line.items()}})


if __name__ == "__main__":
    main()
