"""The data of the page's interactive part: its charts, the leaderboard, and the trials behind it.

Plain lists and dicts, ready for JSON; a number that is not finite is null. Systems and conditions
are referred to by their labels, trials by their index in `trials`.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

import numpy as np

from report.cells import mean_cell
from report.comparisons import METRIC
from report.conditions import Entry, experts_label
from report.render import cell_parts, interval_text
from report.study import StudyData
from report.style import RouterStyle
from report.table import ARROWS, Absent, Cell, Column, Row, Table
from report.topics import compute, pareto, routing, transfer
from report.topics.accuracy import ACCURACY, ENTROPY, OVERHEAD, curve
from report.topics.loads import over_mean
from report.topics.trials import SHORT, Logs, readable, readable_status, reason_of, text_of

Plain = dict[str, Any]

MERGED = ("main", "spent", "balance")
"""Tables whose columns the leaderboard shows; of two columns with one key, the first counts."""
SHOWN = ("top1", "train_flops", "forward_overhead", "load_cv", "dropped", "H_s")
"""Columns that the leaderboard shows initially, along with those of few-shot accuracy."""
GROUPS = {
    "Accuracy": {*(column.key for column in ACCURACY), transfer.HEADLINE},
    "Cost": {column.key for column in (*compute.COLUMNS, *compute.MORE, OVERHEAD)},
    "Balance": {column.key for column in routing.BALANCE},
    "Entropy": {column.key for *_, column in ENTROPY},
}
"""The keys of columns, by the heading they are listed under."""
METRICS = {column.key: metric for metric, _, column in ENTROPY}
"""The metric of each column whose key differs from it."""
COSTS = {
    "flops": "train_flops", "seconds": "train_seconds", "parameters": "params_total",
    "image_flops": "flops_per_image",
}  # fmt: skip
"""The metric behind each cost, by its name on the page."""
SHAPES = {
    "o": "circle", "s": "square", "^": "triangle-up", "v": "triangle-down", "D": "diamond",
    "P": "cross", "X": "cross", "p": "square", "<": "triangle-left", ">": "triangle-right",
    "h": "circle", "d": "diamond", "*": "triangle-up", "H": "square",
}  # fmt: skip
"""The Vega shape for each matplotlib marker."""
MOST_EXPERTS = 256
"""The page holds the loads only of layers with at most this many experts."""
TAIL = 4000
"""How many characters of a log the page holds at most."""


def board(study: StudyData, tables: Sequence[Table | Absent], logs: Logs) -> Plain:
    """Return everything that the page's charts and leaderboard show."""
    made = {table.name: table for table in tables if isinstance(table, Table)}
    parts = [made[name] for name in MERGED if name in made]
    numbers = {trial: number for number, trial in enumerate(study.trials["trial"])}
    made_with = (study.router_sources.get(trial, "") for trial in study.trials["trial"])
    sources = list(dict.fromkeys(made_with))
    return _finite({
        "routers": [_router(system.label, style) for system, style in study.styles.items()],
        "conditions": [condition.label for condition in study.conditions],
        "runs": list(_runs(study)),
        "curves": list(_curves(study)),
        "loads": list(_loads(study)),
        "columns": [_column(study, each) for each in _columns(parts).values()],
        "rows": [_row(study, entry, parts, numbers) for entry in study.entries],
        "trials": list(_trials(study, logs, sources)),
        "sources": sources,
    })  # fmt: skip


def _router(label: str, style: RouterStyle) -> Plain:
    dashes = list(style.dashes[1])
    return {
        "name": label,
        "colour": style.colour,
        "shape": SHAPES[style.marker],
        "dash": [round(2 * each, 1) for each in dashes] or [1, 0],
    }


def _runs(study: StudyData) -> Iterator[Plain]:
    """Yield the accuracy in % and the costs of each system under each condition."""
    for condition in study.conditions:
        entries = study.under(condition)
        costs = {key: pareto.means(study, metric, entries) for key, metric in COSTS.items()}
        costs["ms"] = pareto.per_image(pareto.timed(study, entries))
        for entry in entries:
            cell = mean_cell(study, entry, study.final(METRIC, entry))
            if cell.value is None:
                continue
            yield {
                **_place(entry, condition.label),
                **dict(zip(("top1", "low", "high"), _scaled(cell, 100), strict=True)),
                "n": cell.n,
                **{key: of.get(entry) for key, of in costs.items()},
            }


def _curves(study: StudyData) -> Iterator[Plain]:
    """Yield validation accuracy in % along training: the mean, lowest and highest over seeds."""
    for condition in study.conditions:
        for entry in study.under(condition):
            points = curve(study, entry).drop(columns="n").round({"mean": 3, "low": 3, "high": 3})
            for point in points.to_dict("records"):
                yield _place(entry, condition.label) | point


def _loads(study: StudyData) -> Iterator[Plain]:
    """Yield loads relative to their mean, largest first, by layer and share of training (%).

    They are averaged over seeds, and come from the test split at the end of training, from the
    validation split before.
    """
    for entry in study.entries:
        by_place: dict[tuple[int, int], list[np.ndarray]] = defaultdict(list)
        steps = max(study.steps.get(entry, 1), 1)
        for record in study.arrays.get(entry, ()):
            if record.name == "load" and len(record.values) <= MOST_EXPERTS:
                share = 100 if record.step is None else round(100 * record.step / steps)
                if record.step is None or share < 100:
                    by_place[record.layer or 0, share].append(over_mean(record.values))
        for (layer, share), runs in sorted(by_place.items()):
            loads = np.mean(runs, axis=0).round(3).tolist()
            place = _place(entry, entry.condition.label)
            yield place | {"layer": layer, "share": share, "loads": loads}


def _columns(parts: Sequence[Table]) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for column in (each for table in parts for each in table.columns if not each.words):
        columns.setdefault(column.key, column)
    return columns


def _column(study: StudyData, column: Column) -> Plain:
    own = column.key.rpartition(".")[0]  # the suite, if it has no section of its own
    suite = own or study.suite_of.get(METRICS.get(column.key, column.key), "")
    groups = (group for group, keys in GROUPS.items() if column.key in keys)
    return {
        "key": column.key,
        "title": column.label + ARROWS[column.better],
        "unit": column.scope,
        "suite": suite,
        # Only the differences to the null models are left.
        "group": next(groups, own.replace("_", " ").capitalize() or "Accuracy"),
        "better": column.better,
        "shown": column.key in SHOWN or suite == "fewshot",
    }


def _row(study: StudyData, entry: Entry, parts: Sequence[Table], numbers: dict[str, int]) -> Plain:
    """Return a row of the leaderboard: a system under a condition, with its cells by column."""
    trials = study.trials_of(entry)
    cells: Plain = {}
    for table in parts:
        for row in (each for each in table.rows if each.entry == entry):
            for column, cell in zip(table.columns, row.cells, strict=True):
                if not column.words and (cell.value is not None or cell.words):
                    cells.setdefault(column.key, _cell(column, cell, row, numbers))
    first = trials.iloc[0]
    place = _place(entry, entry.condition.label)
    is_dense = study.families.get(entry.system.router) == "baseline"
    experts = "" if is_dense else experts_label(str(first["num_experts"]), first["experts"])
    return place | {"data": first["data"], "experts": experts, "cells": cells}


def _cell(column: Column, cell: Cell, row: Row, numbers: dict[str, int]) -> Plain:
    shown, rest = cell_parts(column, cell, row)
    value, low, high = _scaled(cell, column.scale)
    if not interval_text(column, cell):
        low = high = None
    behind = [numbers[trial] for trial in cell.trials if trial in numbers]
    values = [column.number(each) for each in cell.values]
    return {
        "shown": shown, "rest": rest, "marks": "".join(cell.marks), "best": cell.best,
        "value": value, "low": low, "high": high, "n": cell.n or column.n or row.n,
        "trials": behind, "values": values if len(values) == len(behind) else [],
    }  # fmt: skip


def _trials(study: StudyData, logs: Logs, sources: Sequence[str]) -> Iterator[Plain]:
    """Yield each trial: how it ended, what made it, its validation accuracies along training.

    Its router's file by its place in `sources`, since many trials share one.
    """
    rows = study.metrics[(study.metrics["metric"] == "val_top1") & study.metrics["step"].notna()]
    curves = dict(iter(rows.sort_values("step").groupby("trial")))
    for row in study.trials.itertuples():
        own = curves.get(row.trial)
        points = [] if own is None else zip(own["step"], 100 * own["value"], strict=True)
        yield {
            **_place(row.entry, row.condition.label),
            "name": row.router,
            "id": row.trial[:SHORT],
            "seed": int(row.seed),
            "status": readable_status(str(row.status)),
            "reason": "" if row.status == "done" else reason_of(str(row.status), row.error),
            "machine": text_of(row.machine_name),
            "code": text_of(row.code),
            "source": sources.index(study.router_sources.get(row.trial, "")),
            "log": text_of(row.log),
            "address": logs.link(text_of(row.log)),
            "tail": readable(text_of(row.log_tail))[-TAIL:],
            "curve": [[int(step), round(value, 2)] for step, value in points],
        }


def _place(entry: Entry, condition: str) -> Plain:
    return {"router": entry.label, "condition": condition}


def _scaled(cell: Cell, scale: float) -> tuple[float | None, ...]:
    ends = (cell.value, cell.low, cell.high)
    return tuple(None if end is None else round(scale * end, 6) for end in ends)


def _finite(value: Any) -> Any:
    """Return plain data with null for each number that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
