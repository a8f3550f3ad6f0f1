"""Where one router's trials search: ranges that all share, and those that it declares itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel

from bench.config import TrainConfig
from bench.model import EXPERTS
from bench.overrides import check_path
from bench.parts import presets_of
from bench.presets import Preset
from bench.specs import conditions, refuse_unknown, selected_routers
from bench.tune.config import SearchOptions, SearchRange
from routers import Choice, Entry, Range
from routers.errors import RequestError
from routers.hyper import hyper_infos

Space = Mapping[str, BaseDistribution]
"""Where each path is searched."""
OPEN = ("router.", "experts.options.", "train.")
GIVEN = ("train.epochs", "train.evaluations", "train.snapshots")
"""Of the recipe, but no part of how well a router trains: the budget, and when it is looked at."""


def preset_of(preset: Preset, router: Entry) -> Preset:
    """The preset with this router alone, at the first value of each sweep.

    Raises:
        RequestError: the router stands in several parts, or is derived from another's training.
    """
    whole = conditions(preset)[0]
    named = [
        (part, single)
        for part, (single, *_) in zip(whole.parts or (None,), presets_of(whole), strict=True)
        if router in selected_routers(single)
    ]
    if len(named) > 1:
        raise RequestError(
            f"router {router.name!r} stands in {len(named)} parts of preset {preset.name!r}, each "
            "with settings of its own; it cannot be tuned for all at once"
        )
    part, single = named[0]
    if part is not None and part.parent is not None:
        raise RequestError(
            f"router {router.name!r} starts from {part.parent.router!r} in preset "
            f"{preset.name!r}; what is derived cannot be tuned"
        )
    return single.model_copy(update={"routers": (router.name,), "seeds": 1, "suites": {}})


def space_of(preset: Preset, router: Entry, fixed: Collection[str] = ()) -> Space:
    """Where a router is searched: by what the whole preset leaves open.

    What is swept sets conditions apart, and a hyper-parameter that the preset gives is given.

    Args:
        fixed: other paths that are not searched.

    Raises:
        RequestError: a range of the preset's that leads to no setting, or to one that all routers
            have in common, or holds no value of it; or nothing is left to tune.
    """
    single = preset_of(preset, router)
    closed = {*fixed, *preset.sweep, *(path for part in preset.parts for path in part.sweep)}
    _refuse_closed(preset)
    shared = {
        path: _distribution(path, asked, whole=_is_whole(path, single, router))
        for path, asked in preset.tune.ranges.items()
        if not path.startswith("router.") or path.split(".")[1] in router.hyper_model.model_fields
    }
    own = {
        path: _distribution(path, info.tune, whole=_is_whole(path, single, router))
        for info in hyper_infos(router.hyper_model)
        if info.tune is not None and info.name not in single.router
        for path in [f"router.{info.name}"]
    }
    space = {path: where for path, where in {**own, **shared}.items() if path not in closed}
    if not space:
        raise RequestError(f"nothing is left to tune of router {router.name!r}")
    return space


def _refuse_closed(preset: Preset) -> None:
    """Refuse ranges of what no router has, or of what makes another task or budget of it."""
    paths = list(preset.tune.ranges)
    for path in paths:
        check_path(path)
        if not path.startswith(OPEN) or path in GIVEN:
            raise RequestError(
                f"tune.ranges: {path} is the same for every router, since it sets the task, its "
                "budget or how it is watched; what can be searched is router.…, "
                f"experts.options.… and train.… but {', '.join(GIVEN)}"
            )
    hyper = [path.split(".")[1] for path in paths if path.startswith("router.")]
    refuse_unknown(hyper, selected_routers(preset))


def _distribution(
    path: str, where: SearchRange | SearchOptions | Range | Choice, *, whole: bool
) -> BaseDistribution:
    if isinstance(where, SearchOptions | Choice):
        return CategoricalDistribution(where.options)
    low, high = where.low, where.high
    if low > high or (where.log and low <= 0):  # that a router declares: a preset's is checked
        raise RequestError(f"{path} declares no range: {where}")
    if not whole:
        return FloatDistribution(low, high, log=where.log)
    if low != int(low) or high != int(high):
        raise RequestError(f"{path} is a whole number, and its range is {low:g} to {high:g}")
    return IntDistribution(int(low), int(high), log=where.log)


def _is_whole(path: str, preset: Preset, router: Entry) -> bool:
    """Whether a setting is declared to be a whole number, whatever the preset says of it."""
    models: dict[str, type[BaseModel]] = {
        "router.": router.hyper_model,
        "experts.options.": EXPERTS.get(preset.experts.name).hyper_model,
        "train.": TrainConfig,
    }
    section = next(name for name in models if path.startswith(name))
    field = models[section].model_fields.get(path.removeprefix(section))
    return field is not None and field.annotation in (int, int | None)
