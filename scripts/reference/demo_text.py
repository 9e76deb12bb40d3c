"""Text of the demo model: novels, the project's own documentation and sources, and generated recall tasks; tokenizer and
token pools; batches by source."""

import os
import random

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
SEED = 20260513
BOS, EOS = 0, 1
VOCAB = 1024
MIX = {"novels": 0.4, "project": 0.15, "recall": 0.45}                          # share of sequences at first,
COPY_MIX = {"novels": 0.3, "project": 0.1, "recall": 0.35, "repeat": 0.25}      # after the copying heads are seeded,
SPKV_MIX = {"novels": 0.35, "project": 0.15, "recall": 0.45, "repeat": 0.05}    # and with gates
WORDS = """
amber anchor apple arrow autumn badge barley basket beacon birch blanket bottle branch bridge bronze bucket butter
button candle canvas carpet castle cedar cellar chalk cherry chimney circle clover cobalt copper coral cotton cradle
crystal curtain daisy desert dragon eagle ember engine falcon feather fennel ferry fiddle flint forest fountain garden
garlic ginger glacier goblet granite hammer harbour harvest hazel helmet heron hollow honey island ivory jacket
jasmine juniper kettle ladder lantern lemon linen lizard magnet maple marble meadow mirror monkey needle nettle nickel
oyster paddle paper parrot pebble pencil pepper pigeon pillow planet pocket poplar quartz rabbit raven ribbon river
rocket saddle saffron sailor salmon sandal shadow silver spider spruce stable thunder timber tulip tunnel turtle
valley velvet violet walnut willow winter
""".split()
SYLLABLES = """
ba bel bo cal cor da del dor e fa fen gal gor ha hel il in ka kel kor la len lo ma mel mor na nel or pa ra rin ro sa
sel sor ta tel tor u va vel vor wen ya zel zo
""".split()


def read_text(path):
    with open(path, encoding="utf-8", newline="") as f:
        return f.read().lstrip("\ufeff")


def project_files():
    """The project's own Markdown, C and script sources."""
    out = []
    for top in ("README.md", "Makefile", "analyze", "base", "cli", "datasets", "docs", "engine", "kernels", "reports",
                "scripts", "tests", "train"):
        path = os.path.join(ROOT, top)
        if os.path.isfile(path):
            out.append(path)
        for folder, _, files in sorted(os.walk(path)):
            out += [os.path.join(folder, f) for f in sorted(files) if f.endswith((".md", ".c", ".h", ".py", ".sh"))]
    return out


def invented_name(rng):
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3))).capitalize()


def filler(rng, sentences, n):
    start = rng.randrange(len(sentences) - n)
    return " ".join(sentences[start:start + n])


def task_key_value(rng, sentences):
    """Codes of invented names, other text, then the codes asked for in any order."""
    names = list({invented_name(rng) for _ in range(rng.randint(3, 8))})
    code = {name: str(rng.randint(1000, 9999)) for name in names}
    text = "\n".join(f"The code of {name} is {code[name]}." for name in names)
    text += "\n\n" + filler(rng, sentences, rng.randint(1, 6)) + "\n\n"
    asked = [rng.choice(names) for _ in range(rng.randint(2, 8))]
    return text + "\n".join(f"What is the code of {name}? The code of {name} is {code[name]}." for name in asked) + "\n"


def task_names(rng, sentences):
    """People with a place and a thing that come back after other text."""
    people = [(invented_name(rng) + " " + invented_name(rng), invented_name(rng), rng.choice(WORDS))
              for _ in range(rng.randint(2, 4))]
    text = " ".join(f"{who} lives in {place} and owns a {thing}." for who, place, thing in people)
    for _ in range(rng.randint(1, 3)):
        text += "\n\n" + filler(rng, sentences, rng.randint(1, 4)) + "\n\n"
        who, place, thing = rng.choice(people)
        text += rng.choice([f"{who} left {place} with the {thing}.", f"In {place} the {thing} of {who} was well known.",
                            f"Nobody but {who} of {place} had seen the {thing}."])
    return text + "\n"


def task_copy(rng, sentences):
    """A list of words and numbers, then the same list again."""
    number = lambda: f" {rng.randint(1, 99)}" if rng.random() < 0.5 else ""
    items = [rng.choice(WORDS) + number() for _ in range(rng.randint(12, 60))]
    if rng.random() < 0.5:
        return "List: " + ", ".join(items) + ".\nCopy: " + ", ".join(items) + ".\n"
    return "List:\n" + "".join(f"- {i}\n" for i in items) + "\nThe same list again:\n" + "".join(f"- {i}\n" for i in items)


def task_table(rng, sentences):
    """Words with numbers as a table, then some rows looked up."""
    words = rng.sample(WORDS, rng.randint(6, 20))
    value = {w: rng.randint(10, 999) for w in words}
    text = "| word | number |\n|---|---|\n" + "".join(f"| {w} | {value[w]} |\n" for w in words) + "\n"
    return text + "".join(f"{w}: {value[w]}\n" for w in rng.sample(words, rng.randint(3, len(words))))


def recall_document(rng, sentences, n_tasks=6):
    tasks = (task_key_value, task_names, task_copy, task_copy, task_table)
    return "\n".join(rng.choice(tasks)(rng, sentences) for _ in range(n_tasks))


def split_sentences(text):
    flat = " ".join(text.split())
    return [s.strip() + "." for s in flat.split(". ") if 20 < len(s) < 240]


def texts(novels_dir, n_recall, seed):
    """{source: list of documents}. Novels: a slice of every file."""
    files = sorted(f for f in os.listdir(novels_dir) if f.endswith(".txt"))
    novels = [read_text(os.path.join(novels_dir, f))[20000:120000] for f in files]
    sentences = [s for n in novels for s in split_sentences(n)]
    rng = random.Random(seed)
    return {"novels": novels, "project": [read_text(f) for f in project_files()],
            "recall": [recall_document(rng, sentences) for _ in range(n_recall)]}


def train_tokenizer(documents):
    """Byte-level BPE with a BOS template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<|bos|>", "<|eos|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<|bos|> $A", pair="<|bos|> $A <|bos|> $B",
                                                             special_tokens=[("<|bos|>", BOS)])
    return tokenizer


def prepare(args):
    """Tokenizer and token pools in the work directory, made once."""
    os.makedirs(args.work, exist_ok=True)
    path = os.path.join(args.work, "tokenizer.json")
    pool_path = os.path.join(args.work, "pools.npz")
    if not os.path.exists(pool_path):
        data = texts(args.novels, 5000, SEED)
        sample = [d[:20000] for d in data["novels"]] + data["project"] * 2 + data["recall"][:400]
        tokenizer = train_tokenizer(sample)
        tokenizer.save(path)
        pools = {}
        for source, documents in data.items():
            ids = [e.ids for e in tokenizer.encode_batch(documents, add_special_tokens=False)]
            pools[source] = np.concatenate([np.array(i, np.int16) for i in ids])
            pools[source + "_start"] = np.cumsum([0] + [len(i) for i in ids])
            n_bytes = sum(len(d.encode()) for d in documents)
            print(f"{source}: {len(documents)} documents, {n_bytes} bytes, {len(pools[source])} tokens", flush=True)
        np.savez(pool_path, **pools)
    with np.load(pool_path) as f:
        return Tokenizer.from_file(path), dict(f)


def batch_of(pools, rng, n_seq, length, mix=MIX):
    """(n_seq, length) token ids: BOS, then a run of one document (or the next ones where it ends). The source "repeat" is a
    run of random tokens, drawn as often as they occur in the novels, over and over."""
    out = np.empty((n_seq, length), np.int64)
    for row in range(n_seq):
        source = rng.choice(list(mix), p=list(mix.values()))
        out[row, 0] = BOS
        if source == "repeat":
            period = int(np.exp(rng.uniform(np.log(6), np.log(min(300, length // 2)))))
            out[row, 1:] = np.tile(rng.choice(pools["novels"], period), length // period + 1)[:length - 1]
            continue
        pool, starts = pools[source], pools[source + "_start"]
        if source == "recall":  # from the beginning of a document: questions need their facts
            at = min(int(rng.choice(starts[:-1])), len(pool) - length)
        else:
            at = int(rng.integers(0, len(pool) - length))
        out[row, 1:] = pool[at:at + length - 1]
    return torch.from_numpy(out)


def held_out_batches(novels_dir, tokenizer, length=512, n_seq=8):
    """{source: (n_seq, length) ids}: novels and recall tasks that training did not see."""
    files = sorted(f for f in os.listdir(novels_dir) if f.endswith(".txt"))
    novels = [read_text(os.path.join(novels_dir, f))[50000:90000] for f in files]
    sentences = [s for n in novels for s in split_sentences(n)]
    rng = random.Random(SEED + 99)
    documents = {"novels": [novels[i % len(novels)] for i in range(n_seq)],
                 "recall": [recall_document(rng, sentences) for _ in range(n_seq)]}
    out = {}
    for source, texts_ in documents.items():
        ids = [tokenizer.encode(d, add_special_tokens=True).ids for d in texts_]
        out[source] = torch.tensor([i[:length] for i in ids if len(i) >= length])
    return out
