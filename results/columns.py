"""Column types that SQLite and PostgreSQL keep alike."""

from __future__ import annotations

import io
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import DateTime, Dialect, Double, LargeBinary, Text, TypeDecorator

from results.errors import StoreError
from results.text import readable


class Readable(TypeDecorator[str]):
    """Text. What no database can hold, as of a file's name that is no UTF-8, is kept escaped."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        return None if value is None else readable(value)


class Real(TypeDecorator[float]):
    """A float that is always there. SQLite turns NaN into NULL, so NULL is read as NaN."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: Dialect) -> float:
        return float(value)

    def process_result_value(self, value: Any, _dialect: Dialect) -> float:
        return math.nan if value is None else value


class Moment(TypeDecorator[datetime]):
    """A time with its zone; kept in UTC, since SQLite keeps no zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Npy(TypeDecorator[np.ndarray]):
    """A numpy array as the bytes of an `.npy` file: its type and shape are in it; no pickle.

    Its texts are readable, see `Readable`, also those that older code kept as they were.
    """

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: Dialect) -> bytes:
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise StoreError(f"an array of type {array.dtype} cannot be stored; give it numbers")
        buffer = io.BytesIO()
        np.save(buffer, _readable(array), allow_pickle=False)
        return buffer.getvalue()

    def process_result_value(self, value: Any, _dialect: Dialect) -> np.ndarray:
        return _readable(np.load(io.BytesIO(value), allow_pickle=False))


def _readable(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "U":
        return array
    return np.array([readable(text) for text in array.flat], np.str_).reshape(array.shape)
