"""Wrong on purpose: published and shipped mistakes as parts, so that a check can show that it would have noticed.

A check that has never failed proves nothing. Each plant is a rule, or a drafter around the user's own, with one mistake. `Honest` is the
code that the wrong rules share, without any: it must pass wherever they must fail, or the check complains about the wrong thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from anydraft.core.errors import UnknownMethod, nearest
from anydraft.core.law import Dense, Law, proposal_at, proposal_rows, residual, without
from anydraft.core.records import DISTINCT, INDEPENDENT, Context, Draft, Scores, Size, Verdict
from anydraft.core.roles import Noise
from anydraft.core.tree import ancestors, child_with

ANY = ("determined", "independent", "distinct")


class Honest:
    """The tree rule of `rules/recursive_rejection.py`, written again with its decisions as methods."""

    kinds = ANY
    chain = False

    def verify(self, draft: Draft, scores: Scores, noise: Noise) -> Verdict:
        """See `Rule.verify`."""
        batch, nodes = draft.tokens.shape
        device, width = draft.tokens.device, scores.law.width
        current = torch.full((batch,), -1, dtype=torch.int64, device=device)
        count, path = torch.zeros_like(current), torch.full((batch, draft.levels), -1, dtype=torch.int64, device=device)
        left = scores.law.rows(0)
        product = torch.ones_like(left[:, 0])
        tried = torch.zeros(batch, width, dtype=torch.bool, device=device)
        for i in range(nodes):
            token = draft.tokens[:, i]
            asked = self.asked(draft, i, current)
            law = self.proposal(draft, i, tried, width).to(left.dtype)
            here = token.clamp_min(0)[:, None]
            ratio = left.gather(1, here) / law.gather(1, here).clamp_min(torch.finfo(left.dtype).tiny)
            ratio = torch.where(token >= 0, ratio.squeeze(1), torch.zeros_like(product))
            accepted = self.accept(ratio, product, asked, i, noise)
            refused = asked & ~accepted
            left = torch.where(refused[:, None], self.rest(left, law), left)
            tried = tried.scatter(1, here, tried.gather(1, here) | (refused & (token >= 0))[:, None])
            product = torch.where(accepted, product * ratio, product)
            current = torch.where(accepted, i, current)
            place = count.clamp_max(draft.levels - 1)[:, None]
            path = path.scatter(1, place, torch.where(accepted[:, None], i, path.gather(1, place)))
            count = count + accepted
            left = torch.where(accepted[:, None], scores.law.rows(current + 1), left)
            tried = tried & ~accepted[:, None]
        return Verdict(path=path, count=count, token=self.last(left, draft, scores, current, noise))

    def asked(self, draft: Draft, i: int, current: Tensor) -> Tensor:
        """bool[B]: rows in which node i is judged now."""
        return draft.live[:, i] & (draft.parent[:, i] == current)

    def proposal(self, draft: Draft, i: int, tried: Tensor, width: int) -> Tensor:
        """f[B, V]: the law that node i was drawn from, given its earlier siblings."""
        law = proposal_rows(draft, i, width)
        return torch.where((draft.kind[:, i] == DISTINCT)[:, None], without(law, tried), law)

    def accept(self, ratio: Tensor, product: Tensor, asked: Tensor, i: int, noise: Noise) -> Tensor:
        """bool[B]: whether node i is accepted; product f[B] of the accepted nodes' ratios."""
        return noise.bernoulli(ratio, asked, "accept", i)

    def rest(self, left: Tensor, law: Tensor) -> Tensor:
        """f[B, V]: what remains of p after a refusal."""
        return residual(left, law)

    def last(self, left: Tensor, draft: Draft, scores: Scores, current: Tensor, noise: Noise) -> Tensor:
        """i64[B]: the token that the target adds."""
        return noise.categorical(Dense(left[:, None]), 0, torch.ones_like(current, dtype=torch.bool), "target", 0)


class ResidualSkipped(Honest):
    """After a refusal the replacement is drawn from p itself."""

    def rest(self, left: Tensor, law: Tensor) -> Tensor:
        """p, whatever was refused."""
        return left


class RawProposalRatio(Honest):
    """Distinct siblings are judged by the law without the earlier siblings' exclusion."""

    def proposal(self, draft: Draft, i: int, tried: Tensor, width: int) -> Tensor:
        """The law as if the node were its parent's first child."""
        return proposal_rows(draft, i, width)


class BonusRowOff(Honest):
    """Behind a fully accepted path, the token comes from the row before the last."""

    def last(self, left: Tensor, draft: Draft, scores: Scores, current: Tensor, noise: Noise) -> Tensor:
        """Row of the last accepted node's parent where the path ends in a leaf."""
        if draft.nodes:
            leaf = (current >= 0) & ~(draft.live & (draft.parent == current[:, None])).any(1)
            above = draft.parent.gather(1, current.clamp_min(0)[:, None]).squeeze(1)
            left = torch.where(leaf[:, None], scores.law.rows(torch.where(leaf, above + 1, 0)), left)
        return super().last(left, draft, scores, current, noise)


class ReusedCoin(Honest):
    """One coin decides about every node."""

    def accept(self, ratio: Tensor, product: Tensor, asked: Tensor, i: int, noise: Noise) -> Tensor:
        """The coin of node 0, always."""
        return noise.bernoulli(ratio, asked, "accept", 0)


class UncappedProduct(Honest):
    """The joint ratio of the path decides, and what it has above 1 is carried on instead of being cut off at every node."""

    def accept(self, ratio: Tensor, product: Tensor, asked: Tensor, i: int, noise: Noise) -> Tensor:
        """min(1, product of all ratios), without a cap in between."""
        return noise.bernoulli(product * ratio, asked, "accept", i)


class DraftNoiseShared(Honest):
    """The replacement is drawn with the very number that drew the draft token."""

    def last(self, left: Tensor, draft: Draft, scores: Scores, current: Tensor, noise: Noise) -> Tensor:
        """The draw keyed as the drafter's first."""
        return noise.categorical(Dense(left[:, None]), 0, torch.ones_like(current, dtype=torch.bool), "draft", 0)


class EmptyAsPadding(Honest):
    """A draw that came out empty is skipped as if it were no node, so its law is never subtracted."""

    def asked(self, draft: Draft, i: int, current: Tensor) -> Tensor:
        """Leaves out nodes without a token."""
        return super().asked(draft, i, current) & (draft.tokens[:, i] >= 0)


class AcceptedUnseen(Honest):
    """Draft tokens are accepted without a look at the target."""

    def accept(self, ratio: Tensor, product: Tensor, asked: Tensor, i: int, noise: Noise) -> Tensor:
        """True for whatever is asked, unless the draw came out empty."""
        return asked & self._drawn

    def proposal(self, draft: Draft, i: int, tried: Tensor, width: int) -> Tensor:
        """Remembers on the way where node i has a token."""
        self._drawn = draft.tokens[:, i] >= 0
        return super().proposal(draft, i, tried, width)


class MatchThenRedraw:
    """Draws the target's token, and after a mismatch draws another one to emit."""

    kinds = ANY
    chain = False

    def verify(self, draft: Draft, scores: Scores, noise: Noise) -> Verdict:
        """See `Rule.verify`."""
        batch, device = draft.tokens.shape[0], draft.tokens.device
        current = torch.full((batch,), -1, dtype=torch.int64, device=device)
        walking = torch.ones(batch, dtype=torch.bool, device=device)
        count, path = torch.zeros_like(current), torch.full((batch, draft.levels), -1, dtype=torch.int64, device=device)
        token = noise.categorical(scores.law, 0, walking, "target", 0)
        for depth in range(draft.levels):
            found, node = child_with(draft, current, token)
            walking = walking & found
            current = torch.where(walking, node, current)
            path[:, depth] = torch.where(walking, node, -1)
            count = count + walking
            token = torch.where(walking, noise.categorical(scores.law, current + 1, walking, "target", depth + 1), token)
        again = noise.categorical(scores.law, current + 1, ~walking, "retry", 0)
        return Verdict(path=path, count=count, token=torch.where(walking, token, again))


class MatchPerPath(Honest):
    """Every child is compared with a draw of its own instead of one draw per parent."""

    def verify(self, draft: Draft, scores: Scores, noise: Noise) -> Verdict:
        """See `Rule.verify`."""
        self._scores = scores
        return super().verify(draft, scores, noise)

    def accept(self, ratio: Tensor, product: Tensor, asked: Tensor, i: int, noise: Noise) -> Tensor:
        """True with the target's probability of the node, which is that of a fresh draw to match it."""
        return noise.bernoulli(self._here, asked, "accept", i)

    def proposal(self, draft: Draft, i: int, tried: Tensor, width: int) -> Tensor:
        """Remembers p of the node on the way."""
        self._here = self._scores.law.at(draft.parent[:, i] + 1, draft.tokens[:, i])
        return super().proposal(draft, i, tried, width)

    def rest(self, left: Tensor, law: Tensor) -> Tensor:
        """A fresh draw of p for the next child, and in the end for the output."""
        return left


class Around:
    """A drafter around another one; what it does not change is the inner one's."""

    def __init__(self, inner: Any):
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """See `Drafter.propose`."""
        return self.inner.propose(context, size, noise)


@dataclass(frozen=True)
class Hotter:
    """A decoding at half as much temperature again, and at 1 instead of 0: what a check of plain decoding must notice.

    Args:
        inner: anything with a `generate`.
    """

    inner: Any

    def generate(self, prompts: Any, *, temperature: float, **options: Any) -> Any:
        """The inner one's, at the wrong temperature."""
        return self.inner.generate(prompts, temperature=1.5 * temperature or 1.0, **options)


@dataclass(frozen=True)
class _Drawing:
    """Noise whose draws come from another law than the one that the drafter records."""

    inner: Noise
    other: Callable[[Tensor], Tensor]

    def bernoulli(self, prob: Tensor, asked: Tensor, purpose: str, number: int) -> Tensor:
        """As it is."""
        return self.inner.bernoulli(prob, asked, purpose, number)

    def categorical(
        self, law: Law, index: Tensor | int, asked: Tensor, purpose: str, number: int, *, path: bool = False, empty: bool = False
    ) -> Tensor:
        """A draw from `other` of the law's row."""
        row = self.other(law.rows(index))
        return self.inner.categorical(Dense(row[:, None]), 0, asked, purpose, number, path=path, empty=empty)


class ArgmaxAsSampled(Around):
    """Drafts the most likely token and calls it a sample."""

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """The inner draft, every draw replaced by the mode of its law."""
        mode = _Drawing(noise, lambda row: torch.zeros_like(row).scatter_(1, row.argmax(-1, keepdim=True), 1.0))
        return self.inner.propose(context, size, mode)


class UnprocessedProposal(Around):
    """Draws from the sharpened law and records the one before: q without its temperature."""

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """The inner draft, drawn at half the temperature that its laws were recorded at."""
        return self.inner.propose(context, size, _Drawing(noise, lambda row: row**2 / (row**2).sum(-1, keepdim=True)))


class DoubtfulTokenDropped(Around):
    """Looks at a drawn token and takes it back where its own probability is low."""

    def __init__(self, inner: Any, threshold: float = 0.3):
        super().__init__(inner)
        self.threshold = threshold

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """The inner draft without doubtful nodes and what hangs on them."""
        draft = self.inner.propose(context, size, noise)
        if not draft.nodes:
            return draft
        kept = torch.stack([proposal_at(draft, i) >= self.threshold for i in range(draft.nodes)], 1)
        return replace(draft, live=_rooted(draft, draft.live & kept))


class EqualSiblingsMerged(Around):
    """Drops repeated independent siblings and still calls the survivors independent."""

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """The inner draft with the first of equal siblings only."""
        draft = self.inner.propose(context, size, noise)
        live = draft.live.clone()
        for i in range(draft.nodes):
            same = live[:, :i] & (draft.parent[:, :i] == draft.parent[:, i, None]) & (draft.tokens[:, :i] == draft.tokens[:, i, None])
            live[:, i] &= ~(same.any(1) & (draft.kind[:, i] == INDEPENDENT))
        return replace(draft, live=_rooted(draft, live))


class SiblingsSorted(Around):
    """Puts distinct siblings in the order of their ids after they were drawn."""

    def propose(self, context: Context, size: Size, noise: Noise) -> Draft:
        """The inner draft in another order of trial."""
        draft = self.inner.propose(context, size, noise)
        columns = ("tokens", "parent", "live", "kind", "index")
        moved = {name: getattr(draft, name).clone() for name in columns}
        for b in range(draft.tokens.shape[0]):
            order, place = self._order(draft.parent[b].tolist(), draft.tokens[b].tolist()), {}
            for new, old in enumerate(order):
                place[old] = new
                for name in columns:
                    moved[name][b, new] = getattr(draft, name)[b, old]
            moved["parent"][b] = torch.tensor([place.get(p, -1) for p in moved["parent"][b].tolist()], dtype=torch.int64)
        return replace(draft, **moved)

    def _order(self, parent: list[int], tokens: list[int]) -> list[int]:
        order, queue = [], [-1]
        while queue:
            above = queue.pop(0)
            children = sorted((n for n, p in enumerate(parent) if p == above), key=lambda n: tokens[n])
            order += children
            queue += children
        return order


def _rooted(draft: Draft, live: Tensor) -> Tensor:
    """bool[B, N]: nodes whose whole path is live."""
    return live & ~(ancestors(draft.parent) & ~live[:, None, :]).any(-1)


@dataclass(frozen=True)
class Plant:
    """One planted mistake."""

    name: str
    role: str  # "rule": takes the place of the rule; "drafter": goes around the drafter
    make: Callable[..., Any]  # a rule class, or a drafter class that takes the inner drafter
    shows: str  # the drafts that reveal it
    source: str  # where the mistake was made or warned of

    @property
    def what(self) -> str:
        """The mistake in a sentence."""
        return (self.make.__doc__ or "").strip()

    def into(self, parts: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any, Any]:
        """(target, drafter, rule, control) with the mistake in it."""
        target, drafter, rule, control = parts
        return (target, drafter, self.make(), control) if self.role == "rule" else (target, self.make(drafter), rule, control)


_PLANTS = {
    plant.name: plant
    for plant in (
        Plant("residual_skipped", "rule", ResidualSkipped, "sampled", "the commonest slip in Leviathan et al. 2023, Alg. 1"),
        Plant("raw_proposal_ratio", "rule", RawProposalRatio, "distinct siblings", "Jeon et al. 2024, arXiv:2402.14160"),
        Plant("bonus_row_off", "rule", BonusRowOff, "any", "an index into the target's rows"),
        Plant("reused_coin", "rule", ReusedCoin, "several nodes", "one uniform for a whole block"),
        Plant("uncapped_product", "rule", UncappedProduct, "sampled chains", "Sun et al. 2024, arXiv:2403.10444, Alg. 2 without its min"),
        Plant("draft_noise_shared", "rule", DraftNoiseShared, "sampled", "vllm-project/vllm #54282"),
        Plant("accepted_unseen", "rule", AcceptedUnseen, "any", "what a lossy rule does on purpose"),
        Plant("empty_as_padding", "rule", EmptyAsPadding, "sub-laws", "draws that may come out empty"),
        Plant("match_then_redraw", "rule", MatchThenRedraw, "any", "sample and match with two draws"),
        Plant("match_per_path", "rule", MatchPerPath, "siblings", "paths of a tree judged one by one"),
        Plant("argmax_as_sampled", "drafter", ArgmaxAsSampled, "sampled", "huggingface/transformers #32867"),
        Plant("unprocessed_proposal", "drafter", UnprocessedProposal, "sampled", "huggingface/transformers #47932"),
        Plant("doubtful_token_dropped", "drafter", DoubtfulTokenDropped, "sampled", "early exit by the drawn token's own probability"),
        Plant("equal_siblings_merged", "drafter", EqualSiblingsMerged, "independent siblings", "SpecInfer trees without duplicates"),
        Plant("siblings_sorted", "drafter", SiblingsSorted, "distinct siblings", "trial order that is not draw order"),
    )
}


def names() -> list[str]:
    """Every planted mistake.

    >>> "residual_skipped" in names()
    True
    """
    return list(_PLANTS)


def get(name: str) -> Plant:
    """The planted mistake of this name.

    Raises:
        UnknownMethod: with the nearest known name.
    """
    if name not in _PLANTS:
        close = nearest(name, _PLANTS)
        raise UnknownMethod(
            f"there is no planted mistake {name!r}", next_step=f"Did you mean {close!r}?" if close else "Known are: " + ", ".join(_PLANTS)
        )
    return _PLANTS[name]
