"""Reads for the engine: what has been done already, by which code, and with what outcome."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Select, Text, cast, func, or_, select

from results.connect import Database, among
from results.models import (
    AttemptRow,
    ComponentRow,
    LayerRow,
    MachineRow,
    MeasurementRow,
    MetricRow,
    StudyLayerRow,
    StudyRow,
    StudyTrialRow,
    TrialRow,
    trial_components,
)
from results.store.records import (
    AttemptRecord,
    AttemptStatus,
    ComponentRef,
    Machine,
    Made,
    MeasurementStatus,
    StudyRecord,
    TrialRecord,
    record_of,
)
from results.text import StoreError, content_hash, nearest

MADE = (MeasurementRow.suite, cast(MeasurementRow.options, Text), MeasurementRow.source_hash)
"""Columns that identify a measurement; options are text, as written by `results.text.to_json`."""
MEASURED = (MeasurementStatus.DONE, MeasurementStatus.SKIPPED)
SUBJECTS: tuple[tuple[Any, Any], ...] = ((TrialRow, StudyTrialRow), (LayerRow, StudyLayerRow))
BY_BEGIN = (AttemptRow.started_at, AttemptRow.id)
BY_TIME = (MeasurementRow.measured_at, MeasurementRow.id)
"""The newest last. Ids alone do not give the order: merged rows have the highest."""
DISTURBED = or_(MetricRow.name == "disturbed", MetricRow.name.endswith("_disturbed"))
"""Metrics, one per timed pass, that are 1 if other processes disturbed the timing."""


class Reader(Database):
    """The half of a store that reads."""

    def attempts(self, fingerprints: Iterable[str]) -> dict[str, list[AttemptRecord]]:
        """Return all attempts at these trials, by fingerprint and in order of insertion."""
        query = select(AttemptRow, TrialRow.fingerprint).join(AttemptRow.trial)
        query = query.order_by(AttemptRow.id)
        tried: dict[str, list[AttemptRecord]] = defaultdict(list)
        with self.reading() as session:
            for row, name in among(session, query, TrialRow.fingerprint, fingerprints):
                tried[name].append(_attempt_of(row, name))
        return dict(tried)

    def attempt(self, attempt_id: int) -> AttemptRecord:
        """Return an attempt by its id."""
        query = select(AttemptRow, TrialRow.fingerprint).join(AttemptRow.trial)
        with self.reading() as session:
            row, name = session.execute(query.where(AttemptRow.id == attempt_id)).one()
            return _attempt_of(row, name)

    def last_attempt(self, fingerprint: str) -> AttemptRecord | None:
        """Return the last attempt at this trial, whatever its status."""
        tried = self.attempts([fingerprint]).get(fingerprint, [])
        return tried[-1] if tried else None

    def done_attempt(self, fingerprint: str) -> AttemptRecord | None:
        """Return the attempt at this trial that counts: of those done, the one begun last."""
        return counting(self.attempts([fingerprint]).get(fingerprint, []))

    def newest(self) -> tuple[int, int]:
        """Return the ids of the last attempt and the last measurement; 0 if there is none."""
        with self.reading() as session:
            attempt, measurement = (
                session.scalar(select(func.max(row.id))) or 0
                for row in (AttemptRow, MeasurementRow)
            )
            return attempt, measurement

    def trials_begun_after(self, attempt: int) -> dict[int, int]:
        """Return the attempts begun after an attempt: the trial's id by the attempt's id."""
        query = select(AttemptRow.id, AttemptRow.trial_id).where(AttemptRow.id > attempt)
        with self.reading() as session:
            return dict(session.execute(query).all())

    def measured(self, attempt_ids: Iterable[int]) -> dict[int, set[Made]]:
        """Return what has been measured of each of these attempts."""
        return self._measured(select(MeasurementRow.attempt_id, *MADE), attempt_ids)

    def measured_layers(self, fingerprints: Iterable[str], machine_id: int) -> dict[str, set[Made]]:
        """Return what has been measured of each of these bare layers on a machine."""
        return self._measured(_of_layers(machine_id), fingerprints)

    def _measured(self, query: Any, subjects: Iterable[Any]) -> dict[Any, set[Made]]:
        """Group by the query's first column; a suite skipped as inapplicable counts as measured."""
        query = query.where(MeasurementRow.status.in_(MEASURED))
        by_subject: dict[Any, set[Made]] = defaultdict(set)
        with self.reading() as session:
            for key, *made in among(session, query, query.selected_columns[0], subjects):
                by_subject[key].add(Made(*made))
        return by_subject

    def disturbed_layers(
        self, fingerprints: Iterable[str], machine_id: int, newest: int
    ) -> dict[str, set[Made]]:
        """Return the measurements of these bare layers whose last timing on a machine was noisy.

        Args:
            newest: the id of the newest measurement that may be among them.
        """
        values = select(MetricRow.id).where(MetricRow.measurement_id == MeasurementRow.id)
        disturbed = values.where(DISTURBED, MetricRow.value > 0).exists()
        query = _of_layers(machine_id).add_columns(MeasurementRow.id, disturbed)
        query = query.where(MeasurementRow.status == MeasurementStatus.DONE)
        query = query.order_by(*BY_TIME)
        last: dict[tuple[str, Made], bool] = {}
        with self.reading() as session:
            rows = among(session, query, LayerRow.fingerprint, fingerprints)
            for key, *made, number, noisy in rows:
                last[key, Made(*made)] = bool(noisy) and number <= newest
        by_key: dict[str, set[Made]] = defaultdict(set)
        for (key, made_last), noisy in last.items():
            if noisy:
                by_key[key].add(made_last)
        return by_key

    def studies(self) -> list[StudyRecord]:
        """Return all studies, the one requested last at the end."""
        counts = (
            select(func.count()).where(link.study_id == StudyRow.id).scalar_subquery()
            for _, link in SUBJECTS
        )
        query = select(StudyRow, *counts).order_by(StudyRow.requested_at, StudyRow.id)
        with self.reading() as session:
            return [
                record_of(StudyRecord, row, trials=trials, layers=layers)
                for row, trials, layers in session.execute(query)
            ]

    def find_study(self, name: str | None = None) -> StudyRecord:
        """Return the study of this name, or the one requested last; tunings only if all are.

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

    def rows(self, study: str) -> dict[str, int]:
        """Return the row id of each trial and layer of a study, by fingerprint."""
        return self._of_subjects(study, "id")

    def descriptions(self, study: str) -> dict[str, dict[str, Any]]:
        """Return the descriptions of a study's trials and bare layers, by fingerprint."""
        return self._of_subjects(study, "description")

    def _of_subjects(self, study: str, column: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        with self.reading() as session:
            for row, link in SUBJECTS:
                query = select(row.fingerprint, getattr(row, column)).join(link).join(StudyRow)
                values |= dict(session.execute(query.where(StudyRow.name == study)).all())
        return values

    def all_trials(self) -> list[TrialRecord]:
        """Return every trial, the oldest first."""
        return self._trials("")

    def find_trial(self, prefix: str) -> TrialRecord:
        """Return the trial whose fingerprint begins with a prefix.

        Raises:
            StoreError: there is none, or there are several.
        """
        matching = self._trials(prefix)
        if len(matching) == 1:
            return matching[0]
        if not matching:
            known = [trial.fingerprint[:12] for trial in self.all_trials()]
            hint = nearest(prefix, known) if len(known) <= 20 else ""
            raise StoreError(f"no trial's fingerprint begins with {prefix!r}{hint}")
        longer = ", ".join(trial.fingerprint[:12] for trial in matching[:5])
        raise StoreError(f"{len(matching)} trials' fingerprints begin with {prefix!r}: {longer}, …")

    def _trials(self, prefix: str) -> list[TrialRecord]:
        # Components are read once by id: each holds its whole source, and many trials share it.
        columns = (ComponentRow.id, ComponentRow.kind, ComponentRow.name, ComponentRow.source_hash)
        query = select(TrialRow.id, TrialRow.fingerprint, TrialRow.description)
        query = query.where(TrialRow.fingerprint.startswith(prefix, autoescape=True))
        made_of: dict[int, list[ComponentRef]] = defaultdict(list)
        with self.reading() as session:
            refs = {row.id: ComponentRef(*row[1:]) for row in session.execute(select(*columns))}
            links = select(trial_components).order_by(*trial_components.c)
            for trial, component in session.execute(links):
                made_of[trial].append(refs[component])
            return [
                TrialRecord(id, fingerprint, description, tuple(made_of[id]))
                for id, fingerprint, description in session.execute(query.order_by(TrialRow.id))
            ]

    def definitions_of(self, trial: TrialRecord) -> dict[tuple[str, str], dict[str, str]]:
        """Return the definitions of each component of a trial, by its kind and name.

        Components written by older versions of this tool have none and are left out.
        """
        query = select(ComponentRow.kind, ComponentRow.name, ComponentRow.definitions)
        query = query.join(trial_components).where(trial_components.c.trial_id == trial.id)
        with self.reading() as session:
            rows = session.execute(query)
            return {(kind, name): definitions for kind, name, definitions in rows if definitions}

    def machine_id(self, machine: Machine) -> int | None:
        """Return the row id of this machine; None if nothing has run on it yet."""
        with self.reading() as session:
            return session.scalar(select(MachineRow.id).filter_by(hash=content_hash(machine)))

    def machine_of(self, study: str) -> Machine | None:
        """Return the machine of the study's last begun attempt; None if there is none yet."""
        query = (
            select(MachineRow)
            .join(AttemptRow, AttemptRow.machine_id == MachineRow.id)
            .join(StudyTrialRow, StudyTrialRow.trial_id == AttemptRow.trial_id)
            .join(StudyRow)
            .where(StudyRow.name == study)
            .order_by(AttemptRow.started_at.desc(), AttemptRow.id.desc())
        )
        with self.reading() as session:
            row = session.scalars(query.limit(1)).one_or_none()
            return None if row is None else record_of(Machine, row)


def counting(attempts: Iterable[AttemptRecord]) -> AttemptRecord | None:
    """Return the attempt whose result counts: of those done, the one that began last."""
    done = (each for each in attempts if each.status == AttemptStatus.DONE)
    return max(done, key=lambda each: (each.started_at, each.id), default=None)


def _of_layers(machine_id: int) -> Select[Any, Any, Any, Any]:
    """Return a query for what was measured of bare layers on a machine, with fingerprints."""
    query = select(LayerRow.fingerprint, *MADE)
    query = query.join(LayerRow, MeasurementRow.layer_id == LayerRow.id)
    return query.where(MeasurementRow.machine_id == machine_id)


def _attempt_of(row: AttemptRow, fingerprint: str) -> AttemptRecord:
    status = AttemptStatus(row.status)
    return record_of(AttemptRecord, row, fingerprint=fingerprint, status=status)
