"""Runs, and what each works on: no trial is done twice however many runs share a database."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, joinedload

from results.conditions import label_of
from results.connect import Database
from results.models import ClaimRow, LayerRow, RunRow, StudyRow, TrialRow
from results.store.outcomes import add, now
from results.store.records import ClaimRecord, Run, RunRecord
from results.text import StoreError

STALE_SECONDS = 120
"""A run on another host that has been silent for so long is dead."""
CLOCK_SECONDS = 10
"""How far one process's start may seem to move when the host's clock is set."""
BOOT = Path("/proc/sys/kernel/random/boot_id")
PIDS = Path("/proc/self/ns/pid")


def this_process() -> tuple[str, int, float]:
    """Host, process id and start (epoch seconds) of the process that calls."""
    return this_host(), os.getpid(), psutil.Process().create_time()


@cache
def this_host() -> str:
    """Say what a process id is a number on: a node since its start, and its container."""
    boot = BOOT.read_text(encoding="utf-8").strip() if BOOT.exists() else ""
    pids = os.readlink(PIDS) if PIDS.is_symlink() else ""
    return " ".join(filter(None, (platform.node(), boot, pids)))


def alive(run: RunRecord) -> bool:
    """Tell whether the run works still: it has not finished, and its process exists."""
    if run.finished_at is not None:
        return False
    if run.host == this_host():
        return _exists(run.pid, run.process_started)
    return (datetime.now(UTC) - run.heartbeat_at).total_seconds() < STALE_SECONDS


def _exists(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < CLOCK_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


RUN = joinedload(ClaimRow.run).joinedload(RunRow.study)


class Claims(Database):
    """Runs and their claims. Each method is one transaction."""

    def start_run(self, study_id: int, run: Run) -> int:
        """Begin a run; what dead ones had claimed is free again."""
        with self.writing() as session:
            held = session.scalars(select(ClaimRow).options(RUN)).all()
            dead = [claim.id for claim in held if not alive(run_record(claim.run))]
            session.execute(delete(ClaimRow).where(ClaimRow.id.in_(dead)))
            begun = now()
            row = RunRow(study_id=study_id, started_at=begun, heartbeat_at=begun, **asdict(run))
            return add(session, row)

    def heartbeat(self, run_id: int, progress: Mapping[int, Mapping[str, Any]]) -> None:
        """Record that a run lives, and how far it is with what it claimed.

        Args:
            progress: plain data by claim; a claim that the run has lost is passed over.
        """
        with self.writing() as session:
            session.execute(update(RunRow).filter_by(id=run_id).values(heartbeat_at=now()))
            for claim_id, reached in progress.items():
                claim = update(ClaimRow).filter_by(id=claim_id, run_id=run_id)
                session.execute(claim.values(progress=dict(reached)))

    def finish_run(self, run_id: int) -> None:
        """End a run, and release what it still holds."""
        with self.writing() as session:
            session.execute(delete(ClaimRow).filter_by(run_id=run_id))
            session.execute(update(RunRow).filter_by(id=run_id).values(finished_at=now()))

    def runs(self, study: str | None = None) -> list[RunRecord]:
        """Return the runs of a study (None: of all), the oldest first."""
        query = select(RunRow).options(joinedload(RunRow.study)).order_by(RunRow.id)
        if study is not None:
            query = query.where(RunRow.study.has(name=study))
        with self.reading() as session:
            return [run_record(row) for row in session.scalars(query)]

    def claim(
        self, run_id: int, *, trial_id: int | None = None, layer_id: int | None = None
    ) -> int | None:
        """Take a trial or a layer for a run; what a dead run held is taken over.

        Returns:
            The claim's id; None where another run, that lives, holds it.
        """
        subject = {"trial_id": trial_id, "layer_id": layer_id}
        with self.writing() as session:
            _lock(session, trial_id, layer_id)
            held = session.scalars(select(ClaimRow).filter_by(**subject).options(RUN)).one_or_none()
            if held is not None and held.run_id == run_id:
                return held.id
            if held is not None and alive(run_record(held.run)):
                return None
            if held is not None:
                session.execute(delete(ClaimRow).filter_by(id=held.id))
            return add(session, ClaimRow(run_id=run_id, claimed_at=now(), progress={}, **subject))

    def release(self, claim_id: int) -> None:
        """Let go of what was claimed; nothing happens where another run has taken it over."""
        with self.writing() as session:
            session.execute(delete(ClaimRow).filter_by(id=claim_id))

    def claims(self, study: str | None = None) -> list[ClaimRecord]:
        """List what a study's runs (None: all runs) have claimed, dead ones too; oldest first."""
        query = select(ClaimRow).order_by(ClaimRow.id)
        query = query.options(RUN, joinedload(ClaimRow.trial), joinedload(ClaimRow.layer))
        if study is not None:
            query = query.join(RunRow).join(StudyRow).where(StudyRow.name == study)
        with self.reading() as session:
            return [_claim_record(row) for row in session.scalars(query)]


def worked_on(session: Session) -> set[int]:
    """Return the trials that a run which lives has claimed."""
    held = session.scalars(select(ClaimRow).where(ClaimRow.trial_id.is_not(None)).options(RUN))
    return {row.trial_id for row in held if row.trial_id and alive(run_record(row.run))}


def run_record(row: RunRow) -> RunRecord:
    """Return the run as plain data."""
    return RunRecord(
        id=row.id,
        study=row.study.name,
        host=row.host,
        pid=row.pid,
        process_started=row.process_started,
        command=row.command,
        jobs=row.jobs,
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
        finished_at=row.finished_at,
    )


def _lock(session: Session, trial_id: int | None, layer_id: int | None) -> None:
    """Whoever claims the same waits here on PostgreSQL; SQLite has one writer at a time."""
    row_type: type[TrialRow] | type[LayerRow] = TrialRow if layer_id is None else LayerRow
    subject = trial_id if layer_id is None else layer_id
    if session.scalar(select(row_type.id).filter_by(id=subject).with_for_update()) is None:
        raise StoreError(f"there is no {row_type.__tablename__[:-1]} {subject} to claim")


def _claim_record(row: ClaimRow) -> ClaimRecord:
    subject = row.trial or row.layer
    assert subject is not None  # a claim is of one of them
    return ClaimRecord(
        id=row.id,
        fingerprint=subject.fingerprint,
        router=label_of(subject.description),
        seed=subject.description.get("seed"),
        trial=row.trial is not None,
        run=run_record(row.run),
        claimed_at=row.claimed_at,
        progress=row.progress,
    )
