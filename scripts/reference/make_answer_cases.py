#!/usr/bin/env python3
"""Constructed outputs and what they are worth, by the rules of RULER and of GSM8K restated here: the expectation of
tests/test_answer.c.

    python scripts/reference/make_answer_cases.py [OUTPUT]      (default: tests/data/answers/cases.jsonl)

A line: "text" (hex of its UTF-8, as it may hold any control character), "references", "all" and "part" (RULER, 0 to 1),
"strict" and "last" (the numbers of GSM8K; null: none). The last line: "rounded", a mean of 0 to 1 as RULER prints it."""
import json
import random
import re
import sys

SPACES = [" ", "\t", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\xa0", "\u1680", "\u2003",
          "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\u200b", "\ufeff"]
WORDS = ["Paris", "7401234", "straße", "STRASSE", "ÉCOLE", "école", "İzmir", "izmir", "naïve", "b4810be4-2051",
         "Ångström", "ΑΘΗΝΑ", "αθηνα", "ЖАР", "жар", "one two", "one\ntwo", "one\ttwo", "A", "a b", "...", ",", "#### 12", "-7",
         "$1,234.50", "3.", "0", "日本", "x" * 60]


def clean(text):
    return re.sub("[\x00-\x1f]", "\n", text.strip()).strip()


def found(text, references):
    return [1.0 if reference.lower() in text.lower() else 0.0 for reference in references]


def rounded(total, n):
    return round(total / n * 100, 2)


def number(text):
    text = text.replace(",", "").replace("$", "")
    return re.sub(r"\.$", "", text)


def strict(text):
    match = re.search(r"#### (\-?[0-9\.\,]+)", text)
    return number(match.group(1)) if match else None


def last(text):
    matches = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text)
    return number(matches[-1][0] or matches[-1][1]) if matches else None


def any_text(rng):
    parts = []
    for _ in range(rng.randrange(0, 9)):
        kind = rng.random()
        if kind < 0.45:
            word = rng.choice(WORDS)
            parts.append(rng.choice([word, word.lower(), word.upper(), word[: rng.randrange(1, len(word) + 1)]]))
        elif kind < 0.7:
            parts.append(rng.choice(SPACES))
        elif kind < 0.85:
            parts.append(chr(rng.randrange(0x20)))
        else:
            parts.append("".join(rng.choice("0123456789.,$-# ") for _ in range(rng.randrange(1, 8))))
    return "".join(parts)


def main():
    rng = random.Random(1)
    output = sys.argv[1] if len(sys.argv) > 1 else "tests/data/answers/cases.jsonl"
    texts = ["", " ", "\x00", "\x00 7401234\x1f", "one\x00two", "one\r\ntwo", "#### ", "#### -", "#### -1,5.",
             "a #### 3 b #### 4", "so 12.", "so $12.50, or -3", "5 ...", "-", "--8", "1-2", "#### 7 #### x",
             "\u3000Paris\u2028"] + [any_text(rng) for _ in range(382)]
    with open(output, "w", encoding="ascii") as f:
        scores = []
        for text in texts:
            references = [rng.choice(WORDS) for _ in range(rng.choice([1, 1, 2, 3, 4, 7]))]
            if "\n" in "".join(references) and rng.random() < 0.5:
                references.append("")
            hits = found(clean(text), references)
            scores.append(sum(hits) / len(references))
            f.write(json.dumps({"text": text.encode().hex(), "references": references, "all": scores[-1], "part": max(hits),
                                "strict": strict(text), "last": last(text)}) + "\n")
        f.write(json.dumps({"rounded": rounded(sum(scores), len(scores))}) + "\n")


main()
