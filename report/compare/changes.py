"""What changed between the two sides of a comparison: settings, code, source, machines."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from report.compare import Comparison
from report.topics.provenance import hardware
from results import Store
from results.settings import flattened, leaves
from results.text import changed_names, counted

ABSENT = "none"

Section = tuple[str, list[str]]
"""A heading and a line for each thing that changed."""


def what_changed(store: Store, made: Comparison) -> list[Section]:
    """Return what differs between the compared trials and the results of their systems.

    Returns:
        Sections on settings, code, source and machines, each with at least one line.
    """
    return [
        ("Settings", _settings(made) or ["the same"]),
        ("Code", _code(made) or ["the same"]),
        ("Source", [*_components(store, made), *_suites(made)] or ["the same"]),
        ("Machines", _machines(made) or ["the same"]),
    ]


def _settings(made: Comparison) -> list[str]:
    """Return a line for each setting that differs within pairs of trials, with the systems."""
    described = made.a.descriptions | made.b.descriptions
    systems: dict[tuple[str, str, str], dict[str, None]] = defaultdict(dict)
    for entry, a, b in made.pairs:
        if a != b:
            for change in _differing(described[a], described[b]):
                systems[change][entry.label] = None
    labels = {entry.label for entry, _, _ in made.pairs}
    lines = [
        f"{path}: {a} → {b}{_of(own, labels)}" for (path, a, b), own in sorted(systems.items())
    ]
    before, after = (_options(side.metrics) for side in (made.a, made.b))
    return lines + [
        f"{path}: {' or '.join(before[path])} → {' or '.join(after[path])}"
        for path in sorted(before.keys() & after.keys())
        if before[path] != after[path]
    ]


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the paths at which two descriptions differ, with both values."""
    before, after = flattened([a, b])
    paths = sorted((before.keys() | after.keys()) - {"router.name"})
    return [
        (path, before.get(path, ABSENT), after.get(path, ABSENT))
        for path in paths
        if before.get(path) != after.get(path)
    ]


def _options(metrics: pd.DataFrame) -> dict[str, list[str]]:
    """Return the values of each option of the suites."""
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for suite, text in sorted(set(zip(metrics["suite"], metrics["suite_options"], strict=True))):
        for path, value in leaves(json.loads(text), suite):
            values[path][value] = None
    return {path: list(own) for path, own in values.items()}


def _of(systems: Iterable[str], every: set[str]) -> str:
    """Name in brackets the systems that a change concerns, unless it concerns all."""
    return "" if set(systems) == every else f" ({', '.join(systems)})"


def _code(made: Comparison) -> list[str]:
    """Return a line for each difference in the versions of the code, Python and the libraries."""
    a, b = (_environment(rows) for rows in made.apart)
    return [
        f"{name}: {' and '.join(a.get(name, [ABSENT]))} → {' and '.join(b.get(name, [ABSENT]))}"
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    ]


def _environment(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Return the versions of the code, Python and each library that made these rows."""
    values: dict[str, set[str]] = defaultdict(set)
    columns = rows[["code", "python", "libraries"]].drop_duplicates()
    for code, python, libraries in columns.itertuples(index=False):
        commit, plus, _ = code.partition("+")
        unclean = f"{code} (changed since the commit)" if plus else commit
        own = {"commit": unclean, "python": python, **json.loads(libraries)}
        for name, value in own.items():
            values[name].add(str(value))
    return {name: sorted(own) for name, own in values.items()}


def _components(store: Store, made: Comparison) -> Iterator[str]:
    """Yield a line for each component whose version differs within pairs of trials."""
    needed = {trial for _, a, b in made.pairs if a != b for trial in (a, b)}
    trials = {each.fingerprint: each for each in store.all_trials() if each.fingerprint in needed}
    systems: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    between: dict[tuple[str, str], tuple[str, str]] = {}
    for entry, a, b in made.pairs:
        if a == b:
            continue
        before, after = (
            {(kind, name): code for kind, name, code in trials[trial].components}
            for trial in (a, b)
        )
        for part in before.keys() | after.keys():
            if before.get(part) != after.get(part) and part[0] != "parent":
                systems[part][entry.label] = None
                between.setdefault(part, (a, b))
    labels = {entry.label for entry, _, _ in made.pairs}
    for part in sorted(systems):
        kind, name = part
        then, now = (store.definitions_of(trials[each]).get(part, {}) for each in between[part])
        which = changed_names(then, now) if then and now else ""
        yield f"{kind} {name!r}{which}{_of(systems[part], labels)}"


def _suites(made: Comparison) -> Iterator[str]:
    """Yield a line for each suite whose code differs between the sides."""
    a, b = (side.metrics.groupby("suite")["source_hash"].unique() for side in (made.a, made.b))
    for suite in sorted(set(a.index) & set(b.index)):
        if set(a[suite]) != set(b[suite]):
            yield f"suite {suite!r}"


def _machines(made: Comparison) -> list[str]:
    """Return a line with the machines of both sides, or none if they are the same."""
    a, b = (_machines_of(rows) for rows in made.apart)
    if a.keys() == b.keys():
        return []
    return [f"{' and '.join(a.values()) or ABSENT} → {' and '.join(b.values()) or ABSENT}"]


def _machines_of(rows: pd.DataFrame) -> dict[str, str]:
    machines = rows.drop_duplicates("machine").sort_values("machine_name")
    return {
        row.machine: f"{row.machine_name} ({hardware(row)}, {counted(row.threads, 'thread')})"
        for row in machines.itertuples()
    }
