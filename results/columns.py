"""The base of all tables: constraint names, column types and a numeric id for each row."""

import io
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import JSON, DateTime, Dialect, Double, LargeBinary, MetaData, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from results.text import UnstorableError, readable


class Readable(TypeDecorator[str]):
    """Text. Characters that no database can hold, as in a non-UTF-8 file name, are escaped."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        return None if value is None else readable(value)


class Real(TypeDecorator[float]):
    """A float that is never missing. SQLite turns NaN into NULL, so NULL is read as NaN."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: Dialect) -> float:
        return float(value)

    def process_result_value(self, value: Any, _dialect: Dialect) -> float:
        return math.nan if value is None else value


class Moment(TypeDecorator[datetime]):
    """A time with its zone, stored in UTC because SQLite stores no zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Npy(TypeDecorator[np.ndarray]):
    """A numpy array as the bytes of an `.npy` file, with its type and shape; never pickled.

    Its texts are escaped as in `Readable`, including those that older code stored unescaped.
    """

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: Dialect) -> bytes:
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise UnstorableError(
                f"an array of type {array.dtype} cannot be stored; give it numbers"
            )
        buffer = io.BytesIO()
        np.save(buffer, _readable(array), allow_pickle=False)
        return buffer.getvalue()

    def process_result_value(self, value: Any, _dialect: Dialect) -> np.ndarray:
        return _readable(np.load(io.BytesIO(value), allow_pickle=False))


def _readable(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "U":
        return array
    return np.array([readable(text) for text in array.flat], np.str_).reshape(array.shape)


class Base(DeclarativeBase):
    # Later migrations can alter named constraints, even in SQLite.
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        dict[str, Any]: JSON,
        list[dict[str, Any]]: JSON,
        str: Readable,
        float: Double,
        datetime: Moment,
        np.ndarray: Npy,
    }


class Row(Base):
    __abstract__ = True

    id: Mapped[int] = mapped_column(primary_key=True, sort_order=-1)
