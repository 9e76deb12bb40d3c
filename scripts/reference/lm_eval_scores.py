#!/usr/bin/env python3
"""What lm_eval (0.4.13) makes of local files, through its own task definitions and HFLM in f32.

    lm_eval_scores.py run MODEL OUT.json [--limit N] [--shots N] [--max-length N] KIND=FILE...
    lm_eval_scores.py fixtures                         # writes tests/data/eval/expected.json
    lm_eval_scores.py adapter MODEL                    # lm_eval on HFLM beside lm_eval on spkv serve
    lm_eval_scores.py compare OUT.json ITEMS.jsonl     # what spkv eval -o wrote for the same files, in the same order

KIND is arc, commonsenseqa, openbookqa, hellaswag, winogrande, boolq, piqa, mmlu, choice (multiple choice, from the file's
authors' form) or rolling (rows with "text"). OUT.json holds the metrics of each task and the scores of each item."""

import argparse
import json
import math
import pathlib
import shutil
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROLLING_LENGTH = 50  # tokens of a window of the stored case

PACKAGE = {"arc": "arc/arc_easy", "commonsenseqa": "commonsense_qa/default", "openbookqa": "openbookqa/openbookqa",
           "hellaswag": "hellaswag/hellaswag", "winogrande": "winogrande/default", "boolq": "super_glue/boolq/default",
           "piqa": "piqa/piqa", "mmlu": "mmlu/default/mmlu_anatomy"}


def hub_form(kind, row):
    """The authors' row as the dataset on the hub has it."""
    question = row.get("question")
    if isinstance(question, dict):
        choices = {part: [c[part] for c in question["choices"]] for part in ("text", "label")}
        row = {**row, "question": question["stem"], "question_stem": question["stem"], "choices": choices}
    if kind == "boolq" and "label" not in row:
        row = {**row, "label": int(row["answer"])}
    return row


def task_config(kind, path, shots):
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml
    folder = pathlib.Path(lm_eval.tasks.__file__).parent
    if kind == "rolling":
        config = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
                  "metric_list": [{"metric": m} for m in ("word_perplexity", "byte_perplexity", "bits_per_byte")]}
    elif kind == "generate":
        config = {"output_type": "generate_until", "doc_to_text": "{{prompt}}", "doc_to_target": "{{completion}}",
                  "generation_kwargs": {"until": [".", "\n"], "max_gen_toks": 24, "do_sample": False},
                  "metric_list": [{"metric": "exact_match"}]}
    elif kind == "choice":
        config = {"output_type": "multiple_choice", "doc_to_text": "{{prompt}}", "doc_to_choice": "{{choices}}",
                  "doc_to_target": "{{gold}}"}
    else:
        config = load_yaml(folder / f"{PACKAGE[kind]}.yaml")
    for key in ("tag", "task", "dataset_name", "training_split", "validation_split", "task_alias", "fewshot_split"):
        config.pop(key, None)
    first = kind == "mmlu"
    config.update(task=f"{kind}_{pathlib.Path(path).name.split('.')[0]}_{shots}", dataset_path="json", test_split="test",
                  dataset_kwargs={"data_files": {"test": str(path)}}, num_fewshot=shots)
    if kind not in ("rolling", "generate"):
        config.update(fewshot_split="test", fewshot_config={"sampler": "first_n" if first else "default"},
                      metric_list=[{"metric": m} for m in ("acc", "acc_norm", "acc_bytes")])
    return config


def prepared(kind, path, folder):
    """The rows in the hub's form, with the harness's own preparation of HellaSwag."""
    rows = [hub_form(kind, json.loads(line)) for line in open(path, encoding="utf-8") if line.strip()]
    out = pathlib.Path(folder) / pathlib.Path(path).name
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out


def open_model(path, max_length, threads):
    import torch
    from lm_eval.models.huggingface import HFLM
    torch.set_num_threads(threads)
    return HFLM(pretrained=str(path), dtype="float32", device="cpu", batch_size=8, max_length=max_length)


def evaluate(model, tasks, limit=None):
    """Metrics and items of (kind, path, shots), under the names of their tasks."""
    import lm_eval
    with tempfile.TemporaryDirectory() as folder:
        configs = [task_config(kind, prepared(kind, path, folder), shots) for kind, path, shots in tasks]
        out = lm_eval.simple_evaluate(model=model, tasks=configs, limit=limit, log_samples=True, bootstrap_iters=0)
    result = {}
    for config, (kind, path, shots) in zip(configs, tasks):
        name = config["task"]
        items = []
        for sample in out["samples"][name]:
            item = {m: sample[m] for m in ("acc", "acc_norm", "acc_bytes") if m in sample}
            if kind == "generate":
                item["text"] = [r[0] for r in sample["resps"]]
            else:
                item["log_likelihood"] = [float(r[0][0]) if isinstance(r[0], (list, tuple)) else float(r[0])
                                          for r in sample["resps"]]
            items.append(item)
        metrics = {k.split(",")[0]: v for k, v in out["results"][name].items() if "," in k}
        result[name] = {"kind": kind, "file": pathlib.Path(path).name, "shots": shots, "metrics": metrics, "items": items}
    return result


def run(args):
    model = open_model(args.model, args.max_length, args.threads)
    tasks = [item.split("=", 1) for item in args.tasks]
    result = evaluate(model, [(kind, path, 0 if kind == "rolling" else args.shots) for kind, path in tasks], args.limit)
    json.dump(result, open(args.output, "w"), indent=1)
    print(json.dumps({name: r["metrics"] for name, r in result.items()}, indent=1))


def adapter(args):
    """The same tasks through HFLM and through scripts/spkv_lm_eval.py, side by side."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from spkv_lm_eval import SpkvLM
    data = ROOT / "tests/data/eval"
    tasks = [(kind, data / f"{kind}.jsonl", shots) for kind, shots in (("arc", 2), ("winogrande", 0), ("rolling", 0),
                                                                       ("generate", 0))]
    hf = evaluate(open_model(args.model, None, 1), tasks)
    ours = evaluate(SpkvLM(args.model, spkv=str(ROOT / "build/spkv"), options=args.options), tasks)
    worst, n_texts, n_equal = 0, 0, 0
    for name in hf:
        for a, b in zip(hf[name]["items"], ours[name]["items"], strict=True):
            for x, y in zip(a.get("log_likelihood", []), b.get("log_likelihood", []), strict=True):
                worst = max(worst, abs(x - y))
            n_texts += len(a.get("text", []))
            n_equal += sum(x == y for x, y in zip(a.get("text", []), b.get("text", [])))
    print(f"log-likelihoods within {worst:.2e} nat, {n_equal} of {n_texts} texts equal")
    if worst > 1e-3 or n_equal < n_texts:
        sys.exit(1)


def fixtures(args):
    """tests/data/eval/expected.json: the demo model on the small tasks beside it. HFLM wants a tokenizer_config.json, which
    the model's directory does not have: a copy gets one."""
    data = ROOT / "tests/data/eval"
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "model"
        shutil.copytree(ROOT / "datasets/demo/model", copy)
        (copy / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast",
                                                                "bos_token": "<|bos|>", "eos_token": "<|eos|>"}))
        short = open_model(copy, ROLLING_LENGTH, 1)
        result = evaluate(short, [("rolling", data / "rolling.jsonl", 0)])
        model = open_model(copy, None, 1)
        kinds = [*PACKAGE, "choice"]
        tasks = [*((kind, 0) for kind in kinds), ("arc", 3), ("arc", 5), ("mmlu", 2), ("winogrande", 1)]
        result.update(evaluate(model, [(kind, data / f"{kind}.jsonl", shots) for kind, shots in tasks]))
    for task in result.values():
        task["max_length"] = ROLLING_LENGTH if task["kind"] == "rolling" else 0
    (data / "expected.json").write_text(json.dumps(list(result.values()), indent=1) + "\n")


def compare(args):
    tasks = json.load(open(args.output))
    expected = [(name, i, item) for name, task in tasks.items() for i, item in enumerate(task["items"])]
    got = [json.loads(line) for line in open(args.items)]
    if len(expected) != len(got):
        sys.exit(f"{len(expected)} items here, {len(got)} there")
    worst, worst_relative, flips, ties = 0, 0, 0, 0
    for (name, i, want), have in zip(expected, got):
        ours = [s["log_likelihood"] for s in have["scores"]] if "scores" in have else [have["log_likelihood"]]
        for a, b in zip(want["log_likelihood"], ours, strict=True):
            worst = max(worst, abs(a - b))
            worst_relative = max(worst_relative, abs(a - b) / max(1, abs(a)))
        for metric in ("acc", "acc_norm", "acc_bytes"):
            if metric in want and int(want[metric]) != have[metric]:
                best = sorted(want["log_likelihood"], reverse=True)
                flips += 1
                ties += metric == "acc" and best[0] - best[1] < 1e-3
                print(f"{name} item {i}: {metric} is {want[metric]} here, {have[metric]} there: {want['log_likelihood']}")
    print(f"{len(got)} items: log-likelihoods within {worst:.2e} nat ({worst_relative:.2e} relative), {flips} figures "
          f"differ, {ties} of them by ties")
    return worst_relative < 1e-3 and math.isfinite(worst)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("model")
    one.add_argument("output")
    one.add_argument("tasks", nargs="+")
    one.add_argument("--limit", type=int)
    one.add_argument("--shots", type=int, default=0)
    one.add_argument("--max-length", type=int)
    one.add_argument("--threads", type=int, default=1)
    commands.add_parser("fixtures")
    three = commands.add_parser("adapter")
    three.add_argument("model")
    three.add_argument("--options", default="--policy full --dtype f32 --threads 1")
    two = commands.add_parser("compare")
    two.add_argument("output")
    two.add_argument("items")
    args = parser.parse_args()
    if args.command == "run":
        run(args)
    elif args.command == "fixtures":
        fixtures(args)
    elif args.command == "adapter":
        adapter(args)
    elif not compare(args):
        sys.exit(1)


if __name__ == "__main__":
    main()
