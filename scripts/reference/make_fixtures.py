#!/usr/bin/env python3
"""Makes tests/data/models: small random models of every family and what SP-KV must compute on them.

    make_fixtures.py [--out DIR] [CASE...]     write the cases (default: all, to tests/data/models)
    make_fixtures.py --check [DIR]             make them again elsewhere and compare byte for byte

Needs torch, transformers and safetensors (versions in README.md). One thread, fixed seeds. What each case covers and what
the files hold is in README.md.
"""

import argparse
import filecmp
import json
import os
import shutil
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

import spkv_torch
from spkv_torch import Policy, PredictorConfig, SpkvModel, UtilityPredictor

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
MARGIN = 1e-3        # no utility may come closer to the threshold (static gates excepted: they are exact)
LOGIT_STRIDE = 5     # logits are stored for rows 0, 5, 10, ... and the last one
EXPECTED_PHILOX = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)  # key 0, counter 0: Random123's known answer


def case(name, cls, config, dtype, placement, predictor, sinks=0, lengths=(3, 40, 97), **extra):
    return dict(name=name, cls=cls, config=config, dtype=dtype, placement=placement, predictor=predictor, sinks=sinks,
                lengths=lengths, **extra)


def predictor(activation, output, inp, window, hidden=12, **extra):
    return dict(activation=activation, output=output, input=inp, window=window, hidden=hidden, **extra)


LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
YARN_FULL = {"rope_type": "yarn", "rope_theta": 50000.0, "factor": 8.0, "original_max_position_embeddings": 16,
             "beta_fast": 8.0, "beta_slow": 2.0, "mscale": 0.9, "mscale_all_dim": 0.6, "truncate": False}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}

CASES = [
    case("llama-gqa", "Llama", dict(hidden_size=42, intermediate_size=56, num_hidden_layers=3, num_attention_heads=6,
         num_key_value_heads=2, head_dim=12, vocab_size=131, tie_word_embeddings=False), "float32", "model",
         predictor("silu", "sigmoid", "normed", 8)),
    case("llama-llama3", "Llama", dict(hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
         num_key_value_heads=1, head_dim=20, vocab_size=149, tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
         rope_parameters=LLAMA3_ROPE), "bfloat16", "beside", predictor("gelu", "sigmoid", "residual", 16), sinks=4,
         lengths=(2, 40, 97), old_spelling=True),
    case("llama-yarn", "Llama", dict(hidden_size=48, intermediate_size=72, num_hidden_layers=3, num_attention_heads=6,
         num_key_value_heads=3, head_dim=16, vocab_size=120, tie_word_embeddings=False, rope_parameters=YARN), "bfloat16",
         "model", predictor("none", "identity", "normed", 12, comparison=">"), sinks=2, shard="60KB"),
    case("llama-linear", "Llama", dict(hidden_size=36, intermediate_size=50, num_hidden_layers=2, num_attention_heads=3,
         num_key_value_heads=3, vocab_size=131, tie_word_embeddings=True, rope_parameters=LINEAR), "float32", "own",
         predictor("silu", "identity", "residual", 10), lengths=(1, 41, 97), shard="60KB", old_spelling=True),
    case("llama-lora", "Llama", dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
         num_key_value_heads=2, vocab_size=131, tie_word_embeddings=False), "bfloat16", "own",
         predictor("gelu", "identity", "normed", 12, lora_r=3, lora_alpha=5.0), lengths=(40, 97)),
    case("llama-static", "Llama", dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
         num_key_value_heads=4, vocab_size=131, tie_word_embeddings=False), "float32", "beside",
         predictor("silu", "sigmoid", "normed", 8, hidden=0, static=[[1.5, -2.0, 0.25, -0.25], [-1.0, 0.75, -3.0, 2.0],
                                                                    [0.5, -0.5, 4.0, -4.0]]), lengths=(40, 97)),
    case("llama-static-tie", "Llama", dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
         num_key_value_heads=2, vocab_size=101, tie_word_embeddings=True), "bfloat16", "own",
         predictor("silu", "identity", "normed", 8, hidden=0, static=[[0.5, 0.75], [0.75, 0.5]], comparison=">"),
         lengths=(40, 97)),
    case("mistral-full", "Mistral", dict(hidden_size=40, intermediate_size=64, num_hidden_layers=3, num_attention_heads=5,
         num_key_value_heads=1, head_dim=14, vocab_size=127, sliding_window=None), "float16", "own",
         predictor("none", "sigmoid", "residual", 32), sinks=1),
    case("mistral-sliding", "Mistral", dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
         num_key_value_heads=2, vocab_size=127, sliding_window=20), "bfloat16", None, None, lengths=(40, 97)),
    case("qwen2-sliding", "Qwen2", dict(hidden_size=48, intermediate_size=64, num_hidden_layers=4, num_attention_heads=6,
         num_key_value_heads=2, vocab_size=137, tie_word_embeddings=True, use_sliding_window=True, sliding_window=24,
         max_window_layers=2), "bfloat16", "beside", predictor("silu", "identity", "normed", 16), sinks=3, shard="70KB"),
    case("qwen2-full", "Qwen2", dict(hidden_size=40, intermediate_size=60, num_hidden_layers=2, num_attention_heads=4,
         num_key_value_heads=4, vocab_size=137, tie_word_embeddings=False, rope_parameters={"rope_type": "default",
         "rope_theta": 1000000.0}), "float32", "model", predictor("none", "identity", "residual", 8), old_spelling=True),
    case("qwen3", "Qwen3", dict(hidden_size=36, intermediate_size=52, num_hidden_layers=3, num_attention_heads=6,
         num_key_value_heads=3, head_dim=20, vocab_size=131, tie_word_embeddings=True, rope_parameters=YARN_FULL),
         "bfloat16", "own", predictor("gelu", "identity", "residual", 24), sinks=4),
    case("qwen3-bias", "Qwen3", dict(hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4,
         num_key_value_heads=2, head_dim=10, vocab_size=131, tie_word_embeddings=False, attention_bias=True), "float32",
         "model", predictor("none", "sigmoid", "normed", 8)),
    case("gemma2", "Gemma2", dict(hidden_size=40, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
         num_key_value_heads=2, head_dim=14, vocab_size=131, query_pre_attn_scalar=22, sliding_window=20,
         attn_logit_softcapping=6.0, final_logit_softcapping=8.0), "bfloat16", "model",
         predictor("silu", "sigmoid", "residual", 12), sinks=2),
    case("gemma3", "Gemma3", dict(hidden_size=40, intermediate_size=56, num_hidden_layers=4, num_attention_heads=4,
         num_key_value_heads=1, head_dim=16, vocab_size=131, query_pre_attn_scalar=12, sliding_window=16,
         layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
         rope_parameters={"full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100000.0},
                          "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0}}), "bfloat16", "own",
         predictor("gelu", "sigmoid", "normed", 10)),
    case("gemma3-pattern", "Gemma3", dict(hidden_size=36, intermediate_size=48, num_hidden_layers=3, num_attention_heads=3,
         num_key_value_heads=3, head_dim=10, vocab_size=101, query_pre_attn_scalar=10, sliding_window=12,
         sliding_window_pattern=3), "float32", "beside", predictor("silu", "sigmoid", "normed", 16), sinks=1,
         old_spelling=True),
    case("smollm3", "SmolLM3", dict(hidden_size=36, intermediate_size=56, num_hidden_layers=4, num_attention_heads=6,
         num_key_value_heads=2, vocab_size=131, no_rope_layer_interval=2, pad_token_id=0), "bfloat16", "beside",
         predictor("none", "identity", "normed", 12), sinks=2),
    case("smollm3-sliding", "SmolLM3", dict(hidden_size=48, intermediate_size=56, num_hidden_layers=3,
         num_attention_heads=4, num_key_value_heads=2, vocab_size=131, tie_word_embeddings=False, use_sliding_window=True,
         sliding_window=14, no_rope_layers=[1, 0, 1], pad_token_id=0), "bfloat16", "model",
         predictor("silu", "sigmoid", "normed", 20)),
    case("qwen2-soft", "Qwen2", dict(hidden_size=32, intermediate_size=44, num_hidden_layers=3, num_attention_heads=4,
         num_key_value_heads=2, vocab_size=113, tie_word_embeddings=True, use_sliding_window=True, sliding_window=24,
         max_window_layers=2), "bfloat16", "model", predictor("silu", "sigmoid", "normed", 12), sinks=1, lengths=(40, 97)),
    case("smollm3-soft", "SmolLM3", dict(hidden_size=40, intermediate_size=52, num_hidden_layers=3, num_attention_heads=4,
         num_key_value_heads=2, vocab_size=113, no_rope_layer_interval=2, pad_token_id=0), "bfloat16", "model",
         predictor("silu", "sigmoid", "residual", 12), lengths=(40, 97)),
]


# --- random models ----------------------------------------------------------------------------------------------------

def build_model(c, generator):
    """The transformers model of a case with weights for which attention is peaked and logits differ."""
    config_cls = getattr(transformers, c["cls"] + ("TextConfig" if c["cls"] == "Gemma3" else "Config"))
    model_cls = getattr(transformers, c["cls"] + "ForCausalLM")
    config = config_cls(max_position_embeddings=256, bos_token_id=1, eos_token_id=2, **c["config"])
    model = model_cls(config)
    gemma = c["cls"].startswith("Gemma")
    d, tied = config.hidden_size, config.tie_word_embeddings
    normal = lambda shape, std: torch.randn(shape, generator=generator) * std
    for name, p in sorted(model.named_parameters()):
        with torch.no_grad():
            if name.endswith("norm.weight"):
                p.copy_(normal(p.shape, 0.25) + (0.0 if gemma else 1.0))
            elif name.endswith(".bias"):
                p.copy_(normal(p.shape, 0.4))
            elif "embed_tokens" in name:  # tied: also the output matrix; Gemma multiplies the input by sqrt(d)
                p.copy_(normal(p.shape, (1.5 if gemma else 3.0) / d**0.5 if tied else 1.0))
            elif "lm_head" in name:
                p.copy_(normal(p.shape, 3.0 / d**0.5))
            elif "q_proj" in name or "k_proj" in name:
                p.copy_(normal(p.shape, 1.4 / d**0.5))
            else:  # v, o, MLP
                p.copy_(normal(p.shape, 0.9 / p.shape[1]**0.5))
    model.tie_weights()
    return model.to(getattr(torch, c["dtype"])).eval()


def build_predictors(c, model, generator):
    """Predictor modules in the model and low-rank tensors; {} without a predictor."""
    p, config = c["predictor"], model.config
    sliding = spkv_torch.sliding_windows(config)
    lora = {}
    normal = lambda shape, std: torch.randn(shape, generator=generator) * std
    for i, layer in enumerate(model.model.layers):
        if sliding[i]:
            continue
        n_kv, d, hidden = config.num_key_value_heads, config.hidden_size, p["hidden"]
        predictor_ = UtilityPredictor(d, hidden, n_kv, p["activation"], p["output"])
        with torch.no_grad():
            if "static" in p:
                predictor_.fc2.bias.copy_(torch.tensor(p["static"][i]))
            else:
                predictor_.fc1.weight.copy_(normal((hidden, d), 1.5 / d**0.5))
                predictor_.fc1.bias.copy_(normal((hidden,), 0.3))
                predictor_.fc2.weight.copy_(normal((n_kv, hidden), 4.0 / hidden**0.5))
                predictor_.fc2.bias.copy_(normal((n_kv,), 0.8))
        layer.self_attn.utility_predictor = predictor_.to(next(model.parameters()).dtype)
        if p.get("lora_r"):
            for proj in ("q_proj", "k_proj", "v_proj", "o_proj"):
                out, inp = getattr(layer.self_attn, proj).weight.shape
                stem = f"model.layers.{i}.self_attn.{proj}"
                dtype = next(model.parameters()).dtype
                lora[stem + ".lora_A.weight"] = normal((p["lora_r"], inp), 1.0 / inp**0.5).to(dtype)
                lora[stem + ".lora_B.weight"] = normal((out, p["lora_r"]), 0.2).to(dtype)
    return lora


def spkv_config(c, threshold):
    p = c["predictor"]
    return PredictorConfig(window=p["window"], threshold=threshold, comparison=p.get("comparison", ">="), input=p["input"],
                           activation=p["activation"], output=p["output"], lora_r=p.get("lora_r", 0),
                           lora_alpha=p.get("lora_alpha", 0.0))


def save_model(c, model, spkv, lora, path):
    """The Hugging Face directory. Predictor placement: "model" (among the tensors, "spkv" in config.json), "beside"
    (spkv_config.json and spkv.safetensors in the same directory), "own" (the same two in predictor/)."""
    names = [n for n in model.state_dict() if spkv_torch.PREDICTOR_PART in n]
    predictors = {n: model.state_dict()[n].clone() for n in names}
    predictors.update(lora)
    if c["placement"] == "model":
        model.config.spkv = spkv.to_json()
    else:
        for layer in model.model.layers:
            if hasattr(layer.self_attn, "utility_predictor"):
                del layer.self_attn.utility_predictor
    model.save_pretrained(path, **({"max_shard_size": c["shard"]} if "shard" in c else {}))
    if c.get("old_spelling"):
        respell_config(os.path.join(path, "config.json"))
    if c["placement"] in ("beside", "own"):
        where = path if c["placement"] == "beside" else os.path.join(path, "predictor")
        os.makedirs(where, exist_ok=True)
        save_file(predictors, os.path.join(where, "spkv.safetensors"))
        write_text(os.path.join(where, "spkv_config.json"), json.dumps(
            {**spkv.to_json(), "base_model_name_or_path": ".." if c["placement"] == "own" else "."}, indent=2) + "\n")


def respell_config(path):
    """Rewrites a config.json of transformers 5 as transformers 4 wrote it: rope_theta and rope_scaling, torch_dtype."""
    with open(path, encoding="utf-8", newline="") as f:
        config = json.load(f)
    config["torch_dtype"] = config.pop("dtype")
    rope = config.pop("rope_parameters")
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        config.pop("layer_types")  # derived from sliding_window_pattern in such files
        config["sliding_window_pattern"] = config.pop("_sliding_window_pattern", config.get("sliding_window_pattern"))
        rope = rope["full_attention"]
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


# --- expectations -----------------------------------------------------------------------------------------------------

def make_tokens(c, rng):
    """Random ids with repetitions, BOS first."""
    vocab = c["config"]["vocab_size"]
    out = []
    for n in c["lengths"]:
        ids = [1] + [int(x) for x in rng.integers(3, vocab, n - 1)]
        for i in range(20, n - 6, 23):  # copies of an earlier run, so that far keys matter
            ids[i:i + 6] = ids[i - 17:i - 11]
        out.append(ids)
    return out


def make_policies(c, model, rng, threshold):
    p, config = c["predictor"], model.model.config
    window = p["window"] if p else 16
    sinks, shape = c["sinks"], (config.num_hidden_layers, config.num_key_value_heads)
    heads = np.where(rng.random(shape) < 0.4, "global", "local").tolist()
    full_layers = [layer for layer, own in enumerate(model.sliding) if not own]
    for layer, own in enumerate(model.sliding):
        if own:
            heads[layer] = ["sliding"] * shape[1]
    if full_layers:
        heads[full_layers[0]][0], heads[full_layers[-1]][-1] = "global", "local"
    windows = rng.integers(5, 28, shape).tolist()
    out = {"full": Policy("full", window=window, sinks=sinks), "window": Policy("window", window=window, sinks=4)}
    if p:
        gate = dict(threshold=threshold, comparison=p.get("comparison", ">="))
        out["spkv"] = Policy("spkv", window=window, sinks=sinks, **gate)
        out["spkv_long"] = Policy("spkv", window=128, **gate)
    out["random"] = Policy("random", window=window, sinks=sinks, density=0.3, seed=12345678901234567)
    out["layout"] = Policy("layout", window=window, sinks=2, heads=heads)
    out["layout_windows"] = Policy("layout", window=window, heads=heads, windows=windows)
    return out


def policy_json(p):
    """Only the parameters that this policy reads."""
    used = {"full": (), "window": (), "spkv": ("threshold", "comparison"), "random": ("density", "seed"),
            "layout": ("heads", "windows")}[p.name]
    return {"policy": p.name, "window": p.window, "sinks": p.sinks,
            **{k: getattr(p, k) for k in used if getattr(p, k) is not None}}


def logit_rows(n):
    return sorted(set(range(0, n, LOGIT_STRIDE)) | {n - 1})


def run_case(model, sequences, policies):
    """({name: f32 tensor}, {(sequence, policy): Result})"""
    tensors, results = {}, {}
    for i, ids in enumerate(sequences):
        for name, policy in policies.items():
            r = results[i, name] = model.run(ids, policy, sequence=i)
            at = f"seq{i}.{name}."
            tensors[at + "logits"] = r.logits[logit_rows(len(ids))].clone()
            tensors[at + "nll"] = r.nll
            tensors[at + "kept"] = r.kept.float()
            tensors[at + "visible_pairs"] = r.visible_pairs.float()
            if policy.name in ("spkv", "random"):
                tensors[at + "open"] = r.open.float()
                tensors[at + "utility"] = r.utility
            if policy.name == "full":
                tensors[at + "far_attention"] = r.far_attention
                tensors[at + "sink_attention"] = r.sink_attention
                tensors[at + "future_max"] = r.future_max
                tensors[at + "future_mean"] = r.future_mean
    return tensors, results


def fitness(c, results, sequences, threshold):
    """None when the expectations can tell right from wrong, else the reason why not."""
    if c["predictor"] is None:
        return None
    utility = torch.cat([results[i, "spkv"].utility for i in range(len(sequences))])
    is_open = torch.cat([results[i, "spkv"].open for i in range(len(sequences))])
    scored = torch.isfinite(utility)
    for i in range(len(sequences)):
        for name in ("spkv", "spkv_long"):
            u = results[i, name].utility
            if "static" not in c["predictor"] and bool(((u - threshold).abs()[torch.isfinite(u)] <= MARGIN).any()):
                return "a utility is close to the threshold"
    share = float(is_open[scored].float().mean())
    if not 0.3 <= share <= 0.7:
        return f"{share:.0%} of the gates are open"
    if "static" not in c["predictor"]:
        per_head = is_open.float().mean(0)[scored[0]]
        if bool((per_head < 0.05).any()) or bool((per_head > 0.95).any()):
            return "a head is always open or always closed"
    last = len(sequences) - 1
    scale = results[last, "full"].logits.abs().max()
    for a, b in (("full", "spkv"), ("window", "spkv"), ("full", "window"), ("spkv", "random"), ("layout", "window")):
        if float((results[last, a].logits - results[last, b].logits).abs().max()) < 0.05 * float(scale):
            return f"{a} and {b} agree: attention beyond the window does not matter"
    return None


def check_against_stock(path, model, sequences, results):
    """Policy full is the model as transformers runs it. Returns the largest difference and transformers' own bf16 one."""
    stock = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    lora = spkv_torch.read_predictor(path, predictor_dir(path))
    if lora[0] is not None:
        spkv_torch.merge_lora(stock, *lora)
    worst, scale, bf16 = 0.0, 0.0, 0.0
    with torch.no_grad():
        logits = [stock(torch.tensor([ids])).logits[0] for ids in sequences]
        stock = stock.to(torch.bfloat16)
        rounded = [stock(torch.tensor([ids])).logits[0].float() for ids in sequences]
    for i, ids in enumerate(sequences):
        full = results[i, "full"].logits
        worst = max(worst, float((full - logits[i]).abs().max()))
        scale = max(scale, float(full.abs().max()))
        bf16 = max(bf16, float((full - rounded[i]).abs().max()))
    if worst > 2e-6 * scale:
        raise SystemExit(f"{path}: policy full differs from transformers by {worst:g} (largest logit {scale:g})")
    return worst / scale, bf16 / scale


def predictor_dir(path):
    own = os.path.join(path, "predictor")
    return own if os.path.isdir(own) else None


def make_case(c, out):
    """Tries seeds until the expectations are telling, then writes the directory."""
    number = [k["name"] for k in CASES].index(c["name"])
    path = os.path.join(out, c["name"])
    for attempt in range(400):
        shutil.rmtree(path, ignore_errors=True)
        seed = 1000 * number + attempt
        generator = torch.Generator().manual_seed(seed)
        threshold = 0.5
        built = build_model(c, generator)
        lora = build_predictors(c, built, generator) if c["predictor"] else {}
        save_model(c, built, spkv_config(c, threshold) if c["predictor"] else None, lora, path)
        model = SpkvModel.load(path, predictor_dir(path))
        rng = np.random.Generator(np.random.Philox(seed))
        sequences = make_tokens(c, rng)
        policies = make_policies(c, model, rng, threshold)
        tensors, results = run_case(model, sequences, policies)
        reason = fitness(c, results, sequences, threshold)
        if reason is None:
            break
    else:
        raise SystemExit(f"{c['name']}: no seed fits, last reason: {reason}")
    error, bf16 = check_against_stock(path, model, sequences, results)
    save_file({k: v.contiguous() for k, v in sorted(tensors.items())}, os.path.join(path, "expected.safetensors"))
    write_text(os.path.join(path, "case.json"), case_json(c, model, sequences, policies, seed))
    print_summary(c, model, results, sequences, attempt, error, bf16, path)


def case_json(c, model, sequences, policies, seed):
    line = lambda v: json.dumps(v, separators=(", ", ": "))
    head = {"case": c["name"], "model_type": model.model.config.model_type, "seed": seed, "dtype": c["dtype"],
            "predictor": {"model": ".", "beside": ".", "own": "predictor", None: None}[c["placement"]],
            "placement": c["placement"], "sliding_window": model.sliding}
    rows = [f' {line(k)}: {line(v)}' for k, v in head.items()]
    rows.append(' "policies": {\n' + ",\n".join(f"  {line(k)}: {line(policy_json(p))}" for k, p in policies.items())
                + "\n }")
    rows.append(' "sequences": [\n' + ",\n".join(
        f'  {{"tokens": {line(ids)},\n   "logit_rows": {line(logit_rows(len(ids)))}}}' for ids in sequences) + "\n ]")
    return "{\n" + ",\n".join(rows) + "\n}\n"


def print_summary(c, model, results, sequences, attempt, error, bf16, path):
    last = len(sequences) - 1
    top = results[last, "full"].logits.topk(2).values
    gap, loss = float((top[:, 0] - top[:, 1]).median()), float(results[last, "full"].nll[1:].mean())
    opened = ""
    if c["predictor"]:
        is_open = torch.cat([results[i, "spkv"].open for i in range(last + 1)])
        scored = torch.isfinite(torch.cat([results[i, "spkv"].utility for i in range(last + 1)]))
        opened = f"{float(is_open[scored].float().mean()):.2f} open, "
    size = lambda p: sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(p) for f in files)
    weights = sum(os.path.getsize(os.path.join(path, f)) for f in os.listdir(path) if f.startswith("model"))
    print(f"{c['name']:17s} attempt {attempt:3d}: {opened}median top-2 gap {gap:.2f}, nll {loss:.2f}, full vs stock "
          f"{error:.1e}, stock bf16 {bf16:.1e}, weights {weights >> 10} KiB, all {size(path) >> 10} KiB", flush=True)


def write_text(path, text):
    with open(path, "w", encoding="utf-8", newline="") as f:
        f.write(text)


def check(make, directory):
    """Calls make(temporary directory) and compares what it wrote with `directory`, but for the README: an exit status."""
    with tempfile.TemporaryDirectory() as tmp:
        make(tmp)
        listing = lambda root: sorted(os.path.relpath(os.path.join(d, f), root) for d, _, files in os.walk(root)
                                      for f in files if f != "README.md")
        different = sorted(set(listing(tmp)) ^ set(listing(directory)))
        if different:
            print("different files:", different)
        for name in sorted(set(listing(tmp)) & set(listing(directory))):
            a, b = os.path.join(tmp, name), os.path.join(directory, name)
            if not filecmp.cmp(a, b, shallow=False):
                different.append(name)
                print(f"differs: {name}{largest_difference(a, b)}")
    print("NOT equal" if different else "equal, byte for byte")
    return 1 if different else 0


def set_up():
    """One thread and no chance, so that everyone gets the same bytes."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def largest_difference(a, b):
    """How far apart two safetensors files are, for machines whose arithmetic rounds differently."""
    if not a.endswith(".safetensors"):
        return ""
    x, y = load_file(a), load_file(b)
    if {k: v.shape for k, v in x.items()} != {k: v.shape for k, v in y.items()}:
        return ": other names or shapes"
    worst = max((float((x[k].float() - y[k].float()).abs().nan_to_num().max()), k) for k in x)
    return f": at most {worst[0]:g} in {worst[1]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.path.join(ROOT, "tests", "data", "models")
    parser.add_argument("--out", default=default)
    parser.add_argument("--check", nargs="?", const=default, metavar="DIR")
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    set_up()
    if tuple(int(v) for v in spkv_torch.philox(0, (0, 0, 0, 0))) != EXPECTED_PHILOX:
        raise SystemExit("Philox4x32-10 does not give its known answer")
    if args.check:
        sys.exit(check(lambda out: [make_case(c, out) for c in CASES], args.check))
    for c in CASES:
        if not args.cases or c["name"] in args.cases:
            make_case(c, args.out)


if __name__ == "__main__":
    main()
