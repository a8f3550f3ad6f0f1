"""The parts of a preset: slices of a study with settings, routers and parents of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from bench.overrides import override
from bench.presets import Preset, PresetPart
from routers import ROUTERS
from routers.errors import RequestError, nearest


def presets_of(preset: Preset) -> Iterator[list[Preset]]:
    """Each part as a preset of its own, in order; one that sweeps as several of them.

    Raises:
        RequestError: a part's path leads to no setting, or its value does not fit.
    """
    if not preset.parts:
        yield [preset]
    whole = preset.model_copy(update={"parts": ()})
    for number, part in enumerate(preset.parts):
        routers = whole.routers if part.routers is None else part.routers
        own = whole.model_copy(update={"routers": routers})
        yield [
            override(
                own, part.set | dict(zip(part.sweep, values, strict=True)), f"parts.{number}.set"
            )
            for values in product(*part.sweep.values())
        ]


def with_settings(preset: Preset, settings: Mapping[str, Any], sweep: Iterable[str]) -> Preset:
    """The preset with a command's settings, which win over those of a part.

    Args:
        settings: value by path.
        sweep: paths that the command sweeps over; what a part says of them is dropped.

    Raises:
        RequestError: see `override`.
    """
    swept = list(sweep)
    said = [*swept, *settings]
    parts = tuple(
        part.model_copy(
            update={
                "set": {path: value for path, value in part.set.items() if not _meets(path, swept)}
                | dict(settings),
                "sweep": {p: values for p, values in part.sweep.items() if not _meets(p, said)},
            }
        )
        for part in preset.parts
    )
    own_sweep = {
        path: values
        for path, values in preset.sweep.items()
        if path in swept or not _meets(path, settings)
    }
    changed = {"parts": parts, "sweep": own_sweep}
    return override(preset.model_copy(update=changed), settings)


def with_routers(preset: Preset, chosen: Sequence[str]) -> Preset:
    """The preset with these routers alone, and those that they are derived from.

    Each part keeps those that it names; a part that names none takes those of the preset, and
    those that are new to it.

    Raises:
        RequestError: every part names its routers, and none of them names this one.
    """
    if list(chosen) == ["all"]:
        return preset.model_copy(update={"routers": "all"})
    if not preset.parts:
        return preset.model_copy(update={"routers": tuple(chosen)})
    named = {name for part in preset.parts for name in part.routers or ()}
    for name in chosen:
        if name not in named and all(part.routers is not None for part in preset.parts):
            hint = nearest(name, named)
            raise RequestError(f"no part of preset {preset.name!r} has router {name!r}{hint}")
    wanted = _with_parents(preset.parts, chosen)
    shared = ROUTERS.names() if preset.routers == "all" else preset.routers
    own = tuple(name for name in wanted if name in shared or name not in named)
    parts = []
    for part in preset.parts:
        left = own if part.routers is None else tuple(n for n in part.routers if n in wanted)
        if left:
            parts.append(part.model_copy(update={"routers": left}))
    return preset.model_copy(update={"routers": own, "parts": tuple(parts)})


def _with_parents(parts: Sequence[PresetPart], names: Sequence[str]) -> list[str]:
    """The names, and those of the routers that their trials are derived from."""
    wanted = list(names)
    for name in wanted:  # grows
        wanted += [
            part.parent.router
            for part in parts
            if part.parent and part.parent.router not in wanted
            if part.routers is None or name in part.routers
        ]
    return wanted


def _meets(path: str, others: Iterable[str]) -> bool:
    """Whether one of the others is this path, inside it or around it."""
    return any(f"{path}.".startswith(f"{o}.") or f"{o}.".startswith(f"{path}.") for o in others)
