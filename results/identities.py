"""Rows by what they are: trials by fingerprint and components, machines."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, select

from results.database import Database
from results.errors import StoreError, nearest
from results.models import ComponentRow, MachineRow, TrialRow, trial_components
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
    return _trials(store, select(TrialRow.id, TrialRow.fingerprint, TrialRow.description))


def find_trial(store: Database, prefix: str) -> TrialRecord:
    """The trial whose fingerprint begins so.

    Raises:
        StoreError: there is none, or there are several.
    """
    query = select(TrialRow.id, TrialRow.fingerprint, TrialRow.description)
    begins = TrialRow.fingerprint.startswith(prefix, autoescape=True)
    found = _trials(store, query.where(begins))
    if len(found) == 1:
        return found[0]
    if not found:
        known = [trial.fingerprint[:12] for trial in all_trials(store)]
        hint = nearest(prefix, known) if len(known) <= 20 else ""
        raise StoreError(f"no trial's fingerprint begins with {prefix!r}{hint}")
    longer = ", ".join(trial.fingerprint[:12] for trial in found[:5])
    raise StoreError(f"{len(found)} trials' fingerprints begin with {prefix!r}: {longer}, …")


def definitions_of(store: Database, trial: TrialRecord) -> dict[tuple[str, str], dict[str, str]]:
    """The definitions of each component of a trial, by its kind and name.

    Those of components are left out that an older version of this tool wrote.
    """
    columns = (ComponentRow.kind, ComponentRow.name, ComponentRow.definitions)
    query = select(*columns).join(trial_components).where(trial_components.c.trial_id == trial.id)
    with store.reading() as session:
        rows = session.execute(query)
        return {(kind, name): definitions for kind, name, definitions in rows if definitions}


def machine_row(store: Database, machine: Machine) -> int | None:
    """The row of this machine; None where nothing ran on it yet."""
    with store.reading() as session:
        query = select(MachineRow.id).filter_by(hash=content_hash(machine))
        return session.scalars(query).one_or_none()


def _trials(store: Database, query: Select[int, str, dict[str, Any]]) -> list[TrialRecord]:
    # Components by row: each has its whole source, and many trials share it.
    columns = (ComponentRow.id, ComponentRow.kind, ComponentRow.name, ComponentRow.source_hash)
    made_of: dict[int, list[ComponentRef]] = defaultdict(list)
    with store.reading() as session:
        refs = {row.id: ComponentRef(*row[1:]) for row in session.execute(select(*columns))}
        links = select(trial_components).order_by(*trial_components.c)
        for trial, component in session.execute(links):
            made_of[trial].append(refs[component])
        return [
            TrialRecord(id, fingerprint, description, tuple(made_of[id]))
            for id, fingerprint, description in session.execute(query.order_by(TrialRow.id))
        ]
