#!/usr/bin/env python3
"""Trains the demo model: a small Llama with SP-KV (arXiv 2605.14037), on one CPU thread in under an hour.

    train_demo.py --novels DIR --held-out DIR --work DIR [--out DIR]

`--novels` holds plain UTF-8 text files (public-domain novels were used), `--work` keeps the tokenizer, the token pools and
a checkpoint every few minutes, from which the same command resumes. `--out` (default datasets/demo/model) gets the Hugging
Face directory. Stages: dense from scratch; dense again after copying heads were seeded; SP-KV: soft gates, gates annealed to
hard ones, hard gates to the end, with a density term in the loss that is ramped in.
"""

import argparse
import math
import os
import time

import numpy as np
import torch
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from demo_text import BOS, COPY_MIX, EOS, MIX, ROOT, SEED, SPKV_MIX, VOCAB, batch_of, held_out_batches, prepare
from spkv_torch import GATE_EPS, Policy, PredictorConfig, SpkvModel, UtilityPredictor

WINDOW, HIDDEN = 64, 32
STAGES = ("dense", "copy", "spkv")


# --- training ---------------------------------------------------------------------------------------------------------

def make_model():
    torch.manual_seed(SEED)
    config = LlamaConfig(vocab_size=VOCAB, hidden_size=128, intermediate_size=344, num_hidden_layers=7,
                         num_attention_heads=8, num_key_value_heads=4, head_dim=16, max_position_embeddings=1024,
                         rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=BOS, eos_token_id=EOS,
                         rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    return LlamaForCausalLM(config)


def next_token_loss(logits, ids):
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def cosine(step, steps, warmup, floor=0.05):
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_lr(optimizers, factor):
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor


def make_optimizers(model, matrix_lr, other_lr, decay):
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "utility" not in n]
    other = [p for n, p in model.named_parameters() if (p.ndim != 2 or "embed" in n) and "utility" not in n]
    muon = torch.optim.Muon(matrices, lr=matrix_lr, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(other, lr=other_lr, betas=(0.9, 0.95), weight_decay=0.0)
    for optimizer, lr in ((muon, matrix_lr), (adam, other_lr)):
        for group in optimizer.param_groups:
            group["base_lr"] = lr
    return [muon, adam]


def seed_copying(model):
    """The model with two more gifts: KV heads 0 and 1 of layer 0 become previous-token heads that write a code of their
    token into directions the embeddings hardly use, and the heads of layer 1 look for keys whose code is that of the
    query's token and copy what stands there (induction heads). Such a pair copies from any distance, which the demo is
    about, and a small model needs far more text than this to find one by itself. RoPE's base rises to a million, so that
    half of each head turns slowly enough to compare contents far apart."""
    config, d = model.config, 16
    config.attention_bias = True
    config.rope_parameters = {"rope_type": "default", "rope_theta": 1e6}
    new = LlamaForCausalLM(config)
    new.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for name, p in new.named_parameters():
            if name.endswith("proj.bias"):
                p.zero_()
        layer0, layer1 = new.model.layers[0], new.model.layers[1]
        a, b = layer0.self_attn, layer1.self_attn
        norm0, norm1 = layer0.input_layernorm.weight, layer1.input_layernorm.weight
        table = new.model.embed_tokens.weight
        mean, rms, rms1 = table.mean(0), table.pow(2).mean(1).sqrt().mean(), 0.23  # 0.23: seen after layer 0
        _, size, direction = torch.linalg.svd(table - mean, full_matrices=True)
        code = direction[:32] / (size[:32, None] / math.sqrt(VOCAB))  # 32 whitened principal components
        quiet, written = direction[-32:].T, 2 * rms                   # where codes are written, and how large
        angle, strength = new.model.rotary_emb.inv_freq, 6.0
        for k in range(2):
            rows, part = slice(d * k, d * k + d), code[d * k:d * k + d]
            a.k_proj.weight[rows] = 0
            a.k_proj.bias[d * k:d * k + d // 2] = strength
            a.v_proj.weight[rows], a.v_proj.bias[rows] = part * rms / norm0, -part @ mean
            for h in (2 * k, 2 * k + 1):  # logit largest at distance 1
                a.q_proj.weight[d * h:d * h + d] = 0
                a.q_proj.bias[d * h:d * h + d // 2] = strength * torch.cos(angle)
                a.q_proj.bias[d * h + d // 2:d * h + d] = -strength * torch.sin(angle)
                a.o_proj.weight[:, d * h:d * h + d] = written / 2 * quiet[:, d * k:d * k + d]
        slow = [4, 5, 6, 7, 12, 13, 14, 15]  # the four slowest pairs of a head
        for k in range(4):
            rows, part = slice(d * k, d * k + d), slice(8 * k, 8 * k + 8)
            w_k, w_q, b_q = torch.zeros(d, 128), torch.zeros(d, 128), torch.zeros(d)
            w_k[slow] = quiet[:, part].T / written * rms1 / norm1
            w_q[slow], b_q[slow] = 2 * code[part] * rms1 / norm1, -2 * (code[part] @ mean)
            b.k_proj.weight[rows], b.v_proj.weight[rows] = w_k, direction[rows] * rms1 / norm1
            b.v_proj.bias[rows] = -direction[rows] @ mean
            for h in (2 * k, 2 * k + 1):
                columns = slice(d * h, d * h + d)
                b.q_proj.weight[columns], b.q_proj.bias[columns] = w_q, b_q
                b.o_proj.weight[:, columns] = 2 * direction[rows].T
    return new


class Run:
    """The clock, the log and the checkpoint file of one stage."""

    def __init__(self, args, stage, model, optimizers, state):
        self.path, self.stage, self.model, self.optimizers = os.path.join(args.work, "state.pt"), stage, model, optimizers
        self.step, spent, self.log = 0, 0.0, []
        if state is not None and state["stage"] == stage:
            model.load_state_dict(state["model"])
            for o, s in zip(optimizers, state["optimizers"]):
                o.load_state_dict(s)
            self.step, spent, self.log = state["step"], state["seconds"], state["log"]
        self.begin, self.saved = time.time() - spent, time.time()

    def seconds(self):
        return time.time() - self.begin

    def save(self, step, always):
        if always or time.time() - self.saved > 120:
            torch.save({"stage": self.stage, "step": step, "model": self.model.state_dict(), "seconds": self.seconds(),
                        "log": self.log, "optimizers": [o.state_dict() for o in self.optimizers]}, self.path + ".tmp")
            os.replace(self.path + ".tmp", self.path)
            self.saved = time.time()


def update(model, optimizers, loss):
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for o in optimizers:
        o.step()
        o.zero_grad(set_to_none=True)


def train_dense(args, pools, model, state, stage, steps, schedule_steps, step_tokens, mix):
    """One dense stage: sequences of 256 tokens, after 60 % of the schedule of 512."""
    model.set_attn_implementation("sdpa")
    optimizers = make_optimizers(model, args.dense_lr, args.dense_lr, 0.05)
    run = Run(args, stage, model, optimizers, state)
    for step in range(run.step, steps):
        length = 256 if step < 0.6 * schedule_steps else 512
        ids = batch_of(pools, np.random.default_rng([SEED, STAGES.index(stage) + 1, step]), step_tokens // length, length,
                       mix)
        set_lr(optimizers, cosine(step, schedule_steps, 50))
        loss = next_token_loss(model(input_ids=ids, use_cache=False).logits, ids)
        update(model, optimizers, loss)
        if step % 25 == 0 or step == steps - 1:
            run.log.append((step, float(loss.detach())))
            print(f"{stage} {step}/{steps} loss {loss:.4f} length {length} {run.seconds():.0f} s", flush=True)
        run.save(step + 1, step == steps - 1)
    return model


# --- SP-KV stage --------------------------------------------------------------------------------------------------------

class GatedAttention(torch.autograd.Function):
    """Attention with log gates on keys outside the window, in query blocks that skip keys to come: the same function as
    spkv_torch.spkv_attention with less memory traffic. q (B, K, G, T, D), k and v (B, K, T, D), log_gate (B, K, T)."""

    @staticmethod
    def _tile(a, b, window, log_gate):
        t, s = torch.arange(a, b)[:, None], torch.arange(b)[None, :]
        tile = torch.where(t - s >= window, log_gate[:, :, None, :b], torch.zeros(()))
        return torch.where(s <= t, tile, torch.tensor(float("-inf")))

    @staticmethod
    def forward(ctx, q, k, v, log_gate, window, scaling, block):
        n_batch, n_kv, group, n, d = q.shape
        out, saved = torch.empty_like(q), []
        for a in range(0, n, block):
            b = min(a + block, n)
            qb = q[:, :, :, a:b].reshape(n_batch, n_kv, -1, d)
            p = torch.matmul(qb, k[:, :, :b].transpose(2, 3)).mul_(scaling).view(n_batch, n_kv, group, b - a, b)
            p += GatedAttention._tile(a, b, window, log_gate)[:, :, None]
            p = torch.softmax(p, -1)
            out[:, :, :, a:b] = torch.matmul(p.view(n_batch, n_kv, -1, b), v[:, :, :b]).view(n_batch, n_kv, group, b - a, d)
            saved.append(p)
        ctx.save_for_backward(q, k, v, out, *saved)
        ctx.window, ctx.scaling, ctx.block = window, scaling, block
        return out

    @staticmethod
    def backward(ctx, d_out):
        q, k, v, out, *saved = ctx.saved_tensors
        n_batch, n_kv, group, n, d = q.shape
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        d_gate = torch.zeros(n_batch, n_kv, n)
        delta = (d_out * out).sum(-1, keepdim=True)
        for index, a in enumerate(range(0, n, ctx.block)):
            b, p = min(a + ctx.block, n), saved[index]
            flat = lambda x: x.reshape(n_batch, n_kv, -1, x.shape[-1])
            db = flat(d_out[:, :, :, a:b])
            ds = torch.matmul(db, v[:, :, :b].transpose(2, 3)).view_as(p).sub_(delta[:, :, :, a:b]).mul_(p)
            dv[:, :, :b] += torch.matmul(flat(p).transpose(2, 3), db)
            dq[:, :, :, a:b] = torch.matmul(flat(ds), k[:, :, :b]).mul_(ctx.scaling).view(n_batch, n_kv, group, b - a, d)
            dk[:, :, :b] += torch.matmul(flat(ds).transpose(2, 3), flat(q[:, :, :, a:b])).mul_(ctx.scaling)
            far = torch.arange(a, b)[:, None] - torch.arange(b)[None, :] >= ctx.window
            d_gate[:, :, :b] += (ds.sum(2) * far).sum(2)
        return dq, dk, dv, d_gate, None, None, None


def training_attention(module, query, key, value, attention_mask, scaling=None, **_):
    n_batch, n_heads, n, d = query.shape
    n_kv = key.shape[1]
    out = GatedAttention.apply(query.reshape(n_batch, n_kv, n_heads // n_kv, n, d), key, value, module.spkv_bias, WINDOW,
                               scaling, 128)
    return out.view(n_batch, n_heads, n, d).transpose(1, 2).contiguous(), None


AttentionInterface.register("spkv_training", training_attention)


class TrainedModel(SpkvModel):
    """SpkvModel whose layers get log gates (batch, n_kv_heads, T) instead of T x T biases. Llama, no sinks."""

    def __init__(self, model, spkv):
        super().__init__(model, spkv)
        model.set_attn_implementation("spkv_training")

    def _bias(self, layer, n_tokens, device, dtype):
        gate, is_open = self._gate(layer, n_tokens, device)
        self.gate[layer] = is_open
        n_batch = self.utility[layer].shape[0]
        if gate is not None:
            return torch.log(gate + GATE_EPS)
        return torch.where(is_open, 0.0, float("-inf")).expand(n_batch, -1, -1)


def check_training_attention(model, spkv, ids):
    """Loss and gradients of the training attention against the reference attention; stops where they differ."""
    results = []
    for cls in (SpkvModel, TrainedModel):
        wrapped = cls(model, spkv)
        model.zero_grad()
        next_token_loss(wrapped.forward(ids, Policy("spkv", window=WINDOW, mode="soft")), ids).backward()
        results.append({n: p.grad.clone() for n, p in model.named_parameters()})
        for layer in model.model.layers:
            layer._forward_pre_hooks.clear()
            layer.self_attn._forward_pre_hooks.clear()
    model.zero_grad()
    worst = max(float((results[0][n] - results[1][n]).norm() / results[0][n].norm().clamp(min=1e-12)) for n in results[0])
    print(f"training attention against the reference: largest relative gradient difference {worst:.1e}", flush=True)
    if worst > 1e-3:
        raise SystemExit("the training attention is wrong")


def schedule(step, args):
    """(mode, blend, density weight) of a step: soft with the density term ramped in, annealed, hard."""
    soft = int(args.spkv_steps * args.soft_share)
    anneal = max(1, args.spkv_steps // 10)
    if step < soft:
        return "soft", 0.0, args.density_weight * min(1.0, step / (0.5 * soft))
    if step < soft + anneal:
        return "annealed", (step - soft + 1) / anneal, 0.0
    return "hard", 1.0, 0.0


def density(wrapped, n):
    """(layers, heads) share of open gates among pairs that have left the window."""
    return torch.stack([g[:, :, :n - WINDOW].float().mean((0, 2)) for g in wrapped.gate])


@torch.no_grad()
def evaluate(wrapped, batches):
    """{policy: loss}, and density per head under hard gates."""
    policies = {"full": Policy("full", window=WINDOW), "hard": Policy("spkv", window=WINDOW),
                "window": Policy("window", window=WINDOW)}
    losses, dense = {k: 0.0 for k in policies}, 0.0
    for ids in batches:
        for name, policy in policies.items():
            losses[name] += float(next_token_loss(wrapped.forward(ids, policy), ids)) / len(batches)
            if name == "hard":
                dense = dense + density(wrapped, ids.shape[1]) / len(batches)
    return losses, dense


def train_spkv(args, pools, held_out, model, state):
    """The last stage, from the dense model. Returns (wrapped model, log); log[0] is the held-out loss of the dense model."""
    model.set_attn_implementation("sdpa")
    spkv = PredictorConfig(window=WINDOW)
    torch.manual_seed(SEED + 1)
    for layer in model.model.layers:
        layer.self_attn.utility_predictor = UtilityPredictor(128, HIDDEN, 4)
        torch.nn.init.constant_(layer.self_attn.utility_predictor.fc2.bias, 5.0)
    check_training_attention(model, spkv, batch_of(pools, np.random.default_rng([SEED, 3]), 1, 300))
    wrapped = TrainedModel(model, spkv)
    optimizers = make_optimizers(model, args.spkv_lr, args.spkv_lr, 0.05)
    predictors = [p for n, p in model.named_parameters() if "utility" in n]
    optimizers.append(torch.optim.AdamW(predictors, lr=args.predictor_lr, betas=(0.9, 0.95), weight_decay=0.1))
    optimizers[-1].param_groups[0]["base_lr"] = args.predictor_lr
    run = Run(args, "spkv", model, optimizers, state)
    if not run.log:
        run.log.append(("dense", evaluate(wrapped, held_out)[0]["full"]))
        print(f"held-out loss of the dense model {run.log[0][1]:.4f}", flush=True)
    for step in range(run.step, args.spkv_steps):
        mode, blend, weight = schedule(step, args)
        length = 1024 if step % 4 == 3 else 512
        ids = batch_of(pools, np.random.default_rng([SEED, 9, step]), args.step_tokens // length, length, SPKV_MIX)
        set_lr(optimizers, cosine(step, args.spkv_steps, 20))
        for p in predictors:  # frozen from the anneal on
            p.requires_grad_(mode == "soft")
        loss = next_token_loss(wrapped.forward(ids, Policy("spkv", window=WINDOW, mode=mode, anneal=blend)), ids)
        update(model, optimizers, loss + weight * torch.stack(wrapped.utility).mean())
        if step % 25 == 0 or step == args.spkv_steps - 1:
            losses, dense = evaluate(wrapped, held_out)
            run.log.append((step, mode, float(loss.detach()), losses, float(dense.mean())))
            print(f"{mode} {step}/{args.spkv_steps} loss {loss:.4f}; held out: full {losses['full']:.4f} hard "
                  f"{losses['hard']:.4f} window {losses['window']:.4f} density {dense.mean():.3f} "
                  f"weight {weight:.4f} {run.seconds():.0f} s", flush=True)
        run.save(step + 1, step == args.spkv_steps - 1)
    return wrapped, run.log


# --- the result ---------------------------------------------------------------------------------------

def measure(path, batches):
    """Losses and densities of the written checkpoint with the reference attention, f32 over its bf16 weights."""
    wrapped = SpkvModel.load(path)
    policies = {"full": Policy("full", window=WINDOW), "hard": Policy("spkv", window=WINDOW),
                "window": Policy("window", window=WINDOW, sinks=4)}
    losses, kept, left = {}, {}, {}
    for source, ids in batches.items():
        for name, policy in policies.items():
            results = [wrapped.run(row, policy) for row in ids.tolist()]
            losses[source, name] = float(torch.cat([r.nll[1:] for r in results]).double().mean())
            if name == "hard":
                kept[source] = sum(r.n_kept for r in results)
                left[source] = sum(r.n_left_window for r in results)
    return losses, kept, left


README = """# Demo model

A small Llama with SP-KV utility predictors (arXiv 2605.14037), trained from scratch on one CPU thread by
`scripts/reference/train_demo.py` (PyTorch) with random seed {seed}; its own weights, Apache-2.0 like the project.

7 layers, width 128, 8 query heads over 4 KV heads of dimension 16, byte-level BPE vocabulary of 1024, tied embeddings,
{n_params} parameters, bf16. Window {window}, threshold 0.5. It is a model to look at gates with, not one to talk to.

- Text, by share of sequences:
{mix}
  Novels are English ones of 1719-1929 in the public domain; "project" is this project's own documentation and sources,
  so its loss on them is a training loss; "recall" are generated tasks: codes, names, lists and tables that come back
  after other text; "repeat" are random tokens repeated.
- Dense: {dense_steps} steps of 4096 tokens from random weights. Then pairs of previous-token and copying heads were set by
  hand in the first two layers (`seed_copying` in the script), and {copy_steps} steps of {step_tokens} tokens trained
  everything further. Muon for matrices, AdamW for the rest, learning rate {dense_lr}, cosine, sequences of 256, later 512.
- SP-KV: {spkv_steps} steps of {step_tokens} tokens, sequences of 512 and 1024, learning rate {spkv_lr}, predictors
  {predictor_lr}; soft gates for {soft_share:.0%} of the steps, annealed for 10 %, then hard; density weight
  {density_weight}, ramped in over the first half of the soft steps, 0 with the anneal.
- {tokens} tokens in all; PyTorch, one CPU thread, about an hour on a busy machine.

Measured with `spkv_torch.py` in f32 on the bf16 weights, on sequences of 512 tokens that training did not see (other
novels, tasks with another seed), nat per token. The dense model before the SP-KV stage had {dense_loss:.4f} on both
together (mean of the two texts, f32 weights).

| text | full attention | SP-KV, hard gates | window {window} + 4 sinks | long-range density |
|---|---|---|---|---|
{rows}

Long-range density by layer (rows) and KV head, both texts:

| layer | 0 | 1 | 2 | 3 |
|---|---|---|---|---|
{heads}
"""


def write_result(args, wrapped, tokenizer, log, batches):
    model = wrapped.model
    dense_tokens = args.dense_steps * 4096 + args.copy_steps * args.step_tokens
    wrapped.spkv.trained_with = {
        "protocol": "soft, annealed, hard", "program": "scripts/reference/train_demo.py", "steps": args.spkv_steps,
        "tokens": args.spkv_steps * args.step_tokens, "dense_steps": args.dense_steps + args.copy_steps,
        "dense_tokens": dense_tokens, "seed": SEED,
        "deviations": [f"density weight {args.density_weight}, ramped in", "dense stages from scratch on few tokens",
                       "copying heads of the first two layers set by hand before the second dense stage",
                       f"Muon for matrices, learning rate {args.spkv_lr}; predictors {args.predictor_lr}"]}
    model.config.spkv = wrapped.spkv.to_json()
    model.set_attn_implementation("sdpa")
    os.makedirs(args.out, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save(os.path.join(args.out, "tokenizer.json"))
    losses, kept, left = measure(args.out, batches)
    rows = [f"| {s} | {losses[s, 'full']:.4f} | {losses[s, 'hard']:.4f} | {losses[s, 'window']:.4f} "
            f"| {float(kept[s].sum() / left[s].sum()):.3f} |" for s in batches]
    by_head = sum(kept.values()) / sum(left.values())
    heads = ["| " + " | ".join([str(i)] + [f"{v:.3f}" for v in row]) + " |" for i, row in enumerate(by_head.tolist())]
    mix = "\n".join(f"  {stage}: " + ", ".join(f"{k} {v:.0%}" for k, v in shares.items()) + "."
                    for stage, shares in (("dense", MIX), ("copying", COPY_MIX), ("SP-KV", SPKV_MIX)))
    text = README.format(
        seed=SEED, n_params=sum(p.numel() for p in model.parameters()), window=WINDOW,
        tokens=dense_tokens + args.spkv_steps * args.step_tokens, mix=mix, dense_loss=log[0][1], rows="\n".join(rows),
        heads="\n".join(heads), **vars(args))
    with open(os.path.join(args.out, "README.md"), "w", encoding="utf-8", newline="") as f:
        f.write(text)
    print(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--novels", required=True, metavar="DIR", help="text to train on")
    parser.add_argument("--held-out", required=True, metavar="DIR", help="text to measure on")
    parser.add_argument("--work", required=True, metavar="DIR", help="pools and checkpoints")
    parser.add_argument("--out", default=os.path.join(ROOT, "datasets", "demo", "model"), metavar="DIR")
    parser.add_argument("--dense-steps", type=int, default=665, help="of 4096 tokens, on a schedule of 1300")
    parser.add_argument("--copy-steps", type=int, default=1000)
    parser.add_argument("--spkv-steps", type=int, default=600)
    parser.add_argument("--step-tokens", type=int, default=2048, help="in the last two stages")
    parser.add_argument("--dense-lr", type=float, default=2e-3)
    parser.add_argument("--spkv-lr", type=float, default=6e-4)
    parser.add_argument("--predictor-lr", type=float, default=2.5e-2)
    parser.add_argument("--density-weight", type=float, default=0.03)
    parser.add_argument("--soft-share", type=float, default=0.65)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer, pools = prepare(args)
    batches = held_out_batches(args.held_out, tokenizer)
    state_path = os.path.join(args.work, "state.pt")
    state = torch.load(state_path, weights_only=False) if os.path.exists(state_path) else None
    reached = STAGES.index(state["stage"]) if state else 0
    model = make_model()
    if reached == 0:
        train_dense(args, pools, model, state, "dense", args.dense_steps, 1300, 4096, MIX)
    model = seed_copying(model)
    if reached <= 1:
        train_dense(args, pools, model, state, "copy", args.copy_steps, args.copy_steps, args.step_tokens, COPY_MIX)
    wrapped, log = train_spkv(args, pools, list(batches.values()), model, state)
    write_result(args, wrapped, tokenizer, log, batches)


if __name__ == "__main__":
    main()
