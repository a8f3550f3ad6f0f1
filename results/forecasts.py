"""Forecasts of when a plan or a run ends, from earlier durations on this machine.

A training is expected to take its FLOPs divided by the FLOP rate of earlier trainings; a
measurement, as long as earlier ones by its suite. The estimate is always the median over the most
similar ones: same router and model, else same router, else all. The current run's own trials take
precedence over those of earlier runs. Nothing is trained or measured to make a forecast.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from itertools import chain
from math import inf
from statistics import median
from typing import Any, NamedTuple

from sqlalchemy import select

from results.models import AttemptRow, LayerRow, MachineRow, MeasurementRow, TrialRow
from results.store.records import AttemptStatus, Machine, MeasurementStatus
from results.store.store import Store
from results.text import to_json

HARDWARE = ("name", "processor", "cores", "threads", "gpu", "gpu_count")
"""Fields in which two machines must agree for the durations of one to predict the other's."""

TRUSTED = 0.05
"""Share of a training beyond which its own pace predicts better than other trainings do."""


@dataclass(frozen=True)
class Kind:
    """The properties that decide how fast a trial or layer runs.

    Attributes:
        model: the model and its data, as JSON.
        budget: what determines a training's FLOPs, as JSON: equal budgets mean equal FLOPs.
        granted: the seconds of a training if wall-clock time is what is matched.
    """

    router: str
    model: str = ""
    budget: str = ""
    granted: float | None = None

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Kind:
        """Return the kind of a trial or bare layer, from its description."""
        data = {name: each for name, each in description["data"].items() if name != "data_dir"}
        recipe = description.get("train", {})
        compute = description.get("compute", {})
        model = [description["model"], data, recipe.get("precision")]
        budget = [model, recipe.get("epochs"), recipe.get("batch_size"), compute]
        if compute.get("match") not in ("total_flops", "step_flops"):
            budget += [description.get(name) for name in ("router", "experts", "transform")]
        router = description["router"]["name"]
        return cls(router, to_json(model), to_json(budget), compute.get("seconds"))


@dataclass(frozen=True)
class Work:
    """The work left to do on a trial or a bare layer.

    Attributes:
        name: a name that is unique among all work items.
        suites: the suites that have yet to measure it.
        layer: whether it is a bare layer, which is not trained.
        flops: FLOPs of the whole training, if they were counted.
        trained: share of its training that is done; 1 if it needs none.
        training: seconds that this share of the training took.
        measuring: seconds for which the first of the suites has been measuring.
        after: the name of a work item that must end first, if one of this name exists.
    """

    name: str
    kind: Kind
    suites: tuple[str, ...] = ()
    layer: bool = False
    flops: float | None = None
    trained: float = 0.0
    training: float = 0.0
    measuring: float = 0.0
    after: str | None = None

    @property
    def projected(self) -> float | None:
        """The seconds of its whole training at its own pace; None while that is too uncertain."""
        trusted = TRUSTED <= self.trained < 1 and self.training > 0
        return self.training / self.trained if trusted else None


Place = tuple[str, ...]
"""What similar work has in common: a router and a model, a router, or nothing."""


class Seen:
    """The seconds of earlier trainings and measurements, by their kind."""

    def __init__(self) -> None:
        self.trainings: dict[tuple[str, Place], list[float]] = defaultdict(list)
        self.per_flop: dict[Place, list[float]] = defaultdict(list)
        self.measurements: dict[tuple[str, bool, Place], list[float]] = defaultdict(list)

    def add_training(self, kind: Kind, seconds: float, flops: float | None = None) -> None:
        """Add a whole training."""
        for place in _places(kind):
            self.trainings[kind.budget, place].append(seconds)
            if flops:
                self.per_flop[place].append(seconds / flops)

    def add_measurement(
        self, kind: Kind, suite: str, layer: bool, seconds: float, skipped: bool = False
    ) -> None:
        """Add a measurement; a skipped one tells nothing about other models and data."""
        for place in _places(kind)[: 1 if skipped else None]:
            self.measurements[suite, layer, place].append(seconds)


def read_seen(store: Store, machine: Machine, since: datetime | None = None) -> tuple[Seen, Seen]:
    """Return what a machine, under any settings, trained and measured since a time and before it.

    Args:
        since: the time; None to count everything as before.
    """
    later, earlier = Seen(), Seen()
    alike = select(MachineRow.id).filter_by(**{name: getattr(machine, name) for name in HARDWARE})
    tried, made = AttemptRow, MeasurementRow
    columns: list[Any] = [tried.finished_at, tried.trial_id, tried.seconds, tried.flops]
    trainings = select(*columns).where(
        tried.machine_id.in_(alike), tried.status == AttemptStatus.DONE, tried.seconds.is_not(None)
    )
    columns = [made.measured_at, tried.trial_id, made.layer_id, made.suite, made.status]
    columns.append(made.seconds)
    measurements = select(*columns).select_from(made).outerjoin(tried)
    measurements = measurements.where(made.machine_id.in_(alike), made.seconds.is_not(None))

    def seen_at(ended: datetime) -> Seen:
        return earlier if since is None or ended < since else later

    @cache
    def kind_of(trial: int | None, layer: int | None = None) -> Kind:
        return Kind.of(layers[layer] if trial is None else trials[trial])

    with store.reading() as session:
        trials, layers = (
            {row.id: row.description for row in session.execute(select(kind.id, kind.description))}
            for kind in (TrialRow, LayerRow)
        )
        for ended, trial, seconds, flops in session.execute(trainings).all():
            seen_at(ended).add_training(kind_of(trial), seconds, flops)
        for ended, trial, layer, suite, status, seconds in session.execute(measurements).all():
            kind, skipped = kind_of(trial, layer), status == MeasurementStatus.SKIPPED
            seen_at(ended).add_measurement(kind, suite, trial is None, seconds, skipped)
    return later, earlier


def _places(kind: Kind) -> tuple[Place, ...]:
    """Return the groups of work to learn from, the most similar first."""
    return (kind.router, kind.model), (kind.router,), ()


class Pace:
    """Forecasts of the seconds that single work items take, from earlier ones.

    Args:
        own, earlier: what the current run has done, and what was done before it.
        running: work under way, whose trainings predict how long others of their kind take.
    """

    def __init__(self, own: Seen, earlier: Seen, running: Iterable[Work] = ()) -> None:
        promised = Seen()
        for work in running:
            if work.projected is not None:
                promised.add_training(work.kind, work.projected)
        self._tiers = (own, promised, earlier)
        self._known: dict[Work, tuple[float | None, float]] = {}

    def training(self, work: Work) -> float | None:
        """Forecast the seconds of a whole training; None if nothing is known."""
        return work.projected or work.kind.granted or self._like(work) or self._of_this_run()

    def measuring(self, work: Work, suite: str) -> float | None:
        """Forecast the seconds of a suite's measurement; None if it has never measured here."""
        for place in _places(work.kind):
            for seen in self._tiers:
                if (seconds := seen.measurements.get((suite, work.layer, place))) is not None:
                    return median(seconds)
        return None

    def left(self, work: Work) -> float | None:
        """Forecast the seconds until a work item is done; None if its training's are unknown."""
        training, measuring = self.parts(work)
        return None if training is None else training + measuring

    def parts(self, work: Work) -> tuple[float | None, float]:
        """Forecast the remaining seconds of training and of measuring.

        A suite that has never measured here is assumed to cost nothing.
        """
        same = replace(work, name="", after=None)
        if same not in self._known:
            suites = sum(self.measuring(work, suite) or 0.0 for suite in work.suites)
            whole = 0.0 if work.layer or work.trained == 1 else self.training(work)
            training = None if whole is None else (1 - work.trained) * whole
            self._known[same] = training, max(suites - work.measuring, 0.0)
        return self._known[same]

    def _like(self, work: Work) -> float | None:
        """Forecast from similar trainings: by their seconds if FLOPs are equal, else by rate."""
        for place in _places(work.kind):
            for seen in self._tiers:
                if (whole := seen.trainings.get((work.kind.budget, place))) is not None:
                    return median(whole)
                if work.flops and place in seen.per_flop:
                    return work.flops * median(seen.per_flop[place])
        return None

    def _of_this_run(self) -> float | None:
        """Forecast from the run's other trainings, if the FLOPs are not known."""
        for seen in self._tiers[:-1]:
            by_budget = [seconds for (_, place), seconds in seen.trainings.items() if not place]
            if by_budget:
                return median(chain.from_iterable(by_budget))
        return None


@dataclass(frozen=True)
class Forecast:
    """The seconds until a plan, or the rest of a run, is done; bare layers are timed last."""

    training: float
    measuring: float
    timings: float

    @property
    def whole(self) -> float:
        """The seconds until everything is done."""
        return self.training + self.measuring + self.timings


def forecast(works: Sequence[Work], pace: Pace, workers: int, devices: int = 1) -> Forecast | None:
    """Forecast works spread over workers; None if the duration of any training is unknown.

    Args:
        works: the work under way first, then the rest in order.
        workers: at least one, and one for each trial under way.
        devices: each takes one bare layer at a time.
    """
    trials = [work for work in works if not work.layer]
    loads, training = [], 0.0
    for work in trials:
        own, measuring = pace.parts(work)
        if own is None:
            return None
        training += own
        loads.append(Load(work.name, own + measuring, work.after))
    layers = [Load(work.name, pace.parts(work)[1]) for work in works if work.layer]
    whole = makespan(loads, workers)
    share = training / (sum(load.seconds for load in loads) or 1.0)
    return Forecast(share * whole, (1 - share) * whole, makespan(layers, devices))


class Load(NamedTuple):
    """A job to schedule, with a unique name; `after` names a job that must end first."""

    name: str
    seconds: float
    after: str | None = None


def makespan(loads: Sequence[Load], workers: int) -> float:
    """Compute the seconds until the last job has ended (list scheduling).

    A free worker takes the first job that waits for no other. There is at least one worker, and
    each job is listed after the one that it waits for.
    """
    waiting, ends = list(loads), {load.name: inf for load in loads}
    free = [0.0] * workers
    while waiting:
        now = min(free)
        free.remove(now)
        load = next((each for each in waiting if ends.get(each.after or "", 0.0) <= now), None)
        if load is None:  # wait until the next running job ends
            free.append(min(end for end in ends.values() if end > now))
            continue
        waiting.remove(load)
        ends[load.name] = now + load.seconds
        free.append(ends[load.name])
    return max(free)
