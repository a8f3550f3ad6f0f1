"""Writing down what is to be done, and by whom: machines, code, studies and their trials.

Each method is one transaction. Many rows of one kind are written at once: what is there already
stays as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, Table, delete, insert, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session

from results.connect import Database
from results.models import (
    CodeVersionRow,
    ComponentRow,
    LayerRow,
    MachineRow,
    StudyLayerRow,
    StudyRow,
    StudyTrialRow,
    TrialRow,
    layer_components,
    trial_components,
)
from results.store.outcomes import add, among, chunks, now
from results.store.records import CodeVersion, Component, Machine, Subject
from results.text import StoreError, content_hash, nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_LOCK = 2401_15970
"""Number of PostgreSQL's advisory lock under which these rows are made."""


class Identities(Database):
    """Rows that say what something is. Every method that makes rows returns their ids."""

    def machine(self, machine: Machine) -> int:
        """Return the machine's row, made if it is new."""
        return self._by_content(MachineRow, [machine])[0]

    def code_version(self, code: CodeVersion) -> int:
        """Return the code version's row, made if it is new."""
        return self._by_content(CodeVersionRow, [code])[0]

    def component(self, component: Component) -> int:
        """Return the component's row, made if this version of it is new."""
        return self.components([component])[0]

    def components(self, components: Sequence[Component]) -> list[int]:
        """Return the row of each component, made where this version of it is new."""
        return self._by_content(ComponentRow, components)

    def study(self, name: str, request: Mapping[str, Any]) -> int:
        """Return the study of this name, made if new; it keeps the request that was made last."""
        asked = now()
        with self._alone() as session:
            study = session.scalars(select(StudyRow).filter_by(name=name)).one_or_none()
            if study is None:
                study = StudyRow(name=name, created_at=asked)
            study.requested_at, study.request = asked, dict(request)
            return add(session, study)

    def trial(
        self,
        fingerprint: str,
        description: Mapping[str, Any],
        components: Sequence[int] = (),
        parent: str | None = None,
        transform: str | None = None,
    ) -> int:
        """Return the trial of this fingerprint, made if new. Arguments as of `records.Subject`."""
        subject = Subject(fingerprint, description, components, parent, transform)
        return self.trials([subject])[0]

    def trials(self, subjects: Sequence[Subject]) -> list[int]:
        """Return each trial's row, made where it is new; parents come before their children."""
        return self._subjects(TrialRow, trial_components, subjects)

    def layer(
        self, fingerprint: str, description: Mapping[str, Any], components: Sequence[int] = ()
    ) -> int:
        """Return the bare layer of this fingerprint, made if it is new."""
        return self.layers([Subject(fingerprint, description, components)])[0]

    def layers(self, subjects: Sequence[Subject]) -> list[int]:
        """Return the row of each bare layer, made where it is new."""
        return self._subjects(LayerRow, layer_components, subjects)

    def add_trial_to_study(self, study_id: int, *trial_ids: int) -> None:
        """Add trials to a study; of trials alike but for the code, the last added counts."""
        self._add_to_study(StudyTrialRow, study_id, "trial_id", trial_ids)

    def add_layer_to_study(self, study_id: int, *layer_ids: int) -> None:
        """Add layers to a study; of layers alike but for the code, the last added counts."""
        self._add_to_study(StudyLayerRow, study_id, "layer_id", layer_ids)

    @contextmanager
    def _alone(self) -> Iterator[Session]:
        """Yield a transaction in which nobody else makes such rows, on PostgreSQL either."""
        with self.writing() as session:
            if session.get_bind().dialect.name == "postgresql":
                session.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            yield session

    def _by_content(
        self,
        row_type: type[MachineRow] | type[CodeVersionRow] | type[ComponentRow],
        records: Sequence[DataclassInstance],
    ) -> list[int]:
        hashes = [content_hash(record) for record in records]
        with self._alone() as session:
            rows = _rows(session, row_type.hash, row_type.id, hashes)
            for key, record in zip(hashes, records, strict=True):
                if key not in rows:
                    row = row_type(hash=key, first_seen=now(), **asdict(record))
                    rows[key] = add(session, row)
            return [rows[key] for key in hashes]

    def _subjects(
        self,
        row_type: type[TrialRow] | type[LayerRow],
        made_of: Table,
        subjects: Sequence[Subject],
    ) -> list[int]:
        wanted = [each.fingerprint for each in subjects]
        parents = [each.parent for each in subjects if each.parent is not None]
        with self._alone() as session:
            rows = _rows(session, row_type.fingerprint, row_type.id, wanted + parents)
            links = []
            for each in subjects:
                if each.fingerprint not in rows:
                    row = row_type(
                        fingerprint=each.fingerprint,
                        description=dict(each.description),
                        created_at=now(),
                    )
                    if isinstance(row, TrialRow):
                        row.transform = each.transform
                        row.parent_id = None if each.parent is None else rows[each.parent]
                    rows[each.fingerprint] = made = add(session, row)
                    links += [(made, component) for component in each.components]
            if links:
                names = [column.name for column in made_of.columns]
                session.execute(
                    insert(made_of), [dict(zip(names, pair, strict=True)) for pair in links]
                )
            return [rows[fingerprint] for fingerprint in wanted]

    def _add_to_study(
        self,
        link: type[StudyTrialRow] | type[StudyLayerRow],
        study_id: int,
        key: str,
        ids: Iterable[int],
    ) -> None:
        asked = now()
        with self._alone() as session:
            for some in chunks(ids):
                shown = (
                    delete(link).filter_by(study_id=study_id).where(getattr(link, key).in_(some))
                )
                session.execute(shown)
                rows = [{"study_id": study_id, key: id, "requested_at": asked} for id in some]
                session.execute(insert(link), rows)


def _rows(
    session: Session,
    key: InstrumentedAttribute[str],
    row_id: InstrumentedAttribute[int],
    wanted: Iterable[str],
) -> dict[str, int]:
    """Row by key of those that are there."""
    return dict(tuple(row) for row in among(session, select(key, row_id), key, wanted))


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
    """Return every trial, the oldest first."""
    return _trials(store, select(TrialRow.id, TrialRow.fingerprint, TrialRow.description))


def find_trial(store: Database, prefix: str) -> TrialRecord:
    """Return the trial whose fingerprint begins so.

    Raises:
        StoreError: there is none, or there are several.
    """
    query = select(TrialRow.id, TrialRow.fingerprint, TrialRow.description)
    begins = TrialRow.fingerprint.startswith(prefix, autoescape=True)
    matching = _trials(store, query.where(begins))
    if len(matching) == 1:
        return matching[0]
    if not matching:
        known = [trial.fingerprint[:12] for trial in all_trials(store)]
        hint = nearest(prefix, known) if len(known) <= 20 else ""
        raise StoreError(f"no trial's fingerprint begins with {prefix!r}{hint}")
    longer = ", ".join(trial.fingerprint[:12] for trial in matching[:5])
    raise StoreError(f"{len(matching)} trials' fingerprints begin with {prefix!r}: {longer}, …")


def definitions_of(store: Database, trial: TrialRecord) -> dict[tuple[str, str], dict[str, str]]:
    """Return the definitions of each component of a trial, by its kind and name.

    Those of components are left out that an older version of this tool wrote.
    """
    columns = (ComponentRow.kind, ComponentRow.name, ComponentRow.definitions)
    query = select(*columns).join(trial_components).where(trial_components.c.trial_id == trial.id)
    with store.reading() as session:
        rows = session.execute(query)
        return {(kind, name): definitions for kind, name, definitions in rows if definitions}


def machine_row(store: Database, machine: Machine) -> int | None:
    """Return the row of this machine; None where nothing ran on it yet."""
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
