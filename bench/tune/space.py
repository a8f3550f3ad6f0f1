"""Where one router's trials search: ranges that all share, and those that it declares itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from bench.overrides import check_path
from bench.parts import presets_of
from bench.presets import Preset
from bench.specs import conditions, selected_routers
from bench.tune.config import SearchOptions, SearchRange
from routers import Choice, Entry, Range
from routers.errors import RequestError
from routers.hyper import hyper_infos

Space = Mapping[str, BaseDistribution]
"""Where each path is searched."""


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
        RequestError: a range of the preset's that leads to no setting, or nothing is left to tune.
    """
    single = preset_of(preset, router)
    closed = {*fixed, *preset.sweep, *(path for part in preset.parts for path in part.sweep)}
    shared = {path: _shared(path, asked, single) for path, asked in preset.tune.ranges.items()}
    own = {
        f"router.{info.name}": _own(info.tune, info.type)
        for info in hyper_infos(router.hyper_model)
        if info.tune is not None and info.name not in single.router
    }
    space = {path: where for path, where in {**own, **shared}.items() if path not in closed}
    if not space:
        raise RequestError(f"nothing is left to tune of router {router.name!r}")
    return space


def _shared(path: str, asked: SearchRange | SearchOptions, preset: Preset) -> BaseDistribution:
    check_path(path)
    if isinstance(asked, SearchOptions):
        return CategoricalDistribution(asked.options)
    return _numbers(asked.low, asked.high, asked.log, whole=_is_whole(_value(preset, path)))


def _own(declared: Range | Choice, type_name: str) -> BaseDistribution:
    if isinstance(declared, Choice):
        return CategoricalDistribution(declared.options)
    return _numbers(declared.low, declared.high, declared.log, whole=type_name == "int")


def _numbers(low: float, high: float, log: bool, *, whole: bool) -> BaseDistribution:
    if whole:
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)


def _value(preset: Preset, path: str) -> Any:
    """What the preset says there; None where it says nothing."""
    place: Any = preset.model_dump()
    for name in path.split("."):
        place = place.get(name) if isinstance(place, dict) else None
    return place


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
