"""The texts of a report that hold numbers: its summary, its remarks and the captions of tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from report.remarks import remarks
from report.study import StudyData
from report.summary import compared, findings
from report.tables.table import Table


def texts(study: StudyData, tables: Iterable[Table]) -> dict[str, str]:
    """Each by where it stands."""
    best = {
        f"best {finding.condition}".strip(): " ".join(
            [finding.router, finding.accuracy, *finding.sentences]
        )
        for finding in findings(study)
    }
    captions = {f"caption of {table.name}": table.caption for table in tables}
    return {"summary": compared(study), **best, "remarks": " ".join(remarks(study)), **captions}


def changed(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The texts whose numbers are others now, each with those that are gone; wording is free."""
    found = []
    for place, text in then.items():
        told, held = _numbers(text), _numbers(now.get(place, ""))
        if told != held:
            gone = ", ".join(dict.fromkeys(number for number in told if number not in held))
            found.append(f"{place}: {gone or 'numbers'} in the report, not by the database now")
    return found


def _numbers(text: str) -> list[str]:
    return re.findall(r"[−-]?\d+(?:[.,]\d+)*", text)
