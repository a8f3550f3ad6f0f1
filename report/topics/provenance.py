"""Provenance of a study: its code, machines and components."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import pandas as pd

from report.conditions import System
from report.study import StudyData
from report.timings import machine_names

Card = dict[str, Any]
"""The fields of a router, a machine or a version of the code, as shown on the page."""


def router_cards(study: StudyData) -> list[Card]:
    """Return a card that describes each router of the study, in the study's order.

    Its `hyper` lists the hyper-parameters, with the values that the study gave them.
    """
    rows = study.components[study.components["kind"] == "router"].set_index("name")
    known = rows[["family", "summary", "text", "source", "bibtex", "hyper"]].to_dict("index")
    cards = []
    for system in dict.fromkeys(System(s.router, display=s.display) for s in study.systems):
        name = system.router
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
        cards.append(card | optional | {"name": name, "system": system, "hyper": hyper})
    return cards


def machines(study: StudyData) -> list[Card]:
    """Return each machine that produced results of this study, with its numbers of results."""
    names = machine_names(study)
    both = pd.concat([study.trials, study.measurements]).dropna(subset=["machine"])
    return [
        {
            "name": names[row.machine],
            "hardware": hardware(row),
            "threads": str(row.threads),
            "trials": int((study.trials["machine"] == row.machine).sum()),
            "measurements": int((study.measurements["machine"] == row.machine).sum()),
        }
        for row in both.drop_duplicates("machine").itertuples()
    ]


def hardware(row: Any) -> str:
    """Return the processor, the GPU and the driver of a row, in words."""
    return ", ".join(filter(None, (row.processor, row.gpu, row.driver)))


def codes(study: StudyData) -> list[Card]:
    """Return each version of the code that produced results; `changed`: not as committed."""
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


def newest(study: StudyData) -> datetime:
    """Return the time of the newest result, or of the request if there is none."""
    times = [*study.trials["finished_at"].dropna(), *study.measurements["at"].dropna()]
    return max([study.record.requested_at, *times])


def bibtex(cards: Iterable[Card]) -> str:
    """Return the BibTeX entries of all cards, each once."""
    entries = (entry for card in cards for entry in re.split(r"\n\n+(?=@)", card["bibtex"].strip()))
    return "\n\n".join(dict.fromkeys(filter(None, entries)))


def _values_used(study: StudyData, router: str) -> dict[str, list[str]]:
    """Return the values that each hyper-parameter of a router has in this study."""
    frames = [study.trials[["router", "options"]], study.measurements[["router", "options"]]]
    both = pd.concat(frames).drop_duplicates()
    used: dict[str, dict[str, None]] = defaultdict(dict)
    for text in both[both["router"] == router]["options"]:
        for name, value in json.loads(text).items():
            used[name][json.dumps(value)] = None
    return {name: list(values) for name, values in used.items()}
