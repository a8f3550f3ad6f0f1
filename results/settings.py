"""A description as values by path, with the paths that `--set` takes."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

FREE = ("model.options", "train.losses")
"""Mappings that take any name, as do those among a router's options; names may be unset in them."""
PARENT = "parent."
REPLICATE = "twin"
"""The key of a description that is 1 for a router's second run in the A/A control."""
TUNED, UNSET = "found", "unset"
_TEXT = json.JSONEncoder(separators=(",", ":")).encode

Settings = dict[str, str]


def comparable(description: Mapping[str, Any], baselines: Collection[str] = ()) -> dict[str, Any]:
    """Return a description in which each value that was found for its router reads `found`.

    Args:
        baselines: routers whose auxiliary losses and experts are left out, since they have none.
    """
    made = deepcopy(dict(description))
    for path in made.pop("found", ()):
        *parents, last = place_of(path)
        place = made
        for name in parents:
            place = place.get(name, {})  # a bare layer has no recipe
        if last in place:
            place[last] = TUNED
    if made["router"]["name"] in baselines:
        made.get("train", {}).pop("losses", None)
        made.pop("experts", None)
    if "parent" in made:
        made["parent"] = comparable(made["parent"], baselines)
    return made


def place_of(path: str) -> list[str]:
    """Return the keys that lead to a setting in a description, from its `--set` path."""
    return path.replace("router.", "router.options.", 1).split(".")


def flattened(descriptions: Sequence[Mapping[str, Any]]) -> list[Settings]:
    """Return each description as values by path, `UNSET` where a value is possible but missing."""
    flat = [dict(_settings(description)) for description in descriptions]
    paths = set[str]().union(*flat)
    for each, description in zip(flat, descriptions, strict=True):
        free = tuple(f"{place}." for place in _free(description))
        each |= {path: UNSET for path in paths - each.keys() if path.startswith(free)}
    return flat


def _settings(description: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for path, value in leaves(description, skip=("seed", "parent", REPLICATE)):
        yield path.replace("router.options.", "router.", 1), value
    if "parent" in description:
        for path, value in _settings(description["parent"]):
            yield ("parent" if path == "router.name" else f"{PARENT}{path}"), value


def _free(value: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of a description's mappings that take any name."""
    if not isinstance(value, Mapping):
        return
    own = path.replace(PARENT, "")
    if own in FREE or own.startswith("router.options."):
        yield path.replace("router.options.", "router.", 1)
    for key, inner in value.items():
        yield from _free(inner, f"{path}.{key}" if path else key)


def leaves(value: Any, path: str = "", skip: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield all paths of nested mappings with their values as text; a list counts as one value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in skip:
                yield from leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value if isinstance(value, str) else _TEXT(value)
