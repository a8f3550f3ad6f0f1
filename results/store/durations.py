"""How long trainings and measurements took on a machine: what a forecast is made from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from results.connect import Database
from results.models import (
    AttemptRow,
    LayerRow,
    MachineRow,
    MeasurementRow,
    StudyLayerRow,
    StudyRow,
    StudyTrialRow,
    TrialRow,
)
from results.store.records import Machine

HARDWARE = ("name", "processor", "cores", "threads", "gpu", "gpu_count")
"""What machines have in common whose durations tell of each other; settings may differ."""


@dataclass(frozen=True)
class Duration:
    """Seconds that one training, or one measurement, took.

    Attributes:
        description: of the trial or bare layer.
        ended: when it was written down.
        flops: of the training.
        suite: the suite that measured; None for a training.
        layer: whether a bare layer was measured.
        skipped: whether the suite did not apply.
    """

    description: dict[str, Any]
    seconds: float
    ended: datetime
    flops: float | None = None
    suite: str | None = None
    layer: bool = False
    skipped: bool = False


def durations(store: Database, machine: Machine) -> list[Duration]:
    """List the trainings that are done, and the measurements, of this machine, of any settings."""
    alike = select(MachineRow.id).filter_by(**{name: getattr(machine, name) for name in HARDWARE})
    tried, made = AttemptRow, MeasurementRow
    columns: list[Any] = [tried.trial_id, tried.seconds, tried.flops, tried.finished_at]
    trainings = select(*columns).where(
        tried.machine_id.in_(alike), tried.status == "done", tried.seconds.is_not(None)
    )
    columns = [tried.trial_id, made.layer_id, made.suite, made.status, made.seconds]
    measurements = select(*columns, made.measured_at).select_from(made).outerjoin(tried)
    measurements = measurements.where(made.machine_id.in_(alike), made.seconds.is_not(None))
    with store.reading() as session:
        trials = _descriptions(session, select(TrialRow.id, TrialRow.description))
        layers = _descriptions(session, select(LayerRow.id, LayerRow.description))
        trained = [
            Duration(trials[row.trial_id], row.seconds, row.finished_at, flops=row.flops)
            for row in session.execute(trainings)
        ]
        measured = [
            Duration(
                layers[row.layer_id] if row.trial_id is None else trials[row.trial_id],
                row.seconds,
                row.measured_at,
                suite=row.suite,
                layer=row.trial_id is None,
                skipped=row.status == "skipped",
            )
            for row in session.execute(measurements)
        ]
    return [*trained, *measured]


def machine_of(store: Database, study: str) -> Machine | None:
    """Find the machine where an attempt at a trial of the study began last; None before any."""
    query = (
        select(MachineRow)
        .join(AttemptRow, AttemptRow.machine_id == MachineRow.id)
        .join(StudyTrialRow, StudyTrialRow.trial_id == AttemptRow.trial_id)
        .join(StudyRow)
        .where(StudyRow.name == study)
        .order_by(AttemptRow.id.desc())
    )
    with store.reading() as session:
        row = session.scalars(query.limit(1)).one_or_none()
        if row is None:
            return None
        return Machine(**{each.name: getattr(row, each.name) for each in fields(Machine)})


def descriptions(store: Database, study: str) -> dict[str, dict[str, Any]]:
    """Return the trials and bare layers of a study, by fingerprint."""
    by_fingerprint: dict[str, dict[str, Any]] = {}
    with store.reading() as session:
        for row, link in ((TrialRow, StudyTrialRow), (LayerRow, StudyLayerRow)):
            query = select(row.fingerprint, row.description).join(link).join(StudyRow)
            by_fingerprint |= _descriptions(session, query.where(StudyRow.name == study))
    return by_fingerprint


def _descriptions(session: Session, query: Select[Any, Any]) -> dict[Any, dict[str, Any]]:
    """Descriptions by the column that the query has before them."""
    return dict(session.execute(query).all())
