#!/usr/bin/env python3
"""How far transformers' own bf16 lies from its f32 on the models of tests/data/models, policy full: per case the largest
error of a stored logit over the largest logit of its sequence. Written to tests/data/bf16_deviation.json: a bf16 path of ours
is judged against f32, with the library's own deviation beside it."""
import json
import pathlib

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data"


def deviation(case):
    expected = safe_open(str(case / "expected.safetensors"), "pt")
    model = AutoModelForCausalLM.from_pretrained(case, dtype=torch.bfloat16, attn_implementation="eager")
    worst = 0.0
    for i, sequence in enumerate(json.loads((case / "case.json").read_text())["sequences"]):
        with torch.no_grad():
            logits = model(torch.tensor([sequence["tokens"]])).logits[0].float()[sequence["logit_rows"]]
        want = expected.get_tensor(f"seq{i}.full.logits")
        worst = max(worst, ((logits - want).abs().max() / want.abs().max()).item())
    return round(worst, 4)


def main():
    torch.set_num_threads(1)
    cases = sorted(p for p in (ROOT / "models").iterdir() if (p / "case.json").exists())
    table = {p.name: deviation(p) for p in cases if p.name != "llama-lora"}  # transformers does not merge those updates
    (ROOT / "bf16_deviation.json").write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
