"""Text to sequences, exactly as the program cuts them (docs: sequences of a run).

A file is taken as bytes (CRLF kept, a UTF-8 byte order mark removed) and encoded once without the post-processor. Every
sequence is the template's prefix (usually BOS), the next max_length - specials tokens, the template's suffix. A tail with
fewer than two tokens is dropped. The loss covers positions 1 to T - 1."""

import json
import os

from tokenizers import Tokenizer


def template_ids(path):
    """(prefix, suffix) token ids that the single-sequence template of a tokenizer.json puts around a text."""
    with open(path, encoding="utf-8", newline="") as f:
        post = json.load(f).get("post_processor")
    processors = [] if post is None else post["processors"] if post["type"] == "Sequence" else [post]
    for p in processors:
        if p["type"] == "TemplateProcessing":
            ids, where = ([], []), 0
            for item in p["single"]:
                if "Sequence" in item:
                    where = 1
                else:
                    ids[where].extend(p["special_tokens"][item["SpecialToken"]["id"]]["ids"])
            return ids
    return [], []


def read_sequences(model_dir, text_path, max_length):
    """Lists of token ids, each at most max_length long."""
    path = os.path.join(model_dir, "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    with open(text_path, encoding="utf-8", newline="") as f:
        text = f.read()
    if text.startswith("\ufeff"):
        text = text[1:]
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    prefix, suffix = template_ids(path)
    step = max_length - len(prefix) - len(suffix)
    pieces = [prefix + ids[at:at + step] + suffix for at in range(0, len(ids), step)]
    return [p for p in pieces if len(p) >= 2]
