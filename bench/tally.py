"""What a run has done, counted as it happens."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.execute.events import Ended, Event, Measured, Reused, Task
from results.records import AttemptStatus, MeasurementStatus


@dataclass(frozen=True)
class Failure:
    """A trial or a measurement that gave no result; `what` is "training" or the suite."""

    task: Task
    what: str
    status: str
    error: str


@dataclass
class Tally:
    """Listens to a run, and counts.

    Attributes:
        left: why the run left before everything was done; None where it did not.
    """

    trained: int = 0
    reused: int = 0
    measured: int = 0
    skipped: int = 0
    failures: list[Failure] = field(default_factory=list)
    left: str | None = None

    def __call__(self, event: Event) -> None:
        """Count an event."""
        match event:
            case Ended(task, status, _, error) | Reused(task, status, error):
                # A trial that was out of memory may be tried once more within the run.
                self.failures = [
                    each for each in self.failures if (each.task, each.what) != (task, "training")
                ]
                self.trained += isinstance(event, Ended) and status == AttemptStatus.DONE
                self.reused += isinstance(event, Reused) and status == AttemptStatus.DONE
                if status not in (AttemptStatus.DONE, AttemptStatus.PRUNED):
                    self.failures.append(Failure(task, "training", status, error or ""))
            case Measured(task, suite, status, _, error):
                self.measured += status == MeasurementStatus.DONE
                self.skipped += status == MeasurementStatus.SKIPPED
                if status not in (MeasurementStatus.DONE, MeasurementStatus.SKIPPED):
                    self.failures.append(Failure(task, suite, status, error or ""))
