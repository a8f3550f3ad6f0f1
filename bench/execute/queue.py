"""The queue of one run: jobs that are still to begin, some of which other runs may take.

A lease decides who does a job. What else is read of other runs here only spares the questions: a
hundred runs that share ten thousand trials would ask for each of them one by one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from bench.execute.jobs import Job, JobStore

ASK_AGAIN = 2.0
"""Seconds until what other runs hold is asked for again."""


@dataclass(eq=False)
class Item:
    """A job in the queue, or that was in it.

    Attributes:
        announced: whether it was emitted that another run holds it.
        crashed: suites that ended their process in this run.
    """

    job: Job
    not_before: float = 0.0
    announced: bool = False
    crashed: set[str] = field(default_factory=set)


class Queue:
    """The jobs that a run has still to begin, in order.

    Attributes:
        runs: how many runs were at work when that was asked last, with this one.
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
        """Put an item that was taken in front of all others."""
        self._items.insert(0, item)

    def remove(self, item: Item) -> None:
        """Remove an item whose job begins, or is over."""
        self._items.remove(item)

    def children(self, job: Job) -> list[Job]:
        """List the jobs that are derived from a job."""
        return [item.job for item in self._items if item.job.parent == job.fingerprint]

    def drop_children(self, job: Job) -> None:
        """Remove what is derived from an interrupted trial: the next run continues it."""
        for item in [item for item in self._items if item.job.parent == job.fingerprint]:
            self._items.remove(item)
            self.drop_children(item.job)

    def set_aside(self, item: Item) -> None:
        """Ask for an item again later: another run holds it."""
        item.announced, item.not_before = True, time.monotonic() + ASK_AGAIN
        self._shared = True
        if not item.job.is_layer:
            self._begun.add(self._job_store.rows[item.job.fingerprint])

    def share(self) -> None:
        """Take note that another run does some of these jobs."""
        self._shared = True

    def first_ready(self, active: Sequence[Job], here: Sequence[Job]) -> Item | None:
        """Return an item that may begin now on a device: the first, where no other run is at work.

        Of N runs that share the jobs, each draws from the first N items, and so seldom asks for
        what another one asks for at the same time. A bare layer, which is timed, has its device
        alone; a derived trial waits for its parent.

        Args:
            active: the jobs that are done anywhere now.
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
        """Set aside what other runs hold now; yields, and removes, what they have done.

        The jobs that it yields have nothing left to do. Nothing is read as long as no other run is
        seen to do any of the jobs, or where this was asked a moment ago.
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
        """Remove those of the items that are done, and yield their jobs."""
        names = {item.job.fingerprint for item in items}
        # Whether a trial without weights is done depends on those that are derived from it.
        asked = [item for item in self._items if {item.job.fingerprint, item.job.parent} & names]
        refreshed = self._job_store.refreshed_trials([item.job for item in asked])
        for item, job in zip(asked, refreshed, strict=True):
            if item in items and job.idle and not item.crashed:
                self._items.remove(item)
                yield job
