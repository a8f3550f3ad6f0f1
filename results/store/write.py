"""Writes: machines, code, studies and their trials, then attempts and their results.

Each method is one transaction. Many rows of one kind are written at once; rows that already exist
are left unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Unpack

from sqlalchemy import Table, delete, func, insert, select, text, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from results.columns import Row
from results.connect import Database, among, chunks
from results.models import (
    ArrayRow,
    AttemptRow,
    CodeVersionRow,
    ComponentRow,
    LayerRow,
    MachineRow,
    MeasurementRow,
    MetricRow,
    StudyLayerRow,
    StudyRow,
    StudyTrialRow,
    TrialRow,
    layer_components,
    trial_components,
)
from results.store.records import (
    UNFINISHED,
    Array,
    AttemptStatus,
    CodeVersion,
    Component,
    Ended,
    Machine,
    MeasurementStatus,
    Metric,
    Subject,
)
from results.text import StoreError, content_hash, nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_LOCK = 2401_15970
"""Number of the PostgreSQL advisory lock held while rows that identify something are made."""
ENDED = ("finished_at", "error", "traceback", "log_tail", "note")
"""Columns that are set when an attempt ends, and cleared when it is continued."""


def add(session: Session, row: Row) -> int:
    """Add a row and return its id."""
    session.add(row)
    session.flush()
    return row.id


def now(session: Session) -> datetime:
    """Return the time, with its zone, on the one clock shared by all writers of the database.

    For PostgreSQL this is the server's clock, since the clocks of two hosts may differ by more than
    a run may be silent. Writers of one SQLite file share a machine and its clock.
    """
    if session.get_bind().dialect.name == "postgresql":
        return session.scalars(select(func.clock_timestamp())).one()
    return datetime.now(UTC)


class Writer(Database):
    """The half of a store that writes. Every method that makes rows returns their ids."""

    def machine(self, machine: Machine) -> int:
        """Return the machine's row id, adding it if it is new."""
        return self._by_content(MachineRow, [machine])[0]

    def code_version(self, code: CodeVersion) -> int:
        """Return the code version's row id, adding it if it is new."""
        return self._by_content(CodeVersionRow, [code])[0]

    def components(self, components: Sequence[Component]) -> list[int]:
        """Return each component's row id, adding those whose version is new."""
        return self._by_content(ComponentRow, components)

    def study(self, name: str, request: Mapping[str, Any]) -> int:
        """Return the id of the study of this name, adding it if new; store its latest request."""
        with self.alone() as session:
            asked = now(session)
            study = session.scalars(select(StudyRow).filter_by(name=name)).one_or_none()
            if study is None:
                study = StudyRow(name=name, created_at=asked)
            study.requested_at, study.request = asked, dict(request)
            return add(session, study)

    def trials(self, subjects: Sequence[Subject]) -> list[int]:
        """Return each trial's row id, adding new ones; parents must precede their children."""
        return self._subjects(TrialRow, trial_components, subjects)

    def layers(self, subjects: Sequence[Subject]) -> list[int]:
        """Return each bare layer's row id, adding new ones."""
        return self._subjects(LayerRow, layer_components, subjects)

    def add_trial_to_study(self, study_id: int, *trial_ids: int) -> None:
        """Add trials to a study; of trials that differ only in code, the one added last counts."""
        self._add_to_study(StudyTrialRow, study_id, "trial_id", trial_ids)

    def add_layer_to_study(self, study_id: int, *layer_ids: int) -> None:
        """Add layers to a study; of layers that differ only in code, the one added last counts."""
        self._add_to_study(StudyLayerRow, study_id, "layer_id", layer_ids)

    def begin_attempt(
        self, trial_id: int, machine_id: int, code_id: int, log: str | None = None
    ) -> int:
        """Begin an attempt at the trial, or continue the last one if it was interrupted.

        The caller holds the trial's lease (see `results.store.leases`), so a last attempt that is
        still marked as running belongs to nobody, and is continued in its own row.

        Args:
            log: the file that the attempt writes its log to.
        """
        begun = {"machine_id": machine_id, "code_id": code_id, "log": log}
        begun |= {"status": AttemptStatus.RUNNING, **dict.fromkeys(ENDED)}
        last = select(AttemptRow).filter_by(trial_id=trial_id).order_by(AttemptRow.id.desc())
        with self.writing() as session:
            attempt = session.scalars(last.limit(1)).one_or_none()
            if attempt is None or attempt.status not in UNFINISHED:
                at = now(session)
                return add(session, AttemptRow(trial_id=trial_id, started_at=at, **begun))
            for name, value in begun.items():
                setattr(attempt, name, value)
            return attempt.id

    def finish_attempt(
        self, attempt_id: int, status: AttemptStatus, **known: Unpack[Ended]
    ) -> None:
        """End the attempt, or mark it as interrupted, with what is known about it.

        Raises:
            StoreError: it has already ended, or there is no such status.
        """
        _check_status(status, set(AttemptStatus) - {AttemptStatus.RUNNING})
        ended = dict.fromkeys(Ended.__annotations__) | known
        open_yet = (AttemptRow.id == attempt_id) & AttemptRow.status.in_(UNFINISHED)
        with self.writing() as session:
            ended |= {"status": status, "finished_at": now(session)}
            ending = update(AttemptRow).where(open_yet).values(ended).returning(AttemptRow.id)
            if not session.scalars(ending).all():
                attempt = session.get(AttemptRow, attempt_id)
                state = f"is already {attempt.status}" if attempt else "does not exist"
                raise StoreError(f"attempt {attempt_id} {state}, so it cannot end as {status}")

    def record_measurement(
        self,
        suite: str,
        options: Mapping[str, Any],
        source_hash: str,
        machine_id: int,
        code_id: int,
        *,
        attempt_id: int | None = None,
        layer_id: int | None = None,
        status: MeasurementStatus = MeasurementStatus.DONE,
        error: str | None = None,
        traceback: str | None = None,
        seconds: float | None = None,
        metrics: Iterable[Metric] = (),
        arrays: Iterable[Array] = (),
    ) -> int:
        """Record a suite's measurement of an attempt or of a layer, with all of its values.

        Args:
            options: all options of the suite.
            source_hash: hash of the code that the suite depends on.
        """
        _check_status(status, set(MeasurementStatus))
        measurement = MeasurementRow(
            suite=suite,
            options=dict(options),
            source_hash=source_hash,
            attempt_id=attempt_id,
            layer_id=layer_id,
            machine_id=machine_id,
            code_id=code_id,
            status=status,
            error=error,
            traceback=traceback,
            seconds=seconds,
        )
        with self.writing() as session:
            measurement.measured_at = now(session)
            measurement_id = add(session, measurement)
            for row_type, values in ((MetricRow, metrics), (ArrayRow, arrays)):
                rows = [
                    vars(each) | {"where": dict(each.where), "measurement_id": measurement_id}
                    for each in values
                ]
                if rows:
                    session.execute(insert(row_type), rows)
            return measurement_id

    @contextmanager
    def alone(self) -> Iterator[Session]:
        """Open a transaction during which nobody else makes rows that identify something."""
        with self.writing() as session:
            if session.get_bind().dialect.name == "postgresql":
                session.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            session.connection()  # SQLite locks when the transaction begins, at its first use
            yield session

    def _by_content(
        self,
        row_type: type[MachineRow] | type[CodeVersionRow] | type[ComponentRow],
        records: Sequence[DataclassInstance],
    ) -> list[int]:
        hashes = [content_hash(record) for record in records]
        with self.alone() as session:
            rows, at = _ids(session, row_type, row_type.hash, hashes), now(session)
            for key, record in zip(hashes, records, strict=True):
                if key not in rows:
                    row = row_type(hash=key, first_seen=at, **asdict(record))
                    rows[key] = add(session, row)
            return [rows[key] for key in hashes]

    def _subjects(
        self, row_type: type[TrialRow] | type[LayerRow], made_of: Table, subjects: Sequence[Subject]
    ) -> list[int]:
        wanted = [each.fingerprint for each in subjects]
        parents = [each.parent for each in subjects if each.parent is not None]
        key, links = made_of.columns.keys()[0], []
        with self.alone() as session:
            rows = _ids(session, row_type, row_type.fingerprint, wanted + parents)
            at = now(session)
            for each in subjects:
                if each.fingerprint in rows:
                    continue
                row = row_type(
                    fingerprint=each.fingerprint, description=dict(each.description), created_at=at
                )
                if isinstance(row, TrialRow):
                    row.transform = each.transform
                    row.parent_id = None if each.parent is None else rows[each.parent]
                rows[each.fingerprint] = made = add(session, row)
                links += [{key: made, "component_id": component} for component in each.components]
            if links:
                session.execute(insert(made_of), links)
            return [rows[fingerprint] for fingerprint in wanted]

    def _add_to_study(
        self,
        link: type[StudyTrialRow] | type[StudyLayerRow],
        study_id: int,
        key: str,
        ids: Iterable[int],
    ) -> None:
        with self.alone() as session:
            asked = now(session)
            for some in chunks(ids):
                shown = delete(link).filter_by(study_id=study_id)
                session.execute(shown.where(getattr(link, key).in_(some)))
                rows = [{"study_id": study_id, key: id, "requested_at": asked} for id in some]
                session.execute(insert(link), rows)


def _ids(
    session: Session, row_type: type[Row], key: InstrumentedAttribute[str], wanted: Iterable[str]
) -> dict[str, int]:
    """Return the ids of the wanted rows that exist, by key."""
    return dict(tuple(row) for row in among(session, select(key, row_type.id), key, wanted))


def _check_status(status: str, valid: Iterable[StrEnum]) -> None:
    names = [each.value for each in valid]
    if status not in names:
        raise StoreError(f"no such status: {status!r}{nearest(status, names)}")
