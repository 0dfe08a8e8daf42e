"""PEARL: the drafter drafts the next tokens while the target verifies the last ones.

Source:   Liu et al. 2025 (ICLR), arXiv:2408.11850, Alg. 2: pre-verify and post-verify
Keeps:    law              the same tokens whatever the timing and faults of a replica; with rule `match` the path
Judges:   token            token-wise rules on chains; a position that has a draft is decided by that draft's test alone
Noise:    any              keyed by (seed, epoch, position), so that the first test of a slice and the last of the one before never share a coin
Cost:     one drafter and one target on devices of their own; up to k - 1 drafts wasted when the first one is refused
Differs:  the published code gives neighbouring slices equal coins; here every decision has its own
"""

from __future__ import annotations

from anydraft.core.crew import Crew
from anydraft.core.ledger import Ledger
from anydraft.core.messages import Answer, Command, Drafted, Failed, Run, Scored, Tally


class PEARL:
    """The coordinator of one request: answers in, commands out; no clock, no thread, no tensor.

    A slice gives both sides one task: the target verifies the drafts that are pending (none after a refusal: pre-verify), the drafter
    drafts k more. When both are done every pending draft is judged, and the first of the new ones too.

    Args:
        ledger: the request's positions, and who judges them.
        replicas: target workers; one works, the others stand in for it when it fails.
        lookahead: k, drafts per slice; about t_target / t_drafter.
        unit: most tokens in one answer of the drafter.
        key: the request's number on the workers.
    """

    name = "pearl"

    def __init__(self, ledger: Ledger, replicas: int, lookahead: int, *, unit: int = 1, key: int = 0):
        self.ledger, self.lookahead, self.unit, self.key = ledger, max(1, lookahead), unit, key
        self.tally = Tally()
        self.crew = Crew(replicas, self.tally)
        self.run: int | None = None  # the drafter's task, None when it has done its part
        self.waiting = False  # for the target's part
        self.pending = self.until = ledger.position  # where this slice's verified drafts end, and its new ones

    def start(self) -> list[Command]:
        """The first commands."""
        return self._slice()

    def on(self, answer: Answer) -> list[Command]:
        """Takes one answer in and returns what is to be done now."""
        failed = self.crew.hear(answer) if getattr(answer, "worker", 0) >= 0 else None
        if isinstance(answer, Scored):
            self._scored(answer)
        elif isinstance(answer, Drafted):
            self._drafted(answer)
        elif isinstance(answer, Failed) and answer.worker < 0:
            self.tally.failures.append(f"drafter: {answer.reason}")
            self.run = None
            self.ledger.lose_drafter()
        if self.waiting and (failed is not None or not self.crew.covers(self.ledger.position)):
            return self._verify()  # its replica failed, or was still busy with cancelled work
        if self.waiting or self.run is not None:
            return []
        return self._next()

    @property
    def done(self) -> bool:
        """Whether the request has ended."""
        return not self.ledger.open

    def _scored(self, answer: Scored) -> None:
        if not self.ledger.add_rows(answer.epoch, answer.start, answer.rows):
            self.tally.stale_answers += 1
        elif self.ledger.position in self.ledger.rows:
            self.waiting = False

    def _drafted(self, answer: Drafted) -> None:
        self.tally.drafted_tokens += len(answer.nodes)
        self.tally.wasted_drafts += len(answer.nodes)
        if not self.ledger.current(answer.epoch) or answer.task != self.run:
            self.tally.stale_answers += 1
            return
        # a run that ends at its slice's border has more to give; one that ends before it does not
        ending = answer.start + len(answer.nodes)
        self.ledger.add_nodes(answer.epoch, answer.start, answer.nodes, answer.last and ending < self.until)
        if answer.last:
            self.run = None

    def _next(self) -> list[Command]:
        """Both parts are in: judge, and begin the next slice."""
        while (outcome := self.ledger.advance()) is not None:
            self.tally.wasted_drafts -= len(outcome.tokens) - outcome.turned
        return list(self.crew.cancel_all()) if self.done else self._slice()

    def _slice(self) -> list[Command]:
        ledger = self.ledger
        commands: list[Command] = []
        self.pending, self.until = ledger.reach, min(ledger.end, ledger.reach + self.lookahead)
        self.waiting = ledger.position not in ledger.rows
        if ledger.reach < self.until and ledger.reach not in ledger.nodes:
            self.run = self.crew.number()
            commands.append(Run(self.run, self.key, ledger.epoch, ledger.reach, ledger.behind(ledger.reach), self.until, self.unit))
        return [*self._verify(), *commands] if self.waiting else commands

    def _verify(self) -> list[Command]:
        worker, ledger = self.crew.idle(), self.ledger
        if worker is None:
            return []
        start = ledger.position
        drafts = ledger.drafted(start, self.pending)
        return [self.crew.assign(worker, self.key, ledger.epoch, start, ledger.behind(start), drafts)]

    def fingerprint(self) -> tuple:
        """What decides the future, without task numbers; for the enumeration of interleavings."""
        ledger = self.ledger
        known = (tuple(ledger.tokens), ledger.epoch, ledger.end, ledger.drafting, tuple(sorted(ledger.rows)))
        return (*known, tuple((p, n.token) for p, n in sorted(ledger.nodes.items())), self.run is None, self.waiting, self.crew.fingerprint())


__all__ = ["PEARL"]
