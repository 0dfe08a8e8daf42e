"""DSI: keep drafting while earlier blocks are verified on several replicas of the target.

Source:   Timor et al. 2025 (ICLR), arXiv:2405.14105, Alg. 1 with one drafter and a lookahead
Keeps:    law              the same tokens whatever the timing, cancels and faults of replicas; with rule `match` the path
Judges:   token            token-wise rules on chains; a position that has a draft, or will get one, is decided by that draft's test alone
Noise:    any              keyed by (seed, epoch, position), the epoch counting the tokens that the target put in itself
Cost:     one drafter and SP >= ceil(t_target / (k t_drafter)) replicas, one more where k t_drafter > t_target; their weights and caches
Differs:  epochs on commands and answers instead of threads that are killed; the last row of a block judges the next block's first draft early;
          the front is verified whenever no row for it is in flight and a replica is free; requests of a batch run one after another
"""

from __future__ import annotations

from anydraft.core.crew import Crew
from anydraft.core.ledger import Ledger
from anydraft.core.messages import Answer, Cancel, Command, Drafted, Failed, Run, Scored, Tally, Verify


class DSI:
    """The coordinator of one request: answers in, commands out; no clock, no thread, no tensor.

    Args:
        ledger: the request's positions, and who judges them.
        replicas: SP, target workers numbered from 0.
        lookahead: k, drafts in a block.
        unit: most tokens in one answer of the drafter.
        key: the request's number on the workers.
    """

    name = "dsi"

    def __init__(self, ledger: Ledger, replicas: int, lookahead: int, *, unit: int = 1, key: int = 0):
        self.ledger, self.lookahead, self.unit, self.key = ledger, max(1, lookahead), unit, key
        self.tally = Tally()
        self.crew = Crew(replicas, self.tally)
        self.run: Run | None = None  # what the drafter is at
        self.next = ledger.position  # where the next block begins

    def start(self) -> list[Command]:
        """The first commands."""
        return [*self._turn(), *self._dispatch()]

    def on(self, answer: Answer) -> list[Command]:
        """Takes one answer in and returns what is to be done now."""
        ledger = self.ledger
        failed = self.crew.hear(answer) if getattr(answer, "worker", 0) >= 0 else None
        if failed is not None and ledger.current(failed.epoch):
            self.next = min(self.next, failed.start)
        if isinstance(answer, Scored):
            if not ledger.add_rows(answer.epoch, answer.start, answer.rows):
                self.tally.stale_answers += 1
            elif answer.start + len(answer.rows) <= ledger.position:
                self.tally.wasted_verifications += 1  # others decided all of it
        elif isinstance(answer, Drafted):
            self._drafted(answer)
        elif isinstance(answer, Failed) and answer.worker < 0:
            self._drafter_failed(answer)
        commands: list[Command] = []
        while (outcome := ledger.advance()) is not None:
            self.tally.wasted_drafts -= len(outcome.tokens) - outcome.turned
            if not ledger.open:
                return [*commands, *self._stop()]
            if outcome.turned:
                commands += self._turn()
        return [*commands, *self._dispatch()]

    @property
    def done(self) -> bool:
        """Whether the request has ended."""
        return not self.ledger.open

    def _drafted(self, answer: Drafted) -> None:
        self.tally.drafted_tokens += len(answer.nodes)
        self.tally.wasted_drafts += len(answer.nodes)
        if not self.ledger.add_nodes(answer.epoch, answer.start, answer.nodes, answer.last):
            self.tally.stale_answers += 1
        elif answer.last and self.run is not None and answer.task == self.run.task:
            self.run = None

    def _drafter_failed(self, answer: Failed) -> None:
        self.tally.failures.append(f"drafter: {answer.reason}")
        self.run = None
        self.ledger.lose_drafter()

    def _turn(self) -> list[Command]:
        """A new epoch: every draft is void, and whatever was computed on one."""
        ledger = self.ledger
        commands: list[Command] = self._stop()
        self.next = ledger.position
        if ledger.end > ledger.position:
            behind = ledger.behind(ledger.position)
            self.run = Run(self.crew.number(), self.key, ledger.epoch, ledger.position, behind, ledger.end, self.unit)
            commands.append(self.run)
        return commands

    def _stop(self) -> list[Command]:
        commands: list[Command] = list(self.crew.cancel_all())
        if self.run is not None:
            commands.append(Cancel(self.run.task, self.run.worker, self.run.epoch))
            self.run = None
        return commands

    def _dispatch(self) -> list[Command]:
        """Work for every idle replica: the front if nobody is at it, else the next block."""
        commands: list[Command] = []
        ledger = self.ledger
        while ledger.open and (worker := self.crew.idle()) is not None:
            front = ledger.position
            if front not in ledger.rows and not self.crew.covers(front):
                start = front
            else:
                start = max(self.next, front)
                ready = ledger.reach - start
                complete = ledger.reach >= ledger.end or ledger.reach in ledger.nodes  # the latter: an empty draw, nothing follows it
                if ready < self.lookahead and not (ready > 0 and complete):
                    break
            # all that is there: more than a block only where replicas were busy, and then one forward does the work of several
            commands.append(self._verify(worker, start, ledger.reach))
            self.next = ledger.reach
        return commands

    def _verify(self, worker: int, start: int, reach: int) -> Verify:
        ledger = self.ledger
        return self.crew.assign(worker, self.key, ledger.epoch, start, ledger.behind(start), ledger.drafted(start, reach))

    def fingerprint(self) -> tuple:
        """What decides the future, without task numbers; for the enumeration of interleavings."""
        ledger = self.ledger
        known = (tuple(ledger.tokens), ledger.epoch, ledger.end, ledger.drafting, tuple(sorted(ledger.rows)))
        return (*known, tuple((p, n.token) for p, n in sorted(ledger.nodes.items())), self.next, self.run is None, self.crew.fingerprint())


__all__ = ["DSI"]
