"""What a run has done, counted as it happens."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.execute.events import Ended, Event, Measured, Reused, Task


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
                self.trained += isinstance(event, Ended) and status == "done"
                self.reused += isinstance(event, Reused) and status == "done"
                if status not in ("done", "pruned"):
                    self.failures.append(Failure(task, "training", status, error or ""))
            case Measured(task, suite, status, _, error):
                self.measured += status == "done"
                self.skipped += status == "skipped"
                if status not in ("done", "skipped"):
                    self.failures.append(Failure(task, suite, status, error or ""))
