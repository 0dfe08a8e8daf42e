"""The proof: the output law of every rule with every draft and control is that of plain decoding, to 1e-9 in total variation.

Every run of the unmodified loop is visited, so a failure here is a wrong law and never bad luck. The window is longer than the draft:
with a window of the draft's own length, a wrong bonus token goes unnoticed.
"""

import functools

import pytest
import torch
from toys import CONTROLS, DRAFTS, EXACT, RULES, Nosy, Trees, V, ask, distance, fits, random_tree, target
from transformers.generation import logits_process as hf

from anydraft.control.fixed import Fixed
from anydraft.drafters.draft_model import DraftModel

pytestmark = pytest.mark.proof

PAIRS = [(rule, draft) for rule in RULES for draft in DRAFTS if fits(RULES[rule], DRAFTS[draft]())]
SPEAKING = (0, 1, 0, 2, 0, 1)  # a prompt in which prompt lookup finds something


@pytest.mark.parametrize("rule, draft", PAIRS)
def test_every_rule_keeps_the_law_of_every_draft(rule, draft):
    deep = 2 if DRAFTS[draft]().chain else 3
    assert distance(lambda: (target(), DRAFTS[draft](), RULES[rule](), Fixed(deep)), ask(3, prompt=SPEAKING)) < EXACT


@pytest.mark.parametrize("rule, draft", [(rule, draft) for rule, draft in PAIRS if DRAFTS[draft]().chain])
def test_every_rule_keeps_the_law_over_several_steps(rule, draft):
    """Two tokens only, but enough of them that a second step drafts behind a fully accepted first one."""
    make = functools.partial(target, 3, 2)
    request = ask(4 if rule == "match" else 5, prompt=(0, 1, 0))  # two draws a token make `match` the longest to visit
    assert distance(lambda: (make(), DRAFTS[draft](2), RULES[rule](), Fixed(2)), request, make) < EXACT


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("rule, draft", [
    ("speculative_sampling", "draft_model chain"), ("block_verification", "draft_model chain"), ("block_verification", "prompt_lookup"),
    ("recursive_rejection", "draft_model distinct"), ("recursive_rejection", "token_recycling"), ("match", "prompt_lookup"),
    ("match", "token_recycling"),
])  # fmt: skip
def test_no_control_moves_the_law(control, rule, draft):
    tokens, vocab = (5, 2) if DRAFTS[draft]().chain else (3, 3)
    make = functools.partial(target, 3, vocab)
    request = ask(tokens, prompt=(0, 1, 0, 1))
    assert distance(lambda: (make(), DRAFTS[draft](vocab), RULES[rule](), CONTROLS[control]()), request, make) < EXACT


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", ["eos", "eos is likely", "two eos", "context limit"])
def test_endings_inside_a_draft(rule, case):
    """A draft runs through the token that ends the text, or past the limit."""
    bias = {"eos is likely": torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64)}.get(case)
    ends = {"two eos": {1, 2}, "context limit": set()}.get(case, {2})

    def make_target():
        made = target(bias=bias)
        made.max_length = 5 if case == "context limit" else None
        return made

    draft = functools.partial(DraftModel, target(2, bias=bias), V)
    request = ask(9 if case == "context limit" else 3, eos=frozenset(ends))
    assert distance(lambda: (make_target(), draft(), RULES[rule](), Fixed(3)), request, make_target) < EXACT


OPTIONS = {
    "temperature": {"temperature": 0.6},
    "hot drafter": {"temperature": 0.7, "draft_temperature": 1.5},
    "greedy drafter": {"draft_temperature": 0.0},
    "greedy": {"temperature": 0.0},
    "greedy, sampling drafter": {"temperature": 0.0, "draft_temperature": 1.0},
    "top_k": {"top_k": 2},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.35},
    "repetition": {"repetition_penalty": 1.7},
    "presence": {"presence_penalty": 0.8},
    "frequency": {"frequency_penalty": 0.9, "repetition_penalty": 1.2},
    "bias": {"logit_bias": {0: 1.5, 2: -1.0}},
    "ban": {"banned_tokens": (1,)},
    "min_new_tokens": {"min_new_tokens": 2, "eos": frozenset({2})},
    "forced": {"forced_tokens": (2, 0)},
    "three-grams": {"logits_processor": (hf.NoRepeatNGramLogitsProcessor(3),)},
    "typical": {"logits_processor": (hf.TypicalLogitsWarper(0.6),)},
    "everything": {"temperature": 0.8, "top_k": 2, "min_p": 0.1, "repetition_penalty": 1.3, "presence_penalty": 0.3,
                   "frequency_penalty": 0.2, "logit_bias": {1: 0.5}, "min_new_tokens": 2, "eos": frozenset({0}), "forced_tokens": (1,)},
}  # fmt: skip


def seeded_pairs(n: int) -> list[tuple[str, str]]:
    """The same few (rule, draft) pairs for the n-th option on every machine; together they cover all rules."""
    chosen = [PAIRS[i] for i in torch.randperm(len(PAIRS), generator=torch.Generator().manual_seed(n)).tolist()]
    return [(rule, draft) for rule, draft in chosen if DRAFTS[draft]().chain and draft != "none"][:2]


@pytest.mark.parametrize("name, rule, draft", [(name, *pair) for n, name in enumerate(OPTIONS) for pair in seeded_pairs(n)])
def test_options_reach_every_node(name, rule, draft):
    request = ask(**{"max_new_tokens": 3, "prompt": SPEAKING, **OPTIONS[name]})
    assert distance(lambda: (target(), DRAFTS[draft](), RULES[rule](), Fixed(2)), request) < EXACT


@pytest.mark.parametrize("name", ["repetition", "everything", "three-grams", "top_p", "greedy, sampling drafter"])
def test_options_reach_every_node_of_a_tree(name):
    request = ask(**{"max_new_tokens": 3, **OPTIONS[name]})
    drafter = functools.partial(Trees, [-1, -1, 0, 1], ["distinct", "distinct", "independent", "determined"])
    assert distance(lambda: (target(), drafter(), RULES["recursive_rejection"](), Fixed(4)), request) < EXACT


class ByLength(torch.nn.Module):
    """A user's own processor without state: what it adds depends on the whole prefix."""

    def __call__(self, input_ids, scores):
        return scores + torch.sin(input_ids.double().sum() + torch.arange(scores.shape[-1], dtype=torch.float64))


@pytest.mark.parametrize("rule", RULES)
def test_a_users_processor_reaches_every_node(rule):
    """The first calls of a foreign processor are watched without a draft; forced tokens bring us behind them."""
    watched, make_target, made = (0, 1, 1, 0), functools.partial(target, 3, 2), []
    request = ask(len(watched) + 3, forced_tokens=watched, logits_processor=(ByLength(),))

    def make():
        made.append(DraftModel(target(2, 2), 2))
        return make_target(), made[-1], RULES[rule](), Fixed(2)

    assert distance(make, request, make_target) < EXACT
    assert made[0].forwards, "some step must have speculated, or this proves nothing"


@pytest.mark.parametrize("seed", range(8))
def test_random_trees_of_mixed_kinds(seed):
    parent, kind = random_tree(seed, 3 + seed % 2)
    drafter = functools.partial(Trees, parent, kind, seed=seed + 20, holes=0.25 * (seed % 3 == 0))
    assert distance(lambda: (target(seed), drafter(), RULES["recursive_rejection"](), Nosy(3)), ask(3), lambda: target(seed)) < EXACT
