"""Changes to a preset: `--set path=value`, `--sweep path=a,b` and `--cluster FILE`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pydantic

from bench.config.cluster import ClusterConfig
from bench.config.presets import Preset, nearest_path, parse, setting_paths, validated_preset
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
"""Mappings whose keys are checked later, against those that the routers, experts, … declare."""


def settings_of(texts: Iterable[str], data_dir: str | None = None) -> dict[str, Any]:
    """Parse `--set` options such as `train.lr=1e-3` into a mapping of path -> value (YAML).

    Args:
        data_dir: the value of `--data-dir`, which is a setting too.

    Raises:
        RequestError: an option lacks `=` or a value, the value is not YAML, or one setting is given
            two values.
    """
    pairs = []
    for text in texts:
        path, value = _split(text, "--set")
        pairs.append((path, parse(value, f"--set {text}: the value")))
    if data_dir is not None:
        pairs.append(("data.data_dir", data_dir))
    return _each_once(pairs, "--set")


def sweep_of(texts: Iterable[str], settings: Iterable[str] = ()) -> dict[str, tuple[Any, ...]]:
    """Parse `--sweep` options such as `router.top_k=1,2` into path -> values, each of them YAML.

    Args:
        settings: paths given by `--set`, which cannot be swept.

    Raises:
        RequestError: as in `settings_of`; or a path is swept twice, repeats a value, or is set.
    """
    pairs = []
    for text in texts:
        path, listed = _split(text, "--sweep")
        values = tuple(parse(f"[{listed}]", f"--sweep {text}: the list of values"))
        if not values:
            raise RequestError(f"--sweep {text} names no value")
        pairs.append((path, values))
    swept = _each_once(pairs, "--sweep")
    for path, values in swept.items():
        for value in values:
            if values.count(value) > 1:
                raise RequestError(f"--sweep {path} names the value {value!r} twice")
    for path, own in product(swept, settings):
        if f"{own}.".startswith(f"{path}."):
            raise RequestError(
                f"--sweep {path} and --set {own} contradict each other; give one of them"
            )
    return swept


def _split(text: str, option: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise RequestError(f"{option} {text}: write it as path=value, as in train.lr=1e-3")
    if not value.strip():
        raise RequestError(f"{option} {text} gives no value; for none, write null")
    return path.strip(), value


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
        where: names the source of the values in error messages.

    Raises:
        RequestError: there is no such setting (the nearest is named), or a value is invalid.
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
    """Raise an error if a path does not lead to a setting.

    Args:
        routers: the routers whose hyper-parameters may be suggested.

    Raises:
        RequestError: there is no such setting; the message names the nearest path.
    """
    known = [name for name in setting_paths(Preset) if name.partition(".")[0] in SECTIONS]
    if path in known or any(path.startswith(f"{name}.") for name in OPEN):
        return
    chosen = ROUTERS.names() if routers == "all" else list(routers)
    models = [ROUTERS.get(name).hyper_model for name in chosen]
    hyper = {f"router.{field}" for model in models for field in model.model_fields}
    options = sorted(hyper) + [name for name in known if name not in ("router", "suites")]
    raise RequestError(f"there is no setting {path!r}{nearest_path(path, options)}")


def presets_of(preset: Preset) -> Iterator[list[Preset]]:
    """Yield each part as a list of presets, in order: one, or one per combination of its sweep.

    Raises:
        RequestError: a part's path leads to no setting, or its value is invalid.
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
    """Return the preset with a command's settings, which take precedence over a part's own.

    Args:
        settings: the new value of each path.
        sweep: paths that the command sweeps over; a part's own values for them are dropped.

    Raises:
        RequestError: see `override`.
    """
    swept = list(sweep)

    def without(values: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
        """Return the values whose path neither equals, contains nor lies inside one of these."""
        closed = [f"{path}." for path in paths]
        return {
            path: value
            for path, value in values.items()
            if not any(f"{path}.".startswith(o) or o.startswith(f"{path}.") for o in closed)
        }

    parts = []
    for part in preset.parts:
        own = without(part.set, swept) | dict(settings)
        kept = without(part.sweep, [*swept, *settings])
        parts.append(part.model_copy(update={"set": own, "sweep": kept}))
    open_ = {*swept, *without(preset.sweep, settings)}
    own_sweep = {path: values for path, values in preset.sweep.items() if path in open_}
    changed = {"parts": tuple(parts), "sweep": own_sweep}
    return override(preset.model_copy(update=changed), settings)


def with_routers(preset: Preset, chosen: Sequence[str]) -> Preset:
    """Return the preset restricted to these routers and those that they are derived from.

    A part that names routers keeps those of them that were chosen; a part that names none takes
    the chosen ones that the preset has, and those that no part names.

    Raises:
        RequestError: every part names its routers, and none of them names a chosen one.
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
    wanted = list(chosen)
    for name in wanted:  # grows by the routers that these are derived from
        wanted += [
            part.parent.router
            for part in preset.parts
            if part.parent and part.parent.router not in wanted
            if part.routers is None or name in part.routers
        ]
    shared = ROUTERS.names() if preset.routers == "all" else preset.routers
    own = tuple(name for name in wanted if name in shared or name not in named)
    parts = []
    for part in preset.parts:
        left = own if part.routers is None else tuple(n for n in part.routers if n in wanted)
        if left:
            parts.append(part.model_copy(update={"routers": left}))
    return preset.model_copy(update={"routers": own, "parts": tuple(parts)})


def cluster_config(section: ClusterConfig, file: Path | None) -> ClusterConfig:
    """Return a preset's `cluster` section, overridden by the values of a file.

    Raises:
        RequestError: the file cannot be read, or has an unknown key or a wrong value.
    """
    if file is None:
        return section
    where = f"--cluster {file}"
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RequestError(f"{where}: cannot read it: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{where} is not valid YAML: {error}") from None
    fields = parse(text, where)
    if not isinstance(fields, dict):
        raise RequestError(f"{where} is not a mapping such as `partition: gpu`")
    try:
        return ClusterConfig.model_validate({**section.model_dump(), **fields})
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            hint = nearest(name, ClusterConfig.model_fields)
            raise RequestError(f"{where}: there is no setting {name!r}{hint}") from None
        why = first["ctx"]["error"] if first["type"] == "value_error" else first["msg"]
        raise RequestError(f"{where}: {name} = {first['input']!r}: {why}") from None
