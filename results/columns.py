"""Column types that SQLite and PostgreSQL keep alike."""

from __future__ import annotations

import io
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import DateTime, Dialect, Double, LargeBinary, TypeDecorator

from results.errors import StoreError


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
    """A numpy array as the bytes of an `.npy` file: its type and shape are in it; no pickle."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: Dialect) -> bytes:
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise StoreError(f"an array of type {array.dtype} cannot be stored; give it numbers")
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        return buffer.getvalue()

    def process_result_value(self, value: Any, _dialect: Dialect) -> np.ndarray:
        return np.load(io.BytesIO(value), allow_pickle=False)
