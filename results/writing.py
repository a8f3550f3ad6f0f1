"""Writing: each method is one transaction, so that a row is kept from the moment it is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from results.database import Database
from results.errors import StoreError, nearest
from results.models import (
    ArrayRow,
    AttemptRow,
    Base,
    CodeVersionRow,
    ComponentRow,
    LayerRow,
    MachineRow,
    MeasurementRow,
    MetricRow,
    Row,
    StudyLayerRow,
    StudyRow,
    StudyTrialRow,
    TrialRow,
)
from results.plain import content_hash
from results.records import (
    Array,
    AttemptStatus,
    CodeVersion,
    Component,
    Machine,
    MeasurementStatus,
    Metric,
)

AnyRow = TypeVar("AnyRow", bound=Base)


class Writer(Database):
    """The half of a store that writes. Every method that makes a row returns its id."""

    def machine(self, machine: Machine) -> int:
        """The machine's row, made if it is new."""
        return self._by_content(MachineRow, machine)

    def code_version(self, code: CodeVersion) -> int:
        """The code version's row, made if it is new."""
        return self._by_content(CodeVersionRow, code)

    def component(self, component: Component) -> int:
        """The component's row, made if this version of it is new."""
        return self._by_content(ComponentRow, component)

    def study(self, name: str, request: Mapping[str, Any]) -> int:
        """The study of this name, made if it is new; it keeps the request that was made last."""
        with self.writing() as session:
            now = _now()
            made = {"created_at": now, "requested_at": now, "request": request}
            study = _get_or_create(session, StudyRow, {"name": name}, made)
            study.requested_at, study.request = now, dict(request)
            return study.id

    def trial(
        self,
        fingerprint: str,
        description: Mapping[str, Any],
        parent: int | None = None,
        transform: str | None = None,
        components: Iterable[int] = (),
    ) -> int:
        """The trial of this fingerprint, made if it is new.

        Args:
            description: the whole trial as plain data.
            parent: the trial that it is derived from.
            transform: how (`distilled`, `pruned`, …).
            components: the rows of the router, experts and losses that it is made of.
        """
        with self.writing() as session:
            made = {
                "created_at": _now(),
                "description": description,
                "parent_id": parent,
                "transform": transform,
                "components": _components(session, components),
            }
            return _get_or_create(session, TrialRow, {"fingerprint": fingerprint}, made).id

    def layer(
        self, fingerprint: str, description: Mapping[str, Any], components: Iterable[int] = ()
    ) -> int:
        """The bare layer of this fingerprint, made if it is new."""
        with self.writing() as session:
            made = {
                "created_at": _now(),
                "description": description,
                "components": _components(session, components),
            }
            return _get_or_create(session, LayerRow, {"fingerprint": fingerprint}, made).id

    def add_trial_to_study(self, study_id: int, *trial_ids: int) -> None:
        """The study shows these trials; of trials alike but for the code, the last added counts."""
        self._add_to_study(StudyTrialRow, study_id, "trial_id", trial_ids)

    def add_layer_to_study(self, study_id: int, *layer_ids: int) -> None:
        """The study shows these layers; of layers alike but for the code, the last added counts."""
        self._add_to_study(StudyLayerRow, study_id, "layer_id", layer_ids)

    def start_attempt(
        self, trial_id: int, machine_id: int, code_id: int, log: str | None = None
    ) -> int:
        """A try at the trial begins now; `log` is the file that it writes to."""
        with self.writing() as session:
            attempt = AttemptRow(
                trial_id=trial_id,
                machine_id=machine_id,
                code_id=code_id,
                log=log,
                status="running",
                started_at=_now(),
            )
            return _add(session, attempt)

    def finish_attempt(
        self,
        attempt_id: int,
        status: AttemptStatus,
        *,
        error: str | None = None,
        traceback: str | None = None,
        flops: float | None = None,
        steps: int | None = None,
        seconds: float | None = None,
        checkpoint: str | None = None,
        checkpoint_sha256: str | None = None,
    ) -> None:
        """The running attempt ends now, with what is known of it.

        Raises:
            StoreError: it is not running, or there is no such status.
        """
        _check_status(status, set(get_args(AttemptStatus)) - {"running"})
        ended = {
            "status": status,
            "finished_at": _now(),
            "error": error,
            "traceback": traceback,
            "flops": flops,
            "steps": steps,
            "seconds": seconds,
            "checkpoint": checkpoint,
            "checkpoint_sha256": checkpoint_sha256,
        }
        running = (AttemptRow.id == attempt_id) & (AttemptRow.status == "running")
        with self.writing() as session:
            ended_ids = session.scalars(
                update(AttemptRow).where(running).values(ended).returning(AttemptRow.id)
            )
            if not ended_ids.all():
                found = session.get(AttemptRow, attempt_id)
                state = f"is already {found.status}" if found else "does not exist"
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
        status: MeasurementStatus = "done",
        error: str | None = None,
        traceback: str | None = None,
        seconds: float | None = None,
        metrics: Iterable[Metric] = (),
        arrays: Iterable[Array] = (),
    ) -> int:
        """A suite's measurement of an attempt or of a layer, with all that it found.

        Args:
            options: the suite's options, in full.
            source_hash: of the code that the suite depends on.
        """
        _check_status(status, get_args(MeasurementStatus))
        with self.writing() as session:
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
                measured_at=_now(),
            )
            measurement_id = _add(session, measurement)
            _insert(session, MetricRow, measurement_id, (_metric(metric) for metric in metrics))
            _insert(session, ArrayRow, measurement_id, (_array(array) for array in arrays))
            return measurement_id

    def _by_content(self, row_type: type[Row], record: Machine | CodeVersion | Component) -> int:
        with self.writing() as session:
            made = asdict(record) | {"first_seen": _now()}
            key = {"hash": content_hash(record)}
            return _get_or_create(session, row_type, key, made).id

    def _add_to_study(
        self,
        row_type: type[StudyTrialRow] | type[StudyLayerRow],
        study_id: int,
        key: str,
        ids: Iterable[int],
    ) -> None:
        now = _now()
        with self.writing() as session:
            # In one order for all writers: PostgreSQL would break a deadlock by refusing one.
            for subject_id in sorted(ids):
                link_key = {"study_id": study_id, key: subject_id}
                link = _get_or_create(session, row_type, link_key, {"requested_at": now})
                link.requested_at = now


def _get_or_create(
    session: Session, row_type: type[AnyRow], key: Mapping[str, Any], made: Mapping[str, Any]
) -> AnyRow:
    """The row with this key; made from both mappings where there is none."""
    query = select(row_type).filter_by(**key)
    row = session.scalars(query).one_or_none()
    if row is None:
        row = row_type(**key, **made)
        try:
            with session.begin_nested():
                session.add(row)
        except IntegrityError:
            # PostgreSQL lets another writer make it between the look and the insertion.
            row = session.scalars(query).one_or_none()
            if row is None:
                raise
    return row


def _add(session: Session, row: Row) -> int:
    session.add(row)
    session.flush()
    return row.id


def _insert(
    session: Session,
    row_type: type[MetricRow] | type[ArrayRow],
    measurement_id: int,
    values: Iterable[dict[str, Any]],
) -> None:
    rows = [{"measurement_id": measurement_id, **value} for value in values]
    if rows:
        session.execute(insert(row_type), rows)


def _metric(metric: Metric) -> dict[str, Any]:
    return {"value": metric.value, **_place(metric)}


def _array(array: Array) -> dict[str, Any]:
    return {"values": array.values, **_place(array)}


def _place(value: Metric | Array) -> dict[str, Any]:
    return {
        "name": value.name,
        "layer": value.layer,
        "step": value.step,
        "split": value.split,
        "where": dict(value.where),
    }


def _components(session: Session, ids: Iterable[int]) -> list[ComponentRow]:
    return list(session.scalars(select(ComponentRow).where(ComponentRow.id.in_(list(ids)))))


def _check_status(status: str, valid: Iterable[str]) -> None:
    if status not in valid:
        raise StoreError(f"no such status: {status!r}{nearest(status, valid)}")


def _now() -> datetime:
    return datetime.now(UTC)
