#!/usr/bin/env python3
"""Writes tests/data/stories: text that stories260k is at home in, drawn from the model itself (temperature 1), for tests of
layouts on it. Its own sequences of 480 tokens, one a document.

    make_stories.py build/spkv ../shared/models/stories260k
"""
import json
import pathlib
import subprocess
import sys

OUT = pathlib.Path(__file__).parents[2] / "tests/data/stories"
FILES = {"choose.jsonl": range(0, 24), "measure.jsonl": range(100, 120)}


def story(program, model, seed):
    command = [program, "generate", model, "-p", "Once upon a time", "-n", "480", "--temperature", "1", "--ignore-eos",
               "--seed", str(seed), "--threads", "1", "--backend", "cpu", "--json", "--quiet"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["text"]


def main(program, model):
    OUT.mkdir(exist_ok=True)
    for name, seeds in FILES.items():
        lines = [json.dumps({"text": story(program, model, seed)}) for seed in seeds]
        (OUT / name).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
