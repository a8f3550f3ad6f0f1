"""When a plan would be done: its conditions measured in small, its jobs spread over the workers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import inf
from statistics import fmean
from time import monotonic
from typing import TypeVar

from bench.config import TrialSpec
from bench.execute.jobs import Job, LayerJob, TrialJob
from bench.fingerprint import canonical
from bench.forecast.cost import Cost, Errand
from bench.forecast.errands import Run
from bench.makespan import Load, makespan
from bench.specs import condition_of

MOST = 40
"""Conditions that are measured each by itself, at most."""
ENOUGH = 20.0
"""Seconds for bare layers; those that are left then are taken to be like the others."""
AROUND = 3.5
"""Beside its jobs a run takes about so many times what loading everything does: the command and the
fork server load, the request is checked, the report is written."""

NOTHING = Cost(0.0, {})
Tell = Callable[[str], None]
AnyJob = TypeVar("AnyJob", TrialJob, LayerJob)


@dataclass(frozen=True)
class Forecast:
    """Of what is left to do, in seconds.

    Attributes:
        training: in which trials are trained.
        measuring: in which trials are measured.
        timings: for bare layers, which have their device to themselves.
        around: to begin, and to write the report.
        trainings: of one training, by condition (see `condition_of`).
        unknown: why something could not be measured, by the label of a trial or layer.
    """

    training: float
    measuring: float
    timings: float
    around: float
    trainings: Mapping[str, float]
    unknown: Mapping[str, str]

    @property
    def whole(self) -> float:
        """Until everything is done."""
        return self.training + self.measuring + self.timings + self.around


def forecast(
    jobs: Sequence[Job], slots: Sequence[str], run: Run, loading: float, tell: Tell
) -> Forecast:
    """Measure what is not done, and spread it over the workers.

    Args:
        jobs: a plan's, in their order; those that are idle cost nothing.
        slots: the device of each worker.
        run: runs errands on these slots.
        loading: seconds that it takes a process to load everything.
        tell: is told what goes on.

    Raises:
        BenchError: something takes too long to be measured.
    """
    trials = [job for job in jobs if isinstance(job, TrialJob) and not job.idle]
    layers = [job for job in jobs if isinstance(job, LayerJob) and not job.idle]
    unknown: dict[str, str] = {}
    costs = _costs(trials, _kin_of(trials), run, unknown, tell)
    own = [_seconds(job, cost) for job, cost in zip(trials, costs, strict=True)]
    whole = makespan(_loads(trials, map(sum, own)), len(slots))
    training = sum(seconds for seconds, _ in own)
    share = training / (sum(map(sum, own)) or 1.0)
    alone = [
        cost.ready + sum(cost.suites.get(suite.name, 0.0) for suite in job.due)
        for job, cost in zip(layers, _costs(layers, _size, run, unknown, tell, ENOUGH), strict=True)
    ]
    trainings = {
        condition_of(job.planned.spec): seconds
        for job, (seconds, _) in zip(trials, own, strict=True)
        if seconds
    }
    timings = makespan(_loads(layers, alone), len(set(slots)))
    parts = (share * whole, (1 - share) * whole, timings, AROUND * loading)
    return Forecast(*parts, trainings, unknown)


def _costs(
    jobs: Sequence[AnyJob],
    kind_of: Callable[[TrialSpec], str],
    run: Run,
    unknown: dict[str, str],
    tell: Tell,
    limit: float = inf,
) -> list[Cost]:
    """The cost of each job: that of the first of its kind, which alone is measured.

    Args:
        unknown: is told of those that cannot be measured; they are taken to cost nothing.
        limit: seconds; kinds that are left then are taken to cost what the others do on average.
    """
    kinds = {kind_of(job.planned.spec): job for job in reversed(jobs)}
    errands = {
        kind: Errand(job.planned.spec, job.planned.suites, bare=isinstance(job, LayerJob))
        for kind, job in reversed(kinds.items())
    }
    found: dict[str, Cost] = {}
    end = monotonic() + limit
    with closing(run(errands)) as results:
        for number, (kind, cost) in enumerate(results, 1):
            tell(f"measuring: {number} of {len(kinds)}")
            if isinstance(cost, str):
                unknown[kinds[kind].planned.label] = cost
                cost = NOTHING
            found[kind] = cost
            if monotonic() > end:
                break
    return [found.get(kind_of(job.planned.spec)) or _mean(found.values()) for job in jobs]


def _mean(costs: Collection[Cost]) -> Cost:
    names = {name for cost in costs for name in cost.suites}
    of_suite = {name: fmean(cost.suites.get(name, 0.0) for cost in costs) for name in names}
    training = fmean(cost.training for cost in costs)
    return Cost(training, of_suite, fmean(cost.ready for cost in costs))


def _seconds(job: TrialJob, cost: Cost) -> tuple[float, float]:
    """To train and to measure a trial."""
    measuring = sum(cost.suites.get(suite.name, 0.0) for suite in job.decision.due)
    return cost.training * job.decision.train, cost.ready + measuring


def _loads(jobs: Sequence[Job], seconds: Iterable[float]) -> list[Load]:
    prints = [job.planned.fingerprint for job in jobs]
    return [Load(each.value, s, each.parent) for each, s in zip(prints, seconds, strict=True)]


def _kin_of(trials: Sequence[TrialJob]) -> Callable[[TrialSpec], str]:
    """What trials have in common that are taken to cost the same: the condition.

    Of too many conditions, those of one router whose models and data are alike: hyper-parameters
    and losses change the number of steps in a budget rather than the time that it takes.
    """
    conditions = {condition_of(job.planned.spec) for job in trials}
    return condition_of if len(conditions) <= MOST else _kin


def _kin(spec: TrialSpec) -> str:
    told = spec.model_dump(
        mode="json", include={"experts", "model", "data", "compute", "transform"}
    )
    train = {"epochs", "batch_size", "precision", "evaluations", "snapshots"}
    return canonical([spec.router.name, told, spec.train.model_dump(mode="json", include=train)])


def _size(spec: TrialSpec) -> str:
    """What bare layers have in common that are taken to cost the same."""
    return canonical(spec.model_dump(mode="json", include={"experts", "model"}))
