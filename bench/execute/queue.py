"""The jobs that wait, and which of them is next.

In the order of the plan, children after their parents; a timing has its device, on a CPU the
machine, to itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bench.execute.jobs import Job, LayerJob


@dataclass(eq=False)
class Item:
    """A job that waits, or waited."""

    job: Job
    not_before: float = 0.0
    announced: bool = False
    """Whether it was emitted that another run holds it."""
    crashed: set[str] = field(default_factory=set)
    """Suites that ended their process in this run."""

    @property
    def fingerprint(self) -> str:
        return self.job.planned.fingerprint.value

    @property
    def parent(self) -> str | None:
        return self.job.planned.fingerprint.parent

    @property
    def is_timing(self) -> bool:
        return isinstance(self.job, LayerJob)


class Queue:
    """Items in the order of the plan."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._items = [Item(job) for job in jobs]

    def __bool__(self) -> bool:
        return bool(self._items)

    def __contains__(self, item: Item) -> bool:
        return item in self._items

    def next(self, working: Sequence[Item], here: Sequence[Item]) -> Item | None:
        """The first that may begin now on a device; it stays in the queue.

        Args:
            working: what is at work anywhere.
            here: what of it is at work on that device.
        """
        if any(item.is_timing for item in here):
            return None
        unfinished = {item.fingerprint for item in [*self._items, *working]}
        for item in self._items:
            if item.not_before > time.monotonic():
                continue
            if not here if item.is_timing else item.parent not in unfinished:
                return item
        return None

    def add(self, jobs: Iterable[Job]) -> None:
        """Jobs that were not known before."""
        self._items += map(Item, jobs)

    def put_first(self, item: Item) -> None:
        """An item of which a part is left."""
        self._items.insert(0, item)

    def remove(self, item: Item) -> None:
        """An item that begins, or has no need to."""
        self._items.remove(item)

    def drop_children(self, fingerprint: str) -> None:
        """What is derived from an interrupted trial waits for the next run, which continues it."""
        for item in [item for item in self._items if item.parent == fingerprint]:
            self._items.remove(item)
            self.drop_children(item.fingerprint)
