"""What sets a fingerprint apart from that of a stored trial, part by part."""

from __future__ import annotations

from bench.fingerprint import Fingerprint, identity
from results.identities import TrialRecord
from results.plain import to_json

NO_SOURCE = ("data", "parent", "weights")
"""Kinds of parts that are no code."""


def differences(now: Fingerprint, then: TrialRecord) -> list[str]:
    """What sets a fingerprint apart from a trial's of before, in words; none where nothing does."""
    before = {(part.kind, part.name): part.source_hash for part in then.components}
    current = {(part.kind, part.name): part for part in now.parts}
    shared = [part for key, part in current.items() if key in before]
    changed = [part for part in shared if before[part.kind, part.name] != part.digest]
    kinds = {
        "changed data": [repr(part.name) for part in changed if part.kind == "data"],
        "changed parent": [repr(part.name) for part in changed if part.kind == "parent"],
        "changed content of the weights file": [
            repr(now.description["model"]["weights"]) for part in changed if part.kind == "weights"
        ],
        "changed source": [part.label for part in changed if part.kind not in NO_SOURCE],
        "new": [part.label for key, part in current.items() if key not in before],
        "gone": [f"{kind} {name!r}" for kind, name in before.keys() - current.keys()],
    }
    found = [f"{kind}: {', '.join(labels)}" for kind, labels in kinds.items() if labels]
    return [*_description_differences(now, then), *found]


def _description_differences(now: Fingerprint, then: TrialRecord) -> list[str]:
    before, current = _flat(identity(then.description)), _flat(identity(now.description))
    return [
        f"{path} is {current.get(path, 'unset')}, was {before.get(path, 'unset')}"
        for path in sorted(before.keys() | current.keys())
        if before.get(path) != current.get(path)
    ]


def _flat(value: object, path: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        parts = (_flat(inner, f"{path}.{key}" if path else key) for key, inner in value.items())
        return {name: text for part in parts for name, text in part.items()}
    return {path: to_json(value)}
