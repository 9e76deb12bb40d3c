#!/usr/bin/env python3
"""Makes tests/data/training: a small model trained for 200 steps by PyTorch, which the C program must follow.

    train_reference.py [--out DIR]       write the start checkpoint and expected.safetensors
    train_reference.py --check [DIR]     make them again elsewhere and compare byte for byte
    train_reference.py --stability       how far losses drift when the start is disturbed by 1e-7, and on two threads

f32, one thread, fixed seeds. What the files hold is in tests/data/training/README.md.
"""

import argparse
import os
import sys

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

import make_fixtures
from spkv_torch import PREDICTOR_PART, Policy, PredictorConfig, SpkvModel, UtilityPredictor

N_STEPS, N_SEQ, LENGTH, VOCAB = 200, 4, 64, 72
WINDOW, HIDDEN = 16, 16
LR, LR_FLOOR, WARM_UP, PREDICTOR_FACTOR = 3e-3, 3e-4, 20, 5
BETAS, EPS, DECAY, CLIP = (0.9, 0.95), 1e-8, 0.1, 1.0
DENSITY_WEIGHT = 0.03
SOFT_STEPS, ANNEAL_STEPS = 100, 30   # of the run "hard"; the rest is hard
RUNS = ("dense", "soft", "hard")


# --- start and data ---------------------------------------------------------------------------------------------------

def make_model():
    torch.manual_seed(20)
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=VOCAB, max_position_embeddings=128, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2))
    generator = torch.Generator().manual_seed(21)
    normal = lambda p, std: p.copy_(torch.randn(p.shape, generator=generator) * std)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2:
                normal(p, 0.3 if "embed" in name else 1.0 / p.shape[1]**0.5)
        for layer in model.model.layers:
            predictor = UtilityPredictor(48, HIDDEN, 2)
            normal(predictor.fc1.weight, 1.0 / 48**0.5)
            normal(predictor.fc2.weight, 2.0 / HIDDEN**0.5)
            predictor.fc2.bias.fill_(0.5)  # gates differ from the first step on
            predictor.fc1.bias.zero_()
            layer.self_attn.utility_predictor = predictor
    return SpkvModel(model, PredictorConfig(window=WINDOW))


def make_ids():
    """(steps, sequences, tokens): half of a sequence is a walk on a random graph, the other half walks it again."""
    rng = np.random.Generator(np.random.Philox(22))
    successor = rng.integers(3, VOCAB, (VOCAB, 4))
    half = LENGTH // 2
    ids = np.ones((N_STEPS, N_SEQ, LENGTH), dtype=np.uint8)
    ids[..., 1] = rng.integers(3, VOCAB, ids.shape[:2])
    for t in range(2, half + 1):
        ids[..., t] = successor[ids[..., t - 1], rng.choice(4, ids.shape[:2], p=(0.55, 0.25, 0.15, 0.05))]
    ids[..., half + 1:] = ids[..., 1:half]
    return ids


def learning_rates():
    step = np.arange(N_STEPS)
    warm = LR * (step + 1) / WARM_UP
    cosine = LR_FLOOR + (LR - LR_FLOOR) * 0.5 * (1 + np.cos(np.pi * (step - WARM_UP) / (N_STEPS - WARM_UP)))
    return np.where(step < WARM_UP, warm, cosine).astype(np.float32)


def blends():
    """Of the run "hard": 0 while soft, 1 when hard."""
    return np.clip((np.arange(N_STEPS) - SOFT_STEPS + 1) / (ANNEAL_STEPS + 1), 0, 1).astype(np.float32)


def policy_of(run, step):
    """(Policy, whether predictors train)"""
    if run == "dense":
        return Policy("full"), False
    spkv = dict(window=WINDOW, threshold=0.5)
    if run == "soft" or step < SOFT_STEPS:
        return Policy("spkv", mode="soft", **spkv), True
    if step < SOFT_STEPS + ANNEAL_STEPS:
        return Policy("spkv", mode="annealed", anneal=float(blends()[step]), **spkv), False
    return Policy("spkv", mode="hard", **spkv), False


# --- training ---------------------------------------------------------------------------------------------------------

def make_optimizer(model):
    named = list(model.named_parameters())
    groups = [dict(params=[p for n, p in named if PREDICTOR_PART not in n and p.ndim == 2], weight_decay=DECAY, factor=1),
              dict(params=[p for n, p in named if PREDICTOR_PART not in n and p.ndim == 1], weight_decay=0.0, factor=1),
              dict(params=[p for n, p in named if PREDICTOR_PART in n], weight_decay=DECAY, factor=PREDICTOR_FACTOR)]
    return torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS, foreach=False)


def losses_of(model, ids, policy):
    """(mean loss, mean utility or None)"""
    logits = model.forward(ids, policy)
    nll = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    scores = [u.flatten() for u in model.utility]
    return nll, torch.cat(scores).mean() if policy.name == "spkv" else None


def train(run, model, imposed=None):
    """{name: (steps, ...) tensor}. imposed: open gates (steps, L, B, K, T) in place of the threshold's."""
    ids, rates, optimizer = torch.from_numpy(make_ids().astype(np.int64)), learning_rates(), make_optimizer(model.model)
    log = {"nll": [], "utility": [], "grad_norm": [], "open": []}
    for step in range(N_STEPS):
        policy, predictors_train = policy_of(run, step)
        model.freeze_utilities = not predictors_train
        model.imposed_open = None if imposed is None else imposed[step]
        for group in optimizer.param_groups:
            group["lr"] = float(rates[step]) * group["factor"]
        optimizer.zero_grad()
        nll, utility = losses_of(model, ids[step], policy)
        (nll + DENSITY_WEIGHT * utility if predictors_train else nll).backward()
        log["grad_norm"].append(torch.nn.utils.clip_grad_norm_(model.model.parameters(), CLIP, foreach=False))
        optimizer.step()
        log["nll"].append(nll.detach())
        log["utility"].append(torch.tensor(float("nan")) if utility is None else utility.detach())
        log["open"].append(torch.stack([g.expand(N_SEQ, -1, -1) for g in model.gate]))
    return {k: torch.stack(v) for k, v in log.items()}


def pack(is_open):
    """(steps, L, B, K, T) bool to (steps, bytes) f32: bits in the order L, B, T, K, the first the lowest of its byte."""
    rows = is_open.permute(0, 1, 2, 4, 3).flatten(1).numpy()
    return torch.from_numpy(np.packbits(rows, axis=1, bitorder="little")).float()


def make(out):
    model = make_model()
    model.model.config.spkv = model.spkv.to_json()
    model.model.save_pretrained(os.path.join(out, "start"))
    tensors = {"ids": torch.from_numpy(make_ids()).float(), "lr": torch.from_numpy(learning_rates()),
               "hard.blend": torch.from_numpy(blends())}
    for run in RUNS:
        log = train(run, make_model())
        tensors.update({f"{run}.{k}": log[k] for k in ("nll", "grad_norm", "utility") if run != "dense" or k != "utility"})
        if run == "hard":
            tensors["hard.open"] = pack(log["open"])
        print(summary(run, log), flush=True)
    save_file(dict(sorted(tensors.items())), os.path.join(out, "expected.safetensors"))


def summary(run, log):
    at = [0, SOFT_STEPS - 1, SOFT_STEPS, SOFT_STEPS + ANNEAL_STEPS - 1, SOFT_STEPS + ANNEAL_STEPS, N_STEPS - 1]
    return f"{run}: " + ", ".join(f"step {i}: loss {float(log['nll'][i]):.4f} norm {float(log['grad_norm'][i]):.2f} "
                                  f"open {float(log['open'][i].float().mean()):.2f}" for i in at)


def stability():
    """Largest differences of any step's loss, utility and relative gradient norm to the undisturbed run."""
    for run in RUNS:
        torch.set_num_threads(1)
        base = train(run, make_model())
        print(summary(run, base))
        for name, size, n_threads in (("two threads", 0.0, 2), ("start disturbed by 1e-7", 1e-7, 1)):
            torch.set_num_threads(n_threads)
            model, generator = make_model(), torch.Generator().manual_seed(23)
            with torch.no_grad():
                for p in model.model.parameters():
                    p *= 1 + size * torch.randn(p.shape, generator=generator)
            other = train(run, model, base["open"] if run == "hard" else None)
            drift = lambda k: float((other[k] - base[k]).abs().nan_to_num().max())
            norm = float((other["grad_norm"] / base["grad_norm"] - 1).abs().max())
            print(f"  {name}: loss {drift('nll'):.1e}, utility {drift('utility'):.1e}, gradient norm {norm:.1e}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.path.join(make_fixtures.ROOT, "tests", "data", "training")
    parser.add_argument("--out", default=default)
    parser.add_argument("--check", nargs="?", const=default, metavar="DIR")
    parser.add_argument("--stability", action="store_true")
    args = parser.parse_args()
    make_fixtures.set_up()
    if args.stability:
        stability()
    elif args.check:
        sys.exit(make_fixtures.check(make, args.check))
    else:
        make(args.out)


if __name__ == "__main__":
    main()
