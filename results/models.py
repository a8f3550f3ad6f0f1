"""The tables. No row leaves this package: `records.py` defines what is returned instead."""

from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, String, Table
from sqlalchemy.orm import Mapped, mapped_column, relationship

from results.columns import Base, Real, Row

Hash = String(64)


class ContentRow(Row):
    """A row shared by equal records, identified by the hash of their content."""

    __abstract__ = True

    hash: Mapped[str] = mapped_column(Hash, unique=True)
    first_seen: Mapped[datetime]


class MachineRow(ContentRow):
    __tablename__ = "machines"

    name: Mapped[str]
    system: Mapped[str]
    processor: Mapped[str]
    cores: Mapped[int]
    threads: Mapped[int]
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    gpu: Mapped[str | None]
    gpu_count: Mapped[int]
    gpu_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    driver: Mapped[str | None]
    settings: Mapped[dict[str, Any]]


class CodeVersionRow(ContentRow):
    __tablename__ = "code_versions"

    commit: Mapped[str | None]
    dirty: Mapped[bool]
    diff: Mapped[str]
    python: Mapped[str]
    libraries: Mapped[dict[str, Any]]


class ComponentRow(ContentRow):
    __tablename__ = "components"

    kind: Mapped[str]
    name: Mapped[str] = mapped_column(index=True)
    family: Mapped[str | None]
    display: Mapped[str | None]
    summary: Mapped[str]
    text: Mapped[str]
    source: Mapped[str | None]
    bibtex: Mapped[str | None]
    hyper: Mapped[list[dict[str, Any]]]
    metrics: Mapped[list[dict[str, Any]]]
    main_metric: Mapped[str | None]
    source_hash: Mapped[str]
    source_text: Mapped[str]
    definitions: Mapped[dict[str, Any] | None]


class StudyRow(Row):
    __tablename__ = "studies"

    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    requested_at: Mapped[datetime]
    request: Mapped[dict[str, Any]]


trial_components, layer_components = (
    Table(
        f"{subject}_components",
        Base.metadata,
        Column(f"{subject}_id", ForeignKey(f"{subject}s.id"), primary_key=True),
        Column("component_id", ForeignKey("components.id"), primary_key=True),
    )
    for subject in ("trial", "layer")
)


class SubjectRow(Row):
    """The identity of a subject of measurements."""

    __abstract__ = True

    fingerprint: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    description: Mapped[dict[str, Any]]


class TrialRow(SubjectRow):
    """One training run, independent of who attempts it and when."""

    __tablename__ = "trials"

    parent_id: Mapped[int | None] = mapped_column(ForeignKey("trials.id"))
    transform: Mapped[str | None]
    components: Mapped[list[ComponentRow]] = relationship(secondary=trial_components)


class LayerRow(SubjectRow):
    """A bare layer or untrained model, measured without training."""

    __tablename__ = "layers"

    components: Mapped[list[ComponentRow]] = relationship(secondary=layer_components)


class StudyTrialRow(Base):
    """A trial in a study. Of trials with equal descriptions, the one requested last counts."""

    __tablename__ = "study_trials"

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), primary_key=True)
    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id"), primary_key=True, index=True)
    requested_at: Mapped[datetime]


class StudyLayerRow(Base):
    __tablename__ = "study_layers"

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), primary_key=True)
    layer_id: Mapped[int] = mapped_column(ForeignKey("layers.id"), primary_key=True, index=True)
    requested_at: Mapped[datetime]


class AttemptRow(Row):
    __tablename__ = "attempts"

    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id"), index=True)
    machine_id: Mapped[int] = mapped_column(ForeignKey("machines.id"))
    code_id: Mapped[int] = mapped_column(ForeignKey("code_versions.id"))
    status: Mapped[str]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    error: Mapped[str | None]
    traceback: Mapped[str | None]
    flops: Mapped[float | None]
    steps: Mapped[int | None] = mapped_column(BigInteger)
    seconds: Mapped[float | None]
    checkpoint: Mapped[str | None]
    checkpoint_sha256: Mapped[str | None] = mapped_column(Hash)
    log: Mapped[str | None]
    note: Mapped[str | None]
    log_tail: Mapped[str | None]
    trial: Mapped[TrialRow] = relationship()


class RunRow(Row):
    """A `run` command: one process and those that it starts."""

    __tablename__ = "runs"

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    command: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int] = mapped_column(BigInteger)
    process_started: Mapped[float]
    jobs: Mapped[int]
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    study: Mapped[StudyRow] = relationship()


class LeaseRow(Row):
    """A run's exclusive hold on a trial or layer it works on; all are gone once the run ends."""

    __tablename__ = "claims"
    __table_args__ = (
        CheckConstraint("(trial_id IS NULL) <> (layer_id IS NULL)", "one_subject"),
        # If ids were reused, a run that lost its lease could release another run's.
        {"sqlite_autoincrement": True},
    )

    trial_id: Mapped[int | None] = mapped_column(ForeignKey("trials.id"), unique=True)
    layer_id: Mapped[int | None] = mapped_column(ForeignKey("layers.id"), unique=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), index=True)
    taken_at: Mapped[datetime] = mapped_column("claimed_at")
    progress: Mapped[dict[str, Any]]
    trial: Mapped[TrialRow | None] = relationship()
    layer: Mapped[LayerRow | None] = relationship()
    run: Mapped[RunRow] = relationship()


class MeasurementRow(Row):
    __tablename__ = "measurements"
    __table_args__ = (CheckConstraint("(attempt_id IS NULL) <> (layer_id IS NULL)", "one_subject"),)

    suite: Mapped[str]
    options: Mapped[dict[str, Any]]
    source_hash: Mapped[str]
    attempt_id: Mapped[int | None] = mapped_column(ForeignKey("attempts.id"), index=True)
    layer_id: Mapped[int | None] = mapped_column(ForeignKey("layers.id"), index=True)
    machine_id: Mapped[int] = mapped_column(ForeignKey("machines.id"))
    code_id: Mapped[int] = mapped_column(ForeignKey("code_versions.id"))
    status: Mapped[str]
    error: Mapped[str | None]
    traceback: Mapped[str | None]
    seconds: Mapped[float | None]
    measured_at: Mapped[datetime]


class ValueRow(Row):
    """A value of a measurement, and where it applies."""

    __abstract__ = True

    measurement_id: Mapped[int] = mapped_column(ForeignKey("measurements.id"), index=True)
    name: Mapped[str]
    layer: Mapped[int | None]
    step: Mapped[int | None] = mapped_column(BigInteger)
    split: Mapped[str | None]
    where: Mapped[dict[str, Any]]


class MetricRow(ValueRow):
    __tablename__ = "metrics"

    value: Mapped[float] = mapped_column(Real, nullable=True)


class ArrayRow(ValueRow):
    __tablename__ = "arrays"

    values: Mapped[np.ndarray]
