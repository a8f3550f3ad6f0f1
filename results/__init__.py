"""The results database: typed records go in, frames and statistics come out.

`load_study` reads a study as pandas frames, and `open_store` opens the database. `results.frames`
and `results.statistics` load pandas or scipy, so import their modules only where you need them.
"""

from results.store.records import (
    Array,
    ArrayRecord,
    AttemptRecord,
    CodeVersion,
    Component,
    LeaseRecord,
    Machine,
    Metric,
    Run,
    RunRecord,
    StudyRecord,
    Subject,
)
from results.store.store import Store, StudyFrames, describe, load_study, open_store
from results.text import StoreError, UnstorableError
