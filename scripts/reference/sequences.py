#!/usr/bin/env python3
"""Cuts corpora into token sequences with the `tokenizers` library and prints what tests/test_sequence_ids.c expects.

    sequences.py TOKENIZER.json MAX_LENGTH STRIDE PATH...

Written from the documented rules alone: a document is encoded once without the post-processor; a sequence is prefix, the
next text tokens, suffix; of question rows only the answer is scored. Reads .txt files and the question rows of ARC,
CommonsenseQA (authors' form) and GSM8K. The hash is 64-bit FNV-1a over, per sequence, document, offset, length, and then
2 * id + scored of every token, each as 8 little-endian bytes.
"""
import json
import os
import sys

from tokenizers import Tokenizer


def template(tokenizer):
    whole = tokenizer.encode("x").ids
    text = tokenizer.encode("x", add_special_tokens=False).ids
    for i in range(len(whole) - len(text) + 1):
        if whole[i:i + len(text)] == text:
            return whole[:i], whole[i + len(text):]
    raise SystemExit("the template does not contain the text")


def question_row(row):
    question = row["question"]
    if not isinstance(question, dict):
        return f"Question: {question}\nAnswer:", " " + row["answer"]
    if "question_concept" in question:
        choices = "".join(f"\n{c['label']}. {c['text']}" for c in question["choices"])
        return f"Question: {question['stem'].strip()}{choices}\nAnswer:", " " + row["answerKey"]
    gold = [c["text"] for c in question["choices"] if c["label"] == row["answerKey"]]
    return f"Question: {question['stem']}\nAnswer:", " " + gold[0]


def documents(paths):
    for path in paths:
        files = [path] if os.path.isfile(path) else sorted(
            os.path.join(top, name) for top, _, names in os.walk(path) for name in names)
        for name in files:
            with open(name, "rb") as stream:
                data = stream.read()
            if name.endswith(".jsonl"):
                yield from (question_row(json.loads(line)) for line in data.split(b"\n") if line.strip())
            elif name.endswith(".txt"):
                yield "", data.removeprefix(b"\xef\xbb\xbf").decode()


def sequences(tokenizer, max_length, stride, paths):
    prefix, suffix = template(tokenizer)
    room = max_length - len(prefix) - len(suffix)
    for number, (prompt, rest) in enumerate(documents(paths)):
        ids = tokenizer.encode(prompt + rest, add_special_tokens=False).ids
        n_prompt = 0
        if prompt:
            alone = tokenizer.encode(prompt, add_special_tokens=False).ids
            while n_prompt < min(len(alone), len(ids)) and alone[n_prompt] == ids[n_prompt]:
                n_prompt += 1
        begin = seen = 0
        while seen < len(ids):
            piece = ids[begin:begin + room]
            if len(prefix) + len(piece) + len(suffix) >= 2:
                special = 0 if prompt else 1
                yield (number, begin, [(i, special) for i in prefix] +
                       [(t, int(begin + i >= max(seen, n_prompt))) for i, t in enumerate(piece)] +
                       [(i, special) for i in suffix])
            seen = begin + len(piece)
            begin += stride or room


def main():
    tokenizer = Tokenizer.from_file(sys.argv[1])
    n_sequences, n_tokens, n_scored, state = 0, 0, 0, 0xCBF29CE484222325
    for number, begin, tokens in sequences(tokenizer, int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]):
        n_sequences += 1
        n_tokens += len(tokens)
        n_scored += sum(scored for _, scored in tokens)
        for value in [number, begin, len(tokens)] + [2 * token + scored for token, scored in tokens]:
            for byte in value.to_bytes(8, "little"):
                state = (state ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    print(f"{{{n_sequences}, {n_tokens}, {n_scored}, 0x{state:016x}}}")


main()
