"""What all tables share: names of constraints, types of columns, a number for each row."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import JSON, Double, LargeBinary, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from results.columns import Moment, Npy, Readable


class Base(DeclarativeBase):
    # Named constraints can be altered by later migrations, in SQLite too.
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
        bytes: LargeBinary,
        datetime: Moment,
        np.ndarray: Npy,
    }


class Row(Base):
    __abstract__ = True

    id: Mapped[int] = mapped_column(primary_key=True, sort_order=-1)
