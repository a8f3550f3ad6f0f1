"""Writing down what is to be done, and by whom: machines, code, studies and their trials.

Each method is one transaction. Many rows of one kind are written at once: what is there already
stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, delete, insert, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session

from results.database import Database
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
from results.plain import content_hash
from results.records import CodeVersion, Component, Machine, Subject
from results.rows import add, among, chunks, now

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_LOCK = 2401_15970
"""Number of PostgreSQL's advisory lock under which these rows are made."""


class Identities(Database):
    """Rows that say what something is. Every method that makes rows returns their ids."""

    def machine(self, machine: Machine) -> int:
        """The machine's row, made if it is new."""
        return self._by_content(MachineRow, [machine])[0]

    def code_version(self, code: CodeVersion) -> int:
        """The code version's row, made if it is new."""
        return self._by_content(CodeVersionRow, [code])[0]

    def component(self, component: Component) -> int:
        """The component's row, made if this version of it is new."""
        return self.components([component])[0]

    def components(self, components: Sequence[Component]) -> list[int]:
        """The row of each component, made where this version of it is new."""
        return self._by_content(ComponentRow, components)

    def study(self, name: str, request: Mapping[str, Any]) -> int:
        """The study of this name, made if it is new; it keeps the request that was made last."""
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
        """The trial of this fingerprint, made if it is new. Arguments as of `records.Subject`."""
        subject = Subject(fingerprint, description, components, parent, transform)
        return self.trials([subject])[0]

    def trials(self, subjects: Sequence[Subject]) -> list[int]:
        """The row of each trial, made where it is new; parents come before their children."""
        return self._subjects(TrialRow, trial_components, subjects)

    def layer(
        self, fingerprint: str, description: Mapping[str, Any], components: Sequence[int] = ()
    ) -> int:
        """The bare layer of this fingerprint, made if it is new."""
        return self.layers([Subject(fingerprint, description, components)])[0]

    def layers(self, subjects: Sequence[Subject]) -> list[int]:
        """The row of each bare layer, made where it is new."""
        return self._subjects(LayerRow, layer_components, subjects)

    def add_trial_to_study(self, study_id: int, *trial_ids: int) -> None:
        """The study shows these trials; of trials alike but for the code, the last added counts."""
        self._add_to_study(StudyTrialRow, study_id, "trial_id", trial_ids)

    def add_layer_to_study(self, study_id: int, *layer_ids: int) -> None:
        """The study shows these layers; of layers alike but for the code, the last added counts."""
        self._add_to_study(StudyLayerRow, study_id, "layer_id", layer_ids)

    @contextmanager
    def _alone(self) -> Iterator[Session]:
        """A transaction in which nobody else makes such rows, on PostgreSQL either."""
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
