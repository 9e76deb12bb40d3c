#!/usr/bin/env python3
"""Makes tests/data/gradients: losses and gradients of the models in tests/data/models, by automatic differentiation.

    make_gradients.py [--out DIR] [CASE...]    write CASE.safetensors (default: all, to tests/data/gradients)
    make_gradients.py --check [DIR]            make them again elsewhere and compare byte for byte

Weights are those of the case, widened to float64, in which everything is computed but for RoPE's tables (f32, as
transformers makes them); results are rounded to f32. What the files hold is in tests/data/gradients/README.md.
"""

import argparse
import json
import os
import sys

import torch
import transformers
from safetensors.torch import save_file

import make_fixtures
from spkv_torch import PREDICTOR_PART, Policy, SpkvModel

MODELS = os.path.join(make_fixtures.ROOT, "tests", "data", "models")
CASES = ("llama-gqa", "llama-llama3", "llama-static", "llama-yarn", "mistral-full", "mistral-sliding", "qwen2-soft",
         "qwen2-sliding", "qwen2-full", "qwen3", "qwen3-bias", "gemma2", "gemma3", "gemma3-pattern", "smollm3-soft",
         "smollm3", "smollm3-sliding")
DENSITY_WEIGHT = 0.1
BLEND = 0.5
ROW_STRIDE = 7   # rows 0, 7, 14, ... of a matrix are stored
MARGIN = 2e-5    # no utility may come closer to the threshold: f32 would decide otherwise
STEP = 1e-6      # of the central difference that checks the gradients
TOLERANCE = 1e-6


def norm_in_own_dtype(module):
    """RMSNorm in the dtype of its input; the classes of transformers compute in f32 whatever it is."""
    eps = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
    one = 1.0 if type(module).__name__.startswith("Gemma") else 0.0
    module.forward = lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * (one + module.weight)


def load(path):
    model = SpkvModel.load(path, make_fixtures.predictor_dir(path), dtype=torch.float64)
    for module in model.model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            norm_in_own_dtype(module)
    return model


def modes(case, model):
    """{name: (Policy, whether gradients reach the utilities)}"""
    full = {k: case["policies"]["full"][k] for k in ("window", "sinks")}
    out = {"full": (Policy("full", **full), False)}
    if model.spkv is None:
        return out
    spkv = {k: v for k, v in case["policies"]["spkv"].items() if k != "policy"}
    out["hard"] = (Policy("spkv", **spkv), False)
    if model.spkv.output == "sigmoid":
        annealed = Policy("spkv", mode="annealed", anneal=BLEND, **spkv)
        out["soft"] = (Policy("spkv", mode="soft", **spkv), True)
        out["annealed"] = (annealed, True)
        out["frozen"] = (annealed, False)
    return out


class Losses:
    """Of all sequences of a case, each run by itself."""

    def __init__(self, model, sequences, policy, gates_train):
        self.model, self.gates_train = model, gates_train
        self.nll, self.utility, self.open = [], [], []
        model.freeze_utilities = not gates_train
        for ids in sequences:
            logits = model.forward(torch.tensor([ids]), policy)[0]
            nan = torch.full((1,), float("nan"), dtype=logits.dtype)
            self.nll.append(torch.cat([nan, torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]),
                                                                             reduction="none")]))
            self.utility.append([u for u in model.utility])
            self.open.append([g for g in model.gate])

    def total(self):
        losses = torch.cat([nll[1:] for nll in self.nll])
        out = losses.mean()
        if self.gates_train:
            out = out + DENSITY_WEIGHT * torch.cat([u.flatten() for u in self.all_utilities()]).mean()
        return out

    def all_utilities(self):
        return [u for layers in self.utility for u in layers if u is not None]

    def by_row(self, pick, missing):
        """(rows, L, K) of what pick(sequence, layer) gives as (T, K), None: missing."""
        rows = []
        for i, nll in enumerate(self.nll):
            none = torch.full((len(nll), self.model.n_kv_heads), missing)
            layers = [pick(i, layer) for layer in range(self.model.n_layers)]
            rows.append(torch.stack([none if v is None else v for v in layers], 1))
        return torch.cat(rows)


def check_margin(name, model, losses, policy):
    """Static gates excepted, which are the same numbers everywhere."""
    if all(getattr(layer.self_attn, "utility_predictor", None) is None or layer.self_attn.utility_predictor.fc1 is None
           for layer in model.model.model.layers):
        return
    margin = min(float((u - policy.threshold).abs().min().detach()) for u in losses.all_utilities())
    if margin <= MARGIN:
        raise SystemExit(f"{name}: a utility lies within {margin:g} of the threshold")


def check_slope(name, model, sequences, policy, gates_train):
    """The gradient along a random direction against a central difference of the loss."""
    generator = torch.Generator().manual_seed(1)
    named = [p for p in model.model.parameters() if p.grad is not None]
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in named]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(named, direction))
    values = []
    with torch.no_grad():
        for step in (STEP, -2 * STEP, STEP):
            for p, d in zip(named, direction):
                p += step * d
            values.append(float(Losses(model, sequences, policy, gates_train).total()))
    difference = (values[0] - values[1]) / (2 * STEP)
    if abs(difference - slope) > TOLERANCE * max(1.0, abs(slope)):
        raise SystemExit(f"{name}: slope {slope:.9g}, central difference {difference:.9g}")


def run_mode(name, model, sequences, policy, gates_train):
    model.model.zero_grad()
    losses = Losses(model, sequences, policy, gates_train)
    out = {"nll": torch.cat(losses.nll).detach()}
    gated = policy.name == "spkv"
    if gated:
        check_margin(name, model, losses, policy)
        for u in losses.all_utilities():
            if gates_train:
                u.retain_grad()
        row = lambda v: None if v is None else v[0]
        out["utility"] = losses.by_row(lambda i, l: row(losses.utility[i][l]), float("nan")).detach()
        out["open"] = losses.by_row(lambda i, l: None if model.sliding[l] else losses.open[i][l][0].T.double(), 0.0)
    total = losses.total()
    total.backward()
    out["loss"] = total.detach().reshape(1)
    if gates_train:
        out["utility_grad"] = losses.by_row(lambda i, l: row(getattr(losses.utility[i][l], "grad", None)), float("nan"))
    grads = {n: p.grad for n, p in model.model.named_parameters() if p.grad is not None}
    out["grad_norm"] = torch.stack([g.pow(2).sum() for g in grads.values()]).sum().sqrt().reshape(1)
    for n, g in grads.items():
        out["grad." + n] = g[::ROW_STRIDE] if g.ndim == 2 else g
    if name.split(".")[1] != "frozen":  # there the gradient is not that of the loss: utilities count as constants
        check_slope(name, model, sequences, policy, gates_train)
    return out


def make_case(name, out):
    path = os.path.join(MODELS, name)
    with open(os.path.join(path, "case.json"), encoding="utf-8", newline="") as f:
        case = json.load(f)
    model = load(path)
    sequences = [s["tokens"] for s in case["sequences"]]
    tensors = {}
    for mode, (policy, gates_train) in modes(case, model).items():
        result = run_mode(f"{name}.{mode}", model, sequences, policy, gates_train)
        tensors.update({f"{mode}.{k}": v.float().contiguous() for k, v in result.items()})
    check_predictor_reached(name, model, tensors)
    file = os.path.join(out, name + ".safetensors")
    save_file(dict(sorted(tensors.items())), file)
    print(f"{name:17s} {', '.join(k[:-5] + f' {float(tensors[k]):.4f}' for k in tensors if k.endswith('.loss'))}; "
          f"{os.path.getsize(file) >> 10} KiB", flush=True)


def check_predictor_reached(name, model, tensors):
    """Gradients reach predictors where they should and nowhere else."""
    of = lambda mode: any(PREDICTOR_PART in k for k in tensors if k.startswith(mode + "."))
    trains = model.spkv is not None and model.spkv.output == "sigmoid"
    if (of("soft"), of("annealed")) != (trains, trains) or of("hard") or of("frozen") or of("full"):
        raise SystemExit(f"{name}: gradients reach the wrong predictors")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.path.join(make_fixtures.ROOT, "tests", "data", "gradients")
    parser.add_argument("--out", default=default)
    parser.add_argument("--check", nargs="?", const=default, metavar="DIR")
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    make_fixtures.set_up()
    if args.check:
        sys.exit(make_fixtures.check(lambda out: [make_case(name, out) for name in CASES], args.check))
    for name in args.cases or CASES:
        make_case(name, args.out)


if __name__ == "__main__":
    main()
