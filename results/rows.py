"""What several methods of the store do alike within a transaction of theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from results.base import Row

CHUNK = 1000
"""Values in one `IN (…)`: every database takes so many."""

Value = TypeVar("Value")


def add(session: Session, row: Row) -> int:
    """The new row's id."""
    session.add(row)
    session.flush()
    return row.id


def chunks(values: Iterable[Value]) -> Iterator[list[Value]]:
    """The distinct values, so many at once as a query takes."""
    distinct = list(dict.fromkeys(values))
    for start in range(0, len(distinct), CHUNK):
        yield distinct[start : start + CHUNK]


def among(
    session: Session,
    query: Select[*tuple[Any, ...]],
    column: InstrumentedAttribute[Any],
    values: Iterable[Any],
) -> Iterator[Any]:
    """The query's rows whose column has one of these values."""
    for some in chunks(values):
        yield from session.execute(query.where(column.in_(some)))


def now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)
