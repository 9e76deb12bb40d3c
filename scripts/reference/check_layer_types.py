#!/usr/bin/env python3
"""Does transformers follow the config.json that `spkv export --format layer-types` writes?

    check_layer_types.py SPKV MODEL TEXT...      MODEL: a directory with safetensors and tokenizer.json

Two questions, each a line of output; exit status 0 when all are answered with yes:

1. The model, patched, in transformers: the same loss per token as `spkv profile --policy layout` of the unpatched one, and
   as `spkv profile --policy full` of the patched one (threshold 2e-3 nat for f32 weights, largest difference over all tokens).
2. Small random models of every type that the export patches: a layer that the layout makes local no longer sees beyond its
   window (the first token changed, late logits equal bit by bit), and one full layer sees it again.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import torch
import transformers

WINDOW, LAYERS, LENGTH = 16, 4, 96
TYPES = {
    "llama": transformers.LlamaConfig, "mistral": transformers.MistralConfig, "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config, "gemma2": transformers.Gemma2Config, "smollm3": transformers.SmolLM3Config,
}


def layout(path, n_layers, n_kv_heads, full):
    heads = [["global" if layer in full else "local"] * n_kv_heads for layer in range(n_layers)]
    path.write_text(json.dumps({"format": "spkv-layout", "version": 1, "model": {"n_layers": n_layers, "n_kv_heads": n_kv_heads,
                                "base_model_hash": ""}, "window": WINDOW, "sinks": 0, "heads": heads}))
    return path


def export(spkv, layout_path, model, out):
    out.mkdir()
    subprocess.run([spkv, "export", layout_path, "--format", "layer-types", "--model", model, "-o", out / "config.json",
                    "--quiet"], check=True, stdout=subprocess.DEVNULL)
    for name in ("model.safetensors", "tokenizer.json"):
        if (model / name).exists():
            (out / name).symlink_to((model / name).resolve())
    return out


def load(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def losses(model, ids):
    with torch.no_grad():
        logits = model(torch.tensor([ids], dtype=torch.long)).logits[0].double()
    return -torch.log_softmax(logits, -1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:], dtype=torch.long)].numpy()


def profile(spkv, model, texts, out, *options):
    subprocess.run([spkv, "profile", model, *texts, "-o", out, "--max-length", "256", "--limit", "6", "--record", "tokens",
                    "--dtype", "f32", "--quiet", *options], check=True, stdout=subprocess.DEVNULL)
    with h5py.File(out) as run:
        split, ids, nll = (run["tokens/" + name][:] for name in ("row_splits", "id", "nll"))
    return [(ids[a:b].tolist(), nll[a + 1:b]) for a, b in zip(split, split[1:])]


def check_model(spkv, model, texts, work):
    config = json.loads((model / "config.json").read_text())
    n_layers, n_kv_heads = config["num_hidden_layers"], config["num_key_value_heads"]
    plan = layout(work / "layout.json", n_layers, n_kv_heads, range(1, n_layers, 3))
    patched = export(spkv, plan, model, work / "patched")
    ours = profile(spkv, model, texts, work / "layout.h5", "--policy", f"layout:file={plan}")
    again = profile(spkv, patched, texts, work / "patched.h5", "--policy", "full")
    dense = profile(spkv, model, texts, work / "full.h5", "--policy", "full")
    theirs = load(patched)
    print(f"{model}: read as {type(theirs).__name__}, {theirs.config.layer_types.count('full_attention')} of {n_layers} layers full")
    worst = worst_again = effect = 0.0
    for (ids, nll), (_, nll_again), (_, nll_dense) in zip(ours, again, dense):
        expected = losses(theirs, ids)
        worst = max(worst, np.abs(expected - nll).max())
        worst_again = max(worst_again, np.abs(expected - nll_again).max())
        effect = max(effect, np.abs(nll_dense - nll).max())
    print(f"  largest difference of a token's loss: {worst:.2e} to the layout policy, {worst_again:.2e} to the patched model "
          f"in spkv; the layout itself changes losses by up to {effect:.2f}")
    return worst < 2e-3 and worst_again < 2e-3 and effect > 0.05


def small_model(config_class, path):
    torch.manual_seed(7)
    extra = {"no_rope_layers": [1] * LAYERS} if config_class is transformers.SmolLM3Config else {}
    if config_class is transformers.Gemma2Config:
        extra = {"layer_types": ["full_attention"] * LAYERS, "sliding_window": WINDOW}
    if config_class is transformers.MistralConfig:
        extra = {"sliding_window": None}
    config = config_class(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=LAYERS, num_attention_heads=4,
                          num_key_value_heads=2, head_dim=16, max_position_embeddings=256, bos_token_id=1, eos_token_id=2,
                          pad_token_id=None, **extra)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


def sees_first(model):
    """Whether the last logits depend on the first token."""
    ids = torch.randint(3, 64, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    other = ids.clone()
    other[0, 0] = (other[0, 0] + 1) % 64
    with torch.no_grad():
        return not torch.equal(model(ids).logits[0, -1], model(other).logits[0, -1])


def check_type(spkv, name, config_class, work):
    model = small_model(config_class, work / name)
    before = sees_first(load(model))
    answers = []
    for full in ((), (2,)):
        plan = layout(work / f"{name}-{len(full)}.json", LAYERS, 2, full)
        theirs = load(export(spkv, plan, model, work / f"{name}-{len(full)}"))
        answers.append(sees_first(theirs))
    # LAYERS * (WINDOW - 1) < LENGTH - 1: without a full layer the first token is out of reach.
    good = before and answers == [False, True]
    print(f"{name}: {'follows' if good else 'DOES NOT FOLLOW'} layer_types (read as {type(theirs).__name__})")
    return good


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        good = check_model(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:], work)
        for model_type, config_class in TYPES.items():
            good &= check_type(sys.argv[1], model_type, config_class, work)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
