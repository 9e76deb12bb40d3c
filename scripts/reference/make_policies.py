#!/usr/bin/env python3
"""Makes tests/data/policies: what the write-time policies and the oracle must keep on small models of tests/data/models.

    make_policies.py [--out DIR]
    make_policies.py --check [DIR]      make them again elsewhere and compare byte for byte

Each policy is one plain statement over full T x T attention: `score` gives every pair a number when it is produced, a pair
outside the window is seen where the number reaches the threshold. README.md in that folder says what is stored.
"""

import argparse
import json
import os
import sys

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AttentionInterface, AutoModelForCausalLM

from make_fixtures import ROOT, check, set_up, write_text
from spkv_torch import sliding_windows

FOLDER = os.path.join("tests", "data", "policies")
MARGIN = 2e-5  # no score may come closer to the threshold, as a share of the largest


class Pruned:
    """A transformers model under `score(layer, h, key, value) -> (T, K)` and a threshold, or under given open heads."""

    def __init__(self, name):
        path = os.path.join(ROOT, "tests", "data", "models", name)
        self.name = name
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.sliding = sliding_windows(self.model.config)
        config = self.model.config
        self.n_layers, self.n_heads, self.n_kv = (config.num_hidden_layers, config.num_attention_heads,
                                                  config.num_key_value_heads)
        with open(os.path.join(path, "case.json"), encoding="utf-8") as f:
            self.sequences = [s["tokens"] for s in json.load(f)["sequences"]]
        self.model.set_attn_implementation("policy_reference")
        for i, layer in enumerate(self.model.model.layers):
            layer.self_attn.reference = (self, i)
            layer.self_attn.register_forward_pre_hook(self._keep_input, with_kwargs=True)

    def _keep_input(self, module, args, kwargs):
        self.h = (args[0] if args else kwargs["hidden_states"])[0]

    def run(self, tokens, window, sinks, score, threshold):
        """nll (T), utility (T, L, K), open and kept (T, L, K) bool, attention (L, H, T, T), value (L, K, T, D)."""
        self.window, self.sinks, self.score, self.threshold = window, sinks, score, np.float32(threshold)
        shape = (len(tokens), self.n_layers, self.n_kv)
        self.utility, self.open = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
        self.attention, self.value = [None] * self.n_layers, [None] * self.n_layers
        with torch.no_grad():
            logits = self.model(torch.tensor([tokens]), use_cache=False).logits[0]
        nll = torch.full((len(tokens),), float("nan"))
        nll[1:] = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(tokens[1:]), reduction="none")
        position = torch.arange(len(tokens))
        left = (position >= sinks) & (position < len(tokens) - window)
        return dict(nll=nll, utility=self.utility, open=self.open, kept=self.open & left[:, None, None])

    def attend(self, layer, query, key, value, scaling, softcap):
        n, group = key.shape[2], self.n_heads // self.n_kv
        t, s = torch.arange(n)[:, None], torch.arange(n)[None, :]
        visible = torch.zeros(self.n_kv, n, n, dtype=torch.bool)
        if self.sliding[layer]:
            visible[:] = t - s < self.sliding[layer]
        else:
            u = self.score(layer, self.h, key[0], value[0])
            self.utility[:, layer] = u
            self.open[:, layer] = u >= float(self.threshold)
            visible |= (t - s < self.window) | (s < self.sinks) | self.open[:, layer].T[:, None, :]
        logits = query[0] @ key[0].repeat_interleave(group, 0).transpose(1, 2) * scaling
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        seen = (visible & (s <= t)).repeat_interleave(group, 0)
        p = torch.softmax(logits.masked_fill(~seen, float("-inf")), -1)
        self.attention[layer], self.value[layer] = p, value[0]
        return (p @ value[0].repeat_interleave(group, 0)).transpose(0, 1)[None]


def policy_attention(module, query, key, value, attention_mask, scaling=None, softcap=None, **_):
    model, layer = module.reference
    del attention_mask
    return model.attend(layer, query, key, value, scaling, softcap).contiguous(), None


AttentionInterface.register("policy_reference", policy_attention)


# --- the policies -----------------------------------------------------------------------------------------------------

def key_norm(layer, h, key, value):
    """-|k| of the key as attention reads it."""
    return -key.pow(2).sum(-1).sqrt().T


def network(layers, shape):
    """KVzap: layers[i] is a linear map, or one, GELU and another. A trunk a head: (n_kv, hidden, d) and (n_kv, hidden)."""
    def score(layer, h, key, value):
        w = layers[layer]
        if shape == "linear":
            return h @ w["w2"].T + w["b2"]
        if shape == "mlp":
            return torch.nn.functional.gelu(h @ w["w1"].T + w["b1"]) @ w["w2"].T + w["b2"]
        heads = [torch.nn.functional.gelu(h @ w["w1"][k].T + w["b1"][k]) @ w["w2"][k] + w["b2"][k]
                 for k in range(len(w["b2"]))]
        return torch.stack(heads, -1)
    return score


def global_heads(is_global):
    """Heads that keep all (1) or nothing (0): (L, K)."""
    return lambda layer, h, key, value: torch.tensor(is_global[layer], dtype=torch.float32).expand(h.shape[0], -1)


def choose_heads(values, share=None, threshold=0.5):
    """The heads of largest clipped value, ties to the lower layer, then the lower head."""
    flat = [min(max(v, 0), 1) for row in values for v in row]
    n = sum(v >= threshold for v in flat) if share is None else int(share * len(flat) + 0.5)
    order = sorted(range(len(flat)), key=lambda i: (-flat[i], i))
    is_global = np.zeros(len(flat))
    is_global[order[:n]] = 1
    return is_global.reshape(len(values), -1)


def foresee(model, tokens, window, mean, value_norm):
    """(T, L, K): attention that queries outside its window give a pair under full attention, times |W_o v|."""
    model.run(tokens, window, 0, lambda layer, h, key, value: torch.ones(h.shape[0], model.n_kv), 0)
    n, group = len(tokens), model.n_heads // model.n_kv
    t, s = torch.arange(n)[:, None], torch.arange(n)[None, :]
    outside = t - s >= window
    queries = outside.sum(0)
    out = torch.zeros(n, model.n_layers, model.n_kv)
    for layer in range(model.n_layers):
        w_o = model.model.model.layers[layer].self_attn.o_proj.weight.detach()
        for k in range(model.n_kv):
            p = model.attention[layer][k * group:(k + 1) * group].double() * outside
            got = p.mean(0).sum(0) / queries.clamp(min=1) if mean else p.amax((0, 1))
            v = model.value[layer][k]
            blocks = w_o.reshape(len(w_o), model.n_heads, -1)[:, k * group:(k + 1) * group]
            norms = torch.einsum("ohd,td->oht", blocks, v).norm(dim=0).amax(0)
            out[:, layer, k] = (got * norms if value_norm else got).float() * (queries > 0)
    return out


# --- files ------------------------------------------------------------------------------------------------------------

def random_gates(model, shape, generator):
    d, n_kv, hidden = model.model.config.hidden_size, model.n_kv, 5
    draw = lambda *size: torch.randn(*size, generator=generator) / size[-1] ** 0.5
    shapes = {"linear": {}, "mlp": {"w1": (hidden, d), "b1": (hidden,)},
              "heads": {"w1": (n_kv, hidden, d), "b1": (n_kv, hidden)}}[shape]
    last = {"linear": (n_kv, d), "mlp": (n_kv, hidden), "heads": (n_kv, hidden)}[shape]
    return [{**{k: draw(*v) for k, v in shapes.items()}, "w2": 3 * draw(*last), "b2": draw(n_kv) - 2}
            for _ in range(model.n_layers)]


def save_kvzap(path, model, layers, linear):
    names = {"w2": "", "b2": ""} if linear else {"w1": ".0", "b1": ".0", "w2": ".2", "b2": ".2"}
    tensors = {f"layers.{i}{names[k]}.{'weight' if k[0] == 'w' else 'bias'}": v.contiguous()
               for i, w in enumerate(layers) for k, v in w.items()}
    config = {"architectures": ["KVzapModel"], "dtype": "float32", "hidden_dim": None if linear else len(layers[0]["b1"]),
              "input_dim": model.model.config.hidden_size, "model_type": "kvzap", "n_modules": model.n_layers,
              "output_dim": model.n_kv}
    save(path, {"model.safetensors": tensors}, {"config.json": config})


def save_own(path, layers):
    names = {"w1": "fc1.weight", "b1": "fc1.bias", "w2": "fc2.weight", "b2": "fc2.bias"}
    tensors = {f"model.layers.{i}.self_attn.utility_predictor.{names[k]}": v.contiguous()
               for i, w in enumerate(layers) for k, v in w.items()}
    config = {"format_version": 1, "window": 9, "threshold": -2.0, "comparison": ">=", "input": "normed",
              "activation": "gelu", "output": "identity"}
    save(path, {"spkv.safetensors": tensors}, {"spkv_config.json": config})


def save(path, tensors, texts):
    os.makedirs(path, exist_ok=True)
    for name, content in tensors.items():
        save_file(content, os.path.join(path, name))
    for name, content in texts.items():
        write_text(os.path.join(path, name), json.dumps(content, indent=1) + "\n")


# --- cases ------------------------------------------------------------------------------------------------------------

def choose_threshold(model, make_score, sequences, window, sinks):
    """A threshold between the scores that 30 and 70 % of the pairs reach, far from all of them: (threshold, results)."""
    first = torch.cat([model.run(s, window, sinks, make_score(s), -1e30)["utility"].flatten() for s in sequences])
    first = first[first != 0]
    best = None
    for q in np.linspace(0.3, 0.7, 21):
        threshold = float(np.float32(np.quantile(first.numpy(), q)))
        results = [model.run(s, window, sinks, make_score(s), threshold) for s in sequences]
        u = torch.cat([r["utility"].flatten() for r in results])
        margin = float((u - threshold).abs().min() / u.abs().max())
        if best is None or margin > best[0]:
            best = (margin, threshold, results)
    if best[0] < MARGIN:
        raise SystemExit(f"{model.name}: a score comes within {best[0]:g} of the threshold")
    return best[1], best[2]


def make_case(out, name, window, sinks, with_files):
    model = Pruned(name)
    sequences = model.sequences[1:]
    generator = torch.Generator().manual_seed(7)
    tensors, specs = {}, {}

    def add(key, spec, results):
        specs[key] = spec
        dtypes = {"nll": torch.float32, "utility": torch.float32, "open": torch.float16, "kept": torch.float16}
        for i, r in enumerate(results):
            tensors.update({f"seq{i + 1}.{key}.{what}": r[what].to(dtype) for what, dtype in dtypes.items()})

    def add_scored(key, spec, make_score):
        threshold, results = choose_threshold(model, make_score, sequences, window, sinks)
        add(key, f"{spec},threshold={threshold!r}", results)

    common = f"window={window},sinks={sinks}"
    add_scored("keynorm", f"keynorm:{common}", lambda s: key_norm)
    for key, mean, norm in (("oracle", False, False), ("oracle_mean", True, False), ("oracle_norm", False, True),
                            ("oracle_mean_norm", True, True)):
        def make_score(tokens, mean=mean, norm=norm, cache={}):
            u = cache.setdefault((key, tuple(tokens)), foresee(model, tokens, window, mean, norm))
            return lambda layer, h, key, value: u[:, layer]
        add_scored(key, f"oracle:{common},score={'mean' if mean else 'max'},value-norm={int(norm)}", make_score)
    if with_files:
        for shape in ("mlp", "linear", "heads"):
            layers = random_gates(model, shape, generator)
            folder = "gates-heads" if shape == "heads" else f"kvzap-{shape}"
            if shape == "heads":
                save_own(os.path.join(out, folder), layers)
            else:
                save_kvzap(os.path.join(out, folder), model, layers, shape == "linear")
            add_scored(f"gates_{shape}", f"gates:{common},file={FOLDER}/{folder}", lambda s: network(layers, shape))
        values = [[1.0, 0.25], [-0.1, 1.0], [0.5, 1.02]]
        save(os.path.join(out, "duo"), {}, {"config.json": {"sink_size": 3, "recent_size": 7}})
        write_text(os.path.join(out, "duo", "full_attention_heads.tsv"),
                   "".join("\t".join(f"{v:.18e}" for v in row) + "\n" for row in values))
        for key, option, how in (("duo", "", {}), ("duo_third", ",heads-global=0.34", {"share": 0.34}),
                                 ("duo_quarter", ",threshold=0.25", {"threshold": 0.25})):
            heads = choose_heads(values, **how)
            add(key, f"duo:file={FOLDER}/duo/full_attention_heads.tsv{option}",
                [model.run(s, 7, 3, global_heads(heads), 0.5) for s in sequences])
    save_file(tensors, os.path.join(out, f"{name}.safetensors"))
    write_text(os.path.join(out, f"{name}.json"), json.dumps(specs, indent=1) + "\n")
    for key, spec in specs.items():
        kept = np.mean([float(tensors[f"seq{i + 1}.{key}.kept"].float().mean()) for i in range(len(sequences))])
        print(f"{name:12s} {key:18s} kept {100 * kept:4.1f} %  {spec}", flush=True)


def make(out):
    os.makedirs(out, exist_ok=True)
    make_case(out, "llama-gqa", window=8, sinks=2, with_files=True)
    make_case(out, "qwen3", window=12, sinks=0, with_files=False)
    make_case(out, "gemma3", window=10, sinks=1, with_files=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.path.join(ROOT, FOLDER)
    parser.add_argument("--out", default=default)
    parser.add_argument("--check", nargs="?", const=default, metavar="DIR")
    args = parser.parse_args()
    set_up()
    if args.check:
        sys.exit(check(make, args.check))
    make(args.out)


if __name__ == "__main__":
    main()
