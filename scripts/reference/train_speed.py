"""Training speed of a dense Hugging Face model through transformers (sdpa), as CSV on stdout: forward, backward, clipping and
AdamW on random tokens, all weights trained.

    train_speed.py MODEL [--context 2048] [--sequences 1] [--threads 2] [--steps 3] [--dtype float32]

One step before the timed ones is not counted. `spkv train` is timed beside it by scripts/bench-training.
"""

import argparse
import statistics
import time

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--sequences", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    args = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype), attn_implementation="sdpa")
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.95), weight_decay=0.1)
    rates = []
    for step in range(args.steps + 1):
        ids = torch.randint(3, model.config.vocab_size, (args.sequences, args.context))
        begin = time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step:
            rates.append(ids.numel() / (time.perf_counter() - begin))
    print(f"transformers,dense,{args.dtype},{args.threads},{args.sequences},{args.context},{args.steps},"
          f"{statistics.median(rates):.2f},{min(rates):.2f}")


if __name__ == "__main__":
    main()
