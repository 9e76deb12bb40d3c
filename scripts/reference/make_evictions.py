#!/usr/bin/env python3
"""What eviction policies keep: H2O, TOVA, SnapKV and Expected Attention as plain statements over T x T attention.

    make_evictions.py [--check]      writes tests/data/evictions.json

Whenever a multiple of `chunk` tokens has been fed, the pairs that have left the window compete, sinks apart, and all but
the best are gone for every later query. Here every such boundary runs the whole text so far once more under the mask that
the evictions before it left. A choice whose last winner and first loser lie within MARGIN of each other would depend on
rounding: such a case is refused.
"""

import argparse
import json
import math
import os
import sys

import torch
from transformers import AttentionInterface, AutoModelForCausalLM

from spkv_torch import sliding_windows

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "data")
MARGIN = 2e-5  # relative; f32 softmax weights are good to about 1e-6, expectations (logits of some tens) to 1e-5
MARGIN_EXPECTED = 1e-4
N_FUTURE, SKIP = 512, 4


def masked_attention(module, query, key, value, attention_mask, scaling=None, softcap=None, dropout=0.0, **_):
    """softmax over the keys that module.visible (n_kv_heads, T, T) shows; leaves weights, keys and values in the module."""
    group = query.shape[1] // key.shape[1]
    logits = torch.matmul(query, key.repeat_interleave(group, 1).transpose(2, 3)) * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits.masked_fill(~module.visible.repeat_interleave(group, 0)[None], float("-inf"))
    p = torch.softmax(logits, dim=-1)
    module.p, module.k, module.v, module.scale = p[0].double(), key[0].double(), value[0].double(), scaling
    return torch.matmul(p, value.repeat_interleave(group, 1)).transpose(1, 2).contiguous(), p


AttentionInterface.register("eviction_reference", masked_attention)


class Model:
    def __init__(self, path):
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
        self.model.set_attn_implementation("eviction_reference")
        self.config = self.model.config
        self.sliding = sliding_windows(self.config)
        self.attention = [layer.self_attn for layer in self.model.model.layers]
        self.n_kv = self.config.num_key_value_heads
        for a in self.attention:  # queries before their rotation: after their norm where there is one
            source = a.q_norm if hasattr(a, "q_norm") else a.q_proj
            source.register_forward_hook(lambda _, __, out, a=a: setattr(a, "q_raw", out[0].double()))

    def forward(self, ids, gone):
        """Queries t see the keys s <= t with t < gone[layer][head][s]; sliding layers their own window."""
        n = len(ids)
        t, s = torch.arange(n)[:, None], torch.arange(n)[None, :]
        for l, a in enumerate(self.attention):
            if self.sliding[l]:
                a.visible = ((s <= t) & (t - s < self.sliding[l])).expand(self.n_kv, n, n)
            else:
                a.visible = (s <= t) & (t < gone[l][:, None, :n])
        with torch.no_grad():
            self.model(torch.tensor([ids]))


def by_group(x, n_kv):
    """Mean over the query heads of each group; x (n_heads, ...)."""
    return x.view(n_kv, -1, *x.shape[1:]).mean(1)


# --- scores (n_kv_heads, T) of every key at a boundary; `rivals` (n_kv_heads, T) bool are the pairs that compete -----------

def h2o(m, a, layer, rivals, chunk, options):
    return by_group(a.p.sum(1), m.n_kv)


def tova(m, a, layer, rivals, chunk, options):
    last = a.p[:, -1]
    if options["allocation"] == "head":
        return last.mean(0).expand(m.n_kv, -1)
    return by_group(last, m.n_kv)


def snapkv(m, a, layer, rivals, chunk, options):
    observe = int(options.get("observe", min(32, chunk)))
    pool = int(options.get("pool", 5))
    seen = by_group(a.p[:, -observe:].sum(1), m.n_kv)
    out = torch.zeros_like(seen)
    for h in range(m.n_kv):
        neighbours = torch.nn.functional.avg_pool1d(seen[h][rivals[h]][None, None], pool, 1, pool // 2)
        out[h][rivals[h]] = neighbours[0, 0]
    return out


def expected_attention(m, a, layer, rivals, chunk, options):
    n_future, skip = int(options.get("future", N_FUTURE)), int(options.get("skip", SKIP))
    n, dim = a.k.shape[1], a.k.shape[2]
    q = a.q_raw.reshape(n, -1, dim)[skip:].transpose(0, 1)                       # (n_heads, n - skip, dim)
    mean = q.mean(1)
    centred = q - mean[:, None]
    covariance = centred.transpose(1, 2) @ centred / q.shape[1]
    rotation = torch.eye(dim).double()
    if not hasattr(m.config, "no_rope_layers") or m.config.no_rope_layers[layer]:
        rotary = m.model.model.rotary_emb
        types = {"layer_type": "full_attention"} if m.config.model_type.startswith("gemma3") else {}
        cos, sin = (x[0].double() for x in rotary(torch.zeros(1), torch.arange(n, n + n_future)[None], **types))
        half = torch.zeros(dim, dim).double()
        half[dim // 2:, :dim // 2], half[:dim // 2, dim // 2:] = torch.eye(dim // 2), -torch.eye(dim // 2)
        rotation = (cos[:, :, None] * torch.eye(dim) + sin[:, :, None] * half).mean(0)
    mean, covariance = mean @ rotation.T, rotation @ covariance @ rotation.T
    group = q.shape[0] // m.n_kv
    k = a.k.repeat_interleave(group, 0)
    logits = a.scale * torch.einsum("hi,hsi->hs", mean, k)
    logits = logits + a.scale**2 / 2 * torch.einsum("hsi,hij,hsj->hs", k, covariance, k)
    logits = logits.masked_fill(~rivals.repeat_interleave(group, 0), float("-inf"))
    return by_group(torch.softmax(logits, -1), m.n_kv) * a.v.norm(dim=-1)


METHODS = {"h2o": h2o, "tova": tova, "snapkv": snapkv, "expected-attention": expected_attention}


# --- eviction -----------------------------------------------------------------------------------------------------------

def budget_of(options, window, sinks, n):
    left = max(0, n - window - sinks)
    if "constant" in options:
        return min(left, int(options["constant"]) - window - sinks)
    return math.floor(float(options.get("budget", 0.25)) * left + 1e-9)


def best(scores, k, margin):
    """Indices of the k best of a list, ties to the lower index; refuses a close decision."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    if 0 < k < len(order):
        a, b = scores[order[k - 1]], scores[order[k]]
        if a - b <= margin * abs(a):
            raise ValueError(f"the choice between {a} and {b} is too close")
    return set(order[:k])


def evict(m, name, options, window, sinks, ids, chunk):
    """gone[layer] (n_kv_heads, T): the first query that does not find the pair any more."""
    gone = [torch.full((m.n_kv, len(ids)), 1 << 30) for _ in m.attention]
    full = [l for l in range(len(m.attention)) if not m.sliding[l]]
    for b in range(chunk, len(ids) + 1, chunk):
        k = budget_of(options, window, sinks, b)
        if b <= window + sinks or k >= b - window - sinks:
            continue
        m.forward(ids[:b], gone)
        rivals, scores = {}, {}
        for l in full:
            position = torch.arange(b)
            rivals[l] = (gone[l][:, :b] > b) & (position >= sinks) & (position < b - window)
            scores[l] = METHODS[name](m, m.attention[l], l, rivals[l], chunk, options)
        lanes = [(l, h) for l in full for h in range(m.n_kv)]
        sets = {"head": [[lane] for lane in lanes], "layer": [[(l, h) for h in range(m.n_kv)] for l in full],
                "model": [lanes]}[options["allocation"]]
        for members in sets:
            pairs = [(l, h, int(s)) for l, h in members for s in torch.nonzero(rivals[l][h])[:, 0]]
            keep = best([float(scores[l][h][s]) for l, h, s in pairs], k * len(members),
                        MARGIN_EXPECTED if name == "expected-attention" else MARGIN)
            for i, (l, h, s) in enumerate(pairs):
                if i not in keep:
                    gone[l][h, s] = b
    return gone


def stored(m, gone, window, n):
    """Positions in the long-term store of every head after n tokens, sinks included."""
    return [[[s for s in range(n - window) if not m.sliding[l] and int(gone[l][h, s]) > n] for h in range(m.n_kv)]
            for l in range(len(gone))]


CASES = [
    ("llama-gqa", 10, 2, ["h2o:budget=0.3", "h2o:budget=0.25,chunk=7,allocation=layer", "h2o:constant=24,allocation=model",
                          "tova:budget=0.3", "tova:constant=20,chunk=1", "tova:budget=0.5,chunk=13,allocation=model",
                          "snapkv:budget=0.3", "snapkv:budget=0.2,chunk=16,observe=5,pool=3,allocation=layer",
                          "expected-attention:budget=0.3", "expected-attention:constant=30,chunk=17,allocation=model"]),
    ("qwen3", 12, 0, ["h2o:budget=0.4,allocation=layer", "tova:budget=0.25,chunk=9", "snapkv:budget=0.4,allocation=model",
                      "expected-attention:budget=0.4,chunk=10,allocation=layer"]),
    ("smollm3", 9, 3, ["h2o:budget=0.3,chunk=1", "tova:budget=0.3,allocation=layer", "snapkv:constant=22,pool=7",
                       "expected-attention:budget=0.3,future=40,skip=2"]),
    ("qwen2-sliding", 11, 1, ["h2o:budget=0.3,allocation=model", "tova:budget=0.4", "snapkv:budget=0.3",
                              "expected-attention:budget=0.3,chunk=20,allocation=model"]),
    ("gemma2", 8, 0, ["h2o:budget=0.35", "tova:budget=0.35,allocation=model", "snapkv:budget=0.35,observe=2"]),
]


def case_of(m, ids, window, sinks, spec):
    name, _, rest = spec.partition(":")
    options = {"allocation": "head", **dict(item.split("=") for item in rest.split(",") if item)}
    gone = evict(m, name, options, window, sinks, ids, int(options.get("chunk", window)))
    return {"policy": spec, "stores": [{"n_tok": n, "positions": stored(m, gone, window, n)}
                                       for n in (len(ids) * 5 // 9, len(ids))]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the stored file instead of writing it")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    out, refused = [], 0
    for name, window, sinks, specs in CASES:
        path = os.path.join(ROOT, "models", name)
        m = Model(path)
        with open(os.path.join(path, "case.json"), encoding="utf-8") as f:
            sequences = [s["tokens"] for s in json.load(f)["sequences"]]
        sequence = max(range(len(sequences)), key=lambda i: len(sequences[i]))
        cases = []
        for spec in specs:
            try:
                cases.append(case_of(m, sequences[sequence], window, sinks, spec))
            except ValueError as problem:
                print(f"{name} {spec}: {problem}", file=sys.stderr)
                refused += 1
        out.append({"model": name, "sequence": sequence, "window": window, "sinks": sinks, "cases": cases})
    if refused:
        sys.exit(f"{refused} cases refused: choose other parameters")
    text = "{\"models\":[\n" + ",\n".join(json.dumps(item, separators=(",", ":")) for item in out) + "\n]}\n"
    path = os.path.join(ROOT, "evictions.json")
    if check:
        with open(path, encoding="utf-8") as f:
            sys.exit(0 if f.read() == text else f"{path}: differs")
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


if __name__ == "__main__":
    main()
