"""Which trials and layers of a study are of older code, or data, than others beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from sqlalchemy import Table, select
from sqlalchemy.orm import Session

from results.models import ComponentRow, LayerRow, TrialRow, layer_components, trial_components
from results.text import to_json

Versions = Mapping[tuple[str, ...], str]
"""The hash of everything that a trial or layer is made of."""
SECTIONS = {"data": "data", "weights": "model"}
"""Parts that are no code, and the section of a description that says which one is meant."""


def replaced(asked: Sequence[Versions]) -> list[list[tuple[str, ...]]]:
    """Find what each trial has another version of than the last one that holds it.

    Args:
        asked: of a study's trials and layers, the one that was asked for last at the end.
    """
    newest: dict[tuple[str, ...], str] = {}
    for versions in asked:
        newest.update(versions)
    return [[part for part, code in each.items() if newest[part] != code] for each in asked]


class Parts:
    """What the trials and layers of a database are made of."""

    def __init__(self, session: Session) -> None:
        self._of = {
            TrialRow: _parts(session, trial_components),
            LayerRow: _parts(session, layer_components),
        }

    def versions(self, row: TrialRow | LayerRow) -> Versions:
        """Its parts; a part that is no code only compares where it was described alike."""
        return {
            (kind, name, _meant(row.description, kind)): source_hash
            for kind, name, source_hash in self._of[type(row)].get(row.id, ())
            if kind != "parent"  # its own parts say more
        }

    def is_baseline(self, row: TrialRow | LayerRow) -> bool:
        """Tell whether it has no MoE layer: of a router, and of no experts."""
        kinds = {kind for kind, _, _ in self._of[type(row)].get(row.id, ())}
        return "router" in kinds and "experts" not in kinds


def _parts(session: Session, links: Table) -> dict[int, list[tuple[str, str, str]]]:
    columns = (ComponentRow.id, ComponentRow.kind, ComponentRow.name, ComponentRow.source_hash)
    parts = {id: (kind, name, code) for id, kind, name, code in session.execute(select(*columns))}
    by_subject: dict[int, list[tuple[str, str, str]]] = {}
    for subject, component in session.execute(select(links)):
        by_subject.setdefault(subject, []).append(parts[component])
    return by_subject


def _meant(description: Mapping[str, Any], kind: str) -> str:
    return to_json(description.get(SECTIONS[kind])) if kind in SECTIONS else ""


def older_sentence(frame: pd.DataFrame) -> str:
    """Say whose numbers in a frame are of older code, and what changed since; "" where none are.

    Args:
        frame: rows of `trials_frame`, `measurements_frame` or `metrics_frame`.
    """
    rows = frame.loc[frame["older"], ["router", "changed"]].drop_duplicates()
    changed: dict[str, list[str]] = {}
    for router, told in rows.itertuples(index=False):
        changed.setdefault(router, []).append(told)
    return sentence(changed)


def sentence(changed: Mapping[str, Iterable[str]]) -> str:
    """Say which routers' numbers are of older code, and what changed since; "" where none are.

    Args:
        changed: of each router, what changed since, as the frames tell it.
    """
    if not changed:
        return ""
    each = {part for told in changed.values() for parts in told for part in parts.split(", ")}
    *others, last = sorted(each)
    return (
        f"Of older code than the newest results here: {', '.join(changed)}; since then "
        f"{' and '.join(filter(None, (', '.join(others), last)))} changed."
    )
