"""Writing down what was tried and what came of it; each method is one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import Select, insert, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from results.columns import Row
from results.connect import Database
from results.models import ArrayRow, AttemptRow, MeasurementRow, MetricRow
from results.store.records import Array, AttemptStatus, MeasurementStatus, Metric
from results.text import StoreError, nearest

CHUNK = 1000
"""Values in one `IN (…)`: every database takes so many."""

Value = TypeVar("Value")


def add(session: Session, row: Row) -> int:
    """Return the new row's id."""
    session.add(row)
    session.flush()
    return row.id


def chunks(values: Iterable[Value]) -> Iterator[list[Value]]:
    """Yield the distinct values, so many at once as a query takes."""
    distinct = list(dict.fromkeys(values))
    for start in range(0, len(distinct), CHUNK):
        yield distinct[start : start + CHUNK]


def among(
    session: Session,
    query: Select[*tuple[Any, ...]],
    column: InstrumentedAttribute[Any],
    values: Iterable[Any],
) -> Iterator[Any]:
    """Yield the query's rows whose column has one of these values."""
    for some in chunks(values):
        yield from session.execute(query.where(column.in_(some)))


def now() -> datetime:
    """Return the time, with its zone."""
    return datetime.now(UTC)


UNFINISHED = (AttemptStatus.RUNNING, AttemptStatus.INTERRUPTED)
"""Statuses of an attempt that may go on in its own row."""
ENDS = ("finished_at", "error", "traceback", "log_tail")
"""What is known of an attempt that ended, and no more of one that goes on."""


class Outcomes(Database):
    """Attempts and measurements. Every method that makes a row returns its id."""

    def begin_attempt(
        self,
        trial_id: int,
        machine_id: int,
        code_id: int,
        log: str | None = None,
        note: str | None = None,
    ) -> int:
        """Begin an attempt at the trial, or go on where the last one was interrupted.

        Whoever begins holds the trial's claim (see `results.store.leases`): a last attempt that is
        still running is nobody's, and goes on in its own row.

        Args:
            log: the file that it writes to.
            note: what a reader of its result must know.
        """
        begun = {
            "machine_id": machine_id,
            "code_id": code_id,
            "log": log,
            "note": note,
            "status": AttemptStatus.RUNNING,
        }
        last = select(AttemptRow).filter_by(trial_id=trial_id).order_by(AttemptRow.id.desc())
        with self.writing() as session:
            attempt = session.scalars(last.limit(1)).one_or_none()
            if attempt is None or attempt.status not in UNFINISHED:
                return add(session, AttemptRow(trial_id=trial_id, started_at=now(), **begun))
            for name, value in {**begun, **dict.fromkeys(ENDS)}.items():
                setattr(attempt, name, value)
            return attempt.id

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
        log_tail: str | None = None,
    ) -> None:
        """End the attempt, or mark it as interrupted, with what is known of it.

        Raises:
            StoreError: it has ended already, or there is no such status.
        """
        _check_status(status, set(AttemptStatus) - {AttemptStatus.RUNNING})
        ended = {
            "status": status,
            "finished_at": now(),
            "error": error,
            "traceback": traceback,
            "flops": flops,
            "steps": steps,
            "seconds": seconds,
            "checkpoint": checkpoint,
            "checkpoint_sha256": checkpoint_sha256,
            "log_tail": log_tail,
        }
        open_yet = (AttemptRow.id == attempt_id) & AttemptRow.status.in_(UNFINISHED)
        with self.writing() as session:
            ended_ids = session.scalars(
                update(AttemptRow).where(open_yet).values(ended).returning(AttemptRow.id)
            )
            if not ended_ids.all():
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
        """Record a suite's measurement of an attempt or of a layer, with all that it found.

        Args:
            options: the suite's options, in full.
            source_hash: of the code that the suite depends on.
        """
        _check_status(status, set(MeasurementStatus))
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
                measured_at=now(),
            )
            measurement_id = add(session, measurement)
            _insert(session, MetricRow, measurement_id, (_metric(metric) for metric in metrics))
            _insert(session, ArrayRow, measurement_id, (_array(array) for array in arrays))
            return measurement_id


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


def _check_status(status: str, valid: Iterable[StrEnum]) -> None:
    names = [each.value for each in valid]
    if status not in names:
        raise StoreError(f"no such status: {status!r}{nearest(status, names)}")
