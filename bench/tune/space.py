"""The search space of one router: ranges that all routers share, and those that it declares."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel

from bench.config import (
    Preset,
    SearchOptions,
    SearchRange,
    TrainConfig,
    check_path,
    override,
    presets_of,
)
from bench.data import Datasets
from bench.model import EXPERTS
from bench.plan import (
    PREFIX,
    Fingerprints,
    Planned,
    Request,
    affinity_of,
    affinity_options_in,
    conditions,
    make_plan,
    refuse_unknown,
    refuse_unknown_options,
    selected_routers,
    trial_specs,
)
from routers import AFFINITIES, Choice, Entry, Range
from routers.errors import RequestError

Space = Mapping[str, BaseDistribution]
"""The distribution of each setting that is searched, by path."""
OPEN = ("router.", "experts.options.", "train.")
FIXED = ("train.epochs", "train.evaluations", "train.snapshots")
"""Parts of the recipe that are not searched: the budget, and when the model is evaluated."""


SEED = 1_000_000
"""The difference between the seeds of a setting's trainings. No other trainings have such seeds:
those of a study count from 0."""


@dataclass(frozen=True)
class Contender:
    """A router to tune, and what its trials have in common.

    Attributes:
        preset: the preset of the tuning, with this router alone.
        space: the distribution of each setting that is searched.
        seed: the seed of the tuning.
    """

    router: str
    preset: Preset
    space: Space
    seed: int

    def training_seed(self, repeat: int) -> int:
        """Return the seed of a setting's first training (`repeat` 0), second training (1), …"""
        return SEED * (1 + repeat) + self.seed

    def planned(
        self,
        settings: Mapping[str, Any],
        datasets: Datasets,
        fingerprints: Fingerprints,
        repeat: int = 0,
    ) -> Planned:
        """Plan a training with these settings; no suite measures it, and it keeps no snapshots.

        Raises:
            BenchError: the settings are invalid, or the data is missing.
        """
        preset = override(self.preset, settings, f"tuning {self.router}")
        (planned,) = make_plan(Request("", preset, {}), datasets).trials
        train = planned.spec.train.model_copy(update={"snapshots": 0})
        spec = planned.spec.model_copy(update={"train": train}).with_seed(
            self.training_seed(repeat)
        )
        fingerprint = fingerprints.trial(spec, datasets.hash_of)
        return Planned(self.router, spec, fingerprint, ())


def contenders(preset: Preset, seed: int, fixed: Collection[str] = ()) -> list[Contender]:
    """Return a contender for each router of a preset.

    Args:
        fixed: paths that are not searched.

    Raises:
        RequestError: a router cannot be tuned; a range names no setting, or one that all routers
            share, or has values that the setting does not accept; or nothing is left to tune.
    """
    preset = preset.model_copy(update={"tuned": {}, "twins": False})
    _refuse_closed(preset)
    asked = []
    for router in selected_routers(preset):
        single = _preset_of(preset, router)
        space = _space_of(preset, single, router, fixed)
        asked.append(Contender(router.name, single, space, seed))
    for contender in asked:  # the ends of each range, so that every draw is a valid setting
        for path, where in contender.space.items():
            categorical = isinstance(where, CategoricalDistribution)
            ends = where.choices if categorical else (where.low, where.high)  # type: ignore[attr-defined]
            for value in ends:
                try:
                    trial_specs(override(contender.preset, {path: value}, "tune.ranges"))
                except RequestError as error:
                    raise RequestError(f"tuning {contender.router}: {error}") from None
    return asked


def _preset_of(preset: Preset, router: Entry) -> Preset:
    """Return the preset with this router alone, at the first value of each sweep."""
    whole = conditions(preset)[0]
    named = [
        (part, single)
        for part, (single, *_) in zip(whole.parts or (None,), presets_of(whole), strict=True)
        if router in selected_routers(single)
    ]
    if len(named) > 1:
        raise RequestError(
            f"router {router.name!r} is in {len(named)} parts of preset {preset.name!r}, each with "
            "its own settings; it cannot be tuned for all of them at once"
        )
    part, single = named[0]
    if part is not None and part.parent is not None:
        raise RequestError(
            f"router {router.name!r} starts from {part.parent.router!r} in preset "
            f"{preset.name!r}; a derived router cannot be tuned"
        )
    return single.model_copy(update={"routers": (router.name,), "seeds": 1, "suites": {}})


def _space_of(preset: Preset, single: Preset, router: Entry, fixed: Collection[str]) -> Space:
    """Return the search space of a router: the settings that the whole preset leaves open.

    Swept settings distinguish conditions and hyper-parameters that the preset gives are fixed, so
    neither are searched.

    Args:
        single: the preset with this router alone.
        fixed: other paths that are not searched.
    """
    closed = {*fixed, *preset.sweep, *(path for part in preset.parts for path in part.sweep)}
    hyper = {f"router.{info.name}": info for info in router.hyper}
    if (affinity := affinity_of(single, router)) is not None:
        hyper |= {f"{PREFIX}{info.name}": info for info in affinity.hyper}
    chosen = {f"router.{name}" for name in single.router}
    chosen |= {f"{PREFIX}{name}" for name in affinity_options_in(single.router)}
    ranges: dict[str, SearchRange | SearchOptions | Range | Choice] = {
        path: info.tune
        for path, info in hyper.items()
        if info.tune is not None and path not in chosen
    }
    for path, shared in preset.tune.ranges.items():
        root = path if path.startswith(PREFIX) else ".".join(path.split(".")[:2])
        if not path.startswith("router.") or root in hyper:
            ranges[path] = shared
    space = {
        path: _distribution(path, where, single, router)
        for path, where in ranges.items()
        if path not in closed
    }
    if not space:
        raise RequestError(f"nothing is left to tune for router {router.name!r}")
    return space


def _refuse_closed(preset: Preset) -> None:
    """Refuse ranges of settings that no router has, or that change the task or its budget."""
    paths = list(preset.tune.ranges)
    for path in paths:
        check_path(path)
        if not path.startswith(OPEN) or path in FIXED:
            raise RequestError(
                f"tune.ranges: {path} is the same for every router, since it sets the task, its "
                "budget or how it is monitored; router.…, experts.options.… and train.… can be "
                f"searched, except {', '.join(FIXED)}"
            )
    of_affinities = [path for path in paths if path.startswith(PREFIX)]
    of_routers = {path for path in paths if path.startswith("router.")} - {*of_affinities}
    refuse_unknown([path.split(".")[1] for path in sorted(of_routers)], selected_routers(preset))
    # Ranges of affinities hold for whichever of the preset's routers are chosen.
    options = [path.removeprefix(PREFIX) for path in of_affinities]
    refuse_unknown_options(options, AFFINITIES.entries())


def _distribution(
    path: str, where: SearchRange | SearchOptions | Range | Choice, preset: Preset, router: Entry
) -> BaseDistribution:
    """Return a range as an Optuna distribution, of whole numbers if the setting is an integer."""
    if isinstance(where, SearchOptions | Choice):
        return CategoricalDistribution(where.options)
    low, high = where.low, where.high
    if low > high or (where.log and low <= 0):  # declared by a router: a preset's is checked
        raise RequestError(f"{path} declares no valid range: {where}")
    affinity = affinity_of(preset, router)
    models: dict[str, type[BaseModel]] = {
        PREFIX: router.hyper_model if affinity is None else affinity.hyper_model,
        "router.": router.hyper_model,
        "experts.options.": EXPERTS.get(preset.experts.name).hyper_model,
        "train.": TrainConfig,
    }
    section = next(name for name in models if path.startswith(name))
    field = models[section].model_fields.get(path.removeprefix(section))
    if field is None or field.annotation not in (int, int | None):
        return FloatDistribution(low, high, log=where.log)
    if low != int(low) or high != int(high):
        raise RequestError(f"{path} is a whole number, but its range is {low:g} to {high:g}")
    return IntDistribution(int(low), int(high), log=where.log)
