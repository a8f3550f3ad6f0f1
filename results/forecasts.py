"""When a plan or a run ends, from what trainings and measurements have taken on this machine.

A training takes its FLOPs divided by the FLOP rate of earlier trainings, and a measurement what
earlier measurements by its suite took: always the median of those that are most alike, by router
and model, else by router, else of all. The first trials of a run count before those of earlier
runs. Nothing is trained or measured to make a forecast.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import inf
from statistics import median
from typing import Any, NamedTuple

from results import Machine, Store
from results.store.durations import Duration, durations
from results.text import to_json

TRUSTED = 0.05
"""Share of a training from which its own pace says more than what others took."""


@dataclass(frozen=True)
class Kind:
    """The properties that decide how fast a trial or layer runs.

    Attributes:
        router: its name.
        model: the model and its data, as JSON.
        budget: what fixes the FLOPs of a training, as JSON: trainings of one budget take the same.
        granted: the seconds of a training where it is these that are matched.
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
        spent = [model, recipe.get("epochs"), recipe.get("batch_size"), compute]
        if compute.get("match") not in ("total_flops", "step_flops"):
            own = ("router", "experts", "transform")
            spent += [description.get(name) for name in own]
        router = description["router"]["name"]
        return cls(router, to_json(model), to_json(spent), compute.get("seconds"))


@dataclass(frozen=True)
class Work:
    """The work left to do on a trial or a bare layer.

    Attributes:
        name: unique among the works.
        suites: those that are still to measure it.
        layer: whether it is a bare layer, which is not trained.
        flops: of its whole training, where they were counted.
        trained: share of its training that is done; 1 where it needs none.
        training: seconds that this share took.
        measuring: seconds for which the first of the suites has been measuring.
        after: the name of a work that must have ended; of no matter where there is none.
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
        """The seconds of its whole training at its own pace; None while that says little."""
        trusted = TRUSTED <= self.trained < 1 and self.training > 0
        return self.training / self.trained if trusted else None


Place = tuple[str, ...]
"""A router and a model, a router, or nothing: what is alike."""


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
        """Add a measurement by a suite, of a trial or a bare layer.

        Args:
            skipped: whether the suite did not apply, which tells nothing of other models and data.
        """
        for place in _places(kind)[: 1 if skipped else None]:
            self.measurements[suite, layer, place].append(seconds)

    @classmethod
    def of(cls, all_: Iterable[Duration]) -> Seen:
        """Collect the durations that the database has."""
        seen = cls()
        for each in all_:
            kind = Kind.of(each.description)
            if each.suite is None:
                seen.add_training(kind, each.seconds, each.flops)
            else:
                seen.add_measurement(kind, each.suite, each.layer, each.seconds, each.skipped)
        return seen


def seen_on(store: Store, machine: Machine) -> Seen:
    """Return all that a machine has trained and measured."""
    return Seen.of(durations(store, machine))


def _places(kind: Kind) -> tuple[Place, ...]:
    """List the kinds of works to learn from, the most alike first."""
    return (kind.router, kind.model), (kind.router,), ()


class Pace:
    """Forecasts of the seconds of single works, from earlier ones.

    Args:
        own: what the run that goes on has done.
        earlier: what was done before it.
        running: works under way, whose trainings promise what others of their kind take.
    """

    def __init__(self, own: Seen, earlier: Seen, running: Iterable[Work] = ()) -> None:
        promised = Seen()
        for work in running:
            if work.projected is not None:
                promised.add_training(work.kind, work.projected)
        self._tiers = (own, promised, earlier)
        self._known: dict[Work, tuple[float | None, float]] = {}

    def training(self, work: Work) -> float | None:
        """Forecast the seconds of a whole training; None where nothing is known."""
        return work.projected or work.kind.granted or self._like(work) or self._of_this_run()

    def measuring(self, work: Work, suite: str) -> float | None:
        """Forecast the seconds of a suite's measurement; None where it has never measured here."""
        for place in _places(work.kind):
            for seen in self._tiers:
                if (seconds := seen.measurements.get((suite, work.layer, place))) is not None:
                    return median(seconds)
        return None

    def left(self, work: Work) -> float | None:
        """Forecast the seconds until a work is done; None where its training's are not known."""
        training, measuring = self.parts(work)
        return None if training is None else training + measuring

    def parts(self, work: Work) -> tuple[float | None, float]:
        """Forecast the seconds of training that are left, and of measuring.

        A suite that has never measured here is taken to cost nothing.
        """
        same = replace(work, name="", after=None)
        if same not in self._known:
            suites = sum(self.measuring(work, suite) or 0.0 for suite in work.suites)
            whole = 0.0 if work.layer or work.trained == 1 else self.training(work)
            training = None if whole is None else (1 - work.trained) * whole
            self._known[same] = training, max(suites - work.measuring, 0.0)
        return self._known[same]

    def _like(self, work: Work) -> float | None:
        """Forecast from similar trainings: by their seconds if of the same FLOPs, else by rate."""
        for place in _places(work.kind):
            for seen in self._tiers:
                if (whole := seen.trainings.get((work.kind.budget, place))) is not None:
                    return median(whole)
                if work.flops and place in seen.per_flop:
                    return work.flops * median(seen.per_flop[place])
        return None

    def _of_this_run(self) -> float | None:
        """Forecast from the other trainings of the run, where FLOPs are not known."""
        for seen in self._tiers[:-1]:
            by_budget = [seconds for (_, place), seconds in seen.trainings.items() if not place]
            if by_budget:
                return median(chain.from_iterable(by_budget))
        return None


@dataclass(frozen=True)
class Forecast:
    """The seconds until a plan, or the rest of a run, is done.

    Attributes:
        training: in which trials are trained.
        measuring: in which trials are measured.
        timings: for bare layers, which come after the trials.
    """

    training: float
    measuring: float
    timings: float

    @property
    def whole(self) -> float:
        """The seconds until everything is done."""
        return self.training + self.measuring + self.timings


def forecast(works: Sequence[Work], pace: Pace, workers: int, devices: int = 1) -> Forecast | None:
    """Spread works over workers.

    Args:
        works: those under way first, then the others in their order.
        workers: at least one, and one for each trial under way.
        devices: each takes one bare layer at a time.

    Returns:
        None where nothing tells how long one of the trainings takes.
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
    """A job to schedule, with a unique name; `after` names a job that must end before it."""

    name: str
    seconds: float
    after: str | None = None


def makespan(loads: Sequence[Load], workers: int) -> float:
    """Compute the seconds until the last job has ended (list scheduling).

    A worker that is free takes the first job that waits for no other.

    Args:
        loads: in their order, each after the one that it waits for.
        workers: at least one.
    """
    waiting, ends = list(loads), {load.name: inf for load in loads}
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
