"""What happens during a run, as plain data that displays and logs listen to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.forecast import Seen, Work


@dataclass(frozen=True)
class Task:
    """What an event is about.

    Attributes:
        name: the router, and what sets this trial apart from its others.
        seed: None for a bare layer.
        number: its place in the plan, from 1.
        total: trials, or layers, in the plan.
    """

    name: str
    seed: int | None
    number: int
    total: int


@dataclass(frozen=True)
class Begun:
    """A run begins, after it was decided what there is to do.

    Attributes:
        trials: those that are to be trained or measured.
        reused: trials that need nothing.
        layers: bare layers that are to be measured.
        jobs: workers.
        works: what there is to do of each trial and layer, where it is known before it begins.
        earlier: what this machine has trained and measured before.
    """

    trials: tuple[Task, ...]
    reused: int
    layers: int
    jobs: int
    works: Mapping[Task, Work] = field(default_factory=dict)
    earlier: Seen = field(default_factory=Seen)


@dataclass(frozen=True)
class Waiting:
    """It waits for `holder`: another run that works on it, or somebody who has the machine."""

    task: Task
    holder: str
    machine: bool = False


@dataclass(frozen=True)
class Reused:
    """A trial that has its result already; `status` is how it ended."""

    task: Task
    status: str
    reason: str


@dataclass(frozen=True)
class Started:
    """A training begins."""

    task: Task
    reason: str


@dataclass(frozen=True)
class Progress:
    """A training goes on.

    Attributes:
        step: steps done.
        steps: in all.
        loss: the task's, at the last step.
        accuracy: share of the validation split at the last evaluation; None before the first.
        evaluations: how many there were.
        seconds: of training.
    """

    task: Task
    step: int
    steps: int
    loss: float
    accuracy: float | None
    evaluations: int
    seconds: float


@dataclass(frozen=True)
class Ended:
    """A training is over; `error` is the first line of why where the status is not `done`."""

    task: Task
    status: str
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Measuring:
    """A suite begins to measure."""

    task: Task
    suite: str


@dataclass(frozen=True)
class Measured:
    """A suite is through; `error` says why where the status is not `done`."""

    task: Task
    suite: str
    status: str
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Leaving:
    """Nothing new is begun; what goes on saves what it has."""

    reason: str


@dataclass(frozen=True)
class Opened:
    """A worker has done its job; its plugins opened these files, in absolute paths."""

    files: tuple[str, ...]


Event = (
    Begun | Leaving | Waiting | Reused | Started | Progress | Ended | Measuring | Measured | Opened
)
Listener = Callable[[Event], None]
