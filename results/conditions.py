"""What differs between the trials of a study, as a short text that names each one's condition."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from copy import deepcopy
from typing import Any

from results.plain import to_json

OWN = ("router.", "train.losses.", "train.loss_options.")
"""Settings that routers do not share: they differ only where one router's own trials differ."""
PLAIN = (
    *("experts.num_experts", "experts.name", "data.name", "model.name", "model.layers"),
    *("router.capacity_factor", "router.affinity", "train.lr"),
)
"""Settings by which a reader knows a trial best, the best first."""
MANY = 3
"""Settings that can be read at a glance."""
OPTIONS = ("experts.options.", "train.loss_options.")
PARENT = "parent."
FOUND = "found"
TWIN = " (twin)"
"""After a router's name: the same router once more, as its own control."""
_TEXT = json.JSONEncoder(separators=(",", ":")).encode


def conditions(descriptions: Sequence[Mapping[str, Any]]) -> list[str]:
    """The condition of each description: settings that differ, besides router and seed.

    As `experts.num_experts=32 router.capacity_factor=2.0`, by the paths that `--set` takes; empty
    where nothing differs. Where many do, what others of them tell already is left out. Of a derived
    trial also `transform=distill parent=soft_moe`, and those `parent.…` that tell it from its
    siblings where its own settings do not. What was found for a router alone, by tuning or by
    matching compute, sets nothing apart: it is told as `found`.
    """
    descriptions = [comparable(description) for description in descriptions]
    kinds = [to_json(_without_seed(description)) for description in descriptions]
    distinct = dict(zip(kinds, descriptions, strict=True))
    told = dict(zip(distinct, _conditions(list(distinct.values())), strict=True))
    return [told[kind] for kind in kinds]


def _conditions(descriptions: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same of descriptions that all differ."""
    flat = [dict(_settings(description)) for description in descriptions]
    own = [{path: each[path] for path in each if not path.startswith(PARENT)} for each in flat]
    routers = [router_of(description) for description in descriptions]
    # What sets all derived trials apart from the others is told by the transform's name.
    origins = [f"{each.get('transform')} {each.get('parent')}" for each in flat]
    shared = {
        origin: _telling({path for path in _differing(each) if not path.startswith(OWN)}, each)
        for origin, each in _grouped(origins, own).items()
    }
    derivation = _differing(flat) & {"transform", "parent"}
    kin = [f"{router} {origin}" for router, origin in zip(routers, origins, strict=True)]
    of_kin, inherited = _grouped(kin, own), _inherited(kin, flat)
    told = {}
    for family, origin in dict(zip(kin, origins, strict=True)).items():
        differing = _differing(of_kin[family])
        own_paths = {path for path in differing if path.startswith(OWN)}
        told[family] = shared[origin] | _telling(own_paths, of_kin[family], shared[origin])
    return [
        _text(settings, derivation | told[family] | inherited[family])
        for settings, family in zip(flat, kin, strict=True)
    ]


def router_of(description: Mapping[str, Any]) -> str:
    """The name under which a trial or layer stands: its router's; of a twin, one of its own."""
    name: str = description["router"]["name"]
    return f"{name}{TWIN}" if description.get("twin") else name


def is_twin(name: str) -> bool:
    """Whether what stands under a name is another one's control, and no contender."""
    return TWIN in name


def comparable(description: Mapping[str, Any]) -> dict[str, Any]:
    """The description with `found` in the place of each value that was found for its router."""
    told = deepcopy(dict(description))
    for path in told.pop("found", ()):
        *parents, last = place_of(path)
        place = told
        for name in parents:
            place = place.get(name, {})  # of a bare layer there is no recipe
        if last in place:
            place[last] = FOUND
    if "parent" in told:
        told["parent"] = comparable(told["parent"])
    return told


def option_conditions(measured: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """The same for pairs of a suite and the options it was given, as `balance.batch_size=64`."""
    kinds = [(suite, to_json(options)) for suite, options in measured]
    distinct = dict(zip(kinds, measured, strict=True))
    flat = [dict(_leaves(options, suite)) for suite, options in distinct.values()]
    suites = [suite for suite, _ in distinct]
    differing = _differing_by(suites, flat)
    texts = [_text(settings, differing[name]) for settings, name in zip(flat, suites, strict=True)]
    told = dict(zip(distinct, texts, strict=True))
    return [told[kind] for kind in kinds]


def place_of(path: str) -> list[str]:
    """Where a description has the setting of a path that `--set` takes."""
    return path.replace("router.", "router.options.", 1).split(".")


def _without_seed(description: Mapping[str, Any]) -> dict[str, Any]:
    """What trials have in common that are seeds of one another, parents and all."""
    rest = {name: value for name, value in description.items() if name != "seed"}
    return rest | {"parent": _without_seed(rest["parent"])} if "parent" in rest else rest


def _settings(description: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for path, value in _leaves(description, skip=("seed", "parent", "twin")):
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
        yield path, value if isinstance(value, str) else _TEXT(value)


def _differing(settings: Sequence[Mapping[str, str]]) -> set[str]:
    """The paths without one value for all; to lack a path that others have is to differ.

    But the options of experts and losses differ only where two trials have that option.
    """
    values: dict[str, set[str | None]] = defaultdict(set)
    for path in {path for each in settings for path in each}:
        values[path] = {each.get(path) for each in settings}
        if any(part in path for part in OPTIONS):
            values[path].discard(None)
    return {path for path, found in values.items() if len(found) > 1}


def _telling(
    paths: set[str], settings: Sequence[Mapping[str, str]], besides: Set[str] = frozenset()
) -> set[str]:
    """The paths; where they are many, without those that tell nothing which others do not.

    Args:
        besides: paths that are told in any case.
    """
    told = set(paths)
    for path in sorted(paths, key=_plainness, reverse=True):
        without = told - {path}
        many = len(told | besides) > MANY or path.startswith(OPTIONS[0])
        if many and _distinct(without | besides, settings) == _distinct(told | besides, settings):
            told = without
    return told


def _plainness(path: str) -> tuple[int, int, str]:
    """The smaller, the sooner a reader knows by it what a trial is."""
    known = PLAIN.index(path) if path in PLAIN else len(PLAIN)
    return known, path.count("."), path


def _distinct(paths: Set[str], settings: Sequence[Mapping[str, str]]) -> int:
    """How many of the settings these paths tell apart."""
    ordered = sorted(paths)
    return len({tuple(each.get(path) for path in ordered) for each in settings})


def _grouped(
    names: Sequence[str], settings: Sequence[Mapping[str, str]]
) -> dict[str, list[Mapping[str, str]]]:
    """The settings of each name."""
    by_name: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for name, each in zip(names, settings, strict=True):
        by_name[name].append(each)
    return by_name


def _differing_by(
    names: Sequence[str], settings: Sequence[Mapping[str, str]]
) -> dict[str, set[str]]:
    """The paths that differ among the settings of each name."""
    return {name: _differing(own) for name, own in _grouped(names, settings).items()}


def _text(settings: Mapping[str, str], paths: set[str]) -> str:
    told = sorted(paths & settings.keys(), key=lambda path: (path.startswith("parent"), path))
    return " ".join(f"{path}={settings[path]}" for path in told)
