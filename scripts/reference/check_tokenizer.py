#!/usr/bin/env python3
"""Compares engine/tokenizer.h with the Hugging Face `tokenizers` library, ids and decoded text (special tokens kept and left
out), on files and on random strings, for tokenizer.json files and for every kind of tokenizer_kinds.py. Builds its C side
(scripts/reference/tokenize_records.c) itself. Exit status 1 when anything differs.

  check_tokenizer.py [--random N] [--every] [--kinds all|none|NAME,...] [--tokenizer FILE]... [--train-on FILE]...
                     [TEXT FILE]...

Text files are compared whole, and JSON Lines (.jsonl) line by line."""

import argparse
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer, normalizers

import tokenizer_kinds as kinds

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = ["tokenizer", "template", "decoder", "added_tokens", "unicode_class", "bpe", "bpe_encode", "nfc", "normalizer",
           "pretokenizer", "vocabulary", "pattern", "pattern_syntax"]
LIBRARIES = "-ljansson -lpcre2-8 -lutf8proc -lxxhash -lm".split()


def build(folder):
    program = folder / "tokenize_records"
    sources = [f"base/{n}.c" for n in ("err", "file", "json", "mem", "str")] + [f"engine/{n}.c" for n in SOURCES]
    subprocess.run(["cc", "-std=c11", "-O2", "-g", "-I.", "-D_GNU_SOURCE", "-DPCRE2_CODE_UNIT_WIDTH=8", "-o", str(program),
                    "scripts/reference/tokenize_records.c", *sources, *LIBRARIES], cwd=ROOT, check=True)
    return program


class Ours:
    def __init__(self, program, path):
        self.process = subprocess.Popen([program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def many(self, texts):
        """(ids, decoded, decoded without special tokens) of each text. One at a time: pipes are finite."""
        out = []
        for text in texts:
            data = text.encode()
            self.process.stdin.write(struct.pack("=I", len(data)) + data)
            self.process.stdin.flush()
            ids = struct.unpack(f"={(n := self.u32())}i", self.read(4 * n))
            out.append((list(ids), self.read(self.u32()), self.read(self.u32())))
        return out

    def read(self, n):
        data = self.process.stdout.read(n)
        if len(data) != n:
            raise RuntimeError(f"tokenize_records stopped with status {self.process.wait()}")
        return data

    def u32(self):
        return struct.unpack("=I", self.read(4))[0]

    def close(self):
        self.process.stdin.close()
        return self.process.wait()


def without_panics(tokenizer, texts):
    """The texts that the library survives: an added token with lstrip inside the space that rstrip of the token before took
    makes it panic. (The exception is no Exception, but a BaseException of its own.)"""
    good = []
    for text in texts:
        try:
            tokenizer.encode(text, add_special_tokens=False)
            good.append(text)
        except BaseException as problem:
            if type(problem).__name__ != "PanicException":
                raise
    return good


def theirs(tokenizer, texts):
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    ids = [e.ids for e in encodings]
    return list(zip(ids, (t.encode() for t in tokenizer.decode_batch(ids, skip_special_tokens=False)),
                    (t.encode() for t in tokenizer.decode_batch(ids, skip_special_tokens=True))))


def compare(name, what, tokenizer, ours, texts, group=2000):
    n = n_tokens = n_bad = n_panics = 0
    for i in range(0, len(texts), group):
        part = texts[i:i + group]
        try:
            wanted = theirs(tokenizer, part)
        except BaseException as problem:
            if type(problem).__name__ != "PanicException":
                raise
            ours.many(part)  # ours survives them all
            part = without_panics(tokenizer, part)
            wanted = theirs(tokenizer, part)
            n_panics += min(group, len(texts) - i) - len(part)
        for text, want, got in zip(part, wanted, ours.many(part)):
            n += 1
            n_tokens += len(want[0])
            if (list(want[0]), *want[1:]) != got:
                n_bad += 1
                if n_bad <= 3:
                    report(text, want, got)
    panics = f", {n_panics} on which the library panics" if n_panics else ""
    print(f"{name:34s} {what:24s} {n - n_bad} of {n} texts equal, {n_tokens} tokens{panics}", flush=True)
    return n_bad


def report(text, want, got):
    if len(text) > 300:
        for i, (a, b) in enumerate(zip(want[0], got[0])):
            if a != b:
                print(f"  first difference at token {i}: {want[0][i:i + 10]} {got[0][i:i + 10]}")
                return
        print("  one is longer, or decoded text differs")
        return
    print(f"  text {text!r}\n  want {want}\n  got  {got}")


def read_texts(path):
    data = pathlib.Path(path).read_bytes().decode("utf-8")
    return data.split("\n") if str(path).endswith(".jsonl") else [data]


def check_nfc():
    """The list of code points in engine/nfc.c: those that the library's NFC treats as no combining characters."""
    import ctypes
    utf8proc, libc = ctypes.CDLL("libutf8proc.so.2"), ctypes.CDLL(None)
    utf8proc.utf8proc_NFC.restype = ctypes.c_void_p
    utf8proc.utf8proc_NFC.argtypes = [ctypes.c_char_p]
    libc.free.argtypes = [ctypes.c_void_p]
    nfc = normalizers.NFC()

    def ours(text):
        pointer = utf8proc.utf8proc_NFC(text.encode())
        result = ctypes.string_at(pointer).decode()
        libc.free(pointer)
        return result

    ranges = []
    for c in (c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000):
        around = (chr(c), f"a{chr(c)}\u0323", f"a\u0301{chr(c)}", f"{chr(c)}\u0301\u0323", f"a\u0345{chr(c)}")
        if any(nfc.normalize_str(t) != ours(t) for t in around):
            if ranges and ranges[-1][1] == c - 1:
                ranges[-1][1] = c
            else:
                ranges.append([c, c])
    print("code points whose NFC differs between the libraries (engine/nfc.c lists them):",
          " ".join(f"{a:X}-{b:X}" for a, b in ranges))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=100000, help="random strings per tokenizer [100000]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="all")
    parser.add_argument("--size", type=int, default=4000, help="vocabulary of the trained tokenizers [4000]")
    parser.add_argument("--tokenizer", action="append", default=[])
    parser.add_argument("--train-on", action="append", default=[], help="text for the trained tokenizers besides their own")
    parser.add_argument("--nfc", action="store_true", help="list the code points with another normal form, and stop")
    parser.add_argument("--every", action="store_true", help="a text for every assigned code point, too")
    parser.add_argument("files", nargs="*")
    args = parser.parse_args()
    if args.nfc:
        return check_nfc()
    names = [] if args.kinds == "none" else list(kinds.KINDS) if args.kinds == "all" else args.kinds.split(",")
    training = kinds.TEXT.split("\n") + [line for f in args.train_on for line in read_texts(f)[0].split("\n")]
    n_bad = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        program = build(folder)
        todo = [(pathlib.Path(p).parent.name or p, p) for p in args.tokenizer]
        for name in names:
            path = folder / f"{name}.json"
            path.write_text(json.dumps(kinds.KINDS[name](args.size, training), ensure_ascii=False), encoding="utf-8")
            todo.append((name, path))
        for name, path in todo:
            tokenizer, ours = Tokenizer.from_file(str(path)), Ours(program, path)
            as_json = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
            n_bad += compare(name, "nasty strings", tokenizer, ours, kinds.NASTY)
            for file in args.files:
                n_bad += compare(name, pathlib.Path(file).name[:24], tokenizer, ours, read_texts(file))
            if args.every:
                n_bad += compare(name, "every code point", tokenizer, ours, kinds.every_code_point())
            strings = kinds.Strings(as_json, args.seed)
            n_bad += compare(name, "random strings", tokenizer, ours, [strings.next() for _ in range(args.random)])
            if ours.close() != 0:
                n_bad += 1
    print(f"{n_bad} differences")
    return 1 if n_bad else 0


if __name__ == "__main__":
    sys.exit(main())
