"""What differs between the trials of a study, as a short text that names each one's condition."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

OWN = ("router.", "train.losses.", "train.loss_options.")
"""Settings that routers do not share: they differ only where one router's own trials differ."""
OPTIONS_OF_LOSSES = "train.loss_options."
PARENT = "parent."


def conditions(descriptions: Sequence[Mapping[str, Any]]) -> list[str]:
    """The condition of each description: settings that differ, besides router and seed.

    As `experts.num_experts=32 router.capacity_factor=2.0`, by the paths that `--set` takes; empty
    where nothing differs. Of a derived trial also `transform=distill parent=soft_moe`, and those
    `parent.…` that tell it from its siblings where its own settings do not.
    """
    flat = [dict(_settings(description)) for description in descriptions]
    own = [{path: each[path] for path in each if not path.startswith(PARENT)} for each in flat]
    routers = [description["router"]["name"] for description in descriptions]
    # What sets all derived trials apart from the others is told by the transform's name.
    origins = [f"{each.get('transform')} {each.get('parent')}" for each in flat]
    shared = {
        origin: {path for path in paths if not path.startswith(OWN)}
        for origin, paths in _differing_by(origins, own).items()
    }
    derivation = _differing(flat) & {"transform", "parent"}
    kin = [f"{router} {origin}" for router, origin in zip(routers, origins, strict=True)]
    differing, inherited = _differing_by(kin, own), _inherited(kin, flat)
    return [
        _text(settings, derivation | shared[origin] | differing[family] | inherited[family])
        for settings, origin, family in zip(flat, origins, kin, strict=True)
    ]


def option_conditions(measured: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """The same for pairs of a suite and the options it was given, as `balance.batch_size=64`."""
    flat = [dict(_leaves(options, suite)) for suite, options in measured]
    suites = [suite for suite, _ in measured]
    differing = _differing_by(suites, flat)
    return [_text(settings, differing[name]) for settings, name in zip(flat, suites, strict=True)]


def _settings(description: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for path, value in _leaves(description, skip=("seed", "parent")):
        yield path.replace("router.options.", "router.", 1), value
    if "parent" in description:
        for path, value in _settings(description["parent"]):
            yield ("parent" if path == "router.name" else f"{PARENT}{path}"), value


def _inherited(kin: Sequence[str], settings: Sequence[Mapping[str, str]]) -> dict[str, set[str]]:
    """The paths of parents that differ among kin, unless the children's own always say the same."""
    parents = [{path: each[path] for path in each if path.startswith(PARENT)} for each in settings]
    untold: dict[str, set[str]] = defaultdict(set)
    for name, each, parent in zip(kin, settings, parents, strict=True):
        untold[name] |= {p for p in parent if each.get(p.removeprefix(PARENT)) != parent[p]}
    return {name: paths & untold[name] for name, paths in _differing_by(kin, parents).items()}


def _leaves(value: Any, path: str = "", skip: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """All paths of nested mappings with their values as text; a list is one value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in skip:
                yield from _leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


def _differing(settings: Sequence[Mapping[str, str]]) -> set[str]:
    """The paths without one value for all; to lack a path that others have is to differ.

    But the options of a loss differ only where two trials have that loss with other options.
    """
    values: dict[str, set[str | None]] = defaultdict(set)
    for path in {path for each in settings for path in each}:
        values[path] = {each.get(path) for each in settings}
        if OPTIONS_OF_LOSSES in path:
            values[path].discard(None)
    return {path for path, found in values.items() if len(found) > 1}


def _differing_by(
    names: Sequence[str], settings: Sequence[Mapping[str, str]]
) -> dict[str, set[str]]:
    """The paths that differ among the settings of each name."""
    by_name: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for name, each in zip(names, settings, strict=True):
        by_name[name].append(each)
    return {name: _differing(own) for name, own in by_name.items()}


def _text(settings: Mapping[str, str], paths: set[str]) -> str:
    told = sorted(paths & settings.keys(), key=lambda path: (path.startswith("parent"), path))
    return " ".join(f"{path}={settings[path]}" for path in told)
