"""Records: the input and output of the database, as plain frozen data without SQL.

Fields that hold a dict or a list hold plain JSON data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar

import numpy as np

from results.conditions import Condition

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")


class AttemptStatus(StrEnum):
    """The status of an attempt at a trial."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    INTERRUPTED = "interrupted"
    PRUNED = "pruned"


UNFINISHED = (AttemptStatus.RUNNING, AttemptStatus.INTERRUPTED)
"""Statuses of an attempt that may go on in its own row."""


class MeasurementStatus(StrEnum):
    """The status of a measurement."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Machine:
    """The machine that a timing depends on: records that differ anywhere are two machines."""

    name: str
    system: str
    """Operating system and its release."""
    processor: str
    cores: int
    threads: int
    """Threads that torch computes with."""
    memory_bytes: int
    gpu: str | None = None
    gpu_count: int = 0
    gpu_memory_bytes: int | None = None
    driver: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Allocator settings, and whatever else is set that changes speed."""


@dataclass(frozen=True)
class CodeVersion:
    """A version of the code: this repository's commit and the libraries beneath it."""

    commit: str | None
    dirty: bool
    python: str
    libraries: Mapping[str, str]
    """Version by name of distribution."""
    diff: str = ""
    """`git diff` against the commit, where the tree was dirty."""


@dataclass(frozen=True)
class Component:
    """A router, experts, a loss or a suite as it was when it made a number."""

    kind: str
    """`router`, `experts`, `loss` or `suite`."""
    name: str
    source_text: str
    source_hash: str
    """As `measurements.source_hash` gives it."""
    family: str | None = None
    display: str | None = None
    """The name as a paper prints it."""
    summary: str = ""
    text: str = ""
    source: str | None = None
    """Where it was published (arXiv id)."""
    bibtex: str | None = None
    hyper: Sequence[Mapping[str, Any]] = ()
    """Hyper-parameters: name, type, default, meaning."""
    metrics: Sequence[Mapping[str, Any]] = ()
    """A suite's metric definitions: name, unit, better (`higher`, `lower` or null), meaning; of the
    main metric also `where`, if the name has several numbers."""
    main_metric: str | None = None
    definitions: Mapping[str, str] | None = None
    """Digest by name of each definition that it depends on; version of each distribution."""


class ComponentRef(NamedTuple):
    """A version of a component: the digest tells versions of one name apart."""

    kind: str
    name: str
    source_hash: str


@dataclass(frozen=True)
class Subject:
    """A trial or a bare layer, as identity."""

    fingerprint: str
    description: Mapping[str, Any]
    components: Sequence[int] = ()
    """Rows of the router, experts and losses that it is made of."""
    parent: str | None = None
    """Fingerprint of the trial that this one is derived from."""
    transform: str | None = None


@dataclass(frozen=True)
class TrialRecord:
    """A trial, whoever tried it."""

    id: int
    fingerprint: str
    description: dict[str, Any]
    components: tuple[ComponentRef, ...]


@dataclass(frozen=True)
class Metric:
    """One number of a measurement, and where it applies. NaN and infinity are values too."""

    name: str
    value: float
    layer: int | None = None
    step: int | None = None
    split: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Array:
    """One small array of a measurement, kept whole. Any numpy type but `object`."""

    name: str
    values: np.ndarray
    layer: int | None = None
    step: int | None = None
    split: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)


class Ended(TypedDict, total=False):
    """The outcome of an attempt that ended."""

    error: str | None
    traceback: str | None
    flops: float | None
    steps: int | None
    seconds: float | None
    checkpoint: str | None
    checkpoint_sha256: str | None
    log_tail: str | None
    """The end of its log, where it failed."""


@dataclass(frozen=True)
class AttemptRecord:
    """One try at a trial, as it stands."""

    id: int
    fingerprint: str
    status: AttemptStatus
    machine_id: int
    started_at: datetime
    finished_at: datetime | None
    error: str | None
    traceback: str | None
    flops: float | None
    steps: int | None
    seconds: float | None
    checkpoint: str | None
    checkpoint_sha256: str | None
    log_tail: str | None


class Made(NamedTuple):
    """The identity of a measurement of its subject: where any of it differs, another is due."""

    suite: str
    options: str
    """In full, as `results.text.to_json` writes them."""
    source_hash: str
    """Of the code that the suite depends on."""


@dataclass(frozen=True)
class Run:
    """A `run` command, and the process that it is."""

    host: str
    """The machine and container that `pid` is a number on, see `results.store.leases`."""
    pid: int
    process_started: float
    """Epoch seconds: two processes of one pid differ in it."""
    command: str
    jobs: int
    """How many trials it works on at once."""

    @property
    def node(self) -> str:
        """The name of its host, without what tells its restarts and containers apart."""
        return self.host.split()[0]


@dataclass(frozen=True)
class RunRecord(Run):
    """A run as it stands."""

    id: int
    study: str
    started_at: datetime
    heartbeat_at: datetime
    """When it last said that it lives."""
    silent_seconds: float
    """Seconds since then when it was read, by the clock that wrote `heartbeat_at`."""
    finished_at: datetime | None


@dataclass(frozen=True)
class LeaseRecord:
    """A lease as stored: the unit of work that a run holds."""

    id: int
    fingerprint: str
    router: str
    seed: int | None
    trial: bool
    """Whether it is a trial; else a bare layer."""
    run: RunRecord
    progress: dict[str, Any]
    """As of the run's last heartbeat: what it does (`doing`), and how far it is."""


@dataclass(frozen=True)
class StudyRecord:
    """A named set of trials and layers: what one report shows."""

    id: int
    name: str
    created_at: datetime
    requested_at: datetime
    request: dict[str, Any]
    trials: int
    layers: int


@dataclass(frozen=True, kw_only=True)
class ArrayRecord(Array):
    """An array with the condition that it was measured under."""

    study: str | None
    suite: str
    router: str
    aa_replicate: int
    condition: Condition
    seed: int | None


def record_of(kind: type[Record], row: Any, **others: Any) -> Record:
    """Return a row as plain data; `others` are the fields that are no columns of it."""
    columns = {each.name for each in fields(kind)} - others.keys()
    return kind(**{name: getattr(row, name) for name in columns}, **others)
