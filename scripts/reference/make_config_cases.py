#!/usr/bin/env python3
"""What transformers makes of config.json: expectations for tests/test_config.c and tests/test_rope.c.

    python scripts/reference/make_config_cases.py [OUTPUT_DIR]      (default: tests/data/config)

Every case is a config.json as it could lie in a checkpoint. It is read by AutoConfig, the model is built by
AutoModelForCausalLM (on the meta device where the defaults make it large), and what counts is read off the built modules:
shapes of projections, biases, norms, attention scale, inverse frequencies. Sliding windows are measured: a small model
runs on 24 tokens with eager attention, and the window of a layer is the farthest key with a weight. Made with
transformers 5.23 and torch 2.15 in f32; cases.json and rope.json are the outputs."""
import json
import os
import sys
import tempfile

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

SMALL = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=64, max_position_embeddings=64)
N_TOKENS = 24
POSITIONS = [0, 1, 2, 17, 511, 4095, 8000]


def small(model_type, **keys):
    """A small config; a key given as ... is left out."""
    config = {**SMALL, "model_type": model_type, **({"pad_token_id": None} if model_type == "smollm3" else {}), **keys}
    return {key: value for key, value in config.items() if value is not ...}


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
MIXED = ["sliding_attention", "full_attention"] * 2

CASES = {
    # every type with nothing but its name: the defaults
    "llama defaults": {"model_type": "llama"},
    "mistral defaults": {"model_type": "mistral"},
    "qwen2 defaults": {"model_type": "qwen2"},
    "qwen3 defaults": {"model_type": "qwen3"},
    "gemma2 defaults": {"model_type": "gemma2"},
    "gemma3_text defaults": {"model_type": "gemma3_text"},
    "smollm3 defaults": {"model_type": "smollm3"},
    # llama
    "llama small": small("llama", rms_norm_eps=1e-5, tie_word_embeddings=True),
    "llama kv heads absent": small("llama", num_key_value_heads=...),
    "llama kv heads and head_dim null": small("llama", num_key_value_heads=None, head_dim=None),
    "llama head_dim apart": small("llama", head_dim=12),
    "llama biases": small("llama", attention_bias=True, mlp_bias=True),
    "llama gelu": small("llama", hidden_act="gelu"),
    "llama eos list": small("llama", eos_token_id=[3, 7, 9], bos_token_id=5),
    "llama eos null": small("llama", eos_token_id=None, bos_token_id=None),
    "llama rope_theta": small("llama", rope_theta=500000.0),
    "llama rope_parameters default": small("llama", rope_parameters={"rope_type": "default", "rope_theta": 250000.0}),
    "llama linear, old spelling": small("llama", rope_theta=20000.0, rope_scaling={"type": "linear", "factor": 3.0}),
    "llama linear, theta inside": small("llama", rope_theta=500.0,
                                        rope_scaling={"type": "linear", "factor": 2.0, "rope_theta": 9000.0}),
    "llama linear, new spelling": small("llama", rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 2e4}),
    "llama both spellings": small("llama", rope_theta=500.0, rope_scaling={"type": "linear", "factor": 2.0},
                                  rope_parameters={"rope_type": "default", "rope_theta": 7000.0}),
    "llama empty rope_scaling": small("llama", rope_theta=500.0, rope_scaling={},
                                      rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 7000.0}),
    "llama rope_type beside type": small("llama", rope_scaling={"rope_type": "linear", "type": "dynamic", "factor": 2.0}),
    "llama dynamic": small("llama", rope_scaling={"type": "dynamic", "factor": 2.0}),
    "llama3": small("llama", head_dim=64, rope_theta=500000.0, max_position_embeddings=256, rope_scaling=LLAMA3),
    "llama3, original length absent": small("llama", head_dim=64, rope_scaling={
        key: value for key, value in LLAMA3.items() if key != "original_max_position_embeddings"}),
    "llama3, original length at the top": small("llama", head_dim=64, original_max_position_embeddings=16,
                                                rope_scaling=LLAMA3),
    "llama yarn": small("llama", head_dim=64, rope_scaling={"rope_type": "yarn", "factor": 4.0,
                                                            "original_max_position_embeddings": 4096}),
    "llama yarn, every key": small("llama", head_dim=64, rope_scaling={
        "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 2048, "beta_fast": 24, "beta_slow": 2,
        "mscale": 0.707, "mscale_all_dim": 1.2, "truncate": False}),
    "llama yarn, attention_factor": small("llama", head_dim=64, rope_scaling={
        "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1000, "attention_factor": 1.25}),
    "llama yarn, long": small("llama", head_dim=64, rope_scaling={
        "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 131072}),
    "llama yarn, longest": small("llama", head_dim=64, rope_scaling={
        "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1 << 30}),
    "llama head_dim 80": small("llama", head_dim=80, rope_theta=300000.0),
    "llama yarn, factor null": small("llama", head_dim=64, max_position_embeddings=96, rope_scaling={
        "rope_type": "yarn", "factor": None, "original_max_position_embeddings": 32}),
    # mistral
    "mistral window": small("mistral", sliding_window=5),
    "mistral window null": small("mistral", sliding_window=None),
    "mistral kv heads absent": small("mistral", num_attention_heads=8, num_key_value_heads=...),
    "mistral layer_types": small("mistral", head_dim=8, sliding_window=5, layer_types=MIXED),
    # qwen
    "qwen2 window unused": small("qwen2", sliding_window=5),
    "qwen2 window used": small("qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=2),
    "qwen2 window used, layers default": small("qwen2", use_sliding_window=True, sliding_window=5),
    "qwen2 window used but null": small("qwen2", use_sliding_window=True, sliding_window=None, max_window_layers=2),
    "qwen2 layer_types": small("qwen2", use_sliding_window=True, sliding_window=7, layer_types=MIXED),
    "qwen2 head_dim": small("qwen2", head_dim=12),
    "qwen3 small": small("qwen3"),
    "qwen3 bias": small("qwen3", head_dim=6, attention_bias=True, rope_theta=1e6, torch_dtype="bfloat16"),
    "qwen3 window": small("qwen3", head_dim=8, use_sliding_window=True, sliding_window=5, max_window_layers=3),
    "qwen3 yarn": small("qwen3", head_dim=128, rope_theta=1e6, rope_scaling={
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
    # gemma
    "gemma2 window": small("gemma2", head_dim=8, sliding_window=5, query_pre_attn_scalar=144),
    "gemma2 caps null": small("gemma2", head_dim=8, sliding_window=5, attn_logit_softcapping=None,
                              final_logit_softcapping=None, tie_word_embeddings=False, attention_bias=True),
    "gemma2 layer_types": small("gemma2", head_dim=8, sliding_window=5, layer_types=["full_attention"] * 3
                                + ["sliding_attention"], hidden_act="silu"),
    "gemma3 window": small("gemma3_text", head_dim=8, sliding_window=5, num_hidden_layers=7),
    "gemma3 pattern": small("gemma3_text", head_dim=8, sliding_window=5, sliding_window_pattern=2, rope_theta=5e5,
                            rope_local_base_freq=2e4),
    "gemma3 layer_types": small("gemma3_text", head_dim=8, sliding_window=5, layer_types=MIXED, final_logit_softcapping=20.0,
                                attn_logit_softcapping=40.0),
    "gemma3 linear, old spelling": small("gemma3_text", head_dim=8, sliding_window=5, sliding_window_pattern=3,
                                         rope_scaling={"rope_type": "linear", "factor": 8.0}),
    "gemma3 nested": small("gemma3_text", head_dim=8, sliding_window=5, layer_types=MIXED, rope_parameters={
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 700.0}}),
    "gemma3 nested, one": small("gemma3_text", head_dim=8, sliding_window=5, layer_types=MIXED, rope_theta=777.0,
                                rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0}}),
    "gemma3 nested and rope_scaling": small("gemma3_text", head_dim=8, sliding_window=5, layer_types=MIXED, rope_scaling={
        "rope_type": "linear", "factor": 3.0}, rope_parameters={
            "full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "default"}}),
    # smollm3
    "smollm3 small": small("smollm3"),
    "smollm3 interval": small("smollm3", no_rope_layer_interval=2, use_sliding_window=True, sliding_window=5),
    "smollm3 list": small("smollm3", no_rope_layers=[1, 0, 1, 1, 0, 0], attention_bias=True, mlp_bias=True, head_dim=12),
    "smollm3 layer_types": small("smollm3", layer_types=MIXED, sliding_window=5),
    # dtype in both spellings
    "llama dtype": small("llama", torch_dtype="float16", dtype="bfloat16"),
}
GENERATION = {
    "llama eos list": {"eos_token_id": [11, 12], "bos_token_id": 2},
    "qwen3 small": {"eos_token_id": 13},
    "gemma2 window": {"bos_token_id": 4},
}
# Tables of cosines and sines at a few positions, for every kind.
ROPE = ["llama small", "llama rope_theta", "llama linear, old spelling", "llama dynamic", "llama3", "llama yarn",
        "llama yarn, every key", "llama head_dim 80", "qwen3 yarn", "qwen3 defaults", "gemma3 pattern"]


def read(config):
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "config.json"), "w", newline="") as file:
            json.dump(config, file)
        return AutoConfig.from_pretrained(folder)


def measured_windows(model, vocab_size):
    """0 = full; otherwise the number of positions a query sees, itself included."""
    with torch.no_grad():
        out = model(torch.arange(N_TOKENS)[None] % vocab_size, output_attentions=True)
    windows = []
    for weights in out.attentions:
        pairs = (weights[0].abs().sum(0) > 0).nonzero()
        seen = int((pairs[:, 0] - pairs[:, 1]).max()) + 1
        windows.append(0 if seen == N_TOKENS else seen)
    return windows


def declared_windows(config, layers):
    windows = []
    for layer in layers:
        attention = layer.self_attn
        windows.append(getattr(attention, "sliding_window", None) or 0)
    if config.model_type == "mistral":
        windows = [config.sliding_window or 0] * len(layers)
    return windows


def rotary(model, config, kind):
    """Inverse frequencies and attention factor of layer type `kind`, computed on the CPU."""
    module = type(model.model.rotary_emb)(config)
    if config.model_type == "gemma3_text":
        return module, getattr(module, f"{kind}_inv_freq"), getattr(module, f"{kind}_attention_scaling")
    return module, module.inv_freq, module.attention_scaling


def expectation(config, generation, is_small):
    torch.manual_seed(0)
    with torch.device("cpu" if is_small else "meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    layers = model.model.layers
    attention, mlp, embed = layers[0].self_attn, layers[0].mlp, model.model.embed_tokens
    head_dim, norm = attention.head_dim, layers[0].input_layernorm
    windows = declared_windows(config, layers)
    if is_small:
        measured = measured_windows(model, config.vocab_size)
        # use_sliding_window of smollm3 does not enter its masks, so what is measured counts
        declared = [0 if w >= N_TOKENS else w for w in windows]
        assert config.model_type == "smollm3" or measured == declared, (measured, windows)
        windows = [m or (w if w >= N_TOKENS else 0) for m, w in zip(measured, windows)]
    kinds = ["full_attention", "sliding_attention"] if config.model_type == "gemma3_text" else ["full_attention"]
    if config.model_type == "gemma3_text":
        config.layer_types = kinds + config.layer_types  # so that the module computes both sets
    ropes = []
    for kind in kinds:
        _, inv_freq, factor = rotary(model, config, kind)
        ropes.append({"inv_freq": [float(x) for x in inv_freq], "attention_factor": float(factor)})
    if config.model_type == "gemma3_text":
        config.layer_types = config.layer_types[len(kinds):]
    eos, bos = config.eos_token_id, config.bos_token_id
    if generation is not None:
        both = GenerationConfig.from_dict(generation)
        eos = eos if both.eos_token_id is None else both.eos_token_id
        bos = bos if both.bos_token_id is None else both.bos_token_id
    scale = getattr(embed, "scalar_embed_scale", None)
    return {
        "n_layers": len(layers), "d_model": embed.weight.shape[1], "vocab_size": embed.weight.shape[0],
        "n_heads": attention.q_proj.weight.shape[0] // head_dim, "n_kv_heads": attention.k_proj.weight.shape[0] // head_dim,
        "head_dim": head_dim, "d_ffn": mlp.gate_proj.weight.shape[0], "max_positions": config.max_position_embeddings,
        "rms_norm_eps": getattr(norm, "eps", None) or norm.variance_epsilon,
        "act": type(mlp.act_fn).__name__,
        "qkv_bias": attention.q_proj.bias is not None and attention.k_proj.bias is not None
        and attention.v_proj.bias is not None,
        "o_bias": attention.o_proj.bias is not None, "mlp_bias": mlp.down_proj.bias is not None,
        "qk_norm": hasattr(attention, "q_norm"), "norm_plus_one": "Gemma" in type(norm).__name__,
        "sandwich_norms": hasattr(layers[0], "pre_feedforward_layernorm"),
        "tie_embeddings": bool(config.tie_word_embeddings),
        "embed_scale": 1.0 if scale is None else float(torch.tensor(scale)),
        "attention_scale": attention.scaling,
        "attention_softcap": getattr(config, "attn_logit_softcapping", None) or 0.0,
        "final_softcap": getattr(config, "final_logit_softcapping", None) or 0.0,
        "windows": windows,
        "rope": [bool(getattr(layer.self_attn, "use_rope", True)) for layer in layers],
        "rope_kind": [int(config.model_type == "gemma3_text" and kind == "sliding_attention")
                      for kind in (getattr(config, "layer_types", None) or ["full_attention"] * len(layers))],
        "ropes": ropes,
        "bos_id": -1 if bos is None else bos,
        "eos_id": [] if eos is None else eos if isinstance(eos, list) else [eos],
    }, model


def rope_case(name, config, model):
    """Cosines and sines that the model's own rotary module gives at POSITIONS (below the original length where dynamic)."""
    kind = "full_attention"
    positions = [p for p in POSITIONS if "dynamic" not in name or p < config.max_position_embeddings]
    module, inv_freq, factor = rotary(model, config, kind)
    ids = torch.tensor(positions)[None]
    x = torch.zeros(1, dtype=torch.float32)
    cos, sin = module(x, ids, layer_type=kind) if config.model_type == "gemma3_text" else module(x, ids)
    half = cos.shape[-1] // 2
    return {"name": name, "config": CASES[name], "positions": positions, "attention_factor": float(factor),
            "inv_freq": [float(v) for v in inv_freq],
            "cos": [[float(v) for v in row[:half]] for row in cos[0]],
            "sin": [[float(v) for v in row[:half]] for row in sin[0]]}


def dump(path, value):
    def shorten(x):
        """Shortest decimal that gives the same f32 where x is one, else the same double."""
        if isinstance(x, float):
            for digits in range(1, 10):
                text = float(f"{x:.{digits}g}")
                if torch.tensor(text).item() == x:
                    return text
            return x
        if isinstance(x, dict):
            return {k: v if k == "config" else shorten(v) for k, v in x.items()}
        return [shorten(v) for v in x] if isinstance(x, list) else x

    with open(path, "w", newline="") as file:
        file.write("[\n" + ",\n".join(json.dumps(shorten(case)) for case in value) + "\n]\n")


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "tests/data/config"
    os.makedirs(folder, exist_ok=True)
    cases, ropes = [], []
    for name, raw in CASES.items():
        config = read(raw)
        expect, model = expectation(config, GENERATION.get(name), "defaults" not in name)
        cases.append({"name": name, "config": raw, "generation": GENERATION.get(name), "expect": expect})
        if name in ROPE:
            ropes.append(rope_case(name, config, model))
    dump(os.path.join(folder, "cases.json"), cases)
    dump(os.path.join(folder, "rope.json"), ropes)
    print(f"{len(cases)} configurations and {len(ropes)} RoPE tables in {folder}")


if __name__ == "__main__":
    main()
