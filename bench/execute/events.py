"""The events of a run, as plain data for displays and logs, and the summary of a run."""

from collections.abc import Callable
from dataclasses import dataclass, field

from results.store.records import AttemptStatus, MeasurementStatus


@dataclass(frozen=True)
class Task:
    """The trial or bare layer that an event is about: number `number` of `total` in the plan.

    Attributes:
        name: the router, and what distinguishes this trial from the router's others.
        seed: None for a bare layer.
    """

    name: str
    seed: int | None
    number: int
    total: int


@dataclass(frozen=True)
class Begun:
    """The beginning of a run, once the number of `jobs` to do is known."""

    jobs: int


@dataclass(frozen=True)
class Waiting:
    """A wait for `holder`: another run that works on the task, or whoever holds the machine."""

    task: Task
    holder: str
    machine: bool = False


@dataclass(frozen=True)
class Reused:
    """A trial that already has a result; `status` is how it ended."""

    task: Task
    status: str
    reason: str


@dataclass(frozen=True)
class Started:
    """The beginning of a training."""

    task: Task
    reason: str


@dataclass(frozen=True)
class Progress:
    """The state of a running training, with `step` of `steps` done.

    Attributes:
        loss: the training loss at the last step, without auxiliary losses.
        accuracy: accuracy on the validation split, a share, at the last evaluation; None before
            the first.
        evaluations: number of evaluations so far.
        seconds: duration of the training so far, without evaluations.
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
    """The end of a training; `error` says why in one line if the status is not `done`."""

    task: Task
    status: str
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Measuring:
    """The beginning of a measurement by a suite."""

    task: Task
    suite: str


@dataclass(frozen=True)
class Measured:
    """The end of a measurement; `error` says why if the status is not `done`."""

    task: Task
    suite: str
    status: str
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Leaving:
    """The early end of a run: no new job begins, and running jobs save what they have."""

    reason: str


@dataclass(frozen=True)
class Opened:
    """The files that a worker's plugins opened during its job, as absolute paths."""

    files: tuple[str, ...]


Event = (
    Begun | Leaving | Waiting | Reused | Started | Progress | Ended | Measuring | Measured | Opened
)
OnEvent = Callable[[Event], None]
"""A function that is called with each event when it happens."""


@dataclass(frozen=True)
class Failure:
    """A training or a measurement that gave no result; `what` is "training" or the suite."""

    task: Task
    what: str
    status: str
    error: str


@dataclass
class RunSummary:
    """The counts of what a run has done so far.

    Attributes:
        left: why the run stopped before everything was done; None if it did not.
    """

    trained: int = 0
    reused: int = 0
    measured: int = 0
    skipped: int = 0
    failures: list[Failure] = field(default_factory=list)
    left: str | None = None

    @property
    def interrupted(self) -> bool:
        """Whether something was ended from outside, to be continued by the next run."""
        return any(each.status == AttemptStatus.INTERRUPTED for each in self.failures)

    def add(self, event: Event) -> None:
        """Count an event."""
        match event:
            case Ended(task, status, _, error) | Reused(task, status, error):
                self.trained += isinstance(event, Ended) and status == AttemptStatus.DONE
                self.reused += isinstance(event, Reused) and status == AttemptStatus.DONE
                if status not in (AttemptStatus.DONE, AttemptStatus.PRUNED):
                    self.failures.append(Failure(task, "training", status, error or ""))
            case Measured(task, suite, status, _, error):
                self.measured += status == MeasurementStatus.DONE
                self.skipped += status == MeasurementStatus.SKIPPED
                if status not in (MeasurementStatus.DONE, MeasurementStatus.SKIPPED):
                    self.failures.append(Failure(task, suite, status, error or ""))
