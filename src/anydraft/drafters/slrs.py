"""String-level rejection sampling: propose the target token that the drafter's text spells, with the exact law of that proposal.

Source:   Timor et al. 2025, arXiv:2502.05202, Alg. 3
Kinds:    independent
Needs:    a drafter that spells a target token in few ways: byte- and character-level models
Cost:     one drafter forward per drafted piece; for the law of a token one more, of as many rows as there are ways to spell its prefixes
Differs:  drafting stops when the text is no prefix of a target token any more, not after a fixed number of tokens: the law of a token is
          then a finite sum over its own splits. Tokens that would take more than `max_rows` rows are no proposals, and neither are draws
          of a second id for the same bytes: the event is smaller, its law is exact. Works on bytes; any temperature, any batch
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anydraft.core.errors import BadDraft, BadOption
from anydraft.core.law import Dense, quantile
from anydraft.core.processors import drafting_law
from anydraft.core.records import INDEPENDENT, Context, Draft, Level, Request, Size
from anydraft.core.roles import Model, Noise
from anydraft.vocabulary.alignment import Aligner
from anydraft.vocabulary.contexts import DrafterContexts
from anydraft.vocabulary.intersection import Intersection
from anydraft.vocabulary.splits import Splits

Path = tuple[int, ...]
"""Drafter ids behind the context."""

NODES = 512
"""Nodes of the drafter's tree beyond which it is begun anew: the ancestry mask is quadratic in them."""


class SLRS:
    """Args:
    model: the drafter, over its own ids.
    aligner: relates the two vocabularies.
    vocab_size: V, the target's logits width.
    max_rows: most rows of the drafter's law for one proposed token; dearer tokens are never proposed.
    least_share: of the target's tokens, how many must be cheap enough.

    Raises BadOption where fewer are: the drafter's vocabulary splits the target's tokens in too many ways.
    """

    kinds = ("independent",)
    chain = True
    rule = "slrs"  # any rule for independent chains is exact, but only that one leaves most of the law unasked

    def __init__(self, model: Model, aligner: Aligner, vocab_size: int, max_rows: int = 64, least_share: float = 0.9):
        if not 1 <= max_rows < NODES:
            raise BadOption("max_rows is not usable", got=max_rows, expected=f"an integer from 1 to {NODES - 1}")
        if not 0 <= least_share <= 1:
            raise BadOption("least_share is not usable", got=least_share, expected="a number from 0 to 1")
        self.model, self.vocab_size, self.both = model, vocab_size, aligner.intersection
        self.splits = Splits.of(self.both, max_rows)
        _refuse_costly(self.splits, max_rows, least_share)
        self.contexts = DrafterContexts(aligner, direct=False, max_length=model.max_length)
        self._tree: _Tree | None = None

    @property
    def forwards(self) -> int:
        """Forwards of the drafting model so far."""
        return getattr(self.model, "forwards", 0)

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """See `Drafter.propose`. `size.depth` counts target tokens; a token that the text does not reach is an empty draw."""
        own, room = self.contexts.follow(context)
        depth = size.clipped(context).depth.masked_fill(room < self.splits.longest, 0)
        if not bool((depth > 0).any()):
            return Draft.empty(context.size)
        if self._tree is not None:
            self._tree.current = False
        tree = self._tree = _Tree(self.model, own, context.requests)
        starts: list[list[Path]] = [[()] * context.size]
        tokens, lives = [], []
        live = depth > 0
        while True:
            level = len(tokens)
            drawn = _Draws(self.splits, self.both, tree, starts[-1], live, noise, level)
            tokens.append(drawn.token)
            lives.append(live)
            if level + 1 == int(depth.max()):
                break
            reached = torch.tensor([len(path) for path in drawn.ends]) + self.splits.longest <= room
            live = live & (depth > level + 1) & (drawn.token >= 0) & ~drawn.final & reached
            live = live & size.go_on(context, drawn.seen(level + 1)).to(live.device)
            if not bool(live.any()):
                break
            starts.append(drawn.ends)
        for slot, path in zip(context.slot.tolist(), drawn.ends):
            self.contexts.drafted(slot, list(path))
        return self._chain(tokens, lives, _Psi(self.splits, self.both, tree, starts, self.vocab_size))

    def _chain(self, tokens: list[Tensor], lives: list[Tensor], law: _Psi) -> Draft:
        device = law.tree.device
        live = torch.stack(lives, 1).to(device)
        ids = torch.stack(tokens, 1).to(device)
        place = torch.arange(ids.shape[1], device=device).expand_as(ids)
        return Draft(
            tokens=torch.where(live, ids, 0),
            parent=place - 1,
            live=live,
            kind=torch.full_like(ids, INDEPENDENT),
            index=place,
            law=law,
            levels=ids.shape[1],
            forwards=law.tree.forwards,
        )


def _refuse_costly(splits: Splits, max_rows: int, least_share: float) -> None:
    rows = splits.rows.values()
    if not splits.tokens or splits.share < least_share:
        mean = sum(rows) / len(rows) if rows else 0.0
        raise BadOption(
            f"slrs would be impractical: this drafter splits the target's tokens in too many ways ({mean:.3g} rows of its law for a token on"
            f" average, {max(rows, default=0):.3g} at most)",
            got=f"{splits.share:.1%} of the target's tokens take at most max_rows={max_rows}",
            expected=f"at least {least_share:.0%} (least_share)",
            next_step="Use method='tli' or method='slem', or a drafter that reads bytes or characters",
        )


class _Tree:
    """The drafter's laws behind a context, asked once each. All rows of the batch grow by the same number of nodes; a row that
    needs fewer gets nodes that nobody looks at. Laws are on the host: each draw decides where the next row is needed."""

    def __init__(self, model: Model, own: Context, requests: Sequence[Request]):
        self.model, self.own, self.requests = model, own, requests
        self.current, self.forwards = True, 0
        self._begin()

    def _begin(self) -> None:
        logits = self.model.next(self.own)
        self.device = logits.device
        self.forwards += 1
        self.nodes: list[dict[Path, int]] = [{(): 0} for _ in self.requests]  # of each row; 0 is the context
        self.laws: list[np.ndarray] = []  # f64[B, U] by node
        self.logits: list[Tensor] = []  # f[B, U] by node
        self._add(logits[:, None])

    def _add(self, logits: Tensor) -> None:
        batch, new, width = logits.shape
        law = drafting_law(logits.reshape(batch * new, width), [r for r in self.requests for _ in range(new)]).rows(0)
        law = law.double().cpu().numpy().reshape(batch, new, width)
        law = law / law.sum(-1, keepdims=True)  # stop masses are differences of sums: a float32 softmax does not quite reach 1
        self.laws += [law[:, m] for m in range(new)]
        self.logits += [logits[:, m] for m in range(new)]

    def law(self, b: int, path: Path) -> np.ndarray:
        """f64[U]: row b's law behind a path that was asked for."""
        return self.laws[self.nodes[b][path]][b]

    def raw(self, b: int, path: Path) -> Tensor:
        """f[U]: the logits of the same."""
        return self.logits[self.nodes[b][path]][b]

    def ask(self, paths: Sequence[Sequence[Path]]) -> None:
        """Makes the laws behind these paths of each row, in one forward."""
        if not self.current:
            raise BadDraft(
                "the law of an slrs draft was asked for after the next draft had begun",
                expected="a verdict before the next draft: the law is made by the drafter, which has moved on",
                next_step="Use schedule='sequential', or method='tli', whose laws are kept",
            )
        missing = self._missing(paths)
        new = max(map(len, missing))
        if not new:
            return
        if len(self.laws) + new > NODES and len(self.laws) > 1:
            self._begin()
            missing = self._missing(paths)
            new = max(map(len, missing))
        tokens, parent = torch.zeros(len(missing), new, dtype=torch.int64), torch.full((len(missing), new), -1, dtype=torch.int64)
        for b, row in enumerate(missing):
            for m, path in enumerate(row):
                tokens[b, m], parent[b, m] = path[-1], self.nodes[b][path[:-1]] - 1
                self.nodes[b][path] = len(self.laws) + m
        self.forwards += 1
        self._add(self.model.grow(tokens, parent))

    def _missing(self, paths: Sequence[Sequence[Path]]) -> list[list[Path]]:
        found = []
        for held, row in zip(self.nodes, paths):
            new: set[Path] = set()
            for path in row:
                while path not in held and path not in new:
                    new.add(path)
                    path = path[:-1]
            found.append(sorted(new, key=len))
        return found


class _Draws:
    """One level: draws drafter tokens until the text of each row says what it proposes.

    Attributes:
        token: i64[B] the proposed target token, -1 for none.
        ends: where each row's text stands: behind its token, or at its start where there is none.
        final: bool[B] rows whose token ends the text.
    """

    def __init__(self, splits: Splits, both: Intersection, tree: _Tree, starts: list[Path], live: Tensor, noise: Noise, level: int):
        self.splits, self.both, self.tree, self.starts, self.live = splits, both, tree, starts, live
        self.ends = list(starts)
        self.token = torch.full((len(starts),), -1, dtype=torch.int64)
        self.final = torch.zeros(len(starts), dtype=torch.bool)
        texts, open_ = [b""] * len(starts), live.clone()
        for i in range(splits.longest + 1):
            if not bool(open_.any()):
                break
            tree.ask([[path] if here else [] for path, here in zip(self.ends, open_.tolist())])
            laws = [tree.law(b, path if here else ()) for b, (path, here) in enumerate(zip(self.ends, open_.tolist()))]
            # numbers do not depend on how many draws the other rows need
            drawn = noise.categorical(Dense(torch.from_numpy(np.stack(laws))[:, None]), 0, open_, "draft", level * (splits.longest + 1) + i)
            for b, id in enumerate(drawn.tolist()):
                if open_[b]:
                    open_[b] = self._take(b, id, texts)

    def _take(self, b: int, id: int, texts: list[bytes]) -> bool:
        """Adds a drawn id to a row's text; whether to go on."""
        data, text = self.both.drafter.table[id], texts[b]
        if data is not None and self.splits.spelling.get(data) == id and self.splits.is_prefix(text + data):
            texts[b] = text = text + data
            self.ends[b] = (*self.ends[b], id)
            if not self.splits.ends(text):
                return True
        elif data is None and not text and (special := int(self.both.d2t[id])) >= 0:
            self.token[b], self.ends[b] = special, (*self.ends[b], id)
            self.final[b] = self.both.drafter.has_role(id, "eos") or self.both.target.has_role(special, "eos")
            return False
        self.token[b] = self.splits.tokens.get(text, -1)
        if self.token[b] < 0:
            self.ends[b] = self.starts[b]
        return False

    def seen(self, depth: int) -> Level:
        """What a control may look at: the drafter's raw probability of each token's pieces, and the logits before the first of them."""
        drawn = [(start, end) if here else ((), ()) for start, end, here in zip(self.starts, self.ends, self.live.tolist())]
        self.tree.ask([[end[:-1], start] for start, end in drawn])  # known, unless the tree was begun anew since
        firsts, prob = [], []
        for b, (start, end) in enumerate(drawn):
            chance = 1.0
            for at in range(len(start), len(end)):
                row = self.tree.raw(b, end[:at])
                chance *= float((row[end[at]] - row.logsumexp(-1)).exp())
            firsts.append(self.tree.raw(b, start))
            prob.append(chance)
        token = [end[-1] if end else 0 for end in self.ends]
        return Level(depth=depth, token=torch.tensor(token), prob=torch.tensor(prob), logits=torch.stack(firsts).cpu(), live=self.live)


class _Psi:
    """The proposal's laws, one row for each level. `at` and `among` run the drafter where a law is not known yet.

    psi(t) = sum over splits of t of the probabilities of its pieces, times the mass of draws that do not keep the text a prefix.
    """

    def __init__(self, splits: Splits, both: Intersection, tree: _Tree, starts: list[list[Path]], width: int):
        self.splits, self.both, self.tree, self.starts, self.width = splits, both, tree, starts, width
        self.count = len(starts)
        shared = zip(both.drafter_ids.tolist(), both.target_ids.tolist())
        self.special = {t: d for d, t in shared if both.drafter.table[d] is None}
        self._known: dict[tuple[int, Path, int], float] = {}

    def at(self, index: Tensor | int, token: Tensor) -> Tensor:
        """See `Law.at`; token -1 costs nothing."""
        starts = self._starts(index)
        wanted = [[id] if id >= 0 else [] for id in token.tolist()]
        self._learn(starts, wanted)
        values = [self._known[b, starts[b], row[0]] if row else 0.0 for b, row in enumerate(wanted)]
        return torch.tensor(values, dtype=torch.float64, device=token.device)

    def among(self, index: Tensor | int, wanted: Tensor) -> Tensor:
        """f64[B, V]: probabilities of the tokens in wanted bool[B, V], 0 for others: what a residual on a small support needs."""
        starts = self._starts(index)
        rows = torch.zeros(wanted.shape, dtype=torch.float64)
        asked = wanted.cpu()
        order = torch.tensor([*self.special, *(self.splits.tokens[text] for text in self.splits.in_order)], dtype=torch.int64)
        todo = [order[row[order]].tolist() for row in asked]
        while any(todo):
            parts = [self._some(row) for row in todo]
            self._learn(starts, parts)
            for b, part in enumerate(parts):
                for id in part:
                    rows[b, id] = self._known[b, starts[b], id]
            todo = [row[len(part) :] for row, part in zip(todo, parts)]
        return rows.to(wanted.device)

    def rows(self, index: Tensor | int) -> Tensor:
        """See `Law.rows`: walks the whole trie, which takes as many rows of the drafter as it has splits."""
        everything = torch.ones(len(self.tree.requests), self.width, dtype=torch.bool, device=self.tree.device)
        return self.among(index, everything)

    def draw(self, index: Tensor | int, uniform: Tensor, *, empty: bool = False) -> Tensor:
        """See `Law.draw`."""
        return quantile(self.rows(index), uniform, empty=empty)

    def _starts(self, index: Tensor | int) -> list[Path]:
        batch = len(self.tree.requests)
        levels = [index] * batch if isinstance(index, int) else index.tolist()
        return [self.starts[level][b] for b, level in enumerate(levels)]

    def _some(self, ids: list[int]) -> list[int]:
        """As many of these tokens as one tree surely holds."""
        rows, n = 0, 0
        for id in ids:
            rows += self.splits.rows[self.splits.texts[id]] if id in self.splits.texts else 0
            if n and rows > NODES // 2:
                break
            n += 1
        return ids[:n]

    def _learn(self, starts: list[Path], wanted: list[list[int]]) -> None:
        new = [[id for id in row if (b, starts[b], id) not in self._known] for b, row in enumerate(wanted)]
        if not any(new):
            return
        self.tree.ask([[path for id in row for path in self._needed(b, starts[b], id)] for b, row in enumerate(new)])
        for b, row in enumerate(new):
            for id in row:
                self._known[b, starts[b], id] = self._psi(b, starts[b], id)

    def _needed(self, b: int, start: Path, id: int) -> list[Path]:
        """The paths whose laws psi takes; those behind a draw that is known to be impossible are not."""
        if id in self.special:
            return [start]
        text = self.splits.texts.get(id)
        if text is None:
            return []
        pieces, held = self.splits.pieces(text), self.tree.nodes[b]
        found, todo = [], [(start, 0)]
        while todo:
            path, at = todo.pop()
            if at == len(text) and self.splits.ends(text):
                continue
            found.append(path)
            law = self.tree.law(b, path) if path in held else None
            todo += [((*path, d), end) for d, end in (pieces[at] if at < len(text) else ()) if law is None or law[d] > 0]
        return found

    def _psi(self, b: int, start: Path, id: int) -> float:
        if id in self.special:
            return float(self.tree.law(b, start)[self.special[id]])
        text = self.splits.texts.get(id)
        if text is None:
            return 0.0
        pieces, total, todo = self.splits.pieces(text), 0.0, [(start, 0, 1.0)]
        while todo:
            path, at, weight = todo.pop()
            if at == len(text):
                total += weight * self._stop(b, path, text)
                continue
            law = self.tree.law(b, path)
            todo += [((*path, d), end, weight * float(law[d])) for d, end in pieces[at] if law[d] > 0]
        return total

    def _stop(self, b: int, path: Path, text: bytes) -> float:
        """Mass of the draws behind a token's text that end it."""
        if self.splits.ends(text):
            return 1.0
        return max(0.0, 1.0 - float(self.tree.law(b, path)[self.splits.continuing(text)].sum()))


__all__ = ["SLRS"]
