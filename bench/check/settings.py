"""The options that a component is checked with: its defaults, and each moved from its default."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from typing import Any

from routers import AFFINITIES, Choice, Entry, Range, RequestError
from routers.hyper import HyperInfo, hyper_infos

CROWDED = {"top_k": 2, "capacity_factor": 0.7}
ALTERNATIVES: dict[str, Callable[[], list[Any]]] = {
    "affinity": AFFINITIES.names,
    "top_k": lambda: [2],
    "capacity_factor": lambda: [0.7, None],
    "eval_capacity_factor": lambda: [0.7],
    "noise_std": lambda: [1.0],
}


def other_settings(entry: Entry) -> Iterator[dict[str, Any]]:
    """Options that differ from the defaults, one at a time; in a crowd also with full experts."""
    model = entry.hyper_model
    infos = {info.name: info for info in hyper_infos(model)}
    # Second choices meet full experts only where both are set.
    crowded = {name: CROWDED[name] for name in CROWDED if name in infos}
    if crowded:
        yield crowded
    for name, info in infos.items():
        for value in _alternatives(info, model.model_fields[name].annotation):
            yield {name: value}
            if isinstance(value, bool) and crowded:
                yield crowded | {name: value}


def in_words(options: dict[str, Any]) -> str:
    """The options as a label."""
    return ", ".join(f"{name}={value}" for name, value in options.items()) or "defaults"


def is_accepted(build: Callable[[], object]) -> bool:
    """Whether a setting is taken, tried by building it; a crash is for the checks to report."""
    try:
        build()
    except RequestError:
        return False
    except Exception:
        return True
    return True


def _alternatives(info: HyperInfo, annotation: Any) -> list[Any]:
    """Values that a hyper-parameter might have instead of its default."""
    if info.name in ALTERNATIVES:
        return [value for value in ALTERNATIVES[info.name]() if value != info.default]
    if isinstance(info.default, bool):
        return [not info.default]
    if isinstance(info.tune, Range):
        return [info.tune.low, info.tune.high]
    options = info.tune.options if isinstance(info.tune, Choice) else typing.get_args(annotation)
    if isinstance(info.tune, Choice) or typing.get_origin(annotation) is typing.Literal:
        return [value for value in options if value != info.default]
    return []
