"""Reading what the engine asks: what has been done already, and how it went."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import joinedload

from results.database import Database
from results.errors import StoreError, nearest
from results.models import (
    AttemptRow,
    MeasurementRow,
    StudyLayerRow,
    StudyRow,
    StudyTrialRow,
    TrialRow,
)
from results.plain import to_json
from results.records import AttemptRecord, StudyRecord


class Reader(Database):
    """The half of a store that reads."""

    def done_attempt(self, fingerprint: str) -> AttemptRecord | None:
        """The last attempt at this trial that is done."""
        return self._attempt(fingerprint, "done")

    def last_attempt(self, fingerprint: str) -> AttemptRecord | None:
        """The last attempt at this trial, however it stands."""
        return self._attempt(fingerprint)

    def measured(
        self,
        suite: str,
        options: Mapping[str, Any],
        source_hash: str,
        *,
        attempt_id: int | None = None,
        layer_id: int | None = None,
        machine_id: int | None = None,
    ) -> bool:
        """Whether this very measurement of an attempt, or of a layer, is done.

        So is one that was skipped: the suite does not apply to its subject.

        Args:
            machine_id: what a timing belongs to; None where any machine's measurement will do.
        """
        query = select(MeasurementRow.options).filter_by(
            suite=suite, source_hash=source_hash, attempt_id=attempt_id, layer_id=layer_id
        )
        query = query.where(MeasurementRow.status.in_(("done", "skipped")))
        if machine_id is not None:
            query = query.filter_by(machine_id=machine_id)
        with self.reading() as session:
            return json.loads(to_json(options)) in session.scalars(query).all()

    def studies(self) -> list[StudyRecord]:
        """All studies, the one asked for last at the end."""
        trials, layers = (
            select(func.count()).where(link.study_id == StudyRow.id).scalar_subquery()
            for link in (StudyTrialRow, StudyLayerRow)
        )
        query = select(StudyRow, trials, layers).order_by(StudyRow.requested_at, StudyRow.id)
        with self.reading() as session:
            return [
                StudyRecord(
                    id=row.id,
                    name=row.name,
                    created_at=row.created_at,
                    requested_at=row.requested_at,
                    request=row.request,
                    trials=trial_count,
                    layers=layer_count,
                )
                for row, trial_count, layer_count in session.execute(query)
            ]

    def find_study(self, name: str | None = None) -> StudyRecord:
        """The study of this name, or the one asked for last.

        Raises:
            StoreError: there is none; the message names the nearest.
        """
        studies = {study.name: study for study in self.studies()}
        if not studies:
            raise StoreError("the database holds no study yet; `python bench.py run` makes one")
        if name is None:
            name = next(reversed(studies))
        if name not in studies:
            raise StoreError(f"no study {name!r} in {self.url}{nearest(name, studies)}")
        return studies[name]

    def _attempt(self, fingerprint: str, status: str | None = None) -> AttemptRecord | None:
        query = (
            select(AttemptRow)
            .join(AttemptRow.trial)
            .where(TrialRow.fingerprint == fingerprint)
            .options(joinedload(AttemptRow.trial))
            .order_by(AttemptRow.id.desc())
            .limit(1)
        )
        if status is not None:
            query = query.where(AttemptRow.status == status)
        with self.reading() as session:
            row = session.scalars(query).one_or_none()
            return None if row is None else _record(row)


def _record(row: AttemptRow) -> AttemptRecord:
    return AttemptRecord(
        id=row.id,
        trial_id=row.trial_id,
        fingerprint=row.trial.fingerprint,
        status=row.status,  # type: ignore[arg-type]
        machine_id=row.machine_id,
        code_id=row.code_id,
        started_at=row.started_at,
        finished_at=row.finished_at,
        error=row.error,
        traceback=row.traceback,
        flops=row.flops,
        steps=row.steps,
        seconds=row.seconds,
        checkpoint=row.checkpoint,
        checkpoint_sha256=row.checkpoint_sha256,
        log=row.log,
        note=row.note,
        log_tail=row.log_tail,
    )
