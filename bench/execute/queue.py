"""The queue of one run: jobs that have yet to begin, some of which other runs may take.

A lease decides who does a job. Whatever else is read here about other runs only saves queries: a
hundred runs that share ten thousand trials would otherwise ask for each trial one by one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from bench.execute.jobs import Job, JobStore

ASK_AGAIN = 2.0
"""Seconds until jobs that other runs hold are tried again."""


@dataclass(eq=False)
class Item:
    """A job that is, or was, in the queue.

    Attributes:
        not_before: the time of `time.monotonic` before which it is not tried.
        announced: whether an event has said that another run holds it.
        crashed: suites whose process ended without a result in this run.
    """

    job: Job
    not_before: float = 0.0
    announced: bool = False
    crashed: set[str] = field(default_factory=set)


class Queue:
    """The jobs that a run has yet to begin, in order.

    Attributes:
        runs: number of runs at work at the last query, including this one.
    """

    def __init__(self, jobs: Iterable[Job], job_store: JobStore) -> None:
        self._items, self._job_store = list(map(Item, jobs)), job_store
        self._draw = random.Random(job_store.run_id)
        self._begun: set[int] = set()
        self._newest = job_store.reuse.newest
        self.runs, self._shared, self._asked = 1, True, 0.0

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item: Item) -> bool:
        return item in self._items

    def add(self, jobs: Iterable[Job]) -> None:
        """Append jobs."""
        self._items += map(Item, jobs)

    def put_back(self, item: Item) -> None:
        """Put an item that was taken back in front of all others."""
        self._items.insert(0, item)

    def remove(self, item: Item) -> None:
        """Remove an item whose job begins or is over."""
        self._items.remove(item)

    def descendants(self, job: Job) -> list[Job]:
        """Return the jobs that are derived from a job, directly or not, parents first."""
        own = [item.job for item in self._items if item.job.parent == job.fingerprint]
        return [*own, *(each for child in own for each in self.descendants(child))]

    def drop_children(self, job: Job) -> None:
        """Remove what is derived from an interrupted trial, which the next run continues."""
        for item in [item for item in self._items if item.job.parent == job.fingerprint]:
            self._items.remove(item)
            self.drop_children(item.job)

    def set_aside(self, item: Item) -> None:
        """Postpone an item that another run holds."""
        item.announced, item.not_before = True, time.monotonic() + ASK_AGAIN
        self._shared = True
        if not item.job.is_layer:
            self._begun.add(self._job_store.rows[item.job.fingerprint])

    def share(self) -> None:
        """Note that another run does some of these jobs."""
        self._shared = True

    def first_ready(self, active: Sequence[Job], here: Sequence[Job]) -> Item | None:
        """Return an item that may begin now on a device; the first one if no other run is at work.

        If N runs share the jobs, each draws from the first N ready items, so that two of them
        seldom want the same item at the same time. A bare layer, which is timed, has its device to
        itself; a derived trial waits for its parent.

        Args:
            active: the jobs that are at work in any slot.
            here: the active jobs on the free slot's device.
        """
        if any(job.is_layer for job in here):
            return None
        unfinished = {job.fingerprint for job in [*(item.job for item in self._items), *active]}
        ready, now = [], time.monotonic()
        for item in self._items:
            free = not here if item.job.is_layer else item.job.parent not in unfinished
            if free and item.not_before <= now:
                ready.append(item)
                if len(ready) == self.runs:
                    break
        return self._draw.choice(ready) if ready else None

    def refresh(self) -> Iterator[Job]:
        """Postpone what other runs hold now; yield and remove what they have done.

        The jobs that it yields have nothing left to do. Nothing is read as long as no other run has
        been seen to do any of the jobs, or if the last query was a moment ago.
        """
        if not self._shared or time.monotonic() - self._asked < ASK_AGAIN:
            return
        held = self._job_store.held_by_others()
        begun = self._job_store.store.trials_begun_after(self._newest)
        self._newest = max([self._newest, *begun])
        self._begun |= set(begun.values())
        self.runs, self._shared = 1 + len(set(held.values())), bool(held)
        self._asked = time.monotonic()
        over = []
        for item in self._items:
            row = self._job_store.rows[item.job.fingerprint]
            if item.job.is_layer or row not in self._begun:
                continue
            if row in held:
                item.not_before = self._asked + ASK_AGAIN
            else:
                over.append(item)
                self._begun.discard(row)
        yield from self._without_done(over)

    def _without_done(self, items: Sequence[Item]) -> Iterator[Job]:
        """Remove the items that are done, and yield their jobs."""
        names, asked = {item.job.fingerprint for item in items}, []
        for item in self._items:  # parents come before what is derived from them
            # Whether a trial without weights is done depends on those that are derived from it.
            if {item.job.fingerprint, item.job.parent} & names:
                names.add(item.job.fingerprint)
                asked.append(item)
        refreshed = self._job_store.refreshed_trials([item.job for item in asked])
        for item, job in zip(asked, refreshed, strict=True):
            if item in items and job.idle and not item.crashed:
                self._items.remove(item)
                yield job
