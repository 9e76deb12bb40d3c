#!/usr/bin/env python3
"""A small checkpoint and its hashes, computed from their definition in engine/checkpoint.h: the expectation of
tests/test_checkpoint.c.

    python scripts/reference/make_hash_case.py [OUTPUT_DIR]      (default: tests/data/hash)

The canonical text of config.json is spelled out here without a JSON library's writer; XXH3-128 comes from libxxhash."""
import ctypes
import ctypes.util
import json
import os
import struct
import sys

import numpy as np

CONFIG = """{
  "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
  "vocab_size": 6, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": true,
  "zeta": [1.5, -0.0, 1e22, 123456789012, {"b": null, "a": false, "B": true},
           "\\u00e9 / \\ud83d\\ude00 \\u0001 \\" \\\\ \\n\\u007f"],
  "spkv": {"window": 4, "activation": "silu"}
}
"""
PREDICTOR = "model.layers.0.self_attn.utility_predictor."


class Canonical(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


def xxh3(data):
    library = ctypes.CDLL(ctypes.util.find_library("xxhash"))
    library.XXH3_128bits.restype = Canonical
    library.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    value = library.XXH3_128bits(data, len(data))
    return f"{value.high:016x}{value.low:016x}"


def canonical(value):
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        mantissa, _, exponent = ("%.17g" % value).partition("e")
        if not exponent:
            return mantissa if "." in mantissa else mantissa + ".0"
        sign = "-" if exponent[0] == "-" else ""
        return mantissa + "e" + sign + exponent.lstrip("+-").lstrip("0")
    if isinstance(value, str):
        short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
        out = ""
        for c in value:
            if c in short:
                out += short[c]
            elif 0x20 <= ord(c) <= 0x7F:
                out += c
            else:
                units = c.encode("utf-16-be")
                out += "".join("\\u%04X" % struct.unpack(">H", units[i:i + 2]) for i in range(0, len(units), 2))
        return '"' + out + '"'
    if isinstance(value, list):
        return "[" + ",".join(canonical(v) for v in value) + "]"
    keys = sorted(value, key=lambda key: key.encode())
    return "{" + ",".join(canonical(key) + ":" + canonical(value[key]) for key in keys) + "}"


def stream(text, tensors):
    out = text
    for name in sorted(tensors):
        dtype, shape, data = tensors[name]
        out += name.encode() + b"\0" + dtype.encode() + b"\0" + struct.pack("<Q", len(shape))
        out += b"".join(struct.pack("<Q", n) for n in shape) + data
    return out


def safetensors(tensors):
    header, begin = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + len(data)]}
        begin += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values())


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "tests/data/hash"
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng(5)

    def make(dtype, *shape):
        x = rng.standard_normal(shape).astype("<f4")
        data = x.tobytes() if dtype == "F32" else x.astype("<f2").tobytes() if dtype == "F16" else \
            (x.view("<u4") >> 16).astype("<u2").tobytes()
        return dtype, list(shape), data

    tensors = {"model.embed_tokens.weight": make("BF16", 6, 8), "model.norm.weight": make("F32", 8), "scalar": make("F16"),
               PREDICTOR + "fc2.bias": make("F32", 2), "empty": make("F16", 0, 3)}
    base = {name: value for name, value in tensors.items() if "utility_predictor" not in name}
    config = json.loads(CONFIG)
    del config["spkv"]
    with open(os.path.join(folder, "config.json"), "w", newline="") as file:
        file.write(CONFIG)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(safetensors(tensors))
    with open(os.path.join(folder, "expected.json"), "w", newline="") as file:
        json.dump({"model_hash": xxh3(stream(CONFIG.encode(), tensors)),
                   "base_hash": xxh3(stream(canonical(config).encode(), base))}, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
