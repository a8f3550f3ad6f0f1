"""What counts in a study: of all trials, attempts and measurements ever made, the current ones.

A result of older code stays in the database and no longer counts once newer code has replaced it:
of trials alike but for their code, the one that the study asked for last counts; of a trial's
attempts, the last that is done; of a suite's measurements of it, those of the suite's newest code.

What is given is one dict a row of a frame to be. `current` in it says whether the row counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session, aliased

from results.conditions import conditions
from results.models import (
    AttemptRow,
    LayerRow,
    MeasurementRow,
    StudyLayerRow,
    StudyRow,
    StudyTrialRow,
    TrialRow,
)
from results.plain import to_json

Fields = dict[str, Any]


def trials(session: Session, study: str | None) -> Iterator[Fields]:
    """Every attempt at the trials of a study (None: of all); `waiting` where there is none yet."""
    tried = _attempts(session)
    parents = _parents(session)
    for trial, fields in _subjects(session, study, TrialRow, StudyTrialRow):
        fields["parent"] = parents.get(trial.id)
        attempts = tried[trial.id]
        for attempt in attempts:
            counts = fields["current"] and attempt is attempts[-1]
            yield fields | _attempt_fields(attempt) | {"current": counts}
        if not attempts:
            yield fields | {"status": "waiting"}


def measurements(session: Session, study: str | None) -> Iterator[Fields]:
    """Every measurement of the trials and layers of a study (None: of all)."""
    tried, made = _attempts(session), _measurements(session, study)
    for trial, fields in _subjects(session, study, TrialRow, StudyTrialRow):
        for attempt in tried[trial.id]:
            stands = fields["current"] and attempt is tried[trial.id][-1]
            yield from _measured(made["attempt", attempt.id], fields | {"current": stands})
    for layer, fields in _subjects(session, study, LayerRow, StudyLayerRow):
        yield from _measured(made["layer", layer.id], fields)


def in_study(study: str | None) -> Select[Any]:
    """The ids of all measurements of a study (None: of all), as a query."""
    query = select(MeasurementRow.id)
    if study is None:
        return query
    attempts = (
        select(AttemptRow.id)
        .join(StudyTrialRow, StudyTrialRow.trial_id == AttemptRow.trial_id)
        .join(StudyRow)
        .where(StudyRow.name == study)
    )
    layers = select(StudyLayerRow.layer_id).join(StudyRow).where(StudyRow.name == study)
    return query.where(
        or_(MeasurementRow.attempt_id.in_(attempts), MeasurementRow.layer_id.in_(layers))
    )


def _subjects(
    session: Session,
    study: str | None,
    row_type: type[TrialRow] | type[LayerRow],
    link: type[StudyTrialRow] | type[StudyLayerRow],
) -> Iterator[tuple[TrialRow | LayerRow, Fields]]:
    query = select(StudyRow.name, row_type).select_from(row_type).outerjoin(link)
    query = query.outerjoin(StudyRow).order_by(link.requested_at, row_type.id)
    if study is not None:
        query = query.where(StudyRow.name == study)
    by_study: dict[str | None, list[Any]] = defaultdict(list)
    for study_name, row in session.execute(query):
        by_study[study_name].append(row)
    for name, rows in by_study.items():
        last = {to_json(row.description): row.id for row in rows}
        texts = conditions([row.description for row in rows])
        for row, condition in zip(rows, texts, strict=True):
            current = last[to_json(row.description)] == row.id
            fields = {"study": name, "condition": condition, "current": current}
            yield row, fields | _description_fields(row)


def _measured(made: Sequence[MeasurementRow], fields: Fields) -> Iterator[Fields]:
    """The measurements of one attempt or layer: one counts for each options and each machine."""
    newest_code = {row.suite: row.source_hash for row in made}
    counting = {
        (row.suite, to_json(row.options), row.machine_id): row.id
        for row in sorted(made, key=lambda row: (row.status == "done", row.id))
        if row.source_hash == newest_code[row.suite]
    }
    for row in made:
        counts = fields["current"] and row.id in counting.values()
        yield fields | _measurement_fields(row) | {"current": counts}


def _attempts(session: Session) -> dict[int, list[AttemptRow]]:
    """All attempts by trial. The last of each list stands for the trial."""
    by_trial: dict[int, list[AttemptRow]] = defaultdict(list)
    attempts = session.scalars(select(AttemptRow))
    for row in sorted(attempts, key=lambda row: (row.status == "done", row.id)):
        by_trial[row.trial_id].append(row)
    return by_trial


def _parents(session: Session) -> dict[int, str]:
    """The fingerprint of what each derived trial started from."""
    parent = aliased(TrialRow)
    query = select(TrialRow.id, parent.fingerprint).join(parent, TrialRow.parent_id == parent.id)
    return {row.id: row.fingerprint for row in session.execute(query)}


def _measurements(
    session: Session, study: str | None
) -> dict[tuple[str, int], list[MeasurementRow]]:
    """All measurements by what they were made on, the newest last."""
    by_subject: dict[tuple[str, int], list[MeasurementRow]] = defaultdict(list)
    made = select(MeasurementRow).where(MeasurementRow.id.in_(in_study(study)))
    for row in session.scalars(made.order_by(MeasurementRow.id)):
        kind = "attempt" if row.layer_id is None else "layer"
        by_subject[kind, row.attempt_id or row.layer_id or 0].append(row)
    return by_subject


def _description_fields(row: TrialRow | LayerRow) -> Fields:
    told = row.description
    return {
        "router": told["router"]["name"],
        "options": to_json(told["router"]["options"]),
        "experts": told["experts"]["name"],
        "num_experts": told["experts"]["num_experts"],
        "model": told["model"]["name"],
        "data": told["data"]["name"],
        "seed": told.get("seed"),
        "trial": row.fingerprint,
    }


def _attempt_fields(row: AttemptRow) -> Fields:
    return {
        "attempt": row.id,
        "status": row.status,
        "error": row.error,
        "flops": row.flops,
        "steps": row.steps,
        "seconds": row.seconds,
        "checkpoint": row.checkpoint,
        "checkpoint_sha256": row.checkpoint_sha256,
        "note": row.note,
        "log": row.log,
        "log_tail": row.log_tail,
        "traceback": row.traceback,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
    } | _environment_fields(row)


def _measurement_fields(row: MeasurementRow) -> Fields:
    return {
        "suite": row.suite,
        "options_given": row.options,
        "suite_options": to_json(row.options),
        "source_hash": row.source_hash,
        "attempt": row.attempt_id,
        "measurement": row.id,
        "status": row.status,
        "error": row.error,
        "seconds": row.seconds,
        "at": row.measured_at,
        "traceback": row.traceback,
    } | _environment_fields(row)


def _environment_fields(row: AttemptRow | MeasurementRow) -> Fields:
    machine, code = row.machine, row.code
    changed = f"+{code.hash[:6]}" if code.dirty else ""
    return {
        "machine": machine.hash[:12],
        "machine_name": machine.name,
        "processor": machine.processor,
        "gpu": machine.gpu,
        "driver": machine.driver,
        "threads": machine.threads,
        "code": f"{(code.commit or 'unknown')[:12]}{changed}",
        "python": code.python,
        "libraries": to_json(code.libraries),
    }
