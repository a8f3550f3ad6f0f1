"""How a study was made: by which code, on which machines, of which components."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from report.study import StudyData
from report.systems import router_of
from report.timings import machine_names

NO_CARD = "The database has no card of this router."


@dataclass(frozen=True)
class Hyper:
    """A hyper-parameter of a router: what it is, and the values that the study gave it."""

    name: str
    meaning: str
    default: str
    used: str


@dataclass(frozen=True)
class RouterCard:
    """What a reader should know of a router."""

    name: str
    family: str
    summary: str
    text: str
    source: str
    bibtex: str
    hyper: tuple[Hyper, ...]


@dataclass(frozen=True)
class MachineCard:
    """A machine, and how many trials and measurements it made."""

    name: str
    hardware: str
    threads: str
    trials: int
    measurements: int


@dataclass(frozen=True)
class CodeCard:
    """A version of the code; `changed` where it was not just the commit."""

    commit: str
    changed: bool
    python: str
    libraries: dict[str, str]


def router_cards(study: StudyData) -> list[RouterCard]:
    """A card for each router of the study, in its order."""
    cards = study.components[study.components["kind"] == "router"].set_index("name")
    names = dict.fromkeys(map(router_of, study.routers))
    return [_router_card(study, name, cards) for name in names]


def machines(study: StudyData) -> list[MachineCard]:
    """Every machine that made a number of this study."""
    names = machine_names(study)
    both = pd.concat([study.trials, study.measurements]).dropna(subset=["machine"])
    return [
        MachineCard(
            name=names[row.machine],
            hardware=", ".join(filter(None, (row.processor, row.gpu, row.driver))),
            threads=str(row.threads),
            trials=int((study.trials["machine"] == row.machine).sum()),
            measurements=int((study.measurements["machine"] == row.machine).sum()),
        )
        for row in both.drop_duplicates("machine").itertuples()
    ]


def codes(study: StudyData) -> list[CodeCard]:
    """Every version of the code that made a number of this study."""
    both = pd.concat([study.trials, study.measurements]).dropna(subset=["code"])
    return [
        CodeCard(
            commit=str(row.code).partition("+")[0],
            changed="+" in str(row.code),
            python=str(row.python),
            libraries=json.loads(str(row.libraries)),
        )
        for row in both.drop_duplicates("code").itertuples()
    ]


def bibtex(cards: list[RouterCard]) -> str:
    """The entries of all cards, each once."""
    return "\n\n".join(dict.fromkeys(card.bibtex.strip() for card in cards if card.bibtex))


def _router_card(study: StudyData, name: str, cards: pd.DataFrame) -> RouterCard:
    if name not in cards.index:
        return RouterCard(name, "", NO_CARD, "", "", "", ())
    row: Any = cards.loc[name]
    used = _values_used(study, name)
    return RouterCard(
        name=name,
        family=row["family"] or "",
        summary=row["summary"],
        text=row["text"],
        source=row["source"] or "",
        bibtex=row["bibtex"] or "",
        hyper=tuple(_hyper(told, used) for told in row["hyper"]),
    )


def _hyper(told: dict[str, Any], used: dict[str, list[str]]) -> Hyper:
    return Hyper(
        name=told["name"],
        meaning=told.get("meaning", ""),
        default=json.dumps(told.get("default")),
        used=", ".join(used.get(told["name"], [])),
    )


def _values_used(study: StudyData, router: str) -> dict[str, list[str]]:
    """The values of each hyper-parameter of a router in this study."""
    frames = [study.trials[["router", "options"]], study.measurements[["router", "options"]]]
    both = pd.concat(frames).drop_duplicates()
    used: dict[str, list[str]] = {}
    for text in both[both["router"].map(router_of) == router]["options"]:
        for name, value in json.loads(text).items():
            values = used.setdefault(name, [])
            if json.dumps(value) not in values:
                values.append(json.dumps(value))
    return used
