"""Never slower: paired times of `auto` against plain decoding, over drafters that deserve it and drafters that do not.

    python -m anydraft.bench.never_slower [--pairs 10] [--max-new-tokens 256] [--temperature 0] [--device cuda] [--dtype float32] [--json FILE]

Each pair decodes the same prompt both ways, right after each other and in alternating order, prefill included. Two clocks are reported:
the wall's, and the process's own, which other programs on a busy machine disturb less. First of all plain decoding itself is held against a bare
loop around the model's forward. Exit code 1 if a median wall ratio misses the bound.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from anydraft import zoo
from anydraft.bench.bandwidth import bandwidth
from anydraft.loading import load
from anydraft.speculator import Speculator

BOUND = 0.97


def random_weights(config: Any, seed: int = 0) -> Any:
    """A model of this configuration that has learned nothing."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).float().eval()


def cases(device: str = "cpu", dtype: str = "float32") -> tuple[Any, Any, dict[str, Callable[[], Speculator]]]:
    """(target, tokenizer, what to compare by name); a case is built when its turn comes."""
    settings = {"device_map": device, "dtype": getattr(torch, dtype)}
    target, tokenizer = load(str(zoo.path("target")), **settings)
    small, _ = load(str(zoo.path("draft-bpe")), **settings)
    other, others = load(str(zoo.path("draft-spm")), **settings)

    def untaught(config: Any) -> Any:
        return random_weights(config).to(target.device, target.dtype)

    def speculator(drafter: Any = None, its: Any = None, **options: Any) -> Callable[[], Speculator]:
        return lambda: Speculator(target, tokenizer, drafter, its, **options)

    return (
        target,
        tokenizer,
        {
            "the bundled drafter": speculator(small, method="draft_model"),
            "random weights": speculator(untaught(small.config), method="draft_model"),
            "random weights, half the target": speculator(untaught(_half(target.config)), method="draft_model"),
            "as slow as the target": speculator(target, method="draft_model"),
            "prompt lookup": speculator(method="prompt_lookup"),
            "prompt lookup that finds nothing": speculator(method="prompt_lookup", min_matching_ngram_size=200, max_matching_ngram_size=200),
            "token recycling": speculator(method="token_recycling"),
            "another vocabulary, SLEM": speculator(other, others, method="slem"),
            "several drafters": speculator([small, other, "prompt_lookup"], [None, others, None]),
            "several that are no good": speculator([untaught(small.config), untaught(_half(target.config)), "token_recycling"]),
        },
    )


def _half(config: Any) -> Any:
    made = type(config).from_dict(config.to_dict())
    made.num_hidden_layers = max(1, config.num_hidden_layers // 2)
    return made


class BareLoop:
    """Greedy decoding with nothing around it: transformers' cache, one forward a token, the largest logit."""

    def __init__(self, model: Any, tokenizer: Any):
        self.model, self.tokenizer = model, tokenizer

    @torch.inference_mode()
    def generate(self, prompt: str, max_new_tokens: int, **options: Any) -> list[int]:
        """New ids; the options are those of greedy requests, and so say nothing here."""
        ids, cache, found = torch.tensor([self.tokenizer(prompt).input_ids], device=self.model.device), None, []
        while len(found) < max_new_tokens:
            made = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = made.past_key_values
            ids = made.logits[:, -1].argmax(-1, keepdim=True)
            found.append(int(ids))
        return found


def paired(
    ours: Any, plain: Any, prompts: list[str], pairs: int, warm: int = 2, **options: Any
) -> tuple[list[float], list[float], list[str]]:
    """(wall ratios, process ratios, notes): plain seconds over ours, one of each per pair; above 1 is faster."""
    for prompt in prompts[-warm:]:  # both meet lazy imports, allocators and, ours, its calibration and a first impression of the drafter
        plain.generate(prompt, **options)
        ours.generate(prompt, **options)
    wall, own, notes = [], [], []
    for turn in range(pairs):
        prompt, spent = prompts[turn % len(prompts)], {}
        for who in ("ours", "plain") if turn % 2 else ("plain", "ours"):
            start = time.perf_counter(), time.process_time()
            made = (ours if who == "ours" else plain).generate(prompt, seed=turn, **options)
            spent[who] = time.perf_counter() - start[0], time.process_time() - start[1]
            if who == "ours":
                notes += made.metrics.notes + [f"drafted by {name}" for name, held in made.metrics.drafters.items() if held["steps"]]
        wall.append(spent["plain"][0] / spent["ours"][0])
        own.append(spent["plain"][1] / spent["ours"][1])
    return wall, own, notes


def interval(values: list[float], draws: int = 2000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    rng = random.Random(0)
    medians = sorted(median(rng.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def main(arguments: list[str] | None = None) -> int:
    """Runs all cases and prints one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--control", default="auto", help="the control to hold against plain decoding")
    parser.add_argument("--case", action="append", help="only cases that contain this; repeatable")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    target, tokenizer, made = cases(given.device, given.dtype)
    prompts = [prompt["text"] for prompt in zoo.prompts()]
    random.Random(1).shuffle(prompts)
    plain = Speculator(target, tokenizer, method="none")
    options = {"max_new_tokens": given.max_new_tokens, "temperature": given.temperature, "ignore_eos": True}
    print(f"{torch.get_num_threads()} threads, {given.device}, {given.dtype}, read bandwidth {bandwidth(given.device).read:.1f} GB/s")
    print(f"{given.pairs} pairs of {given.max_new_tokens} tokens, temperature {given.temperature:g}: plain seconds over ours")
    report, failed = {}, []
    against: dict[str, Any] = {}
    if given.temperature == 0:  # a bare loop only takes the largest logit
        bare = "plain decoding, against a bare loop"
        made, against = {bare: lambda: plain, **made}, {bare: BareLoop(target, tokenizer)}
    for name, build in made.items():
        if given.case and not any(word in name for word in given.case):
            continue
        with torch.inference_mode():
            ours = build()
            ours._settings["control"] = given.control
            wall, own, notes = paired(ours, against.get(name, plain), prompts, given.pairs, **options)
        low, high = interval(wall)
        why = max(set(notes), key=notes.count) if notes else ""
        clocks = f"wall {median(wall):.3f} [{low:.3f}, {high:.3f}]  process {median(own):.3f}  worst {min(wall):.3f}"
        print(f"{name:36s} {clocks}  {why[:90]}", flush=True)
        report[name] = {"wall": wall, "process": own, "median": median(wall), "low": low, "high": high, "notes": notes}
        if median(wall) < BOUND:
            failed.append(name)
    print(f"bound {BOUND}: " + ("held by every case" if not failed else "missed by " + ", ".join(failed)))
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
