"""The results database: typed records go in, frames and statistics come out.

`open_store` opens it. `results.frames`, `results.export` and `results.statistics` load pandas or
scipy, so they are imported by name where they are needed.
"""

from results.errors import StoreError
from results.records import (
    Array,
    ArrayRecord,
    AttemptRecord,
    ClaimRecord,
    CodeVersion,
    Component,
    Machine,
    Metric,
    Run,
    RunRecord,
    StudyRecord,
    Subject,
)
from results.store import Store, open_store

__all__ = [
    "Array",
    "ArrayRecord",
    "AttemptRecord",
    "ClaimRecord",
    "CodeVersion",
    "Component",
    "Machine",
    "Metric",
    "Run",
    "RunRecord",
    "Store",
    "StoreError",
    "StudyRecord",
    "Subject",
    "open_store",
]
