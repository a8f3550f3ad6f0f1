"""The jobs of a run, from the first to the last, and what becomes of one whose worker is gone.

What another run works on is asked for again until it is through.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
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
    Started,
    Waiting,
)
from bench.execute.hands import Hands, Lost
from bench.execute.interrupts import Interrupts
from bench.execute.jobs import Job, TrialJob
from bench.execute.queue import Item, Queue
from bench.execute.source import NoMore, Source
from bench.plan import PlannedSuite
from results import StoreError
from results.liveness import STALE_SECONDS
from results.records import AttemptStatus

ASK_AGAIN = 2.0
"""Seconds until a job that another run holds is asked for again."""
BEAT = 5.0
"""Seconds between two heartbeats."""
LOOK = 0.5
"""Seconds between two looks at the workers, at most."""
PATIENCE = 30.0
"""Seconds that workers have to save what they have where the database is out of reach."""


@dataclass
class _Active:
    """A job at work in a slot."""

    item: Item
    claim: Claim
    assignment: Assignment
    dismiss: Callable[[], None]
    """Asks its worker to save what it has, and to leave."""
    began: float = field(default_factory=time.perf_counter)
    measuring: PlannedSuite | None = None
    stopped: str | None = None
    """Why its training was asked to stop, where it alone was."""
    progress: dict[str, Any] = field(default_factory=dict)

    @property
    def told(self) -> dict[str, Any]:
        """What `status` shows of it."""
        return {**self.progress, "device": self.assignment.device}


class Schedule:
    """The jobs of one run, done by some hands.

    Args:
        jobs: those that are not idle, in the order of the plan.
        tell: is told each event.
        source: where jobs come from that are not known yet.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        desk: Desk,
        tell: Listener,
        interrupts: Interrupts,
        source: Source | None = None,
    ) -> None:
        self._queue = Queue(jobs)
        self._source = source or NoMore()
        self._active: dict[int, _Active] = {}
        self._desk, self._tell, self._interrupts = desk, tell, interrupts
        self._leaving: str | None = None
        self._last_try, self._last_beat = 0.0, time.monotonic()

    def run(self, hands: Hands) -> str | None:
        """Do all jobs.

        Returns:
            Why some were left: None where none was.

        Raises:
            KeyboardInterrupt: at the second Ctrl-C; nothing runs on.
            StoreError: the database cannot be written; nothing runs on.
        """
        try:
            while self._active or (self._queue and not self._leaving):
                self._leave_if_asked(hands)
                self._fill(hands)
                for slot, how in hands.wait(LOOK):
                    self._over(hands, slot, how)
                self._beat()
                if not self._active and self._queue and not self._leaving:
                    self._interrupts.sleep(LOOK)
        except StoreError:
            hands.stop()
            self._wait_for_all(hands, PATIENCE)
            hands.kill()
            raise
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
            case Progress(_, step, steps, loss, accuracy, _, seconds):
                told = {"step": step, "steps": steps, "loss": loss, "accuracy": accuracy}
                active.progress = {"doing": "training", **told, "seconds": seconds}
                if active.stopped is None:
                    active.stopped = self._source.seen(active.item.job, event)
                    if active.stopped is not None:
                        active.dismiss()
            case Ended(_, "interrupted") if active.stopped is not None:
                return  # told when it is written down as what it is
            case Measuring(_, name):
                due = active.claim.job.due
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

    def _next(self, hands: Hands, device: str) -> Item | None:
        working = [active.item for active in self._active.values()]
        here = [a.item for slot, a in self._active.items() if hands.slots[slot] == device]
        return self._queue.next(working, here)

    def _begin(self, hands: Hands, slot: int, item: Item) -> None:
        """Start a job, unless another run has it or has done it."""
        claim = self._desk.claim(item.job)
        if claim is None:
            if not item.told:
                self._tell(Waiting(item.job.task, self._desk.holder(item.job)))
            item.told, item.not_before = True, time.monotonic() + ASK_AGAIN
            return
        self._queue.remove(item)
        claim = replace(claim, job=claim.job.without(item.lost))
        if claim.job.idle:
            self._desk.release(claim)
            if not item.lost:
                self._tell_reused(claim.job)
                self._queue.add(self._source.over(claim.job))
        else:
            self._start(hands, slot, item, claim)

    def _start(
        self, hands: Hands, slot: int, item: Item, claim: Claim, micro_batches: int = 1
    ) -> None:
        job = claim.job
        if isinstance(job, TrialJob) and not job.decision.train:
            self._tell_reused(job)
        assignment = self._desk.begin(claim, hands.slots[slot], micro_batches)
        self._active[slot] = _Active(item, claim, assignment, partial(hands.dismiss, slot))
        hands.start(slot, assignment)

    def _over(self, hands: Hands, slot: int, how: Result | Lost) -> None:
        active = self._active.pop(slot)
        status = how.status
        if active.stopped is not None and status == AttemptStatus.INTERRUPTED:
            status = self._stopped(active, active.stopped)
        elif isinstance(how, Lost):
            status = self._lost(active, how)
        elif how.halvable and active.assignment.micro_batches == 1 and not self._leaving:
            self._start(hands, slot, active.item, active.claim, micro_batches=2)
            return
        self._desk.release(active.claim)
        if status == AttemptStatus.INTERRUPTED:
            self._queue.drop_children(active.item.fingerprint)
        elif active.item not in self._queue:
            self._queue.add(self._source.over(active.claim.job))
        if how.leave:
            self._leave(hands, how.leave)

    def _lost(self, active: _Active, lost: Lost) -> str | None:
        """Write down what a worker took with it; returns the status of its training."""
        seconds = time.perf_counter() - active.began
        task, suite, status = active.item.job.task, active.measuring, None
        if active.assignment.attempt is not None and suite is None:
            status, error = self._desk.lost_training(active.assignment, lost, seconds)
            if status != AttemptStatus.DONE:
                self._tell(Ended(task, status, seconds, error))
                return status
        suite = suite or next(iter(active.claim.job.due), None)
        if suite is None:
            return status
        # What was stopped from outside is due still, and no result.
        if lost.status != AttemptStatus.INTERRUPTED:
            self._desk.lost_measurement(active.assignment, suite, lost)
            active.item.lost.add(suite.name)
            self._queue.put_first(active.item)  # for the suites after it
        self._tell(Measured(task, suite.name, lost.status, seconds, lost.error))
        return status

    def _stopped(self, active: _Active, reason: str) -> str:
        """Write down that a training was not worth its time; returns its status."""
        seconds = time.perf_counter() - active.began
        self._desk.stopped_training(active.assignment, reason, seconds)
        self._tell(Ended(active.item.job.task, AttemptStatus.PRUNED, seconds, reason))
        return AttemptStatus.PRUNED

    def _wait_for_all(self, hands: Hands, seconds: float) -> None:
        """Let workers that were asked to leave save what they have."""
        end = time.monotonic() + seconds
        while self._active and time.monotonic() < end:
            for slot, _ in hands.wait(LOOK):
                del self._active[slot]

    def _leave_if_asked(self, hands: Hands) -> None:
        reason = self._interrupts.reason
        if reason is not None and not self._leaving:
            self._leave(hands, reason)

    def _leave(self, hands: Hands, reason: str) -> None:
        if not self._leaving:
            self._leaving = reason
            hands.stop()
            self._tell(Leaving(reason))

    def _beat(self) -> None:
        """Tell that the run lives; that it cannot be told for a while costs nothing yet."""
        now = time.monotonic()
        if now - self._last_try < BEAT:
            return
        self._last_try = now
        try:
            self._desk.beat({active.claim.id: active.told for active in self._active.values()})
            self._last_beat = time.monotonic()
        except StoreError:
            if now - self._last_beat > STALE_SECONDS:
                raise

    def _tell_reused(self, job: Job) -> None:
        if isinstance(job, TrialJob) and job.reused is not None:
            self._tell(job.reused)
