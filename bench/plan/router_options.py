"""The options that a router gets from a preset's `router`: its own and those of its affinity."""

from collections.abc import Iterable, Mapping
from typing import Any

from bench.config import Preset, nearest_path
from routers import AFFINITIES, Baseline, Entry
from routers.errors import RequestError

OPTIONS = "affinity_options"
PREFIX = f"router.{OPTIONS}."
"""The beginning of a path to an affinity's hyper-parameter."""


def options_of(preset: Preset, router: Entry) -> dict[str, Any]:
    """Return a router's options, with its defaults filled in.

    It gets only those affinity options that its own affinity has, as they were given.

    Raises:
        RequestError: there is no such affinity, or a value does not fit.
    """
    known = router.hyper_model.model_fields
    options = router.validate({name: v for name, v in preset.router.items() if name in known})
    if (affinity := affinity_of(preset, router)) is not None:
        own = affinity.hyper_model.model_fields
        asked = {name: value for name, value in options[OPTIONS].items() if name in own}
        whole = affinity.validate(asked)
        options[OPTIONS] = {name: whole[name] for name in asked}
    return options


def affinity_of(preset: Preset, router: Entry) -> Entry | None:
    """Return the affinity of a router, or None if its gate is part of its definition.

    Raises:
        RequestError: there is no affinity of that name.
    """
    fields = router.hyper_model.model_fields
    if not {"affinity", OPTIONS} <= fields.keys():
        return None
    return AFFINITIES.get(preset.router.get("affinity", fields["affinity"].default))


def affinity_options_in(settings: Mapping[str, Any]) -> list[str]:
    """List the names of the affinity options among a preset's router settings."""
    options = settings.get(OPTIONS, {})
    return list(options) if isinstance(options, Mapping) else []


def refuse_unknown(names: Iterable[str], routers: Iterable[Entry]) -> None:
    """Refuse hyper-parameters that none of these routers has."""
    routers = list(routers)
    known = {field for router in routers for field in router.hyper_model.model_fields}
    for name in names:
        if name not in known:
            hint = nearest_path(f"router.{name}", sorted(f"router.{field}" for field in known))
            if all(issubclass(router.target, Baseline) for router in routers):
                hint = "; baselines have no hyper-parameters"
            raise RequestError(f"none of the chosen routers has 'router.{name}'{hint}")


def refuse_unknown_options(names: Iterable[str], affinities: Iterable[Entry]) -> None:
    """Refuse affinity options that none of these affinities has."""
    affinities = list(affinities)
    known = {f"{PREFIX}{field}" for each in affinities for field in each.hyper_model.model_fields}
    for name in names:
        if f"{PREFIX}{name}" not in known:
            hint = nearest_path(f"{PREFIX}{name}", sorted(known))
            listed = ", ".join(dict.fromkeys(each.name for each in affinities))
            raise RequestError(f"none of the affinities {listed} has '{PREFIX}{name}'{hint}")
