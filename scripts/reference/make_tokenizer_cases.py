#!/usr/bin/env python3
"""Writes tests/data/tokenizer: small tokenizers of every kind (KIND.json) and what the Hugging Face `tokenizers` library
makes of texts with them (KIND.cases). Running it again reproduces the files, with tokenizers 0.23 and Python 3.11.

KIND.cases is a JSON object: "prefix" and "suffix" of the template, "n_vocab", "bytes" (id -> hexadecimal bytes of the token
in running text, worked out here from the decoder), and "cases", a list of [text, ids, decoded, decoded without special
tokens], where null for a decoded text means: the text itself."""

import json
import pathlib
import random
import re

from tokenizers import Tokenizer, pre_tokenizers

import tokenizer_kinds as kinds

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "tokenizer"
PLAIN_TEXT = "\n".join(kinds.TEXT.split("\n")[1:9])


def byte_alphabet():
    """Character of the byte-level alphabet -> byte, found by asking the library for the spelling of two-byte texts."""
    table = {}
    for b in range(256):
        text = chr(b) if b < 128 else chr(b) if b >= 0xC0 else "\u0080"
        spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[0][0]
        table.update(zip(spelled, text.encode()))
    for c in range(0x80, 0x110000, 0x3F):
        if len(table) < 256 and not 0xD800 <= c < 0xE000:
            spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(chr(c))[0][0]
            table.update(zip(spelled, chr(c).encode()))
    for c in pre_tokenizers.ByteLevel.alphabet():  # bytes that no UTF-8 text holds
        table.setdefault(c, ord(c))
    assert sorted(table.values()) == list(range(256))
    return table


ALPHABET = byte_alphabet()


def token_bytes(tokenizer, token):
    """What a token stands for, from the kind of decoder: byte level, or word marks and byte tokens, or nothing to do."""
    decoder, stages = json.dumps(tokenizer["decoder"]), json.dumps(tokenizer["pre_tokenizer"])
    if "ByteLevel" in decoder or (tokenizer["decoder"] is None and stages.endswith('"ByteLevel"')):
        return bytes(ALPHABET[c] for c in token) if all(c in ALPHABET for c in token) else token.encode()
    if "ByteFallback" in decoder and re.fullmatch("<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace(kinds.WORD, " ").encode() if kinds.WORD in json.dumps(tokenizer["decoder"], ensure_ascii=False) \
        else token.encode()


def around(tokenizer):
    plain, full = (tokenizer.encode("a", add_special_tokens=s).ids for s in (False, True))
    for i in range(len(full) - len(plain) + 1):
        if full[i:i + len(plain)] == plain:
            return full[:i], full[i + len(plain):]
    raise ValueError("the template changes the sequence")


def make(name, n_random):
    plain = name.startswith("split_")
    as_json = kinds.KINDS[name](200 if plain else 700, PLAIN_TEXT if plain else kinds.TEXT)
    text = json.dumps(as_json, ensure_ascii=False, separators=(",", ":"))
    (OUT / f"{name}.json").write_text(text + "\n", encoding="utf-8", newline="")
    tokenizer = Tokenizer.from_str(text)
    strings = kinds.Strings(as_json, name)
    texts = [t for t in kinds.NASTY if "\0" not in t] + [strings.next() for _ in range(n_random)]
    cases = []
    for t in texts:
        ids = tokenizer.encode(t, add_special_tokens=False).ids
        decoded = [tokenizer.decode(ids, skip_special_tokens=skip) for skip in (False, True)]
        if "\0" not in "".join(decoded):
            cases.append([t, ids, *(None if d == t else d for d in decoded)])
    prefix, suffix = around(tokenizer)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    added = {t["content"] for t in as_json["added_tokens"]}
    sample = random.Random(name).sample(sorted(t for t in vocab if t not in added), 40)
    expected = {"prefix": prefix, "suffix": suffix, "n_vocab": max(vocab.values()) + 1,
                "bytes": {str(vocab[t]): token_bytes(as_json, t).hex() for t in sample}}
    lines = ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases)
    head = json.dumps(expected, separators=(",", ":"))[:-1]
    (OUT / f"{name}.cases").write_text(f'{head},"cases":[\n{lines}\n]}}\n', encoding="utf-8", newline="")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name in kinds.KINDS:
        make(name, 40 if name.startswith("split_") else 200)


if __name__ == "__main__":
    main()
