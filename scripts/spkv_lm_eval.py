#!/usr/bin/env python3
"""Runs lm_eval (the lm-evaluation-harness, 0.4.9 or later) on spkv: every task of it under any policy.

    scripts/spkv_lm_eval.py --model spkv --model_args 'model=DIR,options=--policy window --sinks 4' --tasks arc_easy ...

All options are lm_eval's. model_args: model=DIR, a directory as spkv takes it; options=..., of `spkv serve` (without commas:
--window 128 in place of window=128); spkv=PATH of the program (build/spkv). Prompts come from lm_eval; tokens, truncation
and scores from spkv, which follows its HFLM. Chat templates are not applied."""

import json
import shlex
import subprocess

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model


class SpkvError(RuntimeError):
    pass


@register_model("spkv")
class SpkvLM(LM):
    def __init__(self, model, spkv="build/spkv", options="", **kwargs):
        super().__init__()
        command = [spkv, "serve", "--stdio", model, "--quiet", *shlex.split(options)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        self.n_asked = 0
        self.info = self.ask("info")

    @property
    def tokenizer_name(self):
        return self.info["model_hash"]

    def get_model_info(self):
        return self.info

    def ask(self, method, **fields):
        """One line there, one line back."""
        self.n_asked += 1
        self.process.stdin.write(json.dumps({"id": self.n_asked, "method": method, **fields}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SpkvError(f"spkv serve ended with status {self.process.wait()}: see its message above")
        reply = json.loads(line)
        if "error" in reply:
            raise SpkvError(f"{method}: {reply['error']['message']}")
        assert reply["id"] == self.n_asked
        return reply

    def loglikelihood(self, requests, disable_tqdm=False):
        """Requests that follow each other and share their context are one question."""
        results, groups = [], []
        for context, continuation in (request.args for request in requests):
            if groups and groups[-1][0] == context:
                groups[-1][1].append(continuation)
            else:
                groups.append((context, [continuation]))
        for context, continuations in groups:
            reply = self.ask("loglikelihood", context=context, continuations=continuations)
            for continuation, result in zip(continuations, reply["results"], strict=True):
                results.append((result["log_likelihood"], result["is_greedy"]))
                self.cache_hook.add_partial("loglikelihood", (context, continuation), results[-1])
        return results

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        results = []
        for (text,) in (request.args for request in requests):
            results.append(self.ask("loglikelihood_rolling", text=text)["log_likelihood"])
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), results[-1])
        return results

    def generate_until(self, requests, disable_tqdm=False):
        results = []
        for context, settings in (request.args for request in requests):
            known = {key: settings[key] for key in ("until", "do_sample", "temperature", "top_p", "top_k", "max_gen_toks")
                     if settings.get(key) is not None}
            results.append(self.ask("generate_until", context=context, **known)["text"])
            self.cache_hook.add_partial("generate_until", (context, settings), results[-1])
        return results


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate
    cli_evaluate()
