#!/usr/bin/env python3
"""Reads a run file with h5py, xarray (two engines) and numpy, and recomputes what its counters claim.

    check_profile.py RUN.h5 [--spkv PROGRAM]

Checked: every warning of the readers is an error; names of dimensions; units, long_name and _FillValue on every dataset;
only shuffle, deflate and fletcher32; counters against the token-level values where those were recorded; bins against the
edges in the file; sums over groups. With --spkv the layouts that `spkv recommend` writes are compared with numpy's ranking.
Exit status 1 when anything is wrong. Needs numpy, h5py, xarray, h5netcdf and netCDF4.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import h5py
import numpy as np
import xarray as xr

problems = []


def expect(condition, what):
    if not condition:
        problems.append(what)
        print("PROBLEM:", what)


def check_form(path):
    dims = {
        "n_kept": ("sequence", "layer", "kv_head"),
        "visible_pairs": ("sequence", "layer", "kv_head"),
        "nll_sum": ("sequence",),
        "n_argmax": ("sequence",),
        "position_open": ("corpus", "group", "layer", "kv_head", "position_bin"),
        "utility_histogram": ("corpus", "group", "layer", "kv_head", "utility_bin"),
        "class_open": ("corpus", "group", "layer", "kv_head", "token_class"),
        "attention_distance": ("corpus", "group", "layer", "kv_head", "distance_bin"),
        "source_name": ("source",),
    }
    for engine in ("h5netcdf", "netcdf4"):
        with xr.open_dataset(path, engine=engine) as data:
            data.load()
            for name, axes in dims.items():
                if name in data:
                    expect(data[name].dims == axes, f"{engine}: {name} has dimensions {data[name].dims}")
            expect(not [d for d in data.dims if "phony" in str(d)], f"{engine}: unnamed dimensions")
            expect(data.attrs["Conventions"] == "CF-1.10", "Conventions")
    with h5py.File(path) as f:
        if "tokens" in f:
            for engine in ("h5netcdf", "netcdf4"):
                with xr.open_dataset(path, engine=engine, group="tokens") as tokens:
                    tokens.load()
                    expect(tokens["id"].dims == ("token",), f"{engine}: tokens/id has {tokens['id'].dims}")
                    if "utility" in tokens:
                        expect(tokens["utility"].dims == ("token", "layer", "kv_head"), "dimensions of tokens/utility")
        for attribute, value in list(f.attrs.items()) + list(f["provenance"].attrs.items()):
            expect(not isinstance(value, bytes), f"attribute {attribute} is bytes")

        def visit(name, item):
            if not isinstance(item, h5py.Dataset):
                return
            for attribute in ("units", "long_name", "_FillValue"):
                expect(attribute in item.attrs, f"{name} has no {attribute}")
            filters = item.compression
            expect(filters in (None, "gzip"), f"{name} uses the filter {filters}")
            if item.chunks:
                expect(item.shuffle and item.fletcher32, f"{name} lacks shuffle or fletcher32")
            if item.attrs.get("CLASS") != b"DIMENSION_SCALE":
                for i, axis in enumerate(item.dims):
                    expect(len(axis) == 1, f"{name}: axis {i} has {len(axis)} scales")

        f.visititems(visit)


def bins_of(values, edges):
    """Bin i is [edge[i], edge[i + 1]), the last one closed."""
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)


def check_tokens(f):
    tokens, splits = f["tokens"], f["tokens/row_splits"][:]
    length, n_predicted, nll_sum = f["sequence_length"][:], f["n_predicted"][:], f["nll_sum"][:]
    sliding = f["layer_sliding_window"][:] > 0
    expect(np.array_equal(np.diff(splits.astype(np.int64)), length), "row_splits against sequence_length")
    nll = tokens["nll"][:].astype(np.float64)
    is_argmax, n_argmax = tokens["is_argmax"][:], f["n_argmax"][:]
    expect(np.array_equal(is_argmax == 255, np.isnan(nll)), "where tokens/is_argmax is missing")
    for i in range(len(length)):
        own = nll[splits[i]:splits[i + 1]]
        expect(np.isnan(own[0]), f"sequence {i}: the first token has a loss")
        expect(np.sum(~np.isnan(own)) == n_predicted[i], f"sequence {i}: number of losses")
        expect(abs(np.nansum(own) - nll_sum[i]) <= 1e-5 * (1 + nll_sum[i]), f"sequence {i}: sum of losses")
        expect(np.sum(is_argmax[splits[i]:splits[i + 1]] == 1) == n_argmax[i], f"sequence {i}: n_argmax")
    source_corpus = f["source_corpus"][:]
    corpus = source_corpus[f["sequence_source"][:]]
    group = f["sequence_document"][:] % 16
    slices = [np.flatnonzero((corpus == c) & (group == g)) for c in range(len(f["corpus_name"])) for g in range(16)]
    opened = tokens["open"][:] if "open" in tokens else None
    utility = tokens["utility"][:] if "utility" in tokens and tokens["utility"].dtype == np.float32 else None
    starts = splits[:-1].astype(np.int64)
    if opened is not None:
        expect(np.all(opened[:, sliding] == 255) and np.all(opened[:, ~sliding] <= 1), "values of tokens/open")
        counts = np.add.reduceat((opened == 1).astype(np.int64), starts, axis=0)
        expect(np.array_equal(counts, f["n_open"][:]), "n_open against tokens/open")
    if utility is not None:
        sums = np.add.reduceat(np.nan_to_num(utility.astype(np.float64)), starts, axis=0)
        expect(np.allclose(sums, f["utility_sum"][:], rtol=1e-12), "utility_sum against tokens/utility")
        if opened is not None:
            above = utility >= np.float32(f.attrs["threshold"])
            expect(np.array_equal(above[:, ~sliding], opened[:, ~sliding] == 1), "open is utility >= threshold")
    if "attention_future_max" in tokens:
        check_future(f, sliding)
    for s, rows in enumerate(slices):
        where = np.concatenate([np.arange(splits[i], splits[i + 1]) for i in rows] or [[]]).astype(np.int64)
        position = np.concatenate([np.arange(length[i]) for i in rows] or [[]]).astype(np.int64)
        if opened is not None:
            check_slice(f, "position_open", "position_edge", s, position, opened[where] == 1, ~sliding)
        if utility is not None:
            check_slice(f, "utility_histogram", "utility_edge", s, utility[where], None, ~sliding)


def check_future(f, sliding):
    """Missing where no query is outside the window; means add up to the far mass where there are no sinks."""
    tokens, splits, window = f["tokens"], f["tokens/row_splits"][:].astype(np.int64), int(f.attrs["window"])
    largest, mean = tokens["attention_future_max"][:], tokens["attention_future_mean"][:].astype(np.float64)
    position = np.arange(splits[-1]) - np.repeat(splits[:-1], np.diff(splits))
    queries = np.maximum(0, np.repeat(np.diff(splits), np.diff(splits)) - position - window)
    missing = (queries == 0)[:, None] | sliding[None, :]
    for name, values in (("max", largest), ("mean", mean)):
        expect(np.array_equal(np.isnan(values).all(-1), missing), f"attention_future_{name}: where it is missing")
        expect(np.array_equal(np.isnan(values).any(-1), missing), f"attention_future_{name}: where it is missing")
    held = ~missing
    expect(np.all(largest[held] <= 1 + 1e-5) and np.all(mean[held] <= largest[held] * (1 + 1e-4)), "0 <= mean <= max <= 1")
    expect(np.all(mean[held] >= 0), "0 <= mean <= max <= 1")
    if "far_attention_sum" in f and int(f.attrs["sinks"]) == 0:
        mass = np.add.reduceat(np.nan_to_num(mean) * queries[:, None, None], splits[:-1], axis=0)
        far = f["far_attention_sum"][:]
        expect(np.allclose(mass, far, rtol=1e-4, atol=1e-4), "far_attention_sum against attention_future_mean")


def check_slice(f, name, edge_name, s, values, weights, full):
    """One (corpus, group) of a summed dataset, counted again. values: (token) or (token, layer, kv_head)."""
    edges = f[edge_name][:]
    stored = f[name][s // 16, s % 16]
    for layer in np.flatnonzero(full):
        for head in range(stored.shape[1]):
            own = values if values.ndim == 1 else values[:, layer, head]
            weight = None if weights is None else weights[:, layer, head]
            found = np.bincount(bins_of(own, edges), weights=weight, minlength=len(edges) - 1)
            expect(np.array_equal(found, stored[layer, head]), f"{name}: slice {s}, layer {layer}, head {head}")


def check_counters(f):
    length = f["sequence_length"][:].astype(np.int64)
    n_scored, n_open = f["n_scored"][:].astype(np.int64), f["n_open"][:].astype(np.int64)
    left, kept = f["n_left_window"][:].astype(np.int64), f["n_kept"][:].astype(np.int64)
    sliding = f["layer_sliding_window"][:] > 0
    expect(np.all(n_open <= n_scored) and np.all(kept <= left), "n_open <= n_scored, n_kept <= n_left_window")
    window = f["head_window"][:].astype(np.int64) + int(f.attrs["sinks"])
    expected = np.maximum(0, length[:, None, None] - window[None])
    same = np.array_equal(left[:, ~sliding], expected[:, ~sliding])
    expect(same or not np.any(left), "n_left_window = max(0, T - w - sinks)")
    causal = length * (length + 1) // 2
    expect(np.all(f["visible_pairs"][:] <= causal[:, None, None]), "visible_pairs <= causal pairs")
    expect(np.array_equal(f["position_scored"][:].sum((0, 1, 4)), n_scored.sum(0)), "position_scored against n_scored")
    expect(np.array_equal(f["position_open"][:].sum((0, 1, 4)), n_open.sum(0)), "position_open against n_open")
    if "class_open" in f:
        expect(np.array_equal(f["class_open"][:].sum((0, 1, 4)), n_open.sum(0)), "class_open against n_open")
    if "utility_histogram" in f:
        binned = f["utility_histogram"][:].sum((0, 1, 4))
        expect(np.array_equal(binned, n_scored.sum(0)), "utility_histogram against n_scored")
    if "attention_queries" in f:
        queries = f["attention_queries"][:].sum(0).astype(float)
        mass = f["attention_distance"][:].sum((0, 1))
        expect(np.allclose(mass.sum(-1), queries, rtol=1e-4), "attention_distance adds up to the queries")
        edges = f["distance_edge"][:].astype(np.int64)
        if int(f.attrs["window"]) in edges:  # with sinks 0, mass beyond the window is the far mass
            beyond = mass[..., edges[:-1] >= int(f.attrs["window"])].sum(-1)
            far = f["far_attention_sum"][:].sum(0)
            if int(f.attrs["sinks"]) == 0:
                expect(np.allclose(beyond, far, rtol=1e-4, atol=1e-3), "far_attention_sum against attention_distance")
    with np.errstate(invalid="ignore"):
        density = kept.sum(0) / left.sum(0)
        print("long-range density:", kept.sum() / max(left.sum(), 1), end=" ")
        print(" gate density:", n_open.sum() / max(n_scored.sum(), 1))
        tokens = length.sum() * np.sum(~sliding) * kept.shape[2]
        near = np.minimum(length[:, None, None], window[None])[:, ~sliding].sum()
        print("KV fraction:", (near + kept[:, ~sliding].sum()) / tokens,
              " read fraction:", f["visible_pairs"][:].sum() / (causal.sum() * np.sum(~sliding) * kept.shape[2]),
              " loss:", f["nll_sum"][:].sum() / max(f["n_predicted"][:].sum(), 1))
    return density


def check_layouts(path, program, measure, sliding):
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run([program, "recommend", str(path), "-o", folder, "--share", "0.3", "--json"], check=True,
                             capture_output=True, text=True)
        said = json.loads(run.stdout)
        for layout in pathlib.Path(folder).glob("*.json"):
            content = json.loads(layout.read_text())
            chosen = np.array([[h == "global" for h in row] for row in content["heads"]])
            expect(chosen.sum() == said["global_heads"], f"{layout.name}: number of global heads")
            coverage = np.nansum(measure[chosen]) / np.nansum(measure[~sliding])
            expect(abs(coverage - content["predicted"]["coverage"]) < 1e-9, f"{layout.name}: coverage {coverage}")
            for context, fraction in content["predicted"]["kv_fraction"].items():
                local = min(int(context), content["window"] + content["sinks"])
                eligible = chosen[~sliding]
                own = np.where(eligible, int(context), local).sum() / (int(context) * eligible.size)
                expect(abs(own - fraction) < 1e-12, f"{layout.name}: KV fraction at {context}")
            if layout.stem == "densest-heads":
                best = np.sort(np.nan_to_num(measure[~sliding]).ravel())[::-1][:said["global_heads"]].sum()
                expect(abs(best / np.nansum(measure[~sliding]) - coverage) < 1e-9, "densest-heads is not the densest")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--spkv")
    options = parser.parse_args()
    warnings.simplefilter("error")
    check_form(options.run)
    with h5py.File(options.run) as f:
        measure = check_counters(f)
        if "tokens" in f:
            check_tokens(f)
        sliding = f["layer_sliding_window"][:] > 0
        if not f.attrs["has_gates"] and "attention_queries" in f:
            with np.errstate(invalid="ignore"):
                measure = f["far_attention_sum"][:].sum(0) / f["attention_queries"][:].sum(0)
    if options.spkv:
        check_layouts(options.run, options.spkv, measure, sliding)
    print(f"{options.run}: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
