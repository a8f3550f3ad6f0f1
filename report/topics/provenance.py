"""How a study was made: by which code, on which machines, of which components."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any

import pandas as pd

from report.conditions import Entry, System, closest_layer
from report.study import StudyData
from report.style import Drawing
from report.table import OLDER, Absent, Cell, Column, Row, Table
from report.timings import machine_names
from report.topics import FIGURES, TABLES, generic
from results.frames import sentence

Card = dict[str, Any]
"""What the page shows of a router, a machine or a version of the code, by name."""


def router_cards(study: StudyData) -> list[Card]:
    """Return a card for each router of the study, in its order: what a reader should know of it.

    `hyper` are its hyper-parameters, with the values that the study gave them.
    """
    rows = study.components[study.components["kind"] == "router"].set_index("name")
    known = rows[["family", "summary", "text", "source", "bibtex", "hyper"]].to_dict("index")
    cards = []
    for name in dict.fromkeys(system.router for system in study.systems):
        unknown = {"summary": "The database has no card of this router.", "hyper": []}
        card = {"text": "", **known.get(name, unknown)}
        optional = {key: card.get(key) or "" for key in ("family", "source", "bibtex")}
        used = _values_used(study, name)
        hyper = [
            {
                "name": parameter["name"],
                "meaning": parameter.get("meaning", ""),
                "default": json.dumps(parameter.get("default")),
                "used": ", ".join(used.get(parameter["name"], [])),
            }
            for parameter in card["hyper"]
        ]
        cards.append(card | optional | {"name": name, "system": System(name), "hyper": hyper})
    return cards


def machines(study: StudyData) -> list[Card]:
    """Return every machine that made a number of this study, and how many it made."""
    names = machine_names(study)
    both = pd.concat([study.trials, study.measurements]).dropna(subset=["machine"])
    return [
        {
            "name": names[row.machine],
            "hardware": ", ".join(filter(None, (row.processor, row.gpu, row.driver))),
            "threads": str(row.threads),
            "trials": int((study.trials["machine"] == row.machine).sum()),
            "measurements": int((study.measurements["machine"] == row.machine).sum()),
        }
        for row in both.drop_duplicates("machine").itertuples()
    ]


def codes(study: StudyData) -> list[Card]:
    """Return every version of the code that made a number; `changed` since its commit, or not."""
    both = pd.concat([study.trials, study.measurements]).dropna(subset=["code"])
    return [
        {
            "commit": str(row.code).partition("+")[0],
            "changed": "+" in str(row.code),
            "python": str(row.python),
            "libraries": json.loads(str(row.libraries)),
        }
        for row in both.drop_duplicates("code").itertuples()
    ]


def bibtex(cards: Iterable[Card]) -> str:
    """Return the entries of all cards, each once."""
    return "\n\n".join(dict.fromkeys(card["bibtex"].strip() for card in cards if card["bibtex"]))


def _values_used(study: StudyData, router: str) -> dict[str, list[str]]:
    """Return the values of each hyper-parameter of a router in this study."""
    frames = [study.trials[["router", "options"]], study.measurements[["router", "options"]]]
    both = pd.concat(frames).drop_duplicates()
    used: dict[str, dict[str, None]] = defaultdict(dict)
    for text in both[both["router"] == router]["options"]:
        for name, value in json.loads(text).items():
            used[name][json.dumps(value)] = None
    return {name: list(values) for name, values in used.items()}


def aged_figure(part: Drawing | Absent, study: StudyData) -> Drawing | Absent:
    """Return the figure with whose numbers are of older code in its caption, where any are."""
    if isinstance(part, Absent):
        return part
    older = older_sentence(study, part.entries, _suites(part, study))
    return replace(part, caption=f"{part.caption} {older}") if older else part


def aged_table(part: Table | Absent, study: StudyData) -> Table | Absent:
    """Say so of a table, with a mark at each router, also one compared with, that is meant."""
    if isinstance(part, Absent):
        return part
    suites, older = _suites(part, study), list[Entry]()

    def marked(column: Column, cell: Cell, row: Row) -> Cell:
        entry = {"router": row.entry, "reference": row.reference}.get(column.key)
        if entry is None or not changed(study, entry, suites):
            return cell
        older.append(entry)
        return replace(cell, marks=(*cell.marks, OLDER))

    rows = [
        replace(row, cells=tuple(map(marked, part.columns, row.cells, repeat(row))))
        for row in part.rows
    ]
    if not older:
        return part
    caption = f"{part.caption} {OLDER} {older_sentence(study, older, suites)}"
    return replace(part, rows=tuple(rows), caption=caption)


def older_sentence(study: StudyData, entries: Iterable[Entry], suites: Sequence[str]) -> str:
    """Say whose numbers by these suites are of older code; "" where none are."""
    since: dict[System, set[str]] = defaultdict(set)
    for entry in entries:
        if parts := changed(study, entry, suites):
            since[entry.system] |= parts
    return sentence({system.label: parts for system, parts in since.items()})


def changed(study: StudyData, entry: Entry, suites: Iterable[str]) -> set[str]:
    """Find what changed since these suites measured an entry; nothing if it is of newest code."""
    parts = set[str]()
    for suite in suites:
        by_entry = study.changed.get(suite, {})
        layer = closest_layer(by_entry, entry) if suite == "throughput" else None
        parts |= by_entry.get(layer or entry, set())
    return parts


def _suites(part: Table | Drawing, study: StudyData) -> tuple[str, ...]:
    """Return whose numbers a table or figure shows."""
    name = part.name.partition("--")[0]
    makers = TABLES if isinstance(part, Table) else FIGURES
    own = {maker.name: maker.suites for maker in makers}
    return (*own.get(name, ()), *generic.suites_shown(study).get(name, ()))
