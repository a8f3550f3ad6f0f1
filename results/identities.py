"""Rows by what they are: trials by fingerprint and components, layers, machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import selectinload

from results.database import Database
from results.errors import StoreError, nearest
from results.models import LayerRow, MachineRow, TrialRow
from results.plain import content_hash
from results.records import Machine


@dataclass(frozen=True)
class ComponentRef:
    """A version of a component: the digest tells versions of one name apart."""

    kind: str
    name: str
    source_hash: str


@dataclass(frozen=True)
class TrialRecord:
    """A trial, whoever tried it."""

    id: int
    fingerprint: str
    description: dict[str, Any]
    components: tuple[ComponentRef, ...]


def all_trials(store: Database) -> list[TrialRecord]:
    """Every trial, the oldest first."""
    query = select(TrialRow).options(selectinload(TrialRow.components)).order_by(TrialRow.id)
    with store.reading() as session:
        return [
            TrialRecord(
                id=row.id,
                fingerprint=row.fingerprint,
                description=row.description,
                components=tuple(
                    ComponentRef(part.kind, part.name, part.source_hash) for part in row.components
                ),
            )
            for row in session.scalars(query)
        ]


def find_trial(store: Database, prefix: str) -> TrialRecord:
    """The trial whose fingerprint begins so.

    Raises:
        StoreError: there is none, or there are several.
    """
    trials = all_trials(store)
    found = [trial for trial in trials if trial.fingerprint.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    if not found:
        known = [trial.fingerprint[:12] for trial in trials]
        hint = nearest(prefix, known) if len(known) <= 20 else ""
        raise StoreError(f"no trial's fingerprint begins with {prefix!r}{hint}")
    longer = ", ".join(trial.fingerprint[:12] for trial in found[:5])
    raise StoreError(f"{len(found)} trials' fingerprints begin with {prefix!r}: {longer}, …")


def layer_row(store: Database, fingerprint: str) -> int | None:
    """The row of the bare layer with this fingerprint; None where there is none."""
    with store.reading() as session:
        return session.scalars(select(LayerRow.id).filter_by(fingerprint=fingerprint)).one_or_none()


def machine_row(store: Database, machine: Machine) -> int | None:
    """The row of this machine; None where nothing ran on it yet."""
    with store.reading() as session:
        query = select(MachineRow.id).filter_by(hash=content_hash(machine))
        return session.scalars(query).one_or_none()
