"""Presets: YAML files that name a study's starting point, in `suites/presets` or a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic

from bench.config import ParentConfig, Preset, PresetPart
from bench.yamls import parse
from routers.errors import RequestError, nearest

FOLDER = Path(__file__).parent.parent / "suites" / "presets"


def preset_names() -> list[str]:
    """The presets that come with the bench."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load_preset(name: str) -> Preset:
    """The preset of this name, or of this YAML file.

    Raises:
        RequestError: there is none, or the file is not a preset.
    """
    if name.endswith((".yaml", ".yml")):
        file = Path(name)
    else:
        file = FOLDER / f"{name}.yaml"
        if name not in preset_names():
            raise RequestError(f"no preset is named {name!r}{nearest(name, preset_names())}")
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError(f"cannot read the preset {file}: {error.strerror}") from None
    fields = parse(text, f"the preset {file}")
    if not isinstance(fields, dict):
        raise RequestError(f"the preset {file} is not a mapping of fields")
    return validated_preset({"name": file.stem, **fields}, f"the preset {file}")


def validated_preset(fields: dict[str, Any], where: str) -> Preset:
    """A preset from plain data.

    Raises:
        RequestError: naming the first field that does not fit, by its full path.
    """
    try:
        return Preset.model_validate(fields)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        path = _path(first["loc"])
        if first["type"] == "extra_forbidden":
            hint = nearest_path(path, _paths_near(path))
            raise RequestError(f"{where}: there is no setting {path!r}{hint}") from None
        if first["type"] == "missing":
            raise RequestError(f"{where}: {path!r} is missing") from None
        raise RequestError(f"{where}: {path} = {first['input']!r}: {first['msg']}") from None


def setting_paths(model: type[pydantic.BaseModel], prefix: str = "") -> list[str]:
    """Every path to a field of a configuration, as `train.lr`."""
    paths = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, pydantic.BaseModel):
            paths += setting_paths(inner, f"{prefix}{name}.")
        else:
            paths.append(f"{prefix}{name}")
    return paths


def nearest_path(path: str, options: list[str]) -> str:
    """As `nearest`, for paths: the same last part counts most, `lr` is near to `train.lr`."""
    last = path.rpartition(".")[2]
    namesakes = [option for option in options if option.rpartition(".")[2] == last]
    if namesakes:
        return f"; did you mean {' or '.join(repr(name) for name in namesakes[:3])}?"
    section = path.partition(".")[0]
    inside = [option for option in options if option.partition(".")[0] == section]
    return nearest(path, inside or options)


def _path(location: tuple[int | str, ...]) -> str:
    """pydantic ends the location in a union with the member's type, which is no setting."""
    whole = ".".join(str(part) for part in location)
    known = _paths_near(whole)
    for length in range(1, len(location)):
        path = ".".join(str(part) for part in location[:length])
        if path in known:
            return path
    return whole


def _paths_near(path: str) -> list[str]:
    """Every path of a preset; or of the part, or of its parent, that this one leads into."""
    place = path.split(".")
    if place[0] != "parts" or len(place) < 3:
        return setting_paths(Preset)
    if place[2] == "parent" and len(place) > 3:
        return setting_paths(ParentConfig, ".".join(place[:3]) + ".")
    return setting_paths(PresetPart, ".".join(place[:2]) + ".")
