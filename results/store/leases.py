"""Runs and their leases: no trial is done twice, however many runs share a database."""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, joinedload

from results.conditions import label_of
from results.connect import Database
from results.models import LayerRow, LeaseRow, RunRow, StudyRow, TrialRow
from results.store.records import LeaseRecord, Run, RunRecord, record_of
from results.store.write import add, now
from results.text import StoreError

STALE_SECONDS = 120
"""Seconds of silence after which a run on another host counts as dead."""
CLOCK_SECONDS = 10
"""Seconds by which a process's start may appear to shift when the host's clock is set."""
BOOT = Path("/proc/sys/kernel/random/boot_id")
PIDS = Path("/proc/self/ns/pid")
_STUDY = joinedload(RunRow.study).load_only(StudyRow.name)
_RUN = joinedload(LeaseRow.run).options(_STUDY)


def this_process() -> tuple[str, int, float]:
    """Return the host, process id and start (epoch seconds) of the calling process."""
    return this_host(), os.getpid(), psutil.Process().create_time()


@cache
def this_host() -> str:
    """Return the scope within which process ids are unique: node, its boot, and container."""
    boot = BOOT.read_text(encoding="utf-8").strip() if BOOT.exists() else ""
    pids = os.readlink(PIDS) if PIDS.is_symlink() else ""
    return " ".join(filter(None, (platform.node(), boot, pids)))


def alive(run: RunRecord) -> bool:
    """Tell whether a run was alive when it was read: not finished, and its process exists."""
    return run.finished_at is None and _lives(
        run.host, run.pid, run.process_started, run.silent_seconds
    )


def _lives(host: str, pid: int, process_started: float, silent_seconds: float) -> bool:
    if host != this_host():
        return silent_seconds < STALE_SECONDS
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - process_started) < CLOCK_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Leases(Database):
    """Runs and their leases. Each method is one transaction."""

    def start_run(self, study_id: int, run: Run) -> int:
        """Begin a run, and release whatever dead runs had leased."""
        with self.writing() as session:
            held = session.scalars(select(LeaseRow).options(_RUN)).all()
            begun = now(session)
            dead = [lease.id for lease in held if not alive(_run_record(lease.run, begun))]
            session.execute(delete(LeaseRow).where(LeaseRow.id.in_(dead)))
            row = RunRow(study_id=study_id, started_at=begun, heartbeat_at=begun, **asdict(run))
            return add(session, row)

    def heartbeat(self, run_id: int, progress: Mapping[int, Mapping[str, Any]]) -> None:
        """Record that a run is alive, and how far it is with what it has leased.

        Args:
            progress: plain data by lease; leases that the run has lost are skipped.
        """
        with self.writing() as session:
            heard = update(RunRow).filter_by(id=run_id).values(heartbeat_at=now(session))
            session.execute(heard)
            for lease_id, reached in progress.items():
                lease = update(LeaseRow).filter_by(id=lease_id, run_id=run_id)
                session.execute(lease.values(progress=dict(reached)))

    def finish_run(self, run_id: int) -> None:
        """End a run and release what it still holds."""
        with self.writing() as session:
            session.execute(delete(LeaseRow).filter_by(run_id=run_id))
            ended = update(RunRow).filter_by(id=run_id).values(finished_at=now(session))
            session.execute(ended)

    def runs(self, study: str | None = None) -> list[RunRecord]:
        """Return the runs of a study (None: of all studies), the oldest first."""
        query = select(RunRow).options(_STUDY).order_by(RunRow.id)
        if study is not None:
            query = query.where(RunRow.study.has(name=study))
        with self.reading() as session:
            rows = session.scalars(query).all()
            at = now(session)
            return [_run_record(row, at) for row in rows]

    def lease(
        self, run_id: int, *, trial_id: int | None = None, layer_id: int | None = None
    ) -> int | None:
        """Lease a trial or a layer for a run, taking it over if a dead run holds it.

        Returns:
            The lease's id; None if another live run holds it.
        """
        subject = {"trial_id": trial_id, "layer_id": layer_id}
        leases = select(LeaseRow).filter_by(**subject).options(_RUN)
        row_type: type[TrialRow] | type[LayerRow] = TrialRow if layer_id is None else LayerRow
        row = trial_id if layer_id is None else layer_id
        with self.writing() as session:
            # PostgreSQL locks the row; SQLite has only one writer at a time.
            if session.scalar(select(row_type.id).filter_by(id=row).with_for_update()) is None:
                raise StoreError(f"there is no {row_type.__tablename__[:-1]} {row} to lease")
            held = session.scalars(leases).one_or_none()
            at = now(session)
            if held is not None:
                if held.run_id == run_id:
                    return held.id
                if alive(_run_record(held.run, at)):
                    return None
                session.execute(delete(LeaseRow).filter_by(id=held.id))
            return add(session, LeaseRow(run_id=run_id, taken_at=at, progress={}, **subject))

    def release(self, lease_id: int) -> None:
        """Release a lease; do nothing if another run has taken it over."""
        with self.writing() as session:
            session.execute(delete(LeaseRow).filter_by(id=lease_id))

    def held(self) -> dict[int, int]:
        """Return which trials live runs hold: the run's row id by the trial's row id."""
        with self.reading() as session:
            return held_trials(session)

    def leases(self, study: str | None = None) -> list[LeaseRecord]:
        """Return the leases of a study's runs (None: all runs), even dead ones; oldest first."""
        related = (joinedload(LeaseRow.trial), joinedload(LeaseRow.layer), _RUN)
        query = select(LeaseRow).order_by(LeaseRow.id).options(*related)
        if study is not None:
            query = query.join(RunRow).join(StudyRow).where(StudyRow.name == study)
        with self.reading() as session:
            rows = session.scalars(query).all()
            at = now(session)
            return [_lease_record(row, at) for row in rows]


def held_trials(session: Session) -> dict[int, int]:
    """Return which trials live runs hold; reads only columns, since hundreds of runs poll this."""
    process = (RunRow.host, RunRow.pid, RunRow.process_started)
    query = select(LeaseRow.trial_id, LeaseRow.run_id, RunRow.heartbeat_at, *process)
    query = query.join(RunRow).where(RunRow.finished_at.is_(None))
    held, at = session.execute(query).all(), now(session)
    return {
        trial: run
        for trial, run, heard, host, pid, started in held
        if trial and _lives(host, pid, started, (at - heard).total_seconds())
    }


def _run_record(row: RunRow, at: datetime) -> RunRecord:
    """Return a run as it stands at a time on the database's clock, taken after reading the row."""
    silent = (at - row.heartbeat_at).total_seconds()
    return record_of(RunRecord, row, study=row.study.name, silent_seconds=silent)


def _lease_record(row: LeaseRow, at: datetime) -> LeaseRecord:
    subject = row.trial or row.layer
    assert subject is not None  # a lease has exactly one of them
    return record_of(
        LeaseRecord,
        row,
        fingerprint=subject.fingerprint,
        router=label_of(subject.description),
        seed=subject.description.get("seed"),
        trial=row.trial is not None,
        run=_run_record(row.run, at),
    )
