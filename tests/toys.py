"""Toy models, drafters, controls and requests that the law tests share. Small vocabularies: every possible run is visited."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from anydraft.control.confidence import Confidence
from anydraft.control.fixed import Fixed
from anydraft.control.heuristic import Heuristic
from anydraft.core.law import Dense, without
from anydraft.core.noise import hashed
from anydraft.core.records import DETERMINED, DISTINCT, INDEPENDENT, KINDS, Context, Draft, Level, Request, Size, Step
from anydraft.core.tree import check, depths
from anydraft.drafters.draft_model import DraftModel
from anydraft.drafters.none import NoDraft
from anydraft.drafters.prompt_lookup import PromptLookup
from anydraft.drafters.token_recycling import TokenRecycling
from anydraft.engine.table import TableModel
from anydraft.rules.block_verification import BlockVerification
from anydraft.rules.match import Match
from anydraft.rules.recursive_rejection import RecursiveRejection
from anydraft.rules.speculative_sampling import SpeculativeSampling
from anydraft.testing.exact import Enumerating, Script, exact_law, plain_law, total_variation

V = 3
EXACT = 1e-9


def target(seed: int = 1, vocab: int = V, **kw) -> TableModel:
    return TableModel(vocab, seed=seed, **kw)


def constant(law: Sequence[float]) -> TableModel:
    """A model with the same law after every text."""
    return TableModel(len(law), spread=0.0, bias=torch.tensor(law, dtype=torch.float64).log())


def one_step(parts: tuple, request: Request, depth: int = 9) -> tuple[float, dict[int, float]]:
    """Expected number of accepted nodes of the first step, and the law of its first token, by visiting every run."""
    model, drafter, rule = parts
    accepted, law, todo = 0.0, defaultdict(float), [[]]
    while todo:
        scripts, todo = [Script(choices=list(choices)) for choices in todo[:512]], todo[512:]
        context = Context.start([request] * len(scripts))
        noise = Enumerating(scripts).at(context)
        room = torch.full((len(scripts),), depth)
        draft = drafter.propose(context, Size(depth=room, nodes=room), noise)
        verdict = rule.verify(draft, model.score(context, draft), noise)
        for b, script in enumerate(scripts):
            count = int(verdict.count[b])
            first = int(draft.tokens[b, verdict.path[b, 0]]) if count else int(verdict.token[b])
            accepted += script.weight * count
            law[first] += script.weight
            todo += script.untried
    return accepted, dict(law)


def ask(max_new_tokens: int = 4, prompt: Sequence[int] = (0, 1), temperature: float = 1.0, **options) -> Request:
    return Request(prompt=torch.tensor(prompt), max_new_tokens=max_new_tokens, temperature=temperature, **options)


def distance(make: Callable, request: Request, target_of: Callable = target) -> float:
    """Total variation between the law of these parts, enumerated, and that of plain decoding."""
    law = exact_law(make, request)
    assert abs(sum(law.values()) - 1) < EXACT, "the weights of all runs must sum to 1"
    return total_variation(law, plain_law(target_of, request))


class Trees:
    """A drafter of any tree: node i hangs below `parent[i]`, has kind `kind[i]`, and is drawn from a table given its own path.

    Args:
        holes: the share of mass that a drafter's law lacks, so that draws come out empty.
        model: what the laws come from; the path from the context is the prefix.
        law: the same law everywhere instead of a table.
        points: tokens of determined nodes, in order; otherwise a table at another seed says them, so that they are nobody's mode.
    """

    def __init__(self, parent, kind, *, seed=2, vocab=V, holes=0.0, law=None, points=()):
        self.parent, self.kind = tuple(parent), tuple(KINDS[k] for k in kind)
        self.kinds, self.chain = tuple(dict.fromkeys(kind)), list(parent) == list(range(-1, len(parent) - 1))
        self.model = constant(law) if law else TableModel(vocab, seed=seed)
        self.spoken, self.holes, self.vocab = TableModel(vocab, seed=seed + 77), holes, len(law) if law else vocab
        self.points = dict(zip([i for i, k in enumerate(self.kind) if k == DETERMINED], points))

    def propose(self, context: Context, size: Size, noise) -> Draft:
        size = size.clipped(context)
        batch, nodes, n = context.size, len(self.parent), torch.arange(len(self.parent))
        parent = torch.tensor(self.parent).expand(batch, nodes)
        depth = depths(parent)
        tokens, live = torch.full((batch, nodes), -1), torch.zeros(batch, nodes, dtype=torch.bool)
        laws = torch.zeros(batch, nodes, self.vocab, dtype=torch.float64)
        kind = torch.tensor(self.kind).expand(batch, nodes).clone()
        for i, above in enumerate(self.parent):
            present = live[:, above] & (tokens[:, above] >= 0) if above >= 0 else torch.ones(batch, dtype=torch.bool)
            here = present & (depth[:, i] <= size.depth) & (n[i] < size.nodes)
            prefixes = [self._prefix(context, tokens, b, above) for b in range(batch)]
            laws[:, i] = torch.stack([self.model.logits(p).softmax(-1) for p in prefixes]) * (1 - self.holes)
            siblings = [j for j in range(i) if self.parent[j] == above]
            tried = torch.zeros(batch, self.vocab, dtype=torch.bool)
            for j in siblings:
                tried |= (
                    torch.nn.functional.one_hot(tokens[:, j].clamp_min(0), self.vocab).bool() & (live[:, j] & (tokens[:, j] >= 0))[:, None]
                )
            if self.kind[i] == DETERMINED:
                said = [self.points.get(i, int(self.spoken.logits(p).argmax())) for p in prefixes]
                best = torch.tensor(said)
                # a determined node equal to a sibling is merged into it, as records.py says
                live[:, i] = here & ~tried.gather(1, best[:, None]).squeeze(1)
                tokens[:, i] = best
                continue
            row = without(laws[:, i], tried) if self.kind[i] == DISTINCT else laws[:, i]
            asked = here & (row.sum(-1) > 0)
            tokens[:, i] = noise.categorical(Dense(row[:, None]), 0, asked, "draft", i, empty=self.holes > 0)
            live[:, i] = asked
        index = torch.where(kind == DETERMINED, -1, n.expand_as(kind))
        draft = Draft(
            tokens=tokens,
            parent=parent,
            live=live,
            kind=kind,
            index=index,
            law=Dense(laws),
            levels=int(depth.max()) if nodes else 0,
            chain=self.chain,
        )
        check(draft, self.vocab)
        return draft

    def _prefix(self, context, tokens, b, node):
        tail = []
        while node >= 0:
            tail.append(max(0, int(tokens[b, node])))
            node = self.parent[node]
        return context.row(b).tolist() + tail[::-1]


def random_tree(seed: int, nodes: int, kinds: Sequence[str] = tuple(KINDS)) -> tuple[list[int], list[str]]:
    """A random tree in topological order, and a kind for each node; determined children stand before or behind sampled ones."""
    rng = random.Random(seed)
    parent = [rng.randrange(-1, i) for i in range(nodes)]
    return parent, [rng.choice(list(kinds)) for _ in range(nodes)]


class Nosy:
    """A control that looks at everything it may, and stops or goes on by a hash of it: the context, kept tokens, doubts, finished steps."""

    def __init__(self, most: int = 3, seed: int = 5):
        self.most, self.seed = most, seed
        self.seen: dict[int, int] = {}

    def size(self, context: Context) -> Size:
        depth = [
            int(hashed(self.seed, self.seen.get(s, 0), *context.row(b).tolist())[0] % (self.most + 1))
            for b, s in enumerate(context.slot.tolist())
        ]
        return Size(depth=torch.tensor(depth), nodes=torch.tensor(depth) + 1, go_on=self._go_on)

    def _go_on(self, context: Context, level: Level):
        # the last token itself, its probability and its rivals: all were kept, so all may be looked at
        said = [int(hashed(self.seed, t, int(1e6 * p), level.depth)[0] % 3) for t, p in zip(level.token.tolist(), level.prob.tolist())]
        return torch.tensor(said) > 0

    def keep(self, step: Step) -> None:
        for b, slot in enumerate(step.before.slot.tolist()):
            rejected = [t for n, t in enumerate(step.draft.tokens[b].tolist()) if n not in step.path[b] and bool(step.draft.live[b, n])]
            self.seen[slot] = int(hashed(self.seed, self.seen.get(slot, 0), *step.path[b], 9, *rejected)[0] % 1000)


class StubbornlyNosy(Nosy):
    """The same that never drafts less than one token."""

    def size(self, context: Context) -> Size:
        size = super().size(context)
        return replace(size, depth=size.depth.clamp_min(1), nodes=size.nodes.clamp_min(2))


RULES = {
    "match": Match,
    "speculative_sampling": SpeculativeSampling,
    "block_verification": BlockVerification,
    "recursive_rejection": RecursiveRejection,
}

DRAFTS = {
    "none": lambda v=V: NoDraft(),
    "draft_model chain": lambda v=V: DraftModel(target(2, v), v),
    "draft_model distinct": lambda v=V: DraftModel(target(2, v), v, (2, 1), "distinct"),
    "draft_model independent": lambda v=V: DraftModel(target(2, v), v, (2, 1), "independent"),
    "draft_model determined": lambda v=V: DraftModel(target(2, v), v, (2, 1), "determined"),
    "prompt_lookup": lambda v=V: PromptLookup(),
    "token_recycling": lambda v=V: TokenRecycling(v, k=2),
    "points in a chain": lambda v=V: Trees([-1, 0], ["determined"] * 2, vocab=v),
    "a chain of both": lambda v=V: Trees([-1, 0, 1], ["independent", "determined", "independent"], vocab=v),
    "a chain with holes": lambda v=V: Trees([-1, 0], ["independent"] * 2, holes=0.3, vocab=v),
    "point, then sample": lambda v=V: Trees([-1, -1, 0], ["determined", "independent", "independent"], vocab=v),
    "sample, then point": lambda v=V: Trees([-1, -1, 0], ["independent", "determined", "independent"], vocab=v),
    "point among distinct": lambda v=V: Trees([-1, -1, -1], ["distinct", "determined", "distinct"], vocab=v),
    "distinct with holes": lambda v=V: Trees([-1, -1], ["distinct", "distinct"], holes=0.3, vocab=v),
    "independent, then distinct": lambda v=V: Trees([-1, -1, 1], ["independent", "distinct", "distinct"], vocab=v),
}

CONTROLS = {
    "fixed": lambda: Fixed(2),
    "heuristic": lambda: Heuristic(1, 3),
    "confidence": lambda: Confidence(3, 0.4),
    "nosy": lambda: Nosy(3),
    "stubbornly nosy": lambda: StubbornlyNosy(3),
}


def fits(rule, drafter) -> bool:
    """Whether the rule says that it can judge what the drafter says that it makes."""
    return set(drafter.kinds) <= set(rule.kinds) and (drafter.chain or not rule.chain)


__all__ = [
    "CONTROLS", "DETERMINED", "DISTINCT", "DRAFTS", "EXACT", "INDEPENDENT", "RULES", "Nosy", "StubbornlyNosy", "Trees", "V", "ask",
    "constant", "distance", "exact_law", "fits", "one_step", "plain_law", "random_tree", "target", "total_variation",
]  # fmt: skip
