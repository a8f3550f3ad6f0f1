"""Plain data as canonical JSON: one text for equal values, to be compared and hashed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from results.errors import StoreError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def to_json(value: Any) -> str:
    """JSON with sorted keys and without spaces.

    Raises:
        StoreError: the value holds something that JSON has no word for: an object, NaN, infinity.
    """
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError) as error:
        raise StoreError(f"not plain JSON data ({error}): {value!r:.200}") from error


def content_hash(record: DataclassInstance) -> str:
    """SHA-256 (hex) of all fields of a record: equal records are one row."""
    return hashlib.sha256(to_json(asdict(record)).encode()).hexdigest()
