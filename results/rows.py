"""Rows that several methods of the store write alike, within a transaction of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from results.models import Base, Row

AnyRow = TypeVar("AnyRow", bound=Base)


def get_or_create(
    session: Session, row_type: type[AnyRow], key: Mapping[str, Any], made: Mapping[str, Any]
) -> AnyRow:
    """The row with this key; made from both mappings where there is none."""
    query = select(row_type).filter_by(**key)
    row = session.scalars(query).one_or_none()
    if row is None:
        row = row_type(**key, **made)
        try:
            with session.begin_nested():
                session.add(row)
        except IntegrityError:
            # PostgreSQL lets another writer make it between the look and the insertion.
            row = session.scalars(query).one_or_none()
            if row is None:
                raise
    return row


def add(session: Session, row: Row) -> int:
    """The new row's id."""
    session.add(row)
    session.flush()
    return row.id


def now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)
