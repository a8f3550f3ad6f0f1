"""When jobs end that workers take in order, each the next as soon as it is free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """A job.

    Attributes:
        name: unique among the jobs.
        seconds: that it takes a worker.
        after: the name of a job that must have ended; of no matter where no job is called so.
    """

    name: str
    seconds: float
    after: str | None = None


def makespan(loads: Sequence[Load], workers: int) -> float:
    """Seconds until the last job has ended (list scheduling).

    A worker that is free takes the first job that waits for no other.

    Args:
        loads: in their order, each after the one that it waits for.
        workers: at least one.
    """
    waiting, ends = list(loads), {load.name: math.inf for load in loads}
    free = [0.0] * workers
    while waiting:
        now = min(free)
        free.remove(now)
        load = next((each for each in waiting if ends.get(each.after or "", 0.0) <= now), None)
        if load is None:  # until the next of the others has ended
            free.append(min(end for end in ends.values() if end > now))
            continue
        waiting.remove(load)
        ends[load.name] = now + load.seconds
        free.append(ends[load.name])
    return max(free)
