"""Reading what the engine asks: what has been done already, and how it went."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Text, cast, func, or_, select

from results.connect import Database
from results.models import (
    AttemptRow,
    LayerRow,
    MeasurementRow,
    MetricRow,
    StudyLayerRow,
    StudyRow,
    StudyTrialRow,
    TrialRow,
)
from results.store.outcomes import among
from results.store.records import AttemptRecord, AttemptStatus, Made, MeasurementStatus, StudyRecord
from results.text import StoreError, nearest

MADE = (MeasurementRow.suite, cast(MeasurementRow.options, Text), MeasurementRow.source_hash)
"""Options as text: they are written as `results.text.to_json` writes them."""
MEASURED = (MeasurementStatus.DONE, MeasurementStatus.SKIPPED)
DISTURBED = or_(MetricRow.name == "disturbed", MetricRow.name.endswith("_disturbed"))
"""Metrics that are 1 where other processes disturbed a timing, of each pass its own."""


class Reader(Database):
    """The half of a store that reads."""

    def done_attempt(self, fingerprint: str) -> AttemptRecord | None:
        """Return the last attempt at this trial that is done."""
        done = [each for each in self._of(fingerprint) if each.status == AttemptStatus.DONE]
        return done[-1] if done else None

    def last_attempt(self, fingerprint: str) -> AttemptRecord | None:
        """Return the last attempt at this trial, however it stands."""
        tried = self._of(fingerprint)
        return tried[-1] if tried else None

    def newest_attempt(self) -> int:
        """Return the number of the attempt that began last; 0 where there is none."""
        with self.reading() as session:
            return session.scalar(select(func.max(AttemptRow.id))) or 0

    def attempts(self, fingerprints: Iterable[str]) -> dict[str, list[AttemptRecord]]:
        """Return all attempts at each of these trials that was tried, the oldest first."""
        query = select(AttemptRow, TrialRow.fingerprint).join(AttemptRow.trial)
        tried: dict[str, list[AttemptRecord]] = defaultdict(list)
        with self.reading() as session:
            rows = among(session, query.order_by(AttemptRow.id), TrialRow.fingerprint, fingerprints)
            for row, fingerprint in rows:
                tried[fingerprint].append(_record(row, fingerprint))
        return dict(tried)

    def measured(self, attempt_ids: Iterable[int]) -> dict[int, set[Made]]:
        """Find what has been measured of each of these attempts."""
        return self._measured(select(MeasurementRow.attempt_id, *MADE), attempt_ids)

    def measured_layers(self, fingerprints: Iterable[str], machine_id: int) -> dict[str, set[Made]]:
        """Find what has been measured of each of these bare layers on a machine."""
        query = select(LayerRow.fingerprint, *MADE)
        query = query.join(LayerRow, MeasurementRow.layer_id == LayerRow.id)
        query = query.where(MeasurementRow.machine_id == machine_id)
        return self._measured(query, fingerprints)

    def newest_measurement(self) -> int:
        """Return the number of the measurement that was made last; 0 where there is none."""
        with self.reading() as session:
            return session.scalar(select(func.max(MeasurementRow.id))) or 0

    def disturbed_layers(
        self, fingerprints: Iterable[str], machine_id: int, newest: int
    ) -> dict[str, set[Made]]:
        """Return what of each of these bare layers was last timed beside other load on a machine.

        Args:
            newest: the number of the newest measurement that may be among them.
        """
        values = select(MetricRow.id).where(MetricRow.measurement_id == MeasurementRow.id)
        disturbed = values.where(DISTURBED, MetricRow.value > 0).exists()
        query = select(LayerRow.fingerprint, *MADE, MeasurementRow.id, disturbed)
        query = query.join(LayerRow, MeasurementRow.layer_id == LayerRow.id)
        query = query.where(MeasurementRow.machine_id == machine_id)
        query = query.where(MeasurementRow.status == MeasurementStatus.DONE).order_by(
            MeasurementRow.id
        )
        last: dict[tuple[str, Made], bool] = {}
        with self.reading() as session:
            for key, *made, number, noisy in among(
                session, query, LayerRow.fingerprint, fingerprints
            ):
                last[key, Made(*made)] = bool(noisy) and number <= newest
        by_key: dict[str, set[Made]] = defaultdict(set)
        for (key, made_last), noisy in last.items():
            if noisy:
                by_key[key].add(made_last)
        return by_key

    def studies(self) -> list[StudyRecord]:
        """Return all studies, the one asked for last at the end."""
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
        """Return the study of this name, or the one asked for last: a tuning only where all are.

        Raises:
            StoreError: there is none; the message names the nearest.
        """
        studies = {study.name: study for study in self.studies()}
        if not studies:
            raise StoreError("the database holds no study yet; `python bench.py run` makes one")
        if name is None:
            plain = [each.name for each in studies.values() if "tuning" not in each.request]
            name = (plain or list(studies))[-1]
        if name not in studies:
            raise StoreError(f"no study {name!r} in {self.url}{nearest(name, studies)}")
        return studies[name]

    def _of(self, fingerprint: str) -> list[AttemptRecord]:
        return self.attempts([fingerprint]).get(fingerprint, [])

    def _measured(self, query: Any, subjects: Iterable[Any]) -> dict[Any, set[Made]]:
        """Group by the query's first column; what was skipped as not applicable is measured."""
        query = query.where(MeasurementRow.status.in_(MEASURED))
        by_subject: dict[Any, set[Made]] = defaultdict(set)
        subject = query.selected_columns[0]
        with self.reading() as session:
            for key, *made in among(session, query, subject, subjects):
                by_subject[key].add(Made(*made))
        return by_subject


def _record(row: AttemptRow, fingerprint: str) -> AttemptRecord:
    return AttemptRecord(
        id=row.id,
        trial_id=row.trial_id,
        fingerprint=fingerprint,
        status=AttemptStatus(row.status),
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
