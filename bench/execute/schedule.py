"""Which job is next, and what becomes of one whose worker is gone.

Trials in the order of the plan, children after their parents; timings have their device, on a CPU
the machine, to themselves. What another run works on is asked for again until it is through.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.execute.assignment import Assignment, Result
from bench.execute.desk import Claim, Desk
from bench.execute.events import (
    Ended,
    Event,
    Leaving,
    Listener,
    Measured,
    Measuring,
    Progress,
    Reused,
    Started,
    Waiting,
)
from bench.execute.hands import Hands, Lost
from bench.execute.interrupts import Interrupts
from bench.execute.jobs import Job, LayerJob, TrialJob
from bench.plan import PlannedSuite

ASK_AGAIN = 2.0
"""Seconds until a job that another run holds is asked for again."""
BEAT = 5.0
"""Seconds between two heartbeats."""
LOOK = 0.5
"""Seconds between two looks at the workers, at most."""


@dataclass
class _Item:
    """A job that waits."""

    job: Job
    not_before: float = 0.0
    told: bool = False

    @property
    def fingerprint(self) -> str:
        return self.job.planned.fingerprint.value


@dataclass
class _Active:
    """A job at work in a slot."""

    item: _Item
    claim: Claim
    assignment: Assignment
    began: float = field(default_factory=time.perf_counter)
    measuring: PlannedSuite | None = None
    progress: dict[str, Any] = field(default_factory=dict)


class Schedule:
    """The jobs of one run, done by some hands.

    Args:
        jobs: those that are not idle, in the order of the plan.
        tell: is told each event.
    """

    def __init__(
        self, jobs: Sequence[Job], desk: Desk, tell: Listener, interrupts: Interrupts
    ) -> None:
        self._waiting = [_Item(job) for job in jobs]
        self._active: dict[int, _Active] = {}
        self._desk, self._tell, self._interrupts = desk, tell, interrupts
        self._leaving: str | None = None
        self._last_beat = 0.0

    def run(self, hands: Hands) -> str | None:
        """Do all jobs.

        Returns:
            Why some were left: None where none was.

        Raises:
            KeyboardInterrupt: at the second Ctrl-C; nothing runs on.
            StoreError: the database cannot be written; nothing runs on.
        """
        try:
            while self._active or (self._waiting and not self._leaving):
                self._leave_if_asked(hands)
                self._fill(hands)
                for slot, how in hands.wait(LOOK):
                    self._over(hands, slot, how)
                self._beat()
                if not self._active and self._waiting and not self._leaving:
                    self._interrupts.sleep(LOOK)
        except BaseException:
            hands.kill()
            raise
        return self._leaving

    def hear(self, slot: int, event: Event) -> None:
        """An event of the worker in a slot."""
        active = self._active[slot]
        match event:
            case Started():
                active.progress = {"doing": "training"}
            case Progress(_, step, steps, loss, accuracy, seconds):
                told = {"step": step, "steps": steps, "loss": loss, "accuracy": accuracy}
                active.progress = {"doing": "training", **told, "seconds": seconds}
            case Measuring(_, name):
                due = _due(active.claim.job)
                active.measuring = next(suite for suite in due if suite.name == name)
                active.progress = {"doing": name}
            case Measured():
                active.measuring = None
        self._tell(event)

    def _fill(self, hands: Hands) -> None:
        for slot, device in enumerate(hands.slots):
            while slot not in self._active and not self._leaving:
                item = self._next(hands, device)
                if item is None:
                    break
                self._begin(hands, slot, item)

    def _next(self, hands: Hands, device: str) -> _Item | None:
        here = [active for slot, active in self._active.items() if hands.slots[slot] == device]
        if any(isinstance(active.item.job, LayerJob) for active in here):
            return None
        unfinished = {item.fingerprint for item in self._waiting}
        unfinished |= {active.item.fingerprint for active in self._active.values()}
        for item in self._waiting:
            if item.not_before > time.monotonic():
                continue
            if isinstance(item.job, LayerJob):
                if not here:
                    return item
            elif item.job.planned.fingerprint.parent not in unfinished:
                return item
        return None

    def _begin(self, hands: Hands, slot: int, item: _Item) -> None:
        """Start a job, unless another run has it or has done it."""
        claim = self._desk.claim(item.job)
        if claim is None:
            if not item.told:
                self._tell(Waiting(item.job.task, self._desk.holder(item.job)))
            item.told, item.not_before = True, time.monotonic() + ASK_AGAIN
            return
        self._waiting.remove(item)
        if claim.job.idle:
            self._desk.release(claim)
            self._tell_reused(claim.job)
        else:
            self._start(hands, slot, item, claim)

    def _start(
        self, hands: Hands, slot: int, item: _Item, claim: Claim, micro_batches: int = 1
    ) -> None:
        job = claim.job
        if isinstance(job, TrialJob) and not job.decision.train:
            self._tell_reused(job)
        assignment = self._desk.begin(claim, hands.slots[slot], micro_batches)
        self._active[slot] = _Active(item, claim, assignment)
        hands.start(slot, assignment)

    def _over(self, hands: Hands, slot: int, how: Result | Lost) -> None:
        active = self._active.pop(slot)
        if isinstance(how, Lost):
            self._lost(active, how)
        elif how.halvable and active.assignment.micro_batches == 1 and not self._leaving:
            self._start(hands, slot, active.item, active.claim, micro_batches=2)
            return
        self._desk.release(active.claim)
        if how.disk_full:
            self._leave(hands, "the disk is full; free some space and give the command again")

    def _lost(self, active: _Active, lost: Lost) -> None:
        seconds = time.perf_counter() - active.began
        task, suite = active.item.job.task, active.measuring
        begun = active.assignment.attempt is not None and suite is None
        if begun and self._desk.lost_training(active.assignment, lost, seconds):
            self._tell(Ended(task, lost.status, seconds, lost.error))
            return
        suite = suite or next(iter(_due(active.claim.job)), None)
        if suite is None:
            return
        # What was stopped from outside is due still, and no result.
        if lost.status != "interrupted":
            self._desk.lost_measurement(active.assignment, suite, lost)
        self._tell(Measured(task, suite.name, lost.status, seconds, lost.error))

    def _leave_if_asked(self, hands: Hands) -> None:
        reason = self._interrupts.reason
        if reason is not None and not self._leaving:
            self._leave(hands, reason)

    def _leave(self, hands: Hands, reason: str) -> None:
        if not self._leaving:
            self._leaving = reason
            self._tell(Leaving(reason))
            hands.stop()

    def _beat(self) -> None:
        if time.monotonic() - self._last_beat >= BEAT:
            self._last_beat = time.monotonic()
            self._desk.beat({a.claim.id: self._told(a) for a in self._active.values()})

    def _told(self, active: _Active) -> dict[str, Any]:
        return {**active.progress, "device": active.assignment.device}

    def _tell_reused(self, job: Job) -> None:
        if isinstance(job, TrialJob) and job.decision.attempt is not None:
            self._tell(Reused(job.task, job.decision.attempt.status, job.decision.reason))


def _due(job: Job) -> Sequence[PlannedSuite]:
    return job.decision.due if isinstance(job, TrialJob) else job.due
