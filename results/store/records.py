"""Records: the input and output of the database, as plain frozen data without SQL.

Dicts and lists in fields hold plain JSON data.
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
"""Statuses of an attempt that may be continued in its own row."""


class MeasurementStatus(StrEnum):
    """The status of a measurement."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Machine:
    """The machine that a timing depends on; records that differ in any field are two machines."""

    name: str
    system: str
    """Operating system and release."""
    processor: str
    cores: int
    threads: int
    """Number of threads that torch uses."""
    memory_bytes: int
    gpu: str | None = None
    gpu_count: int = 0
    gpu_memory_bytes: int | None = None
    driver: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Allocator settings, and any other settings that affect speed."""


@dataclass(frozen=True)
class CodeVersion:
    """A version of the code: this repository's commit and the libraries it uses."""

    commit: str | None
    dirty: bool
    python: str
    libraries: Mapping[str, str]
    """Version of each distribution, by name."""
    diff: str = ""
    """`git diff` against the commit, if the tree was dirty."""


@dataclass(frozen=True)
class Component:
    """A router, experts, a loss or a suite, as it was when it produced a number."""

    kind: str
    """`router`, `experts`, `loss` or `suite`."""
    name: str
    source_text: str
    source_hash: str
    """Digest of its code, as in `measurements.source_hash`."""
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
    """A suite's metric definitions: name, unit, better (`higher`, `lower` or null), meaning; for
    the main metric also `where`, if the name has several numbers."""
    main_metric: str | None = None
    definitions: Mapping[str, str] | None = None
    """By name, the digest of each definition and the version of each distribution it depends on."""


class ComponentRef(NamedTuple):
    """A version of a component; the digest distinguishes versions of one name."""

    kind: str
    name: str
    source_hash: str


@dataclass(frozen=True)
class Subject:
    """The identity of a trial or a bare layer."""

    fingerprint: str
    description: Mapping[str, Any]
    components: Sequence[int] = ()
    """Row ids of the router, experts and losses that it is made of."""
    parent: str | None = None
    """Fingerprint of the trial that it is derived from."""
    transform: str | None = None


@dataclass(frozen=True)
class TrialRecord:
    """A trial as stored, independent of its attempts."""

    id: int
    fingerprint: str
    description: dict[str, Any]
    components: tuple[ComponentRef, ...]


@dataclass(frozen=True)
class Metric:
    """One number of a measurement, and where it applies. NaN and infinity are valid values."""

    name: str
    value: float
    layer: int | None = None
    step: int | None = None
    split: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Array:
    """One small array of a measurement, stored whole, of any numpy type except `object`."""

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
    """The end of its log, if it failed."""


@dataclass(frozen=True)
class AttemptRecord:
    """One attempt at a trial, as it stands."""

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
    """The identity of a subject's measurement: if any field differs, another one is due."""

    suite: str
    options: str
    """All options, as `results.text.to_json` writes them."""
    source_hash: str
    """Hash of the code that the suite depends on."""


@dataclass(frozen=True)
class Run:
    """A `run` command and its process."""

    host: str
    """The machine and container in which `pid` is unique, see `results.store.leases`."""
    pid: int
    process_started: float
    """Epoch seconds; distinguishes two processes with the same pid."""
    command: str
    jobs: int
    """Number of trials that it works on at once."""

    @property
    def node(self) -> str:
        """The name of its host, without the parts that identify restarts and containers."""
        return self.host.split()[0]


@dataclass(frozen=True)
class RunRecord(Run):
    """A run as it stands."""

    id: int
    study: str
    started_at: datetime
    heartbeat_at: datetime
    """Time of its last heartbeat."""
    silent_seconds: float
    """Seconds from the last heartbeat to this read, on the clock that wrote `heartbeat_at`."""
    finished_at: datetime | None


@dataclass(frozen=True)
class LeaseRecord:
    """A lease as stored: the unit of work that a run holds."""

    id: int
    fingerprint: str
    router: str
    seed: int | None
    trial: bool
    """Whether it is for a trial; otherwise it is for a bare layer."""
    run: RunRecord
    progress: dict[str, Any]
    """As of the run's last heartbeat: what it is doing (`doing`), and how far it is."""


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
    """An array with the condition under which it was measured."""

    study: str | None
    suite: str
    router: str
    aa_replicate: int
    condition: Condition
    seed: int | None


def record_of(kind: type[Record], row: Any, **others: Any) -> Record:
    """Return a row as plain data; `others` are the fields that the row has no columns for."""
    columns = {each.name for each in fields(kind)} - others.keys()
    return kind(**{name: getattr(row, name) for name in columns}, **others)
