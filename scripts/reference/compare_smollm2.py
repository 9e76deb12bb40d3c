#!/usr/bin/env python3
"""Losses and speed of a dense Hugging Face model (SmolLM2 at first) through transformers, to hold spkv against.

    compare_smollm2.py nll MODEL TEXT -o nll.npz [--limit N] [--dtype float32]
    compare_smollm2.py compare nll.npz run.h5
    compare_smollm2.py speed MODEL [--threads 2] [--runs 5] [--dtype bfloat16]      CSV on stdout

`nll` writes per-sequence sums and per-token losses; after every sequence, so that an interrupted run keeps its work and
resumes. `compare` reads a run.h5 made by `spkv profile --record heads,positions,tokens` on the same text and max-length.
"""

import argparse
import os
import statistics
import sys
import time

import numpy as np
import torch
from transformers import AutoModelForCausalLM, logging

from corpus import read_sequences


def sequence_nll(model, ids):
    """(T) f32: loss of predicting each token, NaN for the first. Logits are made in tiles of 256 positions."""
    with torch.no_grad():
        x = torch.tensor([ids])
        hidden = model.model(input_ids=x, use_cache=False).last_hidden_state[0]
        out = torch.full((len(ids),), float("nan"))
        for at in range(0, len(ids) - 1, 256):
            end = min(at + 256, len(ids) - 1)
            logits = model.lm_head(hidden[at:end]).float()
            cap = getattr(model.config, "final_logit_softcapping", None)
            if cap:
                logits = cap * torch.tanh(logits / cap)
            out[at + 1:end + 1] = torch.nn.functional.cross_entropy(logits, x[0, at + 1:end + 1], reduction="none")
    return out.numpy()


def load(path, dtype):
    return AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), attn_implementation="sdpa").eval()


def save_npz(path, sequences, losses):
    """Everything computed so far; written beside and renamed."""
    done = sequences[:len(losses)]
    np.savez(path + ".tmp.npz", nll_sum=np.array([np.nansum(x.astype(np.float64)) for x in losses]),
             n_predicted=np.array([len(x) - 1 for x in losses], np.uint32), n_sequences=len(sequences),
             row_splits=np.cumsum([0] + [len(s) for s in done]).astype(np.uint64),
             ids=np.array([i for s in done for i in s], np.int32), nll=np.concatenate(losses))
    os.replace(path + ".tmp.npz", path)


def cmd_nll(args):
    torch.set_num_threads(args.threads)
    sequences = read_sequences(args.model, args.text, args.max_length)[:args.limit]
    losses = []
    if os.path.exists(args.output):
        with np.load(args.output) as f:
            losses = np.split(f["nll"], f["row_splits"][1:-1].astype(np.int64))
        print(f"resuming after {len(losses)} sequences", file=sys.stderr)
    model = load(args.model, args.dtype)
    begin, saved, first = time.time(), time.time(), len(losses)
    for i in range(first, len(sequences)):
        losses.append(sequence_nll(model, sequences[i]))
        last = i == len(sequences) - 1
        if last or time.time() - saved > 30:
            save_npz(args.output, sequences, losses)
            saved = time.time()
            rate = (time.time() - begin) / (i + 1 - first)
            print(f"{i + 1}/{len(sequences)} sequences, {rate:.1f} s each", file=sys.stderr, flush=True)
    total, n = sum(np.nansum(x.astype(np.float64)) for x in losses), sum(len(x) - 1 for x in losses)
    print(f"sequences {len(losses)} predicted {n} nll_nat_per_token {total / n:.6f}")


def cmd_compare(args):
    import h5py
    with np.load(args.npz) as f:
        ref = {k: f[k] for k in f.files}
    with h5py.File(args.run, "r") as h:
        n = min(len(ref["nll_sum"]), len(h["nll_sum"]))
        order = np.argsort(h["sequence_index"][:])
        if not np.array_equal(h["sequence_index"][:][order][:n], np.arange(n)):
            raise SystemExit(f"{args.run}: sequence_index is not 0, 1, 2, ...: compare an unsharded run")
        nll_sum, predicted = h["nll_sum"][:][order][:n], h["n_predicted"][:][order][:n]
        if not np.array_equal(predicted, ref["n_predicted"][:n]):
            raise SystemExit("n_predicted differs: the text was cut differently")
        mean, mean_ref = nll_sum.sum() / predicted.sum(), ref["nll_sum"][:n].sum() / predicted.sum()
        print(f"sequences {n} of {len(ref['nll_sum'])} and {len(h['nll_sum'])}, predicted {int(predicted.sum())}")
        print(f"mean nll {mean:.7f}, reference {mean_ref:.7f}, difference {mean - mean_ref:+.3e} nat/token")
        per = nll_sum / predicted - ref["nll_sum"][:n] / predicted
        print(f"largest sequence mean difference {np.abs(per).max():.3e}")
        if "tokens/nll" not in h:
            print("no tokens/nll in the run: tokens not compared")
            return
        splits, tokens, ids = h["tokens/row_splits"][:], h["tokens/nll"][:], h["tokens/id"][:]
        rows = np.concatenate([np.arange(splits[k], splits[k + 1]) for k in order[:n]]).astype(np.int64)
        end = int(ref["row_splits"][n])
        if not np.array_equal(ids[rows], ref["ids"][:end]):
            raise SystemExit("token ids differ")
        d = np.abs(tokens[rows].astype(np.float64) - ref["nll"][:end])
        if np.isnan(tokens[rows]).sum() != np.isnan(ref["nll"][:end]).sum():
            raise SystemExit("NaN in other places than the first token of each sequence")
        at = int(np.nanargmax(d))
        print(f"tokens: largest difference {np.nanmax(d):.3e} at token {at} (reference {ref['nll'][at]:.4f}), "
              f"99.9 % below {np.nanquantile(d, 0.999):.3e}")


def median_rate(work, n_tokens, runs):
    """Median and best tokens/s of `runs` calls, after one that is not counted."""
    work()
    rates = []
    for _ in range(runs):
        begin = time.perf_counter()
        work()
        rates.append(n_tokens / (time.perf_counter() - begin))
    return statistics.median(rates), max(rates)


def decode_steps(model, batch, context, steps):
    """Tokens of `steps` greedy steps of a batch after a context; returns a function that runs them and its token count."""
    from transformers import DynamicCache
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, model.config.vocab_size, (batch, context), generator=generator)

    def prefill():
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            return model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1:], cache

    def run(state):
        logits, cache = state
        with torch.no_grad():
            for _ in range(steps):
                logits = model(input_ids=logits.argmax(-1), past_key_values=cache, use_cache=True).logits
    return prefill, run


def cmd_speed(args):
    torch.set_num_threads(args.threads)
    model = load(args.model, args.dtype)
    dtype = {"bfloat16": "bf16", "float32": "f32"}[args.dtype]
    print("program,what,dtype,threads,batch,context_tok,runs,median_tok_per_s,max_tok_per_s")
    row = lambda what, batch, context, rates: print(
        f"transformers,{what},{dtype},{args.threads},{batch},{context},{args.runs},{rates[0]:.2f},{rates[1]:.2f}", flush=True)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, model.config.vocab_size, (2048,), generator=generator).tolist()
    row("prefill_nll", 1, 2048, median_rate(lambda: sequence_nll(model, ids), 2048, args.runs))
    for batch, context, steps in ((1, 16, 32), (16, 512, 16)):
        prefill, run = decode_steps(model, batch, context, steps)
        rates = []
        for k in range(args.runs + 1):
            state = prefill()
            begin = time.perf_counter()
            run(state)
            if k:
                rates.append(batch * steps / (time.perf_counter() - begin))
        row("decode", batch, context, (statistics.median(rates), max(rates)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sub = parser.add_subparsers(required=True)
    p = sub.add_parser("nll")
    p.add_argument("model")
    p.add_argument("text")
    p.add_argument("-o", "--output", required=True)
    p.add_argument("--max-length", type=int, default=2048)
    p.add_argument("--limit", type=int)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--dtype", default="float32")
    p.set_defaults(run_command=cmd_nll)
    p = sub.add_parser("compare")
    p.add_argument("npz")
    p.add_argument("run")
    p.set_defaults(run_command=cmd_compare)
    p = sub.add_parser("speed")
    p.add_argument("model")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    p.set_defaults(run_command=cmd_speed)
    logging.set_verbosity_error()
    args = parser.parse_args()
    args.run_command(args)


if __name__ == "__main__":
    main()
