"""Which target replica is busy with what: the book-keeping that parallel schedules share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from anydraft.core.messages import Answer, Cancel, Cancelled, Failed, Joined, Scored, Tally, Verify

PATIENCE = 3  # failures in a row after which a replica is given no more work


@dataclass(slots=True)
class Job:
    """A verification in flight. `void` once nothing is expected of it: cancelled, or its replica has gone silent."""

    task: int
    epoch: int
    start: int
    end: int  # the last position it gives a row for
    void: bool = False
    silent: bool = False


class Crew:
    """Target replicas 0 .. size - 1, each with at most one task.

    A replica that was told to drop its task stays busy until it says that it has: its forward may not be interruptible.
    """

    def __init__(self, size: int, tally: Tally):
        self.members = list(range(size))
        self.jobs: dict[int, Job] = {}
        self.down: set[int] = set()
        self.tally = tally
        self._strikes: dict[int, int] = {}
        self._numbers = 0

    def number(self) -> int:
        """A task number that was never given before."""
        self._numbers += 1
        return self._numbers

    def resume(self, after: int, down: set[int]) -> None:
        """Goes on where an earlier request ended: numbers above `after`, so that a late answer is never taken for one of this request's."""
        self._numbers = max(self._numbers, after)
        self.down |= down

    def idle(self) -> int | None:
        """A replica that can start now."""
        return next((m for m in self.members if m not in self.jobs and m not in self.down), None)

    @property
    def starved(self) -> bool:
        """Whether no replica is left that may still answer."""
        return all(m in self.down or (m in self.jobs and self.jobs[m].silent) for m in self.members)

    def covers(self, position: int) -> bool:
        """Whether a row for this position is in flight."""
        return any(not job.void and job.start <= position <= job.end for job in self.jobs.values())

    def assign(self, worker: int, key: int, epoch: int, start: int, behind: tuple[int, ...], drafts: tuple[int, ...]) -> Verify:
        """Books a task and returns its command."""
        verify = Verify(self.number(), worker, key, epoch, start, behind, drafts)
        self.jobs[worker] = Job(verify.task, epoch, start, start + len(drafts))
        self.tally.verifications += 1
        return verify

    def cancel_all(self) -> Iterator[Cancel]:
        """Voids everything in flight."""
        for worker, job in self.jobs.items():
            if not job.void:
                job.void = True
                self.tally.cancelled += 1
                self.tally.wasted_verifications += 1
            if not job.silent:
                yield Cancel(job.task, worker, job.epoch)

    def hear(self, answer: Answer) -> Job | None:
        """Updates who is busy. Returns the job that failed and whose rows somebody else must bring, if any.

        Whether a result still counts is not decided here: that is told by its epoch.
        """
        if isinstance(answer, Joined):
            self.members.append(answer.worker)
            return None
        if not isinstance(answer, (Scored, Cancelled, Failed)):
            return None
        job = self.jobs.get(answer.worker)
        mine = job is not None and job.task == answer.task
        if isinstance(answer, Failed):
            return self._failed(answer, job if mine or answer.task is None else None)
        if mine:  # a second answer to an old task says nothing about the present one
            del self.jobs[answer.worker]
            self._strikes[answer.worker] = 0
        return None

    def _failed(self, answer: Failed, job: Job | None) -> Job | None:
        self.tally.failures.append(f"target {answer.worker}: {answer.reason}")
        strikes = self._strikes[answer.worker] = self._strikes.get(answer.worker, 0) + 1
        if answer.state == "dead" or (answer.state == "free" and strikes >= PATIENCE):
            self.down.add(answer.worker)
        if job is None:
            return None
        lost = None if job.void else job
        job.void = True
        if answer.state == "silent":
            job.silent = True
        else:
            self.jobs.pop(answer.worker, None)
        if lost is not None:
            self.tally.wasted_verifications += 1
        return lost

    def fingerprint(self) -> tuple:
        """What decides the future, without the names of tasks and replicas: those that have not failed are alike."""
        busy = tuple(sorted((w if w in self._strikes and self._strikes[w] else -1, j.epoch, j.start, j.end, j.void, j.silent) for w, j in self.jobs.items()))
        return (len(self.members), busy, tuple(sorted(self.down)), tuple(sorted((w, n) for w, n in self._strikes.items() if n)))
