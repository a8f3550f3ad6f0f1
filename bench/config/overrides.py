"""`--set path=value` and `--sweep path=a,b`: changes to a preset, by path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from bench.config.presets import (
    Preset,
    PresetPart,
    nearest_path,
    parse,
    setting_paths,
    validated_preset,
)
from routers import ROUTERS
from routers.errors import RequestError, nearest

SECTIONS = ("router", "experts", "model", "data", "train", "compute", "suites")
OPEN = (
    "router",
    "experts.options",
    "model.options",
    "train.losses",
    "train.loss_options",
    "suites",
)
"""Mappings whose keys are checked later, against what the routers, experts, … declare."""


def parse_set(text: str) -> tuple[str, Any]:
    """Parse `train.lr=1e-3` -> ("train.lr", 0.001); the value is read as YAML.

    Raises:
        RequestError: there is no `=`, or the value is not YAML.
    """
    path, value = _split(text, "--set")
    return path, parse(value, f"--set {text}: the value")


def parse_sweep(text: str) -> tuple[str, tuple[Any, ...]]:
    """Parse `router.top_k=1,2` -> ("router.top_k", (1, 2)); each value is read as YAML.

    Raises:
        RequestError: there is no `=` or no value, or a value is not YAML.
    """
    path, values = _split(text, "--sweep")
    parsed = parse(f"[{values}]", f"--sweep {text}: the list of values")
    if not parsed:
        raise RequestError(f"--sweep {text} names no value")
    return path, tuple(parsed)


def settings_of(texts: Iterable[str], data_dir: str | None = None) -> dict[str, Any]:
    """Collect the settings of `--set`, value by path.

    Args:
        data_dir: what `--data-dir` says, which is a setting too.

    Raises:
        RequestError: as `parse_set`; or two values for one setting.
    """
    pairs = [parse_set(text) for text in texts]
    if data_dir is not None:
        pairs.append(("data.data_dir", data_dir))
    return _each_once(pairs, "--set")


def sweep_of(texts: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """Collect the values of `--sweep`, by path.

    Raises:
        RequestError: as `parse_sweep`; or a setting is swept twice, or has a value twice.
    """
    swept = _each_once([parse_sweep(text) for text in texts], "--sweep")
    for path, values in swept.items():
        for value in values:
            if values.count(value) > 1:
                raise RequestError(f"--sweep {path} names the value {value!r} twice")
    return swept


def refuse_both(settings: Iterable[str], swept: Iterable[str]) -> None:
    """Refuse a setting that is fixed and swept.

    Raises:
        RequestError: naming it.
    """
    paths = list(settings)
    for path in swept:
        for own in paths:
            if f"{own}.".startswith(f"{path}."):
                raise RequestError(
                    f"--sweep {path} and --set {own} contradict each other; give one of them"
                )


def _each_once(pairs: Iterable[tuple[str, Any]], option: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for path, value in pairs:
        if path in values and values[path] != value:
            raise RequestError(
                f"{option} gives {path} twice: {values[path]!r} and {value!r}; give one of them"
            )
        values[path] = value
    return values


def override(preset: Preset, values: Mapping[str, Any], where: str = "--set") -> Preset:
    """Return the preset with the settings at these paths replaced.

    Args:
        where: names the values in the message.

    Raises:
        RequestError: no such setting (the nearest is named), or a value that does not fit.
    """
    fields = preset.model_dump()
    for path, value in values.items():
        check_path(path, preset.every_router())
        *parents, last = path.split(".")
        place = fields
        for name in parents:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise RequestError(f"{path!r}: {name!r} is a value, not a mapping of settings")
        place[last] = value
    return validated_preset(fields, where)


def check_path(path: str, routers: str | Iterable[str] = "all") -> None:
    """Refuse a path that leads to no setting.

    Args:
        routers: those whose hyper-parameters are named as the nearest.

    Raises:
        RequestError: naming the nearest path.
    """
    known = [name for name in setting_paths(Preset) if name.partition(".")[0] in SECTIONS]
    if path in known or any(path.startswith(f"{name}.") for name in OPEN):
        return
    chosen = ROUTERS.names() if routers == "all" else list(routers)
    models = [ROUTERS.get(name).hyper_model for name in chosen]
    hyper = {f"router.{field}" for model in models for field in model.model_fields}
    options = sorted(hyper) + [name for name in known if name not in ("router", "suites")]
    raise RequestError(f"there is no setting {path!r}{nearest_path(path, options)}")


def _split(text: str, option: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise RequestError(f"{option} {text}: write it as path=value, as in train.lr=1e-3")
    if not value.strip():
        raise RequestError(f"{option} {text} gives no value; null is the value of none")
    return path.strip(), value


def presets_of(preset: Preset) -> Iterator[list[Preset]]:
    """Return each part as a preset of its own, in order; one that sweeps as several of them.

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
    """Return the preset with a command's settings, which win over those of a part.

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
    """Return the preset with these routers alone, and those that they are derived from.

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
    """Return the names, and those of the routers that their trials are derived from."""
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
    """Tell whether one of the others is this path, inside it or around it."""
    return any(f"{path}.".startswith(f"{o}.") or f"{o}.".startswith(f"{path}.") for o in others)
