"""When a run will end, learnt from what it has done so far.

A job is a trial, trained and then measured, or a bare layer, measured with the machine to itself.
Jobs of one kind (a router and its condition) take about as long as each other; a kind that has not
been seen takes what the kinds seen take on average.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from bench.makespan import Load
from bench.makespan import makespan as spread

TRUSTED = 0.05
"""Share of a training from which its own pace says more than what others took."""


@dataclass
class Learnt:
    """Mean seconds by kind."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, kind: str, seconds: float) -> None:
        """One more of this kind."""
        self.seconds.setdefault(kind, []).append(seconds)

    def of(self, kind: str) -> float | None:
        """What one of this kind takes; None where nothing has been seen at all."""
        if kind in self.seconds:
            return fmean(self.seconds[kind])
        return fmean(map(fmean, self.seconds.values())) if self.seconds else None


@dataclass(frozen=True)
class Job:
    """A trial that is not done yet.

    Attributes:
        kind: trials of a kind take about as long.
        trained: share of its training that is done; 1 where it needs none.
        training: seconds that this share took.
        measuring: seconds that its measurements took so far.
    """

    kind: str
    trained: float = 0.0
    training: float = 0.0
    measuring: float = 0.0

    @property
    def projected(self) -> float | None:
        """Seconds of its whole training at its own pace; None where that says little yet."""
        if self.trained < TRUSTED or self.training <= 0:
            return None
        return self.training / self.trained


@dataclass
class Pace:
    """What has been seen: seconds of training, of all measurements of a trial, and of a layer's."""

    training: Learnt = field(default_factory=Learnt)
    measuring: Learnt = field(default_factory=Learnt)
    layers: Learnt = field(default_factory=Learnt)

    def left(
        self, running: Sequence[Job], waiting: Sequence[str], layers: Sequence[str], workers: int
    ) -> float | None:
        """Seconds until all is done; None where nothing tells yet.

        Layers nobody has measured yet are left out.

        Args:
            running: trials under way.
            waiting: kinds of the trials to come, in their order.
            layers: kinds of the layers to come; they run one at a time.
            workers: trials that run at once.
        """
        known = self.with_projections(running)
        under_way = [known.of(job) for job in running]
        to_come = [known.of(Job(kind)) for kind in waiting]
        alone = [self.layers.of(kind) for kind in layers]
        unknown = None in (*under_way, *to_come)
        if unknown or (None in alone and not under_way and not to_come):
            return None
        return makespan(_told(under_way), _told(to_come), workers) + sum(_told(alone))

    def with_projections(self, running: Iterable[Job]) -> Pace:
        """The same, and of kinds of which none is done yet what those under way promise."""
        training = Learnt(dict(self.training.seconds))
        for job in running:
            if job.kind not in self.training.seconds and job.projected is not None:
                training.seconds[job.kind] = [*training.seconds.get(job.kind, ()), job.projected]
        return Pace(training, self.measuring, self.layers)

    def of(self, job: Job) -> float | None:
        """Seconds until this trial is done; None where nothing tells."""
        whole = job.projected or self.training.of(job.kind)
        measuring = self.measuring.of(job.kind)
        if whole is None and measuring is None and job.trained < 1:
            return None
        # Where trials were measured and none was trained, the others too are only measured.
        training = (1 - job.trained) * (whole or 0)
        return training + max((measuring or 0) - job.measuring, 0)


def makespan(running: Iterable[float], waiting: Iterable[float], workers: int) -> float:
    """When the last job ends if each worker that is free takes the next one.

    Args:
        running: seconds left of jobs under way, each on a worker of its own.
        waiting: seconds of the jobs to come, in their order.
        workers: how many there are, at least; as many more as `running` shows.
    """
    first = list(running)
    loads = [Load(str(number), seconds) for number, seconds in enumerate([*first, *waiting])]
    return spread(loads, max(workers, 1, len(first)))


def _told(seconds: Iterable[float | None]) -> list[float]:
    return [each for each in seconds if each is not None]
