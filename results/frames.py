"""The database as pandas frames: everything that a report reads.

Unless `history` is set, a frame holds only what counts now (see `results.store.selection`).
A missing text is None, a missing integer `pandas.NA`.
"""

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import Text, cast, select
from sqlalchemy.orm import Session

from results.conditions import Condition, option_conditions
from results.groups import grouped
from results.models import ArrayRow, ComponentRow, MetricRow, StudyRow, StudyTrialRow, TrialRow
from results.store import selection
from results.store.records import ArrayRecord, MeasurementStatus, record_of
from results.store.store import Store
from results.text import StoreError, readable

SUBJECT = [
    *("router", "aa_replicate", "condition", "settings", "options", "experts", "num_experts"),
    *("model", "data", "seed"),
]
ENVIRONMENT = [
    *("machine", "machine_name", "processor", "gpu", "driver", "threads"),
    *("code", "python", "libraries", "current", "older", "changed"),
]
TRIAL_COLUMNS = [
    *("study", *SUBJECT, "trial", "parent", "status", "error", "flops", "steps", "seconds"),
    *("checkpoint", "checkpoint_sha256", "attempt", "started_at", "finished_at"),
    *("note", "log", "log_tail", "traceback"),
    *ENVIRONMENT,
]
MEASUREMENT_COLUMNS = [
    *("study", "suite", *SUBJECT, "status", "error", "seconds", "trial", "attempt"),
    *("measurement", "suite_options", "source_hash", "at", "traceback", *ENVIRONMENT),
]
METRIC_COLUMNS = [
    *("study", "suite", *SUBJECT, "metric", "value", "unit", "better", "layer", "step", "split"),
    *("where", "trial", "attempt", "measurement", "suite_options", "source_hash", "at"),
    *ENVIRONMENT,
]
COMPONENT_COLUMNS = [
    *("kind", "name", "family", "display", "summary", "text", "source", "bibtex", "hyper"),
    *("metrics", "main_metric", "source_hash", "source_text", "first_seen"),
]
BY_FIRST_SEEN = (ComponentRow.first_seen, ComponentRow.id)
TYPES: dict[str, Any] = {
    **dict.fromkeys(("num_experts", "seed", "layer", "step", "steps", "threads"), "Int64"),
    **dict.fromkeys(("attempt", "measurement"), "Int64"),
    "aa_replicate": "int64",
    **dict.fromkeys(("value", "flops", "seconds"), "float64"),
    **dict.fromkeys(("at", "started_at", "finished_at", "first_seen"), "datetime64[us, UTC]"),
    **dict.fromkeys(("current", "older"), "bool"),
}


def trials_frame(store: Store, study: str | None = None, *, history: bool = False) -> pd.DataFrame:
    """Return one row per trial, with the attempt that represents it; `waiting` if there is none.

    `parent` is the fingerprint of the trial that it is derived from, `settings` its condition as a
    JSON mapping of paths to values, and `condition` the same for readers. `aa_replicate` is 1 for a
    router's second run in the A/A control and 0 otherwise.

    Args:
        study: None for all trials, including those that belong to no study.
        history: include every attempt, and trials of older code.

    Raises:
        StoreError: there is no such study.
    """
    _check_study(store, study)
    with store.reading() as session:
        rows = [row for row in selection.trials(session, study) if row["current"] or history]
    return _frame(map(_with_label, rows), TRIAL_COLUMNS)


def measurements_frame(
    store: Store, study: str | None = None, *, history: bool = False
) -> pd.DataFrame:
    """Return one row per measurement, even failed or skipped; arguments as for `trials_frame`."""
    _check_study(store, study)
    with store.reading() as session:
        return _frame(map(_with_label, _measurements(session, study, history)), MEASUREMENT_COLUMNS)


def metrics_frame(
    store: Store,
    study: str | None = None,
    *,
    history: bool = False,
    names: Collection[str] | None = None,
) -> pd.DataFrame:
    """Return one row per metric value: its condition, place, environment, unit and direction.

    Other arguments are as for `trials_frame`. `where` is JSON text with sorted keys; `seed` is
    missing for bare layers.

    Args:
        names: names of the metrics to read; None for all.
    """
    _check_study(store, study)
    row = MetricRow
    query = select(
        *(row.measurement_id.label("measurement"), row.name.label("metric"), row.value, row.layer),
        *(row.step, row.split, cast(row.where, Text).label("where")),
    )
    query = query.where(row.measurement_id.in_(selection.in_study(study))).order_by(row.id)
    if names is not None:
        query = query.where(row.name.in_(names))
    with store.reading() as session:
        measured = _frame(map(_with_label, _done(session, study, history)), MEASUREMENT_COLUMNS)
        metrics = _frame(session.execute(query).all(), query.selected_columns.keys())
        definitions = _definitions(session)
    metrics = metrics.merge(measured, on="measurement")
    keys = ["suite", "source_hash", "metric"]
    defined = metrics[keys].drop_duplicates()
    known = [
        definitions.get((suite, code, metric)) or definitions.get((suite, metric), {})
        for suite, code, metric in defined[keys].itertuples(index=False)
    ]
    for column in ("unit", "better"):
        defined[column] = [definition.get(column) for definition in known]
    return _frame(metrics.merge(defined, on=keys), METRIC_COLUMNS)


def arrays_of(store: Store, study: str | None) -> list[ArrayRecord]:
    """Return the arrays of a study (None: of all studies)."""
    _check_study(store, study)
    query = select(ArrayRow).where(ArrayRow.measurement_id.in_(selection.in_study(study)))
    own = ("study", "suite", "router", "aa_replicate", "seed")
    with store.reading() as session:
        rows = session.scalars(query.order_by(ArrayRow.id))
        arrays = grouped((row.measurement_id, row) for row in rows)
        return [
            record_of(
                ArrayRecord,
                row,
                condition=_readable(fields["condition"]),
                **{key: fields[key] for key in own},
            )
            for fields in _done(session, study, history=False)
            for row in arrays[fields["measurement"]]
        ]


def components_frame(store: Store) -> pd.DataFrame:
    """Return one row per router, experts, loss or suite: the card of its newest version."""
    query = select(ComponentRow).order_by(ComponentRow.kind, ComponentRow.name, *BY_FIRST_SEEN)
    with store.reading() as session:
        newest = {(row.kind, row.name): row for row in session.scalars(query)}
        rows = [{name: getattr(row, name) for name in COMPONENT_COLUMNS} for row in newest.values()]
    return _frame(rows, COMPONENT_COLUMNS)


def router_sources(store: Store, study: str) -> dict[str, str]:
    """Return the file of the router that each trial of a study was made with, by fingerprint."""
    query = (
        select(TrialRow.fingerprint, ComponentRow.source_text)
        .join(TrialRow.components)
        .join(StudyTrialRow, StudyTrialRow.trial_id == TrialRow.id)
        .join(StudyRow)
        .where(StudyRow.name == study, ComponentRow.kind == "router")
        .order_by(TrialRow.id)
    )
    with store.reading() as session:
        return dict(session.execute(query).all())


def _check_study(store: Store, study: str | None) -> None:
    if study is not None:
        store.find_study(study)


def _measurements(session: Session, study: str | None, history: bool) -> list[dict[str, Any]]:
    """Return the rows that count (or all); their conditions include differing suite options."""
    rows = [row for row in selection.measurements(session, study) if row["current"] or history]
    for shown in grouped((row["study"], row) for row in rows).values():
        options = option_conditions([(row["suite"], row["options_given"]) for row in shown])
        for row, differing in zip(shown, options, strict=True):
            row["condition"] += differing
    return rows


def _done(session: Session, study: str | None, history: bool) -> list[dict[str, Any]]:
    """Return only finished measurements: what a failed one found before failing is no result."""
    rows = _measurements(session, study, history)
    return [row for row in rows if row["status"] == MeasurementStatus.DONE]


def _definitions(session: Session) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return metric definitions by (suite, source hash, name), the newest also by (suite, name)."""
    by_name: dict[tuple[str, ...], dict[str, Any]] = {}
    suites = select(ComponentRow).filter_by(kind="suite").order_by(*BY_FIRST_SEEN)
    for suite in session.scalars(suites):
        for definition in suite.metrics:
            by_name[suite.name, suite.source_hash, definition["name"]] = definition
            by_name[suite.name, definition["name"]] = definition
    return by_name


def _with_label(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its condition in the form that frames use."""
    condition = _readable(row["condition"])
    return row | {"condition": condition.label, "settings": json.dumps(condition.mapping)}


def _readable(condition: Condition) -> Condition:
    return Condition(tuple((path, readable(value)) for path, value in condition.settings))


def _frame(rows: Iterable[Any] | pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Make a frame with exactly these columns, in order and each with its type."""
    data = rows if isinstance(rows, pd.DataFrame) else list(rows)
    frame = pd.DataFrame(data, columns=columns, dtype=object)
    return pd.DataFrame({name: _typed(frame[name], TYPES.get(name)) for name in columns})


def _typed(column: pd.Series, dtype: Any) -> pd.Series:
    if dtype is not None:
        return column.astype(dtype)
    cells = [readable(cell) if isinstance(cell, str) else cell for cell in column]
    texts = pd.Series(cells, column.index, object)
    return texts.where(texts.notna(), None)


def older_sentence(frame: pd.DataFrame) -> str:
    """Say which numbers in a frame are from older code and what has changed since; "" if none are.

    Args:
        frame: rows of `trials_frame`, `measurements_frame` or `metrics_frame`.
    """
    rows = frame.loc[frame["older"], ["router", "changed"]].drop_duplicates()
    return sentence(grouped(rows.itertuples(index=False)))


def sentence(changed: Mapping[str, Iterable[str]]) -> str:
    """Say which routers' numbers are from older code and what has changed since; "" if none are.

    Args:
        changed: what has changed since, by router, as in the frames.
    """
    if not changed:
        return ""
    each = {part for texts in changed.values() for text in texts for part in text.split(", ")}
    *others, last = sorted(each)
    return (
        f"From older code than the newest results here: {', '.join(changed)}; since then "
        f"{' and '.join(filter(None, (', '.join(others), last)))} changed."
    )


WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    ".csv": lambda frame, file: frame.to_csv(file, index=False),
    ".parquet": lambda frame, file: frame.to_parquet(file, engine="pyarrow", index=False),
}


def export(store: Store, path: str | Path, study: str | None = None) -> Path:
    """Write all metrics to a file, including those of older code (`current` tells them apart).

    Args:
        path: the file to write; its suffix, `.csv` or `.parquet`, determines the format.
        study: name of a study; None for all.

    Raises:
        StoreError: another suffix, no such study, or a file that cannot be written.
    """
    file = Path(path)
    if file.suffix not in WRITERS:
        raise StoreError(f"cannot export to {file.name!r}: the name ends in {' or '.join(WRITERS)}")
    frame = metrics_frame(store, study, history=True)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            WRITERS[file.suffix](frame, unfinished)
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {file}: {error}") from error
    return file
