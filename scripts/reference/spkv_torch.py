"""SP-KV on top of transformers: the independent reference of the tests.

Self-pruned key-value attention (Szilvasy et al., arXiv 2605.14037). Every full-attention layer has a utility predictor
that scores each key-value pair when it is produced; outside a local window a pair is seen according to its score. Here
that is one additive bias per (query, key, KV head) in a full T x T attention: clear before fast, and nothing in common
with the C program except the formulas.

    model = SpkvModel.load("path/to/checkpoint")
    result = model.run(ids, Policy("spkv", window=32, threshold=0.5))

Model families: llama, mistral, qwen2, qwen3, gemma2, gemma3_text, smollm3. Layers with a sliding window of their own
keep exactly that window under every policy; no predictor, gate or sink acts in them.
"""

import json
import os
from dataclasses import dataclass, field
from typing import Optional

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from transformers import AttentionInterface, AutoModelForCausalLM

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3")
PREDICTOR_PART = ".self_attn.utility_predictor."
GATE_EPS = 1e-8  # inside the logarithm of soft and annealed gates


# --- random numbers: Philox4x32-10 (Salmon et al., SC 2011), as base/rng.h ------------------------------------------

def philox(key, counter):
    """One block of Philox4x32-10. key: 64-bit integer; counter: four 32-bit integers or uint64 arrays. Four arrays."""
    mask = np.uint64(0xFFFFFFFF)
    c = [np.asarray(v, dtype=np.uint64) & mask for v in counter]
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), p1 & mask,
             (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), p0 & mask]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def random_scores(seed, sequence, layer, n_kv_heads, n_positions):
    """Uniform scores in [0, 1), multiples of 2^-24, (n_positions, n_kv_heads) f32: a pure function of its arguments."""
    position, head = np.meshgrid(np.arange(n_positions), np.arange(n_kv_heads), indexing="ij")
    zero = np.zeros_like(position)
    word = philox(seed, (zero + (sequence & 0xFFFFFFFF), zero + (sequence >> 32), (layer << 16) | head, position))[0]
    return torch.from_numpy(((word >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)))


# --- utility predictor ------------------------------------------------------------------------------------------------

@dataclass
class PredictorConfig:
    window: int = 128
    threshold: float = 0.5
    comparison: str = ">="
    input: str = "normed"       # or "residual"
    activation: str = "silu"    # or "gelu", "none"
    output: str = "sigmoid"     # or "identity"
    lora_r: int = 0
    lora_alpha: float = 0.0
    trained_with: Optional[dict] = None

    @staticmethod
    def from_json(obj):
        out = PredictorConfig()
        for name in ("window", "threshold", "comparison", "input", "activation", "output", "trained_with"):
            setattr(out, name, obj.get(name, getattr(out, name)))
        out.lora_r, out.lora_alpha = obj.get("r", 0), obj.get("lora_alpha", 0.0)
        allowed = {"comparison": (">=", ">"), "input": ("normed", "residual"), "activation": ("silu", "gelu", "none"),
                   "output": ("sigmoid", "identity")}
        for name, values in allowed.items():
            if getattr(out, name) not in values:
                raise ValueError(f"spkv configuration: {name} is {getattr(out, name)!r}, expected one of {values}")
        return out

    def to_json(self):
        out = {"format_version": 1, "window": self.window, "threshold": self.threshold, "comparison": self.comparison,
               "input": self.input, "activation": self.activation, "output": self.output}
        if self.lora_r:
            out.update({"r": self.lora_r, "lora_alpha": self.lora_alpha})
        if self.trained_with is not None:
            out["trained_with"] = self.trained_with
        return out


class _Bias(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(n))


class UtilityPredictor(nn.Module):
    """u = output(fc2(act(fc1(h)))): d_model -> hidden -> n_kv_heads. hidden 0: static gates, u = output(fc2.bias)."""

    def __init__(self, d_model, hidden, n_kv_heads, activation="silu", output="sigmoid"):
        super().__init__()
        if hidden:
            self.fc1 = nn.Linear(d_model, hidden)
            self.fc2 = nn.Linear(hidden, n_kv_heads)
        else:
            self.fc1 = None
            self.fc2 = _Bias(n_kv_heads)
        self.act = {"silu": nn.functional.silu, "gelu": nn.functional.gelu, "none": lambda x: x}[activation]
        self.output = {"sigmoid": torch.sigmoid, "identity": lambda x: x}[output]

    def forward(self, h):
        if self.fc1 is None:
            return self.output(self.fc2.bias.expand(*h.shape[:-1], -1))
        return self.output(self.fc2(self.act(self.fc1(h))))


# --- policies -------------------------------------------------------------------------------------------------------

@dataclass
class Policy:
    """What a query may see outside the window of its KV head.

    full: everything. window: nothing. spkv: pairs by score, hard, soft or annealed. random: pairs whose uniform number is
    >= 1 - density. layout: heads[layer][kv_head] is "global" (everything) or "local" (nothing), "sliding" in the model's
    own sliding layers; windows[layer][kv_head] overrides `window`. Positions below `sinks` are always visible."""
    name: str
    window: int = 128
    sinks: int = 0
    threshold: float = 0.5
    comparison: str = ">="
    mode: str = "hard"       # spkv: hard, soft, annealed
    anneal: float = 0.0      # annealed: the blend a, 0 = soft, 1 = hard up to GATE_EPS
    density: float = 1.0     # random
    seed: int = 0            # random
    heads: Optional[list] = None
    windows: Optional[list] = None

    def is_open(self, u):
        """Comparison in f32, as the program does it."""
        threshold = np.float32(1.0) - np.float32(self.density) if self.name == "random" else np.float32(self.threshold)
        return u > float(threshold) if self.comparison == ">" else u >= float(threshold)


@dataclass
class Result:
    """One sequence. T tokens, L layers, K KV heads. Sliding layers: utility NaN, open, kept and counters 0."""
    logits: torch.Tensor         # (T, vocab_size)
    nll: torch.Tensor            # (T) loss of predicting this token, NaN for the first
    utility: torch.Tensor        # (T, L, K) NaN where the policy has no scores
    open: torch.Tensor           # (T, L, K) bool, gate by score alone; policies without gates: global heads open
    kept: torch.Tensor           # (T, L, K) bool, in the long-term store after the last token, sinks not counted
    visible_pairs: torch.Tensor  # (L, K) int64
    far_attention: torch.Tensor  # (L, K) mass on keys outside window and sinks, mean over the group, summed over queries
    sink_attention: torch.Tensor # (L, K) mass on keys below sinks, likewise
    future_max: torch.Tensor     # (T, L, K) max over queries t >= s + window and the group; NaN where there is none
    future_mean: torch.Tensor    # (T, L, K) mean over the same
    n_scored: torch.Tensor = field(default=None)       # (L, K) int64
    n_open: torch.Tensor = field(default=None)         # (L, K)
    n_left_window: torch.Tensor = field(default=None)  # (L, K)
    n_kept: torch.Tensor = field(default=None)         # (L, K)


# --- attention --------------------------------------------------------------------------------------------------------

def spkv_attention(module, query, key, value, attention_mask, scaling=None, softcap=None, dropout=0.0, **_):
    """Attention of one layer for transformers' attention interface: softcap(q.k * scaling) + bias, softmax, times v.
    The bias of this forward pass was left in module.spkv_bias, (batch or 1, n_kv_heads, T, T), by the hook below."""
    del attention_mask, dropout  # the bias holds causality and windows as well
    n_heads, n_kv_heads = query.shape[1], key.shape[1]
    group = n_heads // n_kv_heads
    logits = torch.matmul(query, key.repeat_interleave(group, 1).transpose(2, 3)) * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits + module.spkv_bias.repeat_interleave(group, 1)
    p = torch.softmax(logits, dim=-1)
    if module.spkv_keep_attention:
        module.spkv_attention = p.detach()
    out = torch.matmul(p, value.repeat_interleave(group, 1))
    return out.transpose(1, 2).contiguous(), p


AttentionInterface.register("spkv_reference", spkv_attention)


def sliding_windows(config):
    """The model's own sliding window of every layer, 0 = full attention, as transformers builds its masks."""
    n = config.num_hidden_layers
    if config.model_type == "mistral":
        return [config.sliding_window or 0] * n
    types = getattr(config, "layer_types", None) or ["full_attention"] * n
    return [config.sliding_window if t == "sliding_attention" else 0 for t in types]


class SpkvModel:
    """A transformers causal language model whose attention follows a policy. `model` is the transformers model; predictor
    modules hang at model.model.layers[i].self_attn.utility_predictor, under the tensor names of the checkpoint format."""

    def __init__(self, model, spkv=None):
        config = model.config
        if config.model_type not in MODEL_TYPES:
            raise ValueError(f"model type {config.model_type} is not one of {', '.join(MODEL_TYPES)}")
        self.model, self.spkv = model, spkv
        self.n_layers, self.n_kv_heads = config.num_hidden_layers, config.num_key_value_heads
        self.sliding = sliding_windows(config)
        self.policy, self.sequence = None, 0
        self.freeze_utilities = False  # no gradient to them
        self.utility = [None] * self.n_layers
        self.gate = [None] * self.n_layers
        model.set_attn_implementation("spkv_reference")
        for i, layer in enumerate(model.model.layers):
            layer.self_attn.spkv_keep_attention = False
            layer.self_attn.spkv_attention = None
            layer.register_forward_pre_hook(self._residual_hook(i), with_kwargs=True)
            layer.self_attn.register_forward_pre_hook(self._attention_hook(i), with_kwargs=True)

    @staticmethod
    def load(path, predictor_path=None, dtype=torch.float32):
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager")
        model.eval()
        spkv, tensors = read_predictor(path, predictor_path)
        if spkv is not None:
            attach_predictors(model, spkv, tensors)
            merge_lora(model, spkv, tensors)
        return SpkvModel(model, spkv)

    # The score of a pair is taken from the layer's input: raw residual, or the normed vector that feeds K and V.
    def _residual_hook(self, index):
        def hook(module, args, kwargs):
            if self.spkv is not None and self.spkv.input == "residual":
                self._score(index, args[0] if args else kwargs["hidden_states"])
        return hook

    def _attention_hook(self, index):
        def hook(module, args, kwargs):
            h = args[0] if args else kwargs["hidden_states"]
            if self.spkv is not None and self.spkv.input == "normed":
                self._score(index, h)
            module.spkv_bias = self._bias(index, h.shape[1], h.device, h.dtype)
        return hook

    def _score(self, index, h):
        predictor = getattr(self.model.model.layers[index].self_attn, "utility_predictor", None)
        u = predictor(h) if predictor is not None and not self.sliding[index] else None
        self.utility[index] = u.detach() if u is not None and self.freeze_utilities else u

    def window_of(self, layer, head):
        p = self.policy
        return p.windows[layer][head] if p.name == "layout" and p.windows is not None else p.window

    def _bias(self, layer, n_tokens, device, dtype):
        """(batch or 1, n_kv_heads, T, T): 0 where visible, -inf where not, log of the gate where soft."""
        t = torch.arange(n_tokens, device=device)[:, None]
        s = torch.arange(n_tokens, device=device)[None, :]
        causal = s <= t
        minus_inf = torch.tensor(float("-inf"), device=device, dtype=dtype)
        zero = torch.zeros((), device=device, dtype=dtype)
        if self.sliding[layer]:
            visible = causal & (t - s < self.sliding[layer])
            return torch.where(visible, zero, minus_inf).expand(1, self.n_kv_heads, -1, -1)
        windows = torch.tensor([self.window_of(layer, k) for k in range(self.n_kv_heads)], device=device)
        always = (t - s < windows[:, None, None]) | (s < self.policy.sinks)                  # (K, T, T)
        gate, is_open = self._gate(layer, n_tokens, device)                                  # (B, K, T) each
        self.gate[layer] = is_open
        outside = torch.where(is_open, zero, minus_inf) if gate is None else torch.log(gate + GATE_EPS).to(dtype)
        bias = torch.where(always[None], zero, outside[:, :, None, :])
        return torch.where(causal, bias, minus_inf)

    def _gate(self, layer, n_tokens, device):
        """(soft gate or None, open): (batch or 1, n_kv_heads, T) each."""
        p = self.policy
        if p.name in ("full", "window"):
            return None, torch.full((1, self.n_kv_heads, n_tokens), p.name == "full", device=device)
        if p.name == "layout":
            is_global = torch.tensor([h == "global" for h in p.heads[layer]], device=device)
            return None, is_global[None, :, None].expand(1, -1, n_tokens)
        if p.name == "random":
            self.utility[layer] = random_scores(p.seed, self.sequence, layer, self.n_kv_heads, n_tokens)[None].to(device)
        u = self.utility[layer]
        if u is None:
            raise ValueError(f"layer {layer} has no utility predictor: policy {p.name} cannot run")
        u = u.transpose(1, 2)
        is_open = p.is_open(u)
        if p.name == "random" or p.mode == "hard":
            return None, is_open
        if self.spkv.output != "sigmoid":
            raise ValueError("soft and annealed gates need a sigmoid output")
        if p.mode == "soft":
            return u, is_open
        return (1 - p.anneal) * u + p.anneal * is_open.to(u.dtype), is_open

    def forward(self, ids, policy):
        """Logits (batch, T, vocab_size) of equally long sequences, with gradients. self.utility and self.gate hold the
        scores (batch, T, K) and open gates (batch, K, T) of every layer afterwards."""
        self.policy = policy
        self.utility, self.gate = [None] * self.n_layers, [None] * self.n_layers
        return self.model(input_ids=ids, use_cache=False).logits

    @torch.no_grad()
    def run(self, ids, policy, sequence=0):
        """Result of one sequence of token ids; `sequence` is its global index, which random gates depend on."""
        self.sequence = sequence
        for layer in self.model.model.layers:
            layer.self_attn.spkv_keep_attention = True
        logits = self.forward(torch.tensor([ids]), policy)[0].float()
        for layer in self.model.model.layers:
            layer.self_attn.spkv_keep_attention = False
        nll = torch.full((len(ids),), float("nan"))
        if len(ids) > 1:
            nll[1:] = nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
        return self._result(logits, nll)

    def _result(self, logits, nll):
        n, shape = logits.shape[0], (self.n_layers, self.n_kv_heads)
        r = Result(logits, nll, torch.full((n, *shape), float("nan")), torch.zeros((n, *shape), dtype=torch.bool),
                   torch.zeros((n, *shape), dtype=torch.bool), torch.zeros(shape, dtype=torch.int64),
                   torch.zeros(shape), torch.zeros(shape), torch.full((n, *shape), float("nan")),
                   torch.full((n, *shape), float("nan")))
        r.n_scored, r.n_open, r.n_left_window, r.n_kept = (torch.zeros(shape, dtype=torch.int64) for _ in range(4))
        for layer in range(self.n_layers):
            if not self.sliding[layer]:
                for head in range(self.n_kv_heads):
                    self._head_result(r, n, layer, head)
            self.model.model.layers[layer].self_attn.spkv_attention = None
        return r

    def _head_result(self, r, n, layer, head):
        window, sinks = self.window_of(layer, head), self.policy.sinks
        at = (slice(None), layer, head)
        r.open[at] = self.gate[layer][0, head]
        has_scores = self.policy.name in ("spkv", "random")
        if has_scores:
            r.utility[at] = self.utility[layer][0, :, head].float()
            r.n_scored[layer, head] = n
            r.n_open[layer, head] = int(r.open[at].sum())
        position = torch.arange(n)
        left = (position >= sinks) & (position < n - window)
        r.kept[at] = left & r.open[at]
        r.n_left_window[layer, head] = max(0, n - window - sinks)
        r.n_kept[layer, head] = int(r.kept[at].sum())
        t, s = position[:, None], position[None, :]
        bias = self.model.model.layers[layer].self_attn.spkv_bias
        r.visible_pairs[layer, head] = int(torch.isfinite(bias[0, head]).sum())
        group = self.model.config.num_attention_heads // self.n_kv_heads
        p = self.model.model.layers[layer].self_attn.spkv_attention[0, head * group:(head + 1) * group].double()
        far, future = (t - s >= window) & (s >= sinks), t - s >= window
        r.far_attention[layer, head] = (p.mean(0) * far).sum()
        r.sink_attention[layer, head] = (p.mean(0) * ((s < sinks) & (s <= t))).sum()
        queries = future.sum(0)
        some = queries > 0
        r.future_max[at] = torch.where(some, (p.amax(0) * future).amax(0), float("nan")).float()
        r.future_mean[at] = torch.where(some, (p.mean(0) * future).sum(0) / queries.clamp(min=1), float("nan")).float()


# --- checkpoints ------------------------------------------------------------------------------------------------------

def read_tensors(path, wanted):
    """{name: tensor} of the tensors in one safetensors file for which wanted(name)."""
    with safe_open(path, framework="pt") as f:
        return {name: f.get_tensor(name) for name in f.keys() if wanted(name)}


def read_predictor(path, predictor_path=None):
    """(PredictorConfig, {name: tensor}) from a directory of its own, the model's tensors, or beside them; else None."""
    wanted = lambda name: PREDICTOR_PART in name or ".lora_A." in name or ".lora_B." in name
    if predictor_path is None:
        with open(os.path.join(path, "config.json"), encoding="utf-8", newline="") as f:
            spkv = json.load(f).get("spkv")
        if spkv is not None:
            files = sorted(f for f in os.listdir(path) if f.startswith("model") and f.endswith(".safetensors"))
            tensors = {}
            for name in files:
                tensors.update(read_tensors(os.path.join(path, name), wanted))
            return PredictorConfig.from_json(spkv), tensors
        if not os.path.exists(os.path.join(path, "spkv_config.json")):
            return None, {}
        predictor_path = path
    with open(os.path.join(predictor_path, "spkv_config.json"), encoding="utf-8", newline="") as f:
        spkv = PredictorConfig.from_json(json.load(f))
    return spkv, read_tensors(os.path.join(predictor_path, "spkv.safetensors"), wanted)


def attach_predictors(model, spkv, tensors):
    """Hangs predictor modules with these weights into the model, widened to the model's dtype."""
    dtype = next(model.parameters()).dtype
    for i, layer in enumerate(model.model.layers):
        prefix = f"model.layers.{i}{PREDICTOR_PART}"
        own = {name[len(prefix):]: t for name, t in tensors.items() if name.startswith(prefix)}
        if not own:
            continue
        hidden, d_model = own["fc1.weight"].shape if "fc1.weight" in own else (0, model.config.hidden_size)
        predictor = UtilityPredictor(d_model, hidden, own["fc2.bias"].shape[0], spkv.activation, spkv.output).to(dtype)
        predictor.load_state_dict({name: t.to(dtype) for name, t in own.items()})
        layer.self_attn.utility_predictor = predictor


def merge_lora(model, spkv, tensors):
    """W += lora_alpha / r * B A for every projection that has a low-rank update."""
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            stem = name[:-len(".lora_A.weight")]
            b = tensors[stem + ".lora_B.weight"]
            weight = model.get_submodule(stem).weight
            with torch.no_grad():
                weight += (b.to(weight.dtype) @ a.to(weight.dtype)) * (spkv.lora_alpha / spkv.lora_r)
