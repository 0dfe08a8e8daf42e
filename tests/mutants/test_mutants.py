"""Bugs planted in the production code, one at a time: each must be seen by a check that passes without it.

A mutant is a replacement in a file's source. Every reference to what the file defines is pointed to the broken copy, so the unmodified rest
of the library runs on it. A mutant whose text is no longer found fails: then it proves nothing, and has to be planted again.
"""

# ruff: noqa: E501 (a mutant is a row of a table: broken over lines, what differs is no longer seen)
import importlib
import math
import sys
import types
from collections import Counter
from pathlib import Path

import pytest
import torch
import toys
from toys import EXACT, Trees, ask, distance, plain_law, target
from transformers.generation import logits_process as hf

from anydraft.core import law as laws
from anydraft.core import noise as noises
from anydraft.core import stopping, tree
from anydraft.core.errors import NonFiniteLogits
from anydraft.core.records import Context
from anydraft.drafters.draft_model import DraftModel
from anydraft.testing import exact

pytestmark = pytest.mark.proof


def plant(monkeypatch, name, old, new):
    """Puts a copy of module `anydraft.<name>` with `old` replaced by `new` in the place of what it defines, everywhere."""
    module = importlib.import_module(f"anydraft.{name}")
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {name}: plant this mutant again"
    broken = types.ModuleType(module.__name__)
    broken.__file__ = module.__file__
    exec(compile(source.replace(old, new), module.__file__, "exec"), broken.__dict__)
    mine = {id(value): key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    for other in [m for key, m in list(sys.modules.items()) if key.startswith("anydraft.") or key in ("toys", __name__)]:
        for attribute, value in list(vars(other).items()):
            if id(value) in mine:
                monkeypatch.setattr(other, attribute, getattr(broken, mine[id(value)]))
    for key, value in list(toys.RULES.items()):
        if id(value) in mine:
            monkeypatch.setitem(toys.RULES, key, getattr(broken, mine[id(value)]))


# -- checks: each passes on the library as it is ---------------------------------------------------------------------


def keeps_law(rule, draft, depth=2, tokens=3, drafter=None, control=None, **options):
    def check():
        make = drafter or toys.DRAFTS[draft]
        control_of = control or (lambda: toys.Fixed(depth))
        assert distance(lambda: (target(), make(), toys.RULES[rule](), control_of()), ask(tokens, **options)) < EXACT, "the law differs"

    return check


CHAIN = keeps_law("speculative_sampling", "draft_model chain")
BOTH = keeps_law("speculative_sampling", "a chain of both")
BLOCK = keeps_law("block_verification", "draft_model chain")
TREE = keeps_law("recursive_rejection", "draft_model distinct", 4)
MIXED = keeps_law("recursive_rejection", "", 4, drafter=lambda: Trees([-1, -1, 1, 1], ["determined", "distinct", "distinct", "independent"]))
HOLES = keeps_law("recursive_rejection", "distinct with holes")
MATCH = keeps_law("match", "a chain of both", 3)
DOUBT = keeps_law("speculative_sampling", "draft_model chain", control=lambda: toys.Confidence(2, 0.5))
ENDING = keeps_law("speculative_sampling", "draft_model chain", eos=frozenset({2}))
PENALTY = keeps_law("speculative_sampling", "draft_model chain", repetition_penalty=1.8)
N_GRAMS = keeps_law("match", "points in a chain", prompt=(0, 1, 2), logits_processor=(hf.NoRepeatNGramLogitsProcessor(2),))
SHARP = keeps_law("block_verification", "", drafter=lambda: Trees([-1, 0], ["independent"] * 2, seed=3))
EMPTY_CHAIN = keeps_law("block_verification", "a chain with holes")


def keyed_counts(rule, requests):
    parts = (target(3, 2), DraftModel(target(10, 2), 2), toys.RULES[rule](), toys.Fixed(3))
    return Counter(exact.run(parts, requests, noises.Keyed()))


# Block verification looks at draft tokens that it then discards: their noise must not come back when the position is drafted again.
def samples_the_law(rule, rows=6_000):
    """Production noise: a chi-square of `rows` seeds against the exact law, at 6 standard deviations (one false alarm in 1e9)."""

    def check():
        requests = [ask(5, prompt=(0, 1), seed=s) for s in range(rows)]
        law = plain_law(lambda: target(3, 2), ask(5, prompt=(0, 1)))
        counts = keyed_counts(rule, requests)
        chi2 = sum((counts[output] - rows * p) ** 2 / (rows * p) for output, p in law.items())
        assert chi2 < len(law) - 1 + 6 * math.sqrt(2 * (len(law) - 1)), f"the law differs: chi-square {chi2:.0f} at {len(law) - 1} degrees"

    return check


SAMPLED = samples_the_law("speculative_sampling", 3_000)
SAMPLED_BLOCKS = samples_the_law("block_verification")


def batch_does_not_matter():
    requests = [ask(5, seed=s, prompt=(0, 1)) for s in range(12)]
    parts = lambda: (target(), DraftModel(target(2), 3), toys.RULES["speculative_sampling"](), toys.Fixed(2))  # noqa: E731
    together = exact.run(parts(), requests, noises.Keyed())
    assert together == [exact.run(parts(), [r], noises.Keyed())[0] for r in requests], "a row depends on its neighbours"
    assert len(set(together)) > 6, "different seeds give different texts"


def quantiles_have_mass():
    row = torch.tensor([[0.0, 0.4, 0.6, 0.0]], dtype=torch.float64)
    assert [int(laws.quantile(row, torch.tensor([u], dtype=torch.float64))) for u in (0.0, 0.4, 1 - 2.0**-53)] == [1, 2, 2]


def stop_strings_straddle_tokens():
    stop = stopping.Stopping(ask(99, prompt=(0,), stop_strings=("bcd",)), lambda ids: "".join("abcde"[t] for t in ids))
    for token in (0, 1, 2, 3, 4):
        if stop.push(token, lambda: None, False):
            break
    assert (stop.text, stop.ids) == ("a", [0, 1, 2, 3])


def nothing_of_a_stop_string_is_told():
    stop = stopping.Stopping(ask(99, prompt=(0,), stop_strings=("bcd",)), lambda ids: "".join("abcde"[t] for t in ids))
    told = ""
    for token in (0, 1, 2, 3):
        stop.push(token, lambda: None, False)
        told += stop.fresh_text()
    assert told == "a"


def padding_is_nobodys_child():
    """Seen here only: a table has a row for padding too, where a real engine has none."""
    draft = Trees([-1], ["determined"], points=[1]).propose(Context.start([ask(9)]), toys.Size(depth=torch.tensor([0]), nodes=torch.tensor([0])), None)
    assert not bool(draft.live.any()) and not bool(tree.child_with(draft, torch.tensor([-1]), torch.tensor([1]))[0])


def ancestors_go_all_the_way_up():
    assert tree.depths(torch.arange(-1, 30)[None])[0].tolist() == list(range(1, 32))


def stateful_processors_do_not_speculate():
    class Growing:
        def __init__(self):
            self.seen = []

        def __call__(self, ids, scores):
            self.seen.append(1)
            return scores

    drafter = DraftModel(target(2), 3)
    exact.run((target(), drafter, toys.RULES["match"](), toys.Fixed(3)), [ask(9, logits_processor=(Growing(),))], noises.Keyed())
    assert drafter.forwards == 0, "a row whose processor keeps state was drafted for"


def nothing_is_written_of_spoilt_logits():
    model, fine, request = target(), target().logits, ask(4)
    model.logits = lambda ids: fine(ids) if len(ids) < 4 else fine(ids) * torch.nan
    try:
        output = exact.run((model, toys.DRAFTS["draft_model chain"](), toys.RULES["match"](), toys.Fixed(1)), [request], noises.Keyed())
    except NonFiniteLogits:
        return
    raise AssertionError(f"NaN logits became the tokens {output}")


# -- mutants: (module, what stands there, what is planted, the check that must see it) --------------------------------

MUTANTS = {
    "ratio upside down": ("rules.speculative_sampling", "p / q.clamp_min(torch.finfo(q.dtype).tiny)", "q / p.clamp_min(torch.finfo(q.dtype).tiny)", CHAIN),
    "bonus row off by one": ("rules.speculative_sampling", "count.clamp_max(rows - 1)", "(count - 1).clamp(0, rows - 1)", CHAIN),
    "replacement drawn from p": ("rules.speculative_sampling", "draft, node, refused)", "draft, node, None)", CHAIN),
    "one coin for all": ("rules.speculative_sampling", 'asked, "accept", i)', 'asked, "accept", 0)', CHAIN),
    "padding judged": ("rules.speculative_sampling", "asked = open_ & draft.live[:, i]", "asked = open_", DOUBT),
    "block ratio without its cap": ("rules.block_verification", "(weight * ratio).clamp_max(1.0)", "(weight * ratio)", BLOCK),
    "block stops at the first refusal": ("rules.block_verification", "torch.where(accepted, i + 1, count)", "torch.where(accepted & (count == i), i + 1, count)", BLOCK),
    "block residual without its weight": ("rules.block_verification", "(left[:, None] * chosen -", "(chosen -", SHARP),
    "block judged by its last weight only": ("rules.block_verification", "prob = torch.where(final, weight, share)", "prob = weight", BLOCK),
    "block: an empty draw taken for token 0": ("rules.block_verification", "torch.where(draft.tokens[:, i] >= 0, (weight", "torch.where(draft.tokens[:, i] >= -1, (weight", EMPTY_CHAIN),
    "siblings judged by raw q": ("rules.recursive_rejection", "without(law, tried), law)", "law, law)", TREE),
    "exclusions carried down the tree": ("rules.recursive_rejection", "tried = tried & ~accepted[:, None]", "tried = tried", MIXED),
    "tree residual skipped": ("rules.recursive_rejection", "residual(left, law), left)", "left, left)", TREE),
    "parent ignored": ("rules.recursive_rejection", "& (draft.parent[:, i] == current)", "", TREE),
    "tree bonus row off by one": ("rules.recursive_rejection", "scores.law.rows(current + 1), left)", "scores.law.rows(current), left)", TREE),
    "target row off by one under match": ("rules.match", "noise.categorical(scores.law, current + 1,", "noise.categorical(scores.law, current.clamp_min(0),", MATCH),
    "one draw for every depth": ("rules.match", '"target", depth, path=True)', '"target", 0, path=True)', MATCH),
    "children of padding followed": ("core.tree", "hit = draft.live & (", "hit = (", padding_is_nobodys_child),
    "residual by absolute difference": ("core.law", "rest = (p - q).clamp_min(0)", "rest = (p - q).abs()", CHAIN),
    "an empty draw's law not subtracted": ("rules.recursive_rejection", "refused = asked & ~accepted", "refused = asked & ~accepted & (token >= 0)", HOLES),
    "a point judged by a sample's law": ("core.law", "return torch.where(draft.kind[:, node] == DETERMINED, point.to(drawn.dtype), drawn)", "return drawn", BOTH),
    "quantile cells closed on the wrong side": ("core.law", "right=True", "right=False", quantiles_have_mass),
    "doubtful token taken back": ("core.rollout", "        if nobody(live):\n            break\n        logits = model.grow(fed", "        lives[-1] = live\n        if nobody(live):\n            break\n        logits = model.grow(fed", DOUBT),
    "siblings drawn with replacement": ("core.rollout", "without(row, tried) if self.kind == DISTINCT and j else row", "row", TREE),
    "penalties blind to the draft": ("core.processors", "torch.tensor(tail[::-1]", "torch.tensor(tail[:0]", PENALTY),
    "a node's path read backwards": ("core.processors", "torch.tensor(tail[::-1]", "torch.tensor(tail", N_GRAMS),
    "state goes unnoticed": ("core.processors", "return seen[1] != seen[3]", "return False", stateful_processors_do_not_speculate),
    "text goes on behind its end": ("core.commit", "                break\n", "                continue\n", ENDING),
    "the target's token written first": ("core.commit", "tokens[:count] + [token] if", "[token] + tokens[:count] if", CHAIN),
    "NaN let through": ("core.commit", "spoilt = ~torch.isfinite(largest)", "spoilt = torch.isposinf(largest)", nothing_is_written_of_spoilt_logits),
    "noise keyed by the drafted position alone": ("core.noise", "hashed(self.seed, self.step, self.position, code, number)", "hashed(self.seed, self.position + number, code)", SAMPLED_BLOCKS),
    "one number for draft and coin": ("core.noise", "self.position, code, number)", "self.position, 0, number)", SAMPLED),
    "the first row's seed for all": ("core.noise", "KeyedNoise(np.array([r.seed for r in context.requests]", "KeyedNoise(np.array([context.requests[0].seed for r in context.requests]", batch_does_not_matter),
    "the coin the wrong way round": ("core.noise", "asked & (uniform < prob)", "asked & (uniform > prob)", SAMPLED),
    "ancestors two levels up only": ("core.tree", "for _ in range(nodes.bit_length())", "for _ in range(1)", ancestors_go_all_the_way_up),
    "stop strings within one piece only": ("core.stopping", "len(piece) - self._longest + 1)", "len(piece))", stop_strings_straddle_tokens),
    "beginnings of stop strings told": ("core.stopping", "safe = min(safe, len(text) - overlap)", "safe = len(text)", nothing_of_a_stop_string_is_told),
    "the context shrinks by a row": ("schedules.sequential", "draft = drafter.propose(context, size, step_noise)", "draft = drafter.propose(context.keep_rows([*range(1, context.size), 0]), size, step_noise)", TREE),
}  # fmt: skip


CHECKS = {id(mutant[-1]): (name, mutant[-1]) for name, mutant in MUTANTS.items()}


@pytest.mark.parametrize("check", [check for _, check in CHECKS.values()], ids=[f"for {name}" for name, _ in CHECKS.values()])
def test_every_check_passes_on_the_library_as_it_is(check):
    check()


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_seen(name, monkeypatch):
    module, old, new, check = MUTANTS[name]
    plant(monkeypatch, module, old, new)
    with pytest.raises(AssertionError):
        check()


def test_the_mutants_are_undone():
    """Whatever ran before in this process, the library is whole again."""
    CHAIN()
    assert len(MUTANTS) >= 18
