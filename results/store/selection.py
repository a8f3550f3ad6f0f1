"""Selection of the trials, attempts and measurements that count in a study, out of all ever made.

A result of older code stays in the database but no longer counts once newer code has replaced it.
Of trials that differ only in their code, or in what was found for their router, the one that the
study requested last counts; of a trial's attempts that are done, the one that began last; of a
suite's measurements of it, those of the suite's newest code.

What counts may still be from older code than its neighbours: a study that was requested with two
routers, and again with one of them after a code change, shows both. `older` marks such rows, and
`changed` names what has changed since. A trial or layer is older if anything that it or its parents
are made of (a component, the protocol; data or weights with the same description) has another
version in the last requested of the study's trials and layers that contain it. A measurement is
older if its subject is, or if the study's last measurement by its suite is from other code. If a
code change is reverted and the study requested again, the restored code is the newest again.
Outside a study nothing is older.

Each result is a dict for one row of a frame; its `current` tells whether the row counts.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Select, Text, cast, or_, select
from sqlalchemy.orm import Session, aliased

from results.conditions import conditions
from results.groups import grouped
from results.models import (
    AttemptRow,
    CodeVersionRow,
    ComponentRow,
    LayerRow,
    MachineRow,
    MeasurementRow,
    StudyLayerRow,
    StudyRow,
    StudyTrialRow,
    TrialRow,
    layer_components,
    trial_components,
)
from results.settings import REPLICATE, comparable
from results.store.leases import held_trials
from results.store.read import BY_BEGIN, BY_TIME, SUBJECTS
from results.store.records import AttemptStatus, MeasurementStatus
from results.text import to_json

Fields = dict[str, Any]
Subject = TrialRow | LayerRow
Components = Mapping[tuple[type[Subject], int], Sequence[tuple[str, str, str]]]
"""The kind, name and source hash of each component of a trial or layer, by type and row id."""
Versions = Mapping[tuple[str, ...], str]
"""The hash of each part that a trial or layer is made of."""

SECTIONS = {"data": "data", "weights": "model"}
"""Components that are not code, and the section of a description that identifies each."""


def trials(session: Session, study: str | None) -> Iterator[Fields]:
    """Yield the attempts at the trials of a study (None: of all); `waiting` if there is none."""
    tried, environment_of = _attempts(session, study), _environments(session)
    parent = aliased(TrialRow)
    derived = select(TrialRow.id, parent.fingerprint).join(parent, TrialRow.parent_id == parent.id)
    parents, working = dict(session.execute(derived).all()), held_trials(session)
    for trial, fields in _subjects(session, study):
        if isinstance(trial, LayerRow):
            continue
        fields["parent"] = parents.get(trial.id)
        attempts = tried[trial.id]
        for attempt in attempts:
            own = {column.key: getattr(attempt, column.key) for column in AttemptRow.__table__.c}
            own |= {"attempt": attempt.id} | environment_of(attempt.machine_id, attempt.code_id)
            if attempt.status == AttemptStatus.RUNNING and trial.id not in working:
                own["status"] = AttemptStatus.INTERRUPTED.value
            yield fields | own | {"current": fields["current"] and attempt is attempts[-1]}
        if not attempts:
            yield fields | {"status": "waiting"}


def measurements(session: Session, study: str | None) -> Iterator[Fields]:
    """Yield every measurement of the trials and layers of a study (None: of all studies)."""
    tried, made = _attempts(session, study), _measurements(session, study)
    by_study: dict[str | None, list[Fields]] = defaultdict(list)
    for row, fields in _subjects(session, study):
        made_here = by_study[fields["study"]]
        if isinstance(row, LayerRow):
            made_here += _measured(made["layer", row.id], fields)
            continue
        for attempt in tried[row.id]:
            stands = fields["current"] and attempt is tried[row.id][-1]
            made_here += _measured(made["attempt", attempt.id], fields | {"current": stands})
    for name, made_here in by_study.items():
        yield from made_here if name is None else _with_older_suites(made_here)


def in_study(study: str | None) -> Select[Any]:
    """Return a query for the ids of all measurements of a study (None: of all studies)."""
    query = select(MeasurementRow.id)
    if study is None:
        return query
    attempts = select(AttemptRow.id).where(AttemptRow.trial_id.in_(_trials_of(study)))
    layers = select(StudyLayerRow.layer_id).join(StudyRow).where(StudyRow.name == study)
    return query.where(
        or_(MeasurementRow.attempt_id.in_(attempts), MeasurementRow.layer_id.in_(layers))
    )


def _trials_of(study: str) -> Select[Any]:
    return select(StudyTrialRow.trial_id).join(StudyRow).where(StudyRow.name == study)


def _subjects(session: Session, study: str | None) -> Iterator[tuple[Subject, Fields]]:
    """Yield the trials and then the layers of each study, in the order they were requested."""
    by_study: dict[str | None, list[tuple[Any, Subject]]] = defaultdict(list)
    for row_type, link in SUBJECTS:
        query = select(StudyRow.name, link.requested_at, row_type).select_from(row_type)
        query = query.outerjoin(link).outerjoin(StudyRow).order_by(link.requested_at, row_type.id)
        if study is not None:
            query = query.where(StudyRow.name == study)
        for name, requested_at, row in session.execute(query):
            by_study[name].append((requested_at, row))
    components = _components(session)
    for name, asked in by_study.items():
        changed = {} if name is None else _changed(asked, components)
        baselines = {
            row.description["router"]["name"] for _, row in asked if _is_baseline(row, components)
        }
        trained: list[Fields] = []
        for kind in (TrialRow, LayerRow):
            rows = [row for _, row in asked if isinstance(row, kind)]
            described = [to_json(comparable(row.description)) for row in rows]
            last = dict(zip(described, rows, strict=True))
            made = conditions([row.description for row in rows], baselines, trained)
            trained = [row.description for row in rows]
            for row, text, condition in zip(rows, described, made, strict=True):
                fields = {
                    "study": name,
                    "router": row.description["router"]["name"],
                    "aa_replicate": row.description.get(REPLICATE, 0),
                    "condition": condition,
                    "options": to_json(row.description["router"]["options"]),
                    "experts": row.description["experts"]["name"],
                    "num_experts": row.description["experts"]["num_experts"],
                    "model": row.description["model"]["name"],
                    "data": row.description["data"]["name"],
                    "seed": row.description.get("seed"),
                    "trial": row.fingerprint,
                    "current": last[text] is row,
                    "older": bool(changed.get(row)),
                    "changed": changed.get(row),
                }
                yield row, fields


def _components(session: Session) -> Components:
    columns = (ComponentRow.kind, ComponentRow.name, ComponentRow.source_hash)
    parts = {id: tuple(part) for id, *part in session.execute(select(ComponentRow.id, *columns))}
    by_subject: dict[tuple[type[Subject], int], list[Any]] = defaultdict(list)
    for row_type, links in ((TrialRow, trial_components), (LayerRow, layer_components)):
        for subject, component in session.execute(select(links)):
            by_subject[row_type, subject].append(parts[component])
    return by_subject


def _is_baseline(row: Subject, components: Components) -> bool:
    """Tell whether a subject has no MoE layer, that is, has a router but no experts."""
    kinds = {kind for kind, _, _ in components.get((type(row), row.id), ())}
    return "router" in kinds and "experts" not in kinds


def _changed(
    asked: Sequence[tuple[Any, Subject]], components: Components
) -> dict[Subject, str | None]:
    """Name the components of which each trial or layer, given with a time, has an older version."""
    rows = [row for _, row in sorted(asked, key=lambda pair: pair[0])]
    trials = {row.id: row for row in rows if isinstance(row, TrialRow)}

    @cache
    def versions(row: Subject) -> Versions:
        parent = trials.get(row.parent_id or 0) if isinstance(row, TrialRow) else None
        own: Versions = {
            # Components that are not code can be compared only if their descriptions are equal.
            (kind, name, to_json(row.description.get(SECTIONS.get(kind, "")))): source_hash
            for kind, name, source_hash in components.get((type(row), row.id), ())
            if kind != "parent"  # the parent's own components say more
        }
        return {**versions(parent), **own} if parent else own

    changed = replaced([versions(row) for row in rows])
    since = [", ".join(f"{kind} {name!r}" for kind, name, _ in parts) or None for parts in changed]
    return dict(zip(rows, since, strict=True))


def replaced(asked: Sequence[Versions]) -> list[list[tuple[str, ...]]]:
    """Return the parts of each trial whose version differs from the last trial that has them.

    Args:
        asked: a study's trials and layers, the one requested last at the end.
    """
    newest: dict[tuple[str, ...], str] = {}
    for versions in asked:
        newest.update(versions)
    return [[part for part, code in each.items() if newest[part] != code] for each in asked]


def _measured(made: Sequence[Fields], fields: Fields) -> Iterator[Fields]:
    """Yield the measurements of one attempt or layer, marked by whether they count.

    One counts for each suite and its options; for a layer, also for each machine.

    Args:
        made: the measurements, the newest last.
    """
    newest_code = {row["suite"]: row["source_hash"] for row in made}
    counting = {
        (row["suite"], row["suite_options"], row["attempt"] or row["machine"]): row["measurement"]
        for row in sorted(made, key=lambda row: row["status"] == MeasurementStatus.DONE)
        if row["source_hash"] == newest_code[row["suite"]]
    }
    for row in made:
        counts = fields["current"] and row["measurement"] in counting.values()
        yield fields | row | {"current": counts}


def _with_older_suites(made: Sequence[Fields]) -> Iterator[Fields]:
    """Mark a study's measurements as older if the suite's last one was made by other code."""
    in_order = sorted(made, key=lambda row: (row["at"], row["measurement"]))
    newest_code = {row["suite"]: row["source_hash"] for row in in_order}
    for row in made:
        suite = row["suite"]
        since = None if row["source_hash"] == newest_code[suite] else f"suite {suite!r}"
        changed = ", ".join(filter(None, (row["changed"], since))) or None
        yield row | {"older": changed is not None, "changed": changed}


def _attempts(session: Session, study: str | None) -> dict[int, list[AttemptRow]]:
    """Return the attempts by trial. The last of each list represents the trial."""
    done = AttemptRow.status == AttemptStatus.DONE
    query = select(AttemptRow).order_by(done, *BY_BEGIN)
    if study is not None:
        query = query.where(AttemptRow.trial_id.in_(_trials_of(study)))
    return grouped((row.trial_id, row) for row in session.scalars(query))


def _measurements(session: Session, study: str | None) -> dict[tuple[str, int], list[Fields]]:
    """Return all measurements by attempt or layer, the newest last."""
    row = MeasurementRow
    columns: tuple[Any, ...] = (
        *(row.suite, cast(row.options, Text).label("suite_options"), row.source_hash),
        *(row.attempt_id.label("attempt"), row.id.label("measurement"), row.status, row.error),
        *(row.seconds, row.measured_at.label("at"), row.traceback),
    )
    query = select(row.layer_id, row.machine_id, row.code_id, *columns)
    query = query.where(row.id.in_(in_study(study))).order_by(*BY_TIME)
    _, _, _, *names = query.selected_columns.keys()
    environment_of, options_of = _environments(session), cache(json.loads)
    by_subject: dict[tuple[str, int], list[Fields]] = defaultdict(list)
    for layer_id, machine_id, code_id, *values in session.execute(query):
        fields = dict(zip(names, values, strict=True)) | environment_of(machine_id, code_id)
        fields["options_given"] = options_of(fields["suite_options"])
        subject = ("attempt", fields["attempt"]) if layer_id is None else ("layer", layer_id)
        by_subject[subject].append(fields)
    return by_subject


def _environments(session: Session) -> Callable[[int, int], Fields]:
    """Return a function that describes a machine and code version by id; each row is read once."""
    machines = {
        row.id: {
            "machine": row.hash[:12],
            "machine_name": row.name,
            **{name: getattr(row, name) for name in ("processor", "gpu", "driver", "threads")},
        }
        for row in session.scalars(select(MachineRow))
    }
    code = CodeVersionRow
    columns = (code.id, code.hash, code.commit, code.dirty, code.python, code.libraries)
    codes = {
        row.id: {
            "code": f"{(row.commit or 'unknown')[:12]}{f'+{row.hash[:6]}' if row.dirty else ''}",
            "python": row.python,
            "libraries": to_json(row.libraries),
        }
        for row in session.execute(select(*columns))
    }
    return lambda machine_id, code_id: machines[machine_id] | codes[code_id]
