"""Presets: YAML files with a study's starting point, from `suites/presets` or from the user."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import yaml
from pydantic import BeforeValidator, Field, model_validator

from bench.config.cluster import ClusterConfig
from bench.config.schema import (
    ComputeConfig,
    Config,
    DataConfig,
    ExpertsConfig,
    ModelConfig,
    Options,
    TrainConfig,
    TuneConfig,
)
from results.text import read_yaml
from routers.errors import RequestError, alike, nearest, offer


def parse(text: str, where: str) -> Any:
    """Parse a YAML text.

    Args:
        where: names the text in error messages.

    Raises:
        RequestError: the text is not YAML, or a mapping repeats a key.
    """
    try:
        return read_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RequestError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


FOLDER = Path(__file__).parent.parent.parent / "suites" / "presets"


class ParentConfig(Config):
    """The trained trial that the trials of a part start from."""

    router: str
    """The parent's router; its trial of the same seed in the last earlier part is the parent."""
    transform: str
    """The registered transform that makes the child's initial weights from the parent's."""


def _listed(names: Any) -> Any:
    """Raise an error if a single router's name stands where a list is expected."""
    if isinstance(names, str) and names != "all":
        raise ValueError(f"routers = {names!r} is not a list; write [{names}]")
    return names


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]


SweptValues = Annotated[tuple[Any, ...], Field(min_length=1)]


class PresetPart(Config):
    """A part of a study with settings of its own."""

    routers: Names | None = None
    """The part's routers; None for the preset's."""
    set: Options = Field(default={})
    """Path -> value; these override the preset's settings and its sweep."""
    sweep: dict[str, SweptValues] = Field(default={})
    """Path -> values that this part sweeps over, in all combinations."""
    parent: ParentConfig | None = None

    @model_validator(mode="after")
    def _set_or_swept(self) -> Self:
        if both := [path for path in self.sweep if path in self.set]:
            raise ValueError(f"{both[0]} is in both set and sweep: leave out one of the two")
        return self


class Preset(Config):
    """A named starting point of a study."""

    name: str
    description: str
    routers: Annotated[Literal["all"] | tuple[str, ...], BeforeValidator(_listed)] = ()
    """Names of routers, or "all" registered ones."""
    seeds: int = Field(default=3, ge=1)
    twins: bool = False
    """Whether each router except baselines is trained a second time, as its own control."""
    router: Options = Field(default={})
    """Hyper-parameters; each applies to the routers that have it."""
    experts: ExpertsConfig = ExpertsConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    compute: ComputeConfig = ComputeConfig()
    suites: dict[str, Options] = Field(default={})
    """The suites to measure, each with its options."""
    sweep: dict[str, SweptValues] = Field(default={})
    """Path -> values to sweep over, in all combinations."""
    parts: tuple[PresetPart, ...] = ()
    """Parts of the study; empty if it has only one."""
    tune: TuneConfig = TuneConfig()
    tuned: dict[str, Options] = Field(default={})
    """Router -> path -> value tuned for that router; these override all other settings."""
    cluster: ClusterConfig = ClusterConfig()
    """Resources of `--executor slurm` workers; stored neither with trials nor with requests."""

    def record(self) -> dict[str, Any]:
        """Return the preset as plain data, without the settings that cannot affect a result."""
        return self.model_dump(mode="json", exclude={"cluster"})

    def every_router(self) -> Literal["all"] | tuple[str, ...]:
        """Return the routers of all parts, each once, in order."""
        named = [self.routers if part.routers is None else part.routers for part in self.parts]
        chosen = named or [self.routers]
        if "all" in chosen:
            return "all"
        return tuple(dict.fromkeys(name for names in chosen for name in names))


def preset_names() -> list[str]:
    """Return the names of the presets that come with the bench, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load_preset(name: str) -> Preset:
    """Load a preset by name, or from a YAML file.

    Raises:
        RequestError: there is no such preset, or the file is not one.
    """
    if name.endswith((".yaml", ".yml")):
        file = Path(name)
    else:
        file = FOLDER / f"{name}.yaml"
        if name not in preset_names():
            raise RequestError(f"no preset is named {name!r}{nearest(name, preset_names())}")
    where = f"the preset {file}"
    try:
        fields = parse(file.read_text(encoding="utf-8-sig"), where)
    except OSError as error:
        raise RequestError(f"cannot read {where}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{where} is not a text file in UTF-8: {error}") from None
    if not isinstance(fields, dict):
        raise RequestError(f"{where} is not a mapping of fields")
    return validated_preset({"name": file.stem, **fields}, where)


def validated_preset(fields: dict[str, Any], where: str) -> Preset:
    """Validate plain data as a preset.

    Raises:
        RequestError: a field is invalid; the message names the first one by its full path.
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
        if first["type"] == "value_error":  # its message names the settings involved
            inside = "" if path in Preset.model_fields else f"{path}: "
            raise RequestError(f"{where}: {inside}{first['ctx']['error']}") from None
        raise RequestError(f"{where}: {path} = {first['input']!r}: {first['msg']}") from None


def setting_paths(model: type[pydantic.BaseModel], prefix: str = "") -> list[str]:
    """Return the paths of all fields of a configuration, such as `train.lr`."""
    paths = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, pydantic.BaseModel):
            paths += setting_paths(inner, f"{prefix}{name}.")
        else:
            paths.append(f"{prefix}{name}")
    return paths


def nearest_path(path: str, options: list[str]) -> str:
    """Suggest the nearest paths, compared by their last part, so that `lr` is near `train.lr`."""
    section, last = path.partition(".")[0], path.rpartition(".")[2]
    inside = [option for option in options if option.partition(".")[0] == section] or options
    own = {option: option.rpartition(".")[2] for option in options}
    near = [last] if last in own.values() else alike(last, map(own.__getitem__, inside))
    among = options if last in near else inside
    return offer([each for name in near for each in among if own[each] == name][:3], inside)


def _path(location: tuple[int | str, ...]) -> str:
    """Format a pydantic location without the type name that pydantic appends in a union."""
    whole = ".".join(str(part) for part in location)
    known = _paths_near(whole)
    for length in range(1, len(location)):
        path = ".".join(str(part) for part in location[:length])
        if path in known:
            return path
    return whole


def _paths_near(path: str) -> list[str]:
    """Return all paths of the preset, or of the part or parent that this path points into."""
    place = path.split(".")
    if place[0] != "parts" or len(place) < 3:
        return setting_paths(Preset)
    if place[2] == "parent" and len(place) > 3:
        return setting_paths(ParentConfig, ".".join(place[:3]) + ".")
    return setting_paths(PresetPart, ".".join(place[:2]) + ".")
